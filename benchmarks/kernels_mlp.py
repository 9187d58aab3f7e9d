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
"""What is counted of MLPs: many rows, ragged ones, few, and the first half on a rank of tensor parallelism."""

import itertools

from optimum_neuronmm.kernels import gated_matmul, mlp, mlp_decode, mlp_two_kernels, mlp_up
from optimum_neuronmm.kernels.cost import padding
from optimum_neuronmm.kernels.latency.instructions import documented

from .kernel_shapes import JUDGED, MODELS, RATIO, mlp_tensors, rank, specs
from .kernels_counts import ENGINES, TARGET, counted, dry
from .results import Results


OTHERS = {  # beside the one that is judged
    **{model: MODELS[model] for model in ("Llama-3.2-3B", "Qwen3-4B")},
    "TP-4 shard": (2048, 2048),
}
SHARDS = {  # H, I of one rank, r: U, and what was gathered of X U, are whole on every rank
    "Phi-3-mini TP-2": (3072, 4096, 2048),
    "Llama-3.2-1B TP-4": (2048, 2048, 1280),
}


def mlp_section(results: Results) -> None:
    M, (H, I) = 512, MODELS[JUDGED]  # noqa: E741
    r = rank(H, I, RATIO)
    results.begin(
        "mlp", f"The MLP of one layer, {M} rows, H={H} I={I} r={r}, bfloat16, {TARGET}: counted by the simulator"
    )
    whole = dry(mlp, *mlp_tensors(M, H, I, r))
    calls = {
        "mlp": whole,
        "mlp_two_kernels": dry(mlp_two_kernels, *mlp_tensors(M, H, I, r)),
        "mlp, dense weights": dry(mlp, *mlp_tensors(M, H, I, None)),
    }
    results.table("mlp", [{"kernel": name, **counted(run)} for name, run in calls.items() if run])
    if whole:
        names = {a.name for a in whole.trace.allocations if a.buffer == "hbm"}
        between = names - {*mlp.tensors, "y"}
        known = sum(whole.trace.bytes_of(name) for name in {*mlp.tensors, "y"})
        results.goal("HBM tensors beside arguments and result", len(between), "=", 0)
        results.goal("HBM MB of anything else", (whole.hbm_bytes - known) / 1e6, "=", 0)
        seconds = documented(whole.machine).busy(whole.trace)
        other = max((engine for engine in seconds if engine != "TensorE"), key=seconds.get)
        results.goal(f"ms that {other}, the next engine, is busy", 1e3 * seconds[other], "<", 1e3 * seconds["TensorE"])
        results.goal("padding, %", 100 * padding(whole.trace), "<", 2)

    results.begin("padding", "Ragged rows: 500 rows, ranks of the package's formula")
    rows = []
    for model, (H, I) in OTHERS.items():  # noqa: E741
        for ratio in (0.1, 0.2):
            r = rank(H, I, ratio)
            for kernel in (mlp, mlp_two_kernels):
                run = dry(kernel, *mlp_tensors(500, H, I, r))
                row = {"model": model, "ratio": ratio, "r": r, "kernel": kernel.name}
                rows.append(row | counted(run) if run else row)
    results.table("padding", rows)
    for row in rows:
        what = f"padding % of {row['kernel']}, {row['model']} at {row['ratio']}"
        results.goal(what, row.get("padding %"), "<", 10)


def decode_section(results: Results) -> None:
    results.begin("decode", "Few rows: mlp_decode, bfloat16. Weights: the bytes of the factors; the rest is x and y")
    pairs = [(JUDGED, RATIO), *itertools.product(OTHERS, (0.1, 0.2))]
    cases = [(*pair, rows) for pair in pairs for rows in (1, 16, 128)]
    table = []
    for model, ratio, M in cases:
        H, I = (MODELS | OTHERS)[model]  # noqa: E741
        r = rank(H, I, ratio)
        weights = 2 * 3 * r * (H + I)
        run = dry(mlp_decode, *mlp_tensors(M, H, I, r))
        row = {"model": model, "ratio": ratio, "r": r, "rows": M, "weights MB": weights / 1e6}
        if run:
            seconds = documented(run.machine).busy(run.trace)
            row |= {
                "HBM MB": run.hbm_bytes / 1e6,
                "over weights %": 100 * (run.hbm_bytes / weights - 1),
                "in runs >= 2 KiB %": 100 * run.trace.bytes_in_runs_of(2048),
                "SBUF %": 100 * run.sbuf_peak / run.machine.sbuf,
                "DMAs": run.trace.counts["load"] + run.trace.counts["store"],
                **{f"{engine} busy ms": 1e3 * seconds[engine] for engine in ENGINES},
            }
        table.append(row)
    results.table("decode", table)
    for row in table:
        case = f"{row['model']} at {row['ratio']}, rows={row['rows']}"
        if row["rows"] == 1:  # with more rows, x and y count beside the small weights of a shard
            results.goal(f"% of HBM traffic over the weights, {case}", row.get("over weights %"), "<=", 2)
        results.goal(f"% of bytes in runs >= 2 KiB, {case}", row.get("in runs >= 2 KiB %"), ">=", 95)


def shards_section(results: Results) -> None:
    results.begin(
        "shards",
        "The first half of an MLP on one rank: gate and up with one U, and from the gather of X U on. bfloat16",
    )
    table = []
    for (model, (H, I, r)), M in itertools.product(SHARDS.items(), (1, 128, 512)):  # noqa: E741
        calls = {
            "mlp_up, one U": (mlp_up, specs((M, H), (H, r), (r, I), None, (r, I))),
            "gated_matmul": (gated_matmul, specs((M, r), (r, I), (M, r), (r, I))),
        }
        for name, (kernel, tensors) in calls.items():
            inputs = M * (H if kernel is mlp_up else 2 * r)
            arguments = sum(t.shape[0] * t.shape[1] for t in tensors if t)
            row = {"model": model, "r": r, "rows": M, "kernel": name, "weights MB": 2 * (arguments - inputs) / 1e6}
            run = dry(kernel, *tensors)
            if run:
                row |= {
                    "over weights %": 100 * (run.hbm_bytes / (2 * (arguments - inputs)) - 1),
                    "read again MB": (run.hbm_bytes - 2 * (arguments + M * I)) / 1e6,
                    **counted(run),
                }
            table.append(row)
    results.table("shards", table)
    for row in table:
        case = f"{row['kernel']}, {row['model']}, rows={row['rows']}"
        results.goal(f"HBM MB beside one pass over arguments and result, {case}", row.get("read again MB"), "=", 0)
        if row["rows"] == 1:  # with more, activations count beside the small weights of a shard
            results.goal(f"% of HBM traffic over the weights, {case}", row.get("over weights %"), "<=", 2)
            results.goal(f"% of bytes in runs >= 2 KiB, {case}", row.get("in runs >= 2 KiB %"), ">=", 95)
