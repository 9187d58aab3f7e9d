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
"""The NKI kernels, their plans and their simulator: what the files of `kernels/` offer, under one name.

`kernels/` has no `__init__.py` (in a checkout it would shadow a package of that name), so this module is its door: it serves
the names below lazily, and finds the files beside itself where the package is installed and beside the package in a checkout.
"""

import importlib
from pathlib import Path


_HERE = Path(__file__).resolve().parent
__path__ = [str(folder) for folder in (_HERE / "kernels", _HERE.parent / "kernels") if folder.is_dir()]

_EXPORTS = {
    "dense": ("matmul", "matmul_blocked", "matmul_tiled"),
    "low_rank": ("low_rank_fused", "low_rank_naive", "low_rank_sequential"),
    "gated_mlp": ("gated_matmul", "mlp", "mlp_decode", "mlp_up"),
    "pipeline": ("Pipeline", "mlp_two_kernels"),
    "kernel": ("KERNELS", "Kernel", "Spec"),
    "plan": ("MatmulPlan", "Plan"),
    "tiling": ("Blocks",),
    "machine": ("MACHINES", "Machine", "get_machine"),
    "errors": ("DialectError", "KernelError", "PlanError", "SimulationError"),
    "latency": ("Prediction", "predict"),
    "simulator": ("Simulation", "check_orders", "simulate"),
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__():
    return sorted({*globals(), *__all__})
