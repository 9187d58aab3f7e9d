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
"""What a kernel did: its instructions as a tree of loops, and what can be counted on it.

A loop's body is kept once, with its trip count, so that the trace of a kernel has the size of its source and not of its
data. Every count below multiplies by the trip counts of the loops around an instruction.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(eq=False)
class Allocation:
    """A tensor that the kernel made: `bytes` per partition on chip, in all in HBM."""

    key: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    buffer: str
    bytes: int
    loops: "tuple[Loop, ...]"  # that it was made in
    dma: bool = False  # filled or drained by a DMA


@dataclass(frozen=True)
class Operand:
    """What an instruction reads or writes: a region of an allocation."""

    allocation: Allocation
    shape: tuple[int, ...]
    dtype: str
    buffer: str
    offset: tuple  # symbolic, in elements
    contiguous: int  # elements in a row, within a partition

    @property
    def elements(self) -> int:
        """Elements per partition."""
        count = 1
        for size in self.shape[1:]:
            count *= size
        return count


@dataclass(eq=False)
class Instruction:
    """One instruction: `name` of the operation, `reads` in the order of its arguments."""

    name: str
    engine: str
    reads: tuple[Operand, ...]
    write: Operand | None = None
    flops: int = 0
    transpose: bool = False
    accumulate: bool = False
    hbm_read: int = 0
    hbm_written: int = 0
    run: int = 0  # bytes of one descriptor of a DMA
    attributes: dict = field(default_factory=dict)

    @property
    def hbm_bytes(self) -> int:
        return self.hbm_read + self.hbm_written


@dataclass(eq=False)
class Loop:
    """`trips` runs of `body`, whose entries are instructions and loops. `kind`: affine, sequential or program."""

    kind: str
    trips: int
    body: list = field(default_factory=list)
    key: int = 0

    @property
    def label(self) -> str:
        return f"the {self.kind} loop of {self.trips}"


class Trace:
    """The instructions of one kernel, or of several that run one after the other."""

    def __init__(self, body: list[Loop], allocations: list[Allocation]):
        self.body, self.allocations = body, allocations

    def __add__(self, other: "Trace") -> "Trace":
        return Trace(self.body + other.body, self.allocations + other.allocations)

    def instructions(self) -> Iterator[tuple[Instruction, int]]:
        """Each instruction of the tree, with the number of times that it runs."""
        stack = [(entry, 1) for entry in reversed(self.body)]
        while stack:
            entry, times = stack.pop()
            if isinstance(entry, Loop):
                stack.extend((inner, times * entry.trips) for inner in reversed(entry.body))
            else:
                yield entry, times

    def total(self, attribute: str) -> int:
        return sum(getattr(instruction, attribute) * times for instruction, times in self.instructions())

    @property
    def hbm_bytes(self) -> int:
        """Bytes read from and written to HBM."""
        return self.total("hbm_bytes")

    @property
    def flops(self) -> int:
        """FLOPs of matrix products, transposes not counted."""
        return sum(i.flops * n for i, n in self.instructions() if not i.transpose)

    @property
    def transpose_flops(self) -> int:
        """FLOPs that the tensor engine spends on transposes."""
        return sum(i.flops * n for i, n in self.instructions() if i.transpose)

    @property
    def counts(self) -> Counter:
        """Instructions by name."""
        counts = Counter()
        for instruction, times in self.instructions():
            counts[instruction.name] += times
        return counts

    @property
    def runs(self) -> Counter:
        """HBM bytes by the length in bytes of the contiguous run (the descriptor) that they move in."""
        runs = Counter()
        for instruction, times in self.instructions():
            if instruction.run:
                runs[instruction.run] += instruction.hbm_bytes * times
        return runs

    def bytes_in_runs_of(self, length: int) -> float:
        """The fraction of the HBM bytes that move in runs of at least `length` bytes."""
        runs = self.runs
        return sum(b for run, b in runs.items() if run >= length) / max(1, sum(runs.values()))

    def bytes_of(self, name: str) -> int:
        """HBM bytes that move to or from the tensor of this name: an argument, or an allocation."""
        return sum(
            instruction.hbm_bytes * times
            for instruction, times in self.instructions()
            if instruction.hbm_bytes
            and any(o.allocation.name == name and o.buffer == "hbm" for o in (*instruction.reads, instruction.write))
        )

    def spans(self, buffer: str) -> dict[int, tuple[int, int, Allocation]]:
        """When each allocation of `buffer` is live: (position of the first access, of the last, allocation), by its id.

        Positions count the instructions of the tree in their order. One that is made outside of a loop and used inside is live
        for the whole loop.
        """
        spans: dict[int, tuple] = {}
        position = 0

        def touch(operand: Operand, loops: tuple[tuple[Loop, int, int], ...], position: int) -> None:
            allocation = operand.allocation
            if operand.buffer != buffer:
                return
            outside = [entry for entry in loops[len(allocation.loops) :] if entry[0].trips > 1]
            first, last = (outside[0][1], outside[0][2]) if outside else (position, position)
            known = spans.get(id(allocation), (first, last))
            spans[id(allocation)] = min(known[0], first), max(known[1], last), allocation

        def length(entry) -> int:
            return sum(map(length, entry.body)) if isinstance(entry, Loop) else 1

        def walk(body: list, loops: tuple) -> None:
            nonlocal position
            for entry in body:
                if isinstance(entry, Loop):
                    walk(entry.body, (*loops, (entry, position, position + length(entry) - 1)))
                else:
                    for operand in (*entry.reads, entry.write):
                        if operand is not None:
                            touch(operand, loops, position)
                    position += 1

        walk(self.body, ())
        return spans

    def peak(self, buffer: str, buffered: bool = False, granule: int = 1) -> int:
        """The most bytes per partition of `buffer` (sbuf, psum) that are live at once.

        An allocation is live from its first write to its last access; one that is made outside of a loop and used inside is
        live for the whole loop. `buffered` counts twice what a DMA fills or drains in a loop: the second buffer is what lets
        the transfer of one iteration overlap with the work of another. A tile named "resident" is filled once for much work and
        counts once. `granule`: bytes that an allocation is rounded up to.
        """
        return self.held(buffer, buffered, granule)[0]

    def held(self, buffer: str, buffered: bool = False, granule: int = 1) -> tuple[int, list[tuple[int, Allocation]]]:
        """What `peak` counts, and the allocations that are live there: (bytes, allocation), the largest first."""
        changes: Counter = Counter()
        sizes = []
        for first, last, allocation in self.spans(buffer).values():
            size = -(-allocation.bytes // granule) * granule
            streamed = allocation.dma and allocation.name != "resident"
            if buffered and streamed and any(loop.trips > 1 for loop in allocation.loops):
                size *= 2
            sizes.append((first, last, size, allocation))
            changes[first] += size
            changes[last + 1] -= size
        peak = live = at = 0
        for position in sorted(changes):
            live += changes[position]
            if live > peak:
                peak, at = live, position
        there = [(size, allocation) for first, last, size, allocation in sizes if first <= at <= last]
        return peak, sorted(there, key=lambda item: (-item[0], item[1].key))
