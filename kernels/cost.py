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
"""What an instruction costs, from its entry in a trace: the cycles that the documentation of `nki.isa` states.

They are a floor: without the fixed overhead of an instruction, the wait for operands, and the sharing of ports between
engines. `latency.instructions` adds the first, `latency.timeline` the others.
"""

from .engines import DMA, FLOAT32_PASSES, MINIMUM, TENSOR
from .simulator.trace import Instruction, Operand, Trace


def _columns(matmul: Instruction) -> int:
    """Cycles of one pass of a matrix product: one per column of the moving operand."""
    stationary, moving = matmul.reads
    return max(min(MINIMUM, stationary.elements), moving.elements)


def _packed(operand: Operand) -> bool:
    return operand.dtype == "bfloat16" and operand.contiguous >= operand.elements


def _at_full_rate(instruction: Instruction) -> bool:
    """Whether a tensor_tensor takes one cycle per element, not two."""
    reads = instruction.reads
    in_psum = sum(operand.buffer == "psum" for operand in reads)
    packed = all(map(_packed, reads)) and instruction.write.dtype == "bfloat16"
    simple = instruction.attributes.get("op") in ("add", "multiply", "subtract")
    return in_psum == 1 or (not in_psum and packed and simple)


def cycles(instruction: Instruction) -> float:
    """Cycles that an instruction keeps its engine busy; a DMA has none."""
    name, reads = instruction.name, instruction.reads
    if instruction.engine == DMA:
        return 0
    if name == "nc_matmul":
        return _columns(instruction) * (FLOAT32_PASSES if reads[0].dtype == "float32" else 1)
    if name == "nc_transpose" and instruction.engine == TENSOR:
        return max(reads[0].shape[0], min(MINIMUM, reads[0].elements))
    if name == "tensor_tensor":
        return max(MINIMUM, reads[0].elements * (1 if _at_full_rate(instruction) else 2))
    if name == "memset":
        zeros = instruction.attributes.get("value") == 0 and instruction.write.dtype in ("bfloat16", "float16")
        return max(MINIMUM, instruction.write.elements / (2 if zeros else 1))
    if name in ("nc_transpose", "activation", "tensor_copy"):
        return max(MINIMUM, reads[0].elements)
    raise ValueError(f"no cost is known for the instruction {name} on {instruction.engine}")


def padding(trace: Trace) -> float:
    """The fraction of the tensor engine's multiply-adds in matrix products that carry no FLOP of the result.

    A product occupies 128 x 128 of them per column, whether or not its operands fill the partitions and the stationary
    columns, and at least 64 columns. Transposes are not counted.
    """
    occupied = useful = 0
    for instruction, times in trace.instructions():
        if instruction.name == "nc_matmul":
            occupied += _columns(instruction) * 128 * 128 * times
            useful += instruction.flops // 2 * times
    return 1 - useful / occupied if occupied else 0.0
