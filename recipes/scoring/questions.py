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
"""A model on multiple-choice questions: accuracy from the log-likelihoods of the choices."""

import math

from optimum_neuronmm.calibration import adds_bos
from optimum_neuronmm.errors import NeuronMMError

from ..data.sources import Data
from ..data.tasks import Task
from ..description.task_options import QuestionOptions
from ..metrics.by_name import metric
from .encoding import Encoded, encode_questions
from .examples import Example, Scores, TaskResult, not_finite
from .likelihood import log_likelihood
from .loading import LoadedModel


def evaluate_questions(
    loaded: LoadedModel, task: Task, options: QuestionOptions, data: Data, scores: Scores
) -> TaskResult:
    """Evaluates a model on the first questions of a task.

    Raises:
        NeuronMMError: a choice is longer than the model takes, or none of a question has a token.
        NotFiniteError: a question's log-likelihoods are not finite.
    """
    questions = data.rows[: options.examples]
    encoded = encode_questions(questions, loaded.tokenizer, loaded.max_length)
    examples = [
        Example(question.id, rows.group, question.place) for question, rows in zip(questions, encoded, strict=True)
    ]
    for example in examples:
        if not example.rows:
            raise NeuronMMError(
                f"{example.place}: no choice has a token, so none can be chosen. Take the example out."
            )

    def score(batch: list[Example]) -> dict[str, dict]:
        found = {}
        logits = loaded.scoring.logits([example.rows for example in batch])
        for example, of_rows in zip(batch, logits, strict=True):
            values = [log_likelihood(one, row) for one, row in zip(of_rows, example.rows, strict=True)]
            if any(math.isnan(value) or value == math.inf for value in values):
                raise not_finite(loaded, example, values)
            found[example.id] = {"log_likelihoods": values}
        return found

    deciding = {"data": data.sha256, "max_length": loaded.max_length}
    known = scores.of(loaded, task, deciding, examples, score, _fits)
    likelihoods = [
        _of_all_choices(rows, known[question.id]["log_likelihoods"])
        for question, rows in zip(questions, encoded, strict=True)
    ]
    lengths = {"lengths": [list(question.lengths) for question in questions]} if "acc_norm" in task.metrics else {}
    labels = [question.label for question in questions]
    entry = {
        "kind": task.kind,
        **metric("multiple_choice").compute(predictions=likelihoods, references=labels, **lengths),
        "bos": adds_bos(loaded.tokenizer),
        "empty_options": sum(length == 0 for question in questions for length in question.lengths),
        "truncated": sum(rows.truncated for rows in encoded),
    }
    right = [float(values.index(max(values)) == label) for values, label in zip(likelihoods, labels, strict=True)]
    return TaskResult(entry, right, f"{data.sha256}, {len(questions)} questions")


def _fits(example: Example, score: dict) -> bool:
    values = score.get("log_likelihoods")
    return (
        isinstance(values, list)
        and len(values) == len(example.rows)
        and all(isinstance(value, float) and value < math.inf for value in values)
    )


def _of_all_choices(encoded: Encoded, likelihoods: list[float]) -> list[float]:
    """A choice without tokens cannot be chosen."""
    found = dict(zip(encoded.group, likelihoods, strict=True))
    return [-math.inf if row is None else found[row] for row in encoded.rows]
