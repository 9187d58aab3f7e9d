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
"""Timelines of the kernels: what must hold of each."""

from dataclasses import replace
from itertools import groupby

import pytest

from optimum_neuronmm import kernels
from optimum_neuronmm.kernels import get_machine, simulate
from optimum_neuronmm.kernels.engines import DMA
from optimum_neuronmm.kernels.latency.constants import constants_of
from optimum_neuronmm.kernels.latency.dma import CURVES
from optimum_neuronmm.kernels.latency.instructions import Costs
from optimum_neuronmm.kernels.latency.timeline import schedule


pytestmark = pytest.mark.simulation


CASES = (
    ("matmul_tiled", 300, 256, 0, 1100),
    ("matmul_tiled", 2048, 2048, 0, 4096),
    ("matmul_blocked", 4096, 2048, 0, 4096),
    ("matmul_blocked", 700, 600, 0, 1500),
    ("matmul", 2048, 2048, 0, 4096),
    ("matmul", 17, 896, 0, 4864),
    ("gated_matmul", 2048, 384, 256, 4096),
    ("low_rank_sequential", 4096, 1024, 512, 4096),
    ("low_rank_naive", 2048, 1024, 512, 4096),
    ("low_rank_fused", 4096, 2048, 512, 8192),
    ("low_rank_fused", 300, 700, 257, 1500),
    ("low_rank_fused", 1, 2048, 640, 8192),
    ("mlp_up", 4096, 896, 256, 4864),
    ("mlp", 4096, 896, 256, 4864),
    ("mlp", 1100, 576, 0, 1536),
    ("mlp", 1, 896, 130, 4864),
    ("mlp_decode", 1, 2048, 640, 8192),
    ("mlp_decode", 16, 576, 192, 1536),
    ("mlp_decode", 128, 2048, 0, 8192),
    ("mlp_two_kernels", 2048, 896, 256, 4864),
)


@pytest.fixture(scope="module")
def simulated(kernel_specs):
    """simulated(case, ...): a dry run, made once."""
    made = {}

    def of(case: tuple, **how):
        key = (case, *sorted(how.items()))
        if key not in made:
            tensors = kernel_specs(*case, dtype=how.pop("dtype", "bfloat16"))
            made[key] = simulate(getattr(kernels, case[0]), **tensors, dry=True, **how)
        return made[key]

    return of


def costs_of(machine, curve: str = "calibrated") -> Costs:
    return Costs(machine, constants_of(machine), CURVES[curve])


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_loops_of_kernels_are_what_they_are_when_run_to_their_end(simulated, case):
    run = simulated(case)
    rest, whole = (schedule(run.trace, costs_of(run.machine), whole=whole).seconds for whole in (False, True))
    assert rest == pytest.approx(whole, rel=0.005)


@pytest.mark.parametrize("how", [{}, {"target": "trn2"}, {"dtype": "float32"}, {"cores": 2}], ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_no_timeline_beats_the_busiest_engine(simulated, case, how):
    if case[0] == "mlp_decode" and "cores" in how or case[0] == "mlp" and how.get("cores", 1) > case[1]:
        how = {"target": "trn3"}  # they run on one core
    run = simulated(case, **how)
    for curve in CURVES:
        costs = costs_of(run.machine, curve)
        busiest = max(costs.busy(run.trace).values())
        took = schedule(run.trace, costs).seconds
        assert took >= busiest * (1 - 1e-9)
        if not how and curve == "calibrated":  # nor does everything wait for everything
            assert took <= 1.0001 * sum(costs.busy(run.trace).values()) + 100 * run.machine.dma_start


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_events_of_an_engine_do_not_overlap_and_add_up(simulated, case):
    run = simulated(case)
    costs = costs_of(run.machine)
    made = schedule(run.trace, costs, record=True)
    assert made.seconds == pytest.approx(schedule(run.trace, costs).seconds, rel=0.005)
    events = sorted(made.events, key=lambda event: event[0])
    busy, moving = costs.busy(run.trace), 0.0
    for engine, group in groupby(events, key=lambda event: event[0]):
        group = list(group)
        starts = [start for _, _, start, _ in group]
        assert starts == sorted(starts) and starts[0] >= 0
        assert max(start + took for _, _, start, took in group) <= made.seconds * (1 + 1e-12)
        total = sum(took for *_, took in group)
        if engine.startswith(DMA):  # of few descriptors, some may be under way at once
            moving += total
            continue
        for (_, _, start, took), after in zip(group, starts[1:], strict=False):
            assert start + took <= after * (1 + 1e-12)
        assert total == pytest.approx(busy[engine])
    assert moving >= busy[DMA] * (1 - 1e-9)


@pytest.mark.parametrize("case", CASES[::3], ids=lambda case: "-".join(map(str, case)))
def test_a_slower_machine_is_never_faster(simulated, case):
    run = simulated(case)
    machine, constants = run.machine, constants_of(run.machine)
    base = schedule(run.trace, Costs(machine, constants, CURVES["calibrated"])).seconds
    slower = (
        (replace(machine, dma_start=2 * machine.dma_start), constants),
        (replace(machine, scalar_clock=machine.scalar_clock / 2), constants),
        (replace(machine, tensor_clock=machine.tensor_clock / 2), constants),
        (machine, replace(constants, saturated=constants.saturated / 2, short=constants.short / 2)),
        (machine, replace(constants, matmul_overhead=200.0)),
    )
    for other, how in slower:
        assert schedule(run.trace, Costs(other, how, CURVES["calibrated"])).seconds >= 0.999 * base
    less = replace(get_machine("trn1"), name="trn1", spill_fraction=0.9 * run.sbuf_peak / machine.sbuf)
    assert schedule(run.trace, Costs(less, constants, CURVES["calibrated"])).seconds >= 0.999 * base
