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
"""Rows of the Hub's data sets as rows of a local file.

The data sets differ in how they write an example. Here they are brought to one form, with the treatment that lm-eval
gives HellaSwag and MathQA.
"""

import re

from optimum_neuronmm.errors import NeuronMMError

from .fields import text, texts, value
from .tasks import PERPLEXITY, Task


# The fields that are used of each data set.
FIELDS = {
    "wikitext2": ("text",),
    "ptb": ("sentence",),
    "c4": ("text",),
    "openbookqa": ("id", "question_stem", "choices", "answerKey"),
    "arc_easy": ("id", "question", "choices", "answerKey"),
    "arc_challenge": ("id", "question", "choices", "answerKey"),
    "winogrande": ("sentence", "option1", "option2", "answer"),
    "hellaswag": ("activity_label", "ctx_a", "ctx_b", "endings", "label"),
    "mathqa": ("Problem", "options", "correct"),
}
# "a ) 38 , b ) 27.675 , ... e ) none of these": an option ends before the first comma with a space behind it.
_OPTIONS = re.compile(r"[a-d] \) (.*?), |e \) (.*)$")


def converted(task: Task, row: dict, number: int, where: str) -> dict:
    """A row as a local file has it: "text", or "id", "choices", "label" and what is asked.

    Args:
        number: of the row from 1; it makes an id for the data sets that have none.
        where: names the row in an error.

    Raises:
        NeuronMMError: a field has the wrong type, or a value that is not known.
    """
    if task.kind == PERPLEXITY:
        return {"text": text(row, FIELDS[task.name][0], where)}
    converter = {"winogrande": _winogrande, "hellaswag": _hellaswag, "mathqa": _mathqa}.get(task.name, _labelled)
    return {"id": f"{task.name}-{number}", **converter(row, where)}


def _labelled(row: dict, where: str) -> dict:
    """ARC and OpenBookQA: options with labels A, B, ... or 1, 2, ..., of which the answer is one."""
    choices = value(row, "choices", where)
    if not isinstance(choices, dict):
        raise NeuronMMError(f'{where}: "choices" must hold "text" and "label", got {type(choices).__name__}.')
    options, labels = texts(choices, "text", where), texts(choices, "label", where)
    if len(options) != len(labels):
        raise NeuronMMError(f"{where}: there are {len(options)} options, but {len(labels)} labels.")
    question = text(row, "question" if "question" in row else "question_stem", where)
    label = _index(text(row, "answerKey", where).lstrip(), labels, "answerKey", where)
    return {"id": text(row, "id", where), "question": question, "choices": options, "label": label}


def _winogrande(row: dict, where: str) -> dict:
    options = [text(row, "option1", where), text(row, "option2", where)]
    label = _index(text(row, "answer", where), ["1", "2"], "answer", where)
    return {"sentence": text(row, "sentence", where), "choices": options, "label": label}


def _hellaswag(row: dict, where: str) -> dict:
    parts = [text(row, name, where) for name in ("activity_label", "ctx_a", "ctx_b")]
    endings = texts(row, "endings", where)
    label = _index(str(value(row, "label", where)), [str(index) for index in range(len(endings))], "label", where)
    context = f"{parts[0]}: {parts[1]} {parts[2].capitalize()}"
    return {"context": _cleaned(context), "choices": [_cleaned(ending) for ending in endings], "label": label}


def _cleaned(passage: str) -> str:
    """Without the marks that WikiHow's pages left in HellaSwag ("[header]", "[step]"); "[title]" ends a sentence."""
    passage = passage.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", passage).replace("  ", " ")


def _mathqa(row: dict, where: str) -> dict:
    found = _OPTIONS.findall(text(row, "options", where))
    label = _index(text(row, "correct", where), list("abcde"), "correct", where)
    options = [(first or last).rstrip(" ,") for first, last in found]
    return {"question": text(row, "Problem", where), "choices": options, "label": label}


def _index(answer: str, known: list[str], name: str, where: str) -> int:
    if answer not in known:
        raise NeuronMMError(f'{where}: "{name}" must be one of {", ".join(known)}, got {answer!r}.')
    return known.index(answer)
