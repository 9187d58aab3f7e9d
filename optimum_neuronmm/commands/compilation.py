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
"""Compiling in a child process, for which the instance to compile for is set before anything imports the Neuron SDK."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import NeuronMMError
from ..processes import python_command


MODULE = "optimum_neuronmm.commands.child"
_ENVIRONMENT = {"TORCHDYNAMO_DISABLE": "1"}  # as optimum-neuron's own exporter: it does not go with Neuron
# What asks a program to end. By default these two would end this one, and leave the child behind.
_ENDING = (signal.SIGTERM, signal.SIGHUP)


def compile_in_child(model: str, output: Path, options: dict, **compilation) -> None:
    """Runs `neuron.export.export` on its arguments, and ends the program with its status where that is not 0.

    What a user typed travels as one argument, never through a shell.

    Raises:
        NeuronMMError: the child was killed.
    """
    request = {"model": model, "output": str(output), "options": options, **compilation}
    with _interruptible():
        # A session of its own: Ctrl-C reaches it once, through `_wait`, and it can put away what is half-written.
        command = python_command(MODULE, json.dumps(request))
        child = subprocess.Popen(command, env=os.environ | _ENVIRONMENT, start_new_session=True)
        status = _wait(child)
    if status == -signal.SIGINT:  # it was interrupted before it could say so
        raise KeyboardInterrupt
    if status < 0:
        raise NeuronMMError(
            f"the compilation was killed by signal {-status} ({signal.strsignal(-status)}). If this machine ran out of memory, "
            "compile on a larger one: the artifact runs on the smaller one too."
        )
    if status:
        sys.exit(status)  # the child has said why


def _wait(child: subprocess.Popen) -> int:
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            try:
                os.killpg(child.pid, signal.SIGINT)  # compilers that it has started too, as the terminal would
            except ProcessLookupError:
                pass


@contextmanager
def _interruptible() -> Iterator[None]:
    """Has a request to end interrupt, as Ctrl-C does."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    ending = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]  # nohup ignores one
    for number in ending:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in ending:
            signal.signal(number, signal.SIG_DFL)
