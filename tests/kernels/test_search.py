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
from optimum_neuronmm.kernels.latency.work import rates_of
from optimum_neuronmm.kernels.search import Search, strips
from optimum_neuronmm.kernels.stage import Stage, divisors, sizes


RATES = rates_of(get_machine("trn1"), 2)


def test_arithmetic():
    assert divisors(12) == [1, 2, 3, 4, 6, 12]


@pytest.mark.parametrize("extent", [64, 128, 640, 1280, 1408, 4096, 500])
def test_blocks_of_a_rank_divide_it(extent):
    assert sizes(extent, exact=True)[-1] == extent
    if extent % 128 == 0:
        assert all(extent % size == 0 for size in sizes(extent, exact=True))
    assert set(sizes(extent, exact=True)) <= set(sizes(extent, exact=False))


@pytest.mark.parametrize("M", [1, 127, 128, 129, 500, 4096, 5000])
def test_strips_are_whole_tiles_and_nearly_equal(M):
    found = strips(M)
    assert found[0] == M and found == sorted(set(found), reverse=True)
    assert all(size % 128 == 0 or size == M for size in found)


@pytest.mark.parametrize("M", [1, 100, 512, 1024])
def test_sums_that_are_made_side_by_side_have_a_bank_each(M):
    stage = Stage("u", "columns", ((1024,),), 1280, M, 2, exact=("width",))
    for b in stage.candidates():
        assert 1280 % b.width == 0
        if b.abreast:
            assert (
                stage.held(b).banks == b.abreast * -(-M // 512) <= 8 and b.depth < 1024 and b.width // 128 > b.abreast
            )
        elif b.depth < 1024 and not b.partial:
            assert stage.held(b).banks == b.width // 128 * -(-M // 512) and b.group == 1
        else:
            assert b.group == 1 or b.group * M <= 512
        assert not b.partial or b.depth < 1024
    stage = Stage("w", "rows", ((1024,),), 1280, M, 2)
    for b in stage.candidates():
        assert stage.held(b).banks == (2 if b.depth >= 1024 else -(-M // 128) * -(-b.width // 512))
        assert not b.partial


def test_held_by_hand():
    stage = Stage("v", "columns", ((256,), (300,)), 512, 100, 2, working=7, stored=5, biased=True)
    (b,) = [b for b in stage.candidates() if (b.width, b.depth) == (256, 300)]
    held = stage.held(b)
    weights, bias, ones = (2 + 3) * 256 * 2, 2 * 256 * 2, 100 * 2
    assert b.group == 2
    assert held.single == weights + bias + ones + 2 * 7 + 2 * 5
    assert held.buffered == held.single + weights + bias + 2 * 5
    assert held.banks == 2 * 2  # a bank per product, and one each to empty


def test_held_by_hand_side_by_side_and_in_part():
    stage = Stage("v", "columns", ((1024,),), 512, 600, 2)
    side = next(b for b in stage.candidates() if (b.width, b.depth, b.partial, b.abreast) == (256, 128, False, 0))
    assert stage.held(side).banks == 2 * 2  # two tiles of columns by two blocks of rows
    part = next(b for b in stage.candidates() if (b.width, b.depth, b.partial) == (256, 128, True))
    assert stage.held(part).single == 256 * 2 + 4 * 4 * 600  # the block, and float32 sums of 4 tiles
    # Eight parts of K in 8 additions each (4 tiles by 512 and 88 rows), and the zeros to begin with, at half a cycle each.
    cycles = 8 * (4 * 600 + 4 * 2 * RATES.constants.overhead) + 4 * 600
    assert stage.vector(part, RATES) == pytest.approx(cycles / 1.12e9) and stage.vector(side, RATES) == 0


def test_what_is_summed_abreast_stays_on_chip():
    stage = Stage("u", "columns", ((1024,),), 1280, 512, 2, exact=("width",))
    (b,) = [b for b in stage.candidates() if (b.width, b.depth, b.abreast) == (1280, 256, 8)]
    assert stage.held(b).single == 8 * 1280 * 2 and stage.held(b).banks == 8
    assert stage.lead(b, RATES) == pytest.approx(stage.lead(type(b)(1280, 1024), RATES) / 4)


@pytest.mark.parametrize(
    ("K", "rank", "joined"),
    [(2048, 2048, 1), (2048, 1280, 2), (2048, 640, 4), (2048, 64, 4), (640, 300, 1), (768, 300, 2)],
)
def test_short_rows_are_joined_as_far_as_the_contraction_allows(K, rank, joined):
    assert Search(RATES, 1).joined(K, [rank]) == joined
    assert Search(RATES, 1, interleave=False).joined(K, [rank]) == 1


@pytest.mark.parametrize("rank", [1280, 640, 384])
def test_decode_reads_weights_once_in_efficient_descriptors(rank):
    H, I = 2048, 8192  # noqa: E741
    U, V = Spec((H, rank)), Spec((rank, I))
    result = simulate(mlp_decode, Spec((1, H)), U, V, U, V, Spec((I, rank)), Spec((rank, H)), dry=True)
    weights = 2 * 3 * rank * (H + I)
    assert weights < result.hbm_bytes <= 1.02 * weights
    assert result.trace.bytes_in_runs_of(2048) >= 0.95


@pytest.mark.parametrize("form", ["columns", "rows"])
def test_what_is_chosen_never_takes_more_banks_than_there_are(form):
    machine = get_machine("trn1")
    for M in (1, 512, 1024, 4096):
        stage = Stage("w", form, ((8192,),), 4096, M, 2, partial=False)
        for stays in (0, machine.sbuf_budget // 2, machine.sbuf_budget * 9 // 10):
            choice, missing = stage.choose(RATES, lambda b, stays=stays: stays, first=True)
            assert choice is not None or missing > 0
            assert choice is None or (
                choice.held.banks <= machine.psum_banks and stays + choice.held.buffered <= machine.sbuf_budget
            )
    assert stage.choose(RATES, lambda b: 0, first=True)[0] is not None
