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
"""Strips: rows of activations on chip, transposed on the way in."""

from dataclasses import dataclass

from .beta1 import to
from .errors import PlanError
from .tiling import F, P, ends_with_a_tile, feature_tiles, regions, tiles


@dataclass(frozen=True)
class Piece:
    """Features `first` to `first + size` of a strip: tile (128, tiles, M), feature first + 128 t + p at [p, base + t]."""

    tile: object
    first: int
    size: int
    base: int = 0


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


def load_strip(nk, x, rows, features, chunk: int, transposed: bool, interleave: int = 1) -> Strip:
    """Rows of x, transposed on the way in.

    Args:
        x: (M, K) in HBM, or (K, M) if `transposed`.
        rows, features: blocks of M and of K.
        chunk: features of one transfer.
        interleave: 1, 2 or 4, see `Strip`; the features must be whole in 128 times it.
    """
    if not transposed:
        ends_with_a_tile("chunk", max(1, chunk), features.size, interleave)
    if interleave > 1 and features.size % (P * interleave):
        raise PlanError(
            f"{features.size} features cannot be interleaved by {interleave}: expected a multiple of {P * interleave}"
        )
    strip = nk.sbuf((P, tiles(features.size), rows.size), x.dtype, name="resident")
    if transposed and interleave > 1:
        nk.load_interleaved(strip, x, features.start, features.size // (P * interleave), interleave, rows)
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
        for k in feature_tiles(nk, g.start, g.size, interleave):
            nk.transpose(to(bank)[0 : k.size, k.index, 0 : m.size], k.of(src, m.size))
        for p, first, count in regions(g.size):
            at = nk.ds(base + g.index * (F // P) + first, count)
            nk.copy(to(dst)[0:p, at, m.ds], bank[0:p, nk.ds(first, count), 0 : m.size])
