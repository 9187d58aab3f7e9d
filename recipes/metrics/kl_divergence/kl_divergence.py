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
"""How far the predictions of a model are from those of a baseline, as a metric of `evaluate`."""

import evaluate

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.perplexity import token_divergence
from optimum_neuronmm.recipes.metrics.pairs import check_pairs, references_of_texts, texts_or_windows
from optimum_neuronmm.recipes.metrics.window_metrics import cut, token_mean, window_logits


_DESCRIPTION = """\
Kullback-Leibler divergence KL(baseline || model) of the distributions of the next token, in nats per predicted token:
what it costs to take the model's predictions for those of the baseline. It is 0 only where both predict the same, and
sees what perplexity can hide: a model that is better on some tokens and worse on others.
"""

_CITATION = """\
The measure is from S. Kullback and R. A. Leibler, "On information and sufficiency", 1951.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: either one number a window, the divergence summed over its predicted tokens in nats (n floats, >= 0);
        or texts (strings), which both models read.
    references: with numbers, the predicted tokens of each window (n integers >= 1: a window of L tokens has L - 1).
        With texts, none.
    model, baseline: with texts, two transformers causal LMs in memory, in evaluation mode, of one vocabulary.
    tokenizer: with texts, that of both.
    window: tokens of a window. Default 2048.
    max_windows: take only the first ones. Default all.
    joiner: stands between two texts, which are tokenised as one. Default a blank line.
    bos: "first" (default): one BOS token before the whole text where the tokenizer adds it; "none"; "every": one at
        the start of each window, in place of its last token of text.
    batch_size: windows in one forward pass. Default 1. It changes the result by rounding only.

Returns:
    divergence: nats a token, at least 0. A sum that rounding left below 0, by at most 1e-6 a token, counts as it is;
        their mean is raised to 0.
    stderr: standard error of the divergence from how it varies between windows. None with one window.
    tokens: predicted tokens.
    windows: windows.

Raises:
    NotFiniteError: for a divergence that is not finite. No window is ever left out.
    NeuronMMError: for no windows, a text shorter than one, lengths that differ, a count below 1, models of different
        vocabularies, a window whose divergence is below -1e-6 a token.

Examples:
    >>> divergence = evaluate.load("recipes/metrics/kl_divergence")
    >>> divergence.compute(predictions=[51.1, 153.3], references=[511, 511])["tokens"]
    1022
    >>> divergence.compute(predictions=texts, model=model, baseline=dense, tokenizer=tokenizer)  # doctest: +SKIP
"""

_ROUNDING = 1e-6  # nats a token: what float32 leaves of a divergence of 0


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class KLDivergence(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=texts_or_windows(),
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Adds windows, or texts, which have no references."""
        references = references_of_texts(predictions, references)
        check_pairs(predictions, references, ("divergences of windows", "their predicted tokens"))
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def _compute(
        self, predictions, references, model=None, baseline=None, tokenizer=None, batch_size=1, **cut_options
    ):
        if isinstance(predictions[0], str):
            given = (model, baseline, tokenizer)
            predictions, references = _score(predictions, references, *given, batch_size, cut_options)
        elif model is not None or baseline is not None or tokenizer is not None or cut_options:
            raise NeuronMMError("Models, a tokenizer and their options go with texts; predictions are numbers.")
        divergence = token_mean(predictions, references, "divergence")
        for window, (total, count) in enumerate(zip(predictions, references, strict=True)):
            if total < -_ROUNDING * count:
                raise NeuronMMError(
                    f"A divergence is at least 0; window {window} has {total / count:g} nats a token. Give the sums of "
                    "KL(baseline || model) over the whole vocabulary."
                )
        return {
            "divergence": max(divergence.mean, 0.0),
            "stderr": divergence.stderr,
            "tokens": divergence.tokens,
            "windows": divergence.windows,
        }


def _score(texts, references, model, baseline, tokenizer, batch_size, cut_options):
    """Summed divergence, nats, and number of predicted tokens of each window."""
    if any(part is None for part in (model, baseline, tokenizer)) or any(count is not None for count in references):
        raise NeuronMMError(
            "predictions are texts, so model, baseline and tokenizer must be given, and references must not."
        )
    sizes = [part.config.get_text_config().vocab_size for part in (baseline, model)]
    if sizes[0] != sizes[1]:
        raise NeuronMMError(
            f"The baseline has a vocabulary of {sizes[0]} tokens and the model one of {sizes[1]}, so their predictions "
            "cannot be compared. Use models of one vocabulary."
        )
    windows = cut(texts, tokenizer, **cut_options)
    both = zip(*(window_logits(part, windows, batch_size) for part in (baseline, model)), strict=True)
    divergences = [token_divergence(reference, scores.to(reference.device)) for reference, scores in both]
    return divergences, [windows.shape[1] - 1] * len(divergences)
