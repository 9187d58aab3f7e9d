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
"""The data of a task: from a local file, or from the Hugging Face Hub.

A local file is UTF-8, plain or gzipped: the text itself (WikiText-2, PTB), or one JSON object a line with "text" (C4) or
with the fields that `prompts.build_question` names.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from optimum_neuronmm.errors import NeuronMMError

from .fields import text as text_field
from .hub import digest, fetch, hub_source, place
from .hub_rows import converted
from .local_files import ENVIRONMENT_VARIABLE, decoded, file_names, find_file, json_lines, read_bytes
from .prompts import Question, build_questions
from .tasks import PERPLEXITY, Task
from .texts import C4_DOCUMENTS, check_layout, lay_out, rows_of_file


_AS_IT_IS = (
    "HellaSwag's text is used as the file has it. lm-eval makes it from the Hub's fields; a file in which the last part "
    "of the context does not begin with a capital letter gives another accuracy."
)


@dataclass(frozen=True)
class Data:
    """The data of one task.

    Attributes:
        source: the name of the local file, or the id, configuration, split and, where known, commit on the Hub.
        sha256: of the file's bytes (of a .gz file: uncompressed); of the rows as JSON lines for the Hub.
        rows: the text of a perplexity task; else the questions, in the order of the data set.
        notes: in which ways the data differ from what the figures of others are measured on.
    """

    source: str
    sha256: str
    rows: list[Question] | str
    notes: tuple[str, ...] = ()


def load_data(
    task: Task, *, data: str | Path | dict[str, str | Path] | None = None, layout: str | None = None
) -> Data:
    """Loads the data of a task.

    Args:
        task: one of `tasks.TASKS`.
        data: a directory with the data sets, in which, and in whose folders "corpora" and "tasks", the file of the task
            is looked for by its name; or {name of a task: file}. For a task without a file, and with None, the directory
            that the environment variable NEURONMM_DATA names; without that, the Hub.
        layout: of a perplexity task: how documents become one text (see `texts`); None is the first of the task's.

    Raises:
        NeuronMMError: there is no such file, or more than one; the Hub cannot be reached; or the data are not as
            expected, with the file and the line.
    """
    layout = check_layout(task, layout)
    path = find_file(task, data)
    if path is None:
        return _from_hub(task, layout)
    return _from_file(task, path, layout)


def _from_file(task: Task, path: Path, layout: str | None) -> Data:
    content = read_bytes(path)
    sha256 = hashlib.sha256(content).hexdigest()
    text, notes = decoded(content, path), []
    if task.kind != PERPLEXITY:
        rows = build_questions(task, json_lines(text, path))
        notes += [_AS_IT_IS] if task.name == "hellaswag" else []
    elif task.suffix == ".jsonl":
        documents = [text_field(row, "text", where) for where, row in json_lines(text, path, C4_DOCUMENTS)]
        rows, notes = _documents_as_text(task, layout, documents)
    else:
        if "\r\n" in text:
            text = text.replace("\r\n", "\n")
            notes.append("Line ends of the file (CR LF) were read as LF.")
        rows = text if layout == "raw" else lay_out(task, layout, rows_of_file(task, text))
    _check_filled(rows, str(path))
    return Data(path.name, sha256, rows, tuple(notes))


def _from_hub(task: Task, layout: str | None) -> Data:
    advice = (
        f"Without a connection, give local files: --data DIR, or {ENVIRONMENT_VARIABLE}=DIR, with a directory in which "
        f"there is a file {file_names(task)}."
    )
    raw, commit = fetch(task, advice)
    source = hub_source(task) + (f" at {commit}" if commit else "")
    places = [place(task, number) for number in range(1, len(raw) + 1)]
    found = [converted(task, row, number, places[number - 1]) for number, row in enumerate(raw, 1)]
    if task.kind == PERPLEXITY:
        rows, notes = _documents_as_text(task, layout, [row["text"] for row in found])
    else:
        rows = build_questions(task, list(zip(places, found, strict=True)))
        notes = []
    _check_filled(rows, source)
    return Data(source, digest(raw), rows, tuple(notes))


def _documents_as_text(task: Task, layout: str, documents: list[str]) -> tuple[str, list[str]]:
    notes = []
    if task.name == "c4" and len(documents) < C4_DOCUMENTS:
        notes.append(f"There are {len(documents)} documents, and the usual text has the first {C4_DOCUMENTS}.")
    return lay_out(task, layout, documents), notes


def _check_filled(rows: list[Question] | str, source: str) -> None:
    if not (rows.strip() if isinstance(rows, str) else rows):
        raise NeuronMMError(f"{source} is empty: it holds {'no text' if isinstance(rows, str) else 'no examples'}.")
