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
"""Accuracy of multiple choice from the log-likelihoods of the choices, as a metric of `evaluate`."""

import math

import datasets
import evaluate
import numpy as np

from optimum_neuronmm.errors import NeuronMMError, NotFiniteError
from optimum_neuronmm.recipes.metrics.pairs import check_pairs


_DESCRIPTION = """\
Share of questions whose right choice a language model finds the most likely, by the rules of lm-eval (the Language
Model Evaluation Harness). `acc` compares the log-likelihoods of the choices as they are, which favours short ones;
`acc_norm` compares them per character. The first of equal choices is taken.
"""

_CITATION = """\
The rules are those of the Language Model Evaluation Harness (L. Gao and others, EleutherAI, doi 10.5281/zenodo.10256836).
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: for each question the log-likelihood of each choice, in nats: n lists of at least 2 floats. Questions
        may have different numbers of choices. -inf is a choice that cannot be.
    references: for each question the index of the right choice, counted from 0: n integers.
    lengths: for each question the characters of each choice: n lists of integers >= 0, as long as those of predictions.
        They are the characters of the choice itself, without the space before it, as lm-eval counts them. Without
        lengths there is no acc_norm. A choice without characters is never the one that acc_norm takes. (So it is in
        lm-eval, where its score is -inf; only where its log-likelihood is 0 as well does lm-eval take it, for a NaN.)

Returns:
    acc: share of questions answered right, 0 to 1.
    acc_stderr: its standard error, the sample standard deviation over the root of the number of questions. None with
        one question.
    acc_norm, acc_norm_stderr: the same for log-likelihoods per character; only with lengths.
    examples: questions.

Raises:
    NotFiniteError: for a log-likelihood that is NaN or inf, or a question of which all are -inf. It names the question.
    NeuronMMError: for no questions, fewer than 2 choices, a label that is no choice, lengths that do not fit.

Examples:
    >>> accuracy = evaluate.load("recipes/metrics/multiple_choice")
    >>> accuracy.compute(predictions=[[-4.0, -6.0], [-3.0, -2.0, -9.0]], references=[0, 2])["acc"]
    0.5
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class MultipleChoice(evaluate.Metric):
    def _info(self):
        features = {"predictions": datasets.Sequence(datasets.Value("float64")), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(features),
            reference_urls=["https://github.com/EleutherAI/lm-evaluation-harness"],
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Adds questions."""
        check_pairs(predictions, references, ("questions", "their labels"))
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def _compute(self, predictions, references, lengths=None):
        # lengths is no feature, because evaluate has none that may be left out.
        scores = [_scores(index, values) for index, values in enumerate(predictions)]
        for index, (values, label) in enumerate(zip(scores, references, strict=True)):
            if not 0 <= label < len(values):
                raise NeuronMMError(
                    f"Question {index} has {len(values)} choices, so its label must be from 0 to {len(values) - 1}; got "
                    f"{label}."
                )
        result = _accuracy("acc", scores, references)
        if lengths is not None:
            result |= _accuracy("acc_norm", _per_character(scores, lengths), references)
        return {**result, "examples": len(scores)}


def _scores(index: int, values: list[float]) -> np.ndarray:
    """The log-likelihoods of a question, checked: (choices,) float64."""
    scores = np.asarray(values, np.float64)
    if len(scores) < 2:
        raise NeuronMMError(f"A question needs at least 2 choices; question {index} has {len(scores)}.")
    if np.isnan(scores).any() or scores.max() == math.inf or scores.max() == -math.inf:
        raise NotFiniteError(
            f"Question {index} has the log-likelihoods {values}: no choice can be made. The model's activations overflow: "
            "use float32 or bfloat16."
        )
    return scores


def _per_character(scores: list[np.ndarray], lengths: list[list[int]]) -> list[np.ndarray]:
    if len(lengths) != len(scores):
        raise NeuronMMError(f"lengths must have one list for each of the {len(scores)} questions, got {len(lengths)}.")
    normalised = []
    for index, (values, characters) in enumerate(zip(scores, lengths, strict=True)):
        if len(characters) != len(values) or min(characters) < 0 or not max(characters):
            raise NeuronMMError(
                f"Question {index} has {len(values)} choices, so it needs as many lengths, in characters, at least 0 and "
                f"not all 0; got {list(characters)}."
            )
        characters = np.asarray(characters, np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            normalised.append(np.where(characters > 0, values / characters, -math.inf))
    return normalised


def _accuracy(name: str, scores: list[np.ndarray], labels: list[int]) -> dict[str, float | None]:
    right = np.array([values.argmax() == label for values, label in zip(scores, labels, strict=True)], np.float64)
    n = len(right)
    stderr = float(right.std(ddof=1)) / math.sqrt(n) if n > 1 else None
    return {name: float(right.mean()), f"{name}_stderr": stderr}
