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
class _Group:
    """As much of a ProcessGroup as a traced module sees: the graph is built once, by rank 0, and all ranks run it."""

    def __init__(self, size):
        self._size = size

    def size(self):
        return self._size

    def rank(self):
        return 0


_TENSOR_MODEL_PARALLEL_GROUP = None


def initialize_model_parallel(
    tensor_model_parallel_size=1,
    pipeline_model_parallel_size=1,
    context_parallel_size=1,
    expert_model_parallel_size=1,
    skip_collective_init=False,
    lnc_size=1,
    mesh_only=False,
):
    global _TENSOR_MODEL_PARALLEL_GROUP
    assert _TENSOR_MODEL_PARALLEL_GROUP is None, "model parallel state is already initialized"
    assert pipeline_model_parallel_size == expert_model_parallel_size == context_parallel_size == 1
    _TENSOR_MODEL_PARALLEL_GROUP = _Group(tensor_model_parallel_size)


def destroy_model_parallel():
    global _TENSOR_MODEL_PARALLEL_GROUP
    _TENSOR_MODEL_PARALLEL_GROUP = None


def model_parallel_is_initialized():
    return _TENSOR_MODEL_PARALLEL_GROUP is not None


def get_tensor_model_parallel_group(as_list=False):
    assert _TENSOR_MODEL_PARALLEL_GROUP, "intra_layer_model parallel group is not initialized"
    if as_list:
        return [list(range(_TENSOR_MODEL_PARALLEL_GROUP.size()))]
    return _TENSOR_MODEL_PARALLEL_GROUP


def get_tensor_model_parallel_size():
    return get_tensor_model_parallel_group().size()


def get_tensor_model_parallel_rank():
    return get_tensor_model_parallel_group().rank()


def get_kv_shared_group(as_list=False):
    raise NotImplementedError("flash decoding")


def get_expert_model_parallel_size():
    return 1
