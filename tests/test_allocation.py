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
"""Which projections get factors and of what rank, from the shapes of a checkpoint on disk."""

import itertools

import numpy as np
import pytest
import torch

from optimum_neuronmm.allocation import (
    Allocation,
    allocate_by_loss,
    allocate_uniform,
    check_reachable,
    find_projections,
    largest_ratio,
    predicted_loss,
)
from optimum_neuronmm.configuration import NeuronMMConfig
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.families import family_of
from optimum_neuronmm.ranks import DENSE, Shape, parameters_per_rank
from optimum_neuronmm.source import open_dense

from .conftest import save_tiny_model


def allocate(directory, **options):
    return allocate_uniform(*projections_of(directory, **options))


def projections_of(directory, **options):
    checkpoint = open_dense(directory)
    config = NeuronMMConfig(**{"compression_ratio": 0.2, "block_size": 32, **options})
    return find_projections(checkpoint, family_of(checkpoint.config), config), config


@pytest.mark.parametrize("model_type", ["llama", "phi3"])
def test_the_path_of_an_entry_of_the_checkpoint(model_type, tmp_path):
    projections, _ = projections_of(save_tiny_model(tmp_path / "dense", model_type), projections=["down"])
    assert list(projections.shapes) == [f"model.layers.{layer}.mlp.down_proj" for layer in range(3)]
    for layer in range(3):
        path = projections.path(layer, "down_proj")
        for leaf in ("weight", "bias", "u.weight", "v.weight", "v.bias"):
            assert projections.path_of(f"{path}.{leaf}") == path


def random_losses(projections, seed=0):
    """Of every rank: falling, of sizes that differ by a factor of a hundred between projections."""
    generator = torch.Generator().manual_seed(seed)
    losses = {}
    for path, shape in projections.shapes.items():
        terms = (
            torch.rand(min(shape.K, shape.N), generator=generator, dtype=torch.float64).sort(descending=True).values
        )
        tails = (10 ** (2 * torch.rand(1, generator=generator, dtype=torch.float64)) * terms).flip(0).cumsum(0).flip(0)
        losses[path] = torch.cat([tails, torch.zeros(1)])
    return losses


@pytest.fixture(scope="module")
def tiny_phi3(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("phi3"), "phi3")


def test_every_projection_of_every_layer(tiny_llama):
    allocation = allocate(tiny_llama)
    paths = [f"model.layers.{i}.mlp.{name}" for i in range(3) for name in ("gate_proj", "up_proj", "down_proj")]
    assert list(allocation.ranks) == list(allocation.projections.shapes) == paths
    # 96 * 200 * 0.8 / 296 = 51.9, the nearest multiple of 32 is 64.
    assert allocation.modules == {path: {"rank": 64, "storage": "uv"} for path in paths}
    assert allocation.projections.layers == 3
    assert allocation.projections.shapes["model.layers.1.mlp.gate_proj"] == Shape(K=96, N=200)
    assert allocation.projections.shapes["model.layers.1.mlp.down_proj"] == Shape(K=200, N=96)
    assert allocation.factored(2) == {"gate_proj": 64, "up_proj": 64, "down_proj": 64}


def test_parameters_are_counted_over_the_chosen_projections(tiny_llama):
    allocation = allocate(tiny_llama)
    assert allocation.parameters_before == 9 * 96 * 200
    assert allocation.parameters_after == 9 * 64 * 296
    assert allocation.removed == pytest.approx(1 - 64 * 296 / (96 * 200))


def test_what_is_not_chosen_is_not_counted(tiny_llama):
    allocation = allocate(tiny_llama, projections=["down"])
    assert set(allocation.modules) == {f"model.layers.{i}.mlp.down_proj" for i in range(3)}
    assert allocation.projections.attributes == ["down_proj"] and allocation.factored(0) == {"down_proj": 64}
    assert allocation.parameters_before == 3 * 96 * 200


def test_the_configs_options_reach_the_rank(tiny_llama):
    assert {rank for rank in allocate(tiny_llama, alpha=0.0).ranks.values()} == {32}
    assert {rank for rank in allocate(tiny_llama, compression_ratio=0.6).ranks.values()} == {32}
    assert {rank for rank in allocate(tiny_llama, block_size=64).ranks.values()} == {64}


def test_shapes_that_cannot_gain_stay_dense(tiny_phi3):
    # At blocks of 64 the fused (96, 400) gains at rank 64, and so does (200, 96); at 96 only rank 96 is left: no gain.
    allocation = allocate(tiny_phi3, block_size=64)
    assert allocation.projections.shapes["model.layers.0.mlp.gate_up_proj"] == Shape(96, 400)
    assert set(allocation.ranks.values()) == {64}
    with pytest.raises(NeuronMMError, match="Nothing would be compressed"):
        allocate(tiny_phi3, block_size=96)


def test_a_mixture_of_dense_and_factored(tmp_path):
    directory = save_tiny_model(tmp_path, "phi3", intermediate_size=48)  # gate_up (96, 96), down (48, 96)
    allocation = allocate(directory)
    assert allocation.ranks["model.layers.0.mlp.gate_up_proj"] == 32
    assert allocation.ranks["model.layers.0.mlp.down_proj"] is DENSE  # 32 * 144 = 48 * 96: nothing gained
    assert list(allocation.modules) == [f"model.layers.{i}.mlp.gate_up_proj" for i in range(3)]
    assert allocation.factored(1) == {"gate_up_proj": 32}
    assert allocation.parameters_before == 3 * (96 * 96 + 48 * 96)
    assert allocation.parameters_after == 3 * (32 * 192 + 48 * 96)
    assert 0 < allocation.removed < 1 / 3


def test_nothing_to_compress_says_what_to_change(tiny_llama):
    with pytest.raises(NeuronMMError) as error:
        projections_of(tiny_llama, block_size=128, compression_ratio=0.15)
    for part in ("Nothing would be compressed", "block_size 128", "(96, 200)", "compression_ratio 0.15", "smaller"):
        assert part in str(error.value)


def test_half_of_a_fused_matrix_is_refused(tiny_phi3):
    with pytest.raises(NeuronMMError, match="choose both or neither"):
        allocate(tiny_phi3, projections=["gate", "down"])


def test_uniform_ranks_that_save_nothing_say_so(tmp_path):
    """A rank of one block would save, and the formula gives two."""
    directory = save_tiny_model(tmp_path, intermediate_size=160)
    with pytest.raises(NeuronMMError, match=r"Nothing would be compressed.*\(96, 160\).*compression_ratio 0.1"):
        allocate(directory, compression_ratio=0.1)
    assert set(allocate(directory, compression_ratio=0.3).ranks.values()) == {32}


def test_what_a_block_can_make_smaller(tiny_llama, tmp_path):
    projections, _ = projections_of(tiny_llama)
    assert projections.reducible(1, 64) == ["gate_proj", "up_proj", "down_proj"]  # 64 * 296 < 96 * 200
    assert projections.reducible(1, 65) == []
    mixed, _ = projections_of(save_tiny_model(tmp_path, "phi3", intermediate_size=48))
    assert mixed.reducible(0, 32) == ["gate_up_proj"]


class TestByLoss:
    @pytest.fixture
    def llama(self, tiny_llama):
        return projections_of(tiny_llama)[0]

    @staticmethod
    def config(ratio, **options):
        return NeuronMMConfig(compression_ratio=ratio, block_size=32, **options)

    @staticmethod
    def best(projections, losses, ratio, tp):
        """The least loss of all combinations of ranks within the budget."""
        cost = parameters_per_rank(tp)
        options = [32, 64, DENSE]
        shapes = projections.shapes.items()
        costs = [np.array([cost(shape, rank) for rank in options]) for _, shape in shapes]
        values = [
            np.array([0 if rank is DENSE else losses[path][rank].item() for rank in options]) for path, _ in shapes
        ]
        total_cost = sum(np.ix_(*costs))
        total_loss = sum(np.ix_(*values))
        budget = (1 - ratio) * sum(cost(shape, DENSE) for _, shape in shapes)
        return total_loss[total_cost <= budget * (1 + 1e-12)].min()

    @pytest.mark.parametrize(
        ("ratio", "tp"), [(0.005, 1), (0.1, 1), (0.25, 1), (0.45, 1), (0.5, 1), (0.2, 2), (0.02, 16), (0.51, 16)]
    )
    @pytest.mark.parametrize("seed", range(4))
    def test_no_other_ranks_lose_less(self, llama, ratio, tp, seed):
        losses, config = random_losses(llama, seed), self.config(ratio, allocation_tensor_parallel_size=tp)
        allocation = allocate_by_loss(llama, losses, config)
        assert list(allocation.ranks) == list(llama.shapes)
        assert predicted_loss(allocation, losses) == pytest.approx(self.best(llama, losses, ratio, tp), rel=1e-9)
        cost = parameters_per_rank(tp)
        spent = sum(cost(shape, allocation.ranks[path]) for path, shape in llama.shapes.items())
        dense = sum(cost(shape, DENSE) for shape in llama.shapes.values())
        assert spent <= (1 - ratio) * dense * (1 + 1e-12)
        assert (1 - ratio) * dense - spent < 32 * cost(Shape(96, 200), 1)  # a block more would not fit
        if tp == 1:
            assert ratio <= allocation.removed < ratio + 32 * 296 / (9 * 96 * 200)

    def test_what_does_not_matter_is_given_up_first(self, llama):
        losses = {path: losses * (1e-6 if ".1." in path else 1.0) for path, losses in random_losses(llama).items()}
        allocation = allocate_by_loss(llama, losses, self.config(0.15))
        assert allocation.factored(1) == {"gate_proj": 32, "up_proj": 32, "down_proj": 32}
        assert allocation.factored(0) == allocation.factored(2) == {}
        assert set(allocation.modules) == {f"model.layers.1.mlp.{name}_proj" for name in ("gate", "up", "down")}

    def test_it_is_deterministic(self, llama):
        losses = {path: torch.linspace(1, 0, 97, dtype=torch.float64) for path in llama.shapes}  # all alike
        first = allocate_by_loss(llama, losses, self.config(0.3))
        assert first.ranks == allocate_by_loss(llama, dict(reversed(losses.items())), self.config(0.3)).ranks

    def test_projections_without_losses_stay_dense(self, tmp_path):
        projections, config = projections_of(save_tiny_model(tmp_path, "phi3", intermediate_size=48))
        losses = {path: value for path, value in random_losses(projections).items() if "gate_up" in path}
        allocation = allocate_by_loss(projections, losses, config)
        assert all(allocation.ranks[path] is DENSE for path in projections.shapes if path not in losses)
        assert allocation.removed >= 0.2

    def test_the_predicted_loss_is_the_sum(self, llama):
        losses = random_losses(llama)
        ranks = dict(zip(llama.shapes, itertools.cycle([32, DENSE, 64]), strict=False))
        expected = sum(losses[path][rank].item() for path, rank in ranks.items() if rank is not DENSE)
        assert predicted_loss(Allocation(llama, ranks), losses) == pytest.approx(expected)
        assert predicted_loss(Allocation(llama, dict.fromkeys(llama.shapes, DENSE)), losses) == 0

    def test_the_largest_ratio_and_nothing_beyond(self, llama):
        largest = 1 - 32 * 296 / (96 * 200)
        assert largest_ratio(llama, self.config(0.2)) == pytest.approx(largest)
        config = self.config(largest)
        check_reachable(llama, config)
        assert set(allocate_by_loss(llama, random_losses(llama), config).ranks.values()) == {32}
        with pytest.raises(NeuronMMError, match=r"compression_ratio 0.51 cannot be reached.*one block \(32\).* 50.7%"):
            check_reachable(llama, self.config(0.51))

    def test_the_largest_ratio_of_several_ranks(self, llama):
        config = self.config(0.2, allocation_tensor_parallel_size=16)
        # Of each: 13 of 200 intermediate features; a rank of 32 in the sharded layout, 2 * 96 + 32 * 13.
        assert largest_ratio(llama, config) == pytest.approx(1 - (2 * 96 + 32 * 13) / (96 * 13))
