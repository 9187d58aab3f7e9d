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
"""One kernel on one NeuronCore, timed by `nki.benchmark` of NKI Beta 1 (Neuron SDK 2.26, `neuronxcc.nki`)."""

import glob
import importlib.metadata
import math
import os
import platform
import re
import shutil
from pathlib import Path

import numpy as np

from optimum_neuronmm.kernels import Kernel, KernelError
from optimum_neuronmm.kernels.dialect import find_neuronxcc


DEVICES = "/dev/neuron[0-9]*"
PRODUCT = Path("/sys/devices/virtual/dmi/id/product_name")  # the instance type, on EC2
TOOLS = "/opt/aws/neuron/bin"
PERCENTILES = (0, 1, 10, 25, 50, 90, 99, 100)  # those that nki.benchmark has
PACKAGES = ("optimum-neuronmm", "neuronx-cc", "libneuronxla", "numpy")


def find_benchmark():
    """(nki, nki.language) of an SDK that can time a kernel here.

    Raises:
        KernelError: something is missing; the message says all of it.
    """
    found = find_neuronxcc()
    missing = []
    if found is None:
        missing.append("neuronx-cc 2.21 (Neuron SDK 2.26) from the Neuron repository, with `neuronxcc.nki`")
    elif not hasattr(found[0], "benchmark"):
        missing.append(
            "`neuronxcc.nki.benchmark`, which this neuronx-cc does not have: install 2.21 (Neuron SDK 2.26)"
        )
    if not glob.glob(DEVICES):
        missing.append(f"a Neuron device ({DEVICES}): a trn1, inf2 or trn2 instance with its driver")
    if not shutil.which("neuron-bench", path=os.pathsep.join([os.environ.get("PATH", ""), TOOLS])):
        missing.append("`neuron-bench`, of the system package aws-neuronx-tools")
    if missing:
        raise KernelError(
            f"kernels cannot be measured here. Missing: {'; '.join(missing)}. `--dry` prints the predictions without them"
        )
    return found[0], found[1]


def instance_type() -> str | None:
    """Such as `trn1.2xlarge`, or None on another machine."""
    try:
        name = PRODUCT.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return name if re.fullmatch(r"(trn|inf)\d\w*\.\w+", name) else None


def versions() -> dict[str, str]:
    """Of Python and of the packages that a timing depends on, where they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def measure(modules, case, plan, warmup: int, iters: int, neff: Path | None = None) -> dict[str, float]:
    """Microseconds of a case on one NeuronCore, by percentile.

    Args:
        modules: (nki, nki.language), see `find_benchmark`.
        neff: where the compiled kernel is kept, for neuron-profile.

    Raises:
        Exception: whatever the compiler and the tools raise.
    """
    nki, nl = modules
    options = {"save_neff_name": str(neff)} if neff else {}
    arrays = {
        # The data plays no part: nki.benchmark does not hand it to the device.
        name: nl.static_cast(np.zeros(spec.shape, np.float32), getattr(nl, spec.dtype))
        for name, spec in case.tensors.items()
    }
    timed = nki.benchmark(warmup=warmup, iters=iters, **options)
    if isinstance(case.kernel, Kernel):
        timed = timed(case.kernel.compiled)
        timed(*(arrays.get(name) for name in case.kernel.tensors), **case.settings, plan=plan)
    else:
        timed = timed(nki.jit(case.kernel))
        timed(*arrays.values())
    latency = timed.benchmark_result.nc_latency
    found = {str(p): float(latency.get_latency_percentile(p)) for p in PERCENTILES}
    if not all(math.isfinite(value) and value > 0 for value in found.values()):
        raise KernelError(f"nki.benchmark gave {found}: expected microseconds above 0")
    return found
