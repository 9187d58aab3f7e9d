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
"""The planner's sums, by which candidates are left out: what the very plan costs in its trace, and no more than that."""

from collections import Counter
from dataclasses import replace

import pytest

from optimum_neuronmm import kernels
from optimum_neuronmm.kernels import get_machine, simulate, task
from optimum_neuronmm.kernels.engines import DMA, SCALAR, TENSOR, VECTOR
from optimum_neuronmm.kernels.latency.constants import constants_of
from optimum_neuronmm.kernels.latency.dma import CALIBRATED, PER_DESCRIPTOR, PICTURE, SEVERE
from optimum_neuronmm.kernels.latency.instructions import Costs
from optimum_neuronmm.kernels.latency.timeline import schedule
from optimum_neuronmm.kernels.latency.work import PRUDENCE, Rates, emptying, entering, multiplying, rates_of, streaming
from optimum_neuronmm.kernels.search import Search
from optimum_neuronmm.kernels.tiling import Blocks


pytestmark = pytest.mark.simulation

TRN1 = get_machine("trn1")
WHOLE = (  # kernel, M, K, r, N: of whole tiles
    ("matmul", 2048, 2048, 0, 4096),
    ("gated_matmul", 512, 384, 256, 2048),
    ("low_rank_fused", 4096, 2048, 512, 8192),
    ("low_rank_fused", 512, 2048, 1280, 8192),
    ("low_rank_fused", 2048, 8192, 4096, 2048),
    ("low_rank_fused", 1, 2048, 640, 8192),
    ("mlp_up", 1024, 768, 256, 2048),
    ("mlp", 1024, 768, 256, 2048),
    ("mlp", 1024, 768, 0, 2048),
    ("mlp", 512, 2048, 1280, 8192),
    ("mlp_decode", 1, 2048, 640, 8192),
    ("mlp_decode", 128, 2048, 0, 8192),
)
RAGGED = (
    ("matmul", 17, 896, 0, 4864),
    ("low_rank_sequential", 1024, 1024, 512, 2048),  # the intermediate through HBM is not in the sums
    ("low_rank_fused", 300, 700, 257, 1500),
    ("low_rank_fused", 1300, 4352, 1, 128),
    ("mlp_up", 512, 576, 192, 1536),
    ("mlp", 512, 576, 192, 1536),
    ("mlp", 1, 896, 130, 4864),
    ("mlp_decode", 16, 576, 192, 1536),
)


@pytest.fixture
def finalists(monkeypatch, kernel_specs):
    """finalists(case, ...): (plan, search that made it, rows of a core, trace) of each plan that the planner names."""
    original, made = task.Task._plan, {}

    def keep(self, search, M, split, part):
        plan = original(self, search, M, split, part)
        made[plan.key] = search
        return plan

    def of(case, dtype="bfloat16", target="trn1", cores=1):
        made.clear()
        monkeypatch.setattr(task.Task, "_plan", keep)
        kernel, machine = getattr(kernels, case[0]), get_machine(target)
        tensors = {key: spec for key, spec in kernel_specs(*case, dtype=dtype).items() if spec is not None}
        shapes = {key: spec.shape for key, spec in tensors.items()}
        call = {**dict.fromkeys(kernel.absent), **tensors}
        for plan in kernel.planner(shapes, dtype, machine, cores):
            given = replace(plan, kernel=kernel.name, shapes=tuple(shapes.items()))
            trace = simulate(kernel, **call, target=machine, plan=given, cores=cores, dry=True).trace
            yield plan, made[plan.key], case[1] // cores if plan.split == "M" else case[1], trace

    return of


def costs(machine, curve=CALIBRATED) -> Costs:
    return Costs(machine, constants_of(machine), curve)


def mixed(calibrated: float, by_descriptor: float) -> float:
    """What plans are chosen by."""
    return 0.9 * calibrated + 0.1 * by_descriptor


def busy(trace, machine) -> dict[str, float]:
    """Of each engine, with transfers by the mixture of curves that plans are chosen by."""
    found, by_descriptor = costs(machine).busy(trace), costs(machine, PICTURE).busy(trace)
    return {engine: mixed(seconds, by_descriptor[engine]) for engine, seconds in found.items()}


def took(trace, machine) -> float:
    """Of the timelines, by the same mixture."""
    return mixed(*(schedule(trace, costs(machine, curve)).seconds for curve in (CALIBRATED, PICTURE)))


def summed(search, rows: int) -> dict[str, float]:
    total = sum(search.phases, Counter())
    return {engine: rows / search.M * total[engine] for engine in (TENSOR, VECTOR, SCALAR, DMA)}


def check_bound(found, machine, least: float) -> None:
    count = 0
    for plan, search, rows, trace in found:
        count += 1
        done, sums = busy(trace, machine), summed(search, rows)
        # A last strip of fewer rows may cost less than its share, and so may the last features of a row.
        beyond = 1.01 if rows % plan.B_M else 1.001
        for engine, seconds in sums.items():
            assert seconds <= beyond * done[engine], (plan.key, engine)
        assert search.bound(rows) == max(sums.values())
        # Of three passes over the weights for 1024 rows in strips of 384 the bound counts 2 2/3.
        counted = rows / plan.B_M / len(range(0, rows, plan.B_M))
        assert least * counted * max(done.values()) <= search.bound(rows) <= beyond * max(done.values()), plan.key
        assert search.bound(rows) <= beyond * took(trace, machine), plan.key
    assert count


def test_the_mixture_of_the_planner_is_the_one_of_this_test():
    assert PRUDENCE == 0.1


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: "-".join(map(str, case)))
def test_the_sums_are_what_the_busiest_engine_works(finalists, case):
    check_bound(finalists(case), TRN1, 0.97)


@pytest.mark.parametrize("case", RAGGED, ids=lambda case: "-".join(map(str, case)))
def test_the_sums_are_no_more_than_that_in_ragged_tiles(finalists, case):
    check_bound(finalists(case), TRN1, 0.7)


@pytest.mark.parametrize("how", [{"target": "trn2"}, {"dtype": "float32"}, {"cores": 2}], ids=str)
@pytest.mark.parametrize("case", [WHOLE[3], WHOLE[7], RAGGED[3]], ids=lambda case: "-".join(map(str, case)))
def test_the_sums_of_other_machines_and_types(finalists, case, how):
    check_bound(finalists(case, **how), get_machine(how.get("target", "trn1")), 0.9 if case in WHOLE else 0.7)


@pytest.mark.parametrize("case", [WHOLE[3], WHOLE[7], RAGGED[2]], ids=lambda case: "-".join(map(str, case)))
def test_an_estimate_is_between_the_limits(finalists, case):
    for plan, search, rows, trace in finalists(case):
        # Each strip reads all weights, the last one too, of however few rows; what else is done goes by the rows.
        passes = len(range(0, rows, plan.B_M))
        phases = [
            {engine: seconds * (passes if engine == DMA else rows / plan.B_M) for engine, seconds in phase.items()}
            for phase in search.phases
        ]
        apart = sum(max(phase.values()) for phase in phases)
        together = max(sum(phase.get(engine, 0) for phase in phases) for engine in (TENSOR, VECTOR, SCALAR, DMA))
        assert search.bound(rows) <= together <= apart * (1 + 1e-9)
        assert search.estimate(rows) == pytest.approx((together + apart) / 2 + search.lead)
        assert search.estimate(rows) == pytest.approx(took(trace, TRN1), rel=0.25)


def test_a_last_strip_of_few_rows_reads_as_many_weights(rates):
    search = Search(rates, 256)
    search.lead, search.phases = 7.0, [Counter({DMA: 2.0, TENSOR: 5.0}), Counter({DMA: 3.0, TENSOR: 1.0})]
    assert search.bound(512) == 12.0 and search.estimate(512) == pytest.approx((12.0 + 16.0) / 2 + 7.0)
    # 257 rows: DMA for two strips (4 and 6), products for 257 / 256.
    products = 257 / 256
    assert search.bound(257) == pytest.approx(6 * products)
    assert search.estimate(257) == pytest.approx((10.0 + (5 * products + 6.0)) / 2 + 7.0)
    assert search.estimate(256) < search.estimate(257) - 2.4
    assert search.bound(128) == 3.0  # half of a strip


# By hand


@pytest.fixture
def rates():
    return Rates(TRN1, 2, constants_of(TRN1))


def test_rates_by_hand(rates):
    c = rates.constants
    assert rates.matmul(512) == pytest.approx((512 + c.matmul_overhead) / 2.8e9)
    assert rates.matmul(1) == pytest.approx((64 + c.matmul_overhead) / 2.8e9)
    assert rates.matmul(1, 20) == pytest.approx((20 + c.matmul_overhead) / 2.8e9)
    assert rates.transpose(1) == pytest.approx((64 + c.matmul_overhead) / 2.8e9)
    assert rates.transpose(100) == pytest.approx((100 + c.matmul_overhead) / 2.8e9)
    assert rates.scalar(512) == pytest.approx((512 + c.overhead) / 1.4e9)
    assert rates.vector(1) == pytest.approx((64 + c.overhead) / 1.12e9)
    float32 = rates_of(TRN1, 4)
    assert float32.matmul(512) == pytest.approx((4 * 512 + c.matmul_overhead) / 2.8e9)
    assert float32.transpose(128) == rates.transpose(128)


def test_a_transfer_is_judged_by_both_curves(rates):
    size, c = 2**20, rates.constants
    assert rates.dma(size, 4096, 4096) == pytest.approx(size / c.saturated)
    assert rates.dma(size, PER_DESCRIPTOR, 4096) == pytest.approx(size / c.saturated)
    # Each run costs what one of PER_DESCRIPTOR bytes does.
    assert rates.dma(size, 1024, 4096) == pytest.approx(size * (0.9 + 0.1 * PER_DESCRIPTOR / 1024) / c.saturated)
    assert rates.dma(size, 4096, 1024) == pytest.approx(size * (0.9 / c.short + 0.1 / c.saturated))
    short = 0.9 / c.short + 0.1 * PER_DESCRIPTOR / 1024 / c.saturated
    assert rates.dma(size, 1024, 1024) == pytest.approx(size * short)
    severe = 0.9 / c.short * SEVERE / 64 + 0.1 * PER_DESCRIPTOR / 64 / c.saturated
    assert rates.dma(size, 64, 1024) == pytest.approx(size * severe)
    assert rates.dma(size, 1024, 4096) > rates.dma(size, 2048, 4096) > rates.dma(size, 4096, 4096)


def test_a_strip_that_enters_by_hand(rates):
    plain = entering(rates, 300, 1024, 512, transposed=False)
    assert plain[TENSOR] == pytest.approx(8 * (2 * rates.transpose(128) + rates.transpose(44)))
    assert plain[VECTOR] == pytest.approx(2 * (2 * rates.vector(4 * 128) + rates.vector(4 * 44)))
    assert plain[DMA] == pytest.approx(2 * rates.dma(300 * 512 * 2, 1024, 1024))
    across = entering(rates, 300, 1024, 512, transposed=True)
    assert dict(across) == {DMA: rates.dma(300 * 1024 * 2, 600, 8 * 600)}


def test_products_by_hand(rates):
    parts = ((256, 130), (300,))  # 2 + 2 and 3 tiles
    columns = multiplying(rates, "columns", parts, 600, 300, Blocks(300, 386))
    by_rows = sum(2 * rates.matmul(m) + rates.matmul(m, 44) for m in (512, 88))
    assert columns == pytest.approx(7 * by_rows)
    rows = multiplying(rates, "rows", ((256,),), 600, 700, Blocks(256, 256))
    assert rows == pytest.approx(2 * 5 * (2 * rates.matmul(256) + rates.matmul(188)))


def test_what_leaves_psum_by_hand(rates):
    rows = emptying(rates, "rows", 1, 300, 700, Blocks(600, 256))
    assert dict(rows) == {SCALAR: pytest.approx(3 * (rates.scalar(512) + rates.scalar(88) + rates.scalar(100)))}
    # Three tiles and two, in groups of two; a gated stage multiplies as often as it activates.
    copied = emptying(rates, "columns", 1, 100, 600, Blocks(384, 256, 2))
    gated = emptying(rates, "columns", 2, 100, 600, Blocks(384, 256, 2))
    groups = (2, 1, 2)
    assert dict(copied) == {SCALAR: pytest.approx(sum(rates.scalar(g * 100) for g in groups))}
    assert gated[SCALAR] == copied[SCALAR]
    assert gated[VECTOR] == pytest.approx(sum(rates.vector(g * 100) for g in groups))
    several = emptying(rates, "columns", 2, 100, 600, Blocks(256, 256, 2))  # blocks of two, two and one tiles
    assert several[VECTOR] == pytest.approx(2 * rates.vector(200) + rates.vector(100))
    assert several[SCALAR] == pytest.approx(2 * rates.scalar(200) + rates.scalar(100))
    partial = emptying(rates, "columns", 1, 100, 600, Blocks(384, 256, 1, partial=True))
    assert dict(partial) == {SCALAR: rates.scalar(5 * 100)}


def test_weights_that_are_streamed_by_hand(rates):
    size = 1024 * 512 * 2
    assert streaming(rates, ((1024,),), 512, Blocks(512, 256), 1) == pytest.approx(rates.dma(size, 1024, 2048))
    assert streaming(rates, ((1024,),), 512, Blocks(512, 256), 4) == pytest.approx(rates.dma(size, 4096, 2048))
    # Rows are joined where a transfer has all columns only.
    assert streaming(rates, ((1024,),), 512, Blocks(256, 1024), 4) == pytest.approx(rates.dma(size, 512, 4096))


def test_x_in_parts_by_hand(rates):
    """Four parts: each enters, and each is multiplied; their sums are added in SBUF."""
    search = Search(rates, 256)
    search.enter(4096, {"u": 384}, False, 1024, keep=False)
    assert search.fits
    part, blocks = entering(rates, 256, 1024, search.chunk, False), search.stages["u"]
    total = sum(search.phases, Counter())
    products = multiplying(rates, "columns", ((1024,),), 256, 384, blocks)
    assert total[TENSOR] == pytest.approx(4 * (part[TENSOR] + products))
    assert total[DMA] == pytest.approx(4 * (part[DMA] + streaming(rates, ((1024,),), 384, blocks, 1)))
    assert total[VECTOR] == pytest.approx(4 * part[VECTOR] + (4 + 1.5) * 3 * 256 / 1.12e9)
