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
"""Compiled compressed models compute what the compressed torch models compute, in prefill and in 8 steps of decoding."""

import pytest
import torch

from optimum_neuronmm.neuron.form import REPLICATED, SHARDED
from tests.neuron import compressed, harness


ALL = {"gate_proj": 32, "up_proj": 32, "down_proj": 32}
UNEVEN = {"gate_proj": 30, "up_proj": 21, "down_proj": 17}  # of which 2 and 4 divide none or one
NO_UP = {"gate_proj": 32, "down_proj": 24}
NO_GATE = {"up_proj": 27}
ONLY_DOWN = {"down_proj": 32}
NO_DOWN = {"gate_proj": 24, "up_proj": 32}
FUSED = {"gate_up_proj": 32, "down_proj": 32}
FUSED_UNEVEN = {"gate_up_proj": 45, "down_proj": 19}
ONLY_FUSED = {"gate_up_proj": 35}
BIAS = {"mlp_bias": True}
THREE_HEADS = {"num_attention_heads": 3, "num_key_value_heads": 3, "vocab_size": 1026}


def check_float32(tiny, directory, family, tp, layout, ranks, layers, batch_size=1, length=24, **options):
    dense = tiny(family, **options)
    checkpoint = compressed.save_compressed(dense, directory / "compressed", ranks, **layers)
    compiled = compressed.export(checkpoint, layout=layout, tp=tp, batch_size=batch_size)
    tokens = harness.tokens(batch_size, length)
    found = harness.logits(compiled, tokens)
    assert harness.error(found, harness.torch_logits(checkpoint, tokens)) < 1e-5
    # Without the factors they would be these.
    assert harness.error(found, harness.torch_logits(dense, tokens)) > 0.02


@pytest.mark.parametrize(
    ("family", "tp", "layout", "ranks", "options"),
    [
        ("llama", 1, REPLICATED, ALL, {"tied": True}),
        ("llama", 2, REPLICATED, UNEVEN, BIAS),
        ("llama", 4, REPLICATED, ALL, {"intermediate_size": 200}),
        ("llama", 1, SHARDED, UNEVEN, BIAS),
        ("llama", 2, SHARDED, ALL, {"tied": True}),
        ("llama", 4, SHARDED, UNEVEN, BIAS),
        ("llama", 4, SHARDED, ALL, {"batch_size": 2, "intermediate_size": 200}),
        pytest.param("llama", 3, SHARDED, ALL, THREE_HEADS, marks=pytest.mark.standins),
        pytest.param("llama", 3, REPLICATED, ALL, THREE_HEADS | BIAS, marks=pytest.mark.standins),
        ("llama", 2, "auto", ALL, {"intermediate_size": 200}),
        ("llama", 2, SHARDED, ALL, {"hidden_act": "gelu_pytorch_tanh"}),
        ("llama", 2, REPLICATED, ALL, {"hidden_act": "relu"}),
        ("qwen2", 1, REPLICATED, UNEVEN, {}),
        ("qwen2", 2, SHARDED, ALL, {"tied": True, "batch_size": 2}),
        ("qwen2", 4, REPLICATED, NO_UP, {}),
        ("qwen2", 4, SHARDED, NO_DOWN, {"intermediate_size": 200}),
        ("qwen3", 1, SHARDED, ALL, {"intermediate_size": 200}),
        ("qwen3", 2, REPLICATED, UNEVEN, {"tied": True}),
        ("qwen3", 4, SHARDED, NO_GATE, {}),
        ("granite", 1, REPLICATED, NO_GATE, {"batch_size": 2}),
        ("granite", 2, SHARDED, NO_UP, BIAS),
        ("granite", 4, SHARDED, ALL, {"tied": True}),
        ("granite", 4, REPLICATED, UNEVEN, {}),
        ("phi3", 1, REPLICATED, FUSED, {}),
        ("phi3", 2, REPLICATED, FUSED_UNEVEN, {"batch_size": 2}),
        ("phi3", 2, SHARDED, FUSED_UNEVEN, {"tied": True}),
        ("phi3", 4, SHARDED, FUSED, {"intermediate_size": 200}),
        ("phi3", 4, SHARDED, ONLY_FUSED, {}),
        ("phi3", 2, REPLICATED, ONLY_DOWN, {}),
        ("phi3", 4, SHARDED, ONLY_DOWN, {}),
        ("smollm3", 1, REPLICATED, ALL, BIAS),
        ("smollm3", 2, SHARDED, UNEVEN, {**BIAS, "tied": True}),
        ("smollm3", 4, REPLICATED, NO_DOWN, {"batch_size": 2, **BIAS}),
        ("smollm3", 4, SHARDED, ONLY_DOWN, BIAS),
    ],
)
def test_in_float32(tiny, tmp_path, family, tp, layout, ranks, options):
    check_float32(tiny, tmp_path, family, tp, layout, ranks, {}, **options)


@pytest.mark.parametrize(
    ("family", "tp", "layout", "layers"),
    [
        ("llama", 2, REPLICATED, {"layer_0": {}, "layer_1": UNEVEN}),
        ("llama", 4, SHARDED, {"layer_0": NO_UP, "layer_2": {}}),
        ("llama", 4, "auto", {"layer_0": {"gate_proj": 8, "up_proj": 8, "down_proj": 8}, "layer_1": ONLY_DOWN}),
        ("qwen2", 2, SHARDED, {"layer_1": {}}),
        ("granite", 1, REPLICATED, {"layer_0": NO_DOWN, "layer_1": {}}),
        ("phi3", 2, SHARDED, {"layer_0": {}, "layer_1": {"gate_up_proj": 16}}),
        ("phi3", 4, REPLICATED, {"layer_0": {"down_proj": 20}, "layer_2": {}}),
        ("smollm3", 2, SHARDED, {"layer_0": NO_GATE, "layer_1": UNEVEN}),
    ],
)
def test_layers_that_differ(tiny, tmp_path, family, tp, layout, layers):
    ranks = FUSED if family == "phi3" else ALL
    check_float32(tiny, tmp_path, family, tp, layout, ranks, layers, num_hidden_layers=3)


@pytest.mark.parametrize(
    ("family", "tp", "layout", "options"),
    [
        ("llama", 1, REPLICATED, BIAS),
        ("llama", 4, SHARDED, {"tied": True}),
        ("qwen2", 2, REPLICATED, {}),
        ("qwen3", 4, SHARDED, {}),
        ("granite", 2, SHARDED, {}),
        ("phi3", 4, REPLICATED, {}),
        ("smollm3", 2, SHARDED, BIAS),
    ],
)
def test_in_bfloat16(tiny, tmp_path, family, tp, layout, options):
    ranks = FUSED if family == "phi3" else ALL
    checkpoint = compressed.save_compressed(tiny(family, **options), tmp_path / "compressed", ranks)
    compiled = compressed.export(checkpoint, layout=layout, tp=tp, batch_size=2, dtype=torch.bfloat16)
    tokens = harness.tokens(batch_size=2)
    exact = harness.torch_logits(checkpoint, tokens)
    allowed = harness.error(harness.torch_logits(harness.load_torch(checkpoint, torch.bfloat16), tokens), exact)
    assert 0 < harness.error(harness.logits(compiled, tokens), exact) < 2 * allowed


def test_a_checkpoint_in_bfloat16(tiny, tmp_path):
    checkpoint = compressed.save_compressed(tiny(dtype=torch.bfloat16), tmp_path / "compressed")
    compiled = compressed.export(checkpoint, tp=2)
    assert compiled.neuron_config.torch_dtype == torch.bfloat16
    tokens = harness.tokens()
    exact = harness.torch_logits(harness.load_torch(checkpoint, torch.float32), tokens)
    allowed = harness.error(harness.torch_logits(checkpoint, tokens), exact)
    assert 0 < harness.error(harness.logits(compiled, tokens), exact) < 2 * allowed


@pytest.mark.parametrize("layout", [REPLICATED, SHARDED])
def test_the_device_samples_the_same_tokens(tiny, tmp_path, layout):
    checkpoint = compressed.save_compressed(tiny(), tmp_path / "compressed")
    options = {"do_sample": False, "max_new_tokens": 8, "eos_token_id": None, "pad_token_id": 0}
    tokens = harness.tokens(batch_size=2)
    compiled = compressed.export(
        checkpoint, layout=layout, tp=2, batch_size=2, on_device_sampling=True, output_logits=False
    )
    expected = harness.load_torch(checkpoint).generate(tokens, **options)
    assert torch.equal(compiled.generate(tokens, **options), expected)
