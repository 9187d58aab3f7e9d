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
"""The compressed MLP as a module of optimum-neuron's decoders, and its weights from those of a checkpoint."""

from collections.abc import Mapping

import torch
from neuronx_distributed.parallel_layers.layers import BaseParallelLinear
from neuronx_distributed.parallel_layers.mappings import (
    _gather_along_dim,
    _reduce_scatter_along_dim,
    reduce_from_tensor_model_parallel_region,
)
from neuronx_distributed.parallel_layers.utils import set_tensor_model_parallel_attributes
from torch import nn

from .form import Form, Matrix
from .launch import launcher
from .program import compressed_mlp


class LowRankMLP(nn.Module):
    """Y = (activation(X gate) * (X up)) down, of projections in factors or dense.

    Args:
        form: sizes, ranks and layout of this layer.
        kernels: rows of a graph -> the kernel that it computes with; plain products where it is not listed, or None.
        dtype: of the weights.
        target: a name of `MACHINES`.
        cores: physical cores of a logical one.
    """

    def __init__(self, form: Form, kernels: Mapping[int, str | None], dtype: torch.dtype, target: str, cores: int):
        super().__init__()
        self.form, self.kernels = form, dict(kernels)
        self.launch = launcher(target, cores)
        for name, matrix in form.matrices.items():
            self.add_module(name, Weight(matrix, dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, sequence, H) -> (batch, sequence, H)."""
        rows = x.reshape(-1, self.form.H)
        weights = {name: self.get_submodule(name).weight for name in self.form.matrices}
        kernel = self.kernels.get(rows.shape[0])
        return compressed_mlp(rows, weights, self.form, kernel, self.launch, Ranks(self.form.tp)).reshape(x.shape)

    def extra_repr(self) -> str:
        return f"{self.form}, kernels={self.kernels}"


class Weight(BaseParallelLinear):
    """One rank's part of a matrix. neuronx_distributed cuts the parameters of such layers, and of no others."""

    def __init__(self, matrix: Matrix, dtype: torch.dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(matrix.local, dtype=dtype), requires_grad=False)
        if matrix.cut is not None:
            set_tensor_model_parallel_attributes(self.weight, True, matrix.cut, 1, matrix.ranks)


class Ranks:
    """The collectives of `program.Exchange`, over the tensor-parallel group. Along dimension 0, which takes no transposition."""

    def __init__(self, tp: int):
        self.tp = tp

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        return _gather_along_dim(x, 0).reshape(-1, *x.shape)

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        return reduce_from_tensor_model_parallel_region(x)

    def sum_and_scatter(self, x: torch.Tensor) -> torch.Tensor:
        M = x.shape[0]
        return _reduce_scatter_along_dim(x.reshape(M, self.tp, -1).transpose(0, 1).reshape(M * self.tp, -1), 0)
