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
"""Tiles and blocks of a dimension: where remainders are cut, and what a weight's blocks are."""

from dataclasses import dataclass

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


def cut(extent: int, size: int) -> tuple[int, ...]:
    """The sizes of the blocks that cover `extent`."""
    whole, rest = divmod(extent, size)
    return (size,) * whole + ((rest,) if rest else ())


def counted(extent: int, size: int) -> tuple[tuple[int, int], ...]:
    """The same as (size, number) pairs, for sums over many blocks."""
    whole, rest = divmod(extent, size)
    return ((size, whole),) * (whole > 0) + ((rest, 1),) * (rest > 0)


@dataclass(frozen=True)
class Blocks:
    """How a weight (K, N) is streamed.

    A bank of PSUM takes the sums of one tile of the result at a time, and is done with it before it begins another.

    Attributes:
        width: columns of one transfer, at most N.
        depth: rows of one transfer, at most K. Where it covers K, the tiles of the result follow each other, each summed to the end.
            Where it does not, all tiles of the block are summed side by side, each in a bank of its own, until the last row.
        group: tiles of columns that share a bank, one after the other, to leave it together. For few rows.
        partial: where depth does not cover K, each tile is summed over one depth at a time, and added to float32 sums in SBUF.
        abreast: where depth does not cover K, all transfers of a block stay on chip, and so many tiles are summed side by
            side: the first as the transfers arrive, the others from what is there. 0: not so.
    """

    width: int
    depth: int
    group: int = 1
    partial: bool = False
    abreast: int = 0

    def __post_init__(self):
        for name, least in (("width", 1), ("depth", 1), ("group", 1), ("abreast", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                wanted = "a positive integer" if least else "an integer of at least 0"
                raise PlanError(f"Blocks: {name} must be {wanted}, got {value!r}")


def ends_with_a_tile(what: str, size: int, extent: int, interleave: int) -> None:
    if size < extent and size % (P * interleave):
        raise PlanError(
            f"a {what} of {size} does not end with a tile: expected a multiple of {P * interleave}, or all {extent}"
        )


@dataclass(frozen=True)
class FeatureTile:
    """`size` columns of tiles on chip, `step` apart from `start`: tile `index` of some extent, in a strip's order."""

    nk: object
    index: object
    size: int
    start: object
    step: int

    def of(self, tile, partitions: int, *middle):
        """These columns of tile[0:partitions, *middle]."""
        if self.step > 1:
            return self.nk.strided(tile, partitions, middle, self.start, self.step, self.size)
        return tile[(slice(0, partitions), *middle, self.nk.ds(self.start, self.size))]


def feature_tiles(nk, first, extent: int, interleave: int, unroll: bool = False):
    """The columns first to first + extent in tiles of at most 128."""
    if interleave == 1:
        for k in nk.blocks(extent, P, unroll=unroll):
            yield FeatureTile(nk, k.index, k.size, k.start + first, 1)
    else:
        for b in nk.blocks(extent, P * interleave, unroll=unroll):
            for j in nk.unrolled(interleave):
                yield FeatureTile(nk, b.index * interleave + j, P, b.start + j + first, interleave)
