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
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import torch
from huggingface_hub.constants import HF_HOME
from transformers.utils import logging

from .. import kernels
from ..errors import NeuronMMError
from ..processes import python_command
from .launch import can_compile, launcher


logger = logging.get_logger(__name__)

TIMEOUT = 1800  # seconds; a kernel that compiles takes seconds, or a few minutes
# Relative error that engines may add where they approximate an activation function; a wrong operand is off by a hundred times.
APPROXIMATION = 1e-4
# Exit statuses of the child. Any other says nothing about the kernel: no memory, no free core, a broken installation.
WORKS, DIFFERS, REFUSED, COMPILES = 0, 3, 4, 5


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


@dataclass(frozen=True)
class Verdict:
    """What a trial found out.

    Attributes:
        failure: what is wrong with the kernel, or None.
        compared: its numbers were compared with the reference's.
        final: it says something about the kernel, and not about the machine at that moment.
    """

    failure: str | None = None
    compared: bool = True
    final: bool = True


def probe(call: Call) -> str | None:
    """What is wrong with a kernel call, naming the shape and the log, or None where it works.

    Raises:
        NeuronMMError: the log cannot be written.
    """
    folder = Path(HF_HOME) / "neuronmm" / "kernels"
    log, kept = folder / f"{call.kernel}-{call.digest}.log", folder / f"{call.kernel}-{call.digest}.json"
    verdict = _read(kept, call)
    if verdict is None:
        logger.warning(f"Trying {call}.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            verdict = _try_in_child(call, log)
            if verdict.final:
                _keep(verdict, call, kept)
        except OSError as error:
            raise NeuronMMError(
                f"What is found out about kernels is kept in {folder}, which cannot be written ({error}): set HF_HOME to "
                "another folder, or use kernel='compiler'."
            ) from error
    again = f"; delete {kept.name} beside it to try again" if verdict.final else ""
    return verdict.failure and f"{call}: {verdict.failure} (log: {log}{again})"


def _read(kept: Path, call: Call) -> Verdict | None:
    """What was found out before, unless more can be found out now."""
    try:
        content = json.loads(kept.read_text(encoding="utf-8"))
        verdict = Verdict(content["failure"], content["compared"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if verdict.failure is None and not verdict.compared and _can_run(call) else verdict


def _keep(verdict: Verdict, call: Call, path: Path) -> None:
    content = {"call": str(call), "failure": verdict.failure, "compared": verdict.compared}
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(content), encoding="utf-8")
    os.replace(partial, path)


def _try_in_child(call: Call, log: Path) -> Verdict:
    cores = {"NEURON_LOGICAL_NC_CONFIG": str(call.cores)}
    if "NEURON_RT_VISIBLE_CORES" not in os.environ:
        cores["NEURON_RT_NUM_CORES"] = "1"  # by default a process takes them all
    with open(log, "w", encoding="utf-8") as output:
        # In a session of its own, with which the processes of the compiler end as well.
        child = subprocess.Popen(
            python_command(__name__, json.dumps(asdict(call))),
            env=os.environ | cores,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = child.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            return Verdict(f"it was not done after {TIMEOUT} seconds", final=False)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    unfinished = Verdict(f"the trial did not come to an end, and stopped with status {status}", final=False)
    return _VERDICTS.get(status, unfinished)


@cache
def _versions() -> list[str]:
    source = hashlib.sha256()
    for folder in kernels.__path__:
        for file in sorted(Path(folder).rglob("*.py")):
            source.update(file.read_bytes())
    compiler = import_module("neuronxcc").__version__ if can_compile() else "simulator"
    return [compiler, torch.__version__, source.hexdigest()]


_VERDICTS = {
    WORKS: Verdict(),
    COMPILES: Verdict(compared=False),
    DIFFERS: Verdict("it computes other numbers than its reference"),
    REFUSED: Verdict("it does not compile"),
}


def _main(text: str) -> int:
    """The child: prints what it measures, and returns its exit status."""
    fields = json.loads(text)
    tensors = tuple((name, tuple(shape)) for name, shape in fields.pop("tensors"))
    call = Call(**{**fields, "tensors": tensors, "settings": tuple(map(tuple, fields["settings"]))})
    print(call, flush=True)
    kernel = kernels.KERNELS[call.kernel]
    tensors, settings = _inputs(call), dict(call.settings)
    try:
        run = (_compiled if can_compile() else _simulated)(call, kernel, tensors, settings)
    except (ImportError, MemoryError, OSError):
        raise  # nothing that the kernel could help
    except Exception:
        traceback.print_exc()
        return REFUSED
    if run is None:
        print(f"It compiles. There is no {call.target} here to compare its numbers on.")
        return COMPILES
    exact = _reference(kernel, {name: tensor.double() for name, tensor in tensors.items()}, settings)
    theirs = _reference(kernel, tensors, settings)
    ours, allowed = _error(run(), exact), 2 * _error(theirs, exact) + APPROXIMATION
    print(f"relative error {ours:.3g} against float64, at most {allowed:.3g} allowed")
    return WORKS if ours <= allowed else DIFFERS  # not-a-number is never at most anything


def _inputs(call: Call) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in call.tensors}
    # Weights of a size that keeps activations near 1.
    scaled = {name: t if name.startswith("x") or t.ndim < 2 else t / t.shape[0] ** 0.5 for name, t in drawn.items()}
    return {name: tensor.to(getattr(torch, call.dtype)) for name, tensor in scaled.items()}


def _reference(kernel, tensors: dict, settings: dict) -> torch.Tensor:
    return kernel.reference(**{**dict.fromkeys(kernel.absent), **tensors}, **settings)


def _error(y: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative error in the Frobenius norm."""
    return ((y.double() - exact).norm() / exact.norm()).item()


def _simulated(call: Call, kernel, tensors: dict, settings: dict) -> Callable[[], torch.Tensor]:
    y = launcher(call.target, call.cores)(kernel, **{**dict.fromkeys(kernel.absent), **tensors}, **settings)
    return lambda: y


def _compiled(call: Call, kernel, tensors: dict, settings: dict) -> Callable[[], torch.Tensor] | None:
    """Compiles the kernel as a graph of its own, and returns what runs it; None where its target is not at hand."""
    import torch_neuronx

    class Graph(torch.nn.Module):
        def forward(self, *values):
            given = {**dict.fromkeys(kernel.absent), **dict(zip(tensors, values, strict=True))}
            return launcher(call.target, call.cores)(kernel, **given, **settings)

    arguments = ["--auto-cast=none", "--target", call.target, f"--lnc={call.cores}"]
    values, runs = tuple(tensors.values()), _can_run(call)
    # On the CPU a graph is traced without a device (torch_neuronx.trace in the Neuron documentation).
    traced = torch_neuronx.trace(Graph().eval(), values, compiler_args=arguments, cpu_backend=not runs)
    return (lambda: traced(*values)) if runs else None


def _can_run(call: Call) -> bool:
    """Whether this machine has the device that a call is for."""
    if not can_compile():
        return True  # in the simulator
    from optimum.neuron.utils import instance, system

    return system.get_neuron_major() != -1 and instance.current_instance_type() == call.target


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
