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
"""Whether the Neuron SDK works here, said in words that help."""

import importlib

from ..errors import NeuronMMError


# What a compilation imports -> the package that brings it.
_NEEDED = {
    "optimum.neuron": "optimum-neuron",
    "torch_neuronx": "torch-neuronx",
    "torch_xla": "torch-xla",
    "neuronxcc": "neuronx-cc",
    "libneuronxla": "libneuronxla",
    "neuronx_distributed": "neuronx-distributed",
}


def require_sdk(only: str | None = None) -> None:
    """Imports the SDK, or `only` one module of it.

    Raises:
        NeuronMMError: naming the package that cannot be imported, and how to install it.
    """
    for module, package in _NEEDED.items():
        if only not in (None, module):
            continue
        try:
            importlib.import_module(module)
        except Exception as error:  # the placeholders on PyPI and a missing driver raise errors of many types
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise NeuronMMError(
                f"{package} cannot be imported ({reason}). "
                "Compiling needs the Neuron SDK: install it on a Trainium or Inferentia instance from the Neuron package "
                "repository (packages of these names on PyPI are placeholders), then pip install 'optimum-neuronmm[neuronx]'."
            ) from error
