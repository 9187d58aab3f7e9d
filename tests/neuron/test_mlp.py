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
"""The kernels inside the traced module, run by the simulator, and the module on its own."""

from collections import Counter

import pytest
import torch

from optimum_neuronmm.kernels import Kernel
from optimum_neuronmm.neuron import selection
from optimum_neuronmm.neuron.compilation import Compilation
from optimum_neuronmm.neuron.form import REPLICATED, SHARDED, Form
from optimum_neuronmm.neuron.mlp import LowRankMLP, Ranks, Weight
from optimum_neuronmm.neuron.probe import Call
from tests.neuron import compressed, harness


ALL = {"gate_proj": 32, "up_proj": 32, "down_proj": 32}
UNEVEN = {"gate_proj": 30, "up_proj": 21, "down_proj": 17}
FUSED = {"gate_up_proj": 32, "down_proj": 32}
BIAS = {"mlp_bias": True, "intermediate_size": 200}  # NxD cannot pad a dense layer that has biases
LONG = {"sequence_length": 144}  # more rows than a few
TWO = {"batch_size": 2}
TOGETHER = {"batch_size": 2, "continuous_batching": False}

# Graphs are compiled with whatever numbers are in the memory of their weights.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered")


@pytest.fixture
def tried(monkeypatch, predicted):
    """The calls that would have been compiled beforehand. All of them work, and the most fused are tried first."""
    calls = []
    monkeypatch.setenv("NEURONMM_NKI", "simulator")
    monkeypatch.setattr(selection, "probe", calls.append)  # returns None: nothing is wrong
    return calls


@pytest.fixture
def launched(monkeypatch):
    """Every launch of a kernel, as the call that has to be compiled for it."""
    calls = []
    run = Kernel.__call__

    def spy(self, *args, target, cores, **kwargs):
        tensors, settings = self.bind(*args, **kwargs)
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in tensors.items())
        (dtype,) = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}
        calls.append(Call(self.name, shapes, tuple(settings.items()), dtype, target, cores))
        return run(self, *args, target=target, cores=cores, **kwargs)

    monkeypatch.setattr(Kernel, "__call__", spy)
    return calls


def expected_launches(config, neuron_config, steps: int) -> tuple[Counter, set[str]]:
    """The launches of all ranks in a prefill and some steps of decoding, by the plan; and the kernels chosen for them."""
    found, names = Counter(), set()
    compilation = Compilation.read(config, neuron_config)
    prompts = 1 if neuron_config.continuous_batching else neuron_config.batch_size  # of a batch that run at once
    runs = {
        prompts * neuron_config.max_context_length: neuron_config.batch_size // prompts,
        neuron_config.batch_size: steps,
    }
    for layer, form in enumerate(compilation.forms):
        for rows, kernel in compilation.kernels_of(layer).items():
            assert (kernel is None) == (form is None)
            if form is not None:
                names.add(kernel)
                machine = neuron_config.target, neuron_config.logical_nc_config
                for call in selection.calls_of(form, kernel, rows, neuron_config.torch_dtype, *machine):
                    found[call] += runs[rows] * form.tp
    return found, names


@pytest.mark.standins
@pytest.mark.simulation
@pytest.mark.parametrize(
    ("family", "tp", "layout", "ranks", "options", "compiled_for", "kernels"),
    [
        ("llama", 1, REPLICATED, ALL, BIAS, {}, {"mlp_decode"}),
        ("llama", 2, REPLICATED, UNEVEN, BIAS, {}, {"mlp_decode"}),
        ("llama", 4, SHARDED, UNEVEN, BIAS, {}, {"matmul"}),
        ("llama", 2, SHARDED, ALL, {}, LONG, {"matmul"}),
        ("llama", 2, REPLICATED, ALL, BIAS, LONG, {"mlp_decode", "mlp"}),
        ("llama", 1, SHARDED, UNEVEN, {}, LONG | TWO, {"mlp_decode", "mlp"}),
        ("qwen2", 4, REPLICATED, {"up_proj": 27, "down_proj": 32}, {}, TOGETHER, {"mlp_decode"}),
        ("qwen3", 2, SHARDED, {"gate_proj": 24}, {}, LONG, {"matmul"}),
        ("granite", 2, SHARDED, {"down_proj": 24}, {}, LONG, {"matmul"}),
        ("phi3", 1, REPLICATED, FUSED, {}, {}, {"mlp_decode"}),
        ("phi3", 2, REPLICATED, FUSED, {}, {"sequence_length": 80, **TOGETHER}, {"mlp_decode", "mlp"}),
        ("phi3", 4, SHARDED, {"gate_up_proj": 35, "down_proj": 32}, {}, LONG, {"matmul"}),
        ("smollm3", 2, SHARDED, ALL, {**BIAS, "hidden_act": "gelu_pytorch_tanh"}, TWO, {"matmul"}),
    ],
)
def test_kernels_inside_the_model(
    tiny, tmp_path, tried, launched, family, tp, layout, ranks, options, compiled_for, kernels
):
    dense = tiny(family, **{"num_hidden_layers": 2, "max_position_embeddings": 256, **options})
    checkpoint = compressed.save_compressed(dense, tmp_path / "compressed", ranks, layer_1={})
    compiled = compressed.export(checkpoint, layout=layout, kernel="nki", tp=tp, **compiled_for)
    tokens = harness.tokens(compiled.neuron_config.batch_size, 12)
    launched.clear()
    found = harness.logits(compiled, tokens, 3)
    assert harness.error(found, harness.torch_logits(checkpoint, tokens, 3)) < 1e-5
    expected, names = expected_launches(compiled.config, compiled.neuron_config, 3)
    assert names == kernels
    assert Counter(launched) == expected
    assert set(tried) == set(expected)


@pytest.mark.standins
@pytest.mark.simulation
def test_kernels_in_bfloat16(tiny, tmp_path, tried, launched):
    checkpoint = compressed.save_compressed(tiny(num_hidden_layers=1), tmp_path / "compressed")
    compiled = compressed.export(checkpoint, layout=SHARDED, kernel="nki", tp=2, dtype=torch.bfloat16)
    tokens = harness.tokens()
    exact = harness.torch_logits(checkpoint, tokens)
    allowed = harness.error(harness.torch_logits(harness.load_torch(checkpoint, torch.bfloat16), tokens), exact)
    assert 0 < harness.error(harness.logits(compiled, tokens), exact) < 2 * allowed
    assert {call.dtype for call in launched} == {"bfloat16"}


@pytest.mark.standins
@pytest.mark.simulation
@pytest.mark.parametrize("layout", [REPLICATED, SHARDED])
def test_kernels_on_the_two_cores_of_trn2(tiny, tmp_path, tried, launched, machine, layout):
    machine("trn2", 4)
    checkpoint = compressed.save_compressed(tiny(num_hidden_layers=1), tmp_path / "compressed")
    compiled = compressed.export(checkpoint, layout=layout, kernel="nki", tp=2, instance_type="trn2")
    tokens = harness.tokens()
    assert harness.error(harness.logits(compiled, tokens), harness.torch_logits(checkpoint, tokens)) < 1e-5
    assert {(call.target, call.cores) for call in launched} == {("trn2", 2)} == {(c.target, c.cores) for c in tried}


class Shown(torch.nn.Module):
    """A compressed MLP on its own, and what every rank returns of it."""

    def __init__(self, form, kernels=None):
        super().__init__()
        self.mlp = LowRankMLP(form, kernels or {}, torch.float32, "trn1", 1)

    def forward(self, x):
        from neuronx_distributed.parallel_layers.mappings import _gather_along_dim

        return [_gather_along_dim(self.mlp(x)[None], 0)]


def alone(form: Form, x: torch.Tensor, kernels=None, seed: int = 0):
    """(what every rank computes, what transformers' MLP computes) of random weights."""
    from tests.neuron.test_program import converted, family_for, mlp

    tensors = compressed.checkpoint_tensors(form, family_for(form), torch.Generator().manual_seed(seed))
    weights = {f"mlp.{name}.weight": tensor.float() for name, tensor in converted(form, tensors).items()}
    found = harness.run_module(lambda: Shown(form, kernels), weights, x, tp=form.tp)
    return found, mlp(x.double(), tensors, form)


@pytest.mark.parametrize("layout", [REPLICATED, SHARDED])
@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("ranks", [(5, 6, 7), (5, None, None), (None, None, 6), (4, 4, 4)])
def test_every_rank_has_the_result(tp, layout, ranks):
    form = Form(12, 21, *ranks, biased=True, tp=tp, layout=layout)
    found, expected = alone(form, torch.randn(2, 3, 12))
    assert found.shape == (tp, 2, 3, 12)
    for y in found:
        torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.standins
@pytest.mark.simulation
def test_graphs_use_the_kernel_of_their_rows(launched, monkeypatch):
    monkeypatch.setenv("NEURONMM_NKI", "simulator")
    form = Form(12, 21, 5, 6, 7)
    for rows, names in ((6, {"mlp_decode"}), (4, set())):
        launched.clear()
        found, expected = alone(form, torch.randn(1, rows, 12), {6: "mlp_decode", 4: None})
        torch.testing.assert_close(found[0].double(), expected, rtol=1e-4, atol=1e-6)
        assert {call.kernel for call in launched} == names
    launched.clear()
    found, expected = alone(form, torch.randn(1, 5, 12), {6: "mlp_decode"})  # a graph that is not in the table
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-4, atol=1e-6)
    assert launched == []


@pytest.mark.standins
@pytest.mark.simulation
@pytest.mark.parametrize("tp", [1, 2])
def test_the_pipeline_of_two_kernels(launched, monkeypatch, tp):
    monkeypatch.setenv("NEURONMM_NKI", "simulator")
    form = Form(12, 21, 5, 6, 7, biased=True, tp=tp)
    found, expected = alone(form, torch.randn(1, 130, 12), {130: "mlp_two_kernels"})
    torch.testing.assert_close(found[-1].double(), expected, rtol=1e-4, atol=1e-6)
    assert {call.kernel for call in launched} == {"mlp_up", "low_rank_fused"}


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_collectives(tp):
    class Collectives(torch.nn.Module):
        def __init__(self):
            from neuronx_distributed.parallel_layers.layers import SPMDRank

            super().__init__()
            self.rank_util = SPMDRank(tp)

        def forward(self, x):
            from neuronx_distributed.parallel_layers.mappings import _gather_along_dim

            mine, ranks = x * (self.rank_util.get_rank() + 1), Ranks(tp)
            found = [ranks.gather(mine), ranks.sum(mine), ranks.sum_and_scatter(mine)]
            return [_gather_along_dim(y[None].contiguous(), 0) for y in found]

    x = torch.randn(3, 8)
    weights = {"rank_util.rank": torch.arange(tp, dtype=torch.int32)}
    gathered, total, scattered = harness.run_module(Collectives, weights, x, tp=tp)
    everyone = torch.stack([x * (rank + 1) for rank in range(tp)])
    torch.testing.assert_close(gathered, everyone.expand(tp, -1, -1, -1))
    torch.testing.assert_close(total, everyone.sum(0).expand(tp, -1, -1))
    torch.testing.assert_close(scattered, torch.stack(everyone.sum(0).chunk(tp, dim=1)))


@pytest.mark.standins
def test_weights_are_cut_as_the_form_says():
    from neuronx_distributed.parallel_layers import layers
    from torch_neuronx.standin import runtime

    assert issubclass(Weight, layers.BaseParallelLinear)
    form = Form(12, 21, 5, None, 7, biased=True, tp=2, layout=SHARDED)
    degrees = {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 1, "expert_model_parallel_size": 1}
    with runtime.parallel_state({**degrees, "lnc_size": 1}):
        module = LowRankMLP(form, {4: None}, torch.bfloat16, "trn1", 1)
    assert {name.removesuffix(".weight") for name, _ in module.named_parameters()} == set(form.matrices)
    for name, matrix in form.matrices.items():
        weight = module.get_submodule(name).weight
        assert (tuple(weight.shape), weight.dtype, weight.requires_grad) == (matrix.local, torch.bfloat16, False)
        assert getattr(weight, "tensor_model_parallel", False) == (matrix.cut is not None)
        assert matrix.cut is None or (weight.partition_dim, weight.num_partitions) == (matrix.cut, 2)
    assert str(form) in repr(module)
