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
"""The stand-ins: over them optimum-neuron computes what transformers does, and they refuse what a device refuses."""

import os
import subprocess
import sys

import pytest
import torch

from tests.neuron import environment, harness


@pytest.mark.parametrize(
    ("family", "tp", "dtype", "tied"),
    [
        ("llama", 1, torch.float32, False),
        ("llama", 4, torch.bfloat16, True),
        ("qwen2", 2, torch.float32, True),
        ("qwen2", 1, torch.bfloat16, False),
        ("qwen3", 4, torch.float32, False),
        ("granite", 4, torch.bfloat16, False),
        ("granite", 1, torch.float32, True),
        ("phi3", 2, torch.float32, False),
        ("phi3", 4, torch.bfloat16, False),
        ("smollm3", 4, torch.float32, True),
        ("smollm3", 2, torch.bfloat16, False),
    ],
)
def test_dense_models_compute_what_transformers_computes(tiny, family, tp, dtype, tied):
    model = tiny(family, tied=tied)
    compiled = harness.export(model, tp=tp, dtype=dtype, batch_size=2)
    tokens = harness.tokens(batch_size=2)
    expected = harness.torch_logits(model, tokens)
    found = harness.error(harness.logits(compiled, tokens), expected)
    if dtype == torch.float32:  # only the order of sums differs
        assert found < 1e-5
    else:  # the same precision loses as much in either implementation
        allowed = harness.error(harness.torch_logits(harness.load_torch(model, dtype), tokens), expected)
        assert 0 < found < 2 * allowed


def test_logits_beside_tokens_that_the_device_samples(tiny):
    model, tokens = tiny(), harness.tokens(batch_size=2)
    compiled = harness.export(model, tp=4, batch_size=2, on_device_sampling=True)
    assert harness.error(harness.logits(compiled, tokens), harness.torch_logits(model, tokens)) < 1e-5


@pytest.mark.standins
def test_the_attention_kernel_that_trn2_uses_for_long_prompts(tiny, machine, monkeypatch):
    from neuronxcc.nki._private_kernels.attention import attention_isa_kernel

    calls = []
    reference = attention_isa_kernel.cpu_reference
    monkeypatch.setattr(attention_isa_kernel, "cpu_reference", lambda *a, **k: calls.append(k) or reference(*a, **k))
    machine("trn2", 4)
    model, tokens = tiny(max_position_embeddings=1024), harness.tokens(length=1000)
    compiled = harness.export(model, tp=2, sequence_length=1024, instance_type="trn2")
    assert harness.error(harness.logits(compiled, tokens), harness.torch_logits(model, tokens)) < 1e-5
    assert [call["grid"][0].size for call in calls] == [2] * 8  # 2 layers, 2 ranks: once compiled, once run


@pytest.mark.parametrize("on_device_sampling", [False, True])
def test_generate(tiny, on_device_sampling):
    model, tokens = tiny(), harness.tokens(batch_size=2)
    options = {"do_sample": False, "max_new_tokens": 8, "eos_token_id": None, "pad_token_id": 0}
    compiled = harness.export(model, tp=2, batch_size=2, on_device_sampling=on_device_sampling, output_logits=False)
    found = compiled.generate(tokens, **options)
    assert torch.equal(found, harness.load_torch(model).generate(tokens, **options))


def test_a_saved_model_computes_the_same(tiny, tmp_path):
    from optimum.neuron import NeuronModelForCausalLM

    tokens = harness.tokens()
    compiled = harness.export(tiny("qwen3"), tp=2)
    compiled.save_pretrained(tmp_path / "saved")
    loaded = NeuronModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(harness.logits(loaded, tokens), harness.logits(compiled, tokens))
    shards = sorted(path.name for path in (tmp_path / "saved/checkpoint/weights").iterdir())
    assert shards == ["tp0_sharded_checkpoint.safetensors", "tp1_sharded_checkpoint.safetensors"]


@pytest.mark.standins
def test_a_saved_model_does_not_load_on_another_machine(tiny, tmp_path, machine):
    from optimum.neuron import NeuronModelForCausalLM

    harness.export(tiny(), tp=2).save_pretrained(tmp_path / "saved")
    for where, message in ((("inf2", 32), "current instance type is inf2"), (("trn1", 1), "only 1 are available")):
        machine(*where)
        with pytest.raises(ValueError, match=message):
            NeuronModelForCausalLM.from_pretrained(tmp_path / "saved")


def test_the_command_of_upstream(tiny, tmp_path, child_environment):
    from optimum.neuron import NeuronModelForCausalLM

    model, tokens = tiny(tied=True, dtype=torch.bfloat16), harness.tokens(batch_size=2)
    command = ["optimum.commands.optimum_cli", "export", "neuron", "-m", model, tmp_path / "out"]
    options = {
        "task": "text-generation",
        "instance_type": "trn1",
        "batch_size": 2,
        "sequence_length": 64,
        "tensor_parallel_size": 2,
    }
    flags = [item for name, value in options.items() for item in (f"--{name}", str(value))]
    result = subprocess.run(
        [sys.executable, "-m", *map(str, command), *flags],
        env=child_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    loaded = NeuronModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (loaded.neuron_config.tp_degree, loaded.neuron_config.torch_dtype) == (2, torch.bfloat16)
    generated = loaded.generate(tokens, do_sample=False, max_new_tokens=1, pad_token_id=0)
    compiled = harness.export(model, tp=2, batch_size=2)
    assert torch.equal(generated[:, -1], harness.logits(compiled, tokens, 0)[:, 0].argmax(-1))


class Local(torch.nn.Module):
    """Parameters cut in several ways; returns all that the ranks hold of one, the ranks along dimension 0."""

    CUTS = {"rows": (0, 1), "columns": (1, 1), "strided": (0, 2), "whole": None}
    SHAPES = {"rows": (8, 3), "columns": (3, 8), "strided": (16, 2), "whole": (2, 5)}

    def __init__(self, tp, shown, shape=None):
        from neuronx_distributed.parallel_layers.layers import BaseParallelLinear
        from neuronx_distributed.parallel_layers.utils import set_tensor_model_parallel_attributes

        class Cut(BaseParallelLinear):
            pass

        super().__init__()
        self.layer, self.shown = Cut(), shown
        for name, cut in self.CUTS.items():
            local = list(self.SHAPES[name])
            if cut:
                local[cut[0]] //= tp
            parameter = torch.nn.Parameter(torch.zeros(shape or local), requires_grad=False)
            if cut:
                set_tensor_model_parallel_attributes(parameter, True, cut[0], cut[1], tp)
            self.layer.register_parameter(name, parameter)

    def forward(self, x):
        from neuronx_distributed.parallel_layers.mappings import _gather_along_dim

        # The input takes part, or a compiler would have nothing to compute.
        return [_gather_along_dim(getattr(self.layer, self.shown)[None] * x, 0)]


def local_weights():
    return {f"layer.{name}": torch.randn(shape) for name, shape in Local.SHAPES.items()}


@pytest.mark.parametrize("shown", Local.CUTS)
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_any_parallel_layer_is_sharded(tp, shown):
    weights = local_weights()
    whole = weights[f"layer.{shown}"]
    found = harness.run_module(lambda: Local(tp, shown), weights, torch.ones(1), tp=tp)
    cut = Local.CUTS[shown]
    if cut is None:
        expected = [whole] * tp
    elif cut[1] == 1:
        expected = whole.chunk(tp, dim=cut[0])
    else:  # the first half and the second half are shared out each
        expected = [torch.cat(parts) for parts in zip(*(half.chunk(tp) for half in whole.chunk(2)), strict=True)]
    assert torch.equal(found, torch.stack(list(expected)))


def test_a_shard_of_another_shape_than_its_parameter_is_refused():
    made = harness.builder(lambda: Local(2, "rows", shape=(3, 3)), local_weights(), torch.ones(1), tp=2)
    with pytest.raises(RuntimeError, match="expected shape .* but found"):
        made.shard_checkpoint()


class Collective(torch.nn.Module):
    """Applies `compute(mappings, x of this rank)`, and gathers the results of the ranks along a new dimension 0."""

    def __init__(self, compute, tp):
        from neuronx_distributed.parallel_layers.layers import SPMDRank

        super().__init__()
        self.compute, self.rank_util = compute, SPMDRank(tp)

    def forward(self, x):
        from neuronx_distributed.parallel_layers import mappings

        y = self.compute(mappings, x * (self.rank_util.get_rank() + 1))
        return [mappings._gather_along_dim(y[None], 0)]


def collective(compute, x, tp):
    weights = {"rank_util.rank": torch.arange(tp, dtype=torch.int32)}
    return harness.run_module(lambda: Collective(compute, tp), weights, x, tp=tp)


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_reduce_scatter_is_a_sum_of_which_each_rank_takes_its_slice(tp, dim):
    x = torch.randn(4, 8, 12)
    found = collective(lambda mappings, y: mappings._reduce_scatter_along_dim(y, dim), x, tp)
    total = sum((rank + 1) * x for rank in range(tp))
    torch.testing.assert_close(found, torch.stack(total.chunk(tp, dim=dim)))


def test_reduce_scatter_refuses_what_does_not_divide():
    with pytest.raises(RuntimeError, match="not being evenly divisible"):
        collective(lambda mappings, y: mappings._reduce_scatter_along_dim(y, 0), torch.randn(3, 2), 2)


def test_all_reduce_and_gather():
    x = torch.randn(2, 3)
    found = collective(lambda mappings, y: mappings.reduce_from_tensor_model_parallel_region(y), x, 2)
    torch.testing.assert_close(found, torch.stack([3 * x, 3 * x]))
    found = collective(lambda mappings, y: mappings._gather_along_dim(y, 1), x, 2)
    torch.testing.assert_close(found, torch.stack([torch.cat([x, 2 * x], dim=1)] * 2))


def test_python_sees_rank_0_on_every_rank():
    def compute(mappings, y):
        return torch.tensor([mappings.get_tensor_model_parallel_group().rank()])

    assert collective(compute, torch.ones(1), 2).flatten().tolist() == [0, 0]


@pytest.mark.standins
def test_a_traced_graph_cannot_scatter():
    with pytest.raises(NotImplementedError, match="cannot scatter"):
        collective(lambda mappings, y: mappings.scatter_to_tensor_model_parallel_region(y), torch.ones(2), 2)


class Linear(torch.nn.Module):
    def __init__(self):
        from neuronx_distributed.parallel_layers.layers import ColumnParallelLinear

        super().__init__()
        self.linear = ColumnParallelLinear(4, 6, bias=False)

    def forward(self, x):
        return [self.linear(x)]


@pytest.fixture
def linear():
    """A compiled layer on two ranks, without weights, and the shards that it wants."""
    made = harness.builder(Linear, {"linear.weight": torch.randn(6, 4)}, torch.ones(2, 4), tp=2)
    return made.trace(initialize_model_weights=False), made.shard_checkpoint()


def test_inputs_of_other_shapes_and_dtypes_are_refused(linear):
    compiled = harness.initialize(*linear)
    weight = torch.cat([shard["linear.weight"] for shard in linear[1]])
    x = torch.randn(2, 4)
    torch.testing.assert_close(compiled(x), x @ weight.T)
    for wrong in (torch.ones(3, 4), torch.ones(2, 4, dtype=torch.bfloat16), torch.ones(2, 4, dtype=torch.int64)):
        with pytest.raises(RuntimeError):
            compiled(wrong)


def test_a_model_without_weights_does_not_run(linear):
    with pytest.raises((RuntimeError, ValueError)):
        linear[0](torch.ones(2, 4))


@pytest.mark.standins
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda shard: shard.clear(), "no weights for .'linear.weight'."),
        (lambda shard: shard.update({"linear.weight": torch.ones(6, 4)}), r"is \(6, 4\) .* compiled for \(3, 4\)"),
        (
            lambda shard: shard.update({"linear.weight": torch.ones(3, 4).half()}),
            "torch.float16, but .* torch.float32",
        ),
    ],
)
def test_wrong_weights_are_refused(linear, change, message):
    compiled, shards = linear
    change(shards[1])
    with pytest.raises(RuntimeError, match=f"rank 1: .*{message}"):
        harness.initialize(compiled, shards)


@pytest.mark.standins
def test_every_rank_wants_weights(linear):
    with pytest.raises(RuntimeError, match="1 shards of weights for 2 ranks"):
        harness.initialize(linear[0], linear[1][:1])


def test_weights_that_no_module_has_are_dropped():
    weights = {"linear.weight": torch.randn(6, 4), "linear.forgotten": torch.ones(2)}
    made = harness.builder(Linear, weights, torch.ones(2, 4), tp=2)
    with pytest.warns(UserWarning, match="forgotten"):
        shards = made.shard_checkpoint()
    assert [set(shard) for shard in shards] == [{"linear.weight"}] * 2


@pytest.mark.standins
@pytest.mark.timeout(30)
class TestRanks:
    """Ranks end with the first error of any of them, and never wait for one that will not come."""

    def run(self, function, size=3):
        from torch_neuronx.standin.ranks import Ranks

        return Ranks(size).run(function)

    def gather(self, value=1.0, shape=(1,)):
        from torch_neuronx.standin.ranks import all_gather

        return all_gather(torch.full(shape, float(value)), 0)

    def test_results_are_in_order(self):
        assert [result.tolist() for result in self.run(self.gather)] == [[0.0, 1.0, 2.0]] * 3

    def test_many_collectives(self):
        def function(rank):
            return [self.gather(rank + turn).tolist() for turn in range(200)]

        assert self.run(function)[1] == [[turn, turn + 1, turn + 2] for turn in range(200)]

    def test_the_error_of_one_rank(self):
        def function(rank):
            if rank == 1:
                raise KeyError("its own")
            return self.gather()

        with pytest.raises(KeyError, match="its own"):
            self.run(function)

    def test_a_rank_that_returns_early(self):
        with pytest.raises(RuntimeError, match="waits at all-gather along 0, but rank 2 has returned"):
            self.run(lambda rank: None if rank == 2 else self.gather())

    def test_ranks_that_disagree(self):
        with pytest.raises(RuntimeError, match="the ranks do not run the same collective"):
            self.run(lambda rank: self.gather(shape=(rank + 1,)))

    def test_after_an_error(self):
        from torch_neuronx.standin.ranks import Ranks

        ranks = Ranks(2)
        with pytest.raises(RuntimeError):
            ranks.run(lambda rank: self.gather() if rank else None)
        assert ranks.run(self.gather)[0].tolist() == [0.0, 1.0]


@pytest.mark.standins
def test_without_an_sdk_the_tests_are_skipped_and_nothing_is_imported():
    inside = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "NEURON_STANDIN_MACHINE")
    }
    script = "import sys, pytest; pytest.main(['-q', '-rs', 'tests/neuron']); print('optimum.neuron' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", script], env=inside, cwd=environment.ROOT, capture_output=True, text=True, check=False
    )
    assert environment.COMMAND in result.stdout
    assert result.stdout.rstrip().endswith("False")


@pytest.mark.standins
def test_a_class_that_no_module_has_can_be_saved(tmp_path, child_environment):
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(3), requires_grad=False)

        def forward(self, x):
            return [x + 2 * self.weight]

    compiled = harness.builder(Twice, {}, torch.ones(3)).trace(initialize_model_weights=False)
    torch.jit.save(compiled, str(tmp_path / "model.pt"))
    script = f"""
import torch, torch_neuronx
model = torch.jit.load({str(tmp_path / "model.pt")!r})
model.nxd_model.initialize([{{"weight": torch.ones(3)}}], torch.tensor([0], dtype=torch.int32))
print(model(torch.ones(3)).tolist())
"""
    command = [sys.executable, "-c", script]
    result = subprocess.run(
        command, env=child_environment(), cwd=environment.ROOT, capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "[3.0, 3.0, 3.0]", result.stderr
