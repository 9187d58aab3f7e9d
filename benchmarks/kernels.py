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
import sys
import time
from pathlib import Path

import torch

from optimum_neuronmm.kernels import (
    KERNELS,
    gated_matmul,
    get_machine,
    low_rank_fused,
    low_rank_naive,
    low_rank_sequential,
    matmul,
    matmul_blocked,
    matmul_tiled,
    mlp,
    mlp_two_kernels,
    simulate,
)


if not __package__:  # run as a file
    sys.path[0], __package__ = str(Path(__file__).resolve().parent.parent), "benchmarks"
from .kernel_shapes import JUDGED, MODELS, RATIO, SWEEP, low_rank, mlp_tensors, rank, specs
from .kernels_counts import TARGET, dry
from .kernels_mlp import decode_section, mlp_section, shards_section
from .kernels_products import fused_section, naive_section, tutorial_section
from .results import Results


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
    calls += [
        (mlp_two_kernels, mlp_tensors(M, K, N, r)),
        (mlp, mlp_tensors(M, *MODELS[JUDGED], rank(*MODELS[JUDGED], RATIO))),
    ]
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
