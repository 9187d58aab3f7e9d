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
"""Seconds of a DMA, as a function of what it moves into each partition at once and of its descriptors.

Two published facts: kernels that load one tile of 1 KiB per partition in each transfer reach less than half of the bandwidth
of kernels whose transfers are longer. The documentation asks for 2 KiB per partition in a transfer, says that 4 KiB saturate,
and that runs (descriptors: what is contiguous in HBM and within a partition) of less than 256 bytes are severe; a picture of
it (nki/get-started/about/nki-dma-overview.rst) has the bandwidth rise with the run up to about 2.4 KiB. Whether the transfer
has to be long or its runs, the published timings do not tell: in the kernels that were timed one is as long as the other, or
can be. The calibrated curve goes by the transfer. The others are for comparison, and for plans that are quick by either:
`STEP`, runs of less than 2 KiB cost what single tiles do; `PICTURE`, that of the documentation, which the published timings
contradict; `FLAT`, no loss.
"""

from dataclasses import dataclass
from math import log2

from ..machine import KIB
from .constants import Constants


SEVERE = 256  # bytes of a run
PER_DESCRIPTOR = 2480  # bytes, read from the picture
EFFICIENT, SATURATES = 2 * KIB, 4 * KIB


@dataclass(frozen=True)
class Curve:
    """How much of a byte's cost is that of a short transfer.

    Attributes:
        by: what has to be long: the bytes of a "transfer" in each partition, those of a "run", or "nothing"; or each
            "descriptor" costs as much as one of 2.4 KiB, and what is above that by its bytes.
        least, full: up to so many bytes a byte costs most, from so many on least; in between it falls with their logarithm.
    """

    name: str
    by: str
    least: int = KIB
    full: int = SATURATES

    def seconds(self, size: int, run: int, each: int, constants: Constants) -> float:
        """Seconds that a transfer occupies the DMA engines.

        Args:
            size: its bytes.
            run: bytes of a descriptor.
            each: bytes that it moves to or from a partition.
        """
        if self.by == "nothing":
            return size / constants.saturated
        if self.by == "descriptor":
            return size * max(1.0, PER_DESCRIPTOR / max(1, run)) / constants.saturated
        length = each if self.by == "transfer" else run
        short = min(1.0, max(0.0, log2(self.full / max(1, length)) / log2(self.full / self.least)))
        return size * ((1 - short) / constants.saturated + short / constants.short) * max(1.0, SEVERE / max(1, run))


CALIBRATED = Curve("calibrated", by="transfer")
STEP = Curve("step", by="run", least=EFFICIENT - 1, full=EFFICIENT)
FLAT = Curve("flat", by="nothing")
PICTURE = Curve("picture", by="descriptor")
CURVES = {curve.name: curve for curve in (CALIBRATED, STEP, FLAT, PICTURE)}


def parallel(size: int, run: int, engines: int) -> float:
    """The part of the DMA engines that a transfer can use: each descriptor is moved by one of them."""
    return min(1.0, max(1, size // max(1, run)) / engines)
