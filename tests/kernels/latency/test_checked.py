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
from optimum_neuronmm.kernels import get_machine, simulate
from optimum_neuronmm.kernels.latency import CHECKED, predict, predict_trace


pytestmark = pytest.mark.simulation

DECODING = "less than 128 rows: there is no published timing of decoding"
FEWER = "less than 1024 rows: the published timings are of more"
CORES = "several cores: the published timings are of one, and what they share of HBM is not modelled"
FLOAT32 = "float32: there is no published timing of it"
SPILL = "more than 90% of SBUF is live: the compiler is expected to spill, and the prediction is void"


@pytest.fixture
def notes(kernel_specs):
    """notes(kernel, M, K, r, N, dtype=, ...) of its prediction."""

    def of(*case, dtype="bfloat16", **how):
        return predict(getattr(kernels, case[0]), **kernel_specs(*case, dtype=dtype), **how).notes

    return of


@pytest.mark.parametrize(
    "case",
    [
        ("low_rank_fused", 4096, 7168, 4096, 18432),
        ("matmul_tiled", 4096, 8192, 0, 8192),
        ("matmul_blocked", 4096, 8192, 0, 8192),
        ("mlp", 1024, 576, 192, 1536),
        ("mlp_two_kernels", 1024, 576, 192, 1536),
    ],
)
def test_nothing_is_said_of_what_was_checked(notes, case):
    assert notes(*case) == ()


@pytest.mark.parametrize(
    ("case", "note"),
    [
        (("mlp", 1, 576, 192, 1536), DECODING),
        (("mlp_decode", 16, 576, 192, 1536), DECODING),
        (("mlp_two_kernels", 1, 576, 192, 1536), DECODING),
        (("low_rank_fused", 127, 576, 192, 1536), DECODING),
        (("mlp_decode", 128, 576, 192, 1536), FEWER),
        (("mlp", 1023, 576, 0, 1536), FEWER),
        (("mlp_two_kernels", 300, 576, 192, 1536), FEWER),
    ],
)
def test_few_rows(notes, case, note):
    assert notes(*case) == (note,)


@pytest.mark.parametrize("case", [("matmul", 4096, 256, 0, 64), ("low_rank_fused", 2048, 256, 64, 100)])
def test_narrow_weights_are_no_few_rows(notes, case):
    assert notes(*case) == ()


def test_float32_and_cores(notes):
    assert notes("mlp", 1024, 576, 192, 1536, dtype="float32") == (FLOAT32,)
    assert notes("low_rank_fused", 2048, 576, 192, 1536, cores=2) == (CORES,)
    assert notes("low_rank_fused", 16, 576, 192, 1536, cores=2, dtype="float32") == (FLOAT32, DECODING, CORES)


@pytest.mark.parametrize("target", ["inf2", "trn2", "trn3"])
def test_another_machine(notes, target):
    (note,) = notes("mlp", 1024, 576, 192, 1536, target=target)
    assert note.startswith(f"{target}: no published timing of its kernels was found")


def test_a_spill_is_said_before_the_rest(kernel_specs):
    tensors = kernel_specs("mlp", 1024, 576, 192, 1536)
    plan = kernels.mlp.plan(**tensors)
    run = simulate(kernels.mlp, **tensors, plan=plan, dry=True)
    full = dataclasses.replace(get_machine("trn1"), sbuf_partition=run.sbuf_peak // 128)
    void = predict_trace(run.trace, full, plans=(plan,))
    assert void.spills and void.notes == (SPILL,)
    just = dataclasses.replace(full, sbuf_partition=-(-run.sbuf_peak * 10 // (9 * 128)))
    kept = predict_trace(run.trace, just, plans=(plan,))
    assert not kept.spills and kept.notes == ()


@pytest.mark.parametrize(("M", "expected"), [(16, (DECODING,)), (300, ())])
def test_a_trace_without_a_plan_is_judged_by_its_products(kernel_specs, M, expected):
    run = simulate(kernels.mlp, **kernel_specs("mlp", M, 576, 192, 1536), dry=True)
    assert predict_trace(run.trace).notes == expected


def test_what_was_checked_names_its_shapes():
    for word in ("trn1", "bfloat16", "4096 rows", "7168", "18432", "8192"):
        assert word in CHECKED
