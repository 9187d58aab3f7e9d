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
"""The last step of the matrix multiplication tutorial of the Neuron documentation, for its published timing.

`matmul_blocked` of the package has the same blocks and sums in float32, which take twice the memory: the next block of columns
then waits for the sums of the one before.
"""

from optimum_neuronmm.kernels.beta1 import to
from optimum_neuronmm.kernels.dialect import current
from optimum_neuronmm.kernels.tiling import F, P, tiles


B_M, B_N, B_K = 2048, 1024, 1024
PIECE = 512  # rows of a tile of sums: what waits for one tile need not wait for the others


def tutorial_blocked(xT, w):
    """Y = X W, blocked in M, K and N, with bfloat16 sums of all rows by a block of columns ("Optimization 3").

    Dimensions: M rows, K contraction, N columns: multiples of the blocks.
    Args: xT (K, M), w (K, N), in HBM.
    Returns: y (M, N).

    Pseudocode:
        for n in N by 1024:
            sums[n] = 0                                       # bfloat16, SBUF
            for k in K by 1024:
                load W[k, n], 128 rows at a time
                for m in M by 2048: load X^T[k, m], 128 rows at a time;  sums[m, n] += X^T[k, m]^T W[k, n]
            store Y[:, n]
    """
    nk = current()
    (K, M), N = xT.shape, w.shape[1]
    y = nk.output((M, N), dtype=xT.dtype, name="y")
    for n in nk.blocks(N, B_N):
        strips = list(nk.blocks(M, B_M, unroll=True))
        pieces = [(b, piece) for b in strips for piece in nk.blocks(b.size, PIECE, unroll=True)]
        sums = [nk.sbuf((P, tiles(PIECE), n.size), xT.dtype) for _ in pieces]
        for total in sums:
            nk.fill(to(total)[...], 0.0, (P, tiles(PIECE), n.size))
        for k in nk.blocks(K, B_K, sequential=True):
            right = _rows(nk, w, k, n)
            left = None
            for (b, piece), total in zip(pieces, sums, strict=True):
                left = _rows(nk, xT, k, b) if piece.start == 0 else left
                _add_products(nk, total, left, right, piece, n.size)
        for (b, piece), total in zip(pieces, sums, strict=True):
            for m in nk.blocks(piece.size, P):
                out = nk.sbuf((P, n.size), xT.dtype)
                nk.copy(to(out)[0:P, 0 : n.size], total[0:P, m.index, 0 : n.size], engine="scalar")
                nk.store(y[nk.ds(b.start + piece.start + m.start, m.size), n.ds], out[0:P, 0 : n.size])
    return y


def _add_products(nk, total, left, right, rows, columns: int) -> None:
    """Adds the products of a block of the contraction to bfloat16 sums of some rows of a strip."""
    for m in nk.blocks(rows.size, P):
        here = nk.ds(rows.start + m.start, m.size)
        for j in nk.blocks(columns, F):
            acc = nk.accumulator((P, F))
            for t in nk.blocks(B_K, P):
                moving = right[0:P, t.index, j.ds]
                nk.matmul(to(acc)[0:P, 0:F], stationary=left[0:P, t.index, here], moving=moving)
            nk.add(to(total)[0:P, m.index, j.ds], total[0:P, m.index, j.ds], acc[0:P, 0:F])


def _rows(nk, tensor, rows, columns):
    """A block of a tensor in HBM, one transfer for each 128 rows."""
    tile = nk.sbuf((P, tiles(rows.size), columns.size), tensor.dtype)
    for t in nk.blocks(rows.size, P):
        nk.load(to(tile)[0:P, t.index, 0 : columns.size], tensor[nk.ds(rows.start + t.start, P), columns.ds])
    return tile
