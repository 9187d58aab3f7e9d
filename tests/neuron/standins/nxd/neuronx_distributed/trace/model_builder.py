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
"""ModelBuilder: adding graphs and sharding weights in plain torch; `torch_neuronx.standin` compiles."""

import os
import warnings
from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from torch_neuronx.standin import runtime

from ..parallel_layers.layers import BaseParallelLinear, ParallelEmbedding, SPMDRank
from ..parallel_layers.utils import divide


SHARDED = (BaseParallelLinear, ParallelEmbedding, SPMDRank)


class BaseModelInstance:
    def __init__(self, module_cls, input_output_aliases):
        self.module_cls = module_cls
        self.module = None
        self.input_output_aliases = [input_output_aliases]

    def load_module(self):
        self.module = self.module_cls()

    def get(self, bucket_rank, **kwargs):
        return self.module, self.input_output_aliases[0]


def _children(module, prefix):
    return [(child, f"{prefix}{name}.") for name, child in module._modules.items() if child is not None]


def invoke_preshard_hook(module, checkpoint, prefix):
    """Lets modules change the whole checkpoint (padding, replicated heads). Below a hook, no other hook is called."""
    if hasattr(module, "preshard_hook"):
        module.preshard_hook(checkpoint, prefix + "weight")
        if getattr(module, "add_bias", False):
            module.preshard_hook(checkpoint, prefix + "bias")
        return
    for child, child_prefix in _children(module, prefix):
        invoke_preshard_hook(child, checkpoint, child_prefix)


def cast_weights(checkpoint, model):
    """Casts weights to the dtypes of the parameters. Buffers are not cast."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in checkpoint:
            checkpoint[name] = checkpoint[name].to(parameter.dtype)


def local_shard(rank, parameter, full):
    """What `rank` holds of a weight: of every stride its slice, or its slices of fused queries, keys and values."""
    dim, count = parameter.partition_dim, parameter.num_partitions
    rank %= count
    if hasattr(parameter, "fused_qkv"):
        queries = parameter.num_attention_heads * parameter.head_dim
        keys = parameter.num_key_value_heads * parameter.head_dim
        parts = torch.split(full, [queries, keys, keys], dim=dim)
        return torch.cat([part.split(divide(part.shape[dim], count), dim=dim)[rank] for part in parts], dim=dim)
    slices = full.split(divide(full.shape[dim] // count, parameter.partition_stride), dim=dim)[rank::count]
    return torch.cat(slices, dim=dim) if parameter.partition_stride > 1 else slices[0]


def shard_children(module, checkpoint, prefix, rank):
    """Replaces whole weights by those of one rank. Parameters of modules that are not parallel layers stay whole."""
    for child, child_prefix in _children(module, prefix):
        shard_children(child, checkpoint, child_prefix, rank)
    if not isinstance(module, SHARDED):
        return
    for name, parameter in module.named_parameters(recurse=False):
        key = prefix + name
        if key not in checkpoint:
            continue
        if getattr(parameter, "tensor_model_parallel", False):
            checkpoint[key] = local_shard(rank, parameter, checkpoint[key])
        if checkpoint[key].shape != parameter.shape:
            raise RuntimeError(f"expected shape {parameter.shape} for {key} but found {checkpoint[key].shape}")


class ModelBuilder:
    def __init__(
        self,
        router,
        tp_degree,
        checkpoint_loader,
        start_rank_id=0,
        pp_degree=1,
        ep_degree=1,
        local_ranks_size=None,
        world_size=None,
        compiler_workdir=None,
        debug=False,
        logical_nc_config=1,
        weights_to_skip_layout_optimization=(),
    ):
        self.start_rank_id = start_rank_id
        self.local_ranks_size = local_ranks_size or world_size or tp_degree * pp_degree * ep_degree
        self.checkpoint_loader = checkpoint_loader
        self.degrees = {
            "tensor_model_parallel_size": tp_degree,
            "pipeline_model_parallel_size": pp_degree,
            "expert_model_parallel_size": ep_degree,
            "lnc_size": logical_nc_config,
        }
        self.model_collection = {}

    def add(
        self, key, model_instance, example_inputs, compiler_args=None, bucket_config=None, priority_model_idx=None
    ):
        if bucket_config is not None:
            raise NotImplementedError("the stand-in has no buckets")
        self.model_collection[key] = SimpleNamespace(
            model_instance=model_instance, example_inputs=example_inputs, compiler_args=compiler_args
        )
        return self

    def trace(self, initialize_model_weights=True, dry_run=False):
        if initialize_model_weights or dry_run:
            raise NotImplementedError("the stand-in compiles, and leaves the weights to initialize()")
        return runtime.compile_graphs(self.model_collection, self.degrees, self.local_ranks_size)

    def shard_checkpoint(self, serialize_path=None):
        instance = next(iter(self.model_collection.values())).model_instance
        with runtime.parallel_state(self.degrees), torch.device("meta"):
            instance.load_module()
            model, _ = instance.get(0)
        checkpoint = self.checkpoint_loader()
        invoke_preshard_hook(model, checkpoint, "")
        redundant = [name for name in checkpoint if name not in model.state_dict()]
        warnings.warn(f"Removing redundant keys from checkpoint: {redundant}", stacklevel=2)
        for name in redundant:
            del checkpoint[name]
        cast_weights(checkpoint, model)
        shards = []
        for rank in range(self.start_rank_id, self.start_rank_id + self.local_ranks_size):
            shard = dict(checkpoint)
            shard_children(model, shard, "", rank)
            if serialize_path is not None:
                os.makedirs(serialize_path, exist_ok=True)
                path = os.path.join(serialize_path, f"tp{rank}_sharded_checkpoint.safetensors")
                save_file({name: weight.contiguous().clone() for name, weight in shard.items()}, path)
            shards.append(shard)
        return shards
