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
"""Which of several plans is taken."""

import dataclasses
from types import SimpleNamespace

import pytest

from optimum_neuronmm.kernels import get_machine, low_rank_fused
from optimum_neuronmm.kernels.latency import CURVES, choice, predict
from optimum_neuronmm.kernels.latency.choice import EQUAL, quickest
from optimum_neuronmm.kernels.latency.dma import PICTURE


M, K, R, N = 1024, 512, 256, 2048


@pytest.fixture
def plans(kernel_specs):
    """Of one call, by what the engine model and the other curve say of them: (seconds, seconds) -> plan."""
    tensors = kernel_specs("low_rank_fused", M, K, R, N)
    chosen = low_rank_fused.plan(**tensors)
    given = {key: spec for key, spec in tensors.items() if spec is not None}
    found = [low_rank_fused.plan(**tensors, options={"B_M": rows}) for rows in (128, 256, 512, 1024)]

    def seconds(plan):
        return tuple(
            predict(low_rank_fused, **tensors, plan=plan, dma=curve).seconds
            for curve in (CURVES["calibrated"], PICTURE)
        )

    return given, chosen, [(seconds(plan), plan) for plan in found]


def test_of_plans_the_quickest_is_taken_wherever_it_stands(plans):
    given, _, found = plans
    assert len({plan.key for _, plan in found}) == 4
    mixed = {plan.key: 0.9 * first + 0.1 * second for (first, second), plan in found}
    for turn in range(4):
        turned = [plan for _, plan in found[turn:] + found[:turn]]
        best = quickest(low_rank_fused, given, {}, get_machine("trn1"), turned)
        assert mixed[best.key] <= (1 + EQUAL) * min(mixed.values())
    worst = max(found)[1]
    assert quickest(low_rank_fused, given, {}, get_machine("trn1"), [worst]) is worst


def test_of_equal_plans_the_first_is_taken(plans):
    given, chosen, _ = plans
    twin = dataclasses.replace(chosen)
    assert twin is not chosen
    assert quickest(low_rank_fused, given, {}, get_machine("trn1"), [twin, chosen]) is twin
    assert quickest(low_rank_fused, given, {}, get_machine("trn1"), [chosen, twin]) is chosen


@pytest.mark.parametrize(
    ("seconds", "moved", "best"),
    [
        (((1.0, 1.0), (1.05, 0.4)), (1, 2), 1),  # 1.000 and 0.985
        (((1.0, 1.0), (1.05, 1.0)), (2, 1), 0),
        (((1.0, 9.0), (1.2, 1.2)), (2, 1), 0),  # as safe as it is, the second is not about as quick
        (((1.0, 2.0), (1.05, 1.05)), (1, 2), 1),
        (((1.0, 1.3), (1.05, 1.05)), (2, 1), 0),
        (((1.05, 1.05), (1.0, 2.0)), (2, 1), 0),
        (((1.0, 1.0), (1.0 + EQUAL / 2, 1.0)), (2, 1), 1),  # equal, and fewer bytes
        (((1.0, 1.0), (1.0 + EQUAL / 2, 1.0)), (1, 2), 0),
        (((1.0, 1.0), (1.0 + EQUAL / 2, 1.0)), (1, 1), 0),
        (((1.0 + EQUAL / 2, 1.0), (1.0, 1.0)), (1, 1), 1),
        (((1.0, 1.0), (1.0 + 2 * EQUAL, 1.0 + 2 * EQUAL)), (2, 1), 0),
    ],
)
def test_of_plans_that_are_about_as_quick_the_safe_one_is_taken(monkeypatch, plans, seconds, moved, best):
    given, _, found = plans
    two = [plan for _, plan in found[:2]]

    def simulated(kernel, plan=None, **how):
        number = two.index(plan)
        return SimpleNamespace(trace=SimpleNamespace(number=number, hbm_bytes=moved[number]))

    def scheduled(trace, costs):
        return SimpleNamespace(seconds=seconds[trace.number][costs.curve is PICTURE])

    monkeypatch.setattr(choice, "simulate", simulated)
    monkeypatch.setattr(choice, "schedule", scheduled)
    assert quickest(low_rank_fused, given, {}, get_machine("trn1"), two) is two[best]
