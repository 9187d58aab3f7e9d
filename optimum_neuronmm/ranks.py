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
"""From a compression ratio to block-aligned ranks, and what they cost. Pure arithmetic."""

from collections.abc import Callable
from dataclasses import dataclass
from math import floor

from .errors import NeuronMMError


DENSE = None  # the rank of a projection that is left as it is


@dataclass(frozen=True)
class Shape:
    """A projection Y = X W as a matrix of K input and N output features."""

    K: int
    N: int

    @property
    def dense_parameters(self) -> int:
        return self.K * self.N

    def parameters(self, rank: int | None) -> int:
        """Parameters at a rank: r (K + N) for the factors U (K, r) and V (r, N), K N where it stays dense."""
        return self.dense_parameters if rank is DENSE else rank * (self.K + self.N)

    @property
    def largest_rank(self) -> int:
        """The largest rank that saves parameters; 0 where none does."""
        return (self.K * self.N - 1) // (self.K + self.N)

    def saves_parameters(self, rank: int) -> bool:
        return self.parameters(rank) < self.dense_parameters


def uniform_rank(shape: Shape, compression_ratio: float, block_size: int, alpha: float) -> int | None:
    """The block-aligned rank of one projection, `floor(K N (1 - ratio) / ((K + N) bs) + alpha) * bs`.

    NeuronMM (arXiv 2510.25977), rank formula. At least one block, because rank 0 would delete the projection.

    Returns:
        The rank, or DENSE where the aligned rank would not save parameters.
    """
    exact = shape.dense_parameters * (1 - compression_ratio) / (shape.K + shape.N)
    blocks = floor(round(exact / block_size + alpha, 9))  # 1 - 0.9 is a hair below 0.1, which must not cost a block
    rank = max(1, blocks) * block_size
    return rank if shape.saves_parameters(rank) else DENSE


def rank_options(shape: Shape, block_size: int) -> list[int | None]:
    """The ranks that a projection may get: the multiples of the block that save parameters, ascending, then DENSE."""
    return [*range(block_size, shape.largest_rank + 1, block_size), DENSE]


def parameter_cost(shape: Shape, rank: int | None) -> float:
    """Parameters of one projection."""
    return shape.parameters(rank)


def parameters_per_rank(tensor_parallel_size: int) -> Callable[[Shape, int | None], float]:
    """The cost of one projection as the parameters that one of so many ranks of tensor parallelism holds, padding included.

    The dense weight is cut along the intermediate features, and so is the factor that faces them. The other factor faces
    the hidden states: the replicated layout holds it whole on every rank, the sharded one cuts it along the rank of the
    factors, which it pads to a multiple of the number of ranks (`neuron.form`). The smaller of the two counts: the layout
    is chosen later, for whole layers and by speed, and this is what it can reach. In a layer that is then replicated, the
    ranks hold more.

    A shape does not say which of its sides are the hidden states. They are taken to be the smaller one, as in all models
    whose MLP is wider than its input.

    Returns:
        A function of a shape and a rank, or DENSE, that never falls as the rank grows. For one rank of tensor parallelism
        it equals `parameter_cost`. For several, a factored projection may cost more than a dense one.

    Raises:
        NeuronMMError: there is no such number of ranks.
    """
    tp = tensor_parallel_size
    if tp < 1:
        raise NeuronMMError(f"tensor_parallel_size must be at least 1, got {tp}.")

    def cost(shape: Shape, rank: int | None) -> float:
        hidden, intermediate = sorted((shape.K, shape.N))
        part = -(-intermediate // tp)
        if rank is DENSE:
            return hidden * part
        replicated = rank * (hidden + part)
        rank_part = -(-rank // tp)
        sharded = rank_part * hidden + rank_part * tp * part
        return min(replicated, sharded)

    return cost


def removed_fraction(shapes: dict[str, Shape], ranks: dict[str, int | None]) -> float:
    """Achieved compression ratio: the fraction of the dense parameters of `shapes` that the `ranks` remove."""
    before = sum(shape.dense_parameters for shape in shapes.values())
    after = sum(shape.parameters(ranks[name]) for name, shape in shapes.items())
    return 1 - after / before
