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
"""Decoders are built with placeholders, so that no dense MLP is allocated where a compressed one belongs."""

import threading
from types import SimpleNamespace

import pytest
import torch
from optimum.neuron.models.inference.llama.modeling_llama import NeuronLlamaMLP
from transformers import AutoConfig

from optimum_neuronmm import NeuronMMConfig, NeuronMMError
from optimum_neuronmm.neuron import decoder as decoder_module
from optimum_neuronmm.neuron.compilation import Compilation, decide_forms
from optimum_neuronmm.neuron.decoder import compressed_decoder
from optimum_neuronmm.neuron.loading import compressible_class
from optimum_neuronmm.neuron.mlp import LowRankMLP
from tests.neuron import compressed, harness


BUILD = NeuronLlamaMLP.__init__
PROJECTIONS = {"phi3": {"gate_up_proj": 32, "down_proj": 32}}


@pytest.fixture(autouse=True)
def restored():
    yield
    assert NeuronLlamaMLP.__init__ is BUILD


@pytest.fixture
def parallel_layers(monkeypatch):
    """Output and input sizes of the parallel layers that were built."""
    from neuronx_distributed.parallel_layers.layers import ColumnParallelLinear, RowParallelLinear

    built = []
    for layer in (ColumnParallelLinear, RowParallelLinear):

        def spy(self, input_size, output_size, *args, build=layer.__init__, **kwargs):
            built.append((input_size, output_size))
            build(self, input_size, output_size, *args, **kwargs)

        monkeypatch.setattr(layer, "__init__", spy)
    return built


def decided(checkpoint, tp=1):
    """(config with its compilation, neuron config)"""
    config, neuron_config = AutoConfig.from_pretrained(checkpoint), harness.neuron_config(checkpoint, tp=tp)
    options = NeuronMMConfig(kernel="compiler")
    Compilation.decide(decide_forms(config, neuron_config, options), neuron_config, options).write_to(config)
    return config, neuron_config


def build(model_class, config, neuron_config):
    """A decoder outside of any trace."""
    from torch_neuronx.standin import runtime

    degrees = {"pipeline_model_parallel_size": 1, "expert_model_parallel_size": 1, "lnc_size": 1}
    with runtime.parallel_state({"tensor_model_parallel_size": neuron_config.tp_degree, **degrees}):
        return model_class(config, neuron_config)


@pytest.mark.standins
@pytest.mark.parametrize("family", harness.FAMILIES)
def test_no_dense_mlp_is_allocated_for_a_compressed_one(tiny, tmp_path, parallel_layers, family):
    checkpoint = compressed.save_compressed(tiny(family), tmp_path / "compressed", PROJECTIONS.get(family), layer_1={})
    config, neuron_config = decided(checkpoint)
    base = compressible_class(config)._model_cls
    built = build(compressed_decoder(base), config, neuron_config)
    assert isinstance(built.layers[0].mlp, LowRankMLP)
    assert type(built.layers[1].mlp) is NeuronLlamaMLP
    sizes = {(96, 203), (203, 96)}
    assert [size for size in parallel_layers if size in sizes] == [(96, 203), (96, 203), (203, 96)]
    # Beside what upstream builds, which for qwen2 is more than it keeps.
    parallel_layers.clear()
    dense = build(base, config, neuron_config)
    assert sum(size in sizes for size in parallel_layers) == 2 * 3 * (2 if family == "qwen2" else 1)

    def others(decoder):
        return {name: tuple(p.shape) for name, p in decoder.state_dict().items() if "layers.0.mlp" not in name}

    assert others(built) == others(dense)


def test_the_class_of_a_decoder_is_made_once_and_named():
    found = compressed_decoder(Toy)
    assert found is compressed_decoder(Toy)
    assert found.__name__ == found.__qualname__ == "CompressedToy" and issubclass(found, Toy)


class Toy(torch.nn.Module):
    """A decoder with MLPs, and with something that happens before them."""

    def __init__(self, config, neuron_config):
        super().__init__()
        config.happens()
        self.layers = torch.nn.ModuleList([torch.nn.Module() for _ in range(config.num_hidden_layers)])
        for layer in self.layers:
            config.build(layer, config, neuron_config)


def upstream(layer, config, neuron_config):
    layer.mlp = NeuronLlamaMLP(config, neuron_config)


def toy(**changes):
    """Configs of a Toy of two layers, the first compressed."""
    config = SimpleNamespace(
        model_type="llama",
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        hidden_act="silu",
        rms_norm_eps=1e-5,
        quantization_config=NeuronMMConfig(
            modules={"model.layers.0.mlp.gate_proj": {"rank": 3, "storage": "uv"}},
            compilation={"tensor_parallel_size": 1, "layouts": ["replicated", None], "kernels": {"4": [None, None]}},
        ).to_dict(),
        happens=lambda: None,
        build=upstream,
    )
    vars(config).update(changes)
    neuron_config = SimpleNamespace(tp_degree=1, torch_dtype=torch.float32, target="trn1", logical_nc_config=1)
    return config, neuron_config


@pytest.mark.standins
def test_the_mlp_of_upstream_is_restored_after_an_error():
    def fail():
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        build(compressed_decoder(Toy), *toy(happens=fail))
    assert NeuronLlamaMLP.__init__ is BUILD
    built = build(compressed_decoder(Toy), *toy())  # and the lock is free
    assert isinstance(built.layers[0].mlp, LowRankMLP) and built.layers[1].mlp.up_proj.weight.shape == (12, 8)


@pytest.mark.standins
def test_every_layer_has_its_own_form_and_kernels():
    ranks = {f"model.layers.{layer}.mlp.down_proj": {"rank": 2 + layer, "storage": "uv"} for layer in range(2)}
    table = {"4": ["mlp_decode", "mlp"], "1": [None, "mlp_decode"]}
    compilation = {"tensor_parallel_size": 1, "layouts": ["replicated", "sharded"], "kernels": table}
    config, neuron_config = toy(quantization_config=NeuronMMConfig(modules=ranks, compilation=compilation).to_dict())
    built = build(compressed_decoder(Toy), config, neuron_config)
    first, second = (layer.mlp for layer in built.layers)
    assert (first.form.down, second.form.down) == (2, 3)
    assert (first.form.layout, second.form.layout) == ("replicated", "sharded")
    assert first.kernels == {4: "mlp_decode", 1: None} and second.kernels == {4: "mlp", 1: "mlp_decode"}
    assert first.down_u.weight.dtype == torch.float32


@pytest.mark.standins
@pytest.mark.parametrize(
    ("attribute", "value", "named"), [("mlp", torch.nn.Linear(1, 1), "Linear"), ("feed_forward", None, "NoneType")]
)
def test_a_decoder_with_other_mlps_is_refused(attribute, value, named):
    config, neuron_config = toy(build=lambda layer, *_: setattr(layer, attribute, value))
    with pytest.raises(NeuronMMError, match=f"Toy of this optimum-neuron builds its MLP as {named}, expected Neuron"):
        build(compressed_decoder(Toy), config, neuron_config)


@pytest.mark.standins
@pytest.mark.timeout(30)
def test_other_threads_build_whole_mlps_meanwhile():
    inside, others_are_done = threading.Event(), threading.Event()

    def wait():
        inside.set()
        assert others_are_done.wait(20)

    found = []
    config, neuron_config = toy(happens=wait)
    builder = threading.Thread(target=lambda: found.append(build(compressed_decoder(Toy), config, neuron_config)))
    builder.start()
    assert inside.wait(20)
    assert NeuronLlamaMLP.__init__ is not BUILD
    dense = NeuronLlamaMLP(*toy())
    others_are_done.set()
    builder.join()
    assert dense.gate_proj.weight.shape == (12, 8)
    assert isinstance(found[0].layers[0].mlp, LowRankMLP)


@pytest.mark.timeout(30)
def test_two_builders_take_turns():
    first_is_done = threading.Event()
    found = []

    def build_second():
        with decoder_module._placeholders():
            found.append(first_is_done.is_set())

    with decoder_module._placeholders():
        second = threading.Thread(target=build_second)
        second.start()
        second.join(0.2)
        first_is_done.set()
    second.join()
    assert found == [True]
