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
"""A stage of a kernel, one weight streamed through it: the blocks that it may have, what they hold, and what they take.

Bytes of SBUF are counted per partition. A stage is judged by the seconds of its busiest engine and by what its first
transfer keeps the others waiting (`latency.work`): all its blocks that fit are looked at.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from .engines import DMA, SCALAR, TENSOR, VECTOR
from .latency.work import Rates, emptying, multiplying, streaming
from .tiling import Blocks, F, P, counted, tiles


SPARE = 0.25  # what a second of DMA costs where another engine is busier
SOON = 2.5e-6  # seconds: a first transfer that is there by then keeps nobody waiting
HIDDEN = 0.2  # of the first transfer of a later stage, whose rest passes while the stage before works
LONG = 2**13  # columns of a transfer, of all its tiles: beyond them, more are no better
BANKS = 8  # of PSUM, on every machine
DEPTHS = (256, 512, 1024)  # of transfers that stay on chip while tiles are summed abreast


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def sizes(extent: int, exact: bool) -> list[int]:
    """Sizes of blocks of a dimension, in whole tiles: dividing it if `exact`, since it is the rank; the whole of it too."""
    count = tiles(extent)
    if exact:
        steps = divisors(count) if extent % P == 0 else [1]
    else:
        steps = {2**i for i in range(12)} | set(divisors(count))
    return sorted({min(n * P, extent) for n in (*steps, count) if n <= count})


@dataclass(frozen=True)
class Held:
    """What a phase holds on top of what stays: bytes per partition, without and with second buffers, and PSUM banks."""

    single: int = 0
    buffered: int = 0
    banks: int = 0


@dataclass(frozen=True)
class Choice:
    """Blocks of a stage, what they hold, the seconds that each engine works, and those until the first transfer is there."""

    blocks: Blocks
    held: Held
    work: Counter
    lead: float

    @property
    def seconds(self) -> float:
        return max(self.work.values())


@dataclass(frozen=True)
class Stage:
    """A weight to be streamed, or several of the same N side by side.

    Attributes:
        form: "columns" of the weight on the partitions, or "rows" of the activations.
        contractions: per weight, the pieces of its K.
        N, M: columns of the weights, rows of the strip.
        exact: "width" or "depth" must divide its dimension, which is the rank.
        working, stored: bytes per partition that a tile of a group needs beside the weights, as a buffer and as one to store.
        partial: sums may be completed in SBUF. width: of the blocks, where it is given.
        biased: a bias is added.
        interleave: rows of the weights that share a descriptor; produces: the same of the result.
    """

    name: str
    form: str
    contractions: tuple[tuple[int, ...], ...]
    N: int
    M: int
    itemsize: int
    exact: tuple[str, ...] = ()
    working: int = 0
    stored: int = 0
    biased: bool = False
    interleave: int = 1
    produces: int = 1
    partial: bool = True
    width: int = 0

    def _whole(self, depth: int) -> bool:
        return all(depth >= sum(parts) for parts in self.contractions)

    def _side_by_side(self, width: int) -> int:
        """Banks that a block's tiles take where all are summed at once."""
        if self.form == "rows":
            return tiles(self.M) * -(-width // F)
        return len(self.contractions) * tiles(width) * -(-self.M // F)

    def held(self, b: Blocks) -> Held:
        weights = 0
        for parts in self.contractions:
            everything = b.abreast or b.depth >= sum(parts)
            count = sum(map(tiles, parts)) if everything else max(tiles(min(b.depth, k)) for k in parts)
            weights += count * b.width * self.itemsize
        bias = len(self.contractions) * b.width * self.itemsize if self.biased else 0
        ones = self.M * self.itemsize if self.biased else 0
        stored = b.width * self.itemsize if self.form == "rows" else b.group * self.stored
        sums = 4 * tiles(self.N) * self.M if b.partial else 0
        single = weights + bias + ones + b.group * self.working + stored + sums
        # Sums that follow each other are emptied from one bank while the next are made in another.
        banks = 2 * len(self.contractions) if self._whole(b.depth) or b.partial else self._side_by_side(b.width)
        if b.abreast:
            banks = self._side_by_side(min(b.width, b.abreast * P))
        return Held(single, single + weights + bias + stored, banks)

    def candidates(self) -> Iterator[Blocks]:
        K = max(map(sum, self.contractions))
        single = len(self.contractions) == 1 and len(self.contractions[0]) == 1
        widths = [min(self.width, self.N)] if self.width else sizes(self.N, "width" in self.exact)
        for width, depth in product(widths, sizes(K, "depth" in self.exact)):
            whole = self._whole(depth)
            if not whole and depth % (P * self.interleave) or self.produces > 1 and width % (P * self.produces):
                continue
            if not whole or self.form == "rows":
                yield Blocks(width, depth)
            if self.form == "columns" and (whole or self.partial and single):
                groups = [g for g in divisors(tiles(width)) if g <= max(1, F // self.M)]
                groups = [g for g in groups if g % self.produces == 0 or g == 1]
                yield Blocks(width, depth, groups[-1], partial=not whole)
            if self.form == "columns" and not whole and len(self.contractions) == 1 and depth in DEPTHS:
                abreast = BANKS // -(-self.M // F)
                if abreast and abreast < tiles(width):
                    yield Blocks(width, depth, abreast=abreast)

    def vector(self, b: Blocks, rates: Rates) -> float:
        """Seconds of VectorE for sums in SBUF."""
        if not b.partial:
            return 0.0
        elements = tiles(self.N) * self.M
        parts = -(-sum(self.contractions[0]) // b.depth)
        groups = sum(blocks * -(-tiles(width) // b.group) for width, blocks in counted(self.N, b.width))
        count = groups * -(-self.M // F)
        cycles = parts * (elements + count * rates.constants.overhead) + elements
        return cycles / rates.machine.vector_clock

    def work(self, b: Blocks, rates: Rates) -> Counter:
        """Seconds that each engine works."""
        count = len(self.contractions)
        work = emptying(rates, self.form, count, self.M, self.N, b)
        work[DMA] = streaming(rates, self.contractions, self.N, b, self.interleave)
        work[TENSOR] = multiplying(rates, self.form, self.contractions, self.M, self.N, b)
        work[VECTOR] += self.vector(b, rates)
        s = self.itemsize
        if self.form == "rows":
            blocks = counted(self.N, b.width)
            work[DMA] += sum(times * rates.dma(self.M * width * s, width * s, width * s) for width, times in blocks)
        elif self.stored:
            rows = counted(self.M, F)
            work[DMA] += sum(times * rates.dma(m * self.N * s, m * s, b.group * m * s) for m, times in rows)
        return work

    def lead(self, b: Blocks, rates: Rates) -> float:
        """Seconds of the first transfers, before a product can begin."""
        rows = sum(min(b.depth, sum(parts)) for parts in self.contractions)
        joined = self.interleave if b.width >= self.N else 1
        run = joined * b.width * self.itemsize
        return rates.dma(rows * b.width * self.itemsize, run, max(run, tiles(rows) * b.width * self.itemsize))

    def choose(self, rates: Rates, stays: Callable[[Blocks], int], first: bool) -> tuple[Choice | None, int]:
        """The best blocks that fit beside what stays, and the bytes per partition that are missing where none do.

        first: nothing before it hides its first transfer.
        """
        machine, missing = rates.machine, None
        for choice in _ranked(self, rates, first):
            if choice.held.banks > machine.psum_banks:
                continue
            over = stays(choice.blocks) + choice.held.buffered - machine.sbuf_budget
            if over <= 0:
                return choice, 0
            missing = over if missing is None else min(missing, over)
        return None, missing or 0


@lru_cache(maxsize=256)  # some 100 KB each
def _ranked(stage: Stage, rates: Rates, first: bool) -> tuple[Choice, ...]:
    """All blocks of a stage, the quickest first; of equal ones those with longer transfers."""
    choices = [Choice(b, stage.held(b), stage.work(b, rates), stage.lead(b, rates)) for b in stage.candidates()]
    weight = 1.0 if first else HIDDEN
    banks = rates.machine.psum_banks

    def order(choice: Choice) -> tuple:
        b = choice.blocks
        together = min(tiles(b.depth) * b.width, LONG)
        # Time that DMA has left is time for the transfers of other stages.
        seconds = choice.seconds + weight * max(0.0, choice.lead - SOON) + SPARE * choice.work[DMA]
        if 2 * choice.held.banks > banks and not b.abreast:  # products wait until the sums have left
            seconds += choice.work[SCALAR]
        return round(seconds, 8), b.partial, -together, choice.held.buffered

    return tuple(sorted(choices, key=order))
