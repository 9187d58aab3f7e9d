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
"""From the documents of a perplexity task to one text.

Papers that compare perplexities do not all join the documents alike, and the figure depends on it:

- wikitext2 "joined": the rows of the Hub's data set with a blank line ("\\n\\n") between them, as GPTQ and the papers on
  SVD do. A row is a line with its line end, or empty for a blank line.
- wikitext2 "raw": the published file as it is.
- ptb "joined": the lines, without the spaces around them, with one space between them, as GPTQ does.
- ptb "blank_lines": the same with a blank line between them, as SVD-LLM does.
- c4 "joined": the first 1100 documents of the first file of the validation split with one space between them, as GPTQ
  does.
"""

from optimum_neuronmm.errors import NeuronMMError

from .tasks import Task


C4_DOCUMENTS = 1100

_WIKITEXT_BLANK = " \n"  # a blank line of the published file
_JOINERS = {
    ("wikitext2", "joined"): "\n\n",
    ("wikitext2", "raw"): "",
    ("ptb", "joined"): " ",
    ("ptb", "blank_lines"): "\n\n",
    ("c4", "joined"): " ",
}


def check_layout(task: Task, layout: str | None) -> str | None:
    """The layout to use: the task's first one if none is given, and none for questions.

    Raises:
        NeuronMMError: the task has no such layout.
    """
    if layout is not None and layout not in task.layouts:
        known = f"expected one of {', '.join(task.layouts)}" if task.layouts else "its examples are no running text"
        raise NeuronMMError(f"The task {task.name} has no layout {layout!r}: {known}.")
    return layout or next(iter(task.layouts), None)


def rows_of_file(task: Task, text: str) -> list[str]:
    """The rows that the Hub has of a text file of WikiText-2 or PTB."""
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]  # what follows the last line end: nothing, in a file that ends with one
    if not lines[-1]:
        lines.pop()
    if task.name == "ptb":
        return [line.strip() for line in lines]
    return [line if line.strip() else "" for line in lines]


def lay_out(task: Task, layout: str, rows: list[str]) -> str:
    """One text from rows as the Hub has them."""
    if (task.name, layout) == ("wikitext2", "raw"):
        rows = [row or _WIKITEXT_BLANK for row in rows]
    return _JOINERS[task.name, layout].join(rows[:C4_DOCUMENTS] if task.name == "c4" else rows)
