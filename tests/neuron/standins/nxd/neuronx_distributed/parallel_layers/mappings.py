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
"""The collectives of inference. `process_group` is the tensor-parallel group unless given."""

import torch_xla.core.xla_model as xm
from torch_neuronx.standin import ranks

from .parallel_state import get_tensor_model_parallel_group


def _size(process_group):
    return (process_group or get_tensor_model_parallel_group()).size()


def _gather_along_dim(x, partition_dim, process_group=None, tile_cc=False):
    return x if _size(process_group) == 1 else ranks.all_gather(x, partition_dim)


def _reduce_scatter_along_dim(x, partition_dim, computation=xm.REDUCE_SUM, process_group=None, tile_cc=False):
    if computation != xm.REDUCE_SUM:
        raise NotImplementedError(f"the stand-in reduces by sums only, not by {computation}")
    size = _size(process_group)
    if size == 1:
        return x
    if x.shape[partition_dim] % size:
        raise RuntimeError(
            f"unable to create {size} partitions along dim {partition_dim} of tensor of shape {tuple(x.shape)} "
            "due to not being evenly divisible."
        )
    return ranks.reduce_scatter(x, partition_dim)


def gather_from_tensor_model_parallel_region(x, process_group=None):
    return _gather_along_dim(x, x.dim() - 1, process_group)


def reduce_from_tensor_model_parallel_region(x, process_group=None):
    return x if _size(process_group) == 1 else ranks.all_reduce(x)


def scatter_to_tensor_model_parallel_region(x, process_group=None):
    if _size(process_group) == 1:
        return x
    # The rank is a Python number here, and a graph is traced once for all ranks: every rank would take the slice of 0.
    raise NotImplementedError("a traced graph cannot scatter its input; pass one that is parallel already")
