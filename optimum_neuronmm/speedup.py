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
"""The ranks of the least predicted loss at which the MLPs are predicted to be so many times as fast as the dense ones."""

import math
from collections.abc import Mapping
from functools import cached_property
from itertools import product

import numpy as np
import torch
from tqdm.auto import tqdm

from .allocation import Allocation, Cost, Projections, allocate_within
from .errors import NeuronMMError
from .knapsack import solve
from .latency_cost import BATCH_SIZE, MLPLatency, Ranks, ranks_of_layers
from .neuron.selection import DENSE_LAYERS
from .ranks import DENSE, parameter_cost, rank_options


# Costs are counted in so many units of the dense model's: on a grid, a knapsack is solved in about a second.
_UNITS = 100_000
# MLPs of all ranks are predicted where there are no more than so many.
_ALL = 64
# How often those around the chosen ones are predicted and the choice is made anew, at the most.
_REFINEMENTS = 4
# The search for a budget ends when the target is met so closely, or after so many rounds.
_RESOLUTION = 0.003
_ROUNDS = 8


class SpeedupSearch:
    """Looks for the ranks of the least predicted loss that keep a budget of predicted seconds.

    The seconds of a model's MLPs are the sum over its layers, so the knapsack of `_best`, whose items are layers and whose
    options are whole MLPs, keeps the target exactly and is solved exactly. There may be too many MLPs to predict all. Those
    worth it are found by knapsacks of single projections (`_explore`), which add up costs of projections, though an MLP's
    seconds are not such a sum: their budget is corrected until the MLPs that they choose come near the target. Then those
    that differ by one step of one rank from the chosen ones are predicted as well, as long as that changes the choice.

    Args:
        projections: that may get factors. The MLPs' others stay dense, and count.
        block_size: ranks are multiples of it.
        target: dense seconds over compressed ones, at least.
        latency: that predicts them.
    """

    def __init__(self, projections: Projections, block_size: int, target: float, latency: MLPLatency):
        self._projections, self._block_size, self._target, self._latency = projections, block_size, target, latency
        self._dense = projections.layers * latency.seconds(Ranks())
        self._limit = self._dense / target
        paths = [projections.path(0, name) for name in projections.attributes]
        self._options = [rank_options(projections.shapes[path], block_size) for path in paths]
        self._parts = [
            projections.family.projections[name] for name in projections.attributes
        ]  # which are gate, up, down
        self._predicts_all = math.prod(map(len, self._options)) <= _ALL

    def check_reachable(self) -> None:
        """Refuses a target that the MLPs do not reach which the costs of projections take for the fastest."""
        if not self._predicts_all:
            for cost in self._costs:
                self.seconds(self._cheapest(cost))
        fastest = _UNITS / self._projections.layers / min(self._known.values())
        if fastest < self._target:
            raise NeuronMMError(
                f"target_speedup {self._target:g} cannot be reached: with the fastest ranks in every layer, the MLPs are "
                f"predicted to be {_rounded_down(fastest)} times as fast as the dense ones. Use a smaller target or "
                "block_size, or more of the projections."
            )

    def allocate(self, losses: Mapping[str, torch.Tensor]) -> Allocation:
        """The ranks, and the projections to leave dense.

        Args:
            losses: as of `allocation.allocate_by_loss`.

        Raises:
            NeuronMMError: the target is out of reach.
        """
        self.check_reachable()
        if not self._predicts_all:
            for cost in self._costs:
                self._explore(losses, cost)
        found = self._best(losses)
        for _ in range(0 if self._predicts_all else _REFINEMENTS):
            for mlp in self._around(found):
                self._latency.seconds(mlp)
            found, before = self._best(losses), found
            if found.ranks == before.ranks:
                break
        return found

    def seconds(self, allocation: Allocation) -> float:
        """Predicted for all MLPs of the model in the request."""
        return sum(map(self._latency.seconds, ranks_of_layers(self._projections, allocation.ranks)))

    def report(self, allocation: Allocation) -> dict:
        """What the report says of the speed. Milliseconds are those of all MLPs, on one logical core."""
        request, ranks = self._latency.request, ranks_of_layers(self._projections, allocation.ranks)
        milliseconds = {"dense": self._milliseconds([Ranks()] * len(ranks)), "compressed": self._milliseconds(ranks)}
        seen = [self._latency.fastest(r, phase) for phase in request.phases for r in dict.fromkeys([Ranks(), *ranks])]
        return {
            "target": self._target,
            "predicted": milliseconds["dense"]["request"] / milliseconds["compressed"]["request"],
            "instance_type": request.instance_type,
            "cores": request.cores,
            "batch_size": BATCH_SIZE,
            "prompt_length": request.prompt_length,
            "output_length": request.output_length,
            "dtype": str(self._latency.dtype).removeprefix("torch."),
            "predicted_milliseconds": milliseconds,
            "notes": list(dict.fromkeys([DENSE_LAYERS, *(note for found in seen for note in found.notes)])),
        }

    def _milliseconds(self, layers: list[Ranks]) -> dict[str, float]:
        phases = self._latency.request.phases
        found = {phase: 1e3 * sum(self._latency.fastest(ranks, phase).seconds for ranks in layers) for phase in phases}
        return found | {"request": sum(times * found[phase] for phase, (_, times) in phases.items())}

    def _best(self, losses: Mapping[str, torch.Tensor]) -> Allocation:
        """Of all choices of known MLPs for the layers, the one of the least predicted loss."""
        known = {mlp: self._ranks(mlp) for mlp in self._known}
        layers = [
            [self._projections.path(layer, name) for name in self._projections.attributes]
            for layer in range(self._projections.layers)
        ]
        sums = [
            np.array([sum(map(_loss, map(losses.get, paths), ranks)) for ranks in known.values()]) for paths in layers
        ]
        costs = np.array(list(self._known.values()), float)
        chosen = solve([costs] * len(sums), sums, _UNITS / self._target)
        options = list(known.values())
        pairs = (zip(paths, options[i], strict=True) for paths, i in zip(layers, chosen, strict=True))
        return Allocation(self._projections, {path: rank for layer in pairs for path, rank in layer})

    def _around(self, allocation: Allocation) -> list[Ranks]:
        """The MLPs of an allocation with one rank replaced by the next larger or smaller option."""
        found = []
        for mlp in dict.fromkeys(ranks_of_layers(self._projections, allocation.ranks)):
            ranks = self._ranks(mlp)
            for i, options in enumerate(self._options):
                at = options.index(ranks[i])
                found += [(*ranks[:i], option, *ranks[i + 1 :]) for option in options[max(at - 1, 0) : at + 2]]
        return [self._mlp(ranks) for ranks in found]

    @property
    def _known(self) -> dict[Ranks, int]:
        """What the MLPs cost that were predicted, and that this model may have: in units, rounded up."""
        mlps = self._latency.known
        if self._predicts_all:
            mlps = [self._mlp(ranks) for ranks in product(*self._options)]
        costs = {mlp: math.ceil(self._latency.seconds(mlp) / self._dense * _UNITS) for mlp in mlps}
        return {mlp: cost for mlp, cost in costs.items() if self._allows(mlp)}

    def _mlp(self, ranks: tuple[int | None, ...]) -> Ranks:
        """The MLP whose attributes have these ranks."""
        return Ranks(**{part: rank for parts, rank in zip(self._parts, ranks, strict=True) for part in parts})

    def _ranks(self, mlp: Ranks) -> tuple[int | None, ...]:
        """The ranks of its attributes."""
        return tuple(getattr(mlp, parts[0]) for parts in self._parts)

    def _allows(self, mlp: Ranks) -> bool:
        ranks = self._ranks(mlp)
        return mlp == self._mlp(ranks) and all(map(list.__contains__, self._options, ranks))

    def _explore(self, losses: Mapping[str, torch.Tensor], cost: Cost) -> None:
        """Predicts the MLPs that a knapsack of projections chooses, with budgets ever closer to the one for the target."""
        shapes = self._projections.shapes
        cheapest, dense = self._cheapest(cost), Allocation(self._projections, dict.fromkeys(shapes, DENSE))
        low, high = (sum(cost(shapes[path], rank) for path, rank in end.ranks.items()) for end in (cheapest, dense))
        least, most = self.seconds(cheapest), self._dense
        aim = self._limit
        for _ in range(_ROUNDS if least < aim else 0):  # regula falsi
            budget = low + (aim - least) / (most - least) * (high - low)  # seconds as linear in it
            seconds = self.seconds(allocate_within(self._projections, losses, self._block_size, cost, budget))
            if abs(seconds - aim) <= _RESOLUTION * aim:
                break
            if seconds > aim:
                high, most = budget, seconds
            else:
                low, least = budget, seconds

    @cached_property
    def _costs(self) -> list[Cost]:
        """What a knapsack of projections can add up: shares of an MLP's seconds, and parameters."""
        shapes = dict.fromkeys(self._projections.shapes.values())
        options = [(shape, rank) for shape in shapes for rank in rank_options(shape, self._block_size)]
        progress = tqdm(options, desc="Predicting latency", unit="rank", leave=False, disable=None)
        tables = [
            {option: cost(*option) for option in of}
            for cost, of in ((self._latency.cost, progress), (parameter_cost, options))
        ]
        return [self._in_units(table) for table in tables]

    def _in_units(self, table: dict) -> Cost:
        """The costs of a table as integers."""
        unit = sum(table[shape, DENSE] for shape in self._projections.shapes.values()) / _UNITS
        whole = {option: math.ceil(cost / unit) for option, cost in table.items()}
        return lambda shape, rank: whole[shape, rank]

    def _cheapest(self, cost: Cost) -> Allocation:
        """The cheapest rank of every projection."""
        shapes = self._projections.shapes
        best = {
            shape: min(rank_options(shape, self._block_size), key=lambda rank: cost(shape, rank))
            for shape in dict.fromkeys(shapes.values())
        }
        return Allocation(self._projections, {path: best[shape] for path, shape in shapes.items()})


def _loss(losses: torch.Tensor | None, rank: int | None) -> float:
    return 0.0 if rank is DENSE else losses[rank].item()


def _rounded_down(value: float) -> str:
    """So that asking for it is not asking too much."""
    return f"{int(1000 * value) / 1000:.3f}"
