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
"""A compiled compressed model as a directory: found, fetched, checked and saved.

It holds config.json, neuron_config.json, model.pt (the graphs), checkpoint/weights (every rank's part of the weights), the
report, the model card and what belongs to the tokenizer. optimum-neuron's own classes load it from a directory.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import snapshot_download

from ..card import write_model_card
from ..compiled import COMPILED_CONFIG, COMPILED_WEIGHTS, check_whole
from ..errors import NeuronMMError
from ..report import REPORT_NAME, load_report
from ..source import COMPANIONS
from ..workspace import explained_disk_errors
from .compilation import compressed_with


def local_artifact(model_id, compiled: dict, **hub) -> Path:
    """The directory of a compiled model with all of its weights; fetched where `model_id` is a Hub id.

    hub: `revision`, `cache_dir`, `token`, `local_files_only`, `force_download`.

    Raises:
        NeuronMMError: a file is missing, damaged or cannot be fetched.
    """
    directory = Path(model_id) if os.path.isdir(model_id) else _fetched(str(model_id), hub)
    check_whole(directory, compiled)
    return directory


def _fetched(model_id: str, hub: dict) -> Path:
    try:
        return Path(snapshot_download(model_id, **{name: value for name, value in hub.items() if value is not None}))
    except OSError as error:  # which those of the Hub's client are too
        raise NeuronMMError(
            f"{model_id} could not be fetched whole ({type(error).__name__}). Check the connection and the disk of the Hub's "
            "cache, and try again: what has arrived is kept."
        ) from error


def check_companions(source: Path) -> None:
    """Checks what `save` takes from a compressed checkpoint beside its weights.

    Raises:
        NeuronMMError: the report is damaged.
    """
    if (source / REPORT_NAME).is_file():
        load_report(source)


def save(model, directory: Path, source: Path, write: Callable) -> None:
    """Writes a compiled model so that `directory` is never half of one.

    Everything is written beside it first. A directory that exists gets the model's files in their places, config.json last.

    Args:
        source: of weights, tokenizer and report.
        write: optimum-neuron's `save_pretrained`.

    Raises:
        NeuronMMError: the weights that the model was made from are gone, or `directory` cannot be written.
    """
    directory = directory.resolve()
    if directory.exists() and not directory.is_dir():
        raise NeuronMMError(f"{directory} is a file: expected a directory to save the model in.")
    if not source.is_dir():
        raise NeuronMMError(f"The weights were in {source}, which is gone: compile the model again to save it.")
    with explained_disk_errors(directory), _staging(directory) as staged:
        write(str(staged))
        _add_companions(model, source, staged)
        try:
            os.rename(staged, directory)  # an empty directory gives way
        except OSError:  # it holds files, or a disk is mounted on it
            if not directory.is_dir():
                raise
            _move_into(staged, directory)


@contextmanager
def _staging(directory: Path) -> Iterator[Path]:
    """Where to write, on the disk of `directory`: inside it if it exists, since nothing beside it may be writable."""
    folder = directory if directory.is_dir() else directory.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        beside = tempfile.TemporaryDirectory(prefix=f".{directory.name[:50]}-", dir=folder)
    except OSError as error:
        raise NeuronMMError(f"{directory} cannot be written: {error.strerror} ({folder}).") from error
    with beside:
        yield Path(beside.name) / "model"


def _add_companions(model, source: Path, staged: Path) -> None:
    found = {path for pattern in (*COMPANIONS, REPORT_NAME) for path in source.glob(pattern)}
    for path in sorted(path for path in found if path.is_file() and path.suffix not in (".safetensors", ".bin")):
        shutil.copyfile(path, staged / path.name)
    if (source / REPORT_NAME).is_file():
        compiled = json.loads((staged / COMPILED_CONFIG).read_text(encoding="utf-8"))
        write_model_card(staged, load_report(source), compressed_with(model.config), compiled)


def _move_into(staged: Path, directory: Path) -> None:
    """Replaces the files of `directory` by those of the same names. What makes it a model comes last."""
    files = sorted(path.relative_to(staged) for path in staged.rglob("*") if path.is_file())
    last = Path("config.json")
    (directory / last).unlink(missing_ok=True)
    for path in (directory / COMPILED_WEIGHTS).glob("*"):
        if path.relative_to(directory) not in files:  # of a rank that this model does not have
            path.unlink(missing_ok=True)
    for name in [*(name for name in files if name != last), last]:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged / name, directory / name)
