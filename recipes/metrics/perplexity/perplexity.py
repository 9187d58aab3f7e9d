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
"""Token perplexity over fixed windows, as a metric of `evaluate`."""

import math

import evaluate

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.perplexity import token_loss
from optimum_neuronmm.recipes.metrics.pairs import check_pairs, references_of_texts, texts_or_windows
from optimum_neuronmm.recipes.metrics.window_metrics import cut, token_mean, window_logits


_DESCRIPTION = """\
Perplexity of a causal language model per token: the exponential of the negative log-likelihood summed over all scored
tokens of all windows, divided by their number. Windows do not overlap and are scored each on its own, from the second
token on. This is the number of the papers on compression by SVD. It differs from the mean of the perplexities of
separate texts, and from perplexity per word or byte. Values compare only for one tokenizer, one text and one protocol.
"""

_CITATION = """\
The measure is from F. Jelinek, R. L. Mercer, L. R. Bahl and J. K. Baker, "Perplexity, a measure of the difficulty of
speech recognition tasks", 1977. The protocol (texts joined, cut into windows of 2048 tokens) is the one that GPTQ
(arXiv 2210.17323) made common, and that SVD-LLM (arXiv 2403.07378) uses.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: either one number a window, its summed negative log-likelihood in nats (n floats, >= 0);
        or texts (strings), which `model` scores.
    references: with numbers, the scored tokens of each window (n integers >= 1: a window of L tokens has L - 1). With
        texts, none.
    model: with texts, a transformers causal LM in memory, in evaluation mode.
    tokenizer: with texts, that of the model.
    window: tokens of a window. Default 2048.
    max_windows: score only the first ones. Default all.
    joiner: stands between two texts, which are tokenised as one. Default a blank line.
    bos: "first" (default): one BOS token before the whole text where the tokenizer adds it; "none"; "every": one at
        the start of each window, in place of its last token of text.
    batch_size: windows in one forward pass. Default 1. It changes the result by rounding only.

Returns:
    perplexity: exp(mean_loss); infinite where that is too large for a float.
    mean_loss: nats a token.
    stderr: standard error of the perplexity, perplexity times the standard error of mean_loss, from how the loss varies
        between windows. None with one window or an infinite perplexity.
    tokens: scored tokens.
    windows: windows.

Raises:
    NotFiniteError: for a loss that is not finite. No window is ever left out.
    NeuronMMError: for no windows, a text shorter than one, lengths that differ, a count below 1, a negative loss.

Examples:
    >>> perplexity = evaluate.load("recipes/metrics/perplexity")
    >>> perplexity.compute(predictions=[1533.0, 1470.2], references=[511, 511])["tokens"]
    1022
    >>> perplexity.compute(predictions=texts, model=model, tokenizer=tokenizer, window=512)  # doctest: +SKIP
"""


_ROUNDING = 1e-6  # nats: what float32 leaves of a loss of 0


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Perplexity(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=texts_or_windows(),
            reference_urls=["https://arxiv.org/abs/2210.17323", "https://arxiv.org/abs/2403.07378"],
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Adds windows, or texts, which have no references."""
        references = references_of_texts(predictions, references)
        check_pairs(predictions, references, ("losses of windows", "their scored tokens"))
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def _compute(self, predictions, references, model=None, tokenizer=None, batch_size=1, **cut_options):
        if isinstance(predictions[0], str):
            predictions, references = _score(predictions, references, model, tokenizer, batch_size, cut_options)
        elif model is not None or tokenizer is not None or cut_options:
            raise NeuronMMError("A model, a tokenizer and their options go with texts; predictions are numbers.")
        loss = token_mean(predictions, references, "loss")
        negative = next((window for window, loss in enumerate(predictions) if loss < -_ROUNDING), None)
        if negative is not None:
            raise NeuronMMError(
                f"predictions are negative log-likelihoods, so at least 0; window {negative} has {predictions[negative]}. "
                "Change the sign of log-likelihoods."
            )
        perplexity = math.exp(loss.mean) if loss.mean < 700 else math.inf
        known = loss.stderr is not None and perplexity < math.inf
        return {
            "perplexity": perplexity,
            "mean_loss": loss.mean,
            "stderr": perplexity * loss.stderr if known else None,
            "tokens": loss.tokens,
            "windows": loss.windows,
        }


def _score(texts, references, model, tokenizer, batch_size, cut_options):
    """Summed loss, nats, and number of scored tokens of each window."""
    if model is None or tokenizer is None or any(count is not None for count in references):
        raise NeuronMMError("predictions are texts, so model and tokenizer must be given, and references must not.")
    windows = cut(texts, tokenizer, **cut_options)
    logits = window_logits(model, windows, batch_size)
    losses = [
        token_loss(scores, window.to(scores.device)) for scores, window in zip(logits, windows.split(1), strict=True)
    ]
    return losses, [windows.shape[1] - 1] * len(losses)
