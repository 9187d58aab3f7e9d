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
"""Predicted seconds as the cost of ranks. No model is needed, and nothing is measured: everything is predicted.

1. How well costs of projections add up: whole MLPs as predicted, beside the sum of the shares that the allocation counts
   (`optimum_neuronmm.latency_cost`), and of the projections predicted as kernels of their own.
2. `target_speedup` on made-up spectra of all layers: what it reaches and takes, and its predicted loss beside that of ranks
   chosen by parameters that are predicted to be as fast.

python benchmarks/allocation_latency.py [--instance_type trn1] [--json FILE]
"""

import argparse
import json
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch

from optimum_neuronmm.allocation import Allocation, Projections, allocate_within, predicted_loss
from optimum_neuronmm.families import FAMILIES
from optimum_neuronmm.kernels import MACHINES, Spec, low_rank_fused, matmul
from optimum_neuronmm.kernels.latency import predict
from optimum_neuronmm.latency_cost import MLPLatency, Ranks, Request
from optimum_neuronmm.neuron.form import Form
from optimum_neuronmm.ranks import DENSE, Shape, parameter_cost
from optimum_neuronmm.speedup import SpeedupSearch


# Hidden and intermediate size, layers, block, and ranks to look at.
MODELS = {
    "Llama-3.2-1B": (2048, 8192, 16, 128, (512, 1024, 1280)),
    "SmolLM2-135M": (576, 1536, 30, 32, (96, 192, 320)),
}
ROWS = (1, 128, 512, 1024)
REQUESTS = {"prefill": (1024, 0), "decode": (0, 128), "both": (1024, 128)}
TARGETS = (1.1, 1.2, 1.5)
_BISECTIONS = 14


def mixtures(ranks: tuple[int, ...]) -> list[Ranks]:
    """Equal ranks, and mixtures of dense and factored projections."""
    low, middle, high = ranks
    equal = [Ranks(rank, rank, rank) for rank in ranks]
    return [*equal, Ranks(low, DENSE, high), Ranks(high, low, DENSE), Ranks(DENSE, DENSE, middle), Ranks(low, low)]


def alone(shape: Shape, rank: int | None, rows: int, instance_type: str) -> float:
    """Predicted seconds of a projection as a kernel of its own."""
    K, N = shape.K, shape.N
    where = {"target": instance_type, "cores": MACHINES[instance_type].lnc}
    if rank is DENSE:
        return predict(matmul, Spec((rows, K)), Spec((K, N)), **where).seconds
    return predict(low_rank_fused, Spec((rows, K)), Spec((K, rank)), Spec((rank, N)), **where).seconds


def residual_rows(instance_type: str) -> list[dict]:
    """How far the sums of costs are from the predicted whole."""
    found = []
    for (name, (H, I, _, _, ranks)), rows in product(MODELS.items(), ROWS):  # noqa: E741
        shapes = (Shape(H, I), Shape(H, I), Shape(I, H))
        latency = MLPLatency(Form(H, I, *Ranks()), Request(instance_type, rows, 0))
        for chosen in [Ranks(), *mixtures(ranks)]:
            whole = latency.fastest(chosen, "prefill")
            shares = sum(map(latency.cost, shapes, chosen))
            single = sum(alone(shape, rank, rows, instance_type) for shape, rank in zip(shapes, chosen, strict=True))
            found.append(
                {
                    "model": name,
                    "rows": rows,
                    "ranks": list(chosen),
                    "kernel": whole.kernel,
                    "predicted_milliseconds": 1e3 * whole.seconds,
                    "shares": shares / whole.seconds - 1,
                    "alone": single / whole.seconds - 1,
                    "notes": list(whole.notes),
                }
            )
    return found


def made_up(H: int, I: int, layers: int, seed: int = 0) -> tuple[Projections, dict[str, torch.Tensor]]:  # noqa: E741
    """Projections of a model and losses of every rank, of spectra that fall as powers; scale and power differ."""
    rng = np.random.default_rng(seed)
    family = FAMILIES["llama"]
    projections = Projections(family, layers, list(family.projections), {})
    losses = {}
    for layer, attribute in product(range(layers), family.projections):
        path = projections.path(layer, attribute)
        projections.shapes[path] = Shape(I, H) if attribute == "down_proj" else Shape(H, I)
        spectrum = rng.lognormal(0, 1.5) * np.arange(1, min(H, I) + 1.0) ** -rng.uniform(0.6, 1.6)
        losses[path] = torch.from_numpy(np.append(np.cumsum(spectrum[::-1])[::-1], 0.0))
    return projections, losses


def by_parameters(
    search: SpeedupSearch, projections: Projections, losses: dict, block: int, limit: float
) -> Allocation:
    """Ranks chosen by parameters: the most that are predicted to take `limit` seconds at most."""
    dense = sum(shape.dense_parameters for shape in projections.shapes.values())
    least = sum(shape.parameters(block) for shape in projections.shapes.values()) / dense  # one block in each
    low, high, best = least, 1.0, None
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        found = allocate_within(projections, losses, block, parameter_cost, middle * dense)
        if search.seconds(found) <= limit:
            low, best = middle, found
        else:
            high = middle
    return best


def speedup_rows(instance_type: str) -> list[dict]:
    found = []
    for (name, (H, I, layers, block, _)), (wanted, lengths) in product(MODELS.items(), REQUESTS.items()):  # noqa: E741
        projections, losses = made_up(H, I, layers)
        latency = MLPLatency(Form(H, I, *Ranks()), Request(instance_type, *lengths))
        for target in TARGETS:
            started = time.perf_counter()
            search = SpeedupSearch(projections, block, target, latency)
            allocation = search.allocate(losses)
            seconds = time.perf_counter() - started
            report = search.report(allocation)
            limit = layers * latency.seconds(Ranks()) / report["predicted"]
            other = by_parameters(search, projections, losses, block, limit)
            loss = predicted_loss(allocation, losses)
            found.append(
                {
                    "model": name,
                    "request": wanted,
                    "target": target,
                    "predicted": report["predicted"],
                    "removed": allocation.removed,
                    "dense": sum(rank is DENSE for rank in allocation.ranks.values()),
                    "seconds": seconds,
                    "loss_to_by_parameters": loss / predicted_loss(other, losses) if other else None,
                    "removed_by_parameters": other.removed if other else None,
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instance_type", choices=sorted(MACHINES), default="trn1")
    parser.add_argument("--json", type=Path, help="Write the rows to this file.")
    args = parser.parse_args()
    print(f"Predicted for one logical core of {args.instance_type}, bfloat16; nothing is measured.\n")
    print(
        f"{'model':<14}{'rows':>5}{'ranks of gate, up, down':>26}{'kernel':>34}{'MLP ms':>9}{'shares':>9}{'alone':>9}"
    )
    residuals = residual_rows(args.instance_type)
    for row in residuals:
        ranks = ", ".join("dense" if rank is DENSE else str(rank) for rank in row["ranks"])
        print(
            f"{row['model']:<14}{row['rows']:>5}{ranks:>26}{row['kernel']:>34}{row['predicted_milliseconds']:>9.4f}"
            f"{row['shares']:>9.1%}{row['alone']:>9.1%}"
        )
    for kind in ("shares", "alone"):
        sizes = [abs(row[kind]) for row in residuals]
        print(f"{kind}: mean {np.mean(sizes):.1%}, largest {max(sizes):.1%} off the whole MLP")
    print(
        f"\n{'model':<14}{'request':>9}{'target':>8}{'predicted':>11}{'removed':>9}{'dense':>7}{'seconds':>9}"
        f"{'loss to ranks by parameters':>29}{'they remove':>13}"
    )
    speedups = speedup_rows(args.instance_type)
    for row in speedups:
        loss, removed = row["loss_to_by_parameters"], row["removed_by_parameters"]
        print(
            f"{row['model']:<14}{row['request']:>9}{row['target']:>8}{row['predicted']:>11.4f}{row['removed']:>9.2%}"
            f"{row['dense']:>7}{row['seconds']:>9.1f}"
            + (f"{'none as fast':>29}" if loss is None else f"{loss:>29.4f}{removed:>13.2%}")
        )
    for note in dict.fromkeys(note for row in residuals for note in row["notes"]):
        print(f"note: {note}")
    if args.json:
        table = {"instance_type": args.instance_type, "residuals": residuals, "speedups": speedups}
        args.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
