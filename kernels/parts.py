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
"""What the kernels are made of: transposed strips of activations, streamed weights, and the two forms of a product.

The tensor engine computes stationary.T @ moving over the partitions. With activations kept transposed (features on the
partitions) a product X W can therefore be asked for in two forms, and neither needs a transpose:

- `columns_on_partitions`: W stationary, X^T moving: (X W)^T, ready to be the X^T of the next product;
- `rows_on_partitions`: X^T stationary, W moving: X W, ready to be stored.

Names: M rows, K contraction, N columns; P = 128 partitions; a tile is 128 of a dimension.
"""

from dataclasses import dataclass, replace

from .beta1 import to
from .errors import PlanError
from .strips import Piece, Strip, load_strip
from .tiling import Blocks, F, P, cut, ends_with_a_tile, feature_tiles, regions, tiles


@dataclass(frozen=True)
class Product:
    """One X W + bias to be computed: the strip X^T, W (K, N) in HBM, bias (N,) in HBM or None."""

    strip: Strip
    weight: object
    bias: object = None


def load_weight(nk, w, rows, columns, interleave: int = 1):
    """A block of W on chip: (128, tiles, columns), row rows.start + 128 t + p at [p, t], or in a strip's interleaved order."""
    tile = nk.sbuf((P, tiles(rows.size), columns.size), w.dtype)
    if interleave > 1:
        nk.load_interleaved(tile, w, rows.start, rows.size // (P * interleave), interleave, columns)
        return tile
    for p, first, count in regions(rows.size):
        at = to(tile)[0:p, nk.ds(first, count), 0 : columns.size]
        nk.load_tiles(at, w, rows.start + first * P, count, columns, p)
    return tile


def load_bias(nk, bias, columns):
    """A block of a bias, on one partition."""
    row = nk.sbuf((1, columns.size), bias.dtype)
    nk.load(to(row)[0:1, 0 : columns.size], bias.reshape((1, bias.shape[0]))[0:1, columns.ds])
    return row


def ones_row(nk, size: int, dtype):
    """A row of ones, whose product with a bias adds it to every row."""
    ones = nk.sbuf((1, size), dtype)
    nk.fill(to(ones)[0:1, 0:size], 1.0, (1, size))
    return ones


class _Stream:
    """The weight of one product while a block of its columns is worked on: loaded once if its depth allows, else as it is used."""

    def __init__(self, nk, product: Product, columns, blocks: Blocks):
        self.nk, self.product, self.columns, self.depth = nk, product, columns, blocks.depth
        strip = product.strip
        self.whole = blocks.depth >= strip.extent
        ends_with_a_tile("depth", blocks.depth, strip.extent, strip.interleave)
        # (weight tile, activation tile, its first tile index, rows): what stays while the block is worked on.
        self.loaded = None
        if self.whole:
            self.loaded = [
                (self._load(nk.block(piece.first, piece.size)), piece.tile, piece.base, piece.size)
                for piece in strip.pieces
            ]
        elif blocks.abreast:
            self.loaded = [
                (self._load(nk.block(piece.first + d.start, d.size)), piece.tile, piece.base + d.start // P, d.size)
                for piece in strip.pieces
                for d in nk.blocks(piece.size, self.depth, unroll=True)
            ]
        self.bias = None if product.bias is None else load_bias(nk, product.bias, columns)

    def _load(self, rows):
        return load_weight(self.nk, self.product.weight, rows, self.columns, self.product.strip.interleave)

    def tiles(self):
        """(weight tile, its tile index, activation tile, its tile index, rows): the contraction, 128 at a time."""
        nk = self.nk
        if self.loaded is not None:
            for tile, x, first, size in self.loaded:
                for k in nk.blocks(size, P):
                    yield tile, k.index, x, k.index + first, k.size
            return
        for piece in self.product.strip.pieces:
            for d in nk.blocks(piece.size, self.depth):
                tile = self._load(nk.block(piece.first + d.start, d.size))
                for k in nk.blocks(d.size, P):
                    yield tile, k.index, piece.tile, d.index * (self.depth // P) + k.index + piece.base, k.size


def columns_on_partitions(nk, products: list[Product], columns, blocks: Blocks, finish, interleave: int = 1) -> None:
    """(X W + bias)^T for a block of columns: W stationary, X^T moving.

    Args:
        products: computed side by side, for the same columns.
        columns: the block of N to compute.
        finish: called with (sums, base, size, m) for tiles of the result: sums are (128, tiles, rows of m), one per product, column
            128 (base + t) + p at [p, t], counted from `columns.start`; m is a block of rows.
        interleave: of the columns over the partitions, as in a strip.
    """
    ends_with_a_tile("width", blocks.width, columns.size, interleave)
    if blocks.partial and blocks.depth < products[0].strip.extent:
        _columns_by_parts(nk, products, columns, blocks, finish, interleave)
        return
    M = products[0].strip.M
    ones = ones_row(nk, M, products[0].strip.dtype) if any(p.bias is not None for p in products) else None
    for c in nk.blocks(columns.size, blocks.width):
        here = nk.block(columns.start + c.start, c.size)
        streams = [_Stream(nk, product, here, blocks) for product in products]
        base = c.index * tiles(blocks.width)
        if not all(stream.whole for stream in streams):
            left = list(feature_tiles(nk, 0, c.size, interleave, unroll=True))
            for count in cut(len(left), blocks.abreast or len(left)):
                abreast, left = left[:count], left[count:]
                sums = [_side_by_side(nk, stream, abreast, M, ones) for stream in streams]
                for n in abreast:
                    for m in nk.blocks(M, F, unroll=True):
                        finish([banks[n.index, m.index] for banks in sums], base + n.index, n.size, m)
        elif blocks.group < interleave:  # the tiles that share features follow each other, each in a bank of its own
            for n in feature_tiles(nk, 0, c.size, interleave):
                for m in nk.blocks(M, F):
                    sums = [_column_sums(nk, stream, [n], n.size, m, ones) for stream in streams]
                    finish(sums, base + n.index, n.size, m)
        else:
            for g in nk.blocks(c.size, blocks.group * P):
                for m in nk.blocks(M, F):
                    sums = [
                        _column_sums(nk, stream, feature_tiles(nk, g.start, g.size, interleave), g.size, m, ones)
                        for stream in streams
                    ]
                    finish(sums, base + g.index * blocks.group, g.size, m)


def _column_sums(nk, stream: _Stream, columns, extent: int, m, ones):
    """The tiles of a group in one bank, each summed over all of K before the next begins."""
    acc = nk.accumulator((P, tiles(extent), m.size))
    for n in columns:
        at = to(acc)[0 : n.size, n.index if extent > P else 0, 0 : m.size]
        for w, wk, x, xk, k in stream.tiles():
            nk.matmul(at, stationary=n.of(w, k, wk), moving=x[0:k, xk, m.ds])
        if stream.bias is not None:
            for k in nk.blocks(1, P):
                nk.matmul(at, stationary=n.of(stream.bias, k.size), moving=ones[0 : k.size, m.ds])
    return acc


def _side_by_side(nk, stream: _Stream, columns: list, M: int, ones) -> dict:
    """Tiles in banks of their own by (tile of columns, block of rows): each row of the weight is used as it comes."""
    places = [(n, m) for n in columns for m in nk.blocks(M, F, unroll=True)]
    banks = {(n.index, m.index): nk.accumulator((P, 1, m.size)) for n, m in places}
    for w, wk, x, xk, k in stream.tiles():
        for n, m in places:
            at = to(banks[n.index, m.index])[0 : n.size, 0, 0 : m.size]
            nk.matmul(at, stationary=n.of(w, k, wk), moving=x[0:k, xk, m.ds])
    for n, m in places:
        if stream.bias is not None:
            at = to(banks[n.index, m.index])[0 : n.size, 0, 0 : m.size]
            for k in nk.blocks(1, P):
                nk.matmul(at, stationary=n.of(stream.bias, k.size), moving=ones[0 : k.size, m.ds])
    return banks


def _columns_by_parts(nk, products: list[Product], columns, blocks: Blocks, finish, interleave: int) -> None:
    """Sums over one depth of K at a time in PSUM, and over the depths in float32 in SBUF."""
    (product,) = products
    strip = product.strip
    if len(strip.pieces) > 1:
        raise PlanError("sums in parts need activations in one piece: plan this kernel anew")
    (piece,) = strip.pieces
    whole = replace(blocks, partial=False)
    total = float32_sums(nk, columns.size, strip.M)
    for d in nk.blocks(piece.size, blocks.depth, sequential=True):
        part = Piece(piece.tile, piece.first + d.start, d.size, d.index * (blocks.depth // P) + piece.base)
        part = replace(strip, pieces=(part,), extent=d.size)
        columns_on_partitions(nk, [Product(part, product.weight)], columns, whole, adding(nk, total), interleave)
    if product.bias is not None:
        nothing = replace(strip, pieces=(), extent=0)
        bias = Product(nothing, product.weight, product.bias)
        columns_on_partitions(nk, [bias], columns, whole, adding(nk, total), interleave)
    finish([total], 0, columns.size, nk.block(0, strip.M))


def float32_sums(nk, features: int, M: int):
    """Zeros in SBUF, for `adding`."""
    total = nk.sbuf((P, tiles(features), M), nk.float32)
    nk.fill(to(total)[0:P, 0 : tiles(features), 0:M], 0.0, (P, tiles(features), M))
    return total


def adding(nk, total):
    """A `finish` that adds sums to `total`."""

    def finish(sums, base, extent, m):
        for p, t, count in regions(extent):
            at = (slice(0, p), nk.ds(base + t, count), m.ds)
            nk.add(to(total)[at], total[at], sums[0][0:p, nk.ds(t, count), 0 : m.size])

    return finish


def copying(nk, target):
    """A `finish` that rounds sums to the data type of `target` (128, tiles, M)."""

    def finish(sums, base, extent, m):
        for p, t, count in regions(extent):
            source = sums[0][0:p, nk.ds(t, count), 0 : m.size]
            nk.copy(to(target)[0:p, nk.ds(base + t, count), m.ds], source, engine="scalar")

    return finish


def rows_on_partitions(nk, product: Product, y, rows, columns, blocks: Blocks) -> None:
    """Stores X W + bias to the rows and columns of y (M, N) in HBM: X^T stationary, W moving."""
    strip = product.strip
    ones = ones_row(nk, strip.M, strip.dtype) if product.bias is not None else None
    for c in nk.blocks(columns.size, blocks.width):
        here = nk.block(columns.start + c.start, c.size)
        stream = _Stream(nk, product, here, blocks)
        banks = None if stream.whole else _rows_side_by_side(nk, stream, strip.M, c.size)
        for m in nk.blocks(strip.M, P, unroll=banks is not None):
            out = nk.sbuf((P, c.size), y.dtype)
            for n in nk.blocks(c.size, F, unroll=banks is not None):
                acc = nk.accumulator((P, n.size)) if banks is None else banks[m.index, n.index]
                at = to(acc)[0 : m.size, 0 : n.size]
                if banks is None:
                    for w, wk, x, xk, k in stream.tiles():
                        nk.matmul(at, stationary=x[0:k, xk, m.ds], moving=w[0:k, wk, n.ds])
                if stream.bias is not None:
                    for k in nk.blocks(1, P):
                        nk.matmul(at, stationary=ones[0 : k.size, m.ds], moving=stream.bias[0 : k.size, n.ds])
                nk.copy(to(out)[0 : m.size, n.ds], acc[0 : m.size, 0 : n.size], engine="scalar")
            nk.store(y[nk.ds(rows.start + m.start, m.size), here.ds], out[0 : m.size, 0 : c.size])


def _rows_side_by_side(nk, stream: _Stream, M: int, extent: int) -> dict:
    """All tiles of a block, in banks of their own by (tile of rows, block of columns)."""
    places = [(m, n) for m in nk.blocks(M, P, unroll=True) for n in nk.blocks(extent, F, unroll=True)]
    banks = {(m.index, n.index): nk.accumulator((P, n.size)) for m, n in places}
    for w, wk, x, xk, k in stream.tiles():
        for m, n in places:
            at = to(banks[m.index, n.index])[0 : m.size, 0 : n.size]
            nk.matmul(at, stationary=x[0:k, xk, m.ds], moving=w[0:k, wk, n.ds])
    return banks


def project(nk, strip: Strip, weight, blocks: Blocks) -> Strip:
    """(X W)^T on chip, in the data type of X: a piece per block of columns, so that it grows while X is still needed."""
    pieces, first = [], 0
    for size in cut(weight.shape[1], blocks.width):
        tile = nk.sbuf((P, tiles(size), strip.M), strip.dtype, name="resident")
        columns_on_partitions(nk, [Product(strip, weight)], nk.block(first, size), blocks, copying(nk, tile))
        pieces.append(Piece(tile, first, size))
        first += size
    return Strip(tuple(pieces), first, strip.M, strip.dtype)


def project_by_parts(
    nk, x, rows, weights, part: int, chunk: int, transposed: bool, blocks: list[Blocks]
) -> list[Strip]:
    """`project` of several weights where the strip of X does not fit: X comes `part` features at a time.

    Each part's sums are whole in PSUM and are added to float32 sums in SBUF, which become X's data type once, at the end.
    """
    K, M = weights[0].shape[0], rows.size
    totals = [float32_sums(nk, w.shape[1], M) for w in weights]
    for k in nk.blocks(K, part, sequential=True):
        strip = load_strip(nk, x, rows, k, chunk, transposed)
        strip = replace(strip, pieces=(Piece(strip.pieces[0].tile, k.start, k.size),))
        for total, w, how in zip(totals, weights, blocks, strict=True):
            everything = nk.block(0, w.shape[1])
            columns_on_partitions(nk, [Product(strip, w)], everything, how, adding(nk, total))
    strips = []
    for total, w in zip(totals, weights, strict=True):
        r = w.shape[1]
        tile = nk.sbuf((P, tiles(r), M), x.dtype, name="resident")
        copying(nk, tile)([total], 0, r, nk.block(0, M))
        strips.append(Strip((Piece(tile, 0, r),), r, M, x.dtype))
    return strips
