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
"""One option for each of many items, at the least total loss that a budget allows: the multiple-choice knapsack problem."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import frexp, fsum

import numpy as np

from .errors import NeuronMMError


logger = logging.getLogger(__name__)

TOLERANCE = 1e-12  # by which the budget may be exceeded, as a fraction of it: sums of floats are not exact
# Partial choices that are looked at for each item, in successive searches: each gives the next a better loss to beat.
WIDTHS = (1 << 12, 1 << 16, 1 << 20)


def solve(costs: Sequence[np.ndarray], losses: Sequence[np.ndarray], budget: float) -> list[int]:
    """Chooses one option per item so that the sum of the losses is least and the sum of the costs within the budget.

    Neither costs nor losses need be convex, sorted or on a grid. Of choices with the same loss, one that costs less is
    taken, and of those with the same cost too, the one with the earlier option for the first item in which they differ.

    Method: dynamic programming over the items. After some of the items a partial choice is given up only where
    - another one of the same items costs no more and loses no more (of equal ones, the one with the later options):
      whatever completes the one completes the other, or
    - it cannot lead to the least loss that is known to be reachable. Its loss plus that of the linear relaxation of the
      remaining items is a lower bound for all its completions. The relaxation is solved by taking the steps of the items'
      lower convex hulls, those that save most loss per cost first, until the budget is spent (Sinha and Zoltners, The
      Multiple-Choice Knapsack Problem, Operations Research 27, 1979). Without the step that does not fit whole, they
      complete the choice to one that is reachable.
    Neither gives up the best choice, so the one that is left after the last item is optimal. Costs and losses are counted
    in whole units, of at most 2^-51 of the budget and of a reachable loss (2^-46 for 10 000 items), so that sums are exact
    and equal ones are seen to be equal; what is not a multiple of the unit is rounded up.

    Work: at most 2^20 partial choices are looked at for each item, 10 to 20 s for 240 items at the worst and up to 4 MB for
    each. Costs that are multiples of g never need more than options * budget / g. Where 2^20 are not enough, which takes
    many items whose losses are nearly proportional to costs without a common divisor, the least promising ones are given
    up, and a warning says by how much the loss may exceed the optimum.

    Args:
        costs: of each item, the costs of its options, in the unit of the budget; finite and not negative.
        losses: of each item, the losses of the same options; finite and not negative.
        budget: not negative. TOLERANCE of it may be exceeded.

    Returns:
        The number of the chosen option of each item.

    Raises:
        NeuronMMError: no choice is within the budget, or the arguments are not as above.
    """
    costs, losses = _checked(costs, losses, budget)
    items, capacity = _in_units(costs, losses, budget)
    best = _reachable(items, capacity)
    for width in WIDTHS:
        items = _reduced(items, capacity, best)
        best, given_up = _search(items, capacity, best, width)
        if given_up is None:
            return best.options
    logger.warning(
        "The search for the best choice was cut short. The loss of the choice may exceed the least by up to "
        f"{1 - given_up / best.loss:.1e} of it. Costs that are multiples of a coarser unit are searched to the end."
    )
    return best.options


@dataclass(frozen=True)
class _Item:
    """Options of one item that no other of its options replaces: by rising cost and falling loss, in units.

    `option` has their numbers in the arguments, `hull` the positions on the lower convex hull of loss over cost.
    """

    option: np.ndarray
    cost: np.ndarray
    loss: np.ndarray
    hull: list[int]

    @classmethod
    def of(cls, option: np.ndarray, cost: np.ndarray, loss: np.ndarray) -> "_Item":
        kept = _undominated(cost, loss)
        option, cost, loss = option[kept], cost[kept], loss[kept]
        hull: list[int] = []
        x, y = cost.tolist(), loss.tolist()  # Python's integers: the products exceed 64 bits
        for c in range(len(x)):
            while len(hull) > 1:
                a, b = hull[-2:]
                if (y[b] - y[a]) * (x[c] - x[b]) < (y[c] - y[b]) * (x[b] - x[a]):
                    break
                hull.pop()
            hull.append(c)
        return cls(option, cost, loss, hull)


@dataclass(frozen=True)
class _Choice:
    """An option for each item, by its number in the arguments, and the sum of their losses in units."""

    loss: int
    options: list[int]


class _Steps:
    """The steps along the hulls of all items, those that save most loss per cost first."""

    def __init__(self, items: list[_Item]):
        self.first_cost = np.array([item.cost[0] for item in items])
        self.first_loss = np.array([item.loss[0] for item in items])
        owner = np.repeat(np.arange(len(items)), [len(item.hull) - 1 for item in items])
        cost = np.concatenate([np.diff(item.cost[item.hull]) for item in items])
        loss = np.concatenate([np.diff(item.loss[item.hull]) for item in items])
        slope = loss / cost
        order = np.argsort(slope, kind="stable")  # keeps an item's own steps in order: its slopes rise
        self.owner, self.cost, self.loss, self.slope = owner[order], cost[order], loss[order], slope[order]

    def relax(self, wanted: np.ndarray) -> "_Relaxation":
        """The relaxation for the items that are marked in a mask."""
        taken = wanted[self.owner]
        return _Relaxation(
            owner=self.owner[taken],
            cost=np.cumsum(np.append(self.first_cost[wanted].sum(), self.cost[taken])),
            loss=np.cumsum(np.append(self.first_loss[wanted].sum(), self.loss[taken])),
            slope=np.append(self.slope[taken], 0.0),
        )


@dataclass(frozen=True)
class _Relaxation:
    """The least loss of some items as a function of what they may cost, where fractions of steps can be taken.

    It is piecewise linear: at `cost[j]` it is `loss[j]`, a choice of whole options, and falls by `slope[j]` from there.
    `owner[j]` is the item that takes step j.
    """

    owner: np.ndarray
    cost: np.ndarray
    loss: np.ndarray
    slope: np.ndarray

    def bounds(self, room: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For items that may cost `room`: a lower bound of their loss, a loss that is reachable, and by how many steps.

        The number of steps is -1 where not even the cheapest options fit.
        """
        steps = np.searchsorted(self.cost, room, side="right") - 1
        reachable = self.loss[steps]
        fraction = self.slope[steps] * (room - self.cost[steps]) * (1 + 2.0**-50)  # not above the exact one
        return reachable + np.floor(fraction).astype(np.int64), reachable, steps

    def options(self, items: list[_Item], steps: int) -> list[int]:
        """The options of `items` after some of the steps."""
        taken = np.bincount(self.owner[:steps], minlength=len(items))
        return [int(item.option[item.hull[count]]) for item, count in zip(items, taken, strict=True)]


def _reachable(items: list[_Item], capacity: int) -> _Choice:
    """The choice within the capacity that takes as many of the steps as fit."""
    everything = _Steps(items).relax(np.ones(len(items), bool))
    _, (loss,), (steps,) = everything.bounds(np.array([capacity]))
    return _Choice(int(loss), everything.options(items, steps))


def _undominated(cost: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Positions of the pairs that no other one matches in cost and loss, by rising cost; the first of equal ones."""
    order = np.argsort(cost, kind="stable")
    cost, loss = cost[order], loss[order]
    lower = np.ones(len(loss), bool)
    lower[1:] = loss[1:] < np.minimum.accumulate(loss)[:-1]
    order, cost = order[lower], cost[lower]
    return order[np.append(cost[1:] > cost[:-1], True)]  # of one cost the last, whose loss is least


def _reduced(items: list[_Item], capacity: int, best: _Choice) -> list[_Item]:
    """The items without the options that no choice as good as `best` has."""
    steps, places = _Steps(items), np.arange(len(items))
    reduced = []
    for i, item in enumerate(items):
        bound, _, fits = steps.relax(places != i).bounds(capacity - item.cost)
        kept = (fits >= 0) & (item.loss + bound <= best.loss)
        reduced.append(_Item.of(item.option[kept], item.cost[kept], item.loss[kept]))
    return reduced


def _search(items: list[_Item], capacity: int, best: _Choice, width: int) -> tuple[_Choice, int | None]:
    """Dynamic programming from the last item to the first, looking at up to `width` partial choices for each.

    Returns:
        The best choice that was found, and the least bound of those that were given up for the width; None where that
        leaves no doubt that the choice is the best.
    """
    steps, places = _Steps(items), np.arange(len(items))
    cost = loss = bound = np.zeros(1, np.int64)
    # For each item from the last: the positions of the options, and the places in the entry before that they extend.
    trail: list[tuple[np.ndarray, np.ndarray]] = []
    given_up: list[int] = []
    for i in reversed(range(len(items))):
        item = items[i]
        most = max(1, width // len(item.cost))
        if len(cost) > most:
            promising = np.argsort(bound, kind="stable")
            given_up.append(int(bound[promising[most]]))
            kept = promising[:most]
            cost, loss = cost[kept], loss[kept]
            trail[-1] = tuple(part[kept] for part in trail[-1])
        rest = steps.relax(places < i)
        position = np.argsort(item.option)  # of equal choices, the one of the earlier option comes first and is kept
        new_cost = (item.cost[position, None] + cost).ravel()
        new_loss = (item.loss[position, None] + loss).ravel()
        bound, reachable, fits = rest.bounds(capacity - new_cost)
        bound += new_loss
        reachable = np.where(fits >= 0, new_loss + reachable, best.loss)
        least = int(np.argmin(reachable))
        if reachable[least] < best.loss:
            option, parent = divmod(least, len(cost))
            tail = [int(item.option[position[option]]), *_options(items[i + 1 :], trail, parent)]
            best = _Choice(int(reachable[least]), rest.options(items[:i], fits[least]) + tail)
        kept = np.flatnonzero((fits >= 0) & (bound <= best.loss))
        if not kept.size:  # what could still lead to the best loss was given up for the width
            return best, min(given_up)
        kept = kept[_undominated(new_cost[kept], new_loss[kept])]
        option, parent = np.divmod(kept, len(cost))
        cost, loss, bound = new_cost[kept], new_loss[kept], bound[kept]
        trail.append((position[option].astype(np.int32), parent.astype(np.int32)))
    if min(given_up, default=best.loss + 1) <= best.loss:
        return best, min(given_up)
    return _Choice(best.loss, _options(items, trail, len(loss) - 1)), None  # the last one loses least


def _options(items: list[_Item], trail: list[tuple[np.ndarray, np.ndarray]], place: int) -> list[int]:
    """The options of `items`, the last ones, that lead to a place in the last entry of the trail."""
    found = []
    for item, (option, parent) in zip(items, reversed(trail), strict=True):
        found.append(int(item.option[option[place]]))
        place = parent[place]
    return found


def _in_units(costs: list[np.ndarray], losses: list[np.ndarray], budget: float) -> tuple[list[_Item], int]:
    """The items in whole units of cost and loss, without what is out of reach, and the budget in units."""
    # Sums over all items fit into 64 bits, and a cost or loss into the 53 of a float.
    bits = min(52, 61 - len(costs).bit_length())
    budget = min(budget, fsum(cost.max() for cost in costs)) * (1 + TOLERANCE)
    options = [np.flatnonzero(cost <= budget) for cost in costs]
    costs = [_units(cost[kept], budget, bits) for cost, kept in zip(costs, options, strict=True)]
    losses = [loss[kept] for loss, kept in zip(losses, options, strict=True)]
    rounding = len(costs) if budget else 0
    capacity = max(int(_units(budget, budget, bits)) + rounding, int(sum(cost.min() for cost in costs)))

    # Twice, because losses that nobody needs to bear may be so large that the others are nothing beside them.
    largest = max(loss.max() for loss in losses)
    for _ in range(2):
        items = []
        for option, cost, loss in zip(options, costs, losses, strict=True):
            kept = loss <= largest
            items.append(_Item.of(option[kept], cost[kept], _units(loss[kept], largest, bits)))
        choice = _reachable(items, capacity)
        taken = [int(np.flatnonzero(option == i)[0]) for option, i in zip(options, choice.options, strict=True)]
        largest = fsum(loss[i] for loss, i in zip(losses, taken, strict=True))
    return items, capacity


def _units(values: np.ndarray | float, largest: float, bits: int) -> np.ndarray:
    """Values up to `largest` as integers of up to so many bits, rounded up; 0 alone is 0."""
    return np.ceil(np.ldexp(values, bits - frexp(largest)[1])).astype(np.int64)


def _checked(costs: Sequence, losses: Sequence, budget: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Costs and losses as arrays of floats.

    Raises:
        NeuronMMError: they are not what `solve` takes, or exceed the budget.
    """
    costs, losses = ([np.asarray(values, np.float64) for values in part] for part in (costs, losses))
    if not costs or len(costs) != len(losses):
        raise NeuronMMError(f"Costs and losses of one or more items are needed, got {len(costs)} and {len(losses)}.")
    for i, (cost, loss) in enumerate(zip(costs, losses, strict=True)):
        if cost.ndim != 1 or not cost.size or cost.shape != loss.shape:
            raise NeuronMMError(
                f"Item {i} must have a cost and a loss for each of one or more options, got arrays of shape {cost.shape} "
                f"and {loss.shape}."
            )
        for name, values in (("cost", cost), ("loss", loss)):
            wrong = values[~(np.isfinite(values) & (values >= 0))]
            if wrong.size:
                raise NeuronMMError(f"Every {name} must be finite and not negative, got {wrong[0]} for item {i}.")
    if not budget >= 0:
        raise NeuronMMError(f"The budget must not be negative, got {budget}.")
    least = fsum(cost.min() for cost in costs)
    if least > budget * (1 + TOLERANCE):
        raise NeuronMMError(
            f"The budget of {budget:,.10g} is out of reach: even the cheapest option of every item costs {least:,.10g} in "
            "all. Allow more, or options that cost less."
        )
    return costs, losses
