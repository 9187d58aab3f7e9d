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
"""Parallel layers for inference: no sequence parallelism, no deferred bias."""

import torch
import torch.nn.functional as F
from torch import nn

from . import mappings
from .parallel_state import get_tensor_model_parallel_group, get_tensor_model_parallel_size
from .utils import divide, get_padding_length, set_tensor_model_parallel_attributes


def _refuse(**options):
    if given := sorted(name for name, value in options.items() if value):
        raise NotImplementedError(f"the stand-in has no {', '.join(given)}")


class BaseParallelLayer(nn.Module):
    """The sharder cuts the parameters of these layers where `set_tensor_model_parallel_attributes` says so."""

    def __init__(self, device=None):
        super().__init__()
        get_tensor_model_parallel_group()  # fails where parallel state is missing; the real class would not shard at all

    def _parameter(self, shape, dtype, dim, world, device=None, stride=1):
        weight = nn.Parameter(torch.empty(*shape, dtype=dtype, device=device))
        if weight.device.type != "meta":
            nn.init.normal_(weight, std=0.02)
        set_tensor_model_parallel_attributes(weight, True, dim, stride, world)
        return weight

    def _check_pad(self):
        if self.pad and self.training:
            raise RuntimeError("`pad=True` is only supported for inference. Set model.eval()")


class BaseParallelLinear(BaseParallelLayer):
    pass


class ParallelEmbedding(BaseParallelLayer):
    def __init__(
        self,
        num_embeddings,
        embedding_dim,
        padding_idx=None,
        dtype=torch.float32,
        device=None,
        shard_across_embedding=False,
        pad=False,
        tensor_model_parallel_group=None,
        **unsupported,
    ):
        super().__init__(device=device)
        _refuse(**unsupported)
        _refuse(shard_across_vocabulary=not shard_across_embedding)
        self.group = tensor_model_parallel_group or get_tensor_model_parallel_group()
        world = self.group.size()
        self.pad = pad
        self.pad_size = get_padding_length(embedding_dim, world) if pad else 0
        self.embedding_dim = embedding_dim + self.pad_size
        self.padding_idx = padding_idx if padding_idx else None
        per_rank = divide(self.embedding_dim, world)
        self.weight = self._parameter((num_embeddings, per_rank), dtype, 1, world, device)

    def forward(self, input_):
        self._check_pad()
        out = F.embedding(input_.long(), self.weight, self.padding_idx)
        out = mappings.gather_from_tensor_model_parallel_region(out, self.group)
        return out.narrow(-1, 0, self.embedding_dim - self.pad_size) if self.pad_size else out

    def preshard_hook(self, state_dict, prefix):
        if self.pad_size:
            state_dict[prefix] = F.pad(state_dict[prefix], (0, self.pad_size))


class ColumnParallelLinear(BaseParallelLinear):
    def __init__(
        self,
        input_size,
        output_size,
        bias=True,
        gather_output=True,
        dtype=torch.float32,
        device=None,
        stride=1,
        init_method=None,
        sequence_parallel_enabled=False,
        sequence_dimension=None,
        keep_master_weight=False,
        skip_bias_add=False,
        pad=False,
        pad_alignment_size_per_rank=1,
        keep_padded_output=False,
        tensor_model_parallel_group=None,
        reduce_dtype=torch.float32,
        rank_ordering=None,
    ):
        super().__init__(device=device)
        _refuse(
            sequence_parallel_enabled=sequence_parallel_enabled,
            skip_bias_add=skip_bias_add,
            keep_padded_output=keep_padded_output,
            rank_ordering=rank_ordering,
        )
        self.tensor_parallel_group = tensor_model_parallel_group or get_tensor_model_parallel_group()
        world = self.tensor_parallel_group.size()
        self.gather_output, self.add_bias, self.pad = gather_output, bias, pad
        self.input_size, self.output_size = input_size, output_size
        if pad:
            self.pad_size = get_padding_length(output_size, pad_alignment_size_per_rank * world)
            self.output_size += self.pad_size
        self.output_size_per_partition = divide(self.output_size, world)
        self.weight = self._parameter((self.output_size_per_partition, input_size), dtype, 0, world, device, stride)
        self.bias = None
        if bias:
            size = self.output_size if gather_output else self.output_size_per_partition
            self.bias = nn.Parameter(torch.zeros(size, dtype=dtype, device=device))
            if not gather_output:
                set_tensor_model_parallel_attributes(self.bias, True, 0, stride, world)

    def forward(self, input, slice_indices=None):
        self._check_pad()
        weight = self.weight if slice_indices is None else self.weight[slice_indices, :]
        out = F.linear(input, weight)
        if self.gather_output:
            out = mappings.gather_from_tensor_model_parallel_region(out, self.tensor_parallel_group)
            if self.pad and self.pad_size:
                out = out.narrow(-1, 0, self.output_size - self.pad_size)
        return out if self.bias is None else out + self.bias

    def preshard_hook(self, state_dict, prefix):
        if not self.pad or self.pad_size == 0:
            return
        size = state_dict[prefix].shape[0]
        if self.output_size != size + self.pad_size:
            raise RuntimeError(f"State dict {prefix} is of an unexpected size {size}")
        if prefix.endswith("weight"):
            state_dict[prefix] = F.pad(state_dict[prefix], (0, 0, 0, self.pad_size))
        else:
            fill = torch.finfo(state_dict[prefix].dtype).min
            state_dict[prefix] = F.pad(state_dict[prefix], (0, self.pad_size), "constant", fill)


class RowParallelLinear(BaseParallelLinear):
    def __init__(
        self,
        input_size,
        output_size,
        bias=True,
        input_is_parallel=False,
        dtype=torch.float32,
        device=None,
        stride=1,
        init_method=None,
        sequence_parallel_enabled=False,
        sequence_dimension=None,
        keep_master_weight=False,
        skip_bias_add=False,
        pad=False,
        reduce_output=True,
        tensor_model_parallel_group=None,
        reduce_dtype=torch.float32,
        tile_cc=False,
        rank_ordering=None,
    ):
        super().__init__(device=device)
        _refuse(
            sequence_parallel_enabled=sequence_parallel_enabled,
            skip_bias_add=skip_bias_add,
            rank_ordering=rank_ordering,
        )
        self.tensor_parallel_group = tensor_model_parallel_group or get_tensor_model_parallel_group()
        world = self.tensor_parallel_group.size()
        self.input_is_parallel, self.add_bias, self.pad = input_is_parallel, bias, pad
        self.reduce_output, self.reduce_dtype = reduce_output, reduce_dtype or dtype
        self.input_size, self.output_size = input_size, output_size
        if pad:
            self.pad_size = get_padding_length(input_size, world)
            self.input_size += self.pad_size
        self.input_size_per_partition = divide(self.input_size, world)
        self.weight = self._parameter((output_size, self.input_size_per_partition), dtype, 1, world, device, stride)
        self.bias = nn.Parameter(torch.zeros(output_size, dtype=dtype, device=device)) if bias else None

    def forward(self, input_, slice_indices=None):
        self._check_pad()
        if not self.input_is_parallel:
            if self.pad and self.pad_size:
                input_ = F.pad(input_, (0, self.pad_size))
            input_ = mappings.scatter_to_tensor_model_parallel_region(input_, self.tensor_parallel_group)
        weight = self.weight if slice_indices is None else self.weight[:, slice_indices]
        out = F.linear(input_, weight)
        if self.reduce_output:
            dtype = out.dtype
            out = mappings.reduce_from_tensor_model_parallel_region(
                out.to(self.reduce_dtype), self.tensor_parallel_group
            ).to(dtype)
        return out if self.bias is None else out + self.bias

    def preshard_hook(self, state_dict, prefix):
        if not self.pad or self.pad_size == 0:
            return
        size = state_dict[prefix].shape[1]
        if self.input_size != size + self.pad_size:
            raise RuntimeError(f"State dict {prefix} is of an unexpected size {size}")
        state_dict[prefix] = F.pad(state_dict[prefix], (0, self.pad_size))


class SPMDRank(nn.Module):
    """The one way for a traced module to know its rank: a weight of which every rank gets its own element."""

    def __init__(self, world_size, tensor_model_parallel_size=None):
        super().__init__()
        self.world_size = world_size
        self.tensor_model_parallel_size = tensor_model_parallel_size or get_tensor_model_parallel_size()
        self.rank = nn.Parameter(torch.zeros(1, dtype=torch.int32), requires_grad=False)
        set_tensor_model_parallel_attributes(self.rank, True, 0, 1, world_size)

    def get_rank(self):
        return self.rank
