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
"""Examples of the multiple-choice tasks as the texts that a model scores.

The texts are those of lm-eval's tasks without examples in the prompt: one space stands between the context and what is
scored, and it belongs to the latter. WinoGrande is the other way round than the rest: each option is put into the
blank, which gives two contexts, and what is scored is the remainder of the sentence, which they share.
"""

from dataclasses import dataclass

from optimum_neuronmm.errors import NeuronMMError

from .fields import filled_text, texts, value
from .tasks import Task


_QUESTION = "Question: {}\nAnswer:"
# task -> field of the row that holds the context, and what is put around it
_CONTEXTS = {
    "openbookqa": ("question", "{}"),
    "arc_easy": ("question", _QUESTION),
    "arc_challenge": ("question", _QUESTION),
    "hellaswag": ("context", "{}"),
    "mathqa": ("question", _QUESTION),
}
_DELIMITER = " "
_BLANK = "_"


@dataclass(frozen=True)
class Question:
    """One multiple-choice example.

    Attributes:
        id: unique within the task.
        rows: (context, continuation) of each choice; the log-likelihood of the continuation is what counts.
        lengths: characters of each choice, by which acc_norm divides; 0 for an empty option.
        label: index of the right choice.
        place: where the example comes from, for errors.
    """

    id: str
    rows: tuple[tuple[str, str], ...]
    lengths: tuple[int, ...]
    label: int
    place: str


def build_question(task: Task, row: dict, place: str) -> Question:
    """The question that a row describes.

    Args:
        row: "id", "choices" and "label" (from 0), with "question"; "context" for HellaSwag; "sentence" for WinoGrande.
        place: names the row in an error.

    Raises:
        NeuronMMError: a field is missing, of the wrong type or out of range.
    """
    identity = filled_text(row, "id", place)
    choices = texts(row, "choices", place)
    if len(choices) < 2:
        raise NeuronMMError(f'{place}: "choices" must hold two or more, got {len(choices)}.')
    if not any(choices):
        raise NeuronMMError(f'{place}: all of "choices" are empty.')
    label = value(row, "label", place)
    if isinstance(label, bool) or not isinstance(label, int):
        raise NeuronMMError(f'{place}: "label" must be an integer, got {type(label).__name__}.')
    if not 0 <= label < len(choices):
        raise NeuronMMError(f'{place}: "label" must be from 0 to {len(choices) - 1}, got {label}.')
    if task.name == "winogrande":
        rows, lengths = _filled_blanks(row, choices, place)
    else:
        field, form = _CONTEXTS[task.name]
        context = form.format(filled_text(row, field, place))
        rows = tuple((context, _DELIMITER + choice) for choice in choices)
        lengths = tuple(map(len, choices))
    return Question(identity, rows, lengths, label, place)


def build_questions(task: Task, rows: list[tuple[str, dict]]) -> list[Question]:
    """The questions of (place, row) pairs, in their order.

    Raises:
        NeuronMMError: as `build_question`, and for an id that is there twice: results are kept by it.
    """
    questions, seen = [], {}
    for place, row in rows:
        question = build_question(task, row, place)
        if question.id in seen:
            raise NeuronMMError(f'{place}: the "id" {question.id!r} is that of {seen[question.id]}, too.')
        seen[question.id] = place
        questions.append(question)
    return questions


def _filled_blanks(row: dict, options: list[str], place: str) -> tuple[tuple[tuple[str, str], ...], tuple[int, ...]]:
    sentence = filled_text(row, "sentence", place)
    if len(options) != 2:
        raise NeuronMMError(f'{place}: "choices" must hold the two options, got {len(options)}.')
    if [row.get("option1", options[0]), row.get("option2", options[1])] != options:
        raise NeuronMMError(f'{place}: "choices" must be ["option1", "option2"].')
    if not all(option.strip() for option in options):
        raise NeuronMMError(f"{place}: an option is empty.")
    before, blank, after = sentence.partition(_BLANK)  # the first one, where there are several
    if not blank:
        raise NeuronMMError(f'{place}: "sentence" has no blank ({_BLANK}).')
    contexts = [before + option for option in options]
    return tuple((context, _DELIMITER + after.strip()) for context in contexts), tuple(map(len, contexts))
