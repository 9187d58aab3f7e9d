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
import torch

from ..parallel_layers.mappings import _gather_along_dim
from ..parallel_layers.parallel_state import get_tensor_model_parallel_group


def topk(tensor, k, dim, gather_dim, process_group=None, stages=1, rank_id=None, **_):
    """As in the real operator k is taken of every shard first: k may not exceed the shard's size."""
    assert dim == gather_dim and stages == 1
    group = process_group or get_tensor_model_parallel_group()
    values, indices = torch.topk(tensor, k, dim=dim)
    if group.size() == 1:
        return values, indices
    values, indices = (_gather_along_dim(t, gather_dim, group) for t in (values, indices))
    shape = [1] * tensor.dim()
    shape[dim] = -1
    offset = torch.arange(group.size()).mul(tensor.shape[dim]).repeat_interleave(k).view(shape)
    values, best = torch.topk(values, k, dim=dim)
    return values, torch.gather(indices + offset, dim, best)
