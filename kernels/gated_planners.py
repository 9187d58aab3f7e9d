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
"""Planners of gated MLPs, whole or in halves: from the shapes of a call and a machine to plans."""

from dataclasses import dataclass

from .errors import PlanError
from .machine import MACHINES, Machine
from .plan import Plan
from .search import Search
from .stage import Stage
from .task import Task, parts_of, sizes_of
from .tiling import F, P, cut


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
    _gated(Task("MLP", shapes, "float32", MACHINES["trn1"], 1, x_transposed))


def _gated(task: Task) -> _Gated:
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


def _plan_mlp(task: Task, form: str | None, B_M: int | None = None) -> list[Plan]:
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

    sizes = [m] if form == "columns" else sizes_of(m, B_M)
    return task.best(M, split, sizes, [0] if dense else parts_of(H), build)


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
    task = Task("gated X W", shapes, dtype, machine, cores, x_transposed)
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

    return task.best(M, split, sizes_of(m, B_M), [0], build)


def plan_mlp_up(
    shapes: dict, dtype: str, machine: Machine, cores: int, activation: str = "silu", x_transposed: bool = False,
    B_M: int | None = None,
) -> list[Plan]:  # fmt: skip
    """Blocks of the first half of an MLP, whatever its activation."""
    return _plan_mlp(Task("MLP up", shapes, dtype, machine, cores, x_transposed), None, B_M)


def plan_mlp(
    shapes: dict, dtype: str, machine: Machine, cores: int, activation: str = "silu", x_transposed: bool = False,
    B_M: int | None = None,
) -> list[Plan]:  # fmt: skip
    """Blocks of the whole MLP in one kernel."""
    return _plan_mlp(Task("MLP", shapes, dtype, machine, cores, x_transposed), "rows", B_M)


def plan_mlp_decode(
    shapes: dict, dtype: str, machine: Machine, cores: int, activation: str = "silu", x_transposed: bool = False
) -> list[Plan]:
    """Blocks of the MLP for at most 128 rows."""
    task = Task("MLP decode", shapes, dtype, machine, cores, x_transposed)
    M, _ = task.rows()
    if M > P:
        raise PlanError(f"MLP decode: at most {P} rows, got {M}: use `mlp`")
    return _plan_mlp(task, "columns")
