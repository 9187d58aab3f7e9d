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
"""The hidden directory beside the output in which a compression works, so that it can be interrupted and resumed.

Also the locks by which compilations and saves keep out of each other's way.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from .errors import NeuronMMError


logger = logging.get_logger(__name__)

_STATE, _LOCK, _RESULT = "state.json", "lock", "result"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Workspace:
    """Files of one run. Each is written whole or not at all; state.json says which of them count.

    Args:
        output_dir: where the result will lie. The workspace is `.NAME.neuronmm` beside it, on the same file system, so
            that the result can be put in place by one rename.
        fingerprint: of everything that decides the result. A workspace of another run is emptied, with a warning.

    Raises:
        NeuronMMError: where another process works in it, its name is taken by something else, or the output came to be
            since it was checked.
    """

    def __init__(self, output_dir: Path, fingerprint: str):
        self.output_dir = output_dir
        self.path = workspace_path(output_dir)
        self._lock = self._acquire()
        try:
            check_output_dir(output_dir)
            state = _read_state(self.path)
            if state.get("fingerprint") != fingerprint:
                if state:
                    logger.warning(f"The model or the options changed since {output_dir} was begun: starting anew.")
                self._empty()
                state = {"fingerprint": fingerprint, "done": {}, "seconds": 0.0}
            self.write_json(_STATE, state | {"published": False})
        except BaseException:
            self.close()
            raise
        self._state = state
        self._opened = time.perf_counter() - state["seconds"]

    def done(self, stage: str) -> int:
        """How many steps of a stage are finished."""
        return self._state["done"].get(stage, 0)

    @property
    def seconds(self) -> float:
        """Time spent on this result, in the runs before an interruption too."""
        return time.perf_counter() - self._opened

    def finish(self, stage: str, steps: int) -> None:
        """Makes what the first `steps` of a stage wrote count. A run that resumes goes on after them."""
        self._state |= {"done": {**self._state["done"], stage: steps}, "seconds": self.seconds}
        self.write_json(_STATE, self._state)

    def cached(self, name: str, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The tensor stored under `name`, computed and stored on first use."""
        if not self.holds(name):
            self.save(name, {"value": compute()})
        return self.load(name)["value"]

    def save(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        with self._written_whole(f"{name}.safetensors") as temporary:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary)

    def load(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.path / f"{name}.safetensors")

    def holds(self, name: str) -> bool:
        return (self.path / f"{name}.safetensors").is_file()

    def remove(self, name: str) -> None:
        (self.path / f"{name}.safetensors").unlink(missing_ok=True)

    def write_json(self, name: str, content) -> None:
        with self._written_whole(name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def read_json(self, name: str):
        path = self.path / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def new_result(self) -> Path:
        """An empty directory to write the result into. What an interrupted run left in it is gone."""
        result = self.path / _RESULT
        shutil.rmtree(result, ignore_errors=True)
        result.mkdir()
        return result

    def publish(self) -> None:
        """Puts the result in place of the output, by one rename, and removes the workspace."""
        self.write_json(_STATE, self._state | {"published": True})  # for `check_output_dir`, if this process dies here
        try:
            os.replace(self.path / _RESULT, self.output_dir)  # an empty directory gives way
        except OSError as error:
            raise NeuronMMError(
                f"The finished result could not be put in place of {self.output_dir} ({error.strerror}). It is kept: see "
                "that the output does not exist or is empty, and run the same command again."
            ) from error
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()

    def close(self) -> None:
        """Lets go of the workspace, and keeps its files for a run that resumes, if there is something to resume."""
        if self._lock.closed:
            return
        if _holds_nothing(self.path):
            shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()

    def _acquire(self):
        """The locked lock file, which keeps other processes out until it is closed."""
        with _explained_refusal(self.output_dir):
            if not _is_workspace(self.path):
                raise NeuronMMError(
                    f"{self.path} exists and is not of a compression. Move it away, or choose another output."
                )
            return _locked_for_writing(self.path, self.output_dir)

    @contextmanager
    def _written_whole(self, name: str) -> Iterator[Path]:
        temporary = self.path / f"{name}.part"
        with explained_disk_errors(self.path):
            yield temporary
            os.replace(temporary, self.path / name)

    def _empty(self) -> None:
        for entry in self.path.iterdir():
            if entry.name == _LOCK:
                continue
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


@contextmanager
def sole_writer(output_dir: Path) -> Iterator[None]:
    """Keeps other runs from the same output, which is checked as by `check_output_dir`.

    Raises:
        NeuronMMError: another process writes it, or it is no output to write to.
    """
    check_output_dir(output_dir)
    hidden = hidden_path(output_dir, output_dir.parent, "export")
    with _explained_refusal(output_dir):
        lock = _locked_for_writing(hidden, output_dir)
    try:
        check_output_dir(output_dir)  # another run may have finished in between
        yield
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        lock.close()


@contextmanager
def intermediate(output_dir: Path, name: str) -> Iterator[Path]:
    """Where to write a directory that the output is made from: in a hidden one beside it, which other runs are kept out of.

    It is gone once the context ends without an error. Until then a run of the same name finds what was finished; what runs
    of other names left is removed.

    Raises:
        NeuronMMError: another process works in it.
    """
    hidden = _intermediate_path(output_dir)
    with _explained_refusal(output_dir):
        lock = _locked_for_writing(hidden, output_dir)
    try:
        directory = hidden / name
        kept = (_LOCK, name, workspace_path(directory).name)
        for entry in hidden.iterdir():
            if entry.name not in kept:
                shutil.rmtree(entry)
        yield directory
        shutil.rmtree(hidden, ignore_errors=True)
    finally:
        if hidden.is_dir() and [entry.name for entry in hidden.iterdir()] == [_LOCK]:
            shutil.rmtree(hidden, ignore_errors=True)
        lock.close()


def remove_intermediate(output_dir: Path) -> None:
    """Removes what `intermediate` left where no process works in it."""
    hidden = _intermediate_path(output_dir)
    lock = lock_directory(hidden) if hidden.is_dir() else None
    if lock is not None:
        shutil.rmtree(hidden, ignore_errors=True)
        lock.close()


def _intermediate_path(output_dir: Path) -> Path:
    return hidden_path(output_dir, output_dir.parent, "intermediate")


def hidden_path(output_dir: Path, folder: Path, purpose: str) -> Path:
    """A hidden directory in `folder`, always the same one for an output and a purpose, however long the output's name."""
    digest = hashlib.sha256(os.fsencode(output_dir.name)).hexdigest()[:8]
    return folder / f".{output_dir.name[:40]}-{digest}.{purpose}"


def lock_directory(directory: Path, wait: bool = False):
    """Makes a hidden directory and returns its locked lock file, or None where another process has it.

    It keeps others out until it is closed. Its owner may remove the directory before that, and who waited tries again.

    Raises:
        OSError: the directory cannot be made.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = None
    try:
        lock = open(directory / _LOCK, "w")
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        # Its owner may have removed it after it was opened here.
        if os.path.samestat(os.fstat(lock.fileno()), os.stat(directory / _LOCK)):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    if lock is not None:
        lock.close()
    return None


def _locked_for_writing(directory: Path, output_dir: Path):
    lock = lock_directory(directory)
    if lock is None:
        raise NeuronMMError(f"Another process is writing {output_dir}. Wait for it, or choose another.")
    return lock


@contextmanager
def _explained_refusal(output_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NeuronMMError(f"{output_dir} cannot be written: {error}.") from error


def workspace_path(output_dir: Path) -> Path:
    return output_dir.parent / f".{output_dir.name}.neuronmm"


def check_output_dir(output_dir: Path) -> None:
    """Refuses an output that exists with content, or that could not be created.

    Beside a finished output, what is left of its workspace is removed, and of what it was made from: its process died while
    it cleaned up.
    """
    left = workspace_path(output_dir)
    if _read_state(left).get("published") and not (left / _RESULT).exists():
        shutil.rmtree(left, ignore_errors=True)
    try:
        if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
            remove_intermediate(output_dir)
            raise NeuronMMError(f"{output_dir} exists and is not empty. Choose another output, or remove it.")
        parent = _existing_parent(output_dir)
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise NeuronMMError(f"{output_dir} cannot be created: {parent} is not a directory that you may write to.")
    except OSError as error:
        raise NeuronMMError(f"{output_dir} cannot be created: {error.strerror}.") from error
    if output_dir.is_mount():
        raise NeuronMMError(
            f"{output_dir} is where a disk is mounted, and the finished directory could not take its place. Choose a "
            "directory inside it."
        )


def check_disk_space(output_dir: Path, needed: int) -> None:
    """Refuses to begin where `needed` bytes, with what an interrupted run has written, are not free for the output."""
    written = sum(path.stat().st_size for path in workspace_path(output_dir).rglob("*") if path.is_file())
    free = shutil.disk_usage(_existing_parent(output_dir)).free
    if free + written < needed:
        raise NeuronMMError(
            f"Not enough disk space for {output_dir}: about {needed / 1e9:.1f} GB are needed while compressing, "
            f"{free / 1e9:.1f} GB are free. Free some, or choose an output on another disk."
        )


@contextmanager
def explained_disk_errors(path: Path) -> Iterator[None]:
    """Turns a full disk into an error that says that the run can be resumed."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _disk_full(path) from error
        raise
    except Exception as error:  # safetensors raises its own class, with the system's error number in its message
        number = re.search(r"os error (\d+)", str(error))
        if number and int(number[1]) in _FULL:
            raise _disk_full(path) from error
        raise


def _disk_full(path: Path) -> NeuronMMError:
    return NeuronMMError(
        f"No space left on the disk of {path}. What was finished is kept: free some space and run the same command again."
    )


def _holds_nothing(workspace: Path) -> bool:
    return all(entry.name in (_STATE, _LOCK) or entry.suffix == ".part" for entry in workspace.iterdir())


def _is_workspace(path: Path) -> bool:
    """Whether a directory, if there is one, may be taken over and emptied."""
    if path.is_symlink():
        return False
    return not path.is_dir() or (path / _STATE).is_file() or _holds_nothing(path)


def _existing_parent(output_dir: Path) -> Path:
    return next(parent for parent in output_dir.parents if parent.exists())


def _read_state(workspace: Path) -> dict:
    """What state.json of a workspace says; nothing where there is none or it is damaged."""
    try:
        state = json.loads((workspace / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}
