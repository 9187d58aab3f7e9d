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
"""The table of families against the models that transformers builds."""

import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.families import FAMILIES, Family, family_of

from .conftest import FAMILY_OPTIONS, TINY


LLAMA, PHI3 = FAMILIES["llama"], FAMILIES["phi3"]


def tiny_config(model_type):
    return AutoConfig.for_model(model_type, **TINY, **FAMILY_OPTIONS[model_type])


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family_and_model(request):
    return FAMILIES[request.param], AutoModelForCausalLM.from_config(tiny_config(request.param))


def test_every_family_has_a_tiny_model():
    assert set(FAMILY_OPTIONS) == set(FAMILIES)


def test_layers_are_where_the_table_says(family_and_model):
    family, model = family_and_model
    layers = model.get_submodule(family.layers)
    assert isinstance(layers, nn.ModuleList) and len(layers) == TINY["num_hidden_layers"]
    assert model.get_submodule(family.layer_path(1)) is layers[1]


def test_the_table_lists_every_linear_of_the_mlp_and_its_shape(family_and_model):
    family, model = family_and_model
    hidden, intermediate = TINY["hidden_size"], TINY["intermediate_size"]
    mlp = model.get_submodule(f"{family.layer_path(0)}.{family.mlp}")
    linears = {name: module for name, module in mlp.named_modules() if isinstance(module, nn.Linear)}
    assert set(linears) == set(family.projections)
    for name, computes in family.projections.items():
        K, N = (intermediate, hidden) if "down" in computes else (hidden, intermediate * len(computes))
        assert (linears[name].in_features, linears[name].out_features) == (K, N), name
    assert sorted(p for computes in family.projections.values() for p in computes) == ["down", "gate", "up"]


def test_the_table_says_which_attribute_is_down(family_and_model):
    family, model = family_and_model
    linear = model.get_submodule(family.projection_path(0, family.down))
    assert (linear.in_features, linear.out_features) == (TINY["intermediate_size"], TINY["hidden_size"])
    assert family.projections[family.down] == ("down",)


def test_down_is_found_wherever_it_is_in_the_table():
    assert Family(projections={"w2": ("down",), "w13": ("gate", "up")}).down == "w2"


@torch.no_grad()
def test_the_table_says_whether_down_is_added_to_the_residual_stream(family_and_model):
    """Changed by some vector, as its bias would, it changes what leaves the layer by that, times a constant."""
    family, model = family_and_model
    layer, path, left = model.get_submodule(family.layer_path(0)), f"{family.mlp}.{family.down}", []
    layer.register_forward_hook(
        lambda _, args, output: left.append(output[0] if isinstance(output, tuple) else output)
    )
    change = torch.randn(TINY["hidden_size"])
    tokens = torch.arange(6)[None]
    model(input_ids=tokens, use_cache=False)
    layer.get_submodule(path).register_forward_hook(lambda _, args, output: output + change)
    model(input_ids=tokens, use_cache=False)
    expected = getattr(model.config, "residual_multiplier", 1.0) * change
    assert torch.allclose(left[1] - left[0], expected.expand_as(left[0]), atol=1e-5) == family.adds_down


def test_the_table_says_what_a_layer_returns(family_and_model):
    family, model = family_and_model
    returned = []
    model.get_submodule(family.layer_path(0)).register_forward_hook(lambda _, args, output: returned.append(output))
    model(input_ids=torch.zeros(1, 4, dtype=torch.long), use_cache=False)
    assert isinstance(returned[0], tuple) == family.layer_returns_tuple


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_supported_types_are_found(model_type):
    assert family_of(tiny_config(model_type)) is FAMILIES[model_type]


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "bert", "t5", "gemma2", "gemma3n_text"])
def test_an_unsupported_type_is_told_what_is_supported(model_type):
    with pytest.raises(NeuronMMError) as error:
        family_of(AutoConfig.for_model(model_type))
    assert repr(model_type) in str(error.value)
    assert all(name in str(error.value) for name in FAMILIES)
    assert "Gemma 3," not in str(error.value)


def test_multimodal_gemma3_is_pointed_to_the_text_model():
    with pytest.raises(NeuronMMError, match=r"'gemma3' is not supported.*text-only checkpoint \(gemma3_text\)"):
        family_of(AutoConfig.for_model("gemma3"))


@pytest.mark.parametrize(
    ("model_type", "options", "count"),
    [
        ("mixtral", {}, "num_local_experts = 8"),
        ("qwen2_moe", {}, "num_experts = 60"),
        ("qwen3_moe", {}, "num_experts = 128"),
        ("granitemoe", {}, "num_local_experts = 8"),
        ("deepseek_v3", {}, "n_routed_experts = 256"),
        ("deepseek_v2", {}, "n_routed_experts = 64"),
        ("llama", {"moe_num_experts": 4}, "moe_num_experts = 4"),  # a supported type that was given experts
    ],
)
def test_mixtures_of_experts_are_refused_by_name(model_type, options, count):
    with pytest.raises(NeuronMMError, match=f"^{model_type} is a mixture of experts.*{count}") as error:
        family_of(AutoConfig.for_model(model_type, **options))
    assert "llama" in str(error.value)


def test_a_mixture_that_counts_its_experts_elsewhere():
    with pytest.raises(NeuronMMError, match="^qwen3_vl_moe is a mixture of experts: its expert weights"):
        family_of(AutoConfig.for_model("qwen3_vl_moe"))


def test_one_expert_is_no_mixture():
    assert family_of(AutoConfig.for_model("llama", num_experts=1)) is LLAMA
    assert family_of(AutoConfig.for_model("llama", num_experts=None)) is LLAMA


@pytest.mark.parametrize("count", ["abc", "8", 8.0, True, False, [8], {}], ids=repr)
@pytest.mark.parametrize("name", ["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"])
def test_a_number_of_experts_that_is_no_integer(name, count):
    told = re.escape(f"The config says {name} = {count!r}: expected an integer, or nothing in a dense model. Repair")
    with pytest.raises(NeuronMMError, match=told):
        family_of(SimpleNamespace(model_type="llama", **{name: count}))


def test_what_is_known_of_a_type_is_said_before_its_experts():
    for model_type, told in (
        ("gpt2", "'gpt2' is not supported"),
        ("mixtral", "'mixtral'"),
        ("a_moe", "^a_moe is a mix"),
    ):
        with pytest.raises(NeuronMMError, match=told):
            family_of(SimpleNamespace(model_type=model_type, num_experts="many"))
    with pytest.raises(NeuronMMError, match=r"is a mixture of experts \(num_local_experts = 8\)"):
        family_of(SimpleNamespace(model_type="llama", num_experts="many", num_local_experts=8))


def test_attributes_are_selected_in_the_order_of_the_table():
    assert LLAMA.selected(["down", "gate"]) == ["gate_proj", "down_proj"]
    assert LLAMA.selected(["up"]) == ["up_proj"]
    assert LLAMA.selected([]) == []
    assert PHI3.selected(["up", "down", "gate"]) == ["gate_up_proj", "down_proj"]
    assert PHI3.selected(["down"]) == ["down_proj"]


@pytest.mark.parametrize("names", [["gate"], ["up"], ["down", "up"]])
def test_half_of_a_fused_matrix_is_refused(names):
    with pytest.raises(NeuronMMError, match="fuses gate and up into one matrix, gate_up_proj: choose both or neither"):
        PHI3.selected(names)


def test_projections_that_read_the_same_input_are_grouped():
    assert LLAMA.input_groups(["gate_proj", "up_proj", "down_proj"]) == [["gate_proj", "up_proj"], ["down_proj"]]
    assert LLAMA.input_groups(["up_proj"]) == [["up_proj"]]
    assert LLAMA.input_groups([]) == []
    assert PHI3.input_groups(["gate_up_proj", "down_proj"]) == [["gate_up_proj"], ["down_proj"]]


def test_families_do_not_share_a_mutable_table():
    assert Family().projections is not Family().projections
