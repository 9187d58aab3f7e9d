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
"""The gated MLP of an LLM, each projection dense or in factors: its first half, the whole in one kernel, and for few rows.

A projection comes as two tensors: U (K, r) and V (r, N), or the dense W (K, N) and None. Where gate and up were
factorised as one matrix, they share a U: gate brings it, and up comes as None and V.
"""

from .beta1 import to
from .dialect import current
from .gated_planners import plan_gated_matmul, plan_mlp, plan_mlp_decode, plan_mlp_up
from .kernel import kernel
from .low_rank import entered
from .parts import Product, columns_on_partitions, copying, project, rows_on_partitions
from .plan import shares
from .reference import gated_matmul_reference, mlp_reference, mlp_up_reference
from .strips import Piece, Strip, load_strip
from .tiling import P, regions, tiles


def gate_and_up(nk, x, rows, gate, up, biases, plan, x_transposed) -> list[Product]:
    """The two products whose sums are gate and up, with X read once for both, and U as well where they share it."""
    factored = [(name, u) for name, (u, v) in (("gate_u", gate), ("up_u", up)) if u is not None and v is not None]
    strips, X = entered(nk, x, rows, [u for _, u in factored], plan, [name for name, _ in factored], x_transposed)
    if up[0] is None:  # gate's U serves both
        strips *= 2
    products = []
    for (w, v), bias in zip((gate, up), biases, strict=True):
        products.append(Product(X, w, bias) if v is None else Product(strips.pop(0), v, bias))
    return products


def activated(nk, sums, extent: int, m, activation: str, destination) -> None:
    """activation(gate) * up of two accumulators, in float32 until the destination: `destination(p, tile, count)`."""
    gate, up = sums
    for p, t, count in regions(extent):
        at = (slice(0, p), nk.ds(t, count), slice(0, m.size))
        part = nk.sbuf((P, count, m.size), nk.float32)
        nk.activate(to(part)[0:p, 0:count, 0 : m.size], activation, gate[at])
        nk.multiply(destination(p, t, count), part[0:p, 0:count, 0 : m.size], up[at])


def store_gated(nk, products: list[Product], hT, rows, columns, activation: str, blocks) -> None:
    """Stores (activation(gate) * up)^T, of the two products, to the rows and columns of hT (N, M) in HBM."""

    def finish(sums, base, extent, m):
        h = nk.sbuf((P, tiles(extent), m.size), hT.dtype)
        activated(nk, sums, extent, m, activation, lambda p, t, n: to(h)[0:p, nk.ds(t, n), 0 : m.size])
        here = nk.block(rows.start + m.start, m.size)
        for p, t, count in regions(extent):
            source = h[0:p, nk.ds(t, count), 0 : m.size]
            nk.store_tiles(hT, source, columns.start + (base + t) * P, count, here, p)

    columns_on_partitions(nk, products, columns, blocks, finish)


@kernel(gated_matmul_reference, plan_gated_matmul)
def gated_matmul(x_gate, gate, x_up, up, gate_bias=None, up_bias=None, *, activation="silu", x_transposed=False, plan):
    """h^T = (activation(Xg G) * (Xu W))^T of two inputs: the first half of the MLP, from a collective on.

    Where the factors of gate and up are spread over ranks, a gather gives every rank Xg = X Ug and Xu = X Uu, and its
    own columns of Vg and Vu are G and W. A side that is dense has X and its weight. For one input of both sides, as a
    shared U has it, `mlp_up` with dense weights computes the same and reads it once.

    Dimensions: M rows, Kg and Ku contractions, N columns.
    Args: x_gate (M, Kg) and x_up (M, Ku), or (Kg, M) and (Ku, M) if `x_transposed`; gate (Kg, N); up (Ku, N); biases
        (N,) or None.
    Returns: hT (N, M): transposed, as `low_rank_fused` and `matmul` with `x_transposed` read it.

    Pseudocode:
        for m in M by B_M:
            load Xg[m] and Xu[m], transposed on the way in
            for n in N by width: load G[:, n], W[:, n];  h^T[n] = activation(G[:, n]^T Xg^T) * (W[:, n]^T Xu^T)
    """
    nk = current()
    (Kg, N), Ku = gate.shape, up.shape[0]
    M = x_gate.shape[1 if x_transposed else 0]
    hT = nk.output((N, M), dtype=x_gate.dtype, name="hT")
    mine, columns = shares(nk, M, N, plan)
    for rows in nk.blocks(mine.size, plan.B_M, first=mine.start):
        Xg = load_strip(nk, x_gate, rows, nk.block(0, Kg), plan.chunk, x_transposed)
        Xu = load_strip(nk, x_up, rows, nk.block(0, Ku), plan.chunk, x_transposed)
        products = [Product(Xg, gate, gate_bias), Product(Xu, up, up_bias)]
        store_gated(nk, products, hT, rows, columns, activation, plan.stage("expand"))
    return hT


@kernel(mlp_up_reference, plan_mlp_up, absent=("gate_v", "up", "up_v"))
def mlp_up(x, gate, gate_v, up, up_v, gate_bias=None, up_bias=None, *, activation="silu", x_transposed=False, plan):
    """h^T = (activation(X gate) * (X up))^T: the first half of the MLP, up to where tensor parallelism may cut.

    The paper's Algorithm 2 (NeuronMM, arXiv 2510.25977).

    Dimensions: M rows, H hidden, I intermediate, r rank.
    Args: x (M, H), or (H, M) if `x_transposed`; gate, up: U (H, r) with V (r, I), or W (H, I) with None, and up also
        None with V, as gate's U serves both; biases (I,) or None.
    Returns: hT (I, M): transposed, as `low_rank_fused` and `matmul` with `x_transposed` read it.

    Pseudocode:
        for m in M by B_M:
            load X[m], transposed on the way in
            Ag^T = (X Ug)^T;  Au^T = (X Uu)^T, or Ag^T where U is shared
            for i in I by width: load Vg[:, i], Vu[:, i];  h^T[i] = activation(Vg[:, i]^T Ag^T) * (Vu[:, i]^T Au^T)
    """
    nk = current()
    M = x.shape[1 if x_transposed else 0]
    I = (gate if gate_v is None else gate_v).shape[1]  # noqa: E741
    hT = nk.output((I, M), dtype=x.dtype, name="hT")
    mine, columns = shares(nk, M, I, plan)
    for rows in nk.blocks(mine.size, plan.B_M, first=mine.start):
        products = gate_and_up(nk, x, rows, (gate, gate_v), (up, up_v), (gate_bias, up_bias), plan, x_transposed)
        store_gated(nk, products, hT, rows, columns, activation, plan.stage("expand"))
    return hT


def _intermediate(nk, x, rows, gate, up, biases, activation, plan, x_transposed) -> Strip:
    """h^T on chip."""
    products = gate_and_up(nk, x, rows, gate, up, biases, plan, x_transposed)
    I = products[0].weight.shape[1]  # noqa: E741
    h = nk.sbuf((P, tiles(I), rows.size), x.dtype)

    def finish(sums, base, extent, m):
        activated(nk, sums, extent, m, activation, lambda p, t, n: to(h)[0:p, nk.ds(base + t, n), m.ds])

    columns_on_partitions(nk, products, nk.block(0, I), plan.stage("expand"), finish, plan.interleave_h)
    return Strip((Piece(h, 0, I),), I, rows.size, x.dtype, plan.interleave_h)


def _last_product(nk, h: Strip, down, down_v, bias, plan) -> Product:
    if down_v is None:
        return Product(h, down, bias)
    return Product(project(nk, h, down, plan.stage("down_u")), down_v, bias)


@kernel(mlp_reference, plan_mlp, absent=("gate_v", "up", "up_v", "down_v"))
def mlp(
    x, gate, gate_v, up, up_v, down, down_v, gate_bias=None, up_bias=None, down_bias=None, *,
    activation="silu", x_transposed=False, plan,
):  # fmt: skip
    """Y = (activation(X gate) * (X up)) down: the whole MLP, no intermediate in HBM. For one rank: no collective fits inside.

    The paper's Algorithm 3 (NeuronMM, arXiv 2510.25977), whose two kernels exchange h through HBM; here it stays in SBUF.

    Dimensions: M rows, H hidden, I intermediate, r rank.
    Args: x (M, H), or (H, M) if `x_transposed`; gate, up: U (H, r) with V (r, I), or W (H, I) with None, and up also
        None with V, as gate's U serves both; down: U (I, r) with V (r, H), or W (I, H) with None; biases (I,), (I,),
        (H,) or None.
    Returns: y (M, H).

    Pseudocode:
        for m in M by B_M:
            load X[m], transposed on the way in
            Ag^T = (X Ug)^T;  Au^T = (X Uu)^T, or Ag^T where U is shared
            h^T = activation(Vg^T Ag^T) * (Vu^T Au^T)        # SBUF
            Ad^T = Ud^T h^T
            Y[m] = (Ad^T)^T Vd
    """
    nk = current()
    M, H = x.shape[::-1] if x_transposed else x.shape
    y = nk.output((M, H), dtype=x.dtype, name="y")
    mine, columns = shares(nk, M, H, plan)
    for rows in nk.blocks(mine.size, plan.B_M, first=mine.start):
        h = _intermediate(
            nk, x, rows, (gate, gate_v), (up, up_v), (gate_bias, up_bias), activation, plan, x_transposed
        )
        rows_on_partitions(
            nk, _last_product(nk, h, down, down_v, down_bias, plan), y, rows, columns, plan.stage("down")
        )
    return y


@kernel(mlp_reference, plan_mlp_decode, absent=("gate_v", "up", "up_v", "down_v"))
def mlp_decode(
    x, gate, gate_v, up, up_v, down, down_v, gate_bias=None, up_bias=None, down_bias=None, *,
    activation="silu", x_transposed=False, plan,
):  # fmt: skip
    """Y = (activation(X gate) * (X up)) down for 1 to 128 rows: every weight is stationary, and streamed once.

    With few rows the kernel is bound by reading the weights. They are always the stationary operand, which the tensor
    engine takes in 64 cycles per 128 x 128 (128 as the moving operand), and everything stays transposed to the end.

    Dimensions: M <= 128 rows, H hidden, I intermediate, r rank.
    Args, Returns: those of `mlp`.

    Pseudocode:
        load X, transposed on the way in
        Ag^T = Ug^T X^T;  Au^T = Uu^T X^T, or Ag^T where U is shared
        h^T = activation(Vg^T Ag^T) * (Vu^T Au^T)
        Ad^T = Ud^T h^T;  Y^T = Vd^T Ad^T
        Y = (Y^T)^T on the tensor engine
    """
    nk = current()
    M, H = x.shape[::-1] if x_transposed else x.shape
    y = nk.output((M, H), dtype=x.dtype, name="y")
    rows = nk.block(0, M)
    h = _intermediate(nk, x, rows, (gate, gate_v), (up, up_v), (gate_bias, up_bias), activation, plan, x_transposed)
    last = _last_product(nk, h, down, down_v, down_bias, plan)
    yT = nk.sbuf((P, tiles(H), M), x.dtype)
    columns_on_partitions(nk, [last], nk.block(0, H), plan.stage("down"), copying(nk, yT))
    out = nk.sbuf((P, H), x.dtype)
    for k in nk.blocks(H, P):
        bank = nk.psum((P, P), nk.transposed_dtype(x.dtype))
        nk.transpose(to(bank)[0:M, 0 : k.size], yT[0 : k.size, k.index, 0:M])
        nk.copy(to(out)[0:M, k.ds], bank[0:M, 0 : k.size])
    nk.store(y[0:M, 0:H], out[0:M, 0:H])
    return y
