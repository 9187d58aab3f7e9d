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
"""Planners of products: from the shapes of a call and a machine to the plans of X W and of X U V."""

from itertools import product

from .machine import Machine
from .plan import MatmulPlan, Plan
from .search import Search, strips
from .stage import Stage
from .task import Task, parts_of, sizes_of
from .tiling import F, P, tiles


def plan_matmul(
    shapes: dict, dtype: str, machine: Machine, cores: int, x_transposed: bool = False, B_M: int | None = None
) -> list[Plan]:
    """Blocks of X W with a strip of X resident; `B_M` fixes its rows."""
    task = Task("X W", shapes, dtype, machine, cores, x_transposed)
    (M, K), (Kw, N) = task.rows(), shapes["w"]
    task.agree(columns_of_X_and_rows_of_W=(K, Kw))
    biased, split = task.biased("bias", N), task.split(M, N)
    m, n = (M // cores, N) if split == "M" else (M, N // cores)

    def build(search: Search, part: int) -> None:
        search.load(K, 0, x_transposed)
        search.stage(Stage("w", "rows", ((K,),), n, search.M, task.itemsize, biased=biased), search.strip(K))

    return task.best(M, split, sizes_of(m, B_M), [0], build)


def plan_low_rank(
    shapes: dict, dtype: str, machine: Machine, cores: int, x_transposed: bool = False, B_M: int | None = None,
    B_N: int | None = None, reload: bool = False,
) -> list[Plan]:  # fmt: skip
    """Blocks of X U V; `B_M` fixes the rows of a strip, `B_N` the columns of V of one transfer.

    reload: the intermediate goes through HBM, and is read back in strips.
    """
    task = Task("X U V", shapes, dtype, machine, cores, x_transposed)
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

    return task.best(M, split, sizes_of(m, B_M), parts_of(K), build)


def plan_low_rank_sequential(
    shapes: dict, dtype: str, machine: Machine, cores: int, x_transposed: bool = False, B_M: int | None = None,
    B_N: int | None = None,
) -> list[Plan]:  # fmt: skip
    """Blocks of X U V with the intermediate through HBM."""
    return plan_low_rank(shapes, dtype, machine, cores, x_transposed, B_M, B_N, reload=True)


def _baseline(shapes: dict, dtype: str, machine: Machine, cores: int) -> tuple[Task, int, int, int, str]:
    task = Task("X W", shapes, dtype, machine, cores, transposed=True)
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
