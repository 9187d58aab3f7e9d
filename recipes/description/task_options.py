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
"""How a recipe runs each task: which part of the data, and for a text how it is cut into windows."""

from dataclasses import dataclass, fields
from typing import Any

from ..data.tasks import PERPLEXITY, TASKS, Task
from .schema import Place, choice, did_you_mean, integer, mapping, shown


BOS = ("first", "none", "every")


@dataclass(frozen=True)
class TextOptions:
    """Of a perplexity task.

    Attributes:
        layout: how the documents become one text; one of the task's.
        window: tokens in each window, at least 2.
        windows: number of windows, from the beginning of the text; None is all.
        bos: where the tokenizer's token for the beginning of a text stands. "first": once, before the text, if the
            tokenizer puts it there itself. "none": nowhere. "every": before every window.
    """

    layout: str
    window: int = 2048
    windows: int | None = None
    bos: str = "first"


@dataclass(frozen=True)
class QuestionOptions:
    """Of a multiple-choice task.

    Attributes:
        examples: number of questions, from the first; None is all.
    """

    examples: int | None = None


TaskOptions = TextOptions | QuestionOptions


def read_tasks(content: Any, place: Place) -> dict[str, TaskOptions]:
    """What stands under `tasks`, in the order of `TASKS`.

    Raises:
        NeuronMMError: naming the place of what is wrong.
    """
    if not isinstance(content, dict) or not content:
        raise place.wrong("a mapping of at least one task to its options", content, f"Tasks: {', '.join(TASKS)}.")
    for name in content:
        if name not in TASKS:
            step = name if isinstance(name, str) else shown(name)
            raise (place / step).error(f"unknown task{did_you_mean(name, TASKS)} Tasks: {', '.join(TASKS)}.")
    return {name: _options(task, content[name], place / name) for name, task in TASKS.items() if name in content}


def checked(options: TaskOptions, task: Task, place: Place) -> TaskOptions:
    """The options, after a look at each.

    Raises:
        NeuronMMError: naming the place of what is wrong.
    """
    if isinstance(options, QuestionOptions):
        integer(options.examples, place / "examples", 1, or_null="all")
    else:
        choice(options.layout, place / "layout", task.layouts)
        integer(options.window, place / "window", 2)
        integer(options.windows, place / "windows", 1, or_null="all")
        choice(options.bos, place / "bos", BOS)
    return options


def option_names(options: type[TaskOptions]) -> list[str]:
    return [field.name for field in fields(options)]


def _options(task: Task, content: Any, place: Place) -> TaskOptions:
    own, other = (TextOptions, QuestionOptions) if task.kind == PERPLEXITY else (QuestionOptions, TextOptions)
    content = {} if content is None else content
    for key in content if isinstance(content, dict) else ():
        if key in option_names(other) and key not in option_names(own):
            kind = task.kind.replace("_", "-")
            raise (place / key).error(
                f"{task.title} is a {kind} task, which has no {key}. Known keys: {', '.join(option_names(own))}."
            )
    content = mapping(content, place, option_names(own))
    defaults = {"layout": task.layouts[0]} if own is TextOptions else {}
    return checked(own(**{**defaults, **content}), task, place)
