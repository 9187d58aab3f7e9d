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
"""Tensors and the regions of them that instructions read and write.

On chip the first dimension is the partition; every region is an access pattern (a symbolic offset, and a stride and a size
per dimension), which is what an instruction of the hardware carries.
"""

import math

import numpy as np

from ..errors import SimulationError
from .index import Affine, Grid
from .trace import Operand
from .values import data_type, dimensions, integer


ON_CHIP = ("sbuf", "psum")
# What `written` says of an element. In PSUM: whether an accumulation of TensorE wrote it that may go on, or is over.
WRITTEN, OPEN, CLOSED = 1, 2, 3


class DynamicSlice:
    """`nl.ds(start, size)`: `size` elements from a symbolic start."""

    def __init__(self, start, size):
        if isinstance(size, Affine):
            raise SimulationError("nl.ds: the size must be a number, got a loop index")
        self.start, self.size = Affine.of(start), integer(size, "nl.ds: the size")
        if self.size < 1:
            raise SimulationError(f"nl.ds: the size must be positive, got {self.size}")


class ParDim(int):
    """`nl.par_dim(n)`: the partition dimension of a shape."""

    def __new__(cls, n):
        return super().__new__(cls, integer(n, "nl.par_dim"))


def _describe(shape) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


class Traced:
    """What stands for a tensor while a kernel is traced: it has no values, and the simulator no operators for it."""

    __hash__ = object.__hash__

    def _unknown(self, *_, **__):
        raise SimulationError(
            f"{self.label}: the values of a tensor are not known when the kernel is traced, and Python's operators on it are not"
            " modelled: use the operations of nl and nisa, and `tensor[...] += result`"
        )

    __bool__ = __int__ = __float__ = __index__ = __len__ = __iter__ = __contains__ = __array__ = _unknown
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _unknown
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __matmul__ = __rmatmul__ = _unknown
    __truediv__ = __rtruediv__ = __floordiv__ = __mod__ = __pow__ = __neg__ = __abs__ = __and__ = __or__ = _unknown
    __isub__ = __imul__ = __itruediv__ = __imatmul__ = _unknown


class Tensor(Traced):
    """Memory in one buffer: sbuf, psum or hbm. Fresh memory holds NaN, and remembers what was written."""

    def __init__(self, recorder, shape, dtype, buffer, name="", data=None, zeros=False, argument=False):
        self.recorder, self.buffer = recorder, buffer
        what = f"a tensor {name!r} in {buffer}" if name else f"a tensor in {buffer}"
        if not isinstance(name, str):
            raise SimulationError(f"a tensor in {buffer}: the name is a string, got {name!r}")
        self.shape, self.dtype = dimensions(shape, what), data_type(dtype, what)
        self.argument, self.shared = argument, False  # shared: by the programs, and what a kernel returns
        if buffer in ON_CHIP and len(self.shape) < 2:
            raise SimulationError(
                f"a tile in {buffer} needs a partition and a free dimension, got {_describe(self.shape)}"
            )
        if buffer in ON_CHIP and any(isinstance(n, ParDim) for n in tuple(shape)[1:]):
            raise SimulationError(
                f"the leading dimension must be the partition dimension, got par_dim later in {_describe(self.shape)}"
            )
        machine = recorder.machine
        size = math.prod(self.shape) * self.dtype.itemsize
        if buffer in ON_CHIP:
            if self.shape[0] > machine.partitions:
                raise SimulationError(
                    f"a tile {_describe(self.shape)} in {buffer} has {self.shape[0]} partitions: at most {machine.partitions}"
                )
            size //= self.shape[0]
            limits = {"sbuf": (machine.sbuf_partition, "sbuf"), "psum": (machine.psum_bank, "a bank of psum")}
            limit, place = limits[buffer]
            if size > limit:
                raise SimulationError(
                    f"a tile {_describe(self.shape)} of {self.dtype} takes {size} bytes per partition: {place} of"
                    f" {machine.name} has {limit}"
                )
        self.strides = tuple(math.prod(self.shape[i + 1 :]) for i in range(len(self.shape)))
        self.allocation = recorder.allocate(name, self.shape, str(self.dtype), buffer, size)
        self.scope = recorder.scope()
        self.data = self.written = self.group = None  # group: the region that TensorE wrote last, in PSUM
        if not recorder.dry:
            if data is not None:
                self.data = np.ascontiguousarray(data)
            elif zeros:
                self.data = np.zeros(self.shape, self.dtype)
            else:
                self.data = np.full(self.shape, np.nan, self.dtype)
            self.written = np.full(self.shape, WRITTEN if zeros or data is not None else 0, np.uint8)

    @property
    def label(self) -> str:
        return f"{self.allocation.name or self.buffer}{_describe(self.shape)}"

    def reshape(self, shape) -> "Tensor":
        """The same HBM memory under another shape."""
        if self.buffer != "hbm":
            raise SimulationError(f"only HBM tensors are reshaped, {self.label} is in {self.buffer}")
        shape = dimensions(shape, f"reshape of {self.label}")
        if math.prod(shape) != math.prod(self.shape):
            raise SimulationError(f"cannot reshape {self.label} to {_describe(shape)}")
        other = object.__new__(Tensor)
        other.__dict__.update(self.__dict__)
        other.shape = shape
        other.strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
        if self.data is not None:
            other.data, other.written = self.data.reshape(shape), self.written.reshape(shape)
        return other

    def __getitem__(self, key) -> "View":
        return View(self, key)

    def __setitem__(self, key, value) -> None:
        view = View(self, key)
        if isinstance(value, View) and value.accumulated and value.key == view.key:
            return  # the set of `tensor[key] += result`, which has happened
        self.recorder.assign(view, value)

    def __iadd__(self, value):
        self[...] += value
        return self


class View(Traced):
    """A region of a tensor."""

    def __init__(self, tensor: Tensor, key):
        self.tensor, self.accumulated = tensor, False
        tensor.recorder.check_scope(tensor)
        key = key if isinstance(key, tuple) else (key,)
        if any(item is Ellipsis for item in key):
            at = next(i for i, item in enumerate(key) if item is Ellipsis)
            key = (*key[:at], *[slice(None)] * (len(tensor.shape) - len(key) + 1), *key[at + 1 :])
        if len(key) > len(tensor.shape):
            raise SimulationError(f"{tensor.label} is indexed with {len(key)} indices")
        key = (*key, *[slice(None)] * (len(tensor.shape) - len(key)))
        grids = [item for item in key if isinstance(item, Grid)]
        if grids and any(isinstance(item, slice | DynamicSlice) for item in key):
            raise SimulationError(f"{tensor.label}: slices and nl.arange indices cannot be mixed")
        offset, dims, self.partition = Affine(), [], Affine()
        self.axes: list[
            tuple[Affine, tuple]
        ] = []  # per dimension of the tensor: the start, and (coefficient, size)s from it
        advanced = sum(grids, Grid(Affine(), ((0, 1),) * len(grids[0].axes))) if grids else None
        sizes = [n for _, n in advanced.axes] if grids else []
        strides = [0] * len(sizes)
        for axis, (item, extent, stride) in enumerate(zip(key, tensor.shape, tensor.strides, strict=True)):
            start, shifts = self._item(item, extent, axis)
            low = start.low + sum(min(0, c * (n - 1)) for c, n in shifts)
            high = start.high + sum(max(0, c * (n - 1)) for c, n in shifts)
            if low < 0 or high >= extent:
                raise SimulationError(
                    f"out of bounds: index range [{low}, {high}] of dimension {axis} of {tensor.label}, which has {extent}"
                )
            if not all(variable.active for variable, _ in start.terms):
                raise SimulationError(f"{tensor.label} is indexed with {start!r}, the index of a loop that has ended")
            offset = offset + start * stride
            self.axes.append((start, shifts))
            if axis == 0:
                self.partition = start
            if isinstance(item, Grid):
                strides = [s + c * stride for s, (c, _) in zip(strides, item.axes, strict=True)]
                if tensor.buffer in ON_CHIP and axis == 0 and any(c for c, _ in item.axes[1:]):
                    raise SimulationError(f"{tensor.label}: the partition index must lie on the first axis")
            elif isinstance(item, slice | DynamicSlice):
                dims.append((stride * shifts[0][0], shifts[0][1]))
            elif axis == 0 and tensor.buffer in ON_CHIP:
                raise SimulationError(f"{tensor.label}: an integer drops the partition dimension, take a slice of one")
        self.offset = offset
        self.dims = tuple(zip(strides, sizes, strict=True)) if grids else tuple(dims)
        if tensor.buffer in ON_CHIP:
            first, step = self.dims[0][0], tensor.strides[0]
            if self.dims[0][1] > 1 and first != step:
                raise SimulationError(f"{tensor.label}: the partitions of a region must follow each other")
            self._check_start(self.dims[0][1])

    def _check_start(self, partitions: int) -> None:
        """Where a region on chip may start depends on how many partitions it has."""
        starts = ((32, "0, 32, 64 or 96"), (64, "0 or 64"), (128, "0"))
        step, where = next((size, where) for size, where in starts if partitions <= size)
        if self.partition.terms or self.partition.constant % step:
            raise SimulationError(
                f"{self.tensor.label}: a region of {partitions} partitions must start at partition {where}, got"
                f" {self.partition!r}"
            )

    def _item(self, item, extent: int, axis: int) -> tuple[Affine, tuple[tuple[int, int], ...]]:
        """The symbolic start, and what is added to it: (coefficient, size) per axis."""
        if isinstance(item, Grid):
            return item.base, item.axes
        if isinstance(item, DynamicSlice):
            return item.start, ((1, item.size),)
        if not isinstance(item, slice):
            return Affine.of(item), ()
        start = Affine.of(0 if item.start is None else item.start)
        stop = Affine.of(extent if item.stop is None else item.stop)
        step = 1 if item.step is None else integer(item.step, f"{self.tensor.label}: the step of a slice")
        if step < 1:
            raise SimulationError(f"{self.tensor.label}: the step of a slice must be positive, got {item}")
        if not start.terms and start.constant < 0 or not stop.terms and stop.constant < 0:
            raise SimulationError(f"{self.tensor.label}: negative indices are not supported, got {item}")
        length = stop - start
        if length.terms:
            raise SimulationError(f"{self.tensor.label}: the length of slice {item} depends on a loop index")
        if length.constant < 1:
            raise SimulationError(f"{self.tensor.label}: slice {item} of dimension {axis} is empty")
        return start, ((step, -(-length.constant // step)),)

    @property
    def recorder(self):
        return self.tensor.recorder

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(size for _, size in self.dims)

    @property
    def dtype(self) -> np.dtype:
        return self.tensor.dtype

    @property
    def buffer(self) -> str:
        return self.tensor.buffer

    @property
    def label(self) -> str:
        return f"{self.tensor.allocation.name or self.buffer}{_describe(self.shape)}"

    @property
    def key(self) -> tuple:
        return (self.tensor.allocation.key, self.offset.key, self.dims, str(self.dtype))

    def contiguous(self, skip: int = 1) -> int:
        """Elements that lie in a row, over the dimensions after the first `skip`."""
        run, expected = 1, 1
        for stride, size in reversed(self.dims[skip:]):
            if size > 1 and stride != expected:
                break
            run *= size
            expected *= size
        return run

    def operand(self) -> Operand:
        return Operand(
            self.tensor.allocation, self.shape, str(self.dtype), self.buffer, self.offset.key, self.contiguous()
        )

    def _array(self, base: np.ndarray) -> np.ndarray:
        item = base.itemsize
        return np.ndarray(
            self.shape, base.dtype, base, self.offset.value * item, tuple(stride * item for stride, _ in self.dims)
        )

    def read(self) -> np.ndarray:
        """The region's values; refuses a region that was not written as a whole."""
        if not self._array(self.tensor.written).all():
            raise SimulationError(f"{self.label} of {self.tensor.label} is read, but was never written as a whole")
        return self._array(self.tensor.data)

    @property
    def _region(self) -> tuple:
        return self.offset.value, self.dims

    def continue_group(self) -> None:
        """Refuses to go on with an accumulation that another one in the same tile has ended."""
        if self.tensor.group != self._region and (self._array(self.tensor.written) == CLOSED).any():
            raise SimulationError(
                f"{self.label} of {self.tensor.label} is accumulated again after another region of the tile: a bank of"
                " PSUM holds one accumulation at a time, finish it or use a tile for each"
            )

    def turn(self) -> None:
        """Ends the accumulations in other regions of the tile."""
        tensor = self.tensor
        if tensor.group != self._region:
            tensor.written[tensor.written == OPEN] = CLOSED
            tensor.group = self._region

    def write(self, values: np.ndarray, group: bool = False) -> None:
        """group: as the start or a part of an accumulation in PSUM."""
        written = self._array(self.tensor.written)
        if self.buffer == "hbm":
            if written.any():
                raise SimulationError(f"{self.label} of {self.tensor.label}: an element in HBM is written twice")
        written[...] = OPEN if group else WRITTEN
        self._array(self.tensor.data)[...] = values

    def __iadd__(self, value):
        self.recorder.accumulate(self, value)
        self.accumulated = True
        return self

    def __getitem__(self, key):
        if key is Ellipsis:
            return self
        raise SimulationError(f"{self.label}: index the tensor once, not a region of it")

    def __setitem__(self, key, value):
        if key is not Ellipsis:
            raise SimulationError(f"{self.label}: index the tensor once, not a region of it")
        if isinstance(value, View) and value.accumulated and value.key == self.key:
            return
        self.recorder.assign(self, value)


class Result(Traced):
    """What an instruction gives before it is assigned: assigning it costs nothing, using it makes it a tile."""

    def __init__(self, recorder, instruction, shape, dtype, buffer, values, fixed=False):
        self.recorder, self.instruction = recorder, instruction
        self.shape, self.dtype, self.buffer, self.values = tuple(shape), np.dtype(dtype), buffer, values
        self.fixed = fixed  # the buffer that the engine writes cannot be chosen
        self.argument, self.scope = False, recorder.scope()
        self.view: View | None = None

    @property
    def label(self) -> str:
        return f"the result of {self.instruction.name}{_describe(self.shape)}"

    def tile(self) -> View:
        """A tile of its own for a result that is used without having been assigned."""
        self.recorder.check_scope(self)
        if self.view is None:
            tensor = Tensor(self.recorder, self.shape, self.dtype, self.buffer, name=self.instruction.name)
            self.recorder.bind(self, tensor[...])
        return self.view

    def __getitem__(self, key) -> View:
        view = self.tile()
        return view if key is Ellipsis else view.tensor[key]

    def __setitem__(self, key, value):
        raise SimulationError(f"{self.label} is written: assign it to a tile of nl.ndarray first")

    def __iadd__(self, value):
        raise SimulationError(f"{self.label} is added to: assign it to a tile of nl.ndarray first")
