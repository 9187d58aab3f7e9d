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

from dataclasses import dataclass
from functools import cached_property

from .configuration import NeuronMMConfig
from .errors import NeuronMMError
from .families import Family
from .ranks import DENSE, Shape, removed_fraction, uniform_rank
from .source import DenseCheckpoint


@dataclass(frozen=True)
class Allocation:
    """A rank, or DENSE, for each chosen projection of each layer.

    Attributes:
        family: where the projections are.
        layers: number of decoder layers.
        attributes: of the MLP, those that were chosen.
        shapes: `{module path: Shape}` of the chosen projections, layer by layer.
        ranks: `{module path: rank or DENSE}` of the same.
    """

    family: Family
    layers: int
    attributes: list[str]
    shapes: dict[str, Shape]
    ranks: dict[str, int | None]

    def path(self, layer: int, attribute: str) -> str:
        return f"{self.family.layer_path(layer)}.{self.family.mlp}.{attribute}"

    def factored(self, layer: int) -> list[str]:
        """Attributes of the MLP of `layer` that get factors."""
        return [name for name in self.attributes if self.ranks[self.path(layer, name)] is not DENSE]

    @cached_property
    def modules(self) -> dict[str, dict]:
        """`NeuronMMConfig.modules`: the projections that get factors."""
        return {path: {"rank": rank, "storage": "uv"} for path, rank in self.ranks.items() if rank is not DENSE}

    @property
    def parameters_before(self) -> int:
        return sum(shape.dense_parameters for shape in self.shapes.values())

    @property
    def parameters_after(self) -> int:
        return sum(shape.parameters(self.ranks[path]) for path, shape in self.shapes.items())

    @property
    def removed(self) -> float:
        """Achieved compression ratio of the chosen projections."""
        return removed_fraction(self.shapes, self.ranks)


def allocate_uniform(checkpoint: DenseCheckpoint, family: Family, config: NeuronMMConfig) -> Allocation:
    """The same rank for equal shapes, by the paper's formula (`ranks.uniform_rank`).

    Raises:
        NeuronMMError: where no projection would be compressed, or config.json does not fit the weights.
    """
    attributes = family.selected(config.projections)
    layers = checkpoint.config.num_hidden_layers
    surplus = f"{family.layer_path(layers)}."
    if layers < 1 or any(name.startswith(surplus) for name in checkpoint.tensors):
        raise NeuronMMError(
            f"config.json of {checkpoint.name} says num_hidden_layers = {layers}, which is not the number of layers that "
            "its weights hold. Fetch the model again, or correct config.json."
        )
    allocation = Allocation(family, layers, attributes, {}, {})
    for layer in range(layers):
        for attribute in attributes:
            path = allocation.path(layer, attribute)
            N, K = checkpoint.info(f"{path}.weight").shape
            shape = allocation.shapes[path] = Shape(K, N)
            allocation.ranks[path] = uniform_rank(shape, config.compression_ratio, config.block_size, config.alpha)
    if not allocation.modules:
        largest = max(allocation.shapes.values(), key=lambda shape: shape.dense_parameters)
        raise NeuronMMError(
            f"Nothing would be compressed: with block_size {config.block_size}, no aligned rank saves parameters of a "
            f"({largest.K}, {largest.N}) projection at compression_ratio {config.compression_ratio}. Use a smaller "
            "block_size or a larger ratio."
        )
    return allocation
