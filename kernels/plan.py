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
"""Block sizes: what of each operand is on chip at once, computed from shapes and a machine.

A plan is plain arithmetic and holds no NKI. It counts the bytes that its kernel will hold, in SBUF (once, and with the second
buffers that let transfers overlap with work) and in PSUM, and there is none where nothing fits. The larger the strip of
rows, the less often weights are read: the search takes the largest that fits, then the widest transfers.
"""

import math
from dataclasses import dataclass, field
from itertools import product as combinations

from .errors import PlanError
from .machine import Machine
from .parts import F, P, Blocks, pitch, tiles


EFFICIENT_RUN = 2048  # bytes of a descriptor from which a DMA is efficient


@dataclass(frozen=True)
class Plan:
    """Block sizes of a kernel.

    Attributes:
        machine, dtype, M: what it was made for; M rows of all cores.
        cores, split: logical cores that share the work, and the dimension that they divide ("M" or "N").
        B_M: rows of a strip.
        chunk: features of X in one transfer.
        part: features of X on chip at once, where not all are: float32 sums are then kept in SBUF. 0: a strip is resident.
        stages: how each weight is streamed.
        sbuf, sbuf_buffered: bytes of SBUF held, without and with second buffers.
        psum_banks: banks of PSUM held.
    """

    machine: str
    dtype: str
    M: int
    cores: int
    split: str
    B_M: int
    chunk: int = 0
    part: int = 0
    stages: dict[str, Blocks] = field(default_factory=dict, hash=False)
    sbuf: int = 0
    sbuf_buffered: int = 0
    psum_banks: int = 0


@dataclass(frozen=True)
class MatmulPlan(Plan):
    """Blocks of the baselines: `rows` whose float32 sums are kept, and B_M, B_K, B_N."""

    rows: int = 0
    B_K: int = 0
    B_N: int = 0


def shares(nk, M: int, N: int, plan: Plan):
    """The blocks of rows and of columns of the program that is running."""
    program = nk.program(plan.cores)
    if plan.split == "M":
        return nk.block(program * (M // plan.cores), M // plan.cores), nk.block(0, N)
    return nk.block(0, M), nk.block(program * (N // plan.cores), N // plan.cores)


def _split(name: str, M: int, N: int, cores: int, splits: str = "MN") -> str:
    if cores < 1:
        raise PlanError(f"{name}: cores must be at least 1, got {cores}")
    if cores == 1 or "M" in splits and M % cores == 0 and M // cores >= P:
        return "M"
    if "N" in splits and N % cores == 0:
        return "N"
    if "M" in splits and M % cores == 0:
        return "M"
    dimensions = {"M": f"M = {M}", "N": f"N = {N}"}
    raise PlanError(
        f"{name}: {cores} cores divide neither of {', '.join(dimensions[d] for d in splits) or 'its dimensions'}: run it on"
        " one core, or compose the layer of low_rank_fused and matmul, which split N"
    )


def _itemsize(dtype: str) -> int:
    return {"bfloat16": 2, "float32": 4}[dtype]


@dataclass(frozen=True)
class _Held:
    """Bytes per partition and banks that a phase holds on top of what stays."""

    single: int
    buffered: int
    banks: int


@dataclass(frozen=True)
class _Stage:
    """A weight to be streamed, before its blocks are chosen.

    Attributes:
        form: "columns" (of the weight on the partitions) or "rows".
        contractions: pieces of the contraction, per product computed side by side.
        N, M: columns of the weight, rows of the strip.
        exact: "width" or "depth" must divide its dimension: it is the rank.
        extra: bytes per partition that a group of g tiles needs beside the weights, as (per tile, per tile and buffer).
    """

    name: str
    form: str
    contractions: tuple[tuple[int, ...], ...]
    N: int
    M: int
    itemsize: int
    exact: tuple[str, ...] = ()
    extra: tuple[int, int] = (0, 0)
    bias: bool = False

    @property
    def K(self) -> int:
        return max(sum(pieces) for pieces in self.contractions)

    def held(self, b: Blocks) -> _Held:
        s = self.itemsize
        weights = 0
        for pieces in self.contractions:
            if b.depth >= sum(pieces):
                weights += sum(tiles(size) for size in pieces) * b.width * s
            else:
                weights += max(tiles(min(b.depth, size)) for size in pieces) * b.width * s
        per_tile, stored = self.extra
        bias = len(self.contractions) * b.width * s if self.bias else 0
        ones = self.M * s if self.bias else 0
        per_bank = F // (pitch(self.M) if self.form == "columns" else pitch(b.width)) or 1
        banks_of = pitch(self.M) if self.form == "columns" else pitch(b.width)
        banks = len(self.contractions) * (-(-b.group // per_bank) * -(-banks_of // F))
        if self.form == "rows":
            stored = b.width * s
        single = weights + bias + ones + b.group * (per_tile + stored)
        return _Held(single, single + weights + bias + b.group * stored, banks)

    def candidates(self):
        N, K = self.N, self.K
        for width, depth in combinations(_sizes(N, "width" in self.exact), _sizes(K, "depth" in self.exact)):
            whole = all(depth >= sum(pieces) for pieces in self.contractions)
            if not whole and any(size % depth and len(pieces) > 1 for pieces in self.contractions for size in pieces):
                continue
            covered = tiles(width if self.form == "columns" else self.M)
            for group in _divisors(covered) if whole else [covered]:
                yield Blocks(width, depth, group)

    def choose(self, machine: Machine, stays: int) -> tuple[Blocks, _Held] | None:
        """The best blocks that fit beside `stays` bytes per partition: wide transfers, few of them, PSUM in two halves."""
        best = None
        for b in self.candidates():
            held = self.held(b)
            if held.banks > machine.psum_banks or stays + held.buffered > machine.sbuf_budget:
                continue
            run = min(b.width * self.itemsize, EFFICIENT_RUN)
            stationary = self.form == "columns" and self.M <= P
            busy = min(b.group * (1 if stationary else 8), 16)  # few rows: one eviction for many tiles
            score = (run, held.banks <= machine.psum_banks // 2, busy, min(tiles(b.depth) * b.width, 2**13), -held.buffered)
            if best is None or score > best[0]:
                best = score, b, held
        return best and best[1:]


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _sizes(extent: int, exact: bool) -> list[int]:
    """Sizes of blocks of a dimension: multiples of a tile, dividing it where it is the rank; the whole of it too."""
    count = tiles(extent)
    if exact:
        steps = _divisors(count) if extent % P == 0 else [1, count]
    else:
        steps = [n for n in sorted({*(2**i for i in range(12)), *_divisors(count)}) if n < count]
    return sorted({min(n * P, extent) for n in (*steps, count)})


def _strips(M: int) -> list[int]:
    """Rows of a strip, largest first: M cut into 1, 2, 3 ... strips of nearly equal size, in whole tiles."""
    if M <= P:
        return [M]
    return sorted({min(M, P * math.ceil(math.ceil(M / n) / P)) for n in range(1, tiles(M) + 1)}, reverse=True)


def _pieces(extent: int, width: int) -> tuple[int, ...]:
    return tuple(min(width, extent - first) for first in range(0, extent, width))


class _Search:
    """The phases of one kernel for one strip size: remembers the most that is held."""

    def __init__(self, machine: Machine, itemsize: int):
        self.machine, self.itemsize = machine, itemsize
        self.stages: dict[str, Blocks] = {}
        self.single = self.buffered = self.banks = 0
        self.fits = True

    def hold(self, stays: int, held: _Held = _Held(0, 0, 0)) -> bool:  # noqa: B008
        self.single = max(self.single, stays + held.single)
        self.buffered = max(self.buffered, stays + held.buffered)
        self.banks = max(self.banks, held.banks)
        self.fits = self.fits and self.buffered <= self.machine.sbuf_budget and self.banks <= self.machine.psum_banks
        return self.fits

    def stage(self, stage: _Stage, stays: int) -> bool:
        chosen = stage.choose(self.machine, stays)
        if chosen is None:
            self.fits = False
            return False
        self.stages[stage.name], held = chosen
        return self.hold(stays, held)

    def load(self, M: int, features: int, stays: int, transposed: bool) -> int:
        """The transfer of a strip of X beside `stays`; returns the features of one transfer."""
        s = self.itemsize
        strip = tiles(features) * M * s
        if transposed:
            self.hold(stays, _Held(strip, strip, 0))
            return features
        for chunk in (4096, 2048, 1024, F):
            raw = min(chunk, features) * s
            held = _Held(strip + raw, strip + 2 * raw, 1)
            if stays + held.buffered <= self.machine.sbuf_budget or chunk == F:
                self.hold(stays, held)
                return chunk
        raise AssertionError

    def enter(self, M: int, K: int, weights: list[tuple[str, int]], transposed: bool, part: int, X_stays: bool):
        """X W for (stage, r) each, with X resident or in parts; returns (chunk, bytes that stay, pieces of each)."""
        s = self.itemsize
        out = [tiles(r) * M * s for _, r in weights]
        pieces = []
        if part:
            sums = sum(tiles(r) * M * 4 for _, r in weights)
            strip = tiles(part) * M * s
            chunk = self.load(M, part, sums, transposed)
            for name, r in weights:
                stage = _Stage(name, "columns", ((part,),), r, M, s, exact=("width",))
                if not self.stage(stage, sums + strip * 2):
                    return chunk, 0, pieces
                pieces.append((r,))
            self.hold(sums + sum(out))
            return chunk, sum(out), pieces
        strip = tiles(K) * M * s
        chunk = self.load(M, K, 0, transposed)
        done = 0
        for (name, r), size in zip(weights, out, strict=True):
            stage = _Stage(name, "columns", ((K,),), r, M, s, exact=("width",))
            # Beside it: X, what was computed before, and this product up to its last piece, which is written when X is done.
            best = None
            for width in _sizes(r, True):
                narrowed = [b for b in stage.candidates() if b.width == width]
                grown = done + size - (tiles(_pieces(r, width)[-1]) * M * s)
                for b in narrowed:
                    held = stage.held(b)
                    several = b.group < tiles(width)
                    stays = strip + (done + size if several or X_stays else grown)
                    if held.banks > self.machine.psum_banks or stays + held.buffered > self.machine.sbuf_budget:
                        continue
                    run = min(width * s, EFFICIENT_RUN)
                    few = min(b.group * (1 if M <= P else 8), 16)
                    score = (run, held.banks <= self.machine.psum_banks // 2, few, min(tiles(b.depth) * width, 2**13), -held.buffered)
                    if best is None or score > best[0]:
                        best = score, b, held, stays
            if best is None:
                self.fits = False
                return chunk, 0, pieces
            _, b, held, stays = best
            self.stages[name] = b
            self.hold(stays, held)
            self.hold(strip + done + size if X_stays else done + size)
            done += size
            pieces.append(_pieces(r, b.width))
        return chunk, done + (strip if X_stays else 0), pieces

    def result(self, kind=Plan, **fields) -> Plan:
        P_ = self.machine.partitions
        return kind(
            machine=self.machine.name,
            stages=self.stages,
            sbuf=self.single * P_,
            sbuf_buffered=self.buffered * P_,
            psum_banks=self.banks,
            **fields,
        )


def _check(name: str, shapes: dict, **pairs: tuple[int, int]) -> None:
    """Inner dimensions that must agree."""
    for what, (a, b) in pairs.items():
        if a != b:
            listed = ", ".join(f"{key} {list(shape)}" for key, shape in shapes.items())
            raise PlanError(f"{name}: {what.replace('_', ' ')} must agree, got {a} and {b} in {listed}")
    if any(n < 1 for shape in shapes.values() for n in shape):
        raise PlanError(f"{name}: dimensions must be positive, got {shapes}")


def _rows_columns(name: str, shapes: dict, transposed: bool) -> tuple[int, int]:
    x = shapes["x"]
    if len(x) != 2:
        raise PlanError(f"{name}: x must be a matrix of rows and features, got {list(x)}: flatten batch and sequence")
    return (x[1], x[0]) if transposed else x


def _nothing(name: str, shapes: dict, machine: Machine, search: "_Search | None" = None) -> PlanError:
    listed = ", ".join(f"{key} {list(shape)}" for key, shape in shapes.items())
    return PlanError(
        f"{name}: no block sizes fit {listed} into {machine.sbuf_budget} bytes per partition of SBUF and"
        f" {machine.psum_banks} banks of PSUM of {machine.name}: leave the layer to the compiler"
    )


def _parts(K: int) -> list[int]:
    """Features of X on chip at once: all (0), then ever fewer."""
    return [0, *(part for part in (4096, 2048, 1024, 512) if part < K)]


def plan_low_rank(
    shapes: dict, dtype: str, machine: Machine, cores: int, x_transposed: bool = False, B_M: int | None = None,
    B_N: int | None = None,
) -> Plan:  # fmt: skip
    """Blocks of X U V; `B_M` and `B_N` fix the rows of a strip and the columns of V of one transfer."""
    name = "X U V"
    M, K = _rows_columns(name, shapes, x_transposed)
    (Ku, r), (rv, N) = shapes["u"], shapes["v"]
    _check(name, shapes, columns_of_X_and_rows_of_U=(K, Ku), columns_of_U_and_rows_of_V=(r, rv))
    if "bias" in shapes:
        _check(name, shapes, columns_of_V_and_bias=(N, shapes["bias"][0]))
    split, s = _split(name, M, N, cores), _itemsize(dtype)
    share_M, share_N = (M // cores, N) if split == "M" else (M, N // cores)
    for rows in [min(B_M, share_M)] if B_M else _strips(share_M):
        for part in _parts(K):
            search = _Search(machine, s)
            chunk, stays, pieces = search.enter(rows, K, [("u", r)], x_transposed, part, False)
            if not search.fits:
                continue
            columns = min(B_N or share_N, share_N)
            stage = _Stage("v", "rows", (pieces[0],), columns, rows, s, exact=("depth",), bias="bias" in shapes)
            if search.stage(stage, stays):
                return search.result(
                    dtype=dtype, M=M, cores=cores, split=split, B_M=rows, chunk=chunk, part=part
                )
    raise _nothing(name, shapes, machine)


def plan_matmul(
    shapes: dict, dtype: str, machine: Machine, cores: int, x_transposed: bool = False, B_M: int | None = None
) -> Plan:
    """Blocks of X W with a strip of X resident."""
    name = "X W"
    M, K = _rows_columns(name, shapes, x_transposed)
    Kw, N = shapes["w"]
    _check(name, shapes, columns_of_X_and_rows_of_W=(K, Kw))
    if "bias" in shapes:
        _check(name, shapes, columns_of_W_and_bias=(N, shapes["bias"][0]))
    split, s = _split(name, M, N, cores), _itemsize(dtype)
    share_M, share_N = (M // cores, N) if split == "M" else (M, N // cores)
    for rows in [min(B_M, share_M)] if B_M else _strips(share_M):
        search = _Search(machine, s)
        chunk = search.load(rows, K, 0, x_transposed)
        stage = _Stage("w", "rows", ((K,),), share_N, rows, s, bias="bias" in shapes)
        if search.fits and search.stage(stage, tiles(K) * rows * s):
            return search.result(dtype=dtype, M=M, cores=cores, split=split, B_M=rows, chunk=chunk)
    raise _nothing(name, shapes, machine)


def _plan_mlp(
    name: str, shapes: dict, dtype: str, machine: Machine, cores: int, x_transposed: bool, form: str | None,
    B_M: int | None = None,
) -> Plan:  # fmt: skip
    """`form`: of the last product, rows or columns; None for the first half alone."""
    M, H = _rows_columns(name, shapes, x_transposed)
    s = _itemsize(dtype)
    contractions, entering, I = [], [], None  # noqa: E741
    for side in ("gate", "up"):
        w, v = shapes[side], shapes.get(f"{side}_v")
        _check(name, shapes, **{f"columns_of_X_and_rows_of_{side}": (H, w[0])})
        if v is not None:
            _check(name, shapes, **{f"columns_of_{side}_and_rows_of_{side}_v": (w[1], v[0])})
            entering.append((f"{side}_u", w[1]))
        I = I or (v or w)[1]  # noqa: E741
        _check(name, shapes, intermediate_sizes=(I, (v or w)[1]))
        if f"{side}_bias" in shapes:
            _check(name, shapes, **{f"intermediate_size_and_{side}_bias": (I, shapes[f"{side}_bias"][0])})
    down, down_v = shapes.get("down"), shapes.get("down_v")
    if form is not None:
        _check(name, shapes, intermediate_size_and_rows_of_down=(I, down[0]))
        if down_v is not None:
            _check(name, shapes, columns_of_down_and_rows_of_down_v=(down[1], down_v[0]))
        _check(name, shapes, hidden_sizes=(H, (down_v or down)[1]))
        if "down_bias" in shapes:
            _check(name, shapes, hidden_size_and_down_bias=(H, shapes["down_bias"][0]))
    split = _split(name, M, I, cores, "MN" if form is None else "M" if form == "rows" else "")
    share_M, share_I = (M // cores, I) if split == "M" else (M, I // cores)
    dense = len(entering) < 2
    strips = [share_M] if form == "columns" else [min(B_M, share_M)] if B_M else _strips(share_M)
    for rows in strips:
        for part in [0] if dense else _parts(H):
            search = _Search(machine, s)
            chunk, stays, pieces = search.enter(rows, H, entering, x_transposed, part, dense)
            if not search.fits:
                continue
            if not entering:
                stays = tiles(H) * rows * s
            factored = dict(zip((stage for stage, _ in entering), pieces, strict=True))
            contractions = tuple(factored.get(f"{side}_u", (H,)) for side in ("gate", "up"))
            biased = "gate_bias" in shapes or "up_bias" in shapes
            exact = ("depth",) if not dense and len({sum(c) for c in contractions}) == 1 else ()
            h = 0 if form is None else tiles(I) * rows * s
            stage = _Stage(
                "expand", "columns", contractions, share_I, rows, s, exact=exact, bias=biased,
                extra=(4 * rows, s * rows if form is None else 0),
            )  # fmt: skip
            if not search.stage(stage, stays + h):
                continue
            if form is not None and not _plan_down(search, shapes, rows, I, H, h, s, form):
                continue
            return search.result(dtype=dtype, M=M, cores=cores, split=split, B_M=rows, chunk=chunk, part=part)
    raise _nothing(name, shapes, machine)


def _plan_down(search: _Search, shapes: dict, M: int, I: int, H: int, h: int, s: int, form: str) -> bool:  # noqa: E741
    """The second half of an MLP, with h resident."""
    stays, contraction, exact = h, (I,), ()
    if "down_v" in shapes:
        r = shapes["down"][1]
        stage = _Stage("down_u", "columns", ((I,),), r, M, s, exact=("width",))
        A = tiles(r) * M * s
        if not search.stage(stage, h + A):
            return False
        stays, contraction, exact = A, _pieces(r, search.stages["down_u"].width), ("depth",)
    if form == "columns":
        H_bytes = tiles(H) * M * s
        stage = _Stage("down", "columns", (contraction,), H, M, s, exact=exact, bias="down_bias" in shapes)
        if not search.stage(stage, stays + H_bytes):
            return False
        return search.hold(H_bytes + H * s)
    stage = _Stage("down", "rows", (contraction,), H, M, s, exact=exact, bias="down_bias" in shapes)
    return search.stage(stage, stays)


def plan_mlp_up(
    shapes: dict, dtype: str, machine: Machine, cores: int, activation: str = "silu", x_transposed: bool = False,
    B_M: int | None = None,
) -> Plan:  # fmt: skip
    """Blocks of the first half of an MLP."""
    return _plan_mlp("MLP up", shapes, dtype, machine, cores, x_transposed, None, B_M)


def plan_mlp(
    shapes: dict, dtype: str, machine: Machine, cores: int, activation: str = "silu", x_transposed: bool = False,
    B_M: int | None = None,
) -> Plan:  # fmt: skip
    """Blocks of the whole MLP in one kernel."""
    return _plan_mlp("MLP", shapes, dtype, machine, cores, x_transposed, "rows", B_M)


def plan_mlp_decode(
    shapes: dict, dtype: str, machine: Machine, cores: int, activation: str = "silu", x_transposed: bool = False
) -> Plan:
    """Blocks of the MLP for at most 128 rows."""
    M, _ = _rows_columns("MLP decode", shapes, x_transposed)
    if M > P:
        raise PlanError(f"MLP decode: at most {P} rows, got {M}: use `mlp`")
    return _plan_mlp("MLP decode", shapes, dtype, machine, cores, x_transposed, "columns")


def _baseline(shapes: dict, cores: int) -> tuple[int, int, int, str]:
    (K, M), (Kw, N) = shapes["xT"], shapes["w"]
    _check("X W", shapes, rows_of_X_transposed_and_rows_of_W=(K, Kw))
    return M, K, N, _split("X W", M, N, cores)


def plan_matmul_tiled(shapes: dict, dtype: str, machine: Machine, cores: int) -> Plan:
    """The tiled baseline has no choice of blocks."""
    M, K, N, split = _baseline(shapes, cores)
    s = _itemsize(dtype)
    x, tile = tiles(K) * P * s, F * s
    if 2 * x + 4 * tile > machine.sbuf_budget:
        raise _nothing("X W tiled", shapes, machine)
    sizes = dict(sbuf=(x + 2 * tile) * P, sbuf_buffered=(2 * x + 4 * tile) * P, psum_banks=1)
    return Plan(machine=machine.name, dtype=dtype, M=M, cores=cores, split=split, B_M=P, **sizes)


def plan_matmul_blocked(shapes: dict, dtype: str, machine: Machine, cores: int) -> MatmulPlan:
    """The blocked baseline: blocks of 1024 columns, sums of as many rows as fit, then the largest blocks of K and M that do."""
    M, K, N, split = _baseline(shapes, cores)
    s = _itemsize(dtype)
    share_M, share_N = (M // cores, N) if split == "M" else (M, N // cores)
    B_N = min(1024, share_N)
    for rows, B_K, B_M in combinations(_strips(share_M), (1024, 512, 256), (2048, 1024, 512)):
        B_K, B_M = min(B_K, K), min(B_M, rows)
        sums = tiles(rows) * B_N * 4
        left, right, out = tiles(B_K) * B_M * s, tiles(B_K) * B_N * s, B_N * s
        single, held = sums + max(left + right, out), sums + 2 * max(left + right, out)
        if held <= machine.sbuf_budget:
            return MatmulPlan(
                machine=machine.name, dtype=dtype, M=M, cores=cores, split=split, B_M=B_M, rows=rows, B_K=B_K, B_N=B_N,
                sbuf=single * P, sbuf_buffered=held * P, psum_banks=1,
            )  # fmt: skip
    raise _nothing("X W blocked", shapes, machine)
