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
"""Which projections get factors, from the shapes of a checkpoint on disk."""

import pytest

from optimum_neuronmm.allocation import allocate_uniform
from optimum_neuronmm.configuration import NeuronMMConfig
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.families import family_of
from optimum_neuronmm.ranks import DENSE, Shape
from optimum_neuronmm.source import open_dense

from .conftest import save_tiny_model


def allocate(directory, **options):
    checkpoint = open_dense(directory)
    config = NeuronMMConfig(**{"compression_ratio": 0.2, "block_size": 32, **options})
    return allocate_uniform(checkpoint, family_of(checkpoint.config), config)


@pytest.fixture(scope="module")
def tiny_phi3(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("phi3"), "phi3")


def test_every_projection_of_every_layer(tiny_llama):
    allocation = allocate(tiny_llama)
    paths = [f"model.layers.{i}.mlp.{name}" for i in range(3) for name in ("gate_proj", "up_proj", "down_proj")]
    assert list(allocation.ranks) == list(allocation.shapes) == paths
    # 96 * 200 * 0.8 / 296 = 51.9, the nearest multiple of 32 is 64.
    assert allocation.modules == {path: {"rank": 64, "storage": "uv"} for path in paths}
    assert allocation.layers == 3
    assert allocation.shapes["model.layers.1.mlp.gate_proj"] == Shape(K=96, N=200)
    assert allocation.shapes["model.layers.1.mlp.down_proj"] == Shape(K=200, N=96)
    assert allocation.factored(2) == ["gate_proj", "up_proj", "down_proj"]


def test_parameters_are_counted_over_the_chosen_projections(tiny_llama):
    allocation = allocate(tiny_llama)
    assert allocation.parameters_before == 9 * 96 * 200
    assert allocation.parameters_after == 9 * 64 * 296
    assert allocation.removed == pytest.approx(1 - 64 * 296 / (96 * 200))


def test_what_is_not_chosen_is_not_counted(tiny_llama):
    allocation = allocate(tiny_llama, projections=["down"])
    assert set(allocation.modules) == {f"model.layers.{i}.mlp.down_proj" for i in range(3)}
    assert allocation.attributes == allocation.factored(0) == ["down_proj"]
    assert allocation.parameters_before == 3 * 96 * 200


def test_the_configs_options_reach_the_rank(tiny_llama):
    assert {rank for rank in allocate(tiny_llama, alpha=0.0).ranks.values()} == {32}
    assert {rank for rank in allocate(tiny_llama, compression_ratio=0.6).ranks.values()} == {32}
    assert {rank for rank in allocate(tiny_llama, block_size=64).ranks.values()} == {64}


def test_shapes_that_cannot_gain_stay_dense(tiny_phi3):
    # At blocks of 64 the fused (96, 400) gains at rank 64, and so does (200, 96); at 96 only rank 96 is left: no gain.
    allocation = allocate(tiny_phi3, block_size=64)
    assert allocation.shapes["model.layers.0.mlp.gate_up_proj"] == Shape(96, 400)
    assert set(allocation.ranks.values()) == {64}
    with pytest.raises(NeuronMMError, match="Nothing would be compressed"):
        allocate(tiny_phi3, block_size=96)


def test_a_mixture_of_dense_and_factored(tmp_path):
    directory = save_tiny_model(tmp_path, "phi3", intermediate_size=48)  # gate_up (96, 96), down (48, 96)
    allocation = allocate(directory)
    assert allocation.ranks["model.layers.0.mlp.gate_up_proj"] == 32
    assert allocation.ranks["model.layers.0.mlp.down_proj"] is DENSE  # 32 * 144 = 48 * 96: nothing gained
    assert list(allocation.modules) == [f"model.layers.{i}.mlp.gate_up_proj" for i in range(3)]
    assert allocation.factored(1) == ["gate_up_proj"]
    assert allocation.parameters_before == 3 * (96 * 96 + 48 * 96)
    assert allocation.parameters_after == 3 * (32 * 192 + 48 * 96)
    assert 0 < allocation.removed < 1 / 3


def test_nothing_to_compress_says_what_to_change(tiny_llama):
    with pytest.raises(NeuronMMError) as error:
        allocate(tiny_llama, block_size=128, compression_ratio=0.15)
    for part in ("Nothing would be compressed", "block_size 128", "(96, 200)", "compression_ratio 0.15", "smaller"):
        assert part in str(error.value)


def test_half_of_a_fused_matrix_is_refused(tiny_phi3):
    with pytest.raises(NeuronMMError, match="choose both or neither"):
        allocate(tiny_phi3, projections=["gate", "down"])
