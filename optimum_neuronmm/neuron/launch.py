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
"""Runs a kernel inside a traced module: through the SDK, or where there is none through the simulator."""

import torch

from ..kernels import Kernel
from ..kernels.dialect import chosen
from .program import Launch


def launcher(target: str, cores: int) -> Launch:
    """What `compressed_mlp` launches kernels with.

    Args:
        target: a name of `MACHINES`.
        cores: physical cores of a logical one, which share each kernel.
    """

    def launch(kernel: Kernel, **call) -> torch.Tensor:
        y = kernel(target=target, cores=cores, **call)
        return y if isinstance(y, torch.Tensor) else _from_numpy(y)

    return launch


def can_compile() -> bool:
    """Whether kernels run on the SDK, and not in the simulator."""
    return chosen() == "neuronxcc"


def _from_numpy(y) -> torch.Tensor:
    """An array of the simulator as a tensor; torch does not know the bfloat16 of NumPy."""
    if y.dtype.name == "bfloat16":
        return torch.from_numpy(y.view("int16").copy()).view(torch.bfloat16)
    return torch.from_numpy(y.copy())
