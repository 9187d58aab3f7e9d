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
"""Time to choose the ranks of a model of 80 layers by the exact knapsack, and its predicted loss beside that of equal ranks
and of a greedy choice within the same budget. Made-up spectra, no model needed.

python benchmarks/allocation.py [--json FILE]
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from optimum_neuronmm.kernels import get_machine
from optimum_neuronmm.knapsack import solve
from optimum_neuronmm.ranks import DENSE, Shape, parameter_cost, rank_options


# Llama-3.1-70B: gate, up and down of each layer.
SHAPES = [Shape(8192, 28672), Shape(8192, 28672), Shape(28672, 8192)] * 80
BLOCKS = (128, 32)
RATIOS = (0.05, 0.1, 0.2, 0.3, 0.5)
START_SECONDS = 1e-6  # of one matrix product, beside the time to read its weights


def microseconds(shape: Shape, rank: int | None) -> float:
    """A cost that is on no grid: to read the weights of one projection in bfloat16 on trn1, and a start per matrix."""
    matrices = 1 if rank is DENSE else 2
    seconds = shape.parameters(rank) * 2 / get_machine("trn1").bandwidth + matrices * START_SECONDS
    return 1e6 * seconds * (1 + 0.01 * (shape.K > shape.N))


COSTS = {"parameters": parameter_cost, "microseconds": microseconds}


def spectra(alike: bool, seed: int = 0) -> list[np.ndarray]:
    """Squared singular values that fall by a power and then exponentially; scale and decay differ unless `alike`."""
    rng = np.random.default_rng(seed)
    found = []
    for shape in SHAPES:
        power, reach, scale = (
            (0.9, 6000, 1) if alike else (rng.uniform(0.6, 1.6), rng.uniform(2500, 9000), rng.lognormal(0, 1.5))
        )
        index = np.arange(1, min(shape.K, shape.N) + 1)
        found.append(scale * index**-power * np.exp(-index / reach))
    return found


def losses_of(spectrum: np.ndarray, ranks: list[int | None]) -> np.ndarray:
    """Half the sum of the squared singular values that each rank leaves out; 0 for DENSE, the last."""
    left_out = np.append(np.cumsum(spectrum[::-1])[::-1], 0)
    return np.append(left_out[ranks[:-1]] / 2, 0)


def equal_ranks(costs: list[np.ndarray], budget: float) -> list[int]:
    """The largest number of blocks that all projections can have within the budget."""
    affordable = [sum(cost[blocks] for cost in costs) <= budget for blocks in range(len(costs[0]))]
    return [int(np.flatnonzero(affordable)[-1])] * len(costs)


def greedy(costs: list[np.ndarray], losses: list[np.ndarray], budget: float) -> list[int]:
    """From the smallest ranks on, the next block, or dense, where it saves most loss per cost, as long as one fits."""
    choice = [0] * len(costs)
    left = budget - sum(cost[0] for cost in costs)
    steps = [np.diff(cost) for cost in costs]  # the last may be negative: dense for less time than the largest rank
    gains = [-np.diff(loss) / np.maximum(step, 1e-9) for loss, step in zip(losses, steps, strict=True)]
    gain = np.array([item[0] for item in gains])
    while gain.max() > 0:
        i = int(gain.argmax())
        step = steps[i][choice[i]]
        if step > left:
            gain[i] = 0  # too dear, but others may fit
            continue
        left -= step
        choice[i] += 1
        gain[i] = gains[i][choice[i]] if choice[i] < len(gains[i]) else 0
    return choice


def rows() -> list[dict]:
    """One row for each kind of spectra, block size, cost and ratio."""
    found = []
    for alike in (False, True):
        spectrum = spectra(alike)
        for block_size in BLOCKS:
            options = [rank_options(shape, block_size) for shape in SHAPES]
            losses = [losses_of(values, ranks) for values, ranks in zip(spectrum, options, strict=True)]
            for name, cost in COSTS.items():
                costs = [
                    np.array([cost(shape, rank) for rank in ranks], float)
                    for shape, ranks in zip(SHAPES, options, strict=True)
                ]
                for ratio in RATIOS:
                    budget = (1 - ratio) * sum(values[-1] for values in costs)
                    started = time.perf_counter()
                    choice = solve(costs, losses, budget)
                    seconds = time.perf_counter() - started
                    loss = _total(losses, choice)
                    found.append(
                        {
                            "spectra": "alike" if alike else "different",
                            "block_size": block_size,
                            "cost": name,
                            "ratio": ratio,
                            "seconds": seconds,
                            "dense": sum(ranks[i] is DENSE for ranks, i in zip(options, choice, strict=True)),
                            "spent": _total(costs, choice) / budget,
                            "loss": loss,
                            "loss_to_equal_ranks": loss / _total(losses, equal_ranks(costs, budget)),
                            "loss_to_greedy": loss / _total(losses, greedy(costs, losses, budget)),
                        }
                    )
    return found


def _total(values: list[np.ndarray], choice: list[int]) -> float:
    return float(sum(item[i] for item, i in zip(values, choice, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="Write the rows to this file.")
    args = parser.parse_args()
    print(f"{len(SHAPES)} projections, K and N of 8192 and 28672\n")
    print(
        f"{'spectra':<11}{'block':>5}{'cost':>14}{'ratio':>7}{'seconds':>9}{'dense':>7}{'spent':>11}"
        f"{'loss: to equal ranks':>22}{'to greedy':>11}"
    )
    table = rows()
    for row in table:
        print(
            f"{row['spectra']:<11}{row['block_size']:>5}{row['cost']:>14}{row['ratio']:>7}{row['seconds']:>9.2f}"
            f"{row['dense']:>7}{row['spent']:>11.5%}{row['loss_to_equal_ranks']:>22.4f}{row['loss_to_greedy']:>11.4f}"
        )
    if args.json:
        args.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
