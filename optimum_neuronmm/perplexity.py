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
"""Token perplexity over fixed windows: the number that the report and the recipes give."""

import math

import torch

from .errors import NeuronMMError, NotFiniteError


def token_loss(logits: torch.Tensor, tokens: torch.Tensor) -> float:
    """Summed negative log-likelihood, in nats, of every token but the first of each window.

    Args:
        logits: (n, L, vocabulary) for `tokens`, any floating dtype; reduced in float32.
        tokens: (n, L) integers.
    """
    predicted = logits[:, :-1].float().flatten(0, 1)
    return torch.nn.functional.cross_entropy(predicted, tokens[:, 1:].flatten(), reduction="sum").item()


def token_divergence(reference: torch.Tensor, logits: torch.Tensor) -> float:
    """Summed KL(reference || logits), in nats, of the predictions that `token_loss` counts.

    Args:
        reference, logits: (n, L, vocabulary), any floating dtype; reduced in float32.
    """
    p, q = (scores[:, :-1].float().log_softmax(-1).flatten(0, 1) for scores in (reference, logits))
    return torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True).item()


def perplexity_from_loss(total_loss: float, windows: torch.Tensor) -> float:
    """exp of the mean loss per predicted token of `windows` (n, L).

    Raises:
        NeuronMMError: where the loss is not finite. Windows are never left out of the mean.
    """
    n, length = windows.shape
    if not math.isfinite(total_loss):
        raise NotFiniteError(
            "The loss is not finite, so the model has no perplexity. Its activations overflow: use float32 or bfloat16."
        )
    mean = total_loss / (n * (length - 1))
    return math.exp(mean) if mean < 700 else math.inf


@torch.no_grad()
def perplexity(model, windows: torch.Tensor, batch_size: int = 1) -> float:
    """Token perplexity of a causal language model.

    Every window is scored on its own, without context from the one before: exp of the mean over all windows of the
    loss of tokens 2 to L. This is the number of the SVD papers (they take L = 2048).

    Args:
        model: a transformers causal LM.
        windows: (n, L) token ids with L >= 2.
        batch_size: windows in one forward pass.
    """
    if windows.ndim != 2 or windows.shape[0] < 1 or windows.shape[1] < 2:
        raise NeuronMMError(f"windows must be (n, L) with n >= 1 and L >= 2, got {tuple(windows.shape)}.")
    total = 0.0
    for batch in windows.split(batch_size):
        batch = batch.to(model.device)
        total += token_loss(model(input_ids=batch, use_cache=False).logits, batch)
    return perplexity_from_loss(total, windows)
