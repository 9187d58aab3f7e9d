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
"""What the metrics over windows share: texts are cut, run through a model, and sums put together to one mean."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from optimum_neuronmm.calibration import check_vocabulary
from optimum_neuronmm.errors import NeuronMMError, NotFiniteError

from ..scoring.encoding import windows


BOS = ("first", "none", "every")


@dataclass(frozen=True)
class TokenMean:
    """A mean over all tokens of some windows.

    Attributes:
        mean: in nats a token.
        stderr: standard error of the mean from how it varies between windows; None with one window.
        tokens, windows: how many there are.
    """

    mean: float
    stderr: float | None
    tokens: int
    windows: int


def token_mean(sums: Sequence[float], counts: Sequence[int], name: str) -> TokenMean:
    """Mean of a quantity per token over windows, each of which counts as much as it has tokens.

    The windows are taken as independent draws. With windows of one size the standard error is the sample standard
    deviation of the means of the windows, divided by the root of their number; else it is that of a ratio of two sums.

    Args:
        sums: the quantity summed over the tokens of each window, nats.
        counts: tokens of each window.
        name: of the quantity, for errors.

    Raises:
        NotFiniteError: for a sum that is not finite. A window is never left out.
        NeuronMMError: for a count below 1.
    """
    for window, (value, count) in enumerate(zip(sums, counts, strict=True)):
        if value is None or not math.isfinite(value):
            raise NotFiniteError(
                f"The {name} of window {window} is not finite ({value}), so there is no mean. The model's activations "
                "overflow: use float32 or bfloat16."
            )
        if count is None or count < 1:
            raise NeuronMMError(f"A window needs at least one scored token; window {window} has {count}.")
    sums, counts = np.asarray(sums, np.float64), np.asarray(counts, np.int64)
    n, tokens = len(sums), int(counts.sum())
    mean = float(sums.sum() / tokens)
    residuals = sums - mean * counts
    stderr = math.sqrt(n / (n - 1) * float(residuals @ residuals)) / tokens if n > 1 else None
    return TokenMean(mean, stderr, tokens, n)


def cut(
    texts: Sequence[str],
    tokenizer,
    *,
    window: int = 2048,
    max_windows: int | None = None,
    joiner: str = "\n\n",
    bos: str = "first",
) -> torch.Tensor:
    """Windows (n, window) of token ids of the joined texts, one after the other. What is left at the end is dropped.

    Args:
        texts: joined by `joiner` and tokenised as one.
        window: tokens of a window, at least 2.
        max_windows: take the first ones only.
        bos: as `encoding.windows` has it.

    Raises:
        NeuronMMError: for a text shorter than a window, or settings that cannot be.
    """
    if window < 2 or (max_windows is not None and max_windows < 1) or bos not in BOS:
        raise NeuronMMError(
            f"Expected window >= 2, max_windows >= 1 or None, and bos one of {', '.join(BOS)}; got window={window}, "
            f"max_windows={max_windows}, bos={bos!r}."
        )
    return windows(joiner.join(texts), tokenizer, window, max_windows, bos, "predictions")


@torch.no_grad()
def window_logits(model, tokens: torch.Tensor, batch_size: int = 1) -> Iterator[torch.Tensor]:
    """Logits (1, L, vocabulary) of each of n windows, on the model's device. Each is run on its own.

    Args:
        model: a transformers causal LM in evaluation mode.
        tokens: (n, L) ids.
        batch_size: windows in one forward pass.

    Raises:
        NeuronMMError: for a model in training mode, or windows that it cannot take.
    """
    if model.training:
        raise NeuronMMError("The model is in training mode, where dropout would change the result: call model.eval().")
    if batch_size < 1:
        raise NeuronMMError(f"batch_size must be at least 1, got {batch_size}.")
    config = model.config.get_text_config()
    check_vocabulary(tokens.max().item(), config.vocab_size)
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and tokens.shape[1] > longest:
        raise NeuronMMError(
            f"The model was made for {longest} positions, and a window has {tokens.shape[1]} tokens. Use a smaller window."
        )
    for batch in tokens.split(batch_size):
        yield from model(input_ids=batch.to(model.device), use_cache=False).logits.split(1)
