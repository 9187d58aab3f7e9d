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
"""The search: candidates, the cost of short descriptors, and when rows are joined."""

import pytest

from optimum_neuronmm.kernels import Spec, get_machine, mlp_decode, simulate
from optimum_neuronmm.kernels.search import Search, Stage, divisors, moved, pieces, sizes, strips


def test_arithmetic():
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
    assert pieces(300, 128) == (128, 128, 44)
    assert moved(1000, 4096) == 1000 and moved(1000, 1024) == 2000


@pytest.mark.parametrize("extent", [64, 128, 640, 1280, 1536, 4096, 500])
def test_blocks_of_a_rank_divide_it(extent):
    assert sizes(extent, exact=True)[-1] == extent
    if extent % 128 == 0:
        assert all(extent % size == 0 for size in sizes(extent, exact=True))
    assert set(sizes(extent, exact=True)) <= set(sizes(extent, exact=False))


@pytest.mark.parametrize("count", [11, 13, 17, 22, 26])
def test_a_rank_without_a_middling_divisor_is_cut_in_nearly_equal_whole_tiles(count):
    found = sizes(128 * count, exact=True)
    assert all(size % 128 == 0 for size in found)
    for size in found:
        number = -(-128 * count // size)
        assert size == 128 * -(-count // number)  # no smaller block covers it in as many
    assert any(3 * 128 <= size <= 8 * 128 for size in found)


@pytest.mark.parametrize("M", [1, 127, 128, 129, 500, 4096, 5000])
def test_strips_are_whole_tiles_and_nearly_equal(M):
    found = strips(M)
    assert found[0] == M and found == sorted(set(found), reverse=True)
    assert all(size % 128 == 0 or size == M for size in found)


def test_a_block_that_is_not_whole_in_depth_keeps_all_its_sums_in_psum():
    stage = Stage("u", "columns", ((1024,),), 640, 512, 2, exact=("width",))
    for b in stage.candidates():
        assert b.depth >= 1024 or b.group * 128 == b.width
        assert 640 % b.width == 0


def test_held_by_hand():
    stage = Stage("v", "columns", ((256,), (300,)), 512, 100, 2, working=7, stored=5, biased=True)
    (b,) = [b for b in stage.candidates() if (b.width, b.depth, b.group) == (256, 300, 2)]
    held = stage.held(b)
    weights, bias, ones = (2 + 3) * 256 * 2, 2 * 256 * 2, 100 * 2
    assert held.single == weights + bias + ones + 2 * 7 + 2 * 5
    assert held.buffered == held.single + weights + bias + 2 * 5
    assert held.banks == 2 * 1  # two products, each 2 tiles x 128 float32


@pytest.mark.parametrize(
    ("K", "rank", "joined"),
    [(2048, 1280, 1), (2048, 640, 2), (2048, 300, 4), (2048, 64, 4), (640, 300, 1), (768, 300, 2)],
)
def test_short_rows_are_joined_as_far_as_the_contraction_allows(K, rank, joined):
    assert Search(get_machine("trn1"), 2, 1).joined(K, [rank]) == joined


@pytest.mark.parametrize("rank", [1280, 640, 384])
def test_decode_reads_weights_once_in_efficient_descriptors(rank):
    H, I = 2048, 8192  # noqa: E741
    U, V = Spec((H, rank)), Spec((rank, I))
    result = simulate(mlp_decode, Spec((1, H)), U, V, U, V, Spec((I, rank)), Spec((rank, H)), dry=True)
    weights = 2 * 3 * rank * (H + I)
    assert weights < result.hbm_bytes <= 1.02 * weights
    assert result.trace.bytes_in_runs_of(2048) >= 0.95
