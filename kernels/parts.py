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

from dataclasses import dataclass

from .beta1 import to
from .errors import PlanError


P = 128  # partitions, and the free size of a stationary operand
F = 512  # float32 numbers in a PSUM bank, and the free size of a moving operand


def tiles(extent: int) -> int:
    """Tiles that hold `extent`, the last one perhaps in part."""
    return -(-extent // P)


def regions(extent: int) -> list[tuple[int, int, int]]:
    """(partitions, first tile, tiles): the whole tiles of `extent`, then the one that is partly filled."""
    whole, rest = divmod(extent, P)
    return [*([(P, 0, whole)] if whole else []), *([(rest, whole, 1)] if rest else [])]


def pitch(columns: int) -> int:
    """Distance between rows of `columns` float32 in PSUM, so that no block of 512 crosses a bank."""
    return -(-columns // F) * F if columns > F else 1 << (columns - 1).bit_length()


@dataclass(frozen=True)
class Piece:
    """Features `first` to `first + size` of a strip: tile (128, tiles, M), feature first + 128 t + p at [p, t]."""

    tile: object
    first: int
    size: int


@dataclass(frozen=True)
class Strip:
    """Rows of activations on chip, transposed: M rows of `extent` features, in pieces.

    interleave: J tiles share 128 J features, partition p holding features J p to J p + J - 1 of them. The weight's rows are
        loaded in the same order, J whole ones to a descriptor.
    """

    pieces: tuple[Piece, ...]
    extent: int
    M: int
    dtype: object
    interleave: int = 1


@dataclass(frozen=True)
class Blocks:
    """How a weight (K, N) is streamed.

    Attributes:
        width: columns of one transfer, at most N.
        depth: rows of one transfer, at most K. Where it covers K, the block serves any number of PSUM groups; where it does not,
            one group must cover the block, since its sums stay in PSUM until the last row has come.
        group: tiles (of columns, or of rows in the other form) whose sums are in PSUM at once.
    """

    width: int
    depth: int
    group: int


@dataclass(frozen=True)
class Product:
    """One X W + bias to be computed: the strip X^T, W (K, N) in HBM, bias (N,) in HBM or None."""

    strip: Strip
    weight: object
    bias: object = None


def load_strip(nk, x, rows, features, chunk: int, transposed: bool, interleave: int = 1) -> Strip:
    """Rows of x, transposed on the way in.

    Args:
        x: (M, K) in HBM, or (K, M) if `transposed`.
        rows, features: blocks of M and of K.
        chunk: features of one transfer.
        interleave: 1, 2 or 4, see `Strip`; the features must be whole in 128 times it.
    """
    strip = nk.sbuf((P, tiles(features.size), rows.size), x.dtype, name="resident")
    if transposed and interleave > 1:
        for b in nk.blocks(features.size, P * interleave):
            at = to(strip)[0:P, nk.ds(b.index * interleave, interleave), 0 : rows.size]
            nk.load_interleaved(at, x, features.start + b.start, interleave, rows)
    elif transposed:
        for p, first, count in regions(features.size):
            source = features.start + first * P
            nk.load_tiles(to(strip)[0:p, nk.ds(first, count), 0 : rows.size], x, source, count, rows, p)
    else:
        for m in nk.blocks(rows.size, P):
            for c in nk.blocks(features.size, chunk):
                raw = nk.sbuf((P, c.size), x.dtype)
                source = x[nk.ds(rows.start + m.start, m.size), nk.ds(features.start + c.start, c.size)]
                nk.load(to(raw)[0 : m.size, 0 : c.size], source)
                transpose_tiles(nk, strip, c.index * (chunk // P), raw, c.size, m, interleave)
    return Strip((Piece(strip, 0, features.size),), features.size, rows.size, x.dtype, interleave)


def transpose_tiles(nk, dst, base, src, features: int, m, interleave: int) -> None:
    """Transposes src (m rows, features) into dst[:, base + t, m], four tiles to a PSUM bank."""
    for g in nk.blocks(features, F):
        bank = nk.psum((P, F // P, P), nk.transposed_dtype(dst.dtype))
        for k in feature_tiles(nk, src, m.size, (), g.start, g.size, interleave):
            nk.transpose(to(bank)[0 : k.size, k.index, 0 : m.size], k.region)
        for p, first, count in regions(g.size):
            at = nk.ds(base + g.index * (F // P) + first, count)
            nk.copy(to(dst)[0:p, at, m.ds], bank[0:p, nk.ds(first, count), 0 : m.size])


@dataclass(frozen=True)
class FeatureTile:
    """Tile `index` of some columns of a tile on chip, `size` of them, as a region of it."""

    index: object
    size: int
    region: object


def feature_tiles(nk, tile, partitions: int, middle: tuple, first, extent: int, interleave: int):
    """The columns first to first + extent of tile[0:partitions, *middle], in tiles of at most 128, in a strip's order."""
    if interleave == 1:
        for k in nk.blocks(extent, P):
            yield FeatureTile(k.index, k.size, tile[(slice(0, partitions), *middle, nk.ds(first + k.start, k.size))])
    else:
        for b in nk.blocks(extent, P * interleave):
            for j in range(interleave):
                region = nk.strided(tile, partitions, middle, first + b.start + j, interleave, P)
                yield FeatureTile(b.index * interleave + j, P, region)


def load_weight(nk, w, rows, columns, interleave: int = 1):
    """A block of W on chip: (128, tiles, columns), row rows.start + 128 t + p at [p, t], or in a strip's interleaved order."""
    tile = nk.sbuf((P, tiles(rows.size), columns.size), w.dtype)
    if interleave > 1:
        for b in nk.blocks(rows.size, P * interleave):
            at = to(tile)[0:P, nk.ds(b.index * interleave, interleave), 0 : columns.size]
            nk.load_interleaved(at, w, rows.start + b.start, interleave, columns)
        return tile
    for p, first, count in regions(rows.size):
        at = to(tile)[0:p, nk.ds(first, count), 0 : columns.size]
        nk.load_tiles(at, w, rows.start + first * P, count, columns, p)
    return tile


def load_bias(nk, bias, columns):
    """A block of a bias on one partition, and the row of ones whose product with it adds it to every row."""
    row = nk.sbuf((1, columns.size), bias.dtype)
    nk.load(to(row)[0:1, 0 : columns.size], bias.reshape((1, bias.shape[0]))[0:1, columns.ds])
    return row


def ones_row(nk, size: int, dtype):
    ones = nk.sbuf((1, size), dtype)
    nk.fill(to(ones)[0:1, 0:size], 1.0, (1, size))
    return ones


class _Streamed:
    """The weight of one product while a block of its columns is worked on: loaded once if its depth allows, else per use."""

    def __init__(self, nk, product: Product, columns, blocks: Blocks):
        self.nk, self.product, self.columns, self.blocks = nk, product, columns, blocks
        self.whole = blocks.depth >= product.strip.extent
        if not self.whole and blocks.depth % (P * product.strip.interleave):
            raise PlanError(
                f"a depth of {blocks.depth} does not end with a tile: expected a multiple of {P * product.strip.interleave}, or"
                f" all {product.strip.extent} rows of the weight"
            )
        self.loaded = [self._load(self._all(piece)) for piece in product.strip.pieces] if self.whole else None
        self.bias = None if product.bias is None else load_bias(nk, product.bias, columns)

    def _all(self, piece: Piece):
        return self.nk.block(piece.first, piece.size)

    def _load(self, rows):
        return load_weight(self.nk, self.product.weight, rows, self.columns, self.product.strip.interleave)

    def tiles(self):
        """(weight tile, its tile index, activation tile, its tile index, rows): the contraction, 128 at a time."""
        nk, depth = self.nk, self.blocks.depth
        for number, piece in enumerate(self.product.strip.pieces):
            if self.whole:
                for k in nk.blocks(piece.size, P):
                    yield self.loaded[number], k.index, piece.tile, k.index, k.size
            else:
                for d in nk.blocks(piece.size, depth):
                    tile = self._load(nk.block(piece.first + d.start, d.size))
                    for k in nk.blocks(d.size, P):
                        yield tile, k.index, piece.tile, d.index * (depth // P) + k.index, k.size


def columns_on_partitions(nk, products: list[Product], columns, blocks: Blocks, finish, interleave: int = 1) -> None:
    """(X W + bias)^T for blocks of columns: W stationary, X^T moving.

    Args:
        products: computed side by side, for the same columns.
        columns: the block of N to compute.
        finish: called with (sums, first column, size) per group: sums are PSUM (128, group, pitch), one per product, column
            first + 128 t + p at [p, t], rows along the last dimension; `first` counts from `columns.start`.
        interleave: of the columns over the partitions, as in a strip.
    """
    M = products[0].strip.M
    if blocks.width < columns.size and blocks.width % (P * interleave):
        raise PlanError(
            f"a width of {blocks.width} does not end with a tile: expected a multiple of {P * interleave}, or all"
            f" {columns.size} columns"
        )
    ones = ones_row(nk, M, products[0].strip.dtype) if any(p.bias is not None for p in products) else None
    for c in nk.blocks(columns.size, blocks.width):
        here = nk.block(columns.start + c.start, c.size)
        streams = [_Streamed(nk, product, here, blocks) for product in products]
        for g in nk.blocks(c.size, blocks.group * P):
            sums = []
            for stream in streams:
                acc = nk.accumulator((P, tiles(g.size), pitch(M)))
                for w, wk, x, xk, k in stream.tiles():
                    for n in feature_tiles(nk, w, k, (wk,), g.start, g.size, interleave):
                        for m in nk.blocks(M, F):
                            nk.matmul(to(acc)[0 : n.size, n.index, m.ds], stationary=n.region, moving=x[0:k, xk, m.ds])
                if stream.bias is not None:
                    for n in feature_tiles(nk, stream.bias, 1, (), g.start, g.size, interleave):
                        for m in nk.blocks(M, F):
                            nk.matmul(to(acc)[0 : n.size, n.index, m.ds], stationary=n.region, moving=ones[0:1, m.ds])
                sums.append(acc)
            finish(sums, c.start + g.start, c.index * tiles(blocks.width) + g.index * blocks.group, g.size)


def rows_on_partitions(nk, product: Product, y, rows, columns, blocks: Blocks) -> None:
    """Stores X W + bias to the rows and columns of y (M, N) in HBM: X^T stationary, W moving."""
    strip = product.strip
    ones = ones_row(nk, strip.M, strip.dtype) if product.bias is not None else None
    for c in nk.blocks(columns.size, blocks.width):
        here = nk.block(columns.start + c.start, c.size)
        stream = _Streamed(nk, product, here, blocks)
        for g in nk.blocks(strip.M, blocks.group * P):
            acc = nk.accumulator((P, tiles(g.size), pitch(c.size)))
            for w, wk, x, xk, k in stream.tiles():
                for m in nk.blocks(g.size, P):
                    for n in nk.blocks(c.size, F):
                        nk.matmul(
                            to(acc)[0 : m.size, m.index, n.ds],
                            stationary=x[0:k, xk, nk.ds(g.start + m.start, m.size)],
                            moving=w[0:k, wk, n.ds],
                        )
            if stream.bias is not None:
                for m in nk.blocks(g.size, P):
                    for n in nk.blocks(c.size, F):
                        nk.matmul(
                            to(acc)[0 : m.size, m.index, n.ds],
                            stationary=ones[0:1, nk.ds(g.start + m.start, m.size)],
                            moving=stream.bias[0:1, n.ds],
                        )
            out = nk.sbuf((P, tiles(g.size), c.size), y.dtype)
            for p, first, count in regions(g.size):
                at = nk.ds(first, count)
                nk.copy(to(out)[0:p, at, 0 : c.size], acc[0:p, at, 0 : c.size], engine="scalar")
                source = out[0:p, at, 0 : c.size]
                nk.store_tiles(y, source, rows.start + g.start + first * P, count, here, p)


def project(nk, strip: Strip, weight, blocks: Blocks) -> Strip:
    """(X W)^T on chip, in the data type of X: a piece per block of columns, so that it grows while X is still needed."""
    N, pieces = weight.shape[1], []
    for first in range(0, N, blocks.width):
        size = min(blocks.width, N - first)
        tile = nk.sbuf((P, tiles(size), strip.M), strip.dtype, name="resident")

        def finish(sums, start, base, extent, tile=tile):
            for p, t, count in regions(extent):
                target = to(tile)[0:p, nk.ds(base + t, count), 0 : strip.M]
                nk.copy(target, sums[0][0:p, nk.ds(t, count), 0 : strip.M], engine="scalar")

        columns_on_partitions(nk, [Product(strip, weight)], nk.block(first, size), blocks, finish)
        pieces.append(Piece(tile, first, size))
    return Strip(tuple(pieces), N, strip.M, strip.dtype)


def project_by_parts(
    nk, x, rows, weights, part: int, chunk: int, transposed: bool, blocks: list[Blocks]
) -> list[Strip]:
    """`project` of several weights where the strip of X does not fit: X comes `part` features at a time.

    Each part's sums are whole in PSUM and are added to float32 sums in SBUF, which become X's data type once, at the end.
    """
    K, M = weights[0].shape[0], rows.size
    sums = [nk.sbuf((P, tiles(w.shape[1]), M), nk.float32) for w in weights]
    for total, w in zip(sums, weights, strict=True):
        nk.fill(to(total)[...], 0.0, (P, tiles(w.shape[1]), M))
    for k in nk.blocks(K, part, sequential=True):
        strip = load_strip(nk, x, rows, k, chunk, transposed)
        piece = Strip((Piece(strip.pieces[0].tile, k.start, k.size),), k.size, M, x.dtype)
        for total, w, how in zip(sums, weights, blocks, strict=True):

            def finish(psum, start, base, extent, total=total):
                for p, t, count in regions(extent):
                    at = (slice(0, p), nk.ds(base + t, count), slice(0, M))
                    nk.add(to(total)[at], total[at], psum[0][0:p, nk.ds(t, count), 0:M])

            columns_on_partitions(nk, [Product(piece, w)], nk.block(0, w.shape[1]), how, finish)
    strips = []
    for total, w in zip(sums, weights, strict=True):
        r = w.shape[1]
        tile = nk.sbuf((P, tiles(r), M), x.dtype, name="resident")
        for p, t, count in regions(r):
            nk.copy(to(tile)[0:p, t : t + count, 0:M], total[0:p, t : t + count, 0:M])
        strips.append(Strip((Piece(tile, 0, r),), r, M, x.dtype))
    return strips
