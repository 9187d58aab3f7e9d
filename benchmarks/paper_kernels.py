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
"""The pair of MLP kernels that the NeuronMM paper (arXiv 2510.25977) runs, rebuilt to be counted and predicted beside ours.

`fused_mlp_up_T` and `fused_three_mm_XTUV` have the loop order, the block sizes by rows and the rounding of what its authors
published (github.com/dinghongsong/NeuronMM). What costs them, and is kept:

- each block of a contraction is added to a bfloat16 buffer in SBUF, on the vector engine;
- every block is whole: its tile is filled with zeros, one transfer for each 128 rows brings what exists, and the products run
  over the zeros too;
- the activated intermediate goes through HBM, from one kernel to the other.

X is transposed while it is loaded: here as a load, a transpose on the tensor engine and a copy out of PSUM.

Whether a compiler leaves out the zeros that a transfer overwrites whole is not known. They are counted, and `pair` also gives
the kernels without them (`spared`).

They are plain functions for `simulate` and `predict`; nothing of the package uses them.
"""

from dataclasses import dataclass

from optimum_neuronmm.kernels.beta1 import to
from optimum_neuronmm.kernels.dialect import current
from optimum_neuronmm.kernels.tiling import F, P, tiles


@dataclass(frozen=True)
class PaperBlocks:
    """Elements of a block: `depth` of the contraction with the activations, `rank`, `rows` and `width` of the result."""

    depth: int
    rank: int
    rows: int
    width: int


# (most rows that it is for, block sizes), in order. Source: test_speedup.py of the paper's repository.
UP_BLOCKS = (
    (127, PaperBlocks(depth=128, rank=128, rows=512, width=1024)),
    (511, PaperBlocks(depth=1024, rank=512, rows=512, width=512)),
    (512, PaperBlocks(depth=1024, rank=512, rows=512, width=2048)),
    (1023, PaperBlocks(depth=1024, rank=512, rows=1024, width=128)),
    (1024, PaperBlocks(depth=1024, rank=512, rows=512, width=512)),
    (None, PaperBlocks(depth=1024, rank=512, rows=1024, width=128)),
)
DOWN_BLOCKS = (
    (255, PaperBlocks(depth=1024, rank=256, rows=128, width=2048)),
    (511, PaperBlocks(depth=512, rank=256, rows=256, width=2048)),
    (512, PaperBlocks(depth=512, rank=512, rows=512, width=2048)),
    (1023, PaperBlocks(depth=512, rank=256, rows=512, width=2048)),
    (1024, PaperBlocks(depth=512, rank=512, rows=1024, width=512)),
    (None, PaperBlocks(depth=512, rank=256, rows=1024, width=2048)),
)


def blocks_for(table: tuple, rows: int) -> PaperBlocks:
    """The block sizes that the paper's kernels use for so many rows."""
    return next(blocks for most, blocks in table if most is None or rows <= most)


def fitted(block: int, extent: int, tile: int) -> int:
    """A block of a dimension that is smaller than it: one tile."""
    return block if extent >= block else min(extent, tile)


def zeros(nk, partitions: int, count: int, columns: int, dtype):
    """Zeros in SBUF, (partitions, count, columns)."""
    tile = nk.sbuf((partitions, count, columns), dtype)
    nk.fill(to(tile)[...], 0.0, (partitions, count, columns))
    return tile


def _ground(nk, w, rows, columns, depth: int, width: int, spared: bool):
    """What a block is loaded into: zeros, or, if those are spared and the block is whole, a tile as it is."""
    if spared and (rows.size, columns.size) == (depth, width):
        return nk.sbuf((P, tiles(depth), width), w.dtype)
    return zeros(nk, P, tiles(depth), width, w.dtype)


def loaded(nk, w, rows, columns, depth: int, width: int, spared: bool):
    """A block of `depth` rows and `width` columns of w, zero where w has ended: (128, depth / 128, width)."""
    tile = _ground(nk, w, rows, columns, depth, width, spared)
    for k in nk.blocks(rows.size, P):
        source = w[nk.ds(rows.start + k.start, k.size), columns.ds]
        nk.load(to(tile)[0 : k.size, k.index, 0 : columns.size], source)
    return tile


def loaded_transposed(nk, x, rows, features, depth: int, width: int, spared: bool):
    """A block of `width` rows and `depth` features of x, transposed, zero where x has ended: (128, depth / 128, width)."""
    tile = _ground(nk, x, features, rows, depth, width, spared)
    for k in nk.blocks(features.size, P):
        for g in nk.blocks(rows.size, F):
            bank = nk.psum((P, F), nk.transposed_dtype(x.dtype))
            for m in nk.blocks(g.size, P):
                raw = nk.sbuf((P, k.size), x.dtype)
                first = nk.ds(rows.start + g.start + m.start, m.size)
                nk.load(to(raw)[0 : m.size, 0 : k.size], x[first, nk.ds(features.start + k.start, k.size)])
                nk.transpose(to(bank)[0 : k.size, m.ds], raw[0 : m.size, 0 : k.size])
            nk.copy(to(tile)[0 : k.size, k.index, g.ds], bank[0 : k.size, 0 : g.size])
    return tile


def add_first(nk, totals, X, weights, rank, blocks: PaperBlocks, tile: int) -> None:
    """Adds (X U)^T, of one block of the contraction and one of the rank, to each bfloat16 total (128, rank tiles, rows)."""
    for m in nk.blocks(blocks.rows, tile):
        for j in nk.blocks(blocks.rank, P):
            sums = [nk.accumulator((P, m.size)) for _ in totals]
            for k in nk.blocks(blocks.depth, P):
                for acc, u in zip(sums, weights, strict=True):
                    stationary, moving = u[0 : k.size, k.index, j.ds], X[0 : k.size, k.index, m.ds]
                    nk.matmul(to(acc)[0:P, 0 : m.size], stationary=stationary, moving=moving)
            for total, acc in zip(totals, sums, strict=True):
                at = (slice(0, P), rank.index * tiles(blocks.rank) + j.index, m.ds)
                nk.add(to(total)[at], total[at], acc[0:P, 0 : m.size])


def fused_mlp_up_T(x, gate, gate_v, up, up_v, *, spared=False):  # noqa: N802
    """h^T = (silu(X Ug Vg) * (X Uu Vu))^T, as the paper's kernel of this name computes it.

    Dimensions: M rows, H hidden, I intermediate, r rank.
    Args: x (M, H); gate, up: U (H, r); gate_v, up_v: V (r, I). bfloat16, in HBM. spared: no zeros that are overwritten whole.
    Returns: hT (I, M).

    Pseudocode:
        for m in M by rows:
            for k in H by depth: load X[m, k]^T; for j in r by rank: load U[k, j] of both;  A^T[j] += U[k, j]^T X[m, k]^T
            for n in I by width:
                for j in r by rank: load V[j, n] of both;  total[n] += V[j, n]^T A^T[j]
                store silu(total of gate) * total of up
    """
    nk = current()
    (M, H), (r, I) = x.shape, gate_v.shape  # noqa: E741
    sizes = blocks_for(UP_BLOCKS, M)
    sizes = PaperBlocks(sizes.depth, sizes.rank, fitted(sizes.rows, M, F), sizes.width)
    hT = nk.output((I, M), dtype=x.dtype, name="hT")
    for rows in nk.blocks(M, sizes.rows):
        A = [zeros(nk, P, -(-r // sizes.rank) * tiles(sizes.rank), sizes.rows, x.dtype) for _ in (gate, up)]
        for k in nk.blocks(H, sizes.depth, sequential=True):
            X = loaded_transposed(nk, x, rows, k, sizes.depth, sizes.rows, spared)
            for j in nk.blocks(r, sizes.rank):
                weights = [loaded(nk, u, k, j, sizes.depth, sizes.rank, spared) for u in (gate, up)]
                add_first(nk, A, X, weights, j, sizes, F)
        for n in nk.blocks(I, sizes.width):
            totals = [zeros(nk, P, tiles(sizes.width), sizes.rows, x.dtype) for _ in A]
            for j in nk.blocks(r, sizes.rank, sequential=True):
                weights = [loaded(nk, v, j, n, sizes.rank, sizes.width, spared) for v in (gate_v, up_v)]
                _add_columns(nk, totals, A, weights, j, sizes)
            for t in nk.blocks(n.size, P):
                _store_gated(nk, hT, totals, rows, n, t)
    return hT


def _add_columns(nk, totals, A, weights, rank, sizes: PaperBlocks) -> None:
    """Adds V^T A^T of one block of the rank to each total (128, tiles of columns, rows)."""
    for m in nk.blocks(sizes.rows, F):
        for n in nk.blocks(sizes.width, P):
            sums = [nk.accumulator((P, m.size)) for _ in totals]
            for j in nk.blocks(sizes.rank, P):
                for acc, a, v in zip(sums, A, weights, strict=True):
                    moving = a[0:P, rank.index * tiles(sizes.rank) + j.index, m.ds]
                    nk.matmul(to(acc)[0:P, 0 : m.size], stationary=v[0:P, j.index, n.ds], moving=moving)
            for total, acc in zip(totals, sums, strict=True):
                at = (slice(0, P), n.index, m.ds)
                nk.add(to(total)[at], total[at], acc[0:P, 0 : m.size])


def _store_gated(nk, hT, totals, rows, columns, tile) -> None:
    """Stores silu(gate) * up of one tile of columns, from sums that are bfloat16 already."""
    gate, up = (total[0 : tile.size, tile.index, 0 : rows.size] for total in totals)
    part = nk.sbuf((P, rows.size), hT.dtype)
    h = nk.sbuf((P, rows.size), hT.dtype)
    nk.activate(to(part)[0 : tile.size, 0 : rows.size], "silu", gate)
    nk.multiply(to(h)[0 : tile.size, 0 : rows.size], part[0 : tile.size, 0 : rows.size], up)
    here = nk.ds(columns.start + tile.start, tile.size)
    nk.store(hT[here, rows.ds], h[0 : tile.size, 0 : rows.size])


def fused_three_mm_XTUV(hT, down, down_v, *, spared=False):  # noqa: N802
    """Y = h U V of h^T, as the paper's kernel of this name computes it.

    Dimensions: M rows, I intermediate, H hidden, r rank.
    Args: hT (I, M); down: U (I, r); down_v: V (r, H). bfloat16, in HBM. spared: no zeros that are overwritten whole.
    Returns: y (M, H).

    Pseudocode:
        for m in M by rows:
            for k in I by depth: load h^T[k, m]; for j in r by rank: load U[k, j];  A^T[j] += U[k, j]^T h^T[k, m]
            for n in H by width:
                for j in r by rank: load V[j, n];  total[m, n] += (A^T[j])^T V[j, n]
                store total[m, n]
    """
    nk = current()
    (I, M), (r, H) = hT.shape, down_v.shape  # noqa: E741
    sizes = blocks_for(DOWN_BLOCKS, M)
    depth, width = fitted(sizes.depth, I, P), fitted(sizes.width, H, F)
    sizes = PaperBlocks(depth, sizes.rank, fitted(sizes.rows, M, P), width)
    y = nk.output((M, H), dtype=hT.dtype, name="y")
    for rows in nk.blocks(M, sizes.rows):
        A = zeros(nk, P, -(-r // sizes.rank) * tiles(sizes.rank), sizes.rows, hT.dtype)
        for k in nk.blocks(I, sizes.depth, sequential=True):
            X = loaded(nk, hT, k, rows, sizes.depth, sizes.rows, spared)
            for j in nk.blocks(r, sizes.rank):
                weight = loaded(nk, down, k, j, sizes.depth, sizes.rank, spared)
                add_first(nk, [A], X, [weight], j, sizes, P)
        for n in nk.blocks(H, sizes.width):
            total = zeros(nk, min(P, sizes.rows), tiles(sizes.rows), sizes.width, hT.dtype)
            for j in nk.blocks(r, sizes.rank, sequential=True):
                weight = loaded(nk, down_v, j, n, sizes.rank, sizes.width, spared)
                _add_rows(nk, total, A, weight, j, sizes)
            for m in nk.blocks(rows.size, P):
                here = nk.ds(rows.start + m.start, m.size)
                nk.store(y[here, n.ds], total[0 : m.size, m.index, 0 : n.size])
    return y


def _add_rows(nk, total, A, weight, rank, sizes: PaperBlocks) -> None:
    """Adds (A^T)^T V of one block of the rank to a total (rows of a tile, tiles of rows, columns)."""
    for m in nk.blocks(sizes.rows, P):
        for n in nk.blocks(sizes.width, F):
            acc = nk.accumulator((m.size, n.size))
            for j in nk.blocks(sizes.rank, P):
                stationary = A[0:P, rank.index * tiles(sizes.rank) + j.index, m.ds]
                nk.matmul(to(acc)[0 : m.size, 0 : n.size], stationary=stationary, moving=weight[0:P, j.index, n.ds])
            at = (slice(0, m.size), m.index, n.ds)
            nk.add(to(total)[at], total[at], acc[0 : m.size, 0 : n.size])


def up_spared(x, gate, gate_v, up, up_v):
    """`fused_mlp_up_T` without the zeros that are overwritten whole."""
    return fused_mlp_up_T(x, gate, gate_v, up, up_v, spared=True)


def down_spared(hT, down, down_v):  # noqa: N803
    """`fused_three_mm_XTUV` without the zeros that are overwritten whole."""
    return fused_three_mm_XTUV(hT, down, down_v, spared=True)


def pair(M: int, H: int, r: int, I: int, spared: bool = False) -> list[tuple]:  # noqa: E741
    """The two kernels with the shapes of their tensors, in their order, for M rows of an MLP whose factors have rank r."""
    up, down = (up_spared, down_spared) if spared else (fused_mlp_up_T, fused_three_mm_XTUV)
    return [(up, ((M, H), (H, r), (r, I), (H, r), (r, I))), (down, ((I, M), (I, r), (r, H)))]
