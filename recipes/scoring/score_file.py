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
"""Scores that were measured before: one JSON line an example, so that an interrupted run goes on where it was."""

import hashlib
import json
import os
from pathlib import Path

from optimum_neuronmm.errors import NeuronMMError


class ScoreFile:
    """The scores of one model on one task.

    The name of the file holds a hash of everything that decides the scores; scores of other settings are in other files.

    Attributes:
        known: id of an example -> what was measured.
    """

    def __init__(self, directory: Path, label: str, settings: dict):
        """
        Args:
            directory: made where it is not there.
            label: begins the file's name, for a person who looks for it.
            settings: everything that decides the scores; JSON.

        Raises:
            NeuronMMError: the file is damaged before its last line.
        """
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        self.path = directory / f"{label}-{digest[:16]}.jsonl"
        directory.mkdir(parents=True, exist_ok=True)
        self.known: dict[str, dict] = {}
        whole = self._read() if self.path.is_file() else 0
        self._file = open(self.path, "r+b" if whole else "wb", buffering=0)
        self._file.truncate(whole)  # a line that was cut off
        self._file.seek(whole)
        if not whole:
            self._write([{"settings": settings}])

    def add(self, scores: dict[str, dict]) -> None:
        """Keeps the scores of more examples. They are on disk when it returns."""
        self.known.update(scores)
        self._write([{"id": name, **score} for name, score in scores.items()])

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "ScoreFile":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _write(self, entries: list[dict]) -> None:
        content = memoryview("".join(json.dumps(entry) + "\n" for entry in entries).encode())
        try:
            while content:
                content = content[self._file.write(content) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise NeuronMMError(
                f"{self.path} could not be written ({error.strerror}). Make room, then run the same command again: what was "
                "measured is kept."
            ) from error

    def _read(self) -> int:
        """Fills `known`. Returns how many bytes of the file are whole lines."""
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                entry = json.loads(line)
                if number > 1:
                    self.known[entry.pop("id")] = entry
                elif "settings" not in entry:
                    raise KeyError("settings")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise NeuronMMError(
                    f"{self.path}, line {number}: not a score ({error!r}). Delete the file to measure again."
                ) from error
        return whole
