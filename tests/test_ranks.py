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
"""The rank formula against the paper's numbers, by hand and by its properties."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.neuron.form import REPLICATED, SHARDED, Form
from optimum_neuronmm.ranks import (
    DENSE,
    Shape,
    parameter_cost,
    parameters_per_rank,
    rank_options,
    removed_fraction,
    uniform_rank,
)


SIDES = st.integers(1, 5000)
SHAPES = st.builds(Shape, SIDES, SIDES)
RATIOS = st.floats(0.001, 0.999)
BLOCKS = st.sampled_from([32, 64, 96, 128, 256])
ALPHAS = st.floats(0, 0.999)
repeatable = settings(derandomize=True, deadline=None)


@pytest.mark.parametrize(
    ("K", "N", "ratio", "block", "alpha", "rank"),
    [
        (2048, 8192, 0.2, 128, 0.5, 1280),  # the paper's example
        (2048, 8192, 0.05, 128, 0.5, 1536),  # Llama-3.2-1B: both ratios give one rank
        (2048, 8192, 0.1, 128, 0.5, 1536),
        (8192, 2048, 0.1, 128, 0.5, 1536),  # a down projection
        (576, 1536, 0.1, 128, 0.5, 384),  # SmolLM2-135M
        (576, 1536, 0.2, 64, 0.5, 320),
        (2048, 8192, 0.2, 128, 0.0, 1280),  # 10.24 blocks: rounded down all the same
        (2048, 8192, 0.2, 128, 0.75, 1280),  # 10.99
        (2048, 8192, 0.2, 128, 0.76, 1408),  # 11.0
        (1024, 1024, 0.9, 128, 0.0, 128),  # 0.4 of a block: never less than one
        (200, 96, 0.2, 32, 0.5, 64),
    ],
)
def test_rank_of_known_shapes(K, N, ratio, block, alpha, rank):
    assert uniform_rank(Shape(K, N), ratio, block, alpha) == rank


def test_ratios_that_binary_fractions_miss():
    # 1 - 0.9 is a little below 0.1 and 1 - 0.8 below 0.2; rounding down must not lose a block to that.
    assert uniform_rank(Shape(2560, 2560), 0.9, 128, 0.0) == 128
    assert uniform_rank(Shape(640, 640), 0.8, 32, 0.0) == 64
    assert uniform_rank(Shape(5120, 5120), 0.9, 128, 0.0) == 256
    assert uniform_rank(Shape(1280, 1280), 0.3, 128, 0.5) == 512  # exactly 3.5 blocks, to the nearest: up


@pytest.mark.parametrize(
    ("K", "N", "ratio", "block", "alpha"),
    [
        (576, 1536, 0.01, 128, 0.9),  # 3.24 blocks are rounded up to 4, more than the 3.27 that break even
        (256, 256, 0.1, 128, 0.5),  # one block breaks even: equal is not fewer
        (96, 200, 0.2, 128, 0.5),  # one block is more than the dense weight
        (1, 4096, 0.5, 32, 0.5),
    ],
)
def test_dense_where_no_aligned_rank_saves(K, N, ratio, block, alpha):
    assert uniform_rank(Shape(K, N), ratio, block, alpha) is DENSE


def test_break_even_is_dense_and_one_less_is_not():
    shape = Shape(64, 64)
    assert not shape.saves_parameters(32)  # 32 * 128 = 64 * 64
    assert Shape(64, 65).saves_parameters(32)  # 4128 < 4160
    assert uniform_rank(shape, 0.5, 32, 0.5) is DENSE
    assert uniform_rank(Shape(64, 65), 0.5, 32, 0.5) == 32


def test_parameter_counts():
    shape = Shape(2048, 8192)
    assert shape.dense_parameters == 16_777_216
    assert shape.parameters(DENSE) == 16_777_216
    assert shape.parameters(1280) == 1280 * 10_240


def test_removed_fraction_of_a_mixture():
    llama = {"gate": Shape(2048, 8192), "down": Shape(8192, 2048)}
    assert removed_fraction(llama, {"gate": 1536, "down": 1536}) == pytest.approx(0.0625)
    assert removed_fraction(llama, {"gate": 1536, "down": DENSE}) == pytest.approx(0.03125)
    assert removed_fraction(llama, {"gate": DENSE, "down": DENSE}) == 0
    # Weighted by size: a small projection that is halved hardly counts.
    mixed = {"small": Shape(128, 128), "large": Shape(1024, 1024)}
    assert removed_fraction(mixed, {"small": 32, "large": DENSE}) == pytest.approx(8192 / (16384 + 1024**2))


@repeatable
@given(SHAPES, RATIOS, BLOCKS, ALPHAS)
def test_a_rank_is_aligned_and_saves_parameters(shape, ratio, block, alpha):
    rank = uniform_rank(shape, ratio, block, alpha)
    if rank is not DENSE:
        assert isinstance(rank, int) and rank > 0 and rank % block == 0
        assert shape.parameters(rank) < shape.dense_parameters
        assert rank < min(shape.K, shape.N)  # so the factors exist


@repeatable
@given(SHAPES, RATIOS, BLOCKS, ALPHAS)
def test_the_rank_is_the_formula_in_exact_arithmetic(shape, ratio, block, alpha):
    exact = Fraction(shape.K * shape.N) * (1 - Fraction(ratio)) / (shape.K + shape.N) / block + Fraction(alpha)
    if abs(exact - round(exact)) < Fraction(1, 10**8):
        return  # a boundary, which floating point may see on either side
    expected = max(1, exact.__floor__()) * block
    rank = uniform_rank(shape, ratio, block, alpha)
    assert rank == (expected if shape.parameters(expected) < shape.dense_parameters else DENSE)


@repeatable
@given(SHAPES, RATIOS, RATIOS, BLOCKS, ALPHAS)
def test_a_larger_ratio_never_keeps_more(shape, one, other, block, alpha):
    less, more = sorted((one, other))
    kept_less = shape.parameters(uniform_rank(shape, more, block, alpha))
    assert kept_less <= shape.parameters(uniform_rank(shape, less, block, alpha))


@repeatable
@given(SHAPES, RATIOS, BLOCKS, ALPHAS)
def test_a_projection_and_its_transpose_are_alike(shape, ratio, block, alpha):
    assert uniform_rank(shape, ratio, block, alpha) == uniform_rank(Shape(shape.N, shape.K), ratio, block, alpha)


@repeatable
@given(SHAPES, RATIOS, BLOCKS)
def test_rounding_down_removes_at_least_what_was_asked(shape, ratio, block):
    rank = uniform_rank(shape, ratio, block, 0.0)
    if rank not in (DENSE, block):  # one block is the least there is
        assert removed_fraction({"": shape}, {"": rank}) >= ratio - 1e-9


def test_rank_options_of_known_shapes():
    assert rank_options(Shape(576, 1536), 128) == [128, 256, 384, DENSE]  # breaks even at 418.9
    assert rank_options(Shape(64, 64), 32) == [DENSE]  # 32 breaks even: equal is not fewer
    assert rank_options(Shape(64, 65), 32) == [32, DENSE]
    assert rank_options(Shape(96, 200), 128) == [DENSE]
    options = rank_options(Shape(8192, 28672), 128)
    assert len(options) == 50 and options[-2] == 6272


@repeatable
@given(SHAPES, BLOCKS)
def test_rank_options_are_all_multiples_that_save_parameters(shape, block):
    *ranks, last = rank_options(shape, block)
    assert last is DENSE
    multiples = range(block, min(shape.K, shape.N) + block, block)
    assert ranks == [rank for rank in multiples if shape.saves_parameters(rank)]


@repeatable
@given(SHAPES, RATIOS, BLOCKS, ALPHAS)
def test_the_uniform_rank_is_one_of_the_options(shape, ratio, block, alpha):
    assert uniform_rank(shape, ratio, block, alpha) in rank_options(shape, block)


def test_parameter_cost_of_a_projection():
    assert parameter_cost(Shape(2048, 8192), 1280) == 1280 * 10_240
    assert parameter_cost(Shape(2048, 8192), DENSE) == 2048 * 8192


def test_parameters_per_rank_of_known_shapes():
    cost = parameters_per_rank(4)
    for shape in (Shape(2048, 8192), Shape(8192, 2048)):
        assert cost(shape, DENSE) == 2048 * 2048
        assert cost(shape, 1280) == 320 * 2048 + 1280 * 2048  # replicated it would be 1280 * (2048 + 2048)
    # 3 ranks: 8192 is cut into parts of 2731 and a rank of 128 into parts of 43.
    assert parameters_per_rank(3)(Shape(2048, 8192), 128) == 43 * 2048 + 129 * 2731
    # Sharded, one block is padded to a multiple of 48, which is more than a small factor that is held whole.
    assert parameters_per_rank(48)(Shape(32, 8192), 32) == min(32 * 32 + 32 * 171, 1 * 32 + 48 * 171) == 6496


@repeatable
@given(SHAPES, st.integers(1, 64), st.integers(1, 40))
def test_parameters_per_rank_are_those_of_the_compiled_form(shape, tp, blocks):
    rank = 32 * blocks
    H, I = sorted((shape.K, shape.N))  # noqa: E741
    cost = parameters_per_rank(tp)
    dense = Form(H, I, DENSE, DENSE, DENSE, tp=tp)
    assert 3 * cost(shape, DENSE) == dense.parameters
    least = min(Form(H, I, rank, rank, rank, tp=tp, layout=layout).parameters for layout in (REPLICATED, SHARDED))
    assert 3 * cost(shape, rank) == least


@repeatable
@given(SHAPES, st.integers(1, 64), st.sampled_from([1, 8, 32, 128]))
def test_a_smaller_rank_never_costs_more(shape, tp, block):
    for cost in (parameter_cost, parameters_per_rank(tp)):
        costs = [cost(shape, rank) for rank in range(block, 65 * block, block)]
        assert costs == sorted(costs)


@repeatable
@given(SHAPES, BLOCKS)
def test_one_rank_of_tensor_parallelism_holds_all(shape, block):
    cost = parameters_per_rank(1)
    assert all(cost(shape, rank) == parameter_cost(shape, rank) for rank in rank_options(shape, block))


def test_no_rank_of_tensor_parallelism():
    with pytest.raises(NeuronMMError, match="tensor_parallel_size must be at least 1, got 0"):
        parameters_per_rank(0)
