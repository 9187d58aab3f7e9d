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
"""The file of `device.py`: one record for each case, written as soon as there is one, fit to be sent in."""

import getpass
import json
import os
import re
import socket
from pathlib import Path

from optimum_neuronmm.kernels import KernelError


FORMAT = "optimum-neuronmm device timings 1"
RUNNING = "the process ended while this case ran"
_PATH = re.compile(r"(?<![\w.])[~.]{0,2}(?:/[^\s/:;,'\"()\[\]<>]+)+/?")
LONGEST = 600  # characters of a message


def anonymous(message: str) -> str:
    """A message without paths, and without the names of the host and the user."""
    message = _PATH.sub("PATH", message)
    for name, private in (("HOST", socket.gethostname()), ("USER", _user())):
        if len(private) > 2:
            message = re.sub(rf"\b{re.escape(private)}\b", name, message)
    return message if len(message) <= LONGEST else f"{message[:LONGEST]}..."


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


class Timings:
    """Records by the name of their case.

    Args:
        path: of a JSON file, which may exist.
        where: what the timings depend on: instance type, machine, versions, iterations.

    Raises:
        KernelError: the file is not of this form, or was measured somewhere else.
    """

    def __init__(self, path: Path, where: dict):
        self.path, self.where = path, where
        self.records: dict[str, dict] = self._read() if path.exists() else {}

    def _read(self) -> dict[str, dict]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise KernelError(f"{self.path} cannot be read ({error}): choose another file") from None
        if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("cases"), list):
            raise KernelError(f"{self.path} was not written by this script: choose another file")
        other = {name: value for name, value in self.where.items() if found.get(name) != value}
        if other:
            there = {name: found.get(name) for name in other}
            raise KernelError(f"{self.path} was measured with {there}, and here is {other}: choose another file")
        try:
            return {record["case"]: record for record in found["cases"]}
        except (TypeError, KeyError):
            raise KernelError(f"{self.path} has a record without its case: choose another file") from None

    def put(self, record: dict) -> None:
        """Writes a record, in the place of one of the same case."""
        self.records[record["case"]] = record
        self._write()

    def drop(self, case: str) -> None:
        del self.records[case]
        self._write()

    def _write(self) -> None:
        whole = {"format": FORMAT, **self.where, "cases": list(self.records.values())}
        unfinished = self.path.with_name(f"{self.path.name}.unfinished")
        unfinished.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        os.replace(unfinished, self.path)
