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
"""`neuronxcc.nki.language` in NumPy: memory, loops, indices, transfers, and the operations that stand for one instruction."""

import operator

import numpy as np

from ..errors import SimulationError
from . import isa, signatures
from .index import Affine, Grid
from .memory import DynamicSlice, ParDim, Result, Tensor, View
from .recorder import current
from .signatures import documented
from .values import BFLOAT16, FLOAT16, FLOAT32, data_type, integer


bfloat16, float16, float32 = BFLOAT16, FLOAT16, FLOAT32
sbuf, psum, hbm, private_hbm, shared_hbm = "sbuf", "psum", "hbm", "private_hbm", "shared_hbm"
par_dim = ParDim


class tile_size:  # noqa: N801
    pmax = 128
    psum_fmax = 512
    gemm_stationary_fmax = 128
    gemm_moving_fmax = 512


def _tensor(shape, dtype, buffer, name, zeros=False) -> Tensor:
    buffer = sbuf if buffer is None else buffer
    recorder = current()
    if buffer not in (sbuf, psum, hbm, private_hbm, shared_hbm):
        raise SimulationError(
            f"unknown buffer {buffer!r}, the simulator has sbuf, psum, hbm, private_hbm and shared_hbm"
        )
    if buffer in (sbuf, psum):
        return Tensor(recorder, shape, dtype, buffer, name, zeros=zeros)
    if zeros:
        raise SimulationError("a tensor in HBM cannot be made with a value: store one")
    if len(recorder.frames) > 1:
        raise SimulationError("a tensor in HBM can only be made at the top level of a kernel, not inside a loop")
    tensor = Tensor(recorder, shape, dtype, "hbm", name)
    if buffer == shared_hbm:  # elsewhere each program has memory of its own
        first = recorder.outputs.setdefault(tensor.allocation.key, tensor)
        tensor.data, tensor.written, tensor.shared = first.data, first.written, True
    return tensor


@documented(signatures.language.ndarray)
def ndarray(shape, dtype, buffer=None, name="") -> Tensor:
    return _tensor(shape, dtype, buffer, name)


@documented(signatures.language.zeros)
def zeros(shape, dtype, buffer=None, name="") -> Tensor:
    tensor = _tensor(shape, dtype, buffer, name, zeros=True)
    if tensor.buffer == sbuf:  # in PSUM the first product of an accumulation overwrites, and zeros cost nothing
        current().bind(isa.memset(tensor.shape, 0, tensor.dtype), tensor[...])
    return tensor


def _trips(args, name: str) -> int:
    if len(args) != 1:
        raise SimulationError(f"{name}: the simulator takes one number of iterations, got {args}")
    trips = integer(args[0], f"{name}: the number of iterations")
    if trips < 0:
        raise SimulationError(f"{name}: the number of iterations is negative, {trips}")
    return trips


def _numbers(args, name: str) -> range:
    """What the arguments of Python's `range` stand for."""
    if len(args) == 1:
        return range(_trips(args, name))
    numbers = [integer(n, name) for n in _some(args, name, 3)]
    if not numbers[2:] or numbers[2]:
        return range(*numbers)
    raise SimulationError(f"{name}: the step is zero, got {args}")


def _loop(kind: str, numbers: range):
    for variable in current().loop(kind, len(numbers)):
        yield Affine(numbers.start, ((variable, numbers.step),))


def _some(args, name: str, most: int) -> tuple:
    if not 1 <= len(args) <= most:
        raise SimulationError(f"{name}: 1 to {most} numbers are expected, got {args}")
    return args


@documented(signatures.language.affine_range)
def affine_range(*args):
    return _loop("affine", range(_trips(args, "nl.affine_range")))


@documented(signatures.language.sequential_range)
def sequential_range(*args):
    """Also what Python's `range` is in a kernel: it takes the same arguments."""
    return _loop("sequential", _numbers(args, "nl.sequential_range"))


@documented(signatures.language.static_range)
def static_range(*args):
    return range(*(integer(n, "nl.static_range") for n in _some(args, "nl.static_range", 3)))


@documented(signatures.language.arange)
def arange(*args) -> Grid:
    numbers = [integer(n, "nl.arange") for n in _some(args, "nl.arange", 2)]
    start, stop = (0, *numbers) if len(numbers) == 1 else numbers
    if stop <= start:
        raise SimulationError(f"nl.arange: the range {args} is empty")
    return Grid(Affine(start), ((1, stop - start),))


class Mesh(tuple):
    """The index arrays of `nl.mgrid`, one per dimension: to unpack, or as `.p` (partitions), `.x` and `.y`."""

    __slots__ = ()
    p, x, y = (property(operator.itemgetter(axis)) for axis in range(3))


class _Mgrid:
    """`nl.mgrid[0:128, 0:512]`: dense index arrays, as NumPy's."""

    def __getitem__(self, key) -> Mesh:
        key = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(item, slice) and item.step in (None, 1) and item.stop is not None for item in key):
            raise SimulationError(f"nl.mgrid: slices with a stop and no step are expected, got {key}")
        grids = [arange(item.start or 0, item.stop) for item in key]
        sizes = [grid.axes[0][1] for grid in grids]
        return Mesh(
            Grid(grid.base, tuple((int(axis == at), size) for axis, size in enumerate(sizes)))
            for at, grid in enumerate(grids)
        )


mgrid = _Mgrid()


@documented(signatures.language.ds)
def ds(start, size) -> DynamicSlice:
    return DynamicSlice(start, size)


@documented(signatures.language.program_id)
def program_id(axis):
    if integer(axis, "program_id: the axis") != 0:
        raise SimulationError(f"program_id: the grid has one axis, got axis {axis}")
    frame = current().frames[0]
    return Affine(0, ((frame.variable, 1),)) if frame.variable.trips > 1 else Affine()


@documented(signatures.language.num_programs)
def num_programs(axes=None) -> int:
    return current().programs


@documented(signatures.language.load)
def load(src, dtype=None) -> Result:
    src = isa.tile(src, "load: src", "hbm")
    if dtype is not None and data_type(dtype, "load: dtype") != src.dtype:
        raise SimulationError(f"load: {src.dtype} is loaded as {dtype}: load it as it is, then copy")
    return isa.load_view(src)


@documented(signatures.language.store)
def store(dst, value) -> None:
    isa.store_view(isa.tile(dst, "store: dst", "hbm"), isa.tile(value, "store: value", "sbuf"))


@documented(signatures.language.load_transpose2d)
def load_transpose2d(src, dtype=None) -> View:
    """Modelled as a load, a transpose on TensorE, and its way out of PSUM."""
    return isa.tensor_copy(isa.nc_transpose(load(src), engine=isa.engine.tensor), dtype=dtype)


@documented(signatures.language.matmul)
def matmul(x, y, transpose_x=False) -> Result:
    if transpose_x is not True:
        raise SimulationError(
            "matmul: give x transposed and transpose_x=True: a transpose is an instruction of its own"
        )
    return isa.nc_matmul(x, y)


@documented(signatures.language.copy)
def copy(src, dtype=None) -> Result:
    return isa.tensor_copy(src, dtype=dtype)


@documented(signatures.language.add)
def add(x, y, dtype=None) -> Result:
    return isa.tensor_tensor(x, y, op=np.add, dtype=dtype)


@documented(signatures.language.multiply)
def multiply(x, y, dtype=None) -> Result:
    return isa.tensor_tensor(x, y, op=np.multiply, dtype=dtype)


@documented(signatures.language.silu)
def silu(x, dtype=None) -> Result:
    return isa.activation("silu", x, dtype=dtype)


@documented(signatures.language.gelu_apprx_tanh)
def gelu_apprx_tanh(x, dtype=None) -> Result:
    return isa.activation("gelu_apprx_tanh", x, dtype=dtype)


CONSTANTS = (
    "bfloat16", "float16", "float32", "hbm", "mgrid", "par_dim", "private_hbm", "psum", "sbuf", "shared_hbm", "tile_size"
)  # fmt: skip


def __getattr__(name: str):
    raise signatures.unknown(signatures.language, "nl", CONSTANTS, name)


# Functions double as the `op` of nisa.activation and nisa.tensor_tensor.
silu.activation, gelu_apprx_tanh.activation, copy.activation = "silu", "gelu_apprx_tanh", "copy"
