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
"""The walk over the layers: statistics, factors and the report's figures of one layer after the other."""

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers.utils import logging

from .allocation import Allocation
from .calibration import CalibrationText
from .configuration import NeuronMMConfig
from .decomposition import decompose, output_error
from .modeling import factor_tensors, replace_projections
from .source import DenseCheckpoint
from .streaming import LayerStream, collect_inputs
from .workspace import Workspace


logger = logging.get_logger(__name__)


def compress_layers(
    checkpoint: DenseCheckpoint,
    allocation: Allocation,
    config: NeuronMMConfig,
    text: CalibrationText,
    workspace: Workspace,
    device: torch.device,
) -> dict:
    """Writes `layer-{i}.safetensors` (factors) and `layer-{i}.json` (report) of every layer into the workspace.

    Three sets of hidden states advance together: the calibration text and the held-out text through the dense layers,
    and the held-out text through the compressed ones. They are written after each layer; a resumed run reads them.

    Returns:
        Perplexity before and after, on the held-out text.
    """
    # Half precision is slow on many CPUs, and statistics gain from float32.
    dtype = torch.float32 if device.type == "cpu" else checkpoint.dtype
    stream = LayerStream(checkpoint, allocation.family, dtype, device)
    done = workspace.layers_done
    if done:
        stream.embed(text.held_out[:1])  # records what the layers are called with
        logger.warning(f"Resuming {workspace.output_dir} after layer {done} of {allocation.layers}.")
        states = workspace.load(f"hidden-{done}")
    else:
        states = {"calibration": stream.embed(text.windows), "held_out": stream.embed(text.held_out)}
        states["compressed"] = states["held_out"].clone()
    with tqdm(total=allocation.layers, initial=done, desc="Compressing layers", unit="layer") as progress:
        for layer in range(done, allocation.layers):
            with stream.layer(layer):
                tensors, entries = _compress_layer(checkpoint, allocation, config, stream, layer, states)
            workspace.save(f"layer-{layer}", tensors)
            workspace.write_json(f"layer-{layer}.json", entries)
            workspace.save(f"hidden-{layer + 1}", states)
            workspace.finish_layer(layer)
            workspace.remove(f"hidden-{layer}")
            progress.update()
    return {
        "before": stream.perplexity(states["held_out"], text.held_out),
        "after": stream.perplexity(states["compressed"], text.held_out),
        "windows": len(text.held_out),
        "length": text.held_out.shape[1],
        "bos": text.bos,
    }


def _compress_layer(
    checkpoint: DenseCheckpoint,
    allocation: Allocation,
    config: NeuronMMConfig,
    stream: LayerStream,
    layer: int,
    states: dict[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """Advances all hidden states through `layer`. Returns its factors as checkpoint entries, and its report."""
    mlp = stream.layers[layer].get_submodule(allocation.family.mlp)
    groups = allocation.family.input_groups(allocation.factored(layer))
    readers = {group[0]: mlp.get_submodule(group[0]) for group in groups}  # one of each that reads the same input

    held_out: dict[str, list[torch.Tensor]] = {name: [] for name in readers}
    with collect_inputs(readers, lambda name, rows: held_out[name].append(rows)):
        stream.advance(layer, states["held_out"])
    grams = {name: _Gram(linear) for name, linear in readers.items()} if config.decomposition == "whitened" else {}
    with collect_inputs({name: readers[name] for name in grams}, lambda name, rows: grams[name].add(rows)):
        stream.advance(layer, states["calibration"])

    factors: dict[str, dict[str, torch.Tensor]] = {}
    entries = {name: _entry(allocation, allocation.path(layer, name)) for name in allocation.attributes}
    for group in groups:
        gram = grams.pop(group[0]).mean() if grams else None
        inputs = torch.cat(held_out.pop(group[0])).float()
        for name in group:
            path, linear = allocation.path(layer, name), mlp.get_submodule(name)
            dtype = getattr(torch, config.dtype) if config.dtype else checkpoint.info(f"{path}.weight").dtype
            factors[path], measured = _factorise(path, linear, allocation.ranks[path], gram, inputs, dtype)
            entries[name] |= measured

    replace_projections(stream.model, {path: allocation.modules[path] for path in factors})
    for path, tensors in factors.items():
        state = {name.removeprefix(f"{path}."): tensor for name, tensor in tensors.items()}
        stream.model.get_submodule(path).load_state_dict(state)
    stream.advance(layer, states["compressed"])
    return {name: tensor for tensors in factors.values() for name, tensor in tensors.items()}, list(entries.values())


def _factorise(
    path: str, linear: nn.Linear, rank: int, gram: torch.Tensor | None, inputs: torch.Tensor, dtype: torch.dtype
) -> tuple[dict[str, torch.Tensor], dict]:
    """The checkpoint entries of one projection in `dtype`, and what the report says of them.

    Args:
        gram: of the calibration inputs (K, K), None for plain SVD.
        inputs: held-out inputs (M, K), on which the rounded factors are measured.
    """
    W = linear.weight.detach().T
    decomposition = decompose(W, gram, path)
    U, V = decomposition.factors(rank)
    bias = None if linear.bias is None else linear.bias.detach().cpu()
    measured = {
        "predicted_error": decomposition.relative_error(rank),
        "measured_error": output_error(inputs, W, U.to(dtype), V.to(dtype)),
        "ridge": decomposition.ridge,
    }
    return factor_tensors(path, U.cpu(), V.cpu(), bias, dtype), measured


def _entry(allocation: Allocation, path: str) -> dict:
    shape = allocation.shapes[path]
    return {"name": path, "shape": [shape.K, shape.N], "rank": allocation.ranks[path]}


class _Gram:
    """E[x x^T] (K, K) of the inputs of a projection: a batch's product in float32, their sum in float64."""

    def __init__(self, linear: nn.Linear):
        K = linear.in_features
        self._sum = torch.zeros(K, K, dtype=torch.float64, device=linear.weight.device)
        self._rows = 0

    def add(self, rows: torch.Tensor) -> None:
        rows = rows.float()
        self._sum += rows.T @ rows
        self._rows += len(rows)

    def mean(self) -> torch.Tensor:
        return self._sum.div_(self._rows)
