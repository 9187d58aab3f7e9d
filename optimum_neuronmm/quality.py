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
"""What compression costs on held-out text: the model with factors against the dense one."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tqdm.auto import tqdm

from .allocation import Allocation
from .analysis import Analysis
from .calibration import CalibrationText
from .modeling import factor_tensors, replace_projections
from .perplexity import perplexity_from_loss, token_divergence, token_loss
from .run import Run
from .streaming import LayerStream


def dense_hidden(run: Run) -> torch.Tensor:
    """What leaves the last layer of the dense model for the held-out windows, (n, L, H). Computed once a workspace."""

    def compute() -> torch.Tensor:
        hidden = run.stream.embed(run.text.held_out)
        for layer in tqdm(range(run.projections.layers), desc="Running the dense model", unit="layer"):
            with run.stream.layer(layer):
                run.stream.advance(layer, hidden)
        return hidden

    return run.workspace.cached("dense-held-out", compute)


def quality(
    stream: LayerStream, dense: torch.Tensor, compressed: torch.Tensor, text: CalibrationText
) -> dict[str, float]:
    """Perplexity `before` and `after`, and the `divergence` KL(dense || compressed) in nats per predicted token.

    Args:
        dense, compressed: what left the last layer for the held-out windows, (n, L, H).
    """
    windows = text.held_out.to(stream.device)
    before = after = divergence = 0.0
    both = zip(windows.split(1), stream.logits(dense, windows), stream.logits(compressed, windows), strict=True)
    for window, reference, logits in both:
        before += token_loss(reference, window)
        after += token_loss(logits, window)
        divergence += token_divergence(reference, logits)
    n, length = windows.shape
    return {
        "before": perplexity_from_loss(before, windows),
        "after": perplexity_from_loss(after, windows),
        "divergence": divergence / (n * (length - 1)),
    }


def trial(run: Run, analysis: Analysis, allocation: Allocation) -> dict[str, float]:
    """`quality` of an allocation, which nothing is written of."""
    stream = run.stream
    hidden = stream.embed(run.text.held_out)
    for layer in tqdm(range(run.projections.layers), desc="Trying ranks", unit="layer", leave=False):
        with stream.layer(layer):
            with computing_with(stream, allocation, layer_tensors(run, analysis, allocation, layer)):
                stream.advance(layer, hidden)
    return quality(stream, dense_hidden(run), hidden, run.text)


def layer_tensors(
    run: Run, analysis: Analysis, allocation: Allocation, layer: int, refined: bool = True
) -> dict[str, dict[str, torch.Tensor]]:
    """The checkpoint entries of a layer that compression changes, by module path. The layer must be loaded, for biases.

    Args:
        refined: whether entries that were refined take the place of the first ones.
    """
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    for attribute, (U, V) in analysis.factors(layer, allocation.factored(layer)).items():
        path = allocation.projections.path(layer, attribute)
        bias = run.stream.model.get_submodule(path).bias
        bias = None if bias is None else bias.detach().cpu()
        tensors[path] = factor_tensors(path, U, V, bias, U.dtype)
    if refined and run.workspace.holds(f"refined-{layer}"):
        for name, tensor in run.workspace.load(f"refined-{layer}").items():
            tensors.setdefault(run.projections.path_of(name), {})[name] = tensor
    return tensors


@contextmanager
def computing_with(
    stream: LayerStream, allocation: Allocation, tensors: dict[str, dict[str, torch.Tensor]]
) -> Iterator[None]:
    """Has a loaded layer of the stream compute with what `layer_tensors` gave, while the context is open."""
    dense = {path: stream.model.get_submodule(path) for path in tensors}
    replace_projections(
        stream.model, {path: allocation.modules[path] for path in tensors if path in allocation.modules}
    )
    try:
        for path, entries in tensors.items():
            state = {name.removeprefix(f"{path}."): tensor for name, tensor in entries.items()}
            if path not in allocation.modules:
                stream.model.set_submodule(path, copy.deepcopy(dense[path]))
            stream.model.get_submodule(path).load_state_dict(state, strict=path in allocation.modules)
        yield
    finally:
        for path, module in dense.items():
            stream.model.set_submodule(path, module)
