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
"""Predictions of whole MLPs: ours against the paper's pair of kernels and against dense weights."""

from dataclasses import dataclass

from optimum_neuronmm.kernels import get_machine, matmul, mlp, mlp_decode, mlp_two_kernels
from optimum_neuronmm.kernels.latency import Prediction
from optimum_neuronmm.kernels.latency.dma import CALIBRATED, CURVES

from .kernel_shapes import DECODE_ROWS, JUDGED, MODELS, RATIO, ROWS, mlp_tensors, rank
from .latency_figures import (
    TARGET,
    each,
    fastest,
    in_a_row,
    milliseconds,
    notes,
    overlapped,
    predicted,
    ratio,
    seconds,
)
from .paper_kernels import pair
from .results import Results


@dataclass(frozen=True)
class Case:
    """The MLP of a model (H hidden, I intermediate), M rows of it, factors of rank r."""

    model: str
    H: int
    I: int  # noqa: E741
    M: int

    @property
    def r(self) -> int:
        return rank(self.H, self.I, RATIO)

    def parameters(self, r: int | None) -> int:
        return 3 * (self.H * self.I if r is None else r * (self.H + self.I))

    def flops(self, r: int | None) -> int:
        """That the result needs: nothing padded or computed again."""
        return 2 * self.M * self.parameters(r)

    def floor(self, r: int | None) -> float:
        """Seconds that no kernel can beat: max(FLOPs / peak, bytes / bandwidth), weights, x and y moved once."""
        machine = get_machine(TARGET)
        moved = 2 * (self.parameters(r) + 2 * self.M * self.H)  # bytes: bfloat16
        return max(self.flops(r) / machine.flops, moved / machine.bandwidth)


@dataclass(frozen=True)
class Contest:
    """What the kernels are predicted to take for one case; None for one that has no plan.

    `spared`: the pair as if its compiler left out the zeros that are overwritten whole. `spared_at_best`: seconds of that as if
    its engines never waited for each other.
    """

    case: Case
    ours: Prediction | None
    pair: Prediction | None
    spared: Prediction | None
    spared_at_best: float | None
    dense: Prediction | None
    products: Prediction | None

    @property
    def share_of_peak(self) -> float | None:
        """FLOP/s that the result needs, over those of the tensor engine."""
        time = seconds(self.ours)
        return None if time is None else self.case.flops(self.case.r) / get_machine(TARGET).flops / time

    @property
    def share_of_floor(self) -> float | None:
        time = seconds(self.ours)
        return None if time is None else self.case.floor(self.case.r) / time


def whole(case: Case, r: int | None, dma=CALIBRATED) -> Prediction | None:
    """The fastest of our kernels for the whole MLP, by prediction; dense weights where r is None."""
    kernels = [mlp, mlp_two_kernels, *([mlp_decode] if case.M <= DECODE_ROWS else [])]
    return fastest([predicted(kernel, *mlp_tensors(case.M, case.H, case.I, r), dma=dma) for kernel in kernels])


def contest(case: Case, dma=CALIBRATED) -> Contest:
    M, H, I = case.M, case.H, case.I  # noqa: E741
    gate_and_up, down = (matmul, ((M, H), (H, I))), (matmul, ((M, I), (I, H)))
    spared = each(pair(M, H, case.r, I, spared=True), dma)
    return Contest(
        case,
        ours=whole(case, case.r, dma),
        pair=in_a_row(pair(M, H, case.r, I), dma),
        spared=spared and spared[0] + spared[1],
        spared_at_best=overlapped(spared),
        dense=whole(case, None, dma),
        products=in_a_row([gate_and_up, gate_and_up, down], dma),
    )


def row(contest: Contest) -> dict:
    case, ours = contest.case, contest.ours
    share, of_floor = contest.share_of_peak, contest.share_of_floor
    runs = {"ours": ours, "pair": contest.pair, "X W": contest.dense, "3 matmul": contest.products}
    return {
        "model": case.model,
        "r": case.r,
        "rows": case.M,
        "kernel": ours and ours.kernel,
        "ours ms": milliseconds(ours),
        "floor ms": 1e3 * case.floor(case.r),
        "floor / ours %": None if of_floor is None else 100 * of_floor,
        "FLOP/s % of peak": None if share is None else 100 * share,
        "bound by": ours and ours.bound_by,
        "pair ms": milliseconds(contest.pair),
        "pair / ours": ratio(contest.pair, ours),
        "spared / ours": ratio(contest.spared, ours),
        "at best ms": contest.spared_at_best and 1e3 * contest.spared_at_best,
        "X W kernel": contest.dense and contest.dense.kernel,
        "X W ms": milliseconds(contest.dense),
        "X W floor ms": 1e3 * case.floor(None),
        "X W / ours": ratio(contest.dense, ours),
        "3 matmul ms": milliseconds(contest.products),
        "3 matmul / ours": ratio(contest.products, ours),
        "spills": ", ".join(name for name, run in runs.items() if run and run.spills) or False,
    }


def mlp_section(results: Results, models: dict = MODELS, rows: tuple = ROWS) -> None:
    """Every model and number of rows, with the goals."""
    results.begin(
        "mlp",
        f"The MLP of one layer at ratio {RATIO}, bfloat16, {TARGET}: predicted. ours: the fastest of mlp, mlp_two_kernels and"
        " mlp_decode; pair: the paper's two kernels, rebuilt; spared: without zeros that are overwritten whole, at best also as"
        " if its engines never waited for each other; X W: the same of ours with dense weights; 3 matmul: gate, up and down as"
        " dense products, without the activation",
    )
    contests = [contest(Case(model, *sizes, M)) for model, sizes in models.items() for M in rows]
    results.table("mlp", [row(found) for found in contests])
    for found in contests:
        for run in (found.ours, found.pair, found.dense, found.products):
            results.note(f"{found.case.model}, rows={found.case.M}", notes(run))
        _goals(results, found)


def _goals(results: Results, found: Contest) -> None:
    case = found.case
    where = f"{case.model}, rows={case.M}"
    # The pair's better form is what counts: whether its compiler drops the zeros is not known.
    results.goal(f"times faster than the spared pair, {where}", ratio(found.spared, found.ours), ">", 1.0)
    if case.model != JUDGED:
        return
    if case.M >= 512:
        results.goal(f"share of peak FLOP/s, {where}", found.share_of_peak, ">=", 0.80)
    if case.M == 512:
        results.goal(f"times faster than the spared pair, {where}", ratio(found.spared, found.ours), ">=", 1.15)
    if case.M == 1:
        results.goal(f"share of the DMA bandwidth bound, {where}", found.share_of_floor, ">=", 0.85)


def curves_section(results: Results, models: dict = MODELS) -> None:
    """One row, under each assumption of what short descriptors cost."""
    results.begin(
        "curves",
        f"One row at ratio {RATIO}, bfloat16, {TARGET}: predicted. These figures depend on the DMA curve: what short"
        " transfers and short runs cost is known from kernels of one tile per transfer only",
    )
    table, found = [], {}
    for model, sizes in models.items():
        for name, curve in CURVES.items():
            found[model, name] = contest(Case(model, *sizes, 1), dma=curve)
            line = row(found[model, name])
            keys = (
                "model",
                "kernel",
                "ours ms",
                "floor / ours %",
                "bound by",
                "pair ms",
                "pair / ours",
                "spared / ours",
                "at best ms",
                "X W ms",
                "X W / ours",
            )
            table.append({"DMA curve": name, **{key: line[key] for key in keys}})
    results.table("curves", table)
    for (model, name), contested in found.items():
        limit = {"step": 1.2, "flat": 1.0}.get(name)
        if model == JUDGED and limit:
            what = f"times faster than the spared pair, {model}, 1 row, depending on the DMA curve: {name}"
            results.goal(what, ratio(contested.spared, contested.ours), ">=", limit)
