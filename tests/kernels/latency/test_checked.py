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
"""What a prediction says of itself: why it is void, or outside of what the model was checked on."""

import dataclasses

import pytest

from optimum_neuronmm import kernels
from optimum_neuronmm.kernels import Spec, get_machine, simulate
from optimum_neuronmm.kernels.beta1 import to
from optimum_neuronmm.kernels.dialect import current
from optimum_neuronmm.kernels.latency import CHECKED, predict, predict_trace


pytestmark = pytest.mark.simulation

DECODING = "less than 128 rows: there is no published timing of decoding"
FEWER = "less than 1024 rows: the published timings are of 4096"
CORES = "several cores: the published timings are of one, and what they share of HBM is not modelled"
FLOAT32 = "float32: there is no published timing of it"
GATED = "a gated MLP: the published timings are of X W and X U V"
SIDES = "weights with a side outside of 1024 to 36864: those of the published timings are 4096 to 18432"
SHORT = "more than 20% of the bytes move in runs of less than 1024: what these cost is least known"
SPILL = "more than 90% of SBUF is live: the compiler is expected to spill, and the prediction is void"


@pytest.fixture
def notes(kernel_specs):
    """notes(kernel, M, K, r, N, dtype=, ...) of its prediction."""

    def of(*case, dtype="bfloat16", **how):
        return predict(getattr(kernels, case[0]), **kernel_specs(*case, dtype=dtype), **how).notes

    return of


def but_for_short_runs(found: tuple) -> tuple:
    """How long runs are is up to the plan."""
    return tuple(note for note in found if note != SHORT)


@pytest.mark.parametrize(
    "case",
    [
        ("low_rank_fused", 4096, 7168, 4096, 18432),
        ("matmul_tiled", 4096, 8192, 0, 8192),
        ("matmul_blocked", 4096, 8192, 0, 8192),
        ("low_rank_fused", 1024, 1024, 1024, 1024),
        ("low_rank_sequential", 1024, 1024, 1024, 2048),
        ("matmul", 1024, 1024, 0, 36864),
    ],
)
def test_nothing_is_said_of_what_was_checked_and_what_is_near(notes, case):
    assert notes(*case) == ()


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (("mlp", 1, 1024, 1024, 1536), (DECODING, GATED)),
        (("mlp_decode", 16, 1024, 1024, 1536), (DECODING, GATED)),
        (("mlp_two_kernels", 1, 1024, 1024, 1536), (DECODING, GATED)),
        (("low_rank_fused", 127, 1024, 1024, 1536), (DECODING,)),
        (("mlp_decode", 128, 1024, 1024, 1536), (FEWER, GATED)),
        (("mlp", 1023, 1024, 0, 1536), (FEWER, GATED)),
        (("mlp_two_kernels", 300, 1024, 1024, 1536), (FEWER, GATED)),
        (("low_rank_fused", 128, 1024, 1024, 1536), (FEWER,)),
        (("low_rank_fused", 1023, 1024, 1024, 1536), (FEWER,)),
    ],
)
def test_few_rows(notes, case, expected):
    assert but_for_short_runs(notes(*case)) == expected


@pytest.mark.parametrize(
    ("name", "r"), [("mlp", 1024), ("mlp", 0), ("mlp_two_kernels", 1024), ("mlp_up", 1024), ("gated_matmul", 1024)]
)
def test_gated_mlps(notes, name, r):
    assert but_for_short_runs(notes(name, 1024, 1024, r, 1536)) == (GATED,)


@pytest.mark.parametrize(
    "case",
    [
        ("matmul", 1024, 1023, 0, 2048),
        ("matmul", 1024, 2048, 0, 1023),
        ("matmul", 1024, 1024, 0, 36865),
        ("low_rank_fused", 1024, 1024, 1023, 2048),
        ("low_rank_fused", 1024, 1023, 1024, 2048),
        ("low_rank_fused", 1024, 1024, 1024, 1023),
    ],
)
def test_weights_of_other_sizes(notes, case):
    assert notes(*case) == (SIDES,)


def test_sides_of_what_is_no_weight_do_not_count(notes):
    """Activations of 40000 rows, as they come or transposed, or two of them."""
    assert notes("matmul", 40000, 1024, 0, 1024) == ()
    x, w = Spec((1024, 40000)), Spec((1024, 1024))
    assert predict(kernels.matmul, x, w, x_transposed=True).notes == ()
    assert predict(kernels.matmul_tiled, x, w).notes == ()
    assert but_for_short_runs(notes("gated_matmul", 40000, 1024, 1024, 1024)) == (GATED,)


def test_one_small_weight_of_several_is_said(kernel_specs):
    tensors = kernel_specs("mlp", 1024, 1024, 1024, 1536)
    assert predict(kernels.mlp, **tensors).notes == (GATED,)
    tensors |= {"down": Spec((1536, 512)), "down_v": Spec((512, 1024))}
    assert predict(kernels.mlp, **tensors).notes == (GATED, SIDES)
    assert predict(kernels.mlp_two_kernels, **tensors).notes == (GATED, SIDES)  # in the second of its kernels


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ((512, 512, 1), False),  # 1024 bytes are long enough
        ((511, 511, 511), True),
        ((511, 512, 512), True),
        ((1, 1, 512), False),
        ((256, 512, 512), False),  # 20 % is not more than 20 %
        ((257, 512, 512), True),
        ((128, 128, 1024), False),
        ((129, 128, 1024), True),
    ],
)
def test_many_bytes_in_short_runs(columns, said):
    """Three tensors are read."""

    def reads(a, b, c):
        nk = current()
        for x in (a, b, c):
            nk.load(to(nk.sbuf(x.shape, x.dtype))[...], x[...])
        return nk.output((128, 1), dtype=a.dtype, name="y")

    run = simulate(reads, *(Spec((128, count)) for count in columns), dry=True)
    assert run.trace.hbm_bytes == 2 * 128 * sum(columns)
    assert predict_trace(run.trace).notes == ((SHORT,) if said else ())


def test_narrow_weights_are_no_few_rows(notes):
    assert notes("matmul", 4096, 256, 0, 64) == (SIDES, SHORT)
    assert notes("low_rank_fused", 2048, 256, 64, 100) == (SIDES, SHORT)


def test_float32_and_cores(notes):
    assert notes("mlp", 1024, 1024, 1024, 1536, dtype="float32") == (FLOAT32, GATED)
    assert notes("low_rank_fused", 2048, 1024, 1024, 1536, cores=2) == (CORES,)
    assert notes("low_rank_fused", 16, 1024, 192, 1536, cores=2, dtype="float32") == (FLOAT32, DECODING, SIDES, CORES)


@pytest.mark.parametrize("target", ["inf2", "trn2", "trn3"])
def test_another_machine(notes, target):
    (note,) = notes("low_rank_fused", 1024, 1024, 1024, 1536, target=target)
    assert note.startswith(f"{target}: no published timing of its kernels was found")
    assert notes("mlp", 1024, 1024, 1024, 1536, target=target) == (note, GATED)


def test_a_spill_is_said_before_the_rest(kernel_specs):
    tensors = kernel_specs("mlp", 1024, 1024, 1024, 1536)
    plan = kernels.mlp.plan(**tensors)
    run = simulate(kernels.mlp, **tensors, plan=plan, dry=True)
    full = dataclasses.replace(get_machine("trn1"), sbuf_partition=run.sbuf_peak // 128)
    void = predict_trace(run.trace, full, plans=(plan,))
    assert void.spills and void.notes == (SPILL, GATED)
    just = dataclasses.replace(full, sbuf_partition=-(-run.sbuf_peak * 10 // (9 * 128)))
    kept = predict_trace(run.trace, just, plans=(plan,))
    assert not kept.spills and kept.notes == (GATED,)


@pytest.mark.parametrize(("M", "expected"), [(16, (DECODING, GATED)), (300, (GATED,))])
def test_a_trace_without_a_plan_is_judged_by_its_products(kernel_specs, M, expected):
    run = simulate(kernels.mlp, **kernel_specs("mlp", M, 1024, 1024, 1536), dry=True)
    assert predict_trace(run.trace).notes == expected  # and nothing of the sides of its weights, which are not known
    run = simulate(kernels.low_rank_fused, **kernel_specs("low_rank_fused", M, 1024, 512, 1536), dry=True)
    assert predict_trace(run.trace).notes == expected[:-1]


def test_what_was_checked_names_its_shapes():
    for word in ("trn1", "bfloat16", "4096 rows", "7168", "18432", "8192"):
        assert word in CHECKED
    assert "near is taken to be as good: 1024 rows and more, and weights with sides of 1024 to 36864." in CHECKED
