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
"""Predictions: their fields by hand, and their sums."""

import dataclasses

import pytest

from optimum_neuronmm import kernels
from optimum_neuronmm.kernels import (
    KernelError,
    PlanError,
    Spec,
    get_machine,
    low_rank_fused,
    mlp_two_kernels,
    simulate,
)
from optimum_neuronmm.kernels.beta1 import to
from optimum_neuronmm.kernels.dialect import current
from optimum_neuronmm.kernels.engines import DMA, GPSIMD, SCALAR, TENSOR, VECTOR
from optimum_neuronmm.kernels.latency import CURVES, Prediction, predict, predict_trace
from optimum_neuronmm.kernels.latency.constants import CALIBRATED


pytestmark = pytest.mark.simulation

M, K, R, N = 1024, 512, 256, 2048


@pytest.fixture(scope="module")
def known() -> Prediction:
    return predict(low_rank_fused, Spec((M, K)), Spec((K, R)), Spec((R, N)))


def test_the_fields_of_a_known_kernel(known):
    machine = get_machine("trn1")
    strips = M // known.plans[0].B_M
    assert (known.kernel, known.machine) == ("low_rank_fused", machine)
    assert known.flops == 2 * M * R * (K + N)
    assert known.transpose_flops == 2 * M * K * 128  # of X, against an identity of 128
    assert known.hbm_bytes == 2 * (M * (K + N) + strips * R * (K + N))
    assert known.floor == max(known.flops / machine.flops, known.hbm_bytes / CALIBRATED.saturated)
    assert set(known.busy) == {TENSOR, VECTOR, SCALAR, GPSIMD, DMA}
    assert known.floor <= max(known.busy.values()) <= known.seconds <= sum(known.busy.values())
    assert known.milliseconds == 1e3 * known.seconds
    assert known.peak == machine.flops == 2 * 128**2 * 2.8e9
    assert known.utilisation == pytest.approx(known.flops / (known.seconds * 2 * 128**2 * 2.8e9))
    assert known.bound_by == max(known.busy, key=known.busy.get) == DMA
    assert 0 < known.sbuf_peak <= 128 * machine.sbuf_budget and not known.spills
    assert known.events == ()
    assert known.notes == (
        "weights with a side outside of 1024 to 36864: those of the published timings are 4096 to 18432",
    )
    trace = simulate(low_rank_fused, Spec((M, K)), Spec((K, R)), Spec((R, N)), dry=True).trace
    assert known.sbuf_peak == 128 * trace.peak("sbuf", buffered=True) > 128 * trace.peak("sbuf")


def test_a_copy_by_hand():
    """Two transfers of 8 KiB to a partition with their start, and a copy: nothing overlaps."""

    def copy(x):
        nk = current()
        y = nk.output((128, 4096), dtype=x.dtype, name="y")
        a, b = nk.sbuf((128, 4096), x.dtype), nk.sbuf((128, 4096), x.dtype)
        nk.load(to(a)[...], x[...])
        nk.copy(to(b)[...], a[...])
        nk.store(y[...], b[...])
        return y

    found = predict(copy, Spec((128, 4096)))
    moved, copied = 2**20 / CALIBRATED.saturated, (4096 + CALIBRATED.overhead) / 1.12e9
    assert found.seconds == pytest.approx(2 * (1.3e-6 + moved) + copied)
    assert found.busy == pytest.approx({TENSOR: 0, VECTOR: copied, SCALAR: 0, GPSIMD: 0, DMA: 2 * moved})
    assert (found.kernel, found.flops, found.hbm_bytes, found.bound_by) == ("copy", 0, 2**21, DMA)
    assert found.floor == pytest.approx(2 * moved) and found.utilisation == 0
    assert found.sbuf_peak == 2**21


def test_one_after_the_other(known):
    other = predict(kernels.matmul, Spec((300, 256)), Spec((256, 512)), record=True)
    first = predict(low_rank_fused, Spec((M, K)), Spec((K, R)), Spec((R, N)), record=True)
    both = first + other
    assert both.kernel == "low_rank_fused + matmul"
    for field in ("seconds", "flops", "transpose_flops", "hbm_bytes", "floor"):
        assert getattr(both, field) == getattr(first, field) + getattr(other, field), field
    assert both.busy == {engine: first.busy[engine] + other.busy[engine] for engine in first.busy}
    assert both.sbuf_peak == max(first.sbuf_peak, other.sbuf_peak) == (other + first).sbuf_peak
    assert both.plans == first.plans + other.plans
    assert first.notes and set(other.notes) - set(first.notes)
    assert both.notes == tuple(dict.fromkeys(first.notes + other.notes)) == (both + both).notes
    assert both.events[: len(first.events)] == first.events
    late = both.events[len(first.events) :]
    assert min(start for _, _, start, _ in late) >= first.seconds
    assert [(e, n, s) for e, n, _, s in late] == [(e, n, s) for e, n, _, s in other.events]
    assert first.seconds == pytest.approx(known.seconds, rel=0.005)


def test_a_spill_of_one_is_a_spill_of_both(known):
    spilled = dataclasses.replace(known, spills=True, notes=("void",))
    assert (known + spilled).spills and (spilled + known).spills and not (known + known).spills
    assert (known + spilled).notes == (*known.notes, "void") and (spilled + known).notes == ("void", *known.notes)


def test_the_tensor_engine_makes_four_passes_of_float32():
    """The floor and the utilisation are of the peak of the data type: sizes at which products are the floor of either."""
    tensors = {dtype: (Spec((2048, 2048), dtype), Spec((2048, 2048), dtype)) for dtype in ("bfloat16", "float32")}
    found = {dtype: predict(kernels.matmul, *of) for dtype, of in tensors.items()}
    machine, flops = get_machine("trn1"), 2 * 2048**3
    for dtype, peak in (("bfloat16", machine.flops), ("float32", machine.float32_flops)):
        made = found[dtype]
        assert made.flops == flops and made.peak == peak
        assert made.floor == pytest.approx(max(flops / peak, made.hbm_bytes / CALIBRATED.saturated))
        assert made.utilisation == pytest.approx(flops / peak / made.seconds)
        assert made.floor <= made.seconds and 0.5 < made.utilisation <= 1
    assert found["float32"].floor == pytest.approx(4 * flops / machine.flops, rel=0.01)
    assert found["float32"].busy[TENSOR] > 3 * found["bfloat16"].busy[TENSOR]
    trn2 = predict(kernels.matmul, *tensors["float32"], target="trn2")
    assert trn2.peak == get_machine("trn2").float32_flops


def test_without_products_the_peak_is_that_of_the_machine():
    def read(x):
        nk = current()
        nk.load(to(nk.sbuf(x.shape, x.dtype))[...], x[...])
        return nk.output((128, 1), dtype=x.dtype, name="y")

    assert predict(read, Spec((128, 512), "float32")).peak == get_machine("trn1").flops


def test_a_pipeline_is_its_kernels_in_a_row(kernel_specs):
    tensors = kernel_specs("mlp_two_kernels", 300, 256, 128, 512)
    both = predict(mlp_two_kernels, **tensors, record=True)
    first = predict(kernels.mlp_up, *list(tensors.values())[:5])
    second = predict(low_rank_fused, Spec((512, 300)), tensors["down"], tensors["down_v"], x_transposed=True)
    assert both.seconds == pytest.approx((first + second).seconds, rel=1e-6)
    assert both.hbm_bytes == (first + second).hbm_bytes and both.flops == (first + second).flops
    assert both.busy == pytest.approx((first + second).busy)
    assert both.plans == first.plans + second.plans
    assert max(start + took for _, _, start, took in both.events) == pytest.approx(both.seconds)


@pytest.mark.parametrize(("rows", "split"), [(2 * M, "M"), (17, "N")])
def test_cores_halve_what_one_of_them_does(rows, split):
    tensors = Spec((rows, K)), Spec((K, R)), Spec((R, 2 * N))
    alone, shared = predict(low_rank_fused, *tensors), predict(low_rank_fused, *tensors, cores=2)
    assert shared.plans[0].split == split
    part = (rows // 2, 2 * N) if split == "M" else (rows, N)
    assert shared.flops == 2 * part[0] * R * (K + part[1])
    assert shared.seconds < alone.seconds and shared.hbm_bytes < alone.hbm_bytes
    assert shared.floor <= shared.seconds


CASES = (
    ("low_rank_fused", 1024, 512, 192, 2048),
    ("mlp", 512, 576, 192, 1536),
    ("mlp_decode", 1, 512, 64, 1536),
    ("matmul_tiled", 512, 512, 0, 1024),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_the_curve_can_be_chosen(kernel_specs, case):
    kernel, tensors = getattr(kernels, case[0]), kernel_specs(*case)
    plan = kernel.plan(**tensors)
    found = {name: predict(kernel, **tensors, plan=plan, dma=curve) for name, curve in CURVES.items()}
    assert found["calibrated"] == predict(kernel, **tensors, plan=plan)
    for name, made in found.items():
        assert made.busy[DMA] >= found["flat"].busy[DMA] * (1 - 1e-9), name
        assert made.seconds >= found["flat"].seconds * (1 - 1e-3), name
        assert made.floor == found["flat"].floor <= made.seconds
    assert found["calibrated"].busy[DMA] > found["flat"].busy[DMA]
    assert found["picture"].busy[DMA] != found["step"].busy[DMA]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
@pytest.mark.parametrize(("target", "scale"), [("inf2", 1.0), ("trn2", 368 / 272), ("trn3", 528 / 272)])
def test_transfers_scale_with_the_machine(kernel_specs, case, target, scale):
    kernel, tensors = getattr(kernels, case[0]), kernel_specs(*case)
    base = predict(kernel, **tensors)
    trace = simulate(kernel, **tensors, dry=True).trace
    other = predict_trace(trace, target)
    assert other.busy[DMA] == pytest.approx(base.busy[DMA] / scale)
    assert other.busy[TENSOR] == pytest.approx(base.busy[TENSOR] * 2.8e9 / get_machine(target).tensor_clock)
    assert other.machine.name == target and other.notes


def test_other_constants():
    trace = simulate(low_rank_fused, Spec((M, K)), Spec((K, R)), Spec((R, N)), dry=True).trace
    base = predict_trace(trace)
    slower = dataclasses.replace(CALIBRATED, saturated=CALIBRATED.saturated / 2, short=CALIBRATED.short / 2)
    found = predict_trace(trace, constants=slower, kernel="mine")
    assert found.busy[DMA] == pytest.approx(2 * base.busy[DMA]) and found.seconds > base.seconds
    assert found.floor == pytest.approx(2 * base.floor) and found.kernel == "mine"


def test_errors_are_those_of_the_kernels():
    with pytest.raises(KernelError, match="missing v"):
        predict(low_rank_fused, Spec((M, K)), Spec((K, R)))
    with pytest.raises(PlanError, match="must agree"):
        predict(low_rank_fused, Spec((M, K)), Spec((K + 1, R)), Spec((R, N)))
    with pytest.raises(KernelError, match="unknown target"):
        predict(low_rank_fused, Spec((M, K)), Spec((K, R)), Spec((R, N)), target="trn0")


def test_the_peak_of_a_sum_is_that_of_its_flops(bench):
    shapes = (1024, 512), (512, 256)
    halves = [
        bench.package.predict(bench.kernel("matmul"), *(bench.package.Spec(s, t) for s in shapes))
        for t in ("bfloat16", "float32")
    ]
    both = halves[0] + halves[1]
    assert both.peak == pytest.approx(2 / (1 / halves[0].peak + 1 / halves[1].peak))
    assert both.flops / both.peak == pytest.approx(sum(half.flops / half.peak for half in halves))
    nothing = dataclasses.replace(halves[0], flops=0)
    assert (nothing + nothing).utilisation == 0
