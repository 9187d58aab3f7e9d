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
"""The search for block sizes: what a kernel holds on chip phase by phase, and what its transfers cost.

Bytes of SBUF are counted per partition. A choice is judged by the larger of two times, of the products on the tensor engine
and of the transfers, where a descriptor below 2 KiB costs as much as one of 2 KiB: that ratio of 2.1 between runs of 1 KiB
and saturation is what the matrix multiplication tutorial of the Neuron documentation measures on trn1.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

from .machine import Machine
from .tiling import Blocks, F, P, cut, tiles


EFFICIENT_RUN = 2048  # bytes


def moved(size: int, run: int) -> float:
    """Bytes that `size` bytes in descriptors of `run` bytes cost as much as."""
    return size * max(1.0, EFFICIENT_RUN / run)


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
class Stage:
    """A weight to be streamed, or several of the same N side by side.

    Attributes:
        form: "columns" of the weight on the partitions, or "rows" of the activations.
        contractions: per weight, the pieces of its K.
        N, M: columns of the weights, rows of the strip.
        exact: "width" or "depth" must divide its dimension, which is the rank.
        working, stored: bytes per partition that a tile of a group needs beside the weights, as a buffer and as one to store.
        partial: sums may be completed in SBUF.
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
            count = sum(map(tiles, parts)) if b.depth >= sum(parts) else max(tiles(min(b.depth, k)) for k in parts)
            weights += count * b.width * self.itemsize
        bias = len(self.contractions) * b.width * self.itemsize if self.biased else 0
        ones = self.M * self.itemsize if self.biased else 0
        stored = b.width * self.itemsize if self.form == "rows" else b.group * self.stored
        sums = 4 * tiles(self.N) * self.M if b.partial else 0
        single = weights + bias + ones + b.group * self.working + stored + sums
        # Sums that follow each other are emptied from one bank while the next are made in another.
        banks = 2 * len(self.contractions) if self._whole(b.depth) or b.partial else self._side_by_side(b.width)
        return Held(single, single + weights + bias + stored, banks)

    def candidates(self) -> Iterator[Blocks]:
        K = max(map(sum, self.contractions))
        single = len(self.contractions) == 1 and len(self.contractions[0]) == 1
        for width, depth in product(sizes(self.N, "width" in self.exact), sizes(K, "depth" in self.exact)):
            whole = self._whole(depth)
            if not whole and depth % (P * self.interleave) or self.produces > 1 and width % (P * self.produces):
                continue
            if not whole or self.form == "rows":
                yield Blocks(width, depth)
            if self.form == "columns" and (whole or self.partial and single):
                together = max(1, F // self.M)
                groups = [g for g in divisors(tiles(width)) if g <= together and g % self.produces == 0]
                if groups:
                    yield Blocks(width, depth, groups[-1], partial=not whole)

    def choose(self, machine: Machine, stays: Callable[[Blocks], int]) -> tuple[Blocks, Held] | None:
        """The best blocks that fit beside what stays: efficient descriptors, no sums in SBUF, large transfers."""
        best = None
        for b in self.candidates():
            held = self.held(b)
            if held.banks > machine.psum_banks or stays(b) + held.buffered > machine.sbuf_budget:
                continue
            together = min(tiles(b.depth) * b.width, 2**13)
            score = (-self.cost(b), not b.partial, self._whole(b.depth), together, -held.buffered)
            if best is None or score > best[0]:
                best = score, b, held
        return best and best[1:]

    def vector(self, b: Blocks) -> float:
        """Cycles of VectorE for sums in SBUF."""
        parts = len(cut(sum(self.contractions[0]), b.depth)) if b.partial else 0
        return (parts + 1.5) * tiles(self.N) * self.M if parts else 0.0

    def cost(self, b: Blocks) -> float:
        """Bytes that streaming the weights costs as much as, see `moved`."""
        rows = sum(map(sum, self.contractions))
        joined = self.interleave if b.width >= self.N else 1
        return sum(
            moved(rows * width * self.itemsize, joined * width * self.itemsize) for width in cut(self.N, b.width)
        )


class Search:
    """The phases of one kernel with strips of one size: what was chosen, the most that is held, and what is moved per strip."""

    def __init__(self, machine: Machine, itemsize: int, M: int):
        self.machine, self.itemsize, self.M = machine, itemsize, M
        self.stages: dict[str, Blocks] = {}
        self.single = self.buffered = self.banks = 0
        self.moved = 0.0
        self.vector = 0.0  # cycles of VectorE for sums in SBUF
        self.chunk = 0
        self.interleave_x = self.interleave_h = 1
        self.fits = True

    def joined(self, K: int, ranks) -> int:
        """How many rows of weights (K, r) to join in a descriptor, so that none is short: 1, 2 or 4."""
        wanted = max((-(-EFFICIENT_RUN // (r * self.itemsize)) for r in ranks), default=1)
        return max(j for j in (1, 2, 4) if j == 1 or K % (P * j) == 0 and j < 2 * wanted)

    def strip(self, features: int) -> int:
        """Bytes per partition of a strip of activations."""
        return tiles(features) * self.M * self.itemsize

    def hold(self, stays: int, held: Held = Held()) -> None:  # noqa: B008
        self.single = max(self.single, stays + held.single)
        self.buffered = max(self.buffered, stays + held.buffered)
        self.banks = max(self.banks, held.banks)
        self.fits = self.fits and self.buffered <= self.machine.sbuf_budget and self.banks <= self.machine.psum_banks

    def stage(self, stage: Stage, stays: int | Callable[[Blocks], int]) -> Blocks | None:
        """Chooses the blocks of a stage beside what stays on chip (which may depend on them)."""
        beside = stays if callable(stays) else lambda b: stays
        chosen = stage.choose(self.machine, beside)
        if chosen is None:
            self.fits = False
            return None
        blocks, held = chosen
        self.stages[stage.name] = blocks
        self.moved += stage.cost(blocks)
        self.vector += stage.vector(blocks)
        self.hold(beside(blocks), held)
        return blocks

    def load(self, features: int, stays: int, transposed: bool) -> None:
        """The transfer of a strip of activations beside what stays; settles the features of one transfer of all."""
        s, strip = self.itemsize, self.strip(features)
        if transposed:
            chunk = features
            self.hold(stays + strip)
            run = self.M * s
        else:
            for chunk in (4096, 2048, 1024, F):
                raw = min(chunk, features) * s
                if stays + strip + 2 * raw <= self.machine.sbuf_budget:
                    break
            self.hold(stays, Held(strip + raw, strip + 2 * raw, 1))
            run = raw
        self.chunk = min(self.chunk or chunk, chunk)
        self.moved += moved(self.M * features * s, run)

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
                early = needed or b.depth >= K and (tiles(b.width) > b.group or self.M > F)
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
            before = self.moved
            blocks = self.stage(stage, sums + self.strip(part))
            if blocks is None:
                return {}
            self.moved = before + stage.cost(blocks) * K / part
            self.vector += (len(cut(K, part)) + 1.5) * tiles(r) * self.M
        self.hold(sums + sum(self.strip(r) for r in weights.values()))
        return {name: (r,) for name, r in weights.items()}

    def score(self, flops: float, rows: int, result: int) -> tuple:
        """What makes a plan better, least first: the time of the busiest engine, then that of the others.

        Args: flops and result (bytes) of one core, whose rows these are.
        """
        count = -(-rows // self.M)
        transfers = (count * self.moved + result) / self.machine.bandwidth
        additions = count * self.vector / self.machine.vector_clock
        work = (4 if self.itemsize == 4 else 1) * flops / self.machine.flops
        return max(work, transfers, additions), transfers + additions
