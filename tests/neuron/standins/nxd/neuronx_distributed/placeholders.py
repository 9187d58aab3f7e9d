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
"""Names that optimum-neuron imports and decoder inference never calls (training, mixture of experts)."""

import importlib
import sys
import types


NAMES = """
neuronx_distributed.modules.moe.expert_mlps: ExpertMLPs
neuronx_distributed.modules.moe.expert_mlps_v2: ExpertMLPsV2
neuronx_distributed.modules.moe.model: MoE
neuronx_distributed.modules.moe.moe_configs: RoutedExpertsMLPOpsConfig
neuronx_distributed.modules.moe.routing: RouterTopK
neuronx_distributed.modules.moe.shared_experts: SharedExperts
neuronx_distributed.modules.qkv_linear: GQAQKVColumnParallelLinear
neuronx_distributed.kernels.flash_attn: nki_flash_attn_func
neuronx_distributed.parallel_layers.grads: bucket_allreduce_gradients clip_grad_norm
neuronx_distributed.parallel_layers.layers: create_local_weight
neuronx_distributed.parallel_layers.mappings: gather_from_sequence_parallel_region scatter_to_sequence_parallel_region
neuronx_distributed.parallel_layers.parallel_state: get_data_parallel_group get_data_parallel_rank
neuronx_distributed.parallel_layers.parallel_state: get_data_parallel_replica_groups get_data_parallel_size
neuronx_distributed.parallel_layers.parallel_state: get_pipeline_model_parallel_group get_pipeline_model_parallel_rank
neuronx_distributed.parallel_layers.parallel_state: get_pipeline_model_parallel_replica_groups get_pipeline_model_parallel_size
neuronx_distributed.parallel_layers.parallel_state: get_tensor_model_parallel_replica_groups get_context_model_parallel_size
neuronx_distributed.parallel_layers.utils: EmbeddingUtility get_local_world_size move_all_tensor_to_cpu move_model_to_device
neuronx_distributed.pipeline: NxDPPModel
neuronx_distributed.pipeline.partition: analyze_shared_weights_across_stages
neuronx_distributed.pipeline.trace: HFTracerWrapper NxDTracer trace_model
neuronx_distributed.utils.model_utils: LogicalNCConfig get_platform_lnc move_model_to_device
torch_xla.distributed.parallel_loader: MpDeviceLoader
torch_xla.utils.checkpoint: checkpoint
torch_xla.distributed.xla_backend:
torch_xla.utils.serialization:
"""


def _placeholder(name):
    def __init__(self, *args, **kwargs):
        raise NotImplementedError(f"{name} is outside the CPU stand-in")

    return type(name.rsplit(".", 1)[-1], (), {"__init__": __init__, "__module__": name.rsplit(".", 1)[0]})


def _module(name):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        parent, _, leaf = name.rpartition(".")
        module = types.ModuleType(name)
        module.__path__ = []
        sys.modules[name] = module
        setattr(_module(parent), leaf, module)
        return module


def install():
    for line in NAMES.strip().splitlines():
        module_name, _, names = line.partition(":")
        module = _module(module_name)
        for name in names.split():
            setattr(module, name, _placeholder(f"{module_name}.{name}"))
