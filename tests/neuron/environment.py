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
"""Where these tests run: on a Neuron device, or on a CPU over stand-ins for the Neuron SDK."""

import importlib
import importlib.metadata
import os
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
STANDINS = Path(__file__).resolve().parent / "standins"
COMMAND = "python tests/neuron"


def sdk() -> tuple[str | None, str]:
    """`device` or `standins`, or None with the reason why these tests cannot run in this process."""
    if not has_optimum_neuron():
        return None, "optimum-neuron is not installed; it supports Python 3.10 and 3.11"
    version = sdk_version()
    if version is None:
        return None, f"the Neuron SDK is not installed: `{COMMAND}` runs these tests over stand-ins for it"
    if version.endswith("+standin"):
        return "standins", ""
    if not Path("/dev/neuron0").exists():
        return None, f"torch-neuronx {version} is installed, but there is no Neuron device"
    return "device", ""


def has_optimum_neuron() -> bool:
    try:
        return bool(importlib.metadata.version("optimum-neuron"))
    except importlib.metadata.PackageNotFoundError:
        return False


def sdk_version() -> str | None:
    """The version of the SDK's torch-neuronx or of its stand-in. What PyPI has under that name is neither."""
    try:
        version = importlib.metadata.version("torch-neuronx")
        importlib.import_module("torch_neuronx")  # that of PyPI raises, and says where the SDK is
    except Exception:
        return None
    return version


def standins_environment(cache: str | Path, machine: str = "trn1:32") -> dict[str, str]:
    """The environment of a process over the stand-ins, on a `machine` with so many cores, compiling into `cache`."""
    paths = [str(STANDINS / "nxd"), str(STANDINS / "sdk"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return os.environ | {
        "HF_HUB_OFFLINE": "1",
        "NEURON_COMPILE_CACHE_URL": str(cache),
        "NEURON_PLATFORM_TARGET_OVERRIDE": machine.split(":")[0],
        "NEURON_STANDIN_MACHINE": machine,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "USE_TORCH_XLA": "0",  # or transformers and accelerate would use the stand-in of torch_xla
    }


def child_environment(**changes: str) -> dict[str, str]:
    """The environment of a child process: it runs where this one does. Upstream starts a bare `python3`: ours."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return os.environ | {"PATH": path} | changes
