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
"""Ranks for a ratio without the weights: about as many parameters removed as ranks by loss remove, evenly over the layers."""

from ..allocation import Allocation, Projections, check_reachable
from ..configuration import NeuronMMConfig
from ..ranks import Shape, rank_options


Ranks = dict[str, int | None]  # by attribute of the MLP


def allocate_evenly(projections: Projections, config: NeuronMMConfig) -> Allocation:
    """The ranks, the same in all layers but for one step, that remove `config.compression_ratio`.

    A step is a block in all projections of a layer that have the same fraction, or from the largest rank that saves parameters
    to the dense weight. As many layers are a step above the others as the ratio allows, so that less than the step of one layer
    is removed beyond it. Ranks by loss go on with single projections, and have more in the layers that need it.

    Raises:
        NeuronMMError: even the smallest ranks remove less.
    """
    check_reachable(projections, config)
    shapes = {name: projections.shapes[projections.path(0, name)] for name in projections.attributes}
    budget = (1 - config.compression_ratio) * sum(shape.dense_parameters for shape in shapes.values())  # of a layer
    low, high = _around(shapes, config.block_size, budget)
    step, layers = _parameters(shapes, high) - _parameters(shapes, low), projections.layers
    count = int(layers * (budget - _parameters(shapes, low)) / step) if step else 0
    ranks = {}
    for layer in range(layers):
        raised = (layer + 1) * count // layers > layer * count // layers  # one in so many, not all at one end
        chosen = high if raised else low
        ranks |= {projections.path(layer, name): chosen[name] for name in projections.attributes}
    return Allocation(projections, ranks)


def _around(shapes: dict[str, Shape], block_size: int, budget: float) -> tuple[Ranks, Ranks]:
    """The largest ranks of equal fractions that stay within the parameters of the budget, and the next larger ones."""
    options = {name: rank_options(shape, block_size) for name, shape in shapes.items()}
    fractions = {
        name: [shapes[name].parameters(rank) / shapes[name].dense_parameters for rank in ranks]
        for name, ranks in options.items()
    }

    def at(fraction: float) -> Ranks:
        return {
            name: ranks[max(0, sum(f <= fraction for f in fractions[name]) - 1)] for name, ranks in options.items()
        }

    low = at(0.0)
    for fraction in sorted({f for found in fractions.values() for f in found}):
        ranks = at(fraction)
        if _parameters(shapes, ranks) > budget:
            return low, ranks
        low = ranks
    return low, low


def _parameters(shapes: dict[str, Shape], ranks: Ranks) -> int:
    return sum(shape.parameters(ranks[name]) for name, shape in shapes.items())
