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
"""Counts of the simulator as rows of a table."""

from optimum_neuronmm.kernels import KernelError, simulate
from optimum_neuronmm.kernels.cost import padding
from optimum_neuronmm.kernels.latency.instructions import documented


TARGET = "trn1"
ENGINES = ("TensorE", "VectorE", "ScalarE", "DMA")


def counted(run) -> dict:
    """The columns that every kernel has, of a simulation."""
    seconds = documented(run.machine).busy(run.trace)
    plans = run.plan if isinstance(run.plan, tuple) else (run.plan,)
    return {
        "B_M": "/".join(str(plan.B_M) for plan in plans),
        "GFLOP": run.flops / 1e9,
        "transpose GFLOP": run.transpose_flops / 1e9,
        "HBM MB": run.hbm_bytes / 1e6,
        "FLOP/byte": run.intensity,
        "in runs >= 2 KiB %": 100 * run.trace.bytes_in_runs_of(2048),
        "SBUF %": 100 * run.sbuf_peak / run.machine.sbuf,
        "spills": run.spills,
        "padding %": 100 * padding(run.trace),
        **{f"{engine} busy ms": 1e3 * seconds[engine] for engine in ENGINES},
    }


def dry(kernel, *tensors, options: dict | None = None, **settings):
    """A dry run, or None and a line that says why there is none."""
    try:
        if options:
            settings["plan"] = kernel.plan(*tensors, target=TARGET, options=options, **settings)
        return simulate(kernel, *tensors, target=TARGET, dry=True, **settings)
    except KernelError as error:
        print(f"  {kernel.name}: {error}")
        return None
