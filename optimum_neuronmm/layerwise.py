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
"""The walk over the layers that puts the factors in, and measures on held-out text what each costs."""

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers.utils import logging

from .allocation import Allocation
from .analysis import Analysis
from .decomposition import output_error
from .quality import computing_with, layer_tensors, quality
from .run import Run
from .statistics import SecondOrderLoss
from .streaming import collect_gradients, collect_inputs


logger = logging.get_logger(__name__)

_FORWARD, _BACKWARD = "layers", "losses"


def compress_layers(run: Run, analysis: Analysis, allocation: Allocation) -> dict:
    """Writes `layer-{i}.safetensors` (factors) and `layer-{i}.json` (figures) of every layer into the workspace.

    Two sets of hidden states of the held-out text advance together: through the dense layers, and through the
    compressed ones. They are written after each layer; a resumed run reads them. Where the decomposition predicts the
    model's loss, a walk back measures what each projection adds to it.

    Returns:
        Perplexity before and after and the divergence between the two, on the held-out text.
    """
    states = _walk_forward(run, analysis, allocation)
    if run.config.decomposition == "two_sided":
        _walk_backward(run, analysis, allocation, states["dense"])
    windows = run.text.held_out
    figures = quality(run.stream, states["dense"], states["compressed"], run.text)
    return {**figures, "windows": len(windows), "length": windows.shape[1], "bos": run.text.bos}


def _walk_forward(run: Run, analysis: Analysis, allocation: Allocation) -> dict[str, torch.Tensor]:
    """Returns the hidden states that leave the last layer, `dense` and `compressed`."""
    stream, workspace, layers = run.stream, run.workspace, run.projections.layers
    done = workspace.done(_FORWARD)
    if done:
        logger.warning(f"Resuming {workspace.output_dir} after layer {done} of {layers}.")
        states = workspace.load(f"held-out-{done}")
    else:
        states = {"dense": stream.embed(run.text.held_out)}
        states["compressed"] = states["dense"].clone()
    with tqdm(total=layers, initial=done, desc="Compressing layers", unit="layer") as progress:
        for layer in range(done, layers):
            if run.config.decomposition == "two_sided":
                workspace.save(f"held-out-entering-{layer}", {"hidden": states["dense"]})
            with stream.layer(layer):
                tensors, entries = _compress_layer(run, analysis, allocation, layer, states)
            workspace.save(f"layer-{layer}", tensors)
            workspace.write_json(f"layer-{layer}.json", entries)
            workspace.save(f"held-out-{layer + 1}", states)
            workspace.finish(_FORWARD, layer + 1)
            workspace.remove(f"held-out-{layer}")
            progress.update()
    return states


def _compress_layer(
    run: Run, analysis: Analysis, allocation: Allocation, layer: int, states: dict[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """Advances all hidden states through `layer`. Returns its factors as checkpoint entries, and its figures."""
    stream, projections, ranks = run.stream, run.projections, allocation.factored(layer)
    linears = {name: stream.model.get_submodule(projections.path(layer, name)) for name in ranks}
    groups = projections.family.input_groups(linears)
    readers = {group[0]: linears[group[0]] for group in groups}  # one of each that reads the same input
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in readers}
    with collect_inputs(readers, lambda name, batch: rows[name].append(batch)):
        stream.advance(layer, states["dense"])

    tensors = layer_tensors(run, analysis, allocation, layer)
    entries = {name: _entry(run, allocation, layer, name) for name in projections.attributes}
    for group in groups:
        inputs = torch.cat(rows.pop(group[0])).float()
        for name in group:
            path = projections.path(layer, name)
            if run.is_refined(layer, path):
                continue
            U, V = (factor.to(inputs.device) for factor in _factors(tensors[path], path))
            error = output_error(inputs, linears[name].weight.detach().T, U, V)
            entries[name] |= {**analysis.predictions(path, ranks[name]), "measured_error": error}
    with computing_with(stream, allocation, tensors):
        stream.advance(layer, states["compressed"])
    return {name: tensor for entry in tensors.values() for name, tensor in entry.items()}, list(entries.values())


def _walk_backward(run: Run, analysis: Analysis, allocation: Allocation, hidden: torch.Tensor) -> None:
    """Adds `measured_loss` to the figures of every factored projection.

    It is `SecondOrderLoss` on held-out text, with the factors as they are stored.

    Args:
        hidden: (n, L, H) that leave the last layer of the dense model.
    """
    stream, workspace, layers = run.stream, run.workspace, run.projections.layers
    done = workspace.done(_BACKWARD)
    if done:
        gradients = workspace.load(f"held-out-gradients-{layers - done}")["gradients"]
    else:
        gradients = stream.loss_gradients(
            hidden, run.text.held_out, run.seed + 2
        )  # other labels than the analysis drew
    with tqdm(total=layers, initial=done, desc="Measuring losses", unit="layer") as progress:
        for layer in reversed(range(layers - done)):
            entering = workspace.load(f"held-out-entering-{layer}")["hidden"]
            with stream.layer(layer):
                losses = _measured_losses(run, allocation, layer, entering, gradients)
            entries = workspace.read_json(f"layer-{layer}.json")
            for entry in entries:
                if entry["name"] in losses:
                    entry["measured_loss"] = losses[entry["name"]]
            workspace.write_json(f"layer-{layer}.json", entries)
            workspace.save(f"held-out-gradients-{layer}", {"gradients": gradients})
            workspace.finish(_BACKWARD, layers - layer)
            workspace.remove(f"held-out-gradients-{layer + 1}")
            workspace.remove(f"held-out-entering-{layer}")
            progress.update()


def _measured_losses(
    run: Run, allocation: Allocation, layer: int, entering: torch.Tensor, gradients: torch.Tensor
) -> dict[str, float]:
    """The measured loss of a layer's factored projections, by module path. Carries `gradients` back, in place."""
    paths = [run.projections.path(layer, name) for name in allocation.factored(layer)]
    paths = [path for path in paths if not run.is_refined(layer, path)]
    linears: dict[str, nn.Linear] = {path: run.stream.model.get_submodule(path) for path in paths}
    stored = run.workspace.load(f"layer-{layer}") if paths else {}
    losses = {path: SecondOrderLoss(linear, *_factors(stored, path)) for path, linear in linears.items()}
    with collect_gradients(linears, lambda path, *rows: losses[path].add(*rows)):
        run.stream.retreat(layer, entering, gradients)
    return {path: loss.mean() for path, loss in losses.items()}


def _factors(tensors: dict[str, torch.Tensor], path: str) -> tuple[torch.Tensor, torch.Tensor]:
    """U (K, r) and V (r, N) of a projection from its checkpoint entries."""
    return tuple(tensors[f"{path}.{name}.weight"].T for name in ("u", "v"))


def _entry(run: Run, allocation: Allocation, layer: int, attribute: str) -> dict:
    path = run.projections.path(layer, attribute)
    shape = run.projections.shapes[path]
    entry = {"name": path, "shape": [shape.K, shape.N], "rank": allocation.ranks[path]}
    # A refined projection differs from the dense one on purpose, so that errors and losses say nothing.
    return {**entry, "refined": True} if run.is_refined(layer, path) else entry
