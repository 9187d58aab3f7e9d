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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import snapshot_download
from transformers.utils import logging

from ..card import write_model_card
from ..compiled import COMPILED_CONFIG, COMPILED_WEIGHTS, check_whole, ranks_here
from ..errors import NeuronMMError
from ..report import MAP_NAME, REPORT_NAME, load_report
from ..source import COMPANIONS
from ..workspace import explained_disk_errors, hidden_path, lock_directory
from .compilation import compressed_with


logger = logging.get_logger(__name__)

_SHARDS = "tp*_sharded_checkpoint.safetensors"


def local_artifact(model_id, compiled: dict, **hub) -> Path:
    """The directory of a compiled model with all of its weights; fetched where `model_id` is a Hub id.

    hub: `revision`, `cache_dir`, `token`, `local_files_only`, `force_download`.

    Raises:
        NeuronMMError: a file is missing, damaged or cannot be fetched, or the model needs other hosts beside this one.
    """
    ranks = ranks_here(model_id, compiled)
    if len(ranks) < compiled["tp_degree"]:
        raise NeuronMMError(
            f"{model_id} is the part of a model for ranks {ranks[0]} to {ranks[-1]} of {compiled['tp_degree']}: expected one "
            "with all ranks, since it runs on one machine. Compile it again."
        )
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
    # Inside it if it exists, since nothing beside it may be writable.
    folder = directory if directory.is_dir() else directory.parent
    with _written(model, directory, folder, source, write) as staged:
        try:
            os.rename(staged, directory)  # an empty directory gives way
        except OSError:  # it holds files, or a disk is mounted on it
            if not directory.is_dir():
                raise
            _move_into(staged, directory)


def save_new(model, directory: Path, source: Path, write: Callable) -> None:
    """As `save`, but a directory that holds anything by now is refused, and stays as it is."""
    with _written(model, directory, directory.parent, source, write) as staged:
        try:
            os.rename(staged, directory)
        except OSError as error:
            raise NeuronMMError(
                f"{directory} did not exist or was empty when the compilation began, and the compiled model cannot take its "
                f"place now ({error.strerror}). What is there was left as it is. Run the same command with another output, or "
                "remove it: the compressed model is kept."
            ) from error


@contextmanager
def _written(model, directory: Path, folder: Path, source: Path, write: Callable) -> Iterator[Path]:
    """The whole model in a hidden directory of `folder`, on the disk of `directory`."""
    if not source.is_dir():
        raise NeuronMMError(f"The weights were in {source}, which is gone: compile the model again to save it.")
    with explained_disk_errors(directory), _staging(directory, folder) as staged:
        write(str(staged))
        _add_companions(model, source, staged)
        for shard in (staged / COMPILED_WEIGHTS).glob(_SHARDS):
            # safetensors lets nobody else read them. A server may be another user.
            shutil.copymode(staged / COMPILED_CONFIG, shard)
        yield staged


@contextmanager
def _staging(directory: Path, folder: Path) -> Iterator[Path]:
    """Where to write in `folder`. What a save to the same place left there when it was killed is gone."""
    hidden = hidden_path(directory, folder, "save")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _wait_for(hidden, directory)
    except OSError as error:
        raise NeuronMMError(f"{directory} cannot be written: {error.strerror} ({folder}).") from error
    try:
        shutil.rmtree(hidden / "model", ignore_errors=True)
        yield hidden / "model"
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        lock.close()


def _wait_for(hidden: Path, directory: Path):
    lock = lock_directory(hidden)
    if lock is None:
        logger.warning(f"Another process saves a model to {directory}: waiting for it.")
    while lock is None:
        lock = lock_directory(hidden, wait=True)
    return lock


def _add_companions(model, source: Path, staged: Path) -> None:
    found = {path for pattern in (*COMPANIONS, REPORT_NAME, MAP_NAME) for path in source.glob(pattern)}
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
    for path in (directory / COMPILED_WEIGHTS).glob(_SHARDS):
        if path.relative_to(directory) not in files:  # of a rank that this model does not have
            path.unlink(missing_ok=True)
    for name in [*(name for name in files if name != last), last]:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged / name, directory / name)
