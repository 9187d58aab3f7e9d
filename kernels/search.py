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
"""The search for block sizes: what a stage may be, what it would hold and take, and the phases of a kernel that follow each other.

Bytes of SBUF are counted per partition. A stage is judged by the seconds of its busiest engine and by what its first
transfer keeps the others waiting (`latency.work`): all its blocks that fit are looked at. Of the kernel that results, an
estimate is made of the sums over its phases; the few of best estimate are then compared by the engine model (`Kernel.plan`).
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from .engines import DMA, SCALAR, TENSOR, VECTOR
from .latency.dma import SATURATES
from .latency.work import Rates, emptying, entering, multiplying, streaming
from .tiling import Blocks, F, P, cut, tiles


SPARE = 0.25  # what a second of DMA costs where another engine is busier
SOON = 2.5e-6  # seconds: a first transfer that is there by then keeps nobody waiting
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


def strips(M: int) -> list[int]:
    """Rows of a strip, largest first: M in 1, 2, 3 ... strips of nearly equal size, in whole tiles."""
    return sorted({min(M, P * tiles(-(-M // n))) for n in range(1, tiles(M) + 1)}, reverse=True)


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
        parts = len(cut(sum(self.contractions[0]), b.depth))
        count = sum(len(cut(tiles(width), b.group)) for width in cut(self.N, b.width)) * len(cut(self.M, F))
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
            work[DMA] += sum(rates.dma(self.M * width * s, width * s, width * s) for width in cut(self.N, b.width))
        elif self.stored:
            work[DMA] += sum(rates.dma(m * self.N * s, m * s, b.group * m * s) for m in cut(self.M, F))
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
    weight = 1.0 if first else 0.2  # a later one is mostly hidden behind the stage before
    banks = rates.machine.psum_banks

    def order(choice: Choice) -> tuple:
        b = choice.blocks
        together = min(tiles(b.depth) * b.width, 2**13)
        # Time that DMA has left is time for the transfers of other stages.
        seconds = choice.seconds + weight * max(0.0, choice.lead - SOON) + SPARE * choice.work[DMA]
        if 2 * choice.held.banks > banks and not b.abreast:  # products wait until the sums have left
            seconds += choice.work[SCALAR]
        return round(seconds, 8), b.partial, -together, choice.held.buffered

    return tuple(sorted(choices, key=order))


class Search:
    """The phases of one kernel with strips of one size: what was chosen, the most that is held, and what each engine works."""

    def __init__(self, rates: Rates, M: int, hasty: bool = True, interleave: bool = True):
        self.rates, self.machine, self.itemsize, self.M = rates, rates.machine, rates.itemsize, M
        self.hasty, self.interleave = hasty, interleave
        self.stages: dict[str, Blocks] = {}
        self.single = self.buffered = self.banks = 0
        self.phases: list[Counter] = []
        self.lead = 0.0  # until the first product of a stage
        self.chunk = 0
        self.interleave_x = self.interleave_h = 1
        self.fits = True
        self.missing: tuple[str, int] | None = None  # what does not fit, and the bytes per partition that it lacks

    def joined(self, K: int, ranks) -> int:
        """How many rows of weights (K, r) to join in a descriptor, so that none is short: 1, 2 or 4."""
        if not self.interleave:
            return 1
        wanted = max((-(-SATURATES // (r * self.itemsize)) for r in ranks), default=1)
        return max(j for j in (1, 2, 4) if j == 1 or K % (P * j) == 0 and j < 2 * wanted)

    def strip(self, features: int) -> int:
        """Bytes per partition of a strip of activations."""
        return tiles(features) * self.M * self.itemsize

    def hold(self, stays: int, held: Held = Held(), what: str = "strips of activations") -> None:  # noqa: B008
        self.single = max(self.single, stays + held.single)
        self.buffered = max(self.buffered, stays + held.buffered)
        self.banks = max(self.banks, held.banks)
        over = stays + held.buffered - self.machine.sbuf_budget
        if self.fits and over > 0:
            self.missing = what, over
        self.fits = self.fits and over <= 0 and self.banks <= self.machine.psum_banks

    def stage(self, stage: Stage, stays: int | Callable[[Blocks], int], share: float = 1.0) -> Blocks | None:
        """Chooses the blocks of a stage beside what stays on chip (which may depend on them); it runs 1 / share times."""
        if not self.fits:
            return None
        beside = stays if callable(stays) else lambda b: stays
        first = self.hasty and not self.stages
        choice, missing = stage.choose(self.rates, beside, first)
        if choice is None:
            self.fits = False
            self.missing = self.missing or (f"the blocks of stage {stage.name} beside what stays", missing)
            return None
        if not self.stages:
            self.lead += choice.lead
        self.stages[stage.name] = choice.blocks
        self.phases.append(Counter({engine: seconds / share for engine, seconds in choice.work.items()}))
        self.hold(beside(choice.blocks), choice.held)
        return choice.blocks

    def load(self, features: int, stays: int, transposed: bool) -> None:
        """The transfer of a strip of activations beside what stays; settles the features of one transfer of all."""
        s, strip = self.itemsize, self.strip(features)
        chunk = features
        if transposed:
            self.hold(stays + strip)
        else:
            for chunk in (4096, 2048, 1024, F):
                raw = min(chunk, features) * s
                if stays + strip + 2 * raw <= self.machine.sbuf_budget:
                    break
            self.hold(stays, Held(strip + raw, strip + 2 * raw, 1))
        self.chunk = min(self.chunk or chunk, chunk)
        if not self.fits:
            return
        work = entering(self.rates, self.M, features, chunk, transposed)
        self.lead += work[DMA] if not self.stages else 0.0
        self.phases.append(work)

    def enter(
        self, K: int, weights: dict[str, int], transposed: bool, part: int, keep: bool
    ) -> dict[str, tuple[int, ...]]:
        """X W for each weight (stage: rank), X resident or `part` features at a time; returns the pieces of each product.

        keep: X is needed afterwards as well.
        """
        if part:
            return self._enter_by_parts(K, weights, transposed, part)
        X, done, made = self.strip(K), 0, {}
        self.load(K, 0, transposed)
        for name, r in weights.items():
            needed = keep or name != list(weights)[-1]  # X, after this product

            def beside(b: Blocks, r=r, done=done, needed=needed) -> int:
                # The last piece of the product is written when X was read for the last time, unless its tiles follow each other.
                early = needed or b.abreast or b.depth >= K and (tiles(b.width) > b.group or self.M > F)
                late = 0 if early else self.strip(cut(r, b.width)[-1])
                if b.partial:  # its float32 sums are still there then: X alone makes room
                    late = min(late, X)
                return X + done + self.strip(r) - late

            stage = Stage(
                name, "columns", ((K,),), r, self.M, self.itemsize, exact=("width",), interleave=self.interleave_x
            )
            blocks = self.stage(stage, beside)
            if blocks is None:
                return made
            made[name] = cut(r, blocks.width)
            done += sum(map(self.strip, made[name]))
            self.hold(done)
        return made

    def _enter_by_parts(
        self, K: int, weights: dict[str, int], transposed: bool, part: int
    ) -> dict[str, tuple[int, ...]]:
        sums = sum(tiles(r) * self.M * 4 for r in weights.values())
        for size in cut(K, part):
            self.load(size, sums, transposed)
        self.chunk = min(self.chunk, part)
        for name, r in weights.items():
            stage = Stage(name, "columns", ((part,),), r, self.M, self.itemsize, exact=("width",), partial=False)
            if self.stage(stage, sums + self.strip(part), share=part / K) is None:
                return {}
            adding = (len(cut(K, part)) + 1.5) * tiles(r) * self.M / self.machine.vector_clock
            self.phases.append(Counter({VECTOR: adding}))
        self.hold(sums + sum(self.strip(r) for r in weights.values()))
        return {name: (r,) for name, r in weights.items()}

    def bound(self, rows: int) -> float:
        """Seconds that the busiest engine works for so many rows, by the costs that plans are compared by, at least."""
        return rows / self.M * max(sum(self.phases, Counter()).values())

    def estimate(self, rows: int) -> float:
        """Seconds that so many rows may take.

        Between two limits: what an engine does in one phase hides behind what another does in the next, or phases follow each
        other. What is streamed ahead is limited by memory, so that the middle is taken. The first transfers are on top. A last
        strip of fewer rows reads as many weights.
        """
        strips = {DMA: -(-rows // self.M)}
        phases = [
            Counter({engine: seconds * strips.get(engine, rows / self.M) for engine, seconds in phase.items()})
            for phase in self.phases
        ]
        together = max(sum(phases, Counter()).values())
        return (together + sum(max(phase.values()) for phase in phases)) / 2 + self.lead
