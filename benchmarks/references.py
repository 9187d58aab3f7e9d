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
"""Ways to choose ranks that the package does not have, to compare with."""

import numpy as np

from optimum_neuronmm.allocation import Allocation, Projections
from optimum_neuronmm.knapsack import solve
from optimum_neuronmm.ranks import DENSE, Shape


class PivotedShape(Shape):
    """A projection whose product U V is written as r of its columns (or rows) and coefficients for all others.

    That is lossless and takes r (K + N - r) parameters (PIFA, arXiv 2501.19090), so every rank below min(K, N) saves some.
    """

    def parameters(self, rank: int | None) -> int:
        return self.dense_parameters if rank is DENSE else rank * (self.K + self.N - rank)

    @property
    def largest_rank(self) -> int:
        return min(self.K, self.N) - 1


def pivoted(projections: Projections) -> Projections:
    shapes = {path: PivotedShape(shape.K, shape.N) for path, shape in projections.shapes.items()}
    return Projections(projections.family, projections.layers, projections.attributes, shapes)


def allocate_pivoted(projections: Projections, losses, ratio: float, block_size: int) -> Allocation:
    """The ranks of the least predicted loss at a ratio, in pivoted storage.

    Args:
        projections: with `PivotedShape`s.
        losses: as for `allocate_by_loss`.
    """
    shapes = projections.shapes
    options = {path: [*range(block_size, shape.largest_rank + 1, block_size), DENSE] for path, shape in shapes.items()}
    costs = [np.array([shapes[path].parameters(rank) for rank in ranks], float) for path, ranks in options.items()]
    values = [
        np.array([0.0 if rank is DENSE else losses[path][rank].item() for rank in ranks])
        for path, ranks in options.items()
    ]
    budget = (1 - ratio) * sum(shape.dense_parameters for shape in shapes.values())
    chosen = solve(costs, values, budget)
    return Allocation(projections, {path: ranks[i] for (path, ranks), i in zip(options.items(), chosen, strict=True)})


def allocate_evenly(projections: Projections, share: float) -> Allocation:
    """The same share of every projection removed. Ranks are not aligned.

    What rounding down leaves goes to the next projection, so that equal shapes differ by one at most and the share is met
    to within one rank of one projection.
    """
    ranks, left = {}, 0.0
    for path, shape in projections.shapes.items():
        left += (1 - share) * shape.dense_parameters
        ranks[path] = int((left + 1e-6) // (shape.K + shape.N))
        left -= shape.parameters(ranks[path])
    return Allocation(projections, ranks)
