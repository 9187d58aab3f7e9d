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
"""Ranks that remove what was asked for, evenly."""

import pytest

from optimum_neuronmm.allocation import Projections
from optimum_neuronmm.configuration import NeuronMMConfig
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.families import FAMILIES
from optimum_neuronmm.planning.even import allocate_evenly
from optimum_neuronmm.ranks import DENSE, Shape


def projections(layers: int, shapes: dict[str, Shape], family: str = "llama") -> Projections:
    made = Projections(FAMILIES[family], layers, list(shapes), {})
    for layer in range(layers):
        made.shapes.update({made.path(layer, name): shape for name, shape in shapes.items()})
    return made


LLAMA = {"gate_proj": Shape(2048, 8192), "up_proj": Shape(2048, 8192), "down_proj": Shape(8192, 2048)}
PHI = {"gate_up_proj": Shape(3072, 16384), "down_proj": Shape(8192, 3072)}


@pytest.mark.parametrize("shapes", [LLAMA, PHI], ids=["llama", "phi3"])
@pytest.mark.parametrize("ratio", [1e-9, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.9])
@pytest.mark.parametrize("layers", [1, 7, 32])
def test_as_much_is_removed_as_was_asked_for_and_no_step_of_a_layer_more(shapes, ratio, layers):
    made = allocate_evenly(
        projections(layers, shapes, "phi3" if shapes is PHI else "llama"), NeuronMMConfig(compression_ratio=ratio)
    )
    # A block of every projection, or what is left between the largest rank and the dense weight.
    step = sum(128 * (shape.K + shape.N) for shape in shapes.values()) / made.parameters_before
    assert 0 <= made.removed - ratio < step
    for name in shapes:
        assert len({made.ranks[made.projections.path(layer, name)] for layer in range(layers)}) <= 2


def test_ranks_by_hand():
    made = allocate_evenly(projections(16, LLAMA), NeuronMMConfig(compression_ratio=0.1))
    found = [made.ranks[made.projections.path(layer, "up_proj")] for layer in range(16)]
    # Exactly 1474.6: between 11 and 12 blocks, of which 0.52 of the layers can have the 12.
    assert found == [1408, 1536] * 8
    for name in ("gate_proj", "down_proj"):
        assert [made.ranks[made.projections.path(layer, name)] for layer in range(16)] == found


def test_the_step_after_the_largest_rank_is_dense():
    made = allocate_evenly(projections(16, LLAMA), NeuronMMConfig(compression_ratio=0.05))
    found = [made.ranks[made.projections.path(layer, "up_proj")] for layer in range(16)]
    assert found.count(DENSE) == 3 and found.count(1536) == 13
    assert found[5] is found[10] is found[15] is DENSE  # not all at one end


def test_shapes_that_differ_get_equal_fractions():
    made = allocate_evenly(projections(32, PHI, "phi3"), NeuronMMConfig(compression_ratio=0.4))
    for name, shape in PHI.items():
        for layer in range(32):
            kept = shape.parameters(made.ranks[made.projections.path(layer, name)]) / shape.dense_parameters
            assert abs(kept - 0.6) < 128 * (shape.K + shape.N) / shape.dense_parameters


def test_the_smallest_ranks_are_reached_and_not_passed():
    few = projections(4, LLAMA)
    smallest = allocate_evenly(few, NeuronMMConfig(compression_ratio=0.9218))
    assert set(smallest.ranks.values()) == {128}
    with pytest.raises(NeuronMMError, match="compression_ratio 0.93 cannot be reached"):
        allocate_evenly(few, NeuronMMConfig(compression_ratio=0.93))


def test_projections_that_no_rank_makes_smaller_stay_dense():
    shapes = {"gate_proj": Shape(96, 200), "up_proj": Shape(96, 200), "down_proj": Shape(2048, 2048)}
    made = allocate_evenly(projections(3, shapes), NeuronMMConfig(compression_ratio=0.3))
    assert {path.rpartition(".")[2] for path in made.modules} == {"down_proj"} and made.removed >= 0.3
