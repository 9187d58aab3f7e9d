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
"""What a stage of a kernel asks of each engine: seconds, from shapes alone.

What `instructions` gives to the instructions of a trace, added up without one: what a planner can afford for thousands of
candidates. Transfers cost what the mixture of curves says by which plans are compared (`PRUDENCE`). Biases, and what is filled
with zeros, are left out.
"""

from collections import Counter
from functools import lru_cache

from ..engines import DMA, FLOAT32_PASSES, MINIMUM, SCALAR, TENSOR, VECTOR
from ..machine import Machine
from ..tiling import Blocks, F, P, counted, tiles
from .constants import Constants, constants_of
from .dma import CALIBRATED, PICTURE, Curve


PRUDENCE = 0.1  # weight of the curve by descriptors, see `dma`


class Rates:
    """Seconds of the instructions of one machine in one data type, by their sizes."""

    def __init__(self, machine: Machine, itemsize: int, constants: Constants, curve: Curve = CALIBRATED):
        self.machine, self.itemsize, self.constants, self.curve = machine, itemsize, constants, curve

    def matmul(self, moving: int, stationary: int = P) -> float:
        passes = FLOAT32_PASSES if self.itemsize == 4 else 1
        columns = max(min(MINIMUM, stationary), moving)
        return (passes * columns + self.constants.matmul_overhead) / self.machine.tensor_clock

    def transpose(self, rows: int) -> float:
        """Of a tile of so many rows: one pass, whatever the data type."""
        return (max(MINIMUM, rows) + self.constants.matmul_overhead) / self.machine.tensor_clock

    def scalar(self, elements: int) -> float:
        return (max(MINIMUM, elements) + self.constants.overhead) / self.machine.scalar_clock

    def vector(self, elements: int) -> float:
        return (max(MINIMUM, elements) + self.constants.overhead) / self.machine.vector_clock

    def dma(self, size: int, run: int, each: int) -> float:
        """Of a transfer of `size` bytes in runs of `run` bytes, `each` of them to a partition.

        The calibrated curve, and a part of what it would be if each run had its price: of two plans that are equal otherwise, the
        one that is safe is wanted.
        """
        by_descriptor = PICTURE.seconds(size, run, each, self.constants)
        return (1 - PRUDENCE) * self.curve.seconds(size, run, each, self.constants) + PRUDENCE * by_descriptor


@lru_cache(maxsize=64)
def rates_of(machine: Machine, itemsize: int) -> Rates:
    return Rates(machine, itemsize, constants_of(machine))


def entering(rates: Rates, M: int, features: int, chunk: int, transposed: bool) -> Counter:
    """A strip of activations, transposed on the way in."""
    s = rates.itemsize
    if transposed:
        return Counter({DMA: rates.dma(M * features * s, M * s, tiles(features) * M * s)})
    work = Counter()
    for c, chunks in counted(features, chunk):
        work[DMA] += chunks * rates.dma(M * c * s, c * s, c * s)
        for m, parts in counted(M, P):
            work[TENSOR] += chunks * parts * tiles(c) * rates.transpose(m)
            work[VECTOR] += chunks * parts * sum(groups * rates.vector(tiles(g) * m) for g, groups in counted(c, F))
    return work


def streaming(rates: Rates, contractions: tuple, N: int, b: Blocks, joined: int) -> float:
    """Seconds of DMA for the weights of a stage."""
    rows, s = sum(map(sum, contractions)), rates.itemsize
    joined = joined if b.width >= N else 1
    at_once = min(tiles(min(b.depth, k)) for parts in contractions for k in parts)
    return sum(
        blocks * rates.dma(rows * width * s, joined * width * s, at_once * width * s)
        for width, blocks in counted(N, b.width)
    )


def multiplying(rates: Rates, form: str, contractions: tuple, M: int, N: int, b: Blocks) -> float:
    """Seconds of TensorE for the products of a stage."""
    depth = sum(tiles(k) for parts in contractions for k in parts)
    if form == "rows":
        return depth * tiles(M) * sum(times * rates.matmul(n) for n, times in _columns(N, b.width))
    return depth * sum(
        rows * columns * rates.matmul(m, n) for m, rows in counted(M, F) for n, columns in counted(N, P)
    )


def emptying(rates: Rates, form: str, count: int, M: int, N: int, b: Blocks) -> Counter:
    """Seconds of ScalarE and VectorE for what leaves PSUM: copied, or gate and up of a gated stage (count 2)."""
    if form == "rows":
        return Counter({SCALAR: tiles(M) * sum(times * rates.scalar(n) for n, times in _columns(N, b.width))})
    if b.partial:  # the sums are in SBUF: they leave it as one
        return Counter({SCALAR: rates.scalar(tiles(N) * M)})
    work = Counter()
    for width, blocks in counted(N, b.width):
        for g, groups in counted(tiles(width), b.group):
            for m, rows in counted(M, F):
                work[SCALAR] += blocks * groups * rows * rates.scalar(g * m)
                if count > 1:
                    work[VECTOR] += blocks * groups * rows * rates.vector(g * m)
    return work


def _columns(N: int, width: int) -> list[tuple[int, int]]:
    """Columns of the products of a stage with rows on the partitions, and how many there are of each."""
    return [(n, blocks * times) for block, blocks in counted(N, width) for n, times in counted(block, F)]
