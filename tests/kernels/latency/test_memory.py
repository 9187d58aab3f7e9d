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
"""Pools of memory and the buffers of tiles, by hand."""

from collections import deque
from types import SimpleNamespace

import pytest

from optimum_neuronmm.kernels.latency.memory import MOST, SMALL, Pool, Tile, tiles_of


def held(pool: Pool) -> int:
    """Bytes that are accounted for: free pieces, and buffers of tiles."""
    return sum(size for _, size in pool.free) + sum(len(tile.buffers) * tile.size for tile in pool.tiles)


def pool_of(capacity: int, *tiles: Tile) -> Pool:
    pool = Pool(capacity)
    pool.tiles += tiles
    return pool


def tile(size: int, depth: int = 1, first: int = 0, last: int = 10) -> Tile:
    return Tile(size, depth, first, last, deque())


def used(made: Tile, until: float) -> None:
    made.buffers[-1].released = until


def test_a_tile_has_new_buffers_up_to_its_depth_and_then_the_oldest_again():
    made = tile(10, depth=2)
    pool = pool_of(100, made)
    assert pool.acquire(made, 0) == 0.0
    used(made, 5.0)
    assert pool.acquire(made, 0) == 0.0 and len(made.buffers) == 2
    used(made, 7.0)
    assert pool.acquire(made, 0) == 5.0 and len(made.buffers) == 2
    used(made, 9.0)
    assert pool.acquire(made, 0) == 7.0
    assert held(pool) == 100


def test_a_buffer_that_comes_again_has_no_content_yet():
    made = tile(10)
    pool = pool_of(100, made)
    pool.acquire(made, 0)
    made.buffers[-1].ready = 3.0
    used(made, 4.0)
    assert pool.acquire(made, 0) == 4.0 and made.buffers[-1].ready == 0.0


def test_a_new_buffer_is_only_taken_where_it_is_free_sooner():
    late, made = tile(60, last=0), tile(50, depth=2, first=1)
    pool = pool_of(110, late, made)
    pool.acquire(late, 0)
    used(late, 20.0)
    pool.acquire(made, 1)
    used(made, 4.0)
    # Its own buffer is free at 4; the bytes of the other tile, which is not live any more, at 20.
    assert pool.acquire(made, 1) == 4.0 and len(made.buffers) == 1
    used(made, 30.0)
    assert pool.acquire(made, 1) == 20.0 and len(made.buffers) == 2
    assert held(pool) == 110


def test_bytes_of_dead_tiles_go_to_others_the_earliest_first():
    a, b, made = tile(40, last=1), tile(40, last=1), tile(50, first=2)
    pool = pool_of(100, a, b, made)
    for other, until in ((a, 8.0), (b, 3.0)):
        pool.acquire(other, 0)
        used(other, until)
    assert pool.acquire(made, 2) == 3.0  # the 20 that are free, and 30 of those of b
    assert len(a.buffers) == 1 and not b.buffers
    assert held(pool) == 100


def test_live_tiles_keep_their_bytes_and_a_kernel_that_spills_waits_for_all():
    live, made = tile(80, last=5), tile(50, first=2)
    pool = pool_of(100, live, made)
    pool.acquire(live, 0)
    used(live, 6.0)
    assert pool.acquire(made, 2) == 6.0 and len(live.buffers) == 1
    gone = tile(50, first=6)
    pool.tiles.append(gone)
    used(made, 9.0)
    assert pool.acquire(gone, 11) == 6.0  # the first is dead now, and the second too, but later


@pytest.mark.parametrize(("position", "free_at"), [(0, 7.0), (10, 7.0), (11, 4.0)])
def test_a_tile_is_live_up_to_its_last_position(position, free_at):
    other, made = tile(60, last=10), tile(60, first=0, last=20, depth=2)
    pool = pool_of(120, other, made)
    pool.acquire(other, 0)
    used(other, 4.0)
    pool.acquire(made, position)
    used(made, 7.0)
    assert pool.acquire(made, position) == free_at


def test_nothing_is_taken_for_a_tile_of_no_bytes():
    made = tile(0)
    assert pool_of(10, made).acquire(made, 0) == 0.0


# tiles_of


def span(size: int, name: str = "", trips: int = 8, dma: bool = True, first: int = 0, last: int = 9):
    loops = (SimpleNamespace(trips=trips),)
    return first, last, SimpleNamespace(bytes=size, name=name, loops=loops, dma=dma)


def depths(*spans, capacity: int = 2**20, **how) -> list[int]:
    made = tiles_of(spans, capacity, **how)
    return [made[id(allocation)].depth for *_, allocation in spans]


def test_what_is_streamed_and_what_is_small_have_several_buffers():
    assert depths(span(100)) == [MOST]
    assert depths(span(100, dma=False)) == [2] and depths(span(SMALL, dma=False)) == [2]
    assert depths(span(SMALL + 1, dma=False)) == [1]
    assert depths(span(100, name="resident")) == [1]
    assert depths(span(100, trips=1)) == [1]
    assert depths(span(SMALL + 1)) == [MOST]


def test_no_more_buffers_than_fit():
    assert depths(span(100), capacity=250) == [2]
    assert depths(span(100), capacity=100) == [1] and depths(span(100), capacity=50) == [1]
    assert depths(span(100), capacity=400) == [4] and depths(span(100), capacity=399) == [3]
    assert depths(span(100), span(250, name="resident"), capacity=550) == [3, 1]


def test_small_tiles_are_served_first_and_each_has_two_before_one_has_three():
    assert depths(span(100), span(10), capacity=150) == depths(span(100), span(10), capacity=215) == [1, 4]
    assert depths(span(100), span(10), capacity=225) == [2, 2]
    assert depths(span(100), span(10), capacity=235) == [2, 3]


def test_tiles_that_are_not_live_at_once_do_not_share():
    assert depths(span(100, last=4), span(100, first=5), capacity=400) == [4, 4]
    assert depths(span(100, last=5), span(100, first=5), capacity=400) == [2, 2]


def test_buffers_take_whole_granules():
    spans = [span(100, dma=False), span(2049, dma=False)]
    made = tiles_of(spans, 2**14, granule=2048)
    assert [made[id(allocation)].size for *_, allocation in spans] == [2048, 4096]


@pytest.mark.parametrize(("in_flight", "depth"), [(0, 4), (200, 4), (300, 5), (550, 7), (600, 8), (10**6, 8)])
def test_small_transfers_have_as_many_buffers_as_hide_the_start_of_one(in_flight, depth):
    assert depths(span(100), in_flight=in_flight) == [depth]
