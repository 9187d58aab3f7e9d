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
"""Training text: from the name of a source to its documents."""

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from ..calibration import DATASETS as CALIBRATION_DATASETS
from ..calibration import FILE_SUFFIXES
from ..errors import NeuronMMError
from ..json_text import checked_text


# name -> (repository, configuration, data files, what joins two rows)
DATASETS = {**CALIBRATION_DATASETS, "alpaca-cleaned": ("yahma/alpaca-cleaned", None, None, "\n\n")}
_JSONL = (".jsonl", ".jsonl.gz")
_PIECE = 65_536  # characters: a text may be one line

# The form in which Alpaca's instructions are put, so that models which know it are asked in the words they know.
_PROMPT = (
    "Below is an instruction that describes a task{paired}. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n{input}### Response:\n{output}"
)


def check_sources(sources: list[str]) -> None:
    """Finds what is wrong with the sources before any work is done: unknown names, files that are not there."""
    seen: dict[str, str] = {}
    for source in sources:
        identity = source if source in DATASETS else str(Path(source).resolve())
        if identity in seen:  # its held-out windows would be trained on
            raise NeuronMMError(f"The source of data {source} is given twice. Name each source once.")
        seen[identity] = source
        if source in DATASETS:
            continue
        if not source.endswith(FILE_SUFFIXES):
            raise NeuronMMError(
                f"Unknown source of data {source!r}: expected {', '.join(map(repr, DATASETS))}, or a file that ends in "
                f"{', '.join(FILE_SUFFIXES)}."
            )
        if not os.path.isfile(source):
            raise NeuronMMError(f"The data file {source} does not exist.")


def label(source: str) -> str:
    """What the report calls a source: not where it lies on this disk."""
    return source if source in DATASETS else Path(source).name


def documents(source: str) -> Iterator[str]:
    """The texts of a source. Those of a .txt file are pieces: joined they are the file.

    Raises:
        NeuronMMError: the source cannot be read, or a line of it is not of a form that is known.
    """
    if source in DATASETS:
        yield from _rows(source)
        return
    opened = gzip.open if source.endswith(".gz") else open
    try:
        with opened(source, "rt", encoding="utf-8-sig", newline="\n") as file:
            while not source.endswith(_JSONL) and (piece := file.read(_PIECE)):
                yield piece
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _parsed(line, f"{source}, line {number}")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise NeuronMMError(f"The data file {source} could not be read: {error}.") from error


def joiner(source: str) -> str:
    """What stands between two documents of a source."""
    if source in DATASETS:
        return DATASETS[source][3]
    return "\n\n" if source.endswith(_JSONL) else ""


def document(row: dict, place: str) -> str:
    """The text of a row with "text", or with "instruction", "output" and, optionally, "input".

    Args:
        place: names the row in an error.
    """
    if not isinstance(row, dict) or not ("text" in row or {"instruction", "output"} <= set(row)):
        raise NeuronMMError(f'{place}: expected a JSON object with "text", or with "instruction" and "output".')
    names = ("text",) if "text" in row else ("instruction", "input", "output")
    values = {name: row.get(name, "") for name in names}
    values["input"] = values.get("input") or ""  # null means none
    for name, value in values.items():
        checked_text(value, f'"{name}"', place)
    if "text" in values:
        return values["text"]
    paired = ", paired with an input that provides further context" if values["input"] else ""
    context = f"### Input:\n{values['input']}\n\n" if values["input"] else ""
    return _PROMPT.format(paired=paired, instruction=values["instruction"], input=context, output=values["output"])


def _parsed(line: str, place: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise NeuronMMError(f"{place}: not JSON ({error}).") from error
    return document(row, place)


def _rows(name: str) -> Iterator[str]:
    repository, subset, data_files, _ = DATASETS[name]
    try:
        from datasets import load_dataset

        rows = load_dataset(repository, subset, data_files=data_files, split="train", streaming=data_files is not None)
        for number, row in enumerate(rows, 1):
            yield document(row, f"{repository}, row {number}")
    except NeuronMMError:
        raise
    except Exception as error:  # datasets raises errors of its own, of huggingface_hub, requests, fsspec, ...
        raise NeuronMMError(
            f"The dataset {name} ({repository}) could not be fetched ({type(error).__name__}). Without a connection, give "
            "a .txt or .jsonl file with --data FILE; in Python, RecoveryConfig(data=['FILE'])."
        ) from error
