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
"""Timelines of traces written by hand, against answers worked out by hand."""

import pytest

from optimum_neuronmm.kernels.engines import DMA, GPSIMD, SCALAR, TENSOR, VECTOR
from optimum_neuronmm.kernels.latency import timeline
from optimum_neuronmm.kernels.latency.memory import SMALL


pytestmark = pytest.mark.simulation


# What waits for what


def test_an_engine_takes_one_instruction_at_a_time_and_others_do_not_wait(hand):
    a, b, c = (hand.tile(buffer="psum") for _ in range(3))
    assert hand.seconds([hand.work(TENSOR, 2, a), hand.work(TENSOR, 3, b)]) == 5
    assert hand.seconds([hand.work(TENSOR, 2, a), hand.work(TENSOR, 3, b), hand.work(GPSIMD, 4, c)]) == 5


def test_an_instruction_waits_for_what_it_reads(hand):
    a, b, c = (hand.tile(buffer="psum") for _ in range(3))
    first, reader = hand.work(TENSOR, 2, a), hand.work(SCALAR, 3, hand.tile(), a)
    assert hand.seconds([first, reader]) == 5
    assert hand.seconds([first, reader, hand.work(TENSOR, 4, b)]) == 6
    # Engines keep the order of the program: what could start at 0 is behind what starts at 2.
    assert hand.seconds([first, reader, hand.work(SCALAR, 4, c)]) == 9
    # All of what is read counts.
    other = hand.work(VECTOR, 5, b)
    assert hand.seconds([first, other, hand.work(SCALAR, 3, hand.tile(), a, b)]) == 8
    assert hand.seconds([first, other, hand.work(SCALAR, 3, hand.tile(), b, a)]) == 8


def test_what_is_written_in_several_instructions_is_complete_with_the_last(hand):
    a = hand.tile()
    parts = [hand.work(TENSOR, 5, a), hand.work(GPSIMD, 2, a)]
    assert hand.seconds([*parts, hand.work(SCALAR, 1, hand.tile(), a)]) == 6


def test_what_another_kernel_tensor_in_hbm_holds_must_be_there(hand):
    between, a, b = hand.tile(buffer="hbm"), hand.tile(), hand.tile()
    write, read = hand.store(3, a, between), hand.load(2, b, between)
    assert hand.seconds([hand.work(VECTOR, 4, a), write, read]) == 4 + 3 + 2
    assert hand.seconds([hand.work(VECTOR, 4, a), write, hand.load(2, b)]) == 4 + 3


# Buffers


@pytest.mark.parametrize(
    ("memory", "loading", "working", "seconds"),
    [
        (1000, 2, 3, 2 + 4 * 3),
        (1000, 3, 2, 4 * 3 + 2),
        (2, 2, 3, 2 + 4 * 3),
        (2, 3, 2, 4 * 3 + 2),
        (1, 2, 3, 4 * 5),  # memory for one buffer: transfers and work take turns
        (1, 3, 2, 4 * 5),
    ],
)
def test_transfers_overlap_with_work_where_memory_has_a_second_buffer(
    hand, streamed, memory, loading, working, seconds
):
    assert hand.seconds(streamed(4, loading, working).body, memory=memory) == seconds


def test_only_a_part_of_the_memory_is_held(hand, streamed):
    for fraction, seconds in ((1.0, 2 + 4 * 3), (0.5, 4 * 5)):
        assert hand.seconds(streamed(4).body, memory=2, fraction=fraction) == seconds


@pytest.mark.parametrize(("memory", "seconds"), [(1, 6 * 5), (2, 2 + 6 * 3)])
def test_a_tile_is_made_anew_in_its_innermost_loop(hand, memory, seconds):
    outer, inner = hand.loop(2), hand.loop(3)
    tile, total = hand.tile(1, [outer, inner]), hand.tile(buffer="psum")
    inner.body = [hand.load(2, tile), hand.work(TENSOR, 3, total, tile)]
    outer.body = [inner]
    assert hand.seconds([outer], memory=memory) == seconds


@pytest.mark.parametrize(
    ("memory", "loading", "working", "start", "seconds"),
    [
        (1000, 2, 3, 1, 1 + 2 + 4 * 3),  # only the first is waited for
        (1, 2, 3, 1, 4 * (1 + 2 + 3)),
        (2, 3, 2, 2, 17),  # loads at 2, 5, 9 (the first buffer is free at 7) and 12
        (3, 3, 2, 2, 2 + 4 * 3 + 2),
    ],
)
def test_the_start_of_a_transfer_is_hidden_by_those_under_way(
    hand, streamed, memory, loading, working, start, seconds
):
    assert hand.seconds(streamed(4, loading, working).body, memory=memory, start=start) == seconds


def test_a_tile_that_stays_is_filled_when_its_last_reader_is_done(hand):
    for name, seconds in (("resident", 2 * (2 + 3)), ("", 2 + 2 * 3)):
        loop = hand.loop(2)
        tile, total = hand.tile(loops=[loop], name=name), hand.tile(buffer="psum")
        loop.body = [hand.load(2, tile), hand.work(TENSOR, 3, total, tile)]
        assert hand.seconds([loop]) == seconds


@pytest.mark.parametrize(("size", "seconds"), [(SMALL, 2 + 3 * 3), (SMALL + 1, 3 * (2 + 3))])
def test_small_tiles_that_are_computed_have_two_buffers_and_large_ones_one(hand, size, seconds):
    loop = hand.loop(3)
    tile, total = hand.tile(size, [loop]), hand.tile(buffer="psum")
    loop.body = [hand.work(VECTOR, 2, tile), hand.work(TENSOR, 3, total, tile)]
    assert hand.seconds([loop], memory=10**5) == seconds


@pytest.mark.parametrize(("banks", "seconds"), [(1, 2 + 3 * 3), (2, 2 + 3 * 3), (8, 3 * (2 + 3))])
def test_sums_wait_for_a_bank(hand, banks, seconds):
    loop = hand.loop(3)
    bank = hand.tile(2048 * banks, [loop], buffer="psum")
    loop.body = [hand.work(TENSOR, 2, bank), hand.work(SCALAR, 3, hand.tile(), bank)]
    assert hand.seconds([loop]) == seconds


@pytest.mark.parametrize(("outside", "seconds"), [(6, 2 + 3 * 3), (7, 3 * (2 + 3))])
def test_a_sum_takes_a_bank_however_small(hand, outside, seconds):
    loop = hand.loop(3)
    bank, kept = hand.tile(1, [loop], buffer="psum"), [hand.tile(buffer="psum") for _ in range(outside)]
    loop.body = [hand.work(TENSOR, 2, bank), hand.work(SCALAR, 3, hand.tile(), bank)]
    used = hand.work(GPSIMD, 0, hand.tile(), *kept)
    assert hand.seconds([*(hand.work(TENSOR, 0, tile) for tile in kept), loop, used]) == seconds


@pytest.mark.parametrize(("saturated", "seconds"), [(1, 27), (6 * 128 / 10, 19)])
def test_small_transfers_have_as_many_buffers_as_are_under_way(hand, streamed, saturated, seconds):
    """Eight loads of a byte to each partition, which start after 10 s: with four buffers the fifth waits for the first."""
    assert hand.seconds(streamed(8, 1, 1).body, start=10, saturated=saturated, whole=True) == seconds


@pytest.mark.parametrize(("memory", "seconds"), [(11, 6), (12, 5)])
def test_what_is_written_is_in_use_until_then(hand, memory, seconds):
    body = [hand.work(VECTOR, 5, hand.tile(6)), hand.work(SCALAR, 1, hand.tile(6))]
    assert hand.seconds(body, memory=memory) == seconds


@pytest.mark.parametrize(("memory", "seconds"), [(11, 10), (12, 8)])
def test_memory_is_free_when_its_tile_was_used_for_the_last_time(hand, memory, seconds):
    a, b, total = hand.tile(6), hand.tile(6), hand.tile(buffer="psum")
    body = [hand.load(2, a), hand.work(TENSOR, 5, total, a), hand.load(2, b), hand.work(TENSOR, 1, total, b)]
    assert hand.seconds(body, memory=memory) == seconds


# DMA


def test_stores_take_bandwidth_from_loads(hand):
    """Loads at 0, 4 and 8: each store of two seconds delays the load that follows."""
    loop = hand.loop(3)
    a, b = hand.tile(loops=[loop]), hand.tile(loops=[loop])
    loop.body = [hand.load(2, a), hand.work(VECTOR, 1, b, a), hand.store(2, b)]
    assert hand.seconds([loop]) == 13


@pytest.mark.parametrize(("second", "seconds"), [(1, 10), (3, 12), (6, 15)])
def test_stores_delay_loads_only_beyond_the_time_that_loads_are_idle(hand, second, seconds):
    """The loads are idle from 2 on, until the first store has ended at 8; what stores take beyond those 6 s delays them."""
    a, b, c, between = hand.tile(), hand.tile(), hand.tile(), hand.tile(buffer="hbm")
    body = [hand.load(2, a), hand.work(VECTOR, 1, b, a), hand.store(5, b, between), hand.store(second, b)]
    assert hand.seconds([*body, hand.load(2, c, between)]) == seconds


def test_the_last_stores_share_with_loads_too(hand):
    a, b, c = hand.tile(), hand.tile(), hand.tile()
    body = [hand.load(2, a), hand.work(VECTOR, 1, b, a), hand.load(5, c), hand.store(4, b)]
    assert hand.seconds(body) == 2 + 5 + 4


def test_a_store_is_paid_for_once(hand):
    a, b, c = hand.tile(), hand.tile(), hand.tile()
    stored = [hand.load(2, a), hand.store(3, a)]
    assert hand.seconds([*stored, hand.load(2, b), hand.load(2, c)]) == 2 + 3 + 2 + 2


def test_few_descriptors_take_longer_and_leave_the_other_engines_to_others(hand):
    a, b, total = hand.tile(), hand.tile(), hand.tile(buffer="psum")
    few, more = hand.load(2, a, descriptors=4), hand.load(2, b)
    assert hand.seconds([few]) == 2 * 16 / 4
    assert hand.seconds([few, more]) == 8  # the second is done at 4
    assert hand.seconds([few, more, hand.work(TENSOR, 3, total, b)]) == 8
    assert hand.seconds([few, more, hand.work(TENSOR, 3, total, a)]) == 8 + 3


# Ports


@pytest.mark.parametrize(
    ("target", "first", "second", "buffer", "seconds"),
    [
        ("trn1", VECTOR, SCALAR, "psum", 6),
        ("trn2", VECTOR, SCALAR, "psum", 3),
        ("trn1", VECTOR, SCALAR, "sbuf", 3),
        ("trn1", VECTOR, GPSIMD, "sbuf", 6),
        ("trn2", VECTOR, GPSIMD, "sbuf", 3),
        ("trn1", TENSOR, SCALAR, "psum", 3),
    ],
)
def test_engines_that_share_a_port_take_turns(hand, target, first, second, buffer, seconds):
    a, b, c, d = (hand.tile(buffer=buffer) for _ in range(4))
    body = [hand.work(first, 3, c, a), hand.work(second, 3, d, b)]
    assert hand.seconds(body, target=target) == seconds


@pytest.mark.parametrize(("target", "seconds"), [("trn1", 6), ("trn2", 3)])
def test_a_port_serves_reads_and_writes(hand, target, seconds):
    reading = hand.work(VECTOR, 3, hand.tile(), hand.tile(buffer="psum"))
    writing = hand.work(SCALAR, 3, hand.tile(buffer="psum"), hand.tile())
    for body in ([reading, writing], [writing, reading]):
        assert hand.seconds(body, target=target) == seconds


@pytest.mark.parametrize(("target", "seconds"), [("trn1", 10 + 4), ("trn2", 10)])
def test_a_loop_of_one_engine_holds_its_port_to_its_end(hand, target, seconds):
    loop, total = hand.loop(10), hand.tile()
    loop.body = [hand.work(VECTOR, 1, total, hand.tile(buffer="psum"))]
    assert hand.seconds([loop, hand.work(SCALAR, 4, hand.tile(), hand.tile(buffer="psum"))], target=target) == seconds


@pytest.mark.parametrize(("memory", "seconds"), [(11, 2 + 10 + 2 + 1), (12, 2 + 10 + 1)])
def test_what_follows_a_loop_of_one_engine_waits_for_its_end(hand, memory, seconds):
    loop, a, b, total = hand.loop(10), hand.tile(6), hand.tile(6), hand.tile(buffer="psum")
    loop.body = [hand.work(TENSOR, 1, total, a)]
    assert hand.seconds([hand.load(2, a), loop, hand.work(SCALAR, 3, hand.tile(), total)]) == 2 + 10 + 3
    after = [hand.load(2, b), hand.work(TENSOR, 1, total, b)]
    assert hand.seconds([hand.load(2, a), loop, *after], memory=memory) == seconds


# Kernels and programs


def test_programs_run_side_by_side_and_kernels_in_a_row(hand, streamed):
    programs = []
    for count in (1, 4):
        program = hand.loop(count, "program")
        program.body = streamed(5).body
        programs.append(program)
    assert [hand.seconds([program]) for program in programs] == [17, 17]
    both = hand.timeline(programs, record=True)
    assert both.seconds == 2 * 17
    loads = [start for engine, _, start, _ in both.events if engine.startswith(DMA)]
    assert min(loads) == 0 and loads[5] == 17  # nothing of the second kernel begins before the first has ended


# Loops that are not run to their end


def steady(hand, streamed, kind: str) -> list:
    """Loops that settle, followed by what depends on how they end."""
    if kind in ("bound by work", "bound by loads", "one buffer"):
        loading, working = (2.0, 3.0) if kind == "bound by work" else (3.0, 2.0)
        made = streamed(200, loading, working, size=900 if kind == "one buffer" else 1)
        other = hand.tile(900)
        after = [hand.work(SCALAR, 5.0, hand.tile(), made.total), hand.load(4.0, other)]
        return [*made.body, *after, hand.work(TENSOR, 1.0, made.total, other)]
    if kind == "stores":
        loop, between = hand.loop(200), hand.tile(buffer="hbm")
        a, b = hand.tile(loops=[loop]), hand.tile(loops=[loop])
        loop.body = [hand.load(2.0, a), hand.work(VECTOR, 1.0, b, a), hand.store(2.5, b, between)]
        return [loop, hand.load(3.0, hand.tile(), between)]
    if kind == "stores only":
        loop = hand.loop(200)
        b = hand.tile(loops=[loop])
        loop.body = [hand.work(VECTOR, 1.0, b), hand.store(2.5, b)]
        return [hand.load(1.0, hand.tile()), loop, hand.load(3.0, hand.tile())]
    if kind == "nested":
        outer, inner = hand.loop(30), hand.loop(40)
        strip, a = hand.tile(loops=[outer], name="resident"), hand.tile(loops=[outer, inner])
        total, out = hand.tile(2048, [outer], buffer="psum"), hand.tile(loops=[outer])
        inner.body = [hand.load(2.0, a), hand.work(TENSOR, 1.5, total, a, strip)]
        outer.body = [hand.load(7.0, strip), inner, hand.work(SCALAR, 3.0, out, total), hand.store(4.0, out)]
        return [outer]
    loop, leaf = hand.loop(50), hand.loop(60)  # a leaf in a loop
    a, total = hand.tile(loops=[loop]), hand.tile(buffer="psum")
    leaf.body = [hand.work(TENSOR, 0.25, total, a)]
    loop.body = [hand.load(14.0, a), leaf]
    return [loop, leaf, hand.work(SCALAR, 2.0, hand.tile(), total), hand.load(1.0, hand.tile())]


KINDS = ("bound by work", "bound by loads", "one buffer", "stores", "stores only", "nested", "leaf")


@pytest.mark.parametrize("start", [0.0, 1.25])
@pytest.mark.parametrize("kind", KINDS)
def test_a_steady_loop_is_what_it_is_when_run_to_its_end(hand, streamed, kind, start):
    body = steady(hand, streamed, kind)
    rest, whole = (hand.seconds(body, start=start, whole=whole) for whole in (False, True))
    assert rest == pytest.approx(whole, rel=1e-9)


def test_a_steady_loop_by_hand(hand, streamed):
    made = streamed(1000)
    assert hand.seconds(made.body) == pytest.approx(2 + 1000 * 3)
    assert hand.seconds([*made.body, hand.work(SCALAR, 5, hand.tile(), made.total)]) == pytest.approx(3002 + 5)
    # One buffer, and a tile that takes its memory afterwards.
    made, other = streamed(1000, size=900), hand.tile(900)
    assert hand.seconds([*made.body, hand.load(4, other)]) == pytest.approx(5000 + 4)
    # What was there before the loop is there: an engine that has nothing to do in it begins at 2.
    made, early = streamed(1000), hand.tile()
    used = hand.work(GPSIMD, 1, hand.tile(), early)
    made.loop.body.append(hand.work(TENSOR, 1, made.total, early))
    body = [hand.load(2, early), *made.body, used, hand.work(GPSIMD, 10_000, hand.tile(), early)]
    assert hand.seconds(body) == pytest.approx(2 + 1 + 10_000)
    # All that a loop stores delays the load that follows.
    loop, between = hand.loop(1000), hand.tile(buffer="hbm")
    loop.body = [hand.store(2, hand.tile(), between)]
    assert hand.seconds([loop, hand.load(3, hand.tile())]) == pytest.approx(2000 + 3)
    assert hand.seconds([loop, hand.load(3, hand.tile(), between)]) == pytest.approx(2000 + 3)


@pytest.mark.parametrize("trips", [4, 5, 6, 7, 8, 501, 502])
def test_a_loop_that_repeats_every_second_iteration(hand, streamed, trips):
    """Two buffers, and transfers whose start is not hidden: they begin at 2, 5, 9, 12, 16, 19 ..."""
    found = hand.seconds(streamed(trips, 3, 2).body, memory=2, start=2)
    # Where an odd number of iterations is left out, the mean of both stands for the last.
    assert found == pytest.approx(2 + 3 + 2 + 3 * (trips // 2) + 4 * ((trips - 1) // 2), abs=0.5)


@pytest.mark.parametrize("trips", [23, 24, 25, 240, 1000])
def test_a_loop_that_does_not_settle_goes_on_as_in_the_mean(hand, trips):
    """Three buffers turn, of three tiles in two orders: the shift of an iteration is that of the last ones in the mean."""
    loop = hand.loop(trips)
    tiles = [hand.tile(300, [loop]) for _ in range(3)]
    total = hand.tile(buffer="psum")
    loop.body = [hand.load(2.0 + n, tile) for n, tile in enumerate(tiles)]
    loop.body += [hand.work(TENSOR, 1.0 + n, total, tile) for n, tile in enumerate(tiles)]
    rest, whole = (hand.seconds([loop], whole=whole) for whole in (False, True))
    assert rest == pytest.approx(whole, rel=1e-3)


# Events


def test_events_by_hand(hand, streamed):
    made = hand.timeline(streamed(3).body, record=True)
    assert made.events == [
        ("DMA load", "load", 0, 2), (TENSOR, "work", 2, 3),
        ("DMA load", "load", 2, 2), (TENSOR, "work", 5, 3),
        ("DMA load", "load", 4, 2), (TENSOR, "work", 8, 3),
    ]  # fmt: skip
    assert hand.timeline(streamed(3).body).events == []


def test_events_of_a_loop_of_one_engine(hand):
    loop, a, total = hand.loop(10), hand.tile(), hand.tile(buffer="psum")
    loop.body = [hand.work(TENSOR, 1, total, a), hand.work(TENSOR, 2, total, a)]
    events = hand.timeline([hand.load(4, a), loop], record=True).events
    assert events == [
        ("DMA load", "load", 0, 4),
        (TENSOR, "work", 4, 1),
        (TENSOR, "work", 5, 2),
        (TENSOR, "work x9", 7, 27),
    ]


def test_events_are_limited(hand, streamed, monkeypatch):
    body = streamed(500).body
    monkeypatch.setattr(timeline, "EVENTS", 1000)
    all_of_it = hand.timeline(body, record=True)
    assert len(all_of_it.events) == 1000 and not all_of_it.cut
    for limit in (999, 21):
        monkeypatch.setattr(timeline, "EVENTS", limit)
        fewer = hand.timeline(body, record=True)
        assert fewer.events == all_of_it.events[:limit] and fewer.cut  # the beginning, without a hole
        assert fewer.seconds == pytest.approx(2 + 500 * 3)
    assert not hand.timeline(body).cut


def test_events_of_kernels_in_a_row_are_limited_together(hand, streamed, monkeypatch):
    programs = [hand.loop(1, "program") for _ in range(2)]
    for program in programs:
        program.body = streamed(4).body
    whole = hand.timeline(programs, record=True)
    assert len(whole.events) == 16 and not whole.cut
    for limit in (12, 8, 5):
        monkeypatch.setattr(timeline, "EVENTS", limit)
        made = hand.timeline(programs, record=True)
        assert made.events == whole.events[:limit] and made.cut and made.seconds == whole.seconds


def test_a_long_loop_of_one_engine_is_one_event(hand, monkeypatch):
    # Far more instructions than events: nothing is left out.
    loop, outer = hand.loop(1000), hand.loop(3)
    a, total = hand.tile(loops=[outer]), hand.tile(buffer="psum")
    loop.body = [hand.work(TENSOR, 1, total, a)]
    outer.body = [hand.load(2, a), loop]
    monkeypatch.setattr(timeline, "EVENTS", 9)
    made = hand.timeline([outer], record=True)
    assert not made.cut and sum(took for engine, _, _, took in made.events if engine == TENSOR) == 3000
