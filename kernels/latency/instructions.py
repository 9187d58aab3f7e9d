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
"""Seconds that an instruction keeps its engine busy."""

from ..cost import cycles
from ..engines import DMA, GPSIMD, SCALAR, TENSOR, VECTOR
from ..machine import Machine
from ..simulator.trace import Instruction, Loop, Trace
from .constants import Constants
from .dma import FLAT, Curve


class Costs:
    """The instructions of one machine, by its constants and a DMA curve."""

    def __init__(self, machine: Machine, constants: Constants, curve: Curve):
        self.machine, self.constants, self.curve = machine, constants, curve
        self.clocks = {
            TENSOR: machine.tensor_clock,
            VECTOR: machine.vector_clock,
            SCALAR: machine.scalar_clock,
            GPSIMD: machine.gpsimd_clock,
        }

    def seconds(self, instruction: Instruction) -> float:
        """Of one run of the instruction; of a DMA, what it takes of all its engines together."""
        if instruction.engine == DMA:
            partitions = instruction.write.shape[0] if instruction.hbm_read else instruction.reads[0].shape[0]
            size = instruction.hbm_bytes
            return self.curve.seconds(size, instruction.run, size // max(1, partitions), self.constants)
        overhead = self.constants.matmul_overhead if instruction.engine == TENSOR else self.constants.overhead
        return (cycles(instruction) + overhead) / self.clocks[instruction.engine]

    def busy(self, trace: Trace) -> dict[str, float]:
        """Seconds that one core keeps each engine busy: a bound that no order of the instructions beats."""
        total = dict.fromkeys((*self.clocks, DMA), 0.0)
        for part in trace.body:
            programs = part.trips if isinstance(part, Loop) and part.kind == "program" else 1  # each on its own core
            for instruction, times in Trace([part], []).instructions():
                total[instruction.engine] += self.seconds(instruction) * times / programs
        return total


def documented(machine: Machine) -> Costs:
    """What the documentation alone says: cycles without overhead, and bytes over the bandwidth that one core can expect."""
    bandwidth = machine.bandwidth
    return Costs(machine, Constants(matmul_overhead=0, saturated=bandwidth, short=bandwidth, overhead=0), FLAT)
