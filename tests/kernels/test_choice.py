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
"""The choice of a plan: no other valid one that was found is predicted to be quicker, and it always fits."""

import dataclasses
import random

import pytest

from optimum_neuronmm.kernels import PlanError, get_machine, planners, simulate
from optimum_neuronmm.kernels.latency.constants import constants_of
from optimum_neuronmm.kernels.latency.dma import CALIBRATED, STEP
from optimum_neuronmm.kernels.latency.instructions import Costs
from optimum_neuronmm.kernels.latency.prediction import EQUAL, PRUDENCE, predict
from optimum_neuronmm.kernels.latency.timeline import schedule
from optimum_neuronmm.kernels.latency.work import rates_of
from optimum_neuronmm.kernels.search import Search, Stage, _ranked


pytestmark = pytest.mark.simulation

TRN1 = get_machine("trn1")
TRIED = 40  # other plans of a case

# Kernel; M, K, r, N and further options of a case; how much quicker another plan may be.
CASES = (
    ("low_rank_fused", (256, 512, 256, 1024), {}, 0.01),
    ("low_rank_fused", (1024, 1024, 512, 4096), {}, 0.01),
    ("low_rank_fused", (512, 2048, 1280, 8192), {}, 0.01),
    ("low_rank_fused", (300, 700, 257, 1500), {}, 0.01),
    ("matmul", (1024, 512, 0, 4096), {}, 0.01),
    ("gated_matmul", (512, 384, 256, 2048), {}, 0.01),
    ("mlp_up", (512, 896, 256, 4864), {}, 0.01),
    ("mlp", (640, 896, 1, 4864), {"factored": "ddd"}, 0.01),
    ("mlp", (1, 576, 192, 1536), {}, 0.01),
    # Everything here takes 40 us, and ragged tiles more than the sums say.
    ("mlp", (512, 576, 192, 1536), {}, 0.05),
    ("mlp_decode", (1, 2048, 640, 8192), {}, 0.01),
    ("mlp_decode", (16, 576, 192, 1536), {}, 0.01),
    ("mlp_decode", (4, 896, 1, 4864), {"factored": "ddd"}, 0.01),
)


def fits(choice, stays, machine) -> bool:
    held = stays(choice.blocks) + choice.held.buffered
    return choice.held.banks <= machine.psum_banks and held <= machine.sbuf_budget


@pytest.fixture
def others(bench, monkeypatch):
    """others(kernel, specs): valid plans whose stages are chosen at random."""

    def of(name: str, specs: dict) -> list:
        kernel, rng, found = bench.kernel(name), random.Random(0), {}
        shapes = {key: spec.shape for key, spec in specs.items() if spec is not None}

        def choose(stage, rates, stays, first):
            valid = [choice for choice in _ranked(stage, rates, first) if fits(choice, stays, rates.machine)]
            return (rng.choice(valid), 0) if valid else (None, 1)

        with monkeypatch.context() as patch:
            patch.setattr(Stage, "choose", choose)
            patch.setattr(planners, "FINALISTS", 10**9)
            patch.setattr(planners, "BEYOND", 10**9)
            for _ in range(6):
                found |= {plan.key: plan for plan in kernel.planner(shapes, "bfloat16", TRN1, 1)}
        plans = rng.sample(list(found.values()), min(TRIED, len(found)))
        return [dataclasses.replace(plan, kernel=name, shapes=tuple(shapes.items())) for plan in plans]

    return of


def seconds(bench, name, specs, plan) -> float:
    """What a plan is chosen by."""
    trace = simulate(bench.kernel(name), **specs, plan=plan, dry=True).trace
    by = [schedule(trace, Costs(TRN1, constants_of(TRN1), curve)).seconds for curve in (CALIBRATED, STEP)]
    return (1 - PRUDENCE) * by[0] + PRUDENCE * by[1]


@pytest.mark.parametrize(("name", "sizes", "how", "within"), CASES)
def test_no_other_plan_is_quicker(bench, others, name, sizes, how, within):
    specs = bench.specs(name, *sizes, **how)
    chosen = bench.kernel(name).plan(**specs)
    plans = others(name, specs)
    assert len({plan.key for plan in plans} - {chosen.key}) >= 15
    took = [seconds(bench, name, specs, plan) for plan in plans]
    assert min(took) >= (1 - within) * seconds(bench, name, specs, chosen)
    assert max(took) > 1.05 * min(took)  # that there is a choice


@pytest.mark.parametrize(("name", "sizes", "how", "within"), CASES)
def test_of_what_the_planner_names_the_quickest_is_taken(bench, name, sizes, how, within):
    kernel, specs = bench.kernel(name), bench.specs(name, *sizes, **how)
    shapes = {key: spec.shape for key, spec in specs.items() if spec is not None}
    named = [
        dataclasses.replace(plan, kernel=name, shapes=tuple(shapes.items()))
        for plan in kernel.planner(shapes, "bfloat16", TRN1, 1)
    ]
    assert 1 <= len(named) <= planners.FINALISTS and len({plan.key for plan in named}) == len(named)
    chosen = kernel.plan(**specs)
    assert chosen in named
    times = {plan.key: predict(kernel, **specs, plan=plan).seconds for plan in named}
    assert times[chosen.key] <= (1 + PRUDENCE) * min(times.values())
    best = min(seconds(bench, name, specs, plan) for plan in named)
    assert seconds(bench, name, specs, chosen) <= (1 + EQUAL) * best * (1 + 1e-9)


@pytest.mark.parametrize("memory", [192, 96, 48, 24])
@pytest.mark.parametrize(("name", "sizes", "how", "within"), CASES[1:9:3])
def test_what_is_chosen_never_spills(bench, name, sizes, how, within, memory):
    machine = dataclasses.replace(TRN1, sbuf_partition=memory * 1024)
    specs = bench.specs(name, *sizes, **how)
    try:
        plan = bench.kernel(name).plan(**specs, target=machine)
    except PlanError:
        assert memory <= 48
        return
    found = predict(bench.kernel(name), **specs, target=machine, plan=plan)
    assert not found.spills and found.sbuf_peak <= plan.sbuf_buffered <= 128 * machine.sbuf_budget


def test_equal_calls_have_the_plan_of_the_first(bench):
    kernel = bench.kernel("low_rank_fused")
    first, again = (kernel.plan(**bench.specs("low_rank_fused", 300, 256, 128, 1024)) for _ in range(2))
    assert again is first
    assert kernel.plan(**bench.tensors("low_rank_fused", 300, 256, 128, 1024)) is first  # arrays as well
    for other in (
        kernel.plan(**bench.specs("low_rank_fused", 301, 256, 128, 1024)),
        kernel.plan(**bench.specs("low_rank_fused", 300, 256, 128, 1024, dtype="float32")),
        kernel.plan(**bench.specs("low_rank_fused", 300, 256, 128, 1024), target="trn2"),
        kernel.plan(**bench.specs("low_rank_fused", 300, 256, 128, 1024), cores=2),
        kernel.plan(**bench.specs("low_rank_fused", 300, 256, 128, 1024, x_transposed=True), x_transposed=True),
        kernel.plan(**bench.specs("low_rank_fused", 300, 256, 128, 1024), options={"B_M": 128}),
        bench.kernel("low_rank_naive").plan(**bench.specs("low_rank_naive", 300, 256, 128, 1024)),
    ):
        assert other != first


def test_options_restrict_the_choice(bench):
    kernel, specs = bench.kernel("low_rank_fused"), bench.specs("low_rank_fused", 1024, 512, 256, 4096)
    free = kernel.plan(**specs)
    for rows in (128, 256, 512):
        plan = kernel.plan(**specs, options={"B_M": rows, "B_N": 512})
        assert (plan.B_M, plan.stages["v"].width) == (rows, 512)
        assert seconds(bench, "low_rank_fused", specs, plan) >= 0.99 * seconds(bench, "low_rank_fused", specs, free)
    assert kernel.plan(**specs, options={"B_M": 4096}).B_M == 1024  # no more than there are


@pytest.mark.parametrize("name", ["matmul", "low_rank_fused", "mlp"])
def test_what_is_too_large_by_how_many_bytes(bench, name):
    """With so much more memory as the message says, something fits."""
    specs = bench.specs(name, 128, 4096, 1024, 4096)
    lacking, memory = [], 2048
    for _ in range(12):
        machine = dataclasses.replace(TRN1, sbuf_partition=memory, spill_fraction=1.0)
        try:
            plan = bench.kernel(name).plan(**specs, target=machine)
            break
        except PlanError as error:
            words = str(error).split("at best, ")[1].split(" bytes per partition too large")[0].rsplit(" are ", 1)
            assert words[0].startswith(("strips of activations", "the blocks of stage "))
            lacking.append(int(words[1]))
            memory += lacking[-1]
    else:
        raise AssertionError(f"nothing fits after {lacking}")
    assert lacking and all(count > 0 for count in lacking)
    assert plan.sbuf_buffered <= 128 * memory


def test_what_a_search_lacks_is_what_it_was_asked_to_hold():
    search = Search(rates_of(TRN1, 2), 128)
    search.hold(TRN1.sbuf_budget)
    assert search.fits and search.missing is None
    search.hold(TRN1.sbuf_budget + 7)
    assert not search.fits and search.missing == ("strips of activations", 7)
    search.hold(TRN1.sbuf_budget + 99)  # the first that does not fit is named
    assert search.missing == ("strips of activations", 7)


def test_what_a_stage_lacks_at_best():
    stage, rates = Stage("w", "rows", ((8192,),), 4096, 512, 2), rates_of(TRN1, 2)
    valid = [stage.held(b) for b in stage.candidates() if stage.held(b).banks <= TRN1.psum_banks]
    least = min(held.buffered for held in valid)
    for over in (0, 1, 1000):
        choice, missing = stage.choose(rates, lambda b, over=over: TRN1.sbuf_budget - least + over, True)
        assert missing == over and (choice is None) == (over > 0)
    assert choice is None and max(held.buffered for held in valid) > least + 1000
