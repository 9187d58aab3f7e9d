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
"""Planners: from the shapes of a call and a machine to the plan of a kernel."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from .errors import PlanError
from .latency.work import rates_of
from .machine import MACHINES, Machine
from .plan import MatmulPlan, Plan
from .search import Search, Stage, strips
from .tiling import F, P, cut, tiles


BEYOND = 1.25  # times the best estimate: what is worse is not tried
FINALISTS, SIZES = 5, 3  # plans that are compared by the engine model, at most; of them, of different strips


@dataclass(frozen=True)
class _Task:
    """What every planner knows: the kernel's name, its shapes, and who shares the work."""

    name: str
    shapes: dict
    dtype: str
    machine: Machine
    cores: int
    transposed: bool = False

    @property
    def itemsize(self) -> int:
        return {"bfloat16": 2, "float32": 4}[self.dtype]

    @property
    def listed(self) -> str:
        return ", ".join(f"{key} {list(shape)}" for key, shape in self.shapes.items())

    def agree(self, **pairs: tuple[int, int]) -> None:
        """Dimensions that must be equal, by what they are."""
        for what, (a, b) in pairs.items():
            if a != b:
                raise PlanError(f"{self.name}: {what.replace('_', ' ')} must agree, got {a} and {b} in {self.listed}")

    def biased(self, bias: str, size: int) -> bool:
        if bias in self.shapes:
            if len(self.shapes[bias]) != 1:
                raise PlanError(f"{self.name}: {bias} must be a vector, got {list(self.shapes[bias])}")
            self.agree(**{f"{bias}_and_columns": (self.shapes[bias][0], size)})
        return bias in self.shapes

    def rows(self, x: str = "x") -> tuple[int, int]:
        """(M, K); checks that everything but a bias is a matrix."""
        for key, shape in self.shapes.items():
            if len(shape) != 2 and not key.endswith("bias"):
                raise PlanError(
                    f"{self.name}: {key} must be a matrix, got {list(shape)}: flatten batch and sequence into rows"
                )
            if any(n < 1 for n in shape):
                raise PlanError(f"{self.name}: dimensions must be positive, got {self.listed}")
        return tuple(self.shapes[x][::-1] if self.transposed else self.shapes[x])

    def split(self, M: int, N: int, dimensions: str = "MN") -> str:
        """The dimension that the cores divide."""
        if self.cores < 1:
            raise PlanError(f"{self.name}: cores must be at least 1, got {self.cores}")
        by_M, by_N = ("M" in dimensions and M % self.cores == 0), ("N" in dimensions and N % self.cores == 0)
        if self.cores == 1 or by_M and (M // self.cores >= P or not by_N):
            return "M"
        if by_N:
            return "N"
        shared = " or ".join({"M": f"M = {M}", "N": f"N = {N}"}[d] for d in dimensions)
        why = (
            f"{self.cores} cores cannot share {shared} evenly" if shared else f"runs on one core, not on {self.cores}"
        )
        raise PlanError(
            f"{self.name}: {why}: run it on one core, or compose the layer of low_rank_fused and matmul, which split N"
        )

    def best(self, M: int, split: str, sizes: list[int], parts: list[int], build: Callable) -> list[Plan]:
        """Plans for M rows over strips of `sizes` rows and X in `parts`: the few that may be the quickest, best estimate first.

        `build(search, part)` goes through the phases. X comes in parts only where all of it does not fit.
        """
        rates, rows = rates_of(self.machine, self.itemsize), M // self.cores if split == "M" else M
        found: list[tuple[float, Plan]] = []
        missing: list[tuple[int, str]] = []
        for size in sizes:
            least = None
            for part in parts:
                for hasty, interleave in product((True, False), repeat=2):
                    search = Search(rates, size, hasty, interleave)
                    build(search, part)
                    if search.fits:
                        least = min(least or search.bound(rows), search.bound(rows))
                        found.append((search.estimate(rows), self._plan(search, M, split, part)))
                    elif search.missing:
                        missing.append(search.missing[::-1])
                if least is not None:
                    break
            # Smaller strips read the weights more often: once that alone takes longer, so does whatever follows.
            if least is not None and least > BEYOND * min(estimate for estimate, _ in found):
                break
        if not found:
            raise self.nothing_fits(min(missing, default=None))
        return _finalists(found)

    def _plan(self, search: Search, M: int, split: str, part: int) -> Plan:
        return Plan(
            machine=self.machine.name,
            dtype=self.dtype,
            M=M,
            cores=self.cores,
            split=split,
            B_M=search.M,
            chunk=search.chunk,
            part=part,
            stages=search.stages,
            interleave_x=search.interleave_x,
            interleave_h=search.interleave_h,
            sbuf=search.single * P,
            sbuf_buffered=search.buffered * P,
            psum_banks=search.banks,
        )

    def nothing_fits(self, missing: tuple[int, str] | None = None) -> PlanError:
        lacking = f"; at best, {missing[1]} are {missing[0]} bytes per partition too large" if missing else ""
        return PlanError(
            f"{self.name}: no block sizes fit {self.listed} ({self.dtype}) into {self.machine.sbuf_budget} bytes per partition"
            f" of SBUF and {self.machine.psum_banks} banks of PSUM of {self.machine.name}{lacking}: leave the layer to the"
            " compiler"
        )


def _finalists(found: list[tuple[float, Plan]]) -> list[Plan]:
    """Of (estimate, plan)s the best of a few sizes of a strip, and the best of the others."""
    found = sorted(found, key=lambda pair: pair[0])
    close = {}
    for estimate, plan in found:
        if estimate <= BEYOND * found[0][0]:
            close.setdefault(plan.key, plan)
    first, others = {}, []
    for plan in close.values():
        if plan.B_M in first:
            others.append(plan)
        else:
            first[plan.B_M] = plan
    chosen = [*list(first.values())[:SIZES], *others[: max(FINALISTS - len(first), FINALISTS - SIZES)]]
    return [plan for plan in close.values() if plan in chosen]


def _parts(K: int) -> list[int]:
    """Features of X on chip at once: all (0), then ever fewer."""
    return [0, *(part for part in (4096, 2048, 1024, F) if part < K)]


def _sizes(M: int, B_M: int | None) -> list[int]:
    return [min(B_M, M)] if B_M else strips(M)


def plan_matmul(
    shapes: dict, dtype: str, machine: Machine, cores: int, x_transposed: bool = False, B_M: int | None = None
) -> list[Plan]:
    """Blocks of X W with a strip of X resident; `B_M` fixes its rows."""
    task = _Task("X W", shapes, dtype, machine, cores, x_transposed)
    (M, K), (Kw, N) = task.rows(), shapes["w"]
    task.agree(columns_of_X_and_rows_of_W=(K, Kw))
    biased, split = task.biased("bias", N), task.split(M, N)
    m, n = (M // cores, N) if split == "M" else (M, N // cores)

    def build(search: Search, part: int) -> None:
        search.load(K, 0, x_transposed)
        search.stage(Stage("w", "rows", ((K,),), n, search.M, task.itemsize, biased=biased), search.strip(K))

    return task.best(M, split, _sizes(m, B_M), [0], build)


def plan_low_rank(
    shapes: dict, dtype: str, machine: Machine, cores: int, x_transposed: bool = False, B_M: int | None = None,
    B_N: int | None = None, reload: bool = False,
) -> list[Plan]:  # fmt: skip
    """Blocks of X U V; `B_M` fixes the rows of a strip, `B_N` the columns of V of one transfer.

    reload: the intermediate goes through HBM, and is read back in strips.
    """
    task = _Task("X U V", shapes, dtype, machine, cores, x_transposed)
    (M, K), (Ku, r), (rv, N) = task.rows(), shapes["u"], shapes["v"]
    task.agree(columns_of_X_and_rows_of_U=(K, Ku), columns_of_U_and_rows_of_V=(r, rv))
    biased, split = task.biased("bias", N), task.split(M, N)
    m, n = (M // cores, N) if split == "M" else (M, N // cores)

    def build(search: Search, part: int) -> None:
        search.interleave_x = 1 if part else search.joined(K, [r])
        made = search.enter(K, {"u": r}, x_transposed, part, keep=False)
        if search.fits:
            contraction = (r,) if reload else made["u"]
            stage = Stage(
                "v",
                "rows",
                (contraction,),
                n,
                search.M,
                task.itemsize,
                exact=("depth",),
                biased=biased,
                width=B_N or 0,
            )
            search.stage(stage, search.strip(r) if reload else sum(map(search.strip, contraction)))

    return task.best(M, split, _sizes(m, B_M), _parts(K), build)


def plan_low_rank_sequential(
    shapes: dict, dtype: str, machine: Machine, cores: int, x_transposed: bool = False, B_M: int | None = None,
    B_N: int | None = None,
) -> list[Plan]:  # fmt: skip
    """Blocks of X U V with the intermediate through HBM."""
    return plan_low_rank(shapes, dtype, machine, cores, x_transposed, B_M, B_N, reload=True)


@dataclass(frozen=True)
class _Gated:
    """The dimensions of a gated MLP.

    Attributes:
        ranks: by the stage that multiplies X with a U.
        sources: of gate and of up, the stage whose product is expanded to I: one where U is shared, None where dense.
    """

    M: int
    H: int
    I: int  # noqa: E741
    ranks: dict[str, int]
    sources: tuple[str | None, str | None]
    biased: bool


def check_mlp(shapes: dict, x_transposed: bool = False) -> None:
    """Refuses shapes of an MLP that do not belong together."""
    _gated(_Task("MLP", shapes, "float32", MACHINES["trn1"], 1, x_transposed))


def _gated(task: _Task) -> _Gated:
    """The dimensions of an MLP, or of its first half where there is no `down`; checks that they agree."""
    shapes, (M, H) = task.shapes, task.rows()
    if "up" not in shapes and not {"gate_v", "up_v"} <= set(shapes):
        raise PlanError(
            f"{task.name}: where up is None, gate's U serves both and gate_v and up_v are needed, got {task.listed}"
        )
    ranks, widths, sources = {}, [], []
    for side in ("gate", "up"):
        owner = side if side in shapes else "gate"  # of the U, or of W
        w, v = shapes[owner], shapes.get(f"{side}_v")
        task.agree(**{f"columns_of_X_and_rows_of_{owner}": (H, w[0])})
        if v is not None:
            task.agree(**{f"columns_of_{owner}_and_rows_of_{side}_v": (w[1], v[0])})
            ranks[f"{owner}_u"] = w[1]
        sources.append(None if v is None else f"{owner}_u")
        widths.append((v or w)[1])
    task.agree(intermediate_sizes_of_gate_and_up=tuple(widths))
    I = widths[0]  # noqa: E741
    if "down" in shapes:
        down, down_v = shapes["down"], shapes.get("down_v")
        task.agree(intermediate_size_and_rows_of_down=(I, down[0]))
        if down_v is not None:
            task.agree(columns_of_down_and_rows_of_down_v=(down[1], down_v[0]))
        task.agree(hidden_sizes_of_X_and_down=(H, (down_v or down)[1]))
        task.biased("down_bias", H)
    biased = [task.biased(f"{side}_bias", I) for side in ("gate", "up")]
    return _Gated(M, H, I, ranks, tuple(sources), any(biased))


def _expand(search: Search, contractions: tuple, columns: int, stored: bool, **how) -> Stage:
    """Gate and up side by side, and h made of them; `stored`: it goes to HBM as it comes."""
    rows = min(search.M, F)
    return Stage(
        "expand", "columns", contractions, columns, search.M, search.itemsize, working=4 * rows,
        stored=search.itemsize * rows if stored else 0, **how,
    )  # fmt: skip


def _plan_mlp(task: _Task, form: str | None, B_M: int | None = None) -> list[Plan]:
    """`form`: of the last product, rows or columns; None for the first half alone."""
    shapes, gated = task.shapes, _gated(task)
    M, H, I, entering = gated.M, gated.H, gated.I, gated.ranks  # noqa: E741
    split = task.split(M, I, {None: "MN", "rows": "M", "columns": ""}[form])
    m, i = (M // task.cores, I) if split == "M" else (M, I // task.cores)
    dense = None in gated.sources

    def build(search: Search, part: int) -> None:
        search.interleave_x = search.joined(H, entering.values()) if not part else 1
        if form is not None:
            search.interleave_h = search.joined(I, [shapes["down"][1]])
        made = search.enter(H, entering, task.transposed, part, keep=dense)
        if not search.fits:
            return
        contractions = tuple(made.get(source, (H,)) for source in gated.sources)
        stays = sum(search.strip(k) for parts in made.values() for k in parts) + (search.strip(H) if dense else 0)
        h = 0 if form is None else search.strip(I)
        same_rank = not dense and len(set(entering.values())) == 1
        stage = _expand(
            search, contractions, i, stored=form is None, exact=("depth",) if same_rank else (), biased=gated.biased,
            interleave=search.interleave_x if dense else 1, produces=search.interleave_h,
        )  # fmt: skip
        if search.stage(stage, stays + h) and form is not None:
            _build_down(search, shapes, I, H, form)

    sizes = [m] if form == "columns" else _sizes(m, B_M)
    return task.best(M, split, sizes, [0] if dense else _parts(H), build)


def _build_down(search: Search, shapes: dict, I: int, H: int, form: str) -> None:  # noqa: E741
    """The second half of an MLP, with h resident."""
    s, M = search.itemsize, search.M
    stays, contraction, exact = search.strip(I), (I,), ()
    if "down_v" in shapes:
        r = shapes["down"][1]
        stage = Stage("down_u", "columns", ((I,),), r, M, s, exact=("width",), interleave=search.interleave_h)
        blocks = search.stage(stage, stays + search.strip(r))
        if blocks is None:
            return
        contraction, exact = cut(r, blocks.width), ("depth",)
        stays = sum(map(search.strip, contraction))
    biased = "down_bias" in shapes
    result = search.strip(H) if form == "columns" else 0
    dense = search.interleave_h if "down_v" not in shapes else 1
    stage = Stage("down", form, (contraction,), H, M, s, exact=exact, biased=biased, interleave=dense)
    search.stage(stage, stays + result)
    if form == "columns":
        search.hold(result + H * s)


def plan_gated_matmul(
    shapes: dict, dtype: str, machine: Machine, cores: int, activation: str = "silu", x_transposed: bool = False,
    B_M: int | None = None,
) -> list[Plan]:  # fmt: skip
    """Blocks of activation(Xg G) * (Xu W), whatever the activation, with strips of both inputs resident."""
    task = _Task("gated X W", shapes, dtype, machine, cores, x_transposed)
    (M, Kg), (Mu, Ku), (_, N) = task.rows("x_gate"), task.rows("x_up"), shapes["gate"]
    task.agree(
        rows_of_x_gate_and_x_up=(M, Mu),
        columns_of_x_gate_and_rows_of_gate=(Kg, shapes["gate"][0]),
        columns_of_x_up_and_rows_of_up=(Ku, shapes["up"][0]),
        columns_of_gate_and_up=(N, shapes["up"][1]),
    )
    biased = [task.biased(f"{side}_bias", N) for side in ("gate", "up")]
    split = task.split(M, N)
    m, n = (M // cores, N) if split == "M" else (M, N // cores)

    def build(search: Search, part: int) -> None:
        search.load(Kg, 0, x_transposed)
        search.load(Ku, search.strip(Kg), x_transposed)
        exact = ("depth",) if Kg == Ku else ()
        stage = _expand(search, ((Kg,), (Ku,)), n, stored=True, exact=exact, biased=any(biased))
        search.stage(stage, search.strip(Kg) + search.strip(Ku))

    return task.best(M, split, _sizes(m, B_M), [0], build)


def plan_mlp_up(
    shapes: dict, dtype: str, machine: Machine, cores: int, activation: str = "silu", x_transposed: bool = False,
    B_M: int | None = None,
) -> list[Plan]:  # fmt: skip
    """Blocks of the first half of an MLP, whatever its activation."""
    return _plan_mlp(_Task("MLP up", shapes, dtype, machine, cores, x_transposed), None, B_M)


def plan_mlp(
    shapes: dict, dtype: str, machine: Machine, cores: int, activation: str = "silu", x_transposed: bool = False,
    B_M: int | None = None,
) -> list[Plan]:  # fmt: skip
    """Blocks of the whole MLP in one kernel."""
    return _plan_mlp(_Task("MLP", shapes, dtype, machine, cores, x_transposed), "rows", B_M)


def plan_mlp_decode(
    shapes: dict, dtype: str, machine: Machine, cores: int, activation: str = "silu", x_transposed: bool = False
) -> list[Plan]:
    """Blocks of the MLP for at most 128 rows."""
    task = _Task("MLP decode", shapes, dtype, machine, cores, x_transposed)
    M, _ = task.rows()
    if M > P:
        raise PlanError(f"MLP decode: at most {P} rows, got {M}: use `mlp`")
    return _plan_mlp(task, "columns")


def _baseline(shapes: dict, dtype: str, machine: Machine, cores: int) -> tuple[_Task, int, int, int, str]:
    task = _Task("X W", shapes, dtype, machine, cores, transposed=True)
    (M, K), (Kw, N) = task.rows("xT"), shapes["w"]
    task.agree(rows_of_X_transposed_and_rows_of_W=(K, Kw))
    return task, M, K, N, task.split(M, N)


def plan_matmul_tiled(shapes: dict, dtype: str, machine: Machine, cores: int) -> Plan:
    """The tiled baseline has no choice of blocks."""
    task, M, K, N, split = _baseline(shapes, dtype, machine, cores)
    x, tile = tiles(K) * P * task.itemsize, F * task.itemsize
    if 2 * x + 4 * tile > machine.sbuf_budget:
        raise task.nothing_fits()
    sizes = {"sbuf": (x + 2 * tile) * P, "sbuf_buffered": (2 * x + 4 * tile) * P, "psum_banks": 1}
    return Plan(machine=machine.name, dtype=dtype, M=M, cores=cores, split=split, B_M=P, **sizes)


def plan_matmul_blocked(shapes: dict, dtype: str, machine: Machine, cores: int) -> MatmulPlan:
    """The blocked baseline: blocks of 1024 columns, sums of as many rows as fit, then the largest blocks of K and M that do.

    Blocks of K below 512 only where nothing else fits: sums are added to once for each.
    """
    task, M, K, N, split = _baseline(shapes, dtype, machine, cores)
    m, n = (M // cores, N) if split == "M" else (M, N // cores)
    s, B_N = task.itemsize, min(1024, n)
    choices = [choice for depths in ((1024, 512), (256,)) for choice in product(strips(m), depths, (2048, 1024, 512))]
    for rows, B_K, B_M in choices:
        B_K, B_M = min(B_K, K), min(B_M, rows)
        sums = tiles(rows) * B_N * 4
        blocks = max(tiles(B_K) * (B_M + B_N) * s, B_N * s)
        if sums + 2 * blocks <= machine.sbuf_budget:
            return MatmulPlan(
                machine=machine.name, dtype=dtype, M=M, cores=cores, split=split, B_M=B_M, rows=rows, B_K=B_K, B_N=B_N,
                sbuf=(sums + blocks) * P, sbuf_buffered=(sums + 2 * blocks) * P, psum_banks=1,
            )  # fmt: skip
    raise task.nothing_fits()
