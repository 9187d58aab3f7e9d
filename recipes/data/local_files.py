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
"""Local files of data: finding that of a task, and reading it."""

import gzip
import json
import os
import zlib
from pathlib import Path

from optimum_neuronmm.errors import NeuronMMError

from .tasks import Task, find_task


ENVIRONMENT_VARIABLE = "NEURONMM_DATA"
FOLDERS = ("corpora", "tasks")  # that a directory of data may have

_LISTED = 20  # names in an error


def file_names(task: Task) -> str:
    """What a local file of the task may be called, for messages."""
    return f"{task.file}*{task.suffix} or {task.file}*{task.suffix}.gz"


def find_file(task: Task, data: str | Path | dict[str, str | Path] | None) -> Path | None:
    """The local file of a task; None means the Hub.

    Args:
        data: as `sources.load_data` takes it.

    Raises:
        NeuronMMError: there is no such file, or more than one.
    """
    if isinstance(data, dict):
        for name in data:
            find_task(name)
        if task.name in data:
            return _checked_file(task, Path(data[task.name]))
    elif data is not None:
        return _in_directory(task, Path(data), f"The directory of data {data}")
    directory = os.environ.get(ENVIRONMENT_VARIABLE)
    if directory:
        return _in_directory(task, Path(directory), f"The directory {directory} that {ENVIRONMENT_VARIABLE} names")
    return None


def _checked_file(task: Task, path: Path) -> Path:
    if not path.name.endswith((task.suffix, task.suffix + ".gz")):
        raise NeuronMMError(
            f"The file of the task {task.name} must end in {task.suffix} or {task.suffix}.gz, got {path.name}."
        )
    if not path.is_file():
        raise NeuronMMError(f"The file {path} of the task {task.name} does not exist.")
    return path


def _in_directory(task: Task, directory: Path, called: str) -> Path:
    if not directory.is_dir():
        problem = "is a file, not a directory" if directory.exists() else "does not exist"
        raise NeuronMMError(f"{called} {problem}. A single file is given as {task.name}=FILE.")
    folders = [directory, *(directory / name for name in FOLDERS)]
    files = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir()) if path.is_file()]
    found = [p for p in files if p.name.startswith(task.file) and p.name.endswith((task.suffix, task.suffix + ".gz"))]
    if len(found) == 1:
        return found[0]
    if found:
        problem, seen = "has several files", found
    else:
        problem, seen = "has no file", files
    names = [str(path.relative_to(directory)) for path in seen]
    listed = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    raise NeuronMMError(
        f"{called} {problem} for the task {task.name}: expected one {file_names(task)} in it or in "
        f"its folders {' and '.join(FOLDERS)}, got {listed or 'no files'}."
    )


def read_bytes(path: Path) -> bytes:
    """The file, uncompressed."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise NeuronMMError(f"The file {path} could not be read: {error}.") from error


def decoded(content: bytes, path: Path) -> str:
    """The text of a file, without a byte order mark."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise NeuronMMError(f"{path}, line {line}: the file must be UTF-8 ({error.reason}).") from error


def json_lines(text: str, path: Path, limit: int | None = None) -> list[tuple[str, dict]]:
    """(place, object) of each line that is not blank; of the first `limit` of them."""
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise NeuronMMError(f"{where}: not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise NeuronMMError(f"{where}: expected a JSON object, got {type(row).__name__}.")
        rows.append((where, row))
        if len(rows) == limit:
            break
    return rows
