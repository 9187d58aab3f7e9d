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
"""From a trace to a timeline: every engine takes its instructions in order, and waits for tiles and for memory.

Rules:

- An instruction starts when its engine is free, what it reads is complete, and the buffer that it writes is free: a tile that
  is made anew in each iteration of a loop has several buffers as far as memory allows (`memory`).
- Loads are one queue and stores another. They share the bandwidth: what a store takes is added to the next load. A transfer
  starts `Machine.dma_start` after what it waits for; in a queue that is busy nobody notices.
- Where engines share a port of a memory (NeuronCore-v2), instructions that use it exclude each other.
- Programs of a grid run on a core each. Kernels in a row start one after the other's end.

Loops are not run to their end: once an iteration shifts all engines that it uses by the same time as the one before did, the
rest is a multiple of that. Where they never do, the slowest engine's mean over the last iterations stands for the rest.
"""

from dataclasses import dataclass, field

from ..engines import DMA
from ..simulator.trace import Instruction, Loop, Operand, Trace
from .dma import parallel
from .instructions import Costs
from .memory import Buffer, Pool, Tile, tiles_of


LOAD, STORE = "load", "store"  # the queues of DMA
PATIENCE = 24  # iterations until the mean of the last ones stands for the rest
PRECISION = 1e-6  # relative, of two shifts that count as equal
EVENTS = 200_000  # recorded at most, of a trace
CUT = f"the timeline ends after {EVENTS:,} events of a kernel: what follows is in the times, and not in the picture"


@dataclass
class Timeline:
    """Attributes: seconds until all is done; events, if recorded: (engine, name, start, seconds); cut: only the first of them."""

    seconds: float
    events: list[tuple[str, str, float, float]] = field(default_factory=list)
    cut: bool = False


def schedule(trace: Trace, costs: Costs, record: bool = False, whole: bool = False) -> Timeline:
    """The timeline of a trace on one core.

    Args:
        record: keep the first `EVENTS` events, in the order of the program. Until there are so many, loops run to their end.
        whole: loops run to their end. Slow, and for comparison. Those of one engine count as one instruction even so.
    """
    made = Timeline(0.0)
    for part in trace.body:
        run = _Run(Trace([part], trace.allocations), costs, EVENTS - len(made.events) if record else 0, whole)
        run.all([part])
        made.events += [(engine, name, start + made.seconds, took) for engine, name, start, took in run.events]
        made.cut |= record and run.left_out
        made.seconds += run.end()
    return made


def _of_one_engine(loop: Loop) -> bool:
    """Whether the body is instructions of one engine other than DMA, on tiles that are made outside of it."""
    engines = {entry.engine for entry in loop.body if isinstance(entry, Instruction)}
    return (
        len(engines) == 1
        and DMA not in engines
        and not any(isinstance(entry, Loop) for entry in loop.body)
        and not any(loop in operand.allocation.loops for entry in loop.body for operand in (*entry.reads, entry.write))
    )


class _Run:
    """The state of the machine while one kernel is scheduled."""

    def __init__(self, trace: Trace, costs: Costs, room: int, whole: bool):
        """`room`: events that are kept."""
        self.costs, self.room, self.whole = costs, room, whole
        machine, constants = costs.machine, costs.constants
        self.start = machine.dma_start
        self.engines = machine.dma_engines
        # When each engine, queue and port is free.
        self.free: dict[str, float] = {}
        self.debt = 0.0  # of stores, to be paid by loads
        self.done = 0.0
        self.hbm: dict[int, float] = {}  # id of an allocation of the kernel in HBM -> when it was last written
        self.pools = {"sbuf": Pool(machine.sbuf_budget), "psum": Pool(machine.psum_partition)}
        self.tiles: dict[int, Tile] = {}
        self.events: list[tuple[str, str, float, float]] = []
        self.left_out = False  # an event, for want of room
        self.scopes: dict[int, object] = {}  # id of a loop -> its present iteration
        self.seconds = {}
        self.position: dict[int, int] = {}
        for position, (instruction, _) in enumerate(trace.instructions()):
            self.position[id(instruction)] = position
            self.seconds[id(instruction)] = costs.seconds(instruction)
        for name, pool in self.pools.items():
            granule = machine.psum_bank if name == "psum" else 1
            in_flight = int(self.start * constants.saturated) // machine.partitions
            tiles = tiles_of(trace.spans(name).values(), pool.capacity, granule, in_flight)
            self.tiles |= tiles
            pool.tiles += tiles.values()
        self.count = 0  # instructions so far
        # id of a loop -> its tiles, engines, and the allocations that it writes.
        self.used: dict[int, tuple[list[Tile], set[str], set[int]]] = {}

    def end(self) -> float:
        return max(self.done, self.free.get(LOAD, 0.0) + self.debt)

    # Loops

    def all(self, body: list) -> None:
        for entry in body:
            if isinstance(entry, Loop):
                self.loop(entry)
            else:
                self.issue(entry)

    def loop(self, loop: Loop) -> None:
        trips = 1 if loop.kind == "program" else loop.trips
        if trips > 1 and _of_one_engine(loop):
            self._repeat(loop, trips)
            return
        shifts: list[dict[str, float]] = []
        since = self.count
        for done in range(1, trips + 1):
            before, debt = dict(self.free), self.debt
            self.scopes[id(loop)] = object()
            self.all(loop.body)
            if self.whole or len(self.events) < self.room or done == trips:
                continue
            shifts.append(
                {name: time - before.get(name, 0.0) for name, time in self.free.items() if time != before.get(name)}
            )
            shift = self._steady(shifts)
            if shift is not None:
                self._skip(loop, since, (trips - done) * shift, (trips - done) * (self.debt - debt))
                return

    @staticmethod
    def _steady(shifts: list[dict[str, float]]) -> float | None:
        """What every further iteration shifts all by; None while that is not to be seen."""
        if len(shifts) >= PATIENCE:
            recent = shifts[-PATIENCE // 3 :]
            return max(sum(shift.get(name, 0.0) for shift in recent) for name in recent[-1]) / len(recent)
        for period in (1, 2):
            if len(shifts) < 2 * period:
                continue
            now = [sum(shift.get(name, 0.0) for shift in shifts[-period:]) for name in shifts[-1]]
            before = [sum(shift.get(name, 0.0) for shift in shifts[-2 * period : -period]) for name in shifts[-1]]
            if max(now + before) - min(now + before) <= PRECISION * max(now):
                return now[0] / period
        return None

    def _skip(self, loop: Loop, since: int, time: float, debt: float) -> None:
        """The state after the iterations that are left out; `since`: the instructions before the loop."""
        if id(loop) not in self.used:
            inner = [instruction for instruction, _ in Trace([loop], []).instructions()]
            operands = [operand for i in inner for operand in (*i.reads, i.write)]
            tiles = {
                id(o.allocation): self.tiles[id(o.allocation)] for o in operands if id(o.allocation) in self.tiles
            }
            names = {name for i in inner for name in self._names(i)}
            self.used[id(loop)] = list(tiles.values()), names, {id(i.write.allocation) for i in inner}
        tiles, names, written = self.used[id(loop)]
        for name in names:
            if name in self.free:
                self.free[name] += time
        for tile in tiles:
            for buffer in tile.buffers:
                buffer.ready += time if buffer.written > since else 0.0
                buffer.released += time if buffer.used > since else 0.0
        for key in written & self.hbm.keys():
            self.hbm[key] += time
        self.debt += debt
        self.done += time

    def _repeat(self, loop: Loop, trips: int) -> None:
        """All iterations at once: after the first one nothing is waited for."""
        self.scopes[id(loop)] = object()
        engine = loop.body[0].engine
        before = self.done
        self.all(loop.body)
        rest = (trips - 1) * sum(self.seconds[id(entry)] for entry in loop.body)
        self.done = before
        self.free[engine] += rest
        for entry in loop.body:
            for port in self._ports(entry):
                self.free[port] = max(self.free[port], self.free[engine])
            for operand in (*entry.reads, entry.write):
                tile = self.tiles.get(id(operand.allocation))
                if tile is not None:
                    tile.buffers[-1].released = max(tile.buffers[-1].released, self.free[engine])
            if (tile := self.tiles.get(id(entry.write.allocation))) is not None:
                tile.buffers[-1].ready = max(tile.buffers[-1].ready, self.free[engine])
        self.done = max(self.done, self.free[engine])
        self._event(engine, f"{loop.body[-1].name} x{trips - 1}", self.free[engine] - rest, rest)

    def _event(self, *event) -> None:
        if len(self.events) < self.room:
            self.events.append(event)
        else:
            self.left_out = True

    # Instructions

    def _names(self, instruction: Instruction) -> tuple[str, ...]:
        """The engine or queue of an instruction, and the ports that it needs for itself."""
        if instruction.engine == DMA:
            return (STORE if instruction.hbm_written else LOAD,)
        return (instruction.engine, *self._ports(instruction))

    def _ports(self, instruction: Instruction) -> tuple[str, ...]:
        """The ports of memories that it shares with another engine."""
        shared = self.costs.machine.shared_ports
        if not any(instruction.engine in engines for _, *engines in shared):
            return ()
        buffers = {operand.buffer for operand in (*instruction.reads, instruction.write)}
        return tuple(
            f"{buffer} of {first} and {second}"
            for buffer, first, second in shared
            if instruction.engine in (first, second) and buffer in buffers
        )

    def _buffer(self, operand: Operand, position: int) -> tuple[Buffer | None, float]:
        """The buffer of an operand on chip, and when its memory is free, of a buffer that is new."""
        allocation = operand.allocation
        tile = self.tiles.get(id(allocation))
        if tile is None:
            return None, 0.0
        scope = self.scopes.get(id(allocation.loops[-1])) if allocation.loops else None
        if tile.buffers and tile.scope is scope:
            return tile.buffers[-1], 0.0
        tile.scope = scope
        free = self.pools[operand.buffer].acquire(tile, position)
        return tile.buffers[-1], free

    def issue(self, instruction: Instruction) -> None:
        position, took = self.position[id(instruction)], self.seconds[id(instruction)]
        names = self._names(instruction)
        wait = 0.0
        reads = []
        for operand in instruction.reads:
            if operand.buffer == "hbm":
                wait = max(wait, self.hbm.get(id(operand.allocation), 0.0))
                continue
            buffer, _ = self._buffer(operand, position)
            wait = max(wait, buffer.ready)
            reads.append(buffer)
        target, free = None, 0.0
        if instruction.write.buffer != "hbm":
            target, free = self._buffer(instruction.write, position)
        wait = max(wait, free)
        if instruction.engine == DMA:
            start, end = self._transfer(names[0], instruction, wait, took)
        else:
            start = max(wait, *(self.free.get(name, 0.0) for name in names))
            end = start + took
            for name in names:
                self.free[name] = end
        self.count += 1
        for buffer in reads:
            buffer.released, buffer.used = max(buffer.released, end), self.count
        if target is not None:
            target.ready = max(target.ready, end)
            target.released = max(target.released, end)
            target.written = target.used = self.count
        else:
            key = id(instruction.write.allocation)
            self.hbm[key] = max(self.hbm.get(key, 0.0), end)
        self.done = max(self.done, end)
        engine = f"{DMA} {names[0]}" if instruction.engine == DMA else instruction.engine
        self._event(engine, instruction.name, start, end - start)

    def _transfer(self, queue: str, instruction: Instruction, wait: float, took: float) -> tuple[float, float]:
        """(start, end) of a DMA."""
        start = max(self.free.get(queue, 0.0), wait + self.start)
        if queue == LOAD:
            # What stores took since the last load; idle time of the queue pays for it.
            idle = start - self.free.get(queue, 0.0)
            start += max(0.0, self.debt - idle)
            self.debt = 0.0
        else:
            self.debt += took
        self.free[queue] = start + took
        return start, start + took / parallel(instruction.hbm_bytes, instruction.run, self.engines)
