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
"""The operations that kernels are written in, over NKI Beta 1 (`neuronxcc.nki`, SDK 2.26) or the simulator of it.

This is the only file that knows the form of Beta 1: results that are assigned, `+=` for an accumulation in PSUM, dynamic
slices. Destinations are written `to(tile)[...]`, so that a dialect may assign to them or pass them to an instruction.
"""

import functools

import numpy as np


class Destination:
    """A region of a tile that an operation writes."""

    __slots__ = ("tensor", "index")

    def __init__(self, tensor, index):
        self.tensor, self.index = tensor, index


class to:  # noqa: N801
    """`to(tile)[...]`: the destination of an operation."""

    __slots__ = ("tensor",)

    def __init__(self, tensor):
        self.tensor = tensor

    def __getitem__(self, index) -> Destination:
        return Destination(self.tensor, index)


class Block:
    """Part of a dimension: elements `start` to `start + size`, the block of number `index`.

    `size` is a number; `start` and `index` may be symbolic. `ds` is the block as an index of a tensor.
    """

    __slots__ = ("index", "start", "size", "ds")

    def __init__(self, index, start, size: int, ds):
        self.index, self.start, self.size, self.ds = index, start, size, ds


class Beta1:
    """NKI Beta 1.

    Args:
        nl: `neuronxcc.nki.language`, or the simulator's.
        nisa: `neuronxcc.nki.isa`, or the simulator's.
        unroll: loops are unrolled while tracing: slower to compile, and free of symbolic indices.
    """

    def __init__(self, nl, nisa, unroll: bool = False):
        self.nl, self.nisa, self.unroll = nl, nisa, unroll
        self.float32 = nl.float32
        self.activations = {"silu": nl.silu, "gelu_tanh": nl.gelu_apprx_tanh}
        # Of the signature (shape, dtype, name=). No functions of their own: Beta 1 makes tensors in HBM at the top level of a
        # kernel only.
        self.output = functools.partial(nl.ndarray, buffer=nl.shared_hbm)
        self.scratch = functools.partial(nl.ndarray, buffer=nl.private_hbm)

    # Memory

    def sbuf(self, shape, dtype, name: str = ""):
        """A tile. One named "resident" stays for a strip of rows; others are refilled, and want a second buffer to overlap."""
        shape = (self.nl.par_dim(shape[0]), *shape[1:])
        return self.nl.ndarray(shape, dtype=dtype, buffer=self.nl.sbuf, name=name)

    def psum(self, shape, dtype):
        return self.nl.ndarray((self.nl.par_dim(shape[0]), *shape[1:]), dtype=dtype, buffer=self.nl.psum)

    def accumulator(self, shape):
        """Zeros in PSUM, float32, for `matmul` to add to."""
        return self.nl.zeros((self.nl.par_dim(shape[0]), *shape[1:]), dtype=self.float32, buffer=self.nl.psum)

    # Loops

    def ds(self, start, size: int):
        return self.nl.ds(start, size)

    def block(self, start, size: int, index=0) -> Block:
        return Block(index, start, size, self.nl.ds(start, size))

    def unrolled(self, count: int):
        """0 to count - 1 as numbers. Not Python's `range`, which Beta 1 takes for a loop that is traced once."""
        return self.nl.static_range(count)

    def blocks(self, extent: int, size: int, first=0, sequential: bool = False, unroll: bool = False):
        """The blocks of `size` that cover `extent` elements from `first`: a loop over the whole ones, then what is left.

        The one place where remainders are handled: the body of the caller's `for` is traced once for the whole blocks and once
        for the tail.

        Args:
            sequential: an iteration needs what the one before it wrote.
            unroll: every block is traced by itself, with numbers for index and start.
        """
        whole, tail = divmod(extent, size)
        loop = self.nl.sequential_range if sequential else self.nl.affine_range
        loop = self.unrolled if unroll or self.unroll else loop
        if whole:
            for i in loop(whole):
                yield self.block(i * size + first, size, i)
        if tail:
            for _ in loop(1):  # what is added up in PSUM must be so in an affine loop, also outside of the one above
                yield self.block(first + whole * size, tail, whole)

    def program(self, programs: int):
        """The number of this program among those that the kernel was launched for."""
        return self.nl.program_id(0) if programs > 1 else 0

    # Transfers

    def load(self, dst: Destination, src) -> None:
        dst.tensor[dst.index] = self.nl.load(src)

    def store(self, dst, src) -> None:
        """`dst`: a region of a tensor in HBM."""
        self.nl.store(dst, src)

    def _rows(self, tensor, partitions: int, first, tiles: int, columns: Block, steps: tuple[int, int]):
        """Rows first + p * steps[0] + t * steps[1] and the columns of an HBM tensor, as a region (p, t, column)."""
        p = self.nl.arange(partitions)[:, None, None]
        t = self.nl.arange(tiles)[None, :, None]
        n = self.nl.arange(columns.size)[None, None, :]
        return tensor[p * steps[0] + (t * steps[1] + first), n + columns.start]

    def load_tiles(self, dst: Destination, src, first, tiles: int, columns: Block, partitions: int = 128) -> None:
        """Loads `tiles` tiles of rows in one transfer: dst (128, tiles, columns) holds row first + 128 t + p at [p, t]."""
        dst.tensor[dst.index] = self.nl.load(self._rows(src, partitions, first, tiles, columns, (1, partitions)))

    def load_interleaved(self, dst, src, first, blocks: int, interleave: int, columns: Block) -> None:
        """The same with `interleave` rows in a row of a partition: row first + 128 J b + J p + t at [p, J b + t].

        Where the columns are all, J rows make one descriptor. `dst`: the whole tile (128, J blocks, columns).
        """
        p = self.nl.arange(128)[:, None, None, None]
        b = self.nl.arange(blocks)[None, :, None, None]
        t = self.nl.arange(interleave)[None, None, :, None]
        n = self.nl.arange(columns.size)[None, None, None, :]
        source = src[p * interleave + b * (128 * interleave) + (t + first), n + columns.start]
        dst[p, b * interleave + t, n] = self.nl.load(source)

    def store_tiles(self, dst, src, first, tiles: int, columns: Block, partitions: int = 128) -> None:
        """The inverse of `load_tiles`: `src` (128, tiles, columns) on chip to rows of `dst` in HBM."""
        self.nl.store(self._rows(dst, partitions, first, tiles, columns, (1, partitions)), src)

    def strided(self, tile, partitions: int, middle: tuple, start, step: int, count: int):
        """tile[0:partitions, *middle, start : start + count * step : step], of symbolic indices."""
        p = self.nl.arange(partitions)[:, None]
        n = self.nl.arange(count)[None, :]
        return tile[(p, *middle, n * step + start)]

    # Instructions

    def matmul(self, dst: Destination, stationary, moving) -> None:
        """Adds stationary.T @ moving to an accumulator."""
        dst.tensor[dst.index] += self.nisa.nc_matmul(stationary, moving)

    def transpose(self, dst: Destination, src) -> None:
        """Transposes a tile of at most 128 x 128 in SBUF into PSUM of `transposed_dtype`, on the tensor engine."""
        dst.tensor[dst.index] = self.nisa.nc_transpose(src, engine=self.nisa.tensor_engine)

    def transposed_dtype(self, dtype):
        """What the tensor engine writes when it transposes: float32 on NeuronCore-v2, the data as it is on later ones."""
        return self.float32 if self.nisa.get_nc_version() == self.nisa.nc_version.gen2 else dtype

    def copy(self, dst: Destination, src, engine: str = "vector") -> None:
        """Copies on chip, to the data type of the destination."""
        engine = {"vector": self.nisa.vector_engine, "scalar": self.nisa.scalar_engine}[engine]
        dst.tensor[dst.index] = self.nisa.tensor_copy(src, dtype=dst.tensor.dtype, engine=engine)

    def activate(self, dst: Destination, function: str, src) -> None:
        """`function` (silu or gelu_tanh) on the scalar engine."""
        dst.tensor[dst.index] = self.nisa.activation(self.activations[function], src, dtype=dst.tensor.dtype)

    def multiply(self, dst: Destination, a, b) -> None:
        dst.tensor[dst.index] = self.nisa.tensor_tensor(a, b, op=np.multiply, dtype=dst.tensor.dtype)

    def add(self, dst: Destination, a, b) -> None:
        dst.tensor[dst.index] = self.nisa.tensor_tensor(a, b, op=np.add, dtype=dst.tensor.dtype)

    def fill(self, dst: Destination, value: float, shape) -> None:
        dst.tensor[dst.index] = self.nisa.memset(shape, value, dtype=dst.tensor.dtype)
