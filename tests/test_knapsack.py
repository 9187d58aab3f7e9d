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
"""The knapsack against enumeration and against a plain dynamic programme, and its rules for ties and errors."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_neuronmm import knapsack
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.knapsack import TOLERANCE, solve


repeatable = settings(derandomize=True, deadline=None, max_examples=300)
FRACTIONS = st.floats(0, 1)


def instances(numbers, items=5, options=5):
    """Lists of items, each a list of (cost, loss)."""
    return st.lists(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=options), min_size=1, max_size=items)


def arrays(instance):
    return (
        [np.array(values) for values in part]
        for part in zip(*(zip(*item, strict=True) for item in instance), strict=True)
    )


def between(instance, fraction: float) -> float:
    """A budget between the cheapest and the dearest choice."""
    least, most = (sum(extreme(cost for cost, _ in item) for item in instance) for extreme in (min, max))
    return least + fraction * (most - least)


def enumerated(instance, budget: float) -> tuple[float, float, tuple[int, ...]]:
    """Loss, cost and options of the best choice, by looking at all of them."""
    found = []
    for choice in product(*(range(len(item)) for item in instance)):
        cost, loss = totals(instance, choice)
        if cost <= budget * (1 + TOLERANCE):
            found.append((loss, cost, choice))
    return min(found)


def totals(instance, choice) -> tuple[float, float]:
    cost, loss = zip(*(item[option] for item, option in zip(instance, choice, strict=True)), strict=True)
    return sum(cost), sum(loss)


@repeatable
@given(instances(st.integers(0, 9)), FRACTIONS)
def test_integers_against_enumeration(instance, fraction):
    budget = int(between(instance, fraction))
    # Few numbers, so that ties are common: the whole rule is checked.
    assert tuple(solve(*arrays(instance), budget)) == enumerated(instance, budget)[2]


@repeatable
@given(instances(st.integers(0, 10**11)), FRACTIONS)
def test_large_integers_are_exact(instance, fraction):
    budget = int(between(instance, fraction))
    choice = solve(*arrays(instance), budget)
    cost, loss = totals(instance, choice)
    assert cost <= budget + TOLERANCE * budget and loss == enumerated(instance, budget)[0]


@repeatable
@given(instances(st.one_of(st.just(0.0), st.floats(1e-9, 1e9))), FRACTIONS)
def test_floats_against_enumeration(instance, fraction):
    budget = between(instance, fraction)
    cost, loss = totals(instance, solve(*arrays(instance), budget))
    best = enumerated(instance, budget)[0]
    assert cost <= budget * (1 + 2 * TOLERANCE)
    # A choice that exceeds the budget by a rounding error may be better than what enumeration accepts.
    assert loss <= best * (1 + 1e-12)


@repeatable
@given(instances(st.integers(0, 5), items=7, options=3), FRACTIONS, st.integers(4, 40))
def test_narrow_searches_come_to_the_same(instance, fraction, width):
    # The width of a search decides what it costs. Here the first ones are far too narrow and only the last is not.
    budget = int(between(instance, fraction))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knapsack, "WIDTHS", (1, width, 1 << 20))
        assert tuple(solve(*arrays(instance), budget)) == enumerated(instance, budget)[2]


def decaying(rng, options: int, slowest: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Ranks 1, 2, ... and DENSE of a projection: tail sums of a decaying spectrum, and 0 for a little more than the rest."""
    spectrum = rng.exponential() * np.exp(-rng.uniform(slowest, 1) * np.arange(3 * options))
    tails = np.cumsum(spectrum[::-1])[::-1][1:options]
    return np.append(np.arange(1, options) * 9, 9 * options - 2), np.append(tails, 0)


def on_a_grid(costs, losses, budget: int) -> float:
    """The least loss, by the textbook programme over every whole budget."""
    least = np.zeros(budget + 1)
    for cost, loss in zip(costs, losses, strict=True):
        after = np.full(budget + 1, np.inf)
        for c, value in zip(cost, loss, strict=True):
            if c <= budget:
                after[c:] = np.minimum(after[c:], least[: budget + 1 - c] + value)
        least = after
    return least[budget]


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("removed", [0.05, 0.3, 0.6])
def test_against_a_plain_dynamic_programme(removed, alike):
    rng = np.random.default_rng(7)
    kinds = [decaying(rng, 20) for _ in range(2 if alike else 40)]
    costs, losses = zip(*(kinds[i % len(kinds)] for i in range(40)), strict=True)
    budget = int((1 - removed) * sum(cost[-1] for cost in costs))
    choice = solve(costs, losses, budget)
    assert sum(cost[i] for cost, i in zip(costs, choice, strict=True)) <= budget
    loss = sum(loss[i] for loss, i in zip(losses, choice, strict=True))
    assert loss == pytest.approx(on_a_grid(costs, losses, budget), rel=1e-12)


@pytest.mark.parametrize("grid", [False, True])
def test_a_model_of_a_realistic_size_needs_no_wide_search(grid, monkeypatch, caplog):
    # What makes it fast: good bounds and a good choice to begin with. 1 000 partial choices per item are few.
    monkeypatch.setattr(knapsack, "WIDTHS", (1 << 12,))
    rng = np.random.default_rng(1)
    costs, losses = zip(*(decaying(rng, 50, slowest=0.02) for _ in range(240)), strict=True)
    if not grid:
        costs = [cost * 1.2345 + 0.1 * rng.random() for cost in costs]
    for removed in (0.1, 0.3):
        solve(costs, losses, (1 - removed) * sum(cost[-1] for cost in costs))
    assert not caplog.records


def test_the_order_of_items_and_options_does_not_matter():
    rng = np.random.default_rng(3)
    items = [decaying(rng, 12) for _ in range(30)]
    items = [(cost + rng.random(cost.shape), loss) for cost, loss in items]
    budget = 0.7 * sum(cost[-1] for cost, _ in items)
    expected = solve(*zip(*items, strict=True), budget)
    for _ in range(3):
        places, orders = rng.permutation(len(items)), [rng.permutation(12) for _ in items]
        costs = [items[i][0][orders[i]] for i in places]
        losses = [items[i][1][orders[i]] for i in places]
        choice = solve(costs, losses, budget)
        assert [orders[i][option] for i, option in zip(places, choice, strict=True)] == [expected[i] for i in places]


def test_the_dense_option_is_weighed_against_ranks():
    # Two ranks, and dense for hardly more than the larger one, which is therefore above the convex hull.
    costs, losses = [np.array([5, 8, 9])] * 3, [np.array([2, 1, 0])] * 3
    assert solve(costs, losses, 27) == [2, 2, 2]
    assert solve(costs, losses, 26) == [1, 2, 2]
    assert solve(costs, losses, 23) == [0, 2, 2]
    assert solve(costs, losses, 22) == [0, 1, 2]  # of three orders of the same loss and cost
    assert solve(costs, losses, 15) == [0, 0, 0]


def test_ties_go_to_less_cost_and_then_to_the_earlier_option():
    assert solve([[3, 2, 2]], [[1, 1, 1]], 9) == [1]
    assert solve([[1, 2], [1, 2], [1, 2]], [[1, 0], [1, 0], [1, 0]], 4) == [0, 0, 1]
    assert solve([[2, 1], [2, 1]], [[0, 1], [0, 1]], 3) == [0, 1]
    assert solve([[5, 4, 3]] * 4, [[0, 0, 0]] * 4, 20) == [2] * 4


def test_sums_of_floats_that_round_up_are_within_the_budget():
    assert 0.1 + 0.2 > 0.3
    assert solve([[0, 0.1], [0, 0.2]], [[1, 0], [1, 0]], 0.3) == [1, 1]
    assert solve([[0, 0.1], [0, 0.2]], [[1, 0], [1, 0]], 0.3 * (1 - 1e-9)) == [1, 0]


def test_the_tolerance_of_the_budget():
    assert solve([[0, 1 + 0.9e-12]], [[1, 0]], 1) == [1]
    assert solve([[0, 1 + 1.1e-12]], [[1, 0]], 1) == [0]
    assert solve([[0.5, 0.5 + 0.9e-12]] * 2, [[1, 0]] * 2, 1) == [0, 1]
    assert solve([[1 + 0.9e-12]], [[1]], 1) == [0]
    # Thousands of items that exhaust the budget: the rounding of each to units must not cost one its option.
    assert solve([[0, 1 / 3]] * 3000, [[1, 0]] * 3000, 1000) == [1] * 3000


def test_losses_far_apart():
    # The first option of every item is out of the question, and must not blur the others.
    losses = [[1e30, 3e-6, 1e-6, 0]] * 3
    assert solve([[0, 1, 2, 4]] * 3, losses, 6) == [2, 2, 2]
    assert solve([[0, 1, 2, 4]] * 3, losses, 5) == [1, 2, 2]


@pytest.mark.parametrize("budget", [10, 1e9, np.inf])
def test_one_item(budget):
    assert solve([[1, 10, 4]], [[9, 0, 3]], budget) == [1]
    assert solve([[7]], [[5]], budget) == [0]


def test_nothing_costs_anything():
    assert solve([[0, 0], [0, 0]], [[1, 0], [0, 1]], 0) == [1, 0]
    assert solve([[0, 1e-300]], [[1, 0]], 0) == [0]


def test_many_equal_items_with_equal_losses():
    count = 300  # more than 256, so that units are coarser
    choice = solve([np.arange(8)] * count, [np.arange(8)[::-1]] * count, 1000)
    assert sum(choice) == 1000
    assert choice == sorted(choice)  # the earlier option for the earlier item
    # The units must leave room for the sum of all items, however little of it the budget allows.
    assert solve([[0, 15]] * 8000, [[1, 0]] * 8000, 15) == [0] * 7999 + [1]


def test_a_search_that_is_cut_short_says_what_it_may_have_missed(monkeypatch, caplog):
    monkeypatch.setattr(knapsack, "WIDTHS", (4,))
    rng = np.random.default_rng(0)
    missed = []
    for _ in range(40):
        costs, losses = rng.integers(0, 30, (12, 5)), rng.integers(0, 1000, (12, 5))
        budget = int(costs.min(1).sum() + rng.uniform(0.1, 0.5) * np.ptp(costs, 1).sum())
        caplog.clear()
        choice = solve(costs, losses, budget)
        assert sum(cost[i] for cost, i in zip(costs, choice, strict=True)) <= budget
        loss, best = sum(loss[i] for loss, i in zip(losses, choice, strict=True)), on_a_grid(costs, losses, budget)
        share = float(caplog.text.split("by up to ")[1].split()[0]) if caplog.records else 0
        assert loss * (1 - 1.05 * share) <= best <= loss  # the text has two digits
        missed.append(best < loss)
    assert 0 < sum(missed) < 6  # most are found all the same


def test_a_search_that_is_cut_short_is_still_close(monkeypatch, caplog):
    monkeypatch.setattr(knapsack, "WIDTHS", (64,))
    rng = np.random.default_rng(0)
    costs = [np.append(0, rng.random(3)) for _ in range(60)]
    losses = [1 - cost for cost in costs]  # proportional to costs: no bound tells partial choices apart
    choice = solve(costs, losses, 20)
    assert "cut short" in caplog.text
    assert 19.99 < sum(cost[i] for cost, i in zip(costs, choice, strict=True)) <= 20


def test_what_another_option_replaces_is_dropped():
    cost, loss = np.array([3, 1, 1, 2, 1, 3, 5]), np.array([0, 5, 4, 4, 4, 0, 1])
    assert knapsack._undominated(cost, loss).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("costs", "losses", "budget", "message"),
    [
        ([], [], 1, "one or more items"),
        ([[1]], [[1], [2]], 1, "got 1 and 2"),
        ([[1], []], [[1], []], 1, "Item 1 must have"),
        ([[1, 2]], [[1]], 1, "Item 0 must have"),
        ([[[1]]], [[[1]]], 1, "Item 0 must have"),
        ([[1, np.nan]], [[1, 2]], 1, "cost must be finite and not negative, got nan for item 0"),
        ([[1, 2]], [[1, np.inf]], 1, "loss must be finite and not negative, got inf for item 0"),
        ([[1], [-1]], [[1], [1]], 1, "cost must be finite and not negative, got -1.0 for item 1"),
        ([[1]], [[-2]], 1, "loss must be finite and not negative, got -2.0 for item 0"),
        ([[1]], [[1]], np.nan, "budget must not be negative, got nan"),
        ([[1]], [[1]], -1, "budget must not be negative, got -1"),
        ([[3, 4], [5, 1200]], [[1, 0], [1, 0]], 7, "budget of 7 is out of reach: .* costs 8 in all"),
    ],
)
def test_errors(costs, losses, budget, message):
    with pytest.raises(NeuronMMError, match=message):
        solve(costs, losses, budget)
