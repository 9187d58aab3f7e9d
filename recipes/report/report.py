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
"""The report of an evaluation: report.json for programs, report.md and pictures for people."""

import json
import math
import os
import tempfile
from pathlib import Path

from optimum_neuronmm.errors import NeuronMMError

from .markdown import markdown
from .plots import PICTURES, draw_pictures


FORMAT_VERSION = 1
JSON_NAME, MARKDOWN_NAME = "report.json", "report.md"
_KEYS = ("recipe", "models", "data", "published_source", "seed", "versions", "machine", "seconds")


def write_report(results: dict, directory: Path) -> None:
    """Writes report.json, report.md and the pictures that there are data for, and replaces those of an earlier report.

    All of them are made before the first is put in its place, each by one rename, report.json last. Numbers that are
    not finite become null in report.json, since JSON has no word for them.

    Args:
        results: of an evaluation, with `format_version` 1.
        directory: made if it is missing. Other files in it are left alone.

    Raises:
        NeuronMMError: the results have no model, two of one name or another format, or the directory cannot be written.
    """
    directory = Path(directory)
    results = _plain(results)
    _check(results, "The results")
    pictures = draw_pictures(results)
    contents = {
        **pictures,
        MARKDOWN_NAME: markdown(results, list(pictures)).encode(),
        JSON_NAME: (json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name in (*PICTURES, *contents):
            if (directory / name).is_dir():
                raise NeuronMMError(f"{directory / name} is a directory: expected a file to replace. Move it away.")
        with tempfile.TemporaryDirectory(prefix=".report-", dir=directory) as staging:
            for name, content in contents.items():
                Path(staging, name).write_bytes(content)
            for name in PICTURES:
                if name not in pictures:  # of an earlier report, whose figures these would not be
                    (directory / name).unlink(missing_ok=True)
            for name in contents:
                os.replace(Path(staging, name), directory / name)
    except OSError as error:
        raise NeuronMMError(
            f"The report could not be written to {directory} ({error.strerror}): expected a directory that can be "
            "written, on a disk with room. Choose another one, or make room."
        ) from error


def load_report_file(path: str | Path) -> dict:
    """Reads the results back from report.json.

    Args:
        path: of the file, or of the directory that `write_report` wrote it to.

    Raises:
        NeuronMMError: there is none, it is damaged, or a newer version of the package wrote it.
    """
    path = Path(path)
    path = path / JSON_NAME if path.is_dir() else path
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NeuronMMError(
            f"{path} does not exist: expected the {JSON_NAME} of an evaluation. Run the evaluation, or give its output directory."
        ) from error
    except OSError as error:
        raise NeuronMMError(
            f"{path} could not be read ({error.strerror}): expected the {JSON_NAME} of an evaluation."
        ) from error
    except ValueError as error:
        raise NeuronMMError(
            f"{path} is damaged: {error}. Run the evaluation again, or fetch the file again."
        ) from error
    _check(results, str(path))
    try:
        markdown(results)  # reads all that a report must have
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise NeuronMMError(
            f"{path} is damaged: {error!r}. Run the evaluation again, or fetch the file again."
        ) from error
    return results


def _check(results: object, what: str) -> None:
    """Refuses what is no report of this format. `what` begins the message."""
    version = results.get("format_version") if isinstance(results, dict) else None
    if type(version) is not int or version < 1:
        raise NeuronMMError(
            f"{what}: expected the results of an evaluation with a format_version, got {str(results)[:80]!r}. Run the evaluation again."
        )
    if version > FORMAT_VERSION:
        raise NeuronMMError(
            f"{what}: format_version is {version}, and this version of optimum-neuronmm reads up to {FORMAT_VERSION}. "
            "Upgrade optimum-neuronmm, or run the evaluation again."
        )
    missing = [key for key in _KEYS if key not in results]
    if missing:
        raise NeuronMMError(f"{what}: {', '.join(missing)} expected, but missing. Run the evaluation again.")
    if not isinstance(results["models"], list) or not results["models"]:
        raise NeuronMMError(f"{what}: expected at least one model, got none. Evaluate one.")
    names = [model.get("name") for model in results["models"] if isinstance(model, dict)]
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    if twice:
        raise NeuronMMError(f"{what}: two models are called {twice[0]!r}. Give each variant a name of its own.")


def _plain(value: object) -> object:
    """The same with lists for tuples, and None for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
