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
"""What is counted of products: X U V fused, in sequence and naive, the block-size sweep, the tutorial's X W."""

from optimum_neuronmm.kernels import (
    low_rank_fused,
    low_rank_naive,
    low_rank_sequential,
    matmul,
    matmul_blocked,
    matmul_tiled,
)

from .kernel_shapes import SWEEP, low_rank, specs
from .kernels_counts import TARGET, counted, dry
from .published import MATMUL, NAIVE, NAIVE_GFLOP, NAIVE_MB, SWEEP_INTENSITY
from .results import Results


def fused_section(results: Results) -> None:
    M, K, r, N = SWEEP
    results.begin("fused", f"X U V, M={M} K={K} r={r} N={N}, bfloat16, {TARGET}: counted by the simulator")
    tensors = low_rank(M, K, r, N)
    transposed = specs((K, M), (K, N))
    calls = [
        (low_rank_fused, "X U V", tensors),
        (low_rank_sequential, "X U V", tensors),
        (low_rank_naive, "X U V", tensors),
        (matmul, "X W", specs((M, K), (K, N))),
        (matmul_tiled, "X W", transposed),
        (matmul_blocked, "X W", transposed),
    ]
    runs = {kernel.name: dry(kernel, *arguments) for kernel, _, arguments in calls}
    forms = {kernel.name: form for kernel, form, _ in calls}
    results.table(
        "fused", [{"kernel": name, "form": forms[name], **counted(run)} for name, run in runs.items() if run]
    )
    fused = runs["low_rank_fused"]
    bound = 2 * (M * (K + N) + r * (K + N) * M / 1024) / 1e9
    results.goal("rows of a strip", fused and fused.plan.B_M, ">=", 1024)
    results.goal("GB of HBM traffic", fused and fused.hbm_bytes / 1e9, "<=", bound)
    results.goal("FLOP/byte", fused and fused.intensity, ">=", 819)
    results.goal(
        "live SBUF with second buffers, % of capacity", fused and 100 * fused.sbuf_peak / fused.machine.sbuf, "<=", 90
    )

    results.begin("sweep", "The paper's block sizes, for the same product")
    rows = []
    for B_M, intensity in SWEEP_INTENSITY.items():
        run = dry(low_rank_fused, *tensors, options={"B_M": B_M})
        row = {"B_M": B_M, "published FLOP/byte": intensity}
        if run:
            row |= {
                "counted FLOP/byte": run.intensity,
                "counted GB": run.hbm_bytes / 1e9,
                "GB that the published implies": run.flops / intensity / 1e9,
            }
        rows.append(row)
    results.table("sweep", rows)
    for row in rows:
        results.goal(
            f"FLOP/byte at B_M={row['B_M']}",
            row.get("counted FLOP/byte"),
            "=",
            row["published FLOP/byte"],
            within=1e-3,
        )


def naive_section(results: Results) -> None:
    M, K, r, N = NAIVE
    results.begin("naive", f"Sequential and naive fusion, M={M} K={K} r={r} N={N}, N in blocks of 512")
    tensors = low_rank(*NAIVE)
    runs = {
        k.name: dry(k, *tensors, options={"B_N": 512}) for k in (low_rank_sequential, low_rank_naive, low_rank_fused)
    }
    results.table(
        "naive",
        [
            {
                "kernel": n,
                "published GFLOP": NAIVE_GFLOP.get(n),
                "published MB": NAIVE_MB.get(n),
                **counted(run),
            }
            for n, run in runs.items()
            if run
        ],
    )
    for name, published in NAIVE_GFLOP.items():
        run = runs[name]
        results.goal(f"GFLOP of {name}", run and run.flops / 1e9, "=", published, within=1e-3)


def tutorial_section(results: Results) -> None:
    M, K, N = MATMUL
    results.begin(
        "tutorial",
        f"The baselines of the Neuron documentation's matrix multiplication tutorial, [{M}, {K}] @ [{K}, {N}]",
    )
    tensors = specs((K, M), (K, N))
    runs = {kernel.name: dry(kernel, *tensors) for kernel in (matmul_tiled, matmul_blocked)}
    runs["matmul"] = dry(matmul, *specs((M, K), (K, N)))
    results.table("tutorial", [{"kernel": name, **counted(run)} for name, run in runs.items() if run])
    for name, expected in (("matmul_tiled", 4.429), ("matmul_blocked", 0.738)):
        run = runs[name]
        results.goal(f"GB of {name}", run and run.hbm_bytes / 1e9, "=", expected, within=1e-3)
