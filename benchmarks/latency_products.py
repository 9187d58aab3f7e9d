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
"""Predictions of products: the published timings, the paper's kernel table, its block-size sweep."""

from statistics import mean

from optimum_neuronmm import kernels
from optimum_neuronmm.kernels.latency import Prediction

from . import published
from .kernel_shapes import SWEEP, low_rank, specs
from .latency_figures import figures, in_a_row, milliseconds, notes, predicted, ratio
from .results import Results


# The paper's rows are not among the published figures that are known here; the mean of these is the one that its transposes imply.
ROWS = (4096, 8192, 12288, 16384, 20480)
COMPARED = {  # with the fused kernel
    "matmul_blocked": "X W in the form of AWS's kernel",
    "matmul_blocked twice": "X U V as two of these",
    "low_rank_sequential": "X U V in two of our products",
}


def twice(kernel, M: int, K: int, r: int, N: int) -> Prediction | None:
    """X U V as two products: (X U)^T = U^T X^T is the transposed operand of the second."""
    return in_a_row([(kernel, ((K, r), (K, M))), (kernel, ((r, M), (r, N)))])


def prediction_of(row: published.Published) -> Prediction | None:
    kernel = published.kernel_named(row.kernel)
    if len(row.sizes) == 4 and not row.kernel.startswith("low_rank"):
        return twice(kernel, *row.sizes)
    return predicted(kernel, *row.tensors, options=dict(row.options))


def published_section(results: Results, rows=published.PUBLISHED) -> None:
    """Every published time beside its prediction."""
    results.begin("published", "Published times beside predictions, trn1, one core, bfloat16")
    table = []
    for row in rows:
        prediction = prediction_of(row)
        time = milliseconds(prediction)
        residual = None if time is None else 100 * (time / row.milliseconds - 1)
        table.append(
            {
                "published": row.what,
                "kernel": prediction.kernel if prediction else row.kernel,
                "sizes": "x".join(map(str, row.sizes)),
                "published ms": row.milliseconds,
                "predicted ms": time,
                "residual %": residual,
                "published MB": row.megabytes,
                "MB": prediction and prediction.hbm_bytes / 1e6,
                "bound by": prediction and prediction.bound_by,
                "spill": prediction.spills if prediction else "does not fit",
                "row": row.used,
            }
        )
        results.note(row.what, notes(prediction))
    results.table("published", table)
    for row, line in zip(rows, table, strict=True):
        if row.within is not None:
            what = f"predicted ms, {row.what} ({row.used})"
            results.goal(what, line["predicted ms"], "=", row.milliseconds, within=row.within)
    for what, remark in dict.fromkeys((row.what, row.remark) for row in rows if row.remark):
        print(f"  {what}: {remark}")


def table_section(results: Results, rows=ROWS) -> None:
    """X W, and X U V naive, sequential and fused, as the paper's kernel table has them."""
    _, K, r, N = SWEEP
    results.begin("kernel table", f"X W and X U V, K={K} r={r} N={N}, bfloat16, trn1: predicted")
    table, transposes = [], []
    over: dict[str, list] = {name: [] for name in COMPARED}
    for M in rows:
        transposed, factored = specs((K, M), (K, N)), low_rank(M, K, r, N)
        blocked = kernels.matmul_blocked
        runs = {
            ("matmul_tiled", "X W"): predicted(kernels.matmul_tiled, *transposed),
            ("matmul_blocked", "X W"): predicted(blocked, *transposed),
            ("matmul", "X W"): predicted(kernels.matmul, *specs((M, K), (K, N))),
            ("matmul_blocked twice", "X U V"): twice(blocked, M, K, r, N),
            **{
                (kernel.name, "X U V"): predicted(kernel, *factored)
                for kernel in (kernels.low_rank_naive, kernels.low_rank_sequential, kernels.low_rank_fused)
            },
        }
        fused = runs["low_rank_fused", "X U V"]
        transposes.append(fused and fused.transpose_flops / 1e9)
        for (name, form), run in runs.items():
            speedup = ratio(run, fused)
            table.append({"M": M, "kernel": name, "form": form, **figures(run), "fused is faster by": speedup})
            if name in over:
                over[name].append(speedup)
            results.note(f"{name}, M={M}", notes(run))
    results.table("kernel table", table)
    _speedups(results, over)
    if rows == ROWS and None not in transposes:
        what = "mean GFLOP of transposes, beside the paper's"
        results.goal(what, mean(transposes), "=", published.TRANSPOSE_GFLOP, within=1e-3)


def _speedups(results: Results, over: dict[str, list]) -> None:
    rows = [
        {"fused over": what, "mean": mean(found), "maximum": max(found)}
        for what, found in zip(COMPARED.values(), over.values(), strict=True)
        if None not in found
    ]
    headline = {"mean": published.MEAN_SPEEDUP, "maximum": published.MAX_SPEEDUP}
    results.table(
        "speed-up", [*rows, {"fused over": "the paper's headline, over AWS's kernel, shapes of its own", **headline}]
    )


def sweep_section(results: Results, blocks=published.SWEEP_BLOCKS) -> None:
    """The fused kernel with the strips of the paper's block-size sweep."""
    M, K, r, N = SWEEP
    results.begin("sweep", f"Rows of a strip of the fused X U V, M={M} K={K} r={r} N={N}, bfloat16, trn1: predicted")
    table = []
    for B_M in blocks:
        run = predicted(kernels.low_rank_fused, *low_rank(*SWEEP), options={"B_M": B_M})
        row = {
            "B_M": B_M,
            "published ms": published.SWEEP_MS.get(B_M),
            "published FLOP/byte": published.SWEEP_INTENSITY.get(B_M),
            "FLOP/byte": run and run.flops / run.hbm_bytes,
        }
        table.append(row | figures(run))
        results.note(f"B_M={B_M}", notes(run))
    results.table("sweep", table)
