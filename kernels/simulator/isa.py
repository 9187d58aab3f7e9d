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
"""`neuronxcc.nki.isa` in NumPy: the instructions that kernels use, with the limits of the engines.

Limits, buffers and data types are those of the docstrings of `nki.isa` (Neuron documentation, SDK 2.26.1).
"""

import numbers
from enum import Enum

import numpy as np

from ..engines import DMA, GPSIMD, SCALAR, TENSOR, VECTOR
from ..errors import SimulationError
from . import signatures
from .memory import Result, Tensor, View
from .recorder import current
from .signatures import documented
from .values import data_type, dimensions


class engine(Enum):  # noqa: N801
    """The engines of a NeuronCore that an instruction can be given to."""

    unknown = 0
    tensor = 1
    scalar = 2
    gpsimd = 3
    vector = 5


tensor_engine, vector_engine, scalar_engine, gpsimd_engine = engine.tensor, engine.vector, engine.scalar, engine.gpsimd


class nc_version(Enum):  # noqa: N801
    """Generations of the NeuronCore."""

    gen2 = 2
    gen3 = 3
    gen4 = 4


@documented(signatures.isa.get_nc_version)
def get_nc_version() -> nc_version:
    return nc_version(int(current().machine.core[-1]))


CONSTANTS = ("engine", "gpsimd_engine", "nc_version", "scalar_engine", "tensor_engine", "vector_engine")


def __getattr__(name: str):
    raise signatures.unknown(signatures.isa, "nisa", CONSTANTS, name)


_NAMES = {engine.tensor: TENSOR, engine.vector: VECTOR, engine.scalar: SCALAR, engine.gpsimd: GPSIMD}
_TANH = np.float32(np.sqrt(2 / np.pi))


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(_TANH * (x + np.float32(0.044715) * x**3)))


ACTIVATIONS = {"silu": _silu, "gelu_apprx_tanh": _gelu_tanh, "copy": lambda x: x}


def tile(value, name: str, *buffers: str) -> View | Result:
    """An operand, in one of the buffers that the instruction can read or write."""
    if isinstance(value, Tensor):
        value = value[...]
    if not isinstance(value, View | Result):
        raise SimulationError(f"{name}: a tile is expected, got {type(value).__name__}")
    if isinstance(value, Result):
        value = value.tile()
    if value.buffer not in buffers:
        raise SimulationError(f"{name}: {value.label} is in {value.buffer}, and must be in {' or '.join(buffers)}")
    return value


def choose(wanted, name: str, *allowed: engine) -> str:
    wanted = allowed[0] if wanted in (None, engine.unknown) else wanted
    if wanted not in allowed:
        raise SimulationError(f"{name}: runs on {' or '.join(e.name for e in allowed)}, not on {wanted}")
    return _NAMES[wanted]


def _no_psum_on_gpsimd(name: str, on: str, *tiles: View) -> None:
    for operand in tiles:
        if on == GPSIMD and operand.buffer == "psum":
            raise SimulationError(f"{name}: GpSimdE has no access to PSUM, where {operand.label} is")


def _partition_size(view: View) -> tuple[int, int]:
    return view.shape[0], int(np.prod(view.shape[1:], dtype=int))


def _result_dtype(dtype, default: np.dtype, name: str) -> np.dtype:
    return default if dtype is None else data_type(dtype, f"{name}: dtype")


@documented(signatures.isa.nc_matmul)
def nc_matmul(stationary, moving, is_stationary_onezero=False, is_moving_onezero=False) -> Result:
    """stationary.T @ moving, (N_stationary, N_moving) float32 in one PSUM bank."""
    machine = current().machine
    stationary = tile(stationary, "nc_matmul: stationary", "sbuf")
    moving = tile(moving, "nc_matmul: moving", "sbuf")
    (K, S), (K_moving, N) = _partition_size(stationary), _partition_size(moving)
    both = f"stationary {stationary.label} and moving {moving.label}"
    if K != K_moving:
        raise SimulationError(f"nc_matmul: the partition sizes of {both} differ, {K} and {K_moving}")
    if S > machine.stationary_max:
        raise SimulationError(
            f"nc_matmul: the free size of the stationary operand is at most {machine.stationary_max}, {both}"
        )
    if N > machine.moving_max:
        raise SimulationError(
            f"nc_matmul: the free size of the moving operand is at most {machine.moving_max}, {both}"
        )
    if (stationary.dtype == np.float32) != (moving.dtype == np.float32):
        raise SimulationError(
            f"nc_matmul: both operands are float32 or none is, stationary is {stationary.dtype}, moving {moving.dtype}"
        )

    def product(a, b):
        return a.reshape(K, S).astype(np.float32).T @ b.reshape(K, N).astype(np.float32)

    return current().emit(
        "nc_matmul", TENSOR, [stationary, moving], (S, N), np.float32, "psum", product, fixed=True, flops=2 * K * S * N
    )


@documented(signatures.isa.nc_transpose)
def nc_transpose(data, dtype=None, engine=None) -> Result:
    """The transpose of a tile: on TensorE up to 128 x 128 from SBUF to PSUM, on VectorE up to 32 x 32."""
    data = tile(data, "nc_transpose: data", "sbuf", "psum")
    P, F = _partition_size(data)
    small = P <= 32 and F <= 32
    on = choose(engine, "nc_transpose", *((_E.vector, _E.tensor) if small else (_E.tensor, _E.vector)))
    limit = 128 if on == TENSOR else 32
    if max(P, F) > limit:
        raise SimulationError(f"nc_transpose on {on}: at most {limit} x {limit}, got {data.label}")
    if on == TENSOR and data.buffer != "sbuf":
        raise SimulationError(f"nc_transpose on TensorE reads SBUF, {data.label} is in {data.buffer}")
    # TensorE of NeuronCore-v2 writes float32; later ones pass the data through.
    native = np.dtype(np.float32) if on == TENSOR and get_nc_version() is nc_version.gen2 else data.dtype
    if _result_dtype(dtype, native, "nc_transpose") != native:
        raise SimulationError(f"nc_transpose: the result of {data.label} is {native}, {dtype} would add a cast")
    flops, buffer = (2 * P * P * F, "psum") if on == TENSOR else (0, "sbuf")
    return current().emit(
        "nc_transpose", on, [data], (F, P), native, buffer, lambda a: a.reshape(P, F).T.astype(native),
        fixed=on == TENSOR, flops=flops, transpose=True,
    )  # fmt: skip


@documented(signatures.isa.activation)
def activation(op, data, bias=None, scale=1.0, dtype=None) -> Result:
    """op(data * scale + bias) in float32 on ScalarE; `bias` is a vector over the partitions."""
    function = getattr(op, "activation", op)
    if not isinstance(function, str) or function not in ACTIVATIONS:
        raise SimulationError(f"activation: unknown function {op!r}, the simulator has {', '.join(ACTIVATIONS)}")
    data = tile(data, "activation: data", "sbuf", "psum")
    operands = [data]
    if bias is not None:
        bias = tile(bias, "activation: bias", "sbuf", "psum")
        if _partition_size(bias) != (data.shape[0], 1):
            raise SimulationError(f"activation: bias must be a vector [{data.shape[0]}, 1], got {bias.label}")
        operands.append(bias)
    if not isinstance(scale, numbers.Real):
        raise SimulationError(f"activation: the simulator takes a number as scale, got {type(scale).__name__}")
    dtype = _result_dtype(dtype, data.dtype, "activation")

    def compute(a, b=None):
        x = a.astype(np.float32) * np.float32(scale)
        if b is not None:
            x = x + b.astype(np.float32).reshape(-1, *[1] * (x.ndim - 1))
        return ACTIVATIONS[function](x).astype(dtype)

    return current().emit(
        "activation", SCALAR, operands, data.shape, dtype, "sbuf", compute,
        attributes={"op": function, "scale": float(scale)},
    )  # fmt: skip


_BINARY = {"add": np.add, "multiply": np.multiply}


@documented(signatures.isa.tensor_tensor)
def tensor_tensor(data1, data2, op, dtype=None, engine=None) -> Result:
    """op(data1, data2), element by element, in float32, on VectorE or GpSimdE; not both operands in PSUM."""
    function = getattr(op, "__name__", op)
    if not isinstance(function, str) or function not in _BINARY:
        raise SimulationError(f"tensor_tensor: unknown op {op!r}, the simulator has {', '.join(_BINARY)}")
    data1, data2 = (tile(d, f"tensor_tensor: data{i}", "sbuf", "psum") for i, d in ((1, data1), (2, data2)))
    if _partition_size(data1) != _partition_size(data2):
        raise SimulationError(f"tensor_tensor: the shapes of {data1.label} and {data2.label} differ")
    if data1.buffer == data2.buffer == "psum":
        raise SimulationError(f"tensor_tensor: {data1.label} and {data2.label} are both in PSUM, at most one may be")
    on = choose(engine, "tensor_tensor", _E.vector, _E.gpsimd)
    _no_psum_on_gpsimd("tensor_tensor", on, data1, data2)
    dtype = _result_dtype(dtype, max(data1.dtype, data2.dtype, key=lambda d: d.itemsize), "tensor_tensor")
    return current().emit(
        "tensor_tensor", on, [data1, data2], data1.shape, dtype, "sbuf",
        lambda a, b: _BINARY[function](a.astype(np.float32), b.reshape(a.shape).astype(np.float32)).astype(dtype),
        attributes={"op": function},
    )  # fmt: skip


@documented(signatures.isa.tensor_copy)
def tensor_copy(src, dtype=None, engine=None) -> Result:
    """A copy on chip, through float32 where the data type changes."""
    src = tile(src, "tensor_copy: src", "sbuf", "psum")
    on = choose(engine, "tensor_copy", _E.vector, _E.scalar, _E.gpsimd)
    _no_psum_on_gpsimd("tensor_copy", on, src)
    dtype = _result_dtype(dtype, src.dtype, "tensor_copy")
    return current().emit(
        "tensor_copy", on, [src], src.shape, dtype, "sbuf", lambda a: a.astype(np.float32).astype(dtype)
    )


@documented(signatures.isa.memset)
def memset(shape, value, dtype, engine=None) -> Result:
    """A tile that holds one number."""
    on = choose(engine, "memset", _E.vector, _E.gpsimd)
    shape, dtype = dimensions(shape, "memset"), data_type(dtype, "memset")
    if not isinstance(value, numbers.Real):
        raise SimulationError(f"memset: a number is expected, got {type(value).__name__}")
    return current().emit(
        "memset",
        on,
        [],
        shape,
        dtype,
        "sbuf",
        lambda: np.full(shape, value, dtype),
        attributes={"value": float(value)},
    )


def _runs(hbm: View, other: View) -> int:
    """Bytes of one descriptor: what is contiguous in HBM and within a partition on chip."""
    return min(hbm.contiguous(), other.contiguous()) * hbm.dtype.itemsize


def load_view(src: View) -> Result:
    """The result of a DMA from HBM to SBUF."""
    if not src.shape:
        raise SimulationError(
            f"load: an element of {src.tensor.label} has no partition dimension, take a slice of one"
        )
    partitions = current().machine.partitions
    if src.shape[0] > partitions:
        raise SimulationError(f"load: {src.label} has {src.shape[0]} partitions, at most {partitions}")
    size = int(np.prod(src.shape, dtype=int)) * src.dtype.itemsize
    return current().emit(
        "load", DMA, [src], src.shape, src.dtype, "sbuf", lambda a: a.copy(),
        fixed=True, hbm_read=size, run=src.contiguous() * src.dtype.itemsize,
    )  # fmt: skip


def store_view(dst: View, src: View) -> None:
    """The DMA of a tile in SBUF to HBM."""
    if dst.shape != src.shape:
        raise SimulationError(f"store: {src.label} is stored to {dst.label}: the shapes differ")
    if dst.dtype != src.dtype:
        raise SimulationError(f"store: {src.dtype} is stored to {dst.dtype}: a DMA does not cast, copy the tile first")
    size = int(np.prod(src.shape, dtype=int)) * src.dtype.itemsize
    result = current().emit(
        "store", DMA, [src], dst.shape, dst.dtype, "hbm", lambda a: a.copy(),
        fixed=True, hbm_written=size, run=_runs(dst, src),
    )  # fmt: skip
    current().bind(result, dst)


@documented(signatures.isa.dma_copy)
def dma_copy(dst, src) -> None:
    """A DMA between HBM and SBUF."""
    dst, src = tile(dst, "dma_copy: dst", "sbuf", "hbm"), tile(src, "dma_copy: src", "sbuf", "hbm")
    if dst.dtype != src.dtype:
        raise SimulationError(
            f"dma_copy: {src.dtype} is copied to {dst.dtype}: a DMA does not cast, copy the tile first"
        )
    if (dst.buffer, src.buffer) == ("sbuf", "hbm"):
        current().assign(dst, load_view(src))
    elif (dst.buffer, src.buffer) == ("hbm", "sbuf"):
        store_view(dst, src)
    else:
        raise SimulationError(f"dma_copy: the simulator copies between HBM and SBUF, got {src.buffer} to {dst.buffer}")


_E = engine
