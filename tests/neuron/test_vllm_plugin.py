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
"""The entry point, over a vLLM that consists of the registry alone."""

import importlib.metadata
import sys
from abc import ABC, abstractmethod
from types import ModuleType

import pytest

from optimum_neuronmm.errors import NeuronMMError


class QuantizationConfig(ABC):  # noqa: B024
    """The abstract methods of vLLM 0.11.0's class."""

    get_name = abstractmethod(lambda self: None)
    get_supported_act_dtypes = abstractmethod(lambda self: None)
    get_min_capability = classmethod(abstractmethod(lambda cls: None))
    get_config_filenames = staticmethod(abstractmethod(lambda: None))
    from_config = classmethod(abstractmethod(lambda cls, config: None))
    get_quant_method = abstractmethod(lambda self, layer, prefix: None)


@pytest.fixture
def registry(monkeypatch) -> dict:
    """Method -> class, as vLLM holds them. Registering one twice is an error there."""
    registered = {}

    def register(method):
        def decorate(cls):
            assert method not in registered and issubclass(cls, QuantizationConfig)
            registered[method] = cls
            return cls

        return decorate

    name = "vllm.model_executor.layers.quantization"
    for depth in range(1, 5):
        package = ".".join(name.split(".")[:depth])
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    sys.modules[name].QUANTIZATION_METHODS = registered
    sys.modules[name].register_quantization_config = register
    base = ModuleType(f"{name}.base_config")
    base.QuantizationConfig = QuantizationConfig
    monkeypatch.setitem(sys.modules, base.__name__, base)
    return registered


def entry_points():
    return [e for e in importlib.metadata.entry_points(group="vllm.general_plugins") if e.name == "optimum_neuronmm"]


def test_vllm_finds_it(registry):
    (point,) = {point.value: point for point in entry_points()}.values()
    point.load()()
    assert list(registry) == ["neuronmm"]


def test_a_second_call_changes_nothing(registry):
    from optimum_neuronmm.neuron.vllm_plugin import register

    register()
    before = dict(registry)
    register()
    assert registry == before


def test_the_format_passes_and_layers_of_vllm_do_not(registry):
    import torch

    from optimum_neuronmm.neuron.vllm_plugin import register

    register()
    config = registry["neuronmm"].from_config({"quant_method": "neuronmm"})  # abstract methods would raise
    assert config.get_name() == "neuronmm" and config.get_min_capability() == 0
    assert torch.bfloat16 in config.get_supported_act_dtypes() and config.get_config_filenames() == []
    with pytest.raises(NeuronMMError, match="model.layers.0.mlp.*serve a compiled model on a Neuron instance"):
        config.get_quant_method(None, "model.layers.0.mlp")


def test_importing_the_plugin_leads_the_loader_to_our_classes(registry):
    from optimum_neuronmm.neuron.vllm_plugin import register

    register()
    from optimum.neuron.models.auto_model import get_neuron_model_class

    found = get_neuron_model_class("llama", "text-generation", "inference")
    assert found.__module__ == "optimum_neuronmm.neuron.models"
