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
"""Compiles one kernel at one shape in a child process and compares it with its reference.

A child, because a compiler that crashes or hangs must not take the export with it, and because a process keeps the Neuron
cores that it has used. What was found is kept in `~/.cache/huggingface/neuronmm/kernels` (`HF_HOME` moves it), so that every
shape is compiled once for each version of compiler and kernels.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import torch
from huggingface_hub.constants import HF_HOME
from transformers.utils import logging

from .. import kernels
from ..errors import NeuronMMError
from .launch import can_compile, launcher


logger = logging.get_logger(__name__)

TIMEOUT = 1800  # seconds; a kernel that compiles takes seconds, or a few minutes
DIFFERS = 3  # exit status of a child whose numbers are wrong


@dataclass(frozen=True)
class Call:
    """A kernel at shapes, on a machine: what has to compile.

    Attributes:
        kernel: its name.
        tensors: (name, shape) of those that are given.
        settings: (name, value).
        dtype: `bfloat16` or `float32`.
        target: a name of `MACHINES`.
        cores: physical cores of a logical one.
    """

    kernel: str
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    settings: tuple[tuple[str, object], ...]
    dtype: str
    target: str
    cores: int

    def __str__(self) -> str:
        shapes = ", ".join(f"{name} {shape}" for name, shape in self.tensors)
        return f"{self.kernel} for {self.target} ({self.cores} core{'s' * (self.cores > 1)}), {self.dtype}, {shapes}"

    @property
    def digest(self) -> str:
        """Identity of what was tried: the call, the compiler and the kernels' source."""
        content = json.dumps([asdict(self), _versions()], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def probe(call: Call) -> str | None:
    """What is wrong with a kernel call, naming the shape and the log, or None where it works.

    Raises:
        NeuronMMError: the log cannot be written.
    """
    folder = Path(HF_HOME) / "neuronmm" / "kernels"
    log, verdict = folder / f"{call.kernel}-{call.digest}.log", folder / f"{call.kernel}-{call.digest}.json"
    try:
        failure = json.loads(verdict.read_text(encoding="utf-8"))["failure"]
    except (OSError, ValueError, KeyError, TypeError):
        logger.warning(f"Trying {call}.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            failure = _try_in_child(call, log)
            partial = verdict.with_suffix(f".{os.getpid()}.partial")
            partial.write_text(json.dumps({"call": str(call), "failure": failure}), encoding="utf-8")
            os.replace(partial, verdict)
        except OSError as error:
            raise NeuronMMError(
                f"What is found out about kernels is kept in {folder}, which cannot be written ({error}): set HF_HOME to "
                "another folder, or use kernel='compiler'."
            ) from error
    return failure and f"{call}: {failure} (log: {log}; delete {verdict.name} beside it to try again)"


def _try_in_child(call: Call, log: Path) -> str | None:
    command = [sys.executable, "-m", __name__, json.dumps(asdict(call))]
    with open(log, "w", encoding="utf-8") as output:
        # In a session of its own, with which the processes of the compiler end as well.
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = child.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            return f"it was not done after {TIMEOUT} seconds"
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    if status == 0:
        return None
    return "it computes other numbers than its reference" if status == DIFFERS else f"it failed with status {status}"


@cache
def _versions() -> list[str]:
    source = hashlib.sha256()
    for folder in kernels.__path__:
        for file in sorted(Path(folder).rglob("*.py")):
            source.update(file.read_bytes())
    compiler = import_module("neuronxcc").__version__ if can_compile() else "simulator"
    return [compiler, torch.__version__, source.hexdigest()]


def _main(text: str) -> int:
    """The child: prints what it measures, and returns its exit status."""
    fields = json.loads(text)
    tensors = tuple((name, tuple(shape)) for name, shape in fields.pop("tensors"))
    call = Call(**{**fields, "tensors": tensors, "settings": tuple(map(tuple, fields["settings"]))})
    print(call, flush=True)
    kernel = kernels.KERNELS[call.kernel]
    tensors, settings = _inputs(call), dict(call.settings)
    y = (_on_device if can_compile() else _simulated)(call, kernel, tensors, settings)
    if y is None:
        print("It compiles. There is no Neuron device here to compare its numbers on.")
        return 0
    exact = _reference(kernel, {name: tensor.float() for name, tensor in tensors.items()}, settings)
    theirs = _reference(kernel, tensors, settings)
    ours, allowed = _error(y, exact), 2 * _error(theirs, exact) + 1e-6
    print(f"relative error {ours:.3g} against float32, at most {allowed:.3g} allowed")
    return 0 if ours <= allowed else DIFFERS  # not-a-number is never at most anything


def _inputs(call: Call) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in call.tensors}
    # Weights of a size that keeps activations near 1.
    scaled = {name: t if name.startswith("x") or t.ndim < 2 else t / t.shape[0] ** 0.5 for name, t in drawn.items()}
    return {name: tensor.to(getattr(torch, call.dtype)) for name, tensor in scaled.items()}


def _reference(kernel, tensors: dict, settings: dict) -> torch.Tensor:
    return kernel.reference(**{**dict.fromkeys(kernel.absent), **tensors}, **settings).float()


def _error(y: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative error in the Frobenius norm."""
    return ((y.float() - exact).norm() / exact.norm()).item()


def _simulated(call: Call, kernel, tensors: dict, settings: dict) -> torch.Tensor:
    given = {**dict.fromkeys(kernel.absent), **tensors}
    return launcher(call.target, call.cores)(kernel, **given, **settings)


def _on_device(call: Call, kernel, tensors: dict, settings: dict) -> torch.Tensor | None:
    """Compiled as a graph of its own; None where there is no device to run it on."""
    import torch_neuronx
    from optimum.neuron.utils.system import get_neuron_major

    class Graph(torch.nn.Module):
        def forward(self, *values):
            given = {**dict.fromkeys(kernel.absent), **dict(zip(tensors, values, strict=True))}
            return launcher(call.target, call.cores)(kernel, **given, **settings)

    arguments = ["--auto-cast=none", "--target", call.target, f"--lnc={call.cores}"]
    values = tuple(tensors.values())
    traced = torch_neuronx.trace(Graph().eval(), values, compiler_args=arguments)
    return None if get_neuron_major() == -1 else traced(*values)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
