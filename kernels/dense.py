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
"""X W, the product that a dense projection is: the baselines that low-rank kernels are compared with, and ours.

The baselines follow the forms of the matrix multiplication tutorial of the Neuron documentation, whose left operand comes
transposed. They take any sizes, and sum in float32.
"""

from .beta1 import to
from .dialect import current
from .kernel import kernel
from .parts import Product, load_weight, rows_on_partitions
from .plan import shares
from .planners import plan_matmul, plan_matmul_blocked, plan_matmul_tiled
from .reference import matmul_reference, matmul_transposed_reference
from .strips import load_strip
from .tiling import F, P, tiles


@kernel(matmul_transposed_reference, plan_matmul_tiled)
def matmul_tiled(xT, w, *, plan):
    """Y = X W with one tile per transfer; only the tiles of X^T are kept, for one tile of rows.

    Dimensions: M rows, K contraction, N columns.
    Args: xT (K, M), w (K, N), in HBM, bfloat16 or float32.
    Returns: y (M, N).

    Pseudocode:
        for m in M by 128:
            for k in K by 128: load X^T[k, m]
            for n in N by 512:
                for k in K by 128: load W[k, n];  sums[m, n] += X^T[k, m]^T W[k, n]
                store Y[m, n]
    """
    nk = current()
    (K, M), N = xT.shape, w.shape[1]
    y = nk.output((M, N), dtype=xT.dtype, name="y")
    mine, columns = shares(nk, M, N, plan)
    for m in nk.blocks(mine.size, P, first=mine.start):
        x = nk.sbuf((P, tiles(K), m.size), xT.dtype)
        for k in nk.blocks(K, P):
            nk.load(to(x)[0 : k.size, k.index, 0 : m.size], xT[k.ds, m.ds])
        for n in nk.blocks(columns.size, F, first=columns.start):
            acc = nk.accumulator((P, F))
            for k in nk.blocks(K, P):
                tile = nk.sbuf((P, n.size), w.dtype)
                nk.load(to(tile)[0 : k.size, 0 : n.size], w[k.ds, n.ds])
                nk.matmul(
                    to(acc)[0 : m.size, 0 : n.size],
                    stationary=x[0 : k.size, k.index, 0 : m.size],
                    moving=tile[0 : k.size, 0 : n.size],
                )
            out = nk.sbuf((P, n.size), xT.dtype)
            nk.copy(to(out)[0 : m.size, 0 : n.size], acc[0 : m.size, 0 : n.size])
            nk.store(y[m.ds, n.ds], out[0 : m.size, 0 : n.size])
    return y


@kernel(matmul_transposed_reference, plan_matmul_blocked)
def matmul_blocked(xT, w, *, plan):
    """Y = X W blocked in all of M, K and N: W is read once per strip of rows, X once per block of columns.

    Dimensions: M rows, K contraction, N columns; B_M, B_K, B_N the plan's blocks; S rows of a strip, whose sums fit.
    Args: xT (K, M), w (K, N), in HBM, bfloat16 or float32.
    Returns: y (M, N).

    Pseudocode:
        for s in M by S, n in N by B_N:
            sums[s, n] = 0                                   # float32, SBUF
            for k in K by B_K:
                load W[k, n]
                for m in s by B_M: load X^T[k, m];  sums[m, n] += X^T[k, m]^T W[k, n]
            store Y[s, n]
    """
    nk = current()
    (K, M), N = xT.shape, w.shape[1]
    y = nk.output((M, N), dtype=xT.dtype, name="y")
    mine, columns = shares(nk, M, N, plan)
    for s in nk.blocks(mine.size, plan.rows, first=mine.start):
        for n in nk.blocks(columns.size, plan.B_N, first=columns.start):
            sums = nk.sbuf((P, tiles(s.size), n.size), nk.float32)
            nk.fill(to(sums)[...], 0.0, (P, tiles(s.size), n.size))
            for k in nk.blocks(K, plan.B_K, sequential=True):
                right = load_weight(nk, w, k, n)
                for b in nk.blocks(s.size, plan.B_M):
                    left = load_weight(nk, xT, k, nk.block(s.start + b.start, b.size))
                    for m in nk.blocks(b.size, P):
                        at = b.index * tiles(plan.B_M) + m.index
                        for j in nk.blocks(n.size, F):
                            acc = nk.accumulator((P, F))
                            for t in nk.blocks(k.size, P):
                                nk.matmul(
                                    to(acc)[0 : m.size, 0 : j.size],
                                    stationary=left[0 : t.size, t.index, m.ds],
                                    moving=right[0 : t.size, t.index, j.ds],
                                )
                            total = sums[0 : m.size, at, j.ds]
                            nk.add(to(sums)[0 : m.size, at, j.ds], total, acc[0 : m.size, 0 : j.size])
            for m in nk.blocks(s.size, P):
                out = nk.sbuf((P, n.size), xT.dtype)
                nk.copy(to(out)[0 : m.size, 0 : n.size], sums[0 : m.size, m.index, 0 : n.size])
                nk.store(y[nk.ds(s.start + m.start, m.size), n.ds], out[0 : m.size, 0 : n.size])
    return y


@kernel(matmul_reference, plan_matmul)
def matmul(x, w, bias=None, *, x_transposed=False, plan):
    """Y = X W + bias, a strip of X resident: the dense projection, and the halves of X U V on either side of a collective.

    Dimensions: M rows, K contraction, N columns.
    Args: x (M, K), or (K, M) if `x_transposed`; w (K, N); bias (N,) or None. In HBM, bfloat16 or float32.
    Returns: y (M, N).

    Pseudocode:
        for m in M by B_M:
            load X[m], transposed on the way in
            for n in N by width: load W[:, n];  Y[m, n] = (X^T)^T W[:, n]
    """
    nk = current()
    K, N = w.shape
    M = x.shape[1 if x_transposed else 0]
    y = nk.output((M, N), dtype=x.dtype, name="y")
    mine, columns = shares(nk, M, N, plan)
    for rows in nk.blocks(mine.size, plan.B_M, first=mine.start):
        X = load_strip(nk, x, rows, nk.block(0, K), plan.chunk, x_transposed)
        rows_on_partitions(nk, Product(X, w, bias), y, rows, columns, plan.stage("w"))
    return y
