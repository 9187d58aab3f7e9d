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
"""Registers the checkpoint format with transformers, at once or when transformers is imported.

`optimum-cli` imports this package for its flags, long before it is known whether torch is needed, and importing
transformers' quantizers takes seconds. So registration waits for the module that holds the registry.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys


_REGISTRY = "transformers.quantizers.auto"


def register_when_transformers_loads() -> None:
    """Registers now if transformers' quantizer registry is loaded, otherwise right after it is."""
    if _REGISTRY in sys.modules:
        _register()
    elif not any(isinstance(finder, _RegistryFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegistryFinder())


def _register() -> None:
    # Importing it registers, at its end: the registry may be loaded because it is just being imported.
    importlib.import_module(f"{__package__}.quantizer")


class _RegistryFinder(importlib.abc.MetaPathFinder):
    """Finds the registry module as Python would, and has `_register` run after it was executed."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != _REGISTRY:
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
        _register()
