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
"""What is checked of every write, once, on its symbolic region: engines, arguments, and other iterations' writes."""

import numpy as np

from ..engines import GPSIMD, TENSOR
from ..errors import SimulationError
from .index import Affine


def check_write(instruction, result_dtype: np.dtype, view) -> None:
    """Whether the instruction can write this region at all."""
    if view.tensor.argument:
        raise SimulationError(f"{view.tensor.label} is an argument of the kernel, which may not be written")
    if view.buffer != "psum":
        return
    if instruction.engine == GPSIMD:
        raise SimulationError(f"{instruction.name}: GpSimdE has no access to PSUM, where {view.label} is")
    if instruction.engine == TENSOR:
        if view.dtype != result_dtype:
            raise SimulationError(
                f"{instruction.name}: TensorE writes {result_dtype}, and {view.label} of {view.tensor.label} is {view.dtype}"
            )


def check_apart(view, frames) -> None:
    """Different iterations of an affine loop (or different programs) write different memory.

    Args:
        frames: the loops outside of which the memory was made, outermost first; those inside of a loop add to its reach.
    """
    for depth, frame in enumerate(frames):
        if frame.loop.kind == "sequential" or frame.loop.trips == 1:
            continue
        inner = {inside.variable for inside in frames[depth + 1 :]}
        moved = [(start, shifts) for start, shifts in view.axes if start.coefficient(frame.variable)]
        program = frame.loop.kind == "program"
        who = f"different programs of {frame.loop.trips}" if program else f"different iterations of {frame.loop.label}"
        if not moved:
            raise SimulationError(
                f"{who} write the same {view.label} of {view.tensor.label}: index it with "
                + ("nl.program_id" if program else "the loop, allocate it inside, or use nl.sequential_range")
            )
        if not any(_apart(start, shifts, frame.variable, inner) for start, shifts in moved):
            raise SimulationError(
                f"{who} write overlapping regions {view.label} of {view.tensor.label}: each starts"
                f" {abs(moved[-1][0].coefficient(frame.variable))} after the one before it"
            )


def _apart(start: Affine, shifts: tuple[tuple[int, int], ...], variable, inner: set) -> bool:
    """Whether no index of this dimension is reached with two values of `variable`."""
    step = start.coefficient(variable)
    shifts = [*shifts, *((c, v.trips) for v, c in start.terms if v in inner)]
    if abs(step) > sum(abs(c) * (n - 1) for c, n in shifts):
        return True
    reached = np.zeros(1, int)
    for c, n in shifts:
        reached = np.unique(np.add.outer(reached, c * np.arange(n)))
    everywhere = np.add.outer(reached, step * np.arange(variable.trips))
    return np.unique(everywhere).size == everywhere.size
