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
"""What the NKI kernels do, as the simulator counts it: traffic, work, padding, descriptors; and their rounding errors.

    python benchmarks/kernels.py [--json FILE] [--strict]

Nothing here runs on a device and nothing is a measured time. Counts come from dry traces: every instruction of the
kernel, multiplied by the trip counts of its loops. `busy` columns are floors for each engine, from the documented
cycles of every instruction and, for DMA, bytes over bandwidth: no latency follows from them. Values marked "published" are
those of the NeuronMM paper (arXiv 2510.25977). Each goal is printed beside the value that it is for.
"""

import argparse
import itertools
import sys
import time
from pathlib import Path

import torch

from optimum_neuronmm.kernels import (
    KERNELS,
    KernelError,
    gated_matmul,
    get_machine,
    low_rank_fused,
    low_rank_naive,
    low_rank_sequential,
    matmul,
    matmul_blocked,
    matmul_tiled,
    mlp,
    mlp_decode,
    mlp_two_kernels,
    mlp_up,
    simulate,
)
from optimum_neuronmm.kernels.cost import padding
from optimum_neuronmm.kernels.latency.instructions import documented


if not __package__:  # run as a file
    sys.path[0], __package__ = str(Path(__file__).resolve().parent.parent), "benchmarks"
from .kernel_shapes import SWEEP, low_rank, mlp_tensors, rank, specs
from .published import NAIVE, NAIVE_GFLOP, NAIVE_MB, SWEEP_INTENSITY
from .results import Results


TARGET = "trn1"
ENGINES = ("TensorE", "VectorE", "ScalarE", "DMA")
MODELS = {
    "Llama-3.2-1B": (2048, 8192),
    "Llama-3.2-3B": (3072, 8192),
    "Qwen3-4B": (2560, 9728),
    "TP-4 shard": (2048, 2048),
}
SHARDS = {  # H, I of one rank, r: U, and what was gathered of X U, are whole on every rank
    "Phi-3-mini TP-2": (3072, 4096, 2048),
    "Llama-3.2-1B TP-4": (2048, 2048, 1280),
}


def counted(run) -> dict:
    """The columns that every kernel has, of a simulation."""
    seconds = documented(run.machine).busy(run.trace)
    plans = run.plan if isinstance(run.plan, tuple) else (run.plan,)
    return {
        "B_M": "/".join(str(plan.B_M) for plan in plans),
        "GFLOP": run.flops / 1e9,
        "transpose GFLOP": run.transpose_flops / 1e9,
        "HBM MB": run.hbm_bytes / 1e6,
        "FLOP/byte": run.intensity,
        "in runs >= 2 KiB %": 100 * run.trace.bytes_in_runs_of(2048),
        "SBUF %": 100 * run.sbuf_peak / run.machine.sbuf,
        "spills": run.spills,
        "padding %": 100 * padding(run.trace),
        **{f"{engine} busy ms": 1e3 * seconds[engine] for engine in ENGINES},
    }


def dry(kernel, *tensors, options: dict | None = None, **settings):
    """A dry run, or None and a line that says why there is none."""
    try:
        if options:
            settings["plan"] = kernel.plan(*tensors, target=TARGET, options=options, **settings)
        return simulate(kernel, *tensors, target=TARGET, dry=True, **settings)
    except KernelError as error:
        print(f"  {kernel.name}: {error}")
        return None


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
    results.begin(
        "tutorial",
        "The baselines of the Neuron documentation's matrix multiplication tutorial, [4096, 8192] @ [8192, 8192]",
    )
    tensors = specs((8192, 4096), (8192, 8192))
    runs = {kernel.name: dry(kernel, *tensors) for kernel in (matmul_tiled, matmul_blocked)}
    runs["matmul"] = dry(matmul, *specs((4096, 8192), (8192, 8192)))
    results.table("tutorial", [{"kernel": name, **counted(run)} for name, run in runs.items() if run])
    for name, expected in (("matmul_tiled", 4.429), ("matmul_blocked", 0.738)):
        run = runs[name]
        results.goal(f"GB of {name}", run and run.hbm_bytes / 1e9, "=", expected, within=1e-3)


def mlp_section(results: Results) -> None:
    H, I, r, M = 2048, 8192, 1280, 512  # noqa: E741
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
    for model, (H, I) in list(MODELS.items())[1:]:  # noqa: E741
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
    pairs = [("Llama-3.2-1B", 0.2), *((model, ratio) for model in list(MODELS)[1:] for ratio in (0.1, 0.2))]
    cases = [(*pair, rows) for pair in pairs for rows in (1, 16, 128)]
    table = []
    for model, ratio, M in cases:
        H, I = MODELS[model]  # noqa: E741
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


def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    """Shapes of a few hundred with ragged tails, for a kernel's tensors without biases."""
    M, K, r, N = 300, 330, 200, 650
    if name in ("matmul_tiled", "matmul_blocked"):
        return {"xT": (K, M), "w": (K, N)}
    if name == "matmul":
        return {"x": (M, K), "w": (K, N)}
    if name == "gated_matmul":
        return {"x_gate": (M, K), "gate": (K, N), "x_up": (M, r), "up": (r, N)}
    if name.startswith("low_rank"):
        return {"x": (M, K), "u": (K, r), "v": (r, N)}
    M = 100 if name == "mlp_decode" else M
    up = {"x": (M, K), "gate": (K, r), "gate_v": (r, N), "up": (K, r), "up_v": (r, N)}
    return up if name == "mlp_up" else up | {"down": (N, r), "down_v": (r, K)}


def numerics_section(results: Results, seeds: int) -> None:
    results.begin(
        "numerics", "Error against float64, beside torch in the same data type: kernels run in the simulator"
    )
    torch.set_num_threads(1)  # the order of torch's sums depends on it
    rows = []
    for name, kernel in KERNELS.items():
        for dtype in (torch.bfloat16, torch.float32):
            squares, largest = [0.0, 0.0], [0.0, 0.0]
            for seed in range(seeds):
                generator = torch.Generator().manual_seed(seed)
                tensors = {}
                for argument, shape in shapes_of(name).items():
                    data = torch.randn(*shape, generator=generator, dtype=torch.float64)
                    fan_in = 1 if argument.startswith("x") else shape[0]
                    tensors[argument] = (data / fan_in**0.5).to(dtype)
                absent = {n: None for n in kernel.tensors if n not in tensors and n.endswith("_v")}
                exact = kernel.reference(**{n: t.double() for n, t in tensors.items()}, **absent)
                ours = torch.from_numpy(simulate(kernel, **tensors, **absent).outputs[0].astype("float64"))
                theirs = kernel.reference(**tensors, **absent).double()
                for i, result in enumerate((ours, theirs)):
                    error = result - exact
                    squares[i] += error.square().sum().item()
                    largest[i] = max(largest[i], error.abs().max().item())
            rows.append(
                {
                    "kernel": name,
                    "dtype": str(dtype).removeprefix("torch."),
                    "rms error ratio": (squares[0] / squares[1]) ** 0.5,
                    "max error ratio": largest[0] / largest[1],
                    "max error": largest[0],
                    "max error of torch": largest[1],
                }
            )
    results.table("numerics", rows)
    for row in rows:
        if row["dtype"] == "bfloat16":  # float32: torch's own error depends on how many threads share a sum
            for measure in ("rms", "max"):
                what = f"{measure} error over torch's, {row['kernel']} {row['dtype']}"
                # Where a kernel rounds exactly where torch does, the order of the sums alone decides, either way.
                results.goal(what, row[f"{measure} error ratio"], "<=", 1.0, within=1e-3)


def speed_section(results: Results) -> None:
    M, (_, K, r, N) = 32768, SWEEP
    results.begin("speed", f"Seconds on this machine's CPU to plan and trace, M={M} K=H={K} r={r} N=I={N}")
    transposed = specs((K, M), (K, N))
    calls = [(kernel, low_rank(M, K, r, N)) for kernel in (low_rank_fused, low_rank_sequential, low_rank_naive)]
    calls += [(matmul, specs((M, K), (K, N))), (matmul_tiled, transposed), (matmul_blocked, transposed)]
    calls += [(gated_matmul, specs((M, r), (r, N), (M, K), (K, N)))]
    calls += [(mlp_two_kernels, mlp_tensors(M, K, N, r)), (mlp, mlp_tensors(M, *MODELS["Llama-3.2-1B"], 1280))]
    rows = []
    for kernel, tensors in calls:
        started = time.perf_counter()
        run = dry(kernel, *tensors)
        seconds = time.perf_counter() - started
        instructions = sum(times for _, times in run.trace.instructions()) if run else None
        rows.append({"kernel": kernel.name, "seconds": seconds, "instructions counted": instructions})
    results.table("speed", rows)
    results.goal("seconds of the slowest", max(row["seconds"] for row in rows), "<", 60)
    results.goal("kernels without a plan", sum(row["instructions counted"] is None for row in rows), "=", 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", "--output", type=Path, help="also write the figures to this file")
    parser.add_argument("--strict", action="store_true", help="exit with status 1 where a goal is missed")
    parser.add_argument("--seeds", type=int, default=3, help="random inputs of each kernel in the section on errors")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    results = Results()
    print(f"planned for {TARGET} ({get_machine(TARGET).core}); counted by the simulator, nothing was run on a device")
    fused_section(results)
    naive_section(results)
    tutorial_section(results)
    mlp_section(results)
    decode_section(results)
    shards_section(results)
    numerics_section(results, args.seeds)
    speed_section(results)
    results.end(args.json, target=TARGET, source="counted by the simulator", torch=torch.__version__)
    if args.strict and results.missed:
        sys.exit(1)


if __name__ == "__main__":
    main()
