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
"""A file that a command writes beside its printed output: whole, or not at all."""

import os
import secrets
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from .errors import NeuronMMError


def write_whole(path: str | Path, content: bytes) -> None:
    """Writes a file, which takes the place of an older one by one rename. Where that fails, the older one is kept.

    A symbolic link stays one, and an older file's permissions are kept. What `is_special` is written to as it is.

    Raises:
        NeuronMMError: it cannot be written.
    """
    try:
        if is_special(path):
            sys.stdout.flush()  # it may be where that goes, and what was printed comes first
            Path(path).write_bytes(content)
        else:
            _replace(Path(os.path.realpath(path)), content)
    except OSError as error:
        raise NeuronMMError(
            f"{path} could not be written: {error.strerror}. What was there is kept: see that its disk has room, or choose "
            "another file."
        ) from error


def is_special(path: str | Path) -> bool:
    """Whether there is something other than a regular file, such as a pipe or a terminal, which no file can replace."""
    return os.path.exists(path) and not os.path.isfile(path)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name[:40]}-{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
        if path.exists():
            older = path.stat()
            with suppress(OSError):  # of another user: only root may
                os.chown(temporary, older.st_uid, older.st_gid)
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
