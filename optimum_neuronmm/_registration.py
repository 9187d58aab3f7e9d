# Copyright 2026 The optimum-neuronmm authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Registers the checkpoint format with transformers and compressible models with optimum-neuron, when they are imported.

`optimum-cli` imports this package for its flags, long before it is known whether torch is needed, and importing either
registry takes seconds. So registration waits for the module that holds the registry.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys


# Module that holds a registry -> module of this package that registers with it, at the end of its import.
_REGISTRIES = {
    "transformers.quantizers.auto": "quantizer",
    "optimum.neuron.models.inference.auto_models": "neuron.models",
}


def register_when_loaded() -> None:
    """Registers now with each registry that is loaded, and with every other one right after it is."""
    for registry in _REGISTRIES:
        if registry in sys.modules:
            _register(registry)
    if not any(isinstance(finder, _RegistryFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegistryFinder())


def _register(registry: str) -> None:
    importlib.import_module(f"{__package__}.{_REGISTRIES[registry]}")


class _RegistryFinder(importlib.abc.MetaPathFinder):
    """Finds the registry modules as Python would, and has `_register` run after one was executed."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in _REGISTRIES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


class _RegisteringLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader):
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        # From here on the module is an ordinary one: introspection finds the loader that Python would have used.
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _register(module.__name__)
