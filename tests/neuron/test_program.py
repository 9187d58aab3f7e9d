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
"""The program of one rank, run on every rank at once and compared with the MLP in float64."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.activations import ACT2FN

from optimum_neuronmm.families import FAMILIES
from optimum_neuronmm.neuron.conversion import convert_mlp
from optimum_neuronmm.neuron.form import REPLICATED, SHARDED, Form
from optimum_neuronmm.neuron.program import FEW_ROWS, FUSED, SEPARATE, compressed_mlp, kernels_for
from tests.neuron.compressed import checkpoint_tensors


class LockStep:
    """The ranks of a form as threads that meet at every exchange. Counts the exchanges, and the kernels of rank 0."""

    def __init__(self, form: Form):
        self.form, self.barrier, self.brought = form, threading.Barrier(form.tp, timeout=20), [None] * form.tp
        self.exchanges, self.launched = [], []

    def run(self, x, weights, kernel=None) -> list[torch.Tensor]:
        results = [None] * self.form.tp

        def target(rank):
            try:
                w = {name: part(weights[name], matrix, rank) for name, matrix in self.form.matrices.items()}
                launch = self.launch if rank == 0 else reference
                results[rank] = compressed_mlp(x, w, self.form, kernel, launch, _Rank(self, rank))
            except BaseException as error:
                results[rank] = error
                self.barrier.abort()

        threads = [threading.Thread(target=target, args=(rank,)) for rank in range(self.form.tp)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        errors = [result for result in results if isinstance(result, BaseException)]
        for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
            raise error
        return results

    def launch(self, kernel, **call):
        self.launched.append(kernel.name)
        return reference(kernel, **call)

    def meet(self, rank, kind, x):
        if rank == 0:
            self.exchanges.append(kind)
        self.brought[rank] = (kind, x)
        self.barrier.wait()
        everyone = list(self.brought)
        self.barrier.wait()
        assert {(k, t.shape) for k, t in everyone} == {(kind, x.shape)}
        return torch.stack([t for _, t in everyone])


class _Rank:
    def __init__(self, ranks: LockStep, rank: int):
        self.ranks, self.rank = ranks, rank

    def gather(self, x):
        return self.ranks.meet(self.rank, "gather", x)

    def sum(self, x):
        return self.ranks.meet(self.rank, "sum", x).sum(0)

    def sum_and_scatter(self, x):
        total = self.ranks.meet(self.rank, "sum_and_scatter", x).sum(0)
        return total.chunk(self.ranks.form.tp, dim=1)[self.rank]


def part(whole, matrix, rank):
    assert whole.shape == matrix.shape
    return whole if matrix.cut is None else whole.chunk(matrix.ranks, dim=matrix.cut)[rank]


def reference(kernel, **call):
    """A kernel as its reference computes it."""
    tensors, options = kernel.bind(**call)
    return kernel.reference(**{**dict.fromkeys(kernel.absent), **tensors}, **options)


def family_for(form: Form):
    return FAMILIES["phi3" if form.shared else "llama"]


def converted(form: Form, tensors: dict) -> dict[str, torch.Tensor]:
    found = convert_mlp({f"mlp.{name}": t for name, t in tensors.items()}, "mlp.", form, family_for(form))
    return {name.removeprefix("mlp.").removesuffix(".weight"): tensor for name, tensor in found.items()}


def mlp(x, tensors: dict, form: Form) -> torch.Tensor:
    """The MLP as transformers computes it, of the checkpoint's own tensors."""

    def linear(name, x):
        path = f"{name}_proj."
        if f"{path}u.weight" in tensors:
            return torch.nn.functional.linear(
                x @ tensors[f"{path}u.weight"].T, tensors[f"{path}v.weight"], tensors.get(f"{path}v.bias")
            )
        return torch.nn.functional.linear(x, tensors[f"{path}weight"], tensors.get(f"{path}bias"))

    gate, up = linear("gate_up", x).chunk(2, -1) if form.shared else (linear("gate", x), linear("up", x))
    return linear("down", ACT2FN[form.activation](gate) * up)


@st.composite
def forms(draw):
    ranks = [draw(st.none() | st.integers(1, 20)) for _ in range(3)]
    shared = ranks[0] is not None and draw(st.booleans())
    if shared:
        ranks[1] = ranks[0]
    return Form(
        draw(st.integers(1, 20)), draw(st.integers(1, 30)), *ranks, shared=shared, biased=draw(st.booleans()),
        activation=draw(st.sampled_from(["silu", "gelu_pytorch_tanh"])), tp=draw(st.integers(1, 8)),
        layout=draw(st.sampled_from([REPLICATED, SHARDED])),
    )  # fmt: skip


def check(form: Form, rows: int, kernel: str | None) -> LockStep:
    generator = torch.Generator().manual_seed(rows)
    tensors = checkpoint_tensors(form, family_for(form), generator)
    x = torch.randn(rows, form.H, generator=generator, dtype=torch.float64)
    ranks = LockStep(form)
    found = ranks.run(x, converted(form, tensors), kernel)
    for y in found:  # every rank has the whole result
        torch.testing.assert_close(y, mlp(x, tensors, form), rtol=1e-9, atol=1e-11)
    assert form.tp == 1 or len(ranks.exchanges) == form.collectives
    return ranks


@pytest.fixture(autouse=True)
def in_float64(monkeypatch):
    """Kernels take no float64; their references do."""
    from optimum_neuronmm.kernels.kernel import Kernel

    def bind(self, **call):
        tensors = {name: call[name] for name in self.tensors if call.get(name) is not None}
        return tensors, {name: call[name] for name in self.settings if name in call}

    monkeypatch.setattr(Kernel, "bind", bind)


@settings(max_examples=100, deadline=None)
@given(forms(), st.integers(1, 9))
def test_plain_products_compute_the_mlp(form, rows):
    ranks = check(form, rows, None)
    assert ranks.launched == []


@settings(max_examples=100, deadline=None)
@given(forms(), st.sampled_from([1, 5, FEW_ROWS, FEW_ROWS + 1, 150]), st.data())
def test_kernels_compute_the_mlp(form, rows, data):
    kernel = data.draw(st.sampled_from(kernels_for(form)))
    ranks = check(form, rows, kernel)
    if kernel in FUSED:
        assert ranks.launched == [kernel]


@pytest.mark.parametrize("rows", [FEW_ROWS, FEW_ROWS + 1])
@pytest.mark.parametrize(
    ("ranks", "shared", "few", "many"),
    [
        # U of both, gate, up, U of down, V of down; with many rows gate and up are one kernel
        ((4, 6, 4), False, 5, ["matmul", "gated_matmul", "matmul", "matmul"]),
        ((4, 4, 4), True, 5, ["matmul", "mlp_up", "matmul", "matmul"]),
        ((4, None, None), False, 4, ["matmul", "gated_matmul", "matmul"]),
        ((None, None, 4), False, 4, ["mlp_up", "matmul", "matmul"]),
    ],
)
def test_which_kernels_run_between_the_exchanges(ranks, shared, few, many, rows):
    form = Form(6, 9, *ranks, shared=shared, tp=2, layout=SHARDED)
    launched = check(form, rows, SEPARATE).launched
    assert launched == (many if rows > FEW_ROWS else ["matmul"] * few)


def test_the_order_of_the_exchanges():
    form = Form(6, 9, 4, 4, 4, tp=2, layout=SHARDED)
    assert check(form, 3, None).exchanges == ["gather", "sum_and_scatter", "sum"]
    assert check(Form(6, 9, 4, 4, 4, tp=2), 3, None).exchanges == ["sum"]


def test_a_small_exchange_where_the_replicated_layout_sums():
    form, seen = Form(6, 9, 4, 4, 4, tp=2), []

    class Alone(_Rank):
        def sum(self, x):
            seen.append(tuple(x.shape))
            return x

    weights = {name: torch.ones(m.local) for name, m in form.matrices.items()}
    compressed_mlp(torch.ones(3, 6), weights, form, None, reference, Alone(LockStep(form), 0))
    assert seen == [(3, 4)]  # at the rank, which is smaller than the hidden size


def test_kernels_that_a_form_may_use():
    every = ("mlp_decode", "mlp", "mlp_two_kernels", SEPARATE)
    assert kernels_for(Form(6, 9, 4, 4, 4, tp=2)) == every == (*FUSED, SEPARATE)
    assert kernels_for(Form(6, 9, 4, 4, 4, layout=SHARDED)) == every  # one rank exchanges nothing
    assert kernels_for(Form(6, 9, 4, 4, 4, tp=2, layout=SHARDED)) == (SEPARATE,)
    assert kernels_for(Form(6, 9, 4, 4, 4, activation="gelu")) == ()
