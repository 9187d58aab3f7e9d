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
"""Fisher-OBS pruning of the MLP's neurons: a reference from outside the family of low-rank factors.

A neuron is a row of gate and up and a column of down. With H = E[h h^T] of what enters down and B = E[g g^T] of the
gradients at its output, removing neuron j from down's weight W (N, I), and changing the other columns to make up for it as
well as they can, costs w_j^T B w_j / (2 (H^-1)_jj) of the loss (Optimal Brain Surgeon). Neurons are removed one at a time,
the least costly first.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from tqdm.auto import tqdm

from optimum_neuronmm.allocation import Projections
from optimum_neuronmm.decomposition import covariance_factor
from optimum_neuronmm.knapsack import solve
from optimum_neuronmm.run import Run
from optimum_neuronmm.statistics import SecondMoment
from optimum_neuronmm.streaming import collect_gradients, collect_inputs


_STAGE = "neurons"
_TOGETHER = 32  # neurons, after whose removal the matrices shrink


@dataclass(frozen=True)
class Pruning:
    """How many neurons each layer loses.

    Attributes:
        projections: that hold the neurons.
        removed_neurons: of each layer.
    """

    projections: Projections
    removed_neurons: list[int]

    @property
    def removed(self) -> float:
        """The share of the parameters of the projections that goes with them."""
        return sum(self.removed_neurons) / (self.projections.layers * neurons(self.projections))

    @property
    def untouched(self) -> int:
        """Projections of layers that lose no neuron."""
        return sum(count == 0 for count in self.removed_neurons) * len(self.projections.attributes)


def measure_neurons(run: Run) -> None:
    """Writes `neurons-{i}` of every layer into the workspace: H, the order in which neurons go, and what is lost by then."""
    stream, workspace, layers = run.stream, run.workspace, run.projections.layers
    if workspace.done(_STAGE):
        return
    hidden = stream.embed(run.text.windows)
    for layer in tqdm(range(layers), desc="Measuring neurons", unit="layer"):
        workspace.save(f"entering-{layer}", {"hidden": hidden[run.with_gradients]})
        with stream.layer(layer):
            path = _down(run.projections, layer)
            linear = stream.model.get_submodule(path)
            moment = SecondMoment(linear.in_features, linear.weight.device)
            with collect_inputs({path: linear}, lambda _, rows, moment=moment: moment.add(rows)):
                stream.advance(layer, hidden)
        workspace.save(f"inputs-{layer}", {"inputs": moment.mean().cpu()})
    rows = run.with_gradients
    gradients = stream.loss_gradients(hidden[rows], run.text.windows[rows], run.seed)
    for layer in tqdm(reversed(range(layers)), desc="Ordering neurons", unit="layer", total=layers):
        inputs = workspace.load(f"inputs-{layer}")["inputs"]
        with stream.layer(layer):
            path = _down(run.projections, layer)
            linear = stream.model.get_submodule(path)
            moment = SecondMoment(linear.out_features, linear.weight.device)
            with collect_gradients({path: linear}, lambda _, inputs, rows, moment=moment: moment.add(rows)):
                stream.retreat(layer, workspace.load(f"entering-{layer}")["hidden"], gradients)
            order, losses = _removal(linear.weight.detach().double().cpu(), inputs, moment.mean().cpu())
        workspace.save(f"neurons-{layer}", {"inputs": inputs, "order": order, "losses": losses})
        workspace.remove(f"entering-{layer}")
        workspace.remove(f"inputs-{layer}")
    workspace.finish(_STAGE, 1)


def prune_evenly(run: Run, ratio: float) -> Pruning:
    """The same share of neurons in each layer, at least `ratio`."""
    count = ceil(neurons(run.projections) * ratio - 1e-9)
    return Pruning(run.projections, [count] * run.projections.layers)


def prune_by_loss(run: Run, ratio: float, block_size: int) -> Pruning:
    """The numbers of neurons, multiples of `block_size`, of the least predicted loss."""
    total = neurons(run.projections)
    counts = np.arange(0, total, block_size)
    curves = [run.workspace.load(f"neurons-{i}")["losses"].numpy()[counts] for i in range(run.projections.layers)]
    kept = (total - counts).astype(float)
    chosen = solve([kept] * len(curves), curves, (1 - ratio) * total * len(curves))
    return Pruning(run.projections, [int(counts[i]) for i in chosen])


def pruned_weights(run: Run, pruning: Pruning, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Down's weight in every layer, by module path: zero for the neurons that went, least squares for the others.

    Nothing then reads a neuron that went, so its rows of gate and up can stay in a model that is only evaluated.
    """
    weights = {}
    for layer, count in enumerate(pruning.removed_neurons):
        stored, path = run.workspace.load(f"neurons-{layer}"), _down(run.projections, layer)
        weight = model.get_submodule(path).weight.detach()
        kept = stored["order"][count:].sort().values
        factor, _ = covariance_factor(stored["inputs"][kept][:, kept])
        rest = stored["inputs"][kept] @ weight.double().T  # H_kept,: W^T
        weights[path] = torch.zeros_like(weight)
        weights[path][:, kept] = torch.cholesky_solve(rest, factor).T.to(weight)
    return weights


def neurons(projections: Projections) -> int:
    """Of each layer."""
    return projections.shapes[_down(projections, 0)].K


def _down(projections: Projections, layer: int) -> str:
    return projections.path(layer, projections.family.down)


def _removal(weight: torch.Tensor, inputs: torch.Tensor, gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The order in which neurons go (I,), and the predicted loss after each number of them (I + 1,).

    Args:
        weight: W (N, I), like the others float64.
        inputs: H (I, I).
        gradients: B (N, N).
    """
    L, _ = covariance_factor(gradients, 1e-3)
    S, _ = covariance_factor(inputs)
    inverse, A = torch.cholesky_inverse(S), L.T @ weight
    left, order, losses = torch.arange(len(inputs)), [], [0.0]
    while len(left):
        gone = torch.zeros(len(left), dtype=torch.bool)
        for _ in range(min(_TOGETHER, len(left))):
            costs = A.square().sum(0) / (2 * inverse.diagonal())
            costs[gone] = torch.inf
            j = int(costs.argmin())
            gone[j] = True
            order.append(int(left[j]))
            losses.append(losses[-1] + costs[j].item())
            row = inverse[j] / inverse[j, j]
            A -= torch.outer(A[:, j], row)
            inverse -= torch.outer(inverse[j].clone(), row)
            inverse.diagonal()[gone] = 1.0  # left out of the costs above; kept off zero
        left, A, inverse = left[~gone], A[:, ~gone], inverse[~gone][:, ~gone]
    return torch.tensor(order), torch.tensor(losses, dtype=torch.float64)
