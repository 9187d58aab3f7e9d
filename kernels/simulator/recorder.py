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
"""Runs loops, writes the trace, and holds each iteration to the first one.

The compiler traces the body of a loop once. So the first iteration is recorded, with symbolic indices, and every other one
must repeat it operation by operation: a body that depends on Python state which the loop changes does not.
"""

import random
import weakref
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from ..engines import DMA, TENSOR, VECTOR
from ..errors import SimulationError
from ..machine import Machine
from .checks import check_apart, check_write
from .index import LoopVariable
from .memory import Result, Tensor, View
from .trace import Allocation, Instruction, Loop, Trace


ORDERS = ("forward", "reversed", "shuffled")


class _Frame:
    """A loop that is running: what its body holds, and how far the present iteration has come."""

    def __init__(self, loop: Loop, variable: LoopVariable, entries: list, recorded: bool):
        self.loop, self.variable, self.entries, self.recorded = loop, variable, entries, recorded
        self.position = 0
        self.iteration = object()  # of the present iteration: its tensors are out of scope in the next
        self.results: list[weakref.ref] = []  # of the present iteration: some are not assigned yet


class Recorder:
    """The state of one simulated run.

    Args:
        machine: whose limits apply.
        dry: trace only, without data: each loop body runs once.
        order: of the iterations of affine loops and of the programs: forward, reversed or shuffled.
        programs: how many programs `nl.program_id(0)` counts.
    """

    def __init__(self, machine: Machine, dry: bool = False, order: str = "forward", programs: int = 1, seed: int = 0):
        if order not in ORDERS:
            raise SimulationError(f"unknown order {order!r}: expected one of {', '.join(ORDERS)}")
        self.machine, self.dry, self.order, self.programs = machine, dry, order, programs
        self.random = random.Random(seed)
        self.allocations: list[Allocation] = []
        self.keys = 0
        self.frames: list[_Frame] = []
        self.root: Loop | None = None
        self.shadows: dict[int, list] = {}  # id of a Loop -> its entries, allocations and binds included
        self.outputs: dict[int, Tensor] = {}  # HBM tensors that the programs share
        self.left: Loop | None = None  # a loop that was left before its end

    def _key(self) -> int:
        """A number of its own, for a loop or an allocation."""
        self.keys += 1
        return self.keys

    # Loops

    def _values(self, kind: str, trips: int) -> list[int]:
        if self.dry:
            return [0][:trips]
        values = list(range(trips))
        if kind != "sequential" and self.order == "reversed":
            values.reverse()
        elif kind != "sequential" and self.order == "shuffled":
            self.random.shuffle(values)
        return values

    def loop(self, kind: str, trips: int):
        """Yields the variable of a loop, once per iteration."""
        if trips < 1:
            return
        self._settle()
        if self.frames:
            loop = self._entry(("loop", kind, trips), lambda: Loop(kind, trips, key=self._key()))
        else:
            loop = self.root = Loop(kind, trips, key=self._key())
        recorded = id(loop) in self.shadows  # perhaps as a loop that does nothing
        entries = self.shadows.setdefault(id(loop), [])
        variable = LoopVariable(loop.key, trips)
        frame = _Frame(loop, variable, entries, recorded)
        self.frames.append(frame)
        try:
            for value in self._values(kind, trips):
                variable.value, frame.position, frame.iteration, frame.results = value, 0, object(), []
                yield variable
                if self.frames[-1] is not frame:
                    self.left = self.frames[-1].loop
                if self.left is not None:
                    raise SimulationError(
                        f"{self.left.label} was left with `break`, `return` or an exception: the"
                        " compiler traces the body once, and the loop runs to its end"
                    )
                if frame.recorded and frame.position != len(entries):
                    raise self._differs(loop, f"ended after {frame.position} of {len(entries)} operations")
                frame.recorded = True
        except GeneratorExit:
            self.left = loop  # raising here would go unnoticed: the loop around this one says so
        finally:
            variable.active = False
            if frame in self.frames:
                del self.frames[self.frames.index(frame) :]

    def _settle(self) -> None:
        """Gives a tile to each result that was not assigned, before a loop starts: it is made here, and not inside."""
        for reference in self.frames[-1].results if self.frames else ():
            result = reference()
            if result is not None and result.view is None and result.buffer != "hbm":
                result.tile()

    @staticmethod
    def _differs(loop: Loop, what: str) -> SimulationError:
        return SimulationError(
            f"an iteration of {loop.label} does not repeat the first one: {what}. The compiler traces a"
            " loop body once, so it may not depend on Python state that the loop changes, nor on the value of the index"
        )

    def _entry(self, key: tuple, make):
        """Appends an entry to the body that is being recorded, or compares it with the recorded one."""
        if not self.frames:
            raise SimulationError("an NKI operation was called outside of a kernel")
        frame = self.frames[-1]
        if frame.recorded:
            if frame.position >= len(frame.entries):
                raise self._differs(frame.loop, f"it goes on with {key[:2]}")
            known, value = frame.entries[frame.position]
            if known != key:
                raise self._differs(frame.loop, f"operation {frame.position} was {known}, and is {key}")
        else:
            value = make()
            frame.entries.append((key, value))
            if isinstance(value, Instruction | Loop):
                frame.loop.body.append(value)
        frame.position += 1
        return value

    def scope(self) -> tuple:
        return tuple((frame, frame.iteration) for frame in self.frames)

    def check_scope(self, tensor: Tensor | Result) -> None:
        innermost = _RUNNING.get()[-1:]
        if innermost and innermost[0] is not self:
            raise SimulationError(f"{tensor.label} belongs to another run of a kernel")
        if tensor.argument:
            return
        for depth, (frame, iteration) in enumerate(tensor.scope):
            if depth >= len(self.frames) or self.frames[depth] is not frame or frame.iteration is not iteration:
                raise SimulationError(
                    f"{tensor.label} is used outside of the loop that it was made in: allocate it before the loop"
                )

    # Memory

    def allocate(self, name: str, shape: tuple, dtype: str, buffer: str, size: int) -> Allocation:
        def make() -> Allocation:
            loops = tuple(frame.loop for frame in self.frames)
            self.allocations.append(Allocation(self._key(), name, shape, dtype, buffer, size, loops))
            return self.allocations[-1]

        return self._entry(("allocate", name, shape, dtype, buffer), make) if self.frames else make()

    # Instructions

    def emit(
        self, name: str, engine: str, operands, shape, dtype, buffer: str, compute, *, fixed=False, **counts
    ) -> Result:
        """Records an instruction on operands that were checked, and runs it: `compute` takes their values as arrays."""
        views = [tile.tile() if isinstance(tile, Result) else tile for tile in operands]
        attributes = tuple((what, repr(value)) for what, value in counts.get("attributes", {}).items())
        key = (name, engine, *(view.key for view in views), tuple(shape), str(np.dtype(dtype)), *attributes)
        instruction = self._entry(
            key, lambda: Instruction(name, engine, tuple(view.operand() for view in views), **counts)
        )
        if engine == DMA:
            for view in views:
                view.tensor.allocation.dma = True
        values = None
        if not self.dry:
            with np.errstate(all="ignore"):  # overflow and NaN are results like others
                values = compute(*(view.read() for view in views))
        result = Result(self, instruction, shape, dtype, buffer, values, fixed)
        self.frames[-1].results.append(weakref.ref(result))
        return result

    def bind(self, result: Result, view: View) -> None:
        """Makes `view` what the instruction of `result` writes."""
        self._bind(result, view, accumulate=False)
        if not self.dry:
            group = view.buffer == "psum" and result.instruction.engine == TENSOR  # it may be added to
            if group:
                view.turn()
            view.write(np.asarray(result.values).reshape(view.shape), group)
        result.view = view

    def _bind(self, result: Result, view: View, accumulate: bool) -> None:
        write = view.operand()
        known = self._entry(("write", view.key, accumulate), lambda: write)
        if known is write:
            check_write(result.instruction, result.dtype, view)
            if not accumulate:
                shared = view.buffer == "hbm" and view.tensor.shared
                check_apart(view, self.frames[0 if shared else len(view.tensor.scope) :])
            result.instruction.write, result.instruction.accumulate = write, accumulate
            if result.instruction.name == "load":
                run = view.contiguous() * view.dtype.itemsize
                result.instruction.run = min(result.instruction.run, run)
        if result.instruction.engine == DMA:
            view.tensor.allocation.dma = True

    def assign(self, view: View, value) -> None:
        """`view[...] = value`: free for a fresh result, a copy instruction for a tile."""
        if isinstance(value, int | float | np.generic):
            raise SimulationError(f"{view.label}: assign a tile, or fill with nisa.memset, not the number {value}")
        if not isinstance(value, Result | View | Tensor):
            raise SimulationError(f"{view.label}: a tile is expected, got {type(value).__name__}")
        if view.buffer == "hbm":
            raise SimulationError(f"{view.label} is in HBM: write it with nl.store")
        if value.buffer == "hbm":
            raise SimulationError(f"{value.label} is in HBM: read it with nl.load")
        elements = view.shape[0], int(np.prod(view.shape[1:]))
        if (value.shape[0], int(np.prod(value.shape[1:]))) != elements:
            raise SimulationError(f"{view.label} is assigned {tuple(value.shape)}: the shapes differ")
        if isinstance(value, Result) and value.view is None:
            free = value.buffer == view.buffer or not value.fixed
            # TensorE writes PSUM itself: another data type there is refused, and not converted by a copy.
            if free and (value.dtype == view.dtype or (value.fixed and view.buffer == "psum")):
                self.check_scope(value)
                self.bind(value, view)
                return
        source = value[...] if isinstance(value, Tensor) else value
        copied = self.emit(
            "tensor_copy", VECTOR, [source], view.shape, view.dtype, view.buffer,
            lambda a: a.reshape(view.shape).astype(view.dtype),
        )  # fmt: skip
        self.bind(copied, view)

    def accumulate(self, view: View, value) -> None:
        """`view[...] += value`: free for a matrix product in PSUM, an addition on VectorE elsewhere."""
        if (
            isinstance(value, Result)
            and value.view is None
            and value.instruction.name == "nc_matmul"
            and view.buffer == "psum"
        ):
            if tuple(value.shape) != view.shape:
                raise SimulationError(f"{view.label} accumulates {value.label}: the shapes differ")
            self.check_scope(value)
            self._bind(value, view, accumulate=True)
            if not self.dry:
                view.continue_group()
                view.turn()
                view.write(view.read() + value.values, group=True)
            value.view = view
            return
        for frame in self.frames[len(view.tensor.scope) :]:
            if frame.loop.kind == "affine" and frame.loop.trips > 1 and not view.offset.coefficient(frame.variable):
                raise SimulationError(
                    f"{view.label} of {view.tensor.label} is accumulated over an affine loop: only matrix products in PSUM may"
                    " be, use nl.sequential_range"
                )
        from .isa import tensor_tensor  # it is made of this class

        self.bind(tensor_tensor(view, value, op=np.add, dtype=view.dtype), view)

    def trace(self) -> Trace:
        return Trace([self.root], self.allocations)


# Of this thread or task alone: others may simulate at the same time.
_RUNNING: ContextVar[tuple[Recorder, ...]] = ContextVar("neuronmm_recorders", default=())


@contextmanager
def running(recorder: Recorder):
    """Makes `recorder` the one that the operations of `language` and `isa` write to."""
    token = _RUNNING.set((*_RUNNING.get(), recorder))
    try:
        yield recorder
    finally:
        _RUNNING.reset(token)


def current() -> Recorder:
    if not _RUNNING.get():
        raise SimulationError("an NKI operation was called outside of simulate()")
    return _RUNNING.get()[-1]
