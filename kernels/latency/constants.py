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
"""What the engine model knows beyond the documented cycles: three constants from published timings, and what is assumed.

`benchmarks/calibrate.py` computes the three again, prints the residuals, and names the rows; a test holds this table to it.
"""

from dataclasses import dataclass

from ..machine import MACHINES, Machine


@dataclass(frozen=True)
class Constants:
    """The constants of one machine.

    Attributes:
        matmul_overhead: cycles of TensorE for each instruction beside its columns. Calibrated.
        saturated: bytes per second of all DMA engines together, in transfers of at least 4 KiB to each partition. Calibrated.
        short: the same in transfers of at most 1 KiB. What counts as length is the curve's matter (`dma`). Calibrated.
        overhead: cycles of VectorE, ScalarE and GpSimdE for each instruction beside its elements. The documentation says 60 to
            100 for small or dependent instructions; the middle is assumed.
        notes: what makes a prediction by these constants less than checked.
    """

    matmul_overhead: float
    saturated: float
    short: float
    overhead: float = 80.0
    notes: tuple[str, ...] = ()


CALIBRATED_ON = "trn1"
CALIBRATED = Constants(matmul_overhead=69.0, saturated=MACHINES[CALIBRATED_ON].dma_measured, short=103e9)


def constants_of(machine: Machine) -> Constants:
    """The calibrated constants, scaled to the DMA bandwidth of a machine that nothing was published for."""
    if machine.name == CALIBRATED_ON:
        return CALIBRATED
    scale = machine.dma_bandwidth / MACHINES[CALIBRATED_ON].dma_bandwidth
    return Constants(
        matmul_overhead=CALIBRATED.matmul_overhead,
        saturated=CALIBRATED.saturated * scale,
        short=CALIBRATED.short * scale,
        notes=(
            f"{machine.name}: no published timing of its kernels was found; constants of {CALIBRATED_ON}, DMA scaled by the"
            " documented bandwidth",
        ),
    )
