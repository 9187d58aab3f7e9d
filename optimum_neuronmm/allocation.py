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
"""Which projections of a model are compressed, and to what rank."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from .configuration import NeuronMMConfig
from .errors import NeuronMMError
from .families import Family
from .knapsack import solve
from .ranks import DENSE, Shape, parameters_per_rank, rank_options, removed_fraction, uniform_rank
from .source import DenseCheckpoint


Cost = Callable[[Shape, int | None], float]


@dataclass(frozen=True)
class Projections:
    """The projections of a model that were chosen to be compressed.

    Attributes:
        family: where they are.
        layers: number of decoder layers.
        attributes: of the MLP.
        shapes: `{module path: Shape}`, layer by layer.
    """

    family: Family
    layers: int
    attributes: list[str]
    shapes: dict[str, Shape]

    def path(self, layer: int, attribute: str) -> str:
        return self.family.projection_path(layer, attribute)

    def path_of(self, name: str) -> str:
        """The module path that a checkpoint entry such as `...down_proj.weight` or `...down_proj.u.weight` belongs to."""
        path = name.rpartition(".")[0]
        return path if path in self.shapes else path.rpartition(".")[0]

    def reducible(self, layer: int, block_size: int) -> list[str]:
        """Attributes of the MLP of `layer` that at least one aligned rank makes smaller."""
        return [name for name in self.attributes if self.shapes[self.path(layer, name)].largest_rank >= block_size]


@dataclass(frozen=True)
class Allocation:
    """A rank, or DENSE, for each of the chosen projections.

    Attributes:
        projections: the chosen ones.
        ranks: `{module path: rank or DENSE}`.
    """

    projections: Projections
    ranks: dict[str, int | None]

    def factored(self, layer: int) -> dict[str, int]:
        """Rank of each projection of `layer` that gets factors, by attribute of the MLP."""
        ranks = {name: self.ranks[self.projections.path(layer, name)] for name in self.projections.attributes}
        return {name: rank for name, rank in ranks.items() if rank is not DENSE}

    @cached_property
    def modules(self) -> dict[str, dict]:
        """`NeuronMMConfig.modules`: the projections that get factors."""
        return {path: {"rank": rank, "storage": "uv"} for path, rank in self.ranks.items() if rank is not DENSE}

    @property
    def parameters_before(self) -> int:
        return sum(shape.dense_parameters for shape in self.projections.shapes.values())

    @property
    def parameters_after(self) -> int:
        return sum(shape.parameters(self.ranks[path]) for path, shape in self.projections.shapes.items())

    @property
    def removed(self) -> float:
        """Achieved compression ratio of the chosen projections."""
        return removed_fraction(self.projections.shapes, self.ranks)


def find_projections(checkpoint: DenseCheckpoint, family: Family, config: NeuronMMConfig) -> Projections:
    """The projections that `config` chooses.

    Raises:
        NeuronMMError: config.json does not fit the weights, or no projection could be made smaller.
    """
    attributes = family.selected(config.projections)
    layers = checkpoint.config.num_hidden_layers
    surplus = f"{family.layer_path(layers)}."
    if layers < 1 or any(name.startswith(surplus) for name in checkpoint.tensors):
        raise NeuronMMError(
            f"config.json of {checkpoint.name} says num_hidden_layers = {layers}, which is not the number of layers that "
            "its weights hold. Fetch the model again, or correct config.json."
        )
    projections = Projections(family, layers, attributes, {})
    for layer in range(layers):
        for attribute in attributes:
            path = projections.path(layer, attribute)
            N, K = checkpoint.info(f"{path}.weight").shape
            projections.shapes[path] = Shape(K, N)
    if not any(projections.reducible(layer, config.block_size) for layer in range(layers)):
        raise _nothing_compressed(projections, config)
    return projections


def allocate_uniform(projections: Projections, config: NeuronMMConfig) -> Allocation:
    """The same rank for equal shapes, by the paper's formula (`ranks.uniform_rank`).

    Raises:
        NeuronMMError: where no projection would be compressed.
    """
    ranks = {
        path: uniform_rank(shape, config.compression_ratio, config.block_size, config.alpha)
        for path, shape in projections.shapes.items()
    }
    allocation = Allocation(projections, ranks)
    if not allocation.modules:
        raise _nothing_compressed(projections, config)
    return allocation


def allocate_by_loss(
    projections: Projections, losses: Mapping[str, torch.Tensor], config: NeuronMMConfig, cost: Cost | None = None
) -> Allocation:
    """The ranks, and the projections to leave dense, of the least predicted loss at the requested ratio: exactly.

    Args:
        losses: `Decomposition.losses` by module path, comparable between projections.
        cost: of a shape at a rank or DENSE; the ratio is the fraction of all dense costs that is saved. None counts
            parameters, those of one rank of `config.allocation_tensor_parallel_size`.

    Raises:
        NeuronMMError: where even the smallest ranks remove less than `config.compression_ratio`.
    """
    cost = cost or parameters_per_rank(config.allocation_tensor_parallel_size)
    budget = (1 - config.compression_ratio) * sum(cost(shape, DENSE) for shape in projections.shapes.values())
    return allocate_within(projections, losses, config.block_size, cost, budget)


def allocate_within(
    projections: Projections, losses: Mapping[str, torch.Tensor], block_size: int, cost: Cost, budget: float
) -> Allocation:
    """The ranks, and the projections to leave dense, of the least predicted loss whose costs add up to the budget at most.

    Args:
        losses: as of `allocate_by_loss`.
        cost: of a shape at a rank or DENSE, in the unit of the budget.

    Raises:
        NeuronMMError: where even the cheapest ranks exceed the budget.
    """
    options, costs = _options(projections, block_size, cost)
    values = [
        np.array([0.0 if rank is DENSE else losses[path][rank].item() for rank in ranks])
        for path, ranks in options.items()
    ]
    chosen = solve(costs, values, budget)
    return Allocation(projections, {path: ranks[i] for (path, ranks), i in zip(options.items(), chosen, strict=True)})


def predicted_loss(allocation: Allocation, losses: Mapping[str, torch.Tensor]) -> float:
    """Sum of the predicted losses of all projections at their ranks."""
    return sum(losses[path][rank].item() for path, rank in allocation.ranks.items() if rank is not DENSE)


def check_reachable(projections: Projections, config: NeuronMMConfig) -> None:
    """Refuses a ratio that even the smallest ranks do not reach."""
    largest = largest_ratio(projections, config)
    if config.compression_ratio > largest + 1e-9:
        raise NeuronMMError(
            f"compression_ratio {config.compression_ratio} cannot be reached: a rank of one block ({config.block_size}) in "
            f"every projection removes {largest:.1%} of the parameters. Use a smaller ratio or block_size."
        )


def largest_ratio(projections: Projections, config: NeuronMMConfig) -> float:
    """The ratio at one block in every projection, in terms of the cost that the allocation counts."""
    cost = parameters_per_rank(config.allocation_tensor_parallel_size)
    _, costs = _options(projections, config.block_size, cost)
    return float(1 - sum(cost.min() for cost in costs) / sum(cost[-1] for cost in costs))


def _options(
    projections: Projections, block_size: int, cost: Cost
) -> tuple[dict[str, list[int | None]], list[np.ndarray]]:
    """The ranks that every projection may get, and what each costs."""
    options = {path: rank_options(shape, block_size) for path, shape in projections.shapes.items()}
    costs = [np.array([cost(projections.shapes[path], r) for r in ranks], float) for path, ranks in options.items()]
    return options, costs


def _nothing_compressed(projections: Projections, config: NeuronMMConfig) -> NeuronMMError:
    largest = max(projections.shapes.values(), key=lambda shape: shape.dense_parameters)
    return NeuronMMError(
        f"Nothing would be compressed: with block_size {config.block_size}, no aligned rank saves parameters of a "
        f"({largest.K}, {largest.N}) projection at compression_ratio {config.compression_ratio}. Use a smaller "
        "block_size or a larger ratio."
    )
