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
"""The search for block sizes: the phases of a kernel that follow each other, with strips of one size.

Bytes of SBUF are counted per partition. Each stage takes the best of its blocks that fit (`stage`). Of the kernel that
results, an estimate is made of the sums over its phases; the few of best estimate are then compared by the engine model
(`Kernel.plan`).
"""

from collections import Counter
from collections.abc import Callable

from .engines import DMA, VECTOR
from .latency.dma import SATURATES
from .latency.work import Rates, entering
from .stage import Held, Stage
from .tiling import Blocks, F, P, cut, tiles


def strips(M: int) -> list[int]:
    """Rows of a strip, largest first: M in 1, 2, 3 ... strips of nearly equal size, in whole tiles."""
    return sorted({min(M, P * tiles(-(-M // n))) for n in range(1, tiles(M) + 1)}, reverse=True)


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
            # Zeros, then the sums of every part; half a pass more stands for the overhead of each instruction.
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
