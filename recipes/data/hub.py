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
"""Fetching the data sets of the Hugging Face Hub."""

import hashlib
import json
import re
from itertools import islice

from optimum_neuronmm.errors import NeuronMMError

from .fields import value
from .hub_rows import FIELDS
from .tasks import Task
from .texts import C4_DOCUMENTS


_COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_source(task: Task) -> str:
    """How reports and errors name the data set: its id, configuration and split."""
    return f"{task.hub.dataset} ({', '.join(filter(None, [task.hub.config, task.split]))})"


def fetch(task: Task, advice: str) -> tuple[list[dict], str | None]:
    """The rows of a task's data set, with the fields that are used, and the commit that they are of, if known.

    Args:
        advice: what to do where they cannot be had, for the error.

    Raises:
        NeuronMMError: they cannot be fetched, or a field is missing.
    """
    hub = task.hub
    try:
        from datasets import load_dataset_builder

        data_files = {task.split: hub.data_file} if hub.data_file else None
        builder = load_dataset_builder(hub.dataset, hub.config, data_files=data_files, revision=hub.revision)
        if hub.streaming:
            rows = builder.as_streaming_dataset(split=task.split)
        else:
            builder.download_and_prepare()
            rows = builder.as_dataset(split=task.split)
        rows = [dict(row) for row in (islice(rows, C4_DOCUMENTS) if task.name == "c4" else rows)]
    except Exception as error:  # datasets raises errors of its own, of huggingface_hub, requests, fsspec, ...
        raise NeuronMMError(
            f"The data of the task {task.name}, {hub_source(task)}, could not be fetched ({type(error).__name__}). "
            f"{advice}"
        ) from error
    commit = builder.hash if _COMMIT.fullmatch(builder.hash or "") else None
    names = FIELDS[task.name]
    places = [place(task, number) for number in range(1, len(rows) + 1)]
    return [{name: value(row, name, places[i]) for name in names} for i, row in enumerate(rows)], commit


def place(task: Task, number: int) -> str:
    """Names a row in an error; the first is row 1."""
    return f"{hub_source(task)}, row {number}"


def digest(rows: list[dict]) -> str:
    """sha256 of the rows as JSON lines with sorted keys and no spaces."""
    lines = (json.dumps(row, sort_keys=True, separators=(",", ":")) + "\n" for row in rows)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
