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
"""X U V three ways: through HBM, fused naively, and fused with the intermediate in SBUF."""

from .dialect import current
from .kernel import kernel
from .parts import Product, project, project_by_parts, rows_on_partitions
from .plan import shares
from .planners import plan_low_rank, plan_low_rank_sequential
from .reference import low_rank_matmul
from .strips import Strip, load_strip
from .tiling import regions


def entered(nk, x, rows, weights, plan, stages, transposed) -> tuple[list[Strip], Strip | None]:
    """((X W)^T for each of the weights, X^T if it is resident): X is read once for all of them."""
    K = x.shape[0 if transposed else 1]
    blocks = [plan.stage(stage) for stage in stages]
    if plan.part:
        return project_by_parts(nk, x, rows, weights, plan.part, plan.chunk, transposed, blocks), None
    X = load_strip(nk, x, rows, nk.block(0, K), plan.chunk, transposed, plan.interleave_x)
    return [project(nk, X, w, how) for w, how in zip(weights, blocks, strict=True)], X


@kernel(low_rank_matmul, plan_low_rank_sequential)
def low_rank_sequential(x, u, v, bias=None, *, x_transposed=False, plan):
    """Y = X U V + bias in two products, the intermediate through HBM: what two kernels in a row do.

    Dimensions: M rows, K and N the sides of the projection, r rank.
    Args: x (M, K), or (K, M) if `x_transposed`; u (K, r); v (r, N); bias (N,) or None. In HBM, bfloat16 or float32.
    Returns: y (M, N).

    Pseudocode:
        for m in M by B_M: load X[m];  store A^T[:, m] = (X U)^T
        for m in M by B_M: load A^T[:, m];  Y[m] = A V
    """
    nk = current()
    r, N = v.shape
    M = x.shape[1 if x_transposed else 0]
    y = nk.output((M, N), dtype=x.dtype, name="y")
    aT = nk.scratch((r, M), dtype=x.dtype, name="aT")
    mine, columns = shares(nk, M, N, plan)
    for rows in nk.blocks(mine.size, plan.B_M, first=mine.start):
        (A,), _ = entered(nk, x, rows, [u], plan, ["u"], x_transposed)
        for piece in A.pieces:
            for p, first, count in regions(piece.size):
                source = piece.tile[0:p, first : first + count, 0 : rows.size]
                nk.store_tiles(aT, source, piece.first + first * 128, count, rows, p)
    for rows in nk.blocks(mine.size, plan.B_M, first=mine.start):
        A = load_strip(nk, aT, rows, nk.block(0, r), plan.chunk, True)
        rows_on_partitions(nk, Product(A, v, bias), y, rows, columns, plan.stage("v"))
    return y


@kernel(low_rank_matmul, plan_low_rank)
def low_rank_naive(x, u, v, bias=None, *, x_transposed=False, plan):
    """Y = X U V + bias, fused tile by tile: X U is computed again for every block of columns of Y.

    The paper's Algorithm 1 (NeuronMM, arXiv 2510.25977), kept to show what recomputation costs: N / width times the FLOPs
    of X U.

    Dimensions: M rows, K and N the sides of the projection, r rank.
    Args: x (M, K), or (K, M) if `x_transposed`; u (K, r); v (r, N); bias (N,) or None. In HBM, bfloat16 or float32.
    Returns: y (M, N).

    Pseudocode:
        for m in M by B_M, n in N by width:
            load X[m];  A^T = (X U)^T;  Y[m, n] = A V[:, n]
    """
    nk = current()
    N = v.shape[1]
    M = x.shape[1 if x_transposed else 0]
    y = nk.output((M, N), dtype=x.dtype, name="y")
    mine, columns = shares(nk, M, N, plan)
    for rows in nk.blocks(mine.size, plan.B_M, first=mine.start):
        for n in nk.blocks(columns.size, plan.stage("v").width, first=columns.start):
            (A,), _ = entered(nk, x, rows, [u], plan, ["u"], x_transposed)
            rows_on_partitions(nk, Product(A, v, bias), y, rows, n, plan.stage("v"))
    return y


@kernel(low_rank_matmul, plan_low_rank)
def low_rank_fused(x, u, v, bias=None, *, x_transposed=False, plan):
    """Y = X U V + bias with (X U)^T kept in SBUF, where the order of operands puts it without a transpose.

    Dimensions: M rows, K and N the sides of the projection, r rank; B_M rows of a strip.
    Args: x (M, K), or (K, M) if `x_transposed`; u (K, r); v (r, N); bias (N,) or None. In HBM, bfloat16 or float32.
    Returns: y (M, N).
    Notes: HBM traffic is M (K + N) + r (K + N) M / B_M elements. Sums are float32: of the whole contraction in PSUM where a
        strip of X fits beside (X U)^T, else of parts of K in PSUM and of the parts in SBUF.

    Pseudocode:
        for m in M by B_M:
            load X[m], transposed on the way in
            for j in r by width: for k in K by depth: load U[k, j];  A^T[j] += U[k, j]^T X^T[k]
            for n in N by width: load V[:, n];  Y[m, n] = (A^T)^T V[:, n]
    """
    nk = current()
    N = v.shape[1]
    M = x.shape[1 if x_transposed else 0]
    y = nk.output((M, N), dtype=x.dtype, name="y")
    mine, columns = shares(nk, M, N, plan)
    for rows in nk.blocks(mine.size, plan.B_M, first=mine.start):
        (A,), _ = entered(nk, x, rows, [u], plan, ["u"], x_transposed)
        rows_on_partitions(nk, Product(A, v, bias), y, rows, columns, plan.stage("v"))
    return y
