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
"""X W as the slower steps of the Neuron documentation's matrix multiplication tutorial do it, to check predictions on.

The tutorial's other steps are `matmul_tiled` of the kernels ("Optimization 1") and `calibration_kernels.tutorial_blocked`
("Optimization 3"). These are rebuilt in the same style: the same transfers and the same products as there, one tile per
transfer. A weight's tile is used as it comes, where the tutorial first loads all of a block's columns. Plain functions for
`simulate` and `predict`.
"""

from optimum_neuronmm.kernels.beta1 import to
from optimum_neuronmm.kernels.dialect import current
from optimum_neuronmm.kernels.tiling import F, P, tiles


def _tile(nk, tensor, rows, columns):
    """A tile of a tensor in HBM, by a transfer of its own."""
    tile = nk.sbuf((P, columns.size), tensor.dtype)
    nk.load(to(tile)[0 : rows.size, 0 : columns.size], tensor[rows.ds, columns.ds])
    return tile


def _store_sums(nk, y, rows, columns, acc) -> None:
    out = nk.sbuf((P, columns.size), y.dtype)
    nk.copy(to(out)[0 : rows.size, 0 : columns.size], acc[0 : rows.size, 0 : columns.size])
    nk.store(y[rows.ds, columns.ds], out[0 : rows.size, 0 : columns.size])


def tiled_matmul(xT, w):
    """Y = X W where both operands of every product are loaded for it ("Original Tiled").

    Dimensions: M rows, K contraction, N columns.
    Args: xT (K, M), w (K, N), in HBM.
    Returns: y (M, N).

    Pseudocode:
        for m in M by 128, n in N by 512:
            for k in K by 128: load X^T[k, m], W[k, n];  sums[m, n] += X^T[k, m]^T W[k, n]
            store Y[m, n]
    """
    nk = current()
    (K, M), N = xT.shape, w.shape[1]
    y = nk.output((M, N), dtype=xT.dtype, name="y")
    for m in nk.blocks(M, P):
        for n in nk.blocks(N, F):
            acc = nk.accumulator((P, F))
            for k in nk.blocks(K, P):
                left, right = _tile(nk, xT, k, m), _tile(nk, w, k, n)
                at = to(acc)[0 : m.size, 0 : n.size]
                nk.matmul(at, stationary=left[0 : k.size, 0 : m.size], moving=right[0 : k.size, 0 : n.size])
            _store_sums(nk, y, m, n, acc)
    return y


def free_blocked_matmul(xT, w):
    """Y = X W in blocks of 2 x 2 tiles of the result ("Optimization 2"): a tile of W serves two tiles of rows.

    Dimensions: M rows, K contraction, N columns.
    Args: xT (K, M), w (K, N), in HBM.
    Returns: y (M, N).

    Pseudocode:
        for m in M by 256:
            for k in K by 128, for both tiles of m: load X^T[k, m]
            for n in N by 1024:
                for k in K by 128: for both tiles of n: load W[k, n];  sums[m, n] += X^T[k, m]^T W[k, n] of both tiles of m
                store Y[m, n]
    """
    nk = current()
    (K, M), N = xT.shape, w.shape[1]
    y = nk.output((M, N), dtype=xT.dtype, name="y")
    for block in nk.blocks(M, 2 * P):
        x = nk.sbuf((P, tiles(K), block.size), xT.dtype)
        for m in nk.blocks(block.size, P):
            for k in nk.blocks(K, P):
                columns = nk.ds(block.start + m.start, m.size)
                nk.load(to(x)[0 : k.size, k.index, m.ds], xT[k.ds, columns])
        for wide in nk.blocks(N, 2 * F):
            _block_of_tiles(nk, x, w, y, block, wide)
    return y


def _block_of_tiles(nk, x, w, y, rows, columns) -> None:
    places = [
        (m, n)
        for n in nk.blocks(columns.size, F, first=columns.start, unroll=True)
        for m in nk.blocks(rows.size, P, unroll=True)
    ]
    sums = {(m.index, n.index): nk.accumulator((P, n.size)) for m, n in places}
    for k in nk.blocks(w.shape[0], P):
        weights = {n.index: _tile(nk, w, k, n) for m, n in places if m.index == 0}
        for m, n in places:
            at = to(sums[m.index, n.index])[0 : m.size, 0 : n.size]
            right = weights[n.index][0 : k.size, 0 : n.size]
            nk.matmul(at, stationary=x[0 : k.size, k.index, m.ds], moving=right)
    for m, n in places:
        _store_sums(nk, y, nk.block(rows.start + m.start, m.size), n, sums[m.index, n.index])
