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
"""Bounds of what is not an MLP, against counts made by other means."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from optimum_neuronmm.neuron.form import EXCHANGE_SECONDS, Form
from optimum_neuronmm.planning import Deployment, read_model
from optimum_neuronmm.planning.roofline import Operation, kv_cache, mlp_operation, operations, other_weights


def by_name(model, deployment, prefill) -> dict[str, Operation]:
    return {operation.name: operation for operation in operations(model, deployment, prefill)}


def visible(length: int, window: int | None) -> np.ndarray:
    """The mask of causal attention."""
    query, key = np.ogrid[:length, :length]
    return (key <= query) & (query - key < (window or length))


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text"])
def test_attention_counts_the_pairs_that_the_mask_lets_through(config_only, family):
    model, deployment = read_model(config_only(family)), Deployment(batch_size=3, sequence_length=37)
    masks = [visible(37, window) for window in model.windows]
    products = 2 * 2 * model.heads * model.head_size  # scores and values, two FLOPs each
    found = by_name(model, deployment, prefill=True)["attention"]
    assert found.flops == 3 * products * sum(int(mask.sum()) for mask in masks)
    assert found.bytes == 3 * 3 * 37 * 2 * model.kv_heads * model.head_size * 2
    found = by_name(model, deployment, prefill=False)["attention"]
    assert found.flops == 3 * products * sum(int(mask[-1].sum()) for mask in masks)
    read = sum(int(mask[-1].sum()) for mask in masks)
    assert found.bytes == 3 * (read + 3) * 2 * model.kv_heads * model.head_size * 2


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3"])
def test_the_cache_is_that_of_the_real_model(config_only, family):
    folder = config_only(family)
    real = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    with torch.no_grad():
        cache = real(input_ids=torch.arange(10).reshape(2, 5), use_cache=True).past_key_values
    elements = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    deployment = Deployment(batch_size=2, sequence_length=5, dtype="float32")
    assert kv_cache(read_model(folder), deployment) == 4 * elements


def test_products_are_two_flops_for_each_weight_and_row(config_only):
    model, deployment = read_model(config_only()), Deployment(batch_size=2, sequence_length=50)
    weights = 3 * 96 * 96 * 2 + 3 * 96 * 48 * 2
    prefill, decode = (by_name(model, deployment, prefill) for prefill in (True, False))
    assert prefill["attention projections"].flops == 2 * 100 * weights
    assert decode["attention projections"].flops == 2 * 2 * weights
    assert (
        prefill["lm_head"].flops == decode["lm_head"].flops == 2 * 2 * 96 * 260
    )  # the last position of each sequence
    assert prefill["attention projections"].bytes == decode["attention projections"].bytes == 2 * weights
    assert prefill["lm_head"].bytes == 2 * 96 * 260
    assert (prefill["embedding"].bytes, decode["embedding"].bytes) == (2 * 100 * 96, 2 * 2 * 96)


def test_the_larger_of_two_times_counts():
    deployment = Deployment()
    flops, bytes = deployment.flops, deployment.bandwidth
    compute = Operation.on(deployment, "x", int(3 * flops), int(2 * bytes))
    memory = Operation.on(deployment, "x", int(2 * flops), int(3 * bytes))
    assert (compute.bound_by, memory.bound_by) == ("compute", "memory")
    assert compute.seconds == pytest.approx(3) == memory.seconds


def test_ranks_share_heads_and_vocabulary(config_only):
    model = read_model(config_only())  # 4 heads, 2 of keys and values, of 24
    one, four = (Deployment(sequence_length=50, tensor_parallel_size=tp) for tp in (1, 4))
    assert model.attention_parameters(4) == 96 * 24 * (2 * 1 + 2 * 1)  # each rank has a head of keys and values
    whole, part = (by_name(model, on, prefill=True) for on in (one, four))
    assert part["attention"].flops * 4 == whole["attention"].flops
    assert part["attention"].bytes * 2 == whole["attention"].bytes
    assert part["lm_head"].flops * 4 == whole["lm_head"].flops
    assert kv_cache(model, four) * 2 == kv_cache(model, one)
    assert "exchanges" not in whole and part["exchanges"].seconds == (3 + 2) * EXCHANGE_SECONDS


@pytest.mark.parametrize("tied", [False, True])
def test_weights_beside_the_mlps(config_only, tied):
    model = read_model(config_only(tie_word_embeddings=tied))
    rest = model.parameters - model.mlp_parameters + (model.embedding if tied else 0)  # tied: held twice
    assert other_weights(model, Deployment()) == 2 * rest
    assert other_weights(model, Deployment(dtype="float32")) == 4 * rest


def test_the_mlps_of_a_step():
    one, two = Deployment(), Deployment(tensor_parallel_size=2)
    form = Form(2048, 8192, 1280, 1280, 1280)
    weights = 3 * 1280 * (2048 + 8192)
    found = mlp_operation(form, 16, 512, one)
    assert found.flops == 16 * 2 * 512 * weights and found.bytes == 16 * 2 * (weights + 2 * 512 * 2048)
    assert found.bound_by == "compute" and found.seconds == pytest.approx(found.flops / one.flops)
    few = mlp_operation(form, 16, 1, one)
    assert few.bound_by == "memory" and few.seconds == pytest.approx(few.bytes / one.bandwidth)
    half = mlp_operation(Form(2048, 8192, None, None, None, tp=2), 1, 1, two)
    assert half.flops == 2 * 3 * 2048 * 4096
    single = mlp_operation(form, 1, 1, Deployment(dtype="float32"))
    assert single.bytes == 2 * mlp_operation(form, 1, 1, one).bytes
