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
"""The sizes of models, read from config.json, against the models that transformers builds."""

import json

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.families import FAMILIES
from optimum_neuronmm.planning import read_model
from optimum_neuronmm.planning.sizes import MOST_FEATURES, MOST_LAYERS
from tests.conftest import FAMILY_OPTIONS, TINY


LLAMA = {"model_type": "llama", **TINY}


@pytest.fixture(params=[(family, tied) for family in sorted(FAMILIES) for tied in (False, True)], ids=str)
def both(request, config_only):
    """The model as it is planned, and as transformers builds it."""
    family, tied = request.param
    folder = config_only(family, tie_word_embeddings=tied)
    return read_model(folder), AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).eval()


def test_parameters_are_those_of_the_real_model(both):
    found, real = both
    assert found.parameters == sum(parameter.numel() for parameter in real.parameters())
    assert found.embedding == real.get_input_embeddings().weight.numel()
    assert found.head == real.get_output_embeddings().weight.numel()
    assert found.tied == (real.get_output_embeddings().weight is real.get_input_embeddings().weight)


def test_parts_are_those_of_the_real_model(both):
    found, real = both
    matrices = {name: p.numel() for name, p in real.named_parameters() if p.ndim == 2}
    assert found.mlp_parameters == sum(n for name, n in matrices.items() if ".mlp." in name)
    assert found.layers * found.attention_parameters() == sum(
        n for name, n in matrices.items() if ".self_attn." in name
    )
    assert found.other_parameters == sum(p.numel() for p in real.parameters() if p.ndim == 1) > 0


def test_projections_are_those_of_the_real_model(both):
    found, real = both
    mlp = real.get_submodule(f"{found.family.layer_path(0)}.{found.family.mlp}")
    linears = {name: (m.in_features, m.out_features) for name, m in mlp.named_modules() if isinstance(m, nn.Linear)}
    assert {name: (shape.K, shape.N) for name, shape in found.projections.items()} == linears


def test_heads_are_those_of_the_real_model(both):
    found, real = both
    with torch.no_grad():
        cache = real(input_ids=torch.arange(6)[None], use_cache=True).past_key_values
    assert cache.layers[0].keys.shape == (1, found.kv_heads, 6, found.head_size)


def test_biases_are_counted(config_only):
    plain, biased = (read_model(config_only(mlp_bias=bias)) for bias in (False, True))
    assert biased.parameters - plain.parameters == 3 * (2 * 200 + 96)
    assert biased.other_parameters - plain.other_parameters == 3 * (2 * 200 + 96)
    assert biased.mlp_parameters == plain.mlp_parameters


@pytest.mark.parametrize(
    ("family", "options", "windows"),
    [
        ("llama", {}, [None] * 3),
        ("mistral", {}, [16] * 3),
        ("mistral", {"sliding_window": None}, [4096] * 3),  # the default of the family
        ("gemma3_text", {}, [16, None, 16]),
        ("qwen2", {"sliding_window": 16, "use_sliding_window": False}, [None] * 3),
        ("qwen2", {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 1}, [None, 16, 16]),
        ("phi3", {"sliding_window": 8}, [8] * 3),
    ],
)
def test_windows_of_attention(config_only, family, options, windows):
    assert read_model(config_only(family, **options)).windows == windows


def test_a_compressed_model_has_the_modules_of_its_config(compressed_llama):
    found = read_model(compressed_llama)
    assert found.modules and all(entry["rank"] % 32 == 0 for entry in found.modules.values())
    assert found.parameters > sum(
        p.numel() for p in AutoModelForCausalLM.from_pretrained(compressed_llama).parameters()
    )


def compressed(ranks: dict[str, int], model_type="llama") -> dict:
    """A config with ranks of paths within `model.layers`."""
    modules = {f"model.layers.{path}": {"rank": rank} for path, rank in ranks.items()}
    quantization = {"quant_method": "neuronmm", "modules": modules}
    return {**TINY, **FAMILY_OPTIONS[model_type], "model_type": model_type, "quantization_config": quantization}


def test_ranks_that_a_matrix_can_have(raw_config):
    found = read_model(raw_config(compressed({"0.mlp.gate_proj": 1, "2.mlp.down_proj": 96})))
    assert [entry["rank"] for entry in found.modules.values()] == [1, 96]


@pytest.mark.parametrize(
    ("model_type", "path", "rank", "sides"),
    [
        ("llama", "1.mlp.up_proj", 97, "96 x 200"),
        ("llama", "0.mlp.down_proj", 10**9, "200 x 96"),
        ("phi3", "0.mlp.gate_up_proj", 97, "96 x 400"),
    ],
)
def test_ranks_that_no_matrix_has(raw_config, model_type, path, rank, sides):
    told = refusal(raw_config(compressed({"2.mlp.down_proj": 32, path: rank}, model_type)))
    assert (
        f": the rank of model.layers.{path} must be an integer of 1 to 96, as its matrix is {sides}, got {rank}."
        in told
    )


@pytest.mark.parametrize("path", ["3.mlp.gate_proj", "0.mlp.gate_up_proj", "0.self_attn.q_proj"])
def test_ranks_of_a_projection_that_the_model_does_not_have(raw_config, path):
    told = refusal(raw_config(compressed({path: 32})))
    assert (
        f"a factorised projection 'model.layers.{path}', and a llama of 3 layers has none of that name: fetch" in told
    )


def test_a_null_activation_of_another_family_is_nothing(config_only):
    folder = config_only("gemma3_text")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "hidden_act": None}))
    assert read_model(folder).parameters


def test_a_directory_has_no_revisions(raw_config):
    folder = raw_config(LLAMA)
    told = refusal(folder, revision="main")
    assert told == f"{folder} is a directory, which has no revisions, got 'main': leave it out, or give a Hub id."
    assert read_model(folder, cache_dir="cache").parameters


def test_no_code_of_a_model_is_run(raw_config):
    folder = raw_config({**LLAMA, "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}})
    (folder / "evil.py").write_text("raise SystemExit('it ran')")
    assert read_model(folder).parameters == read_model(raw_config(LLAMA)).parameters


def refusal(model, **options) -> str:
    with pytest.raises(NeuronMMError) as error:
        read_model(model, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_directory_without_config(tmp_path):
    assert refusal(tmp_path).startswith(f"{tmp_path} has no config.json")


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.gguf").touch()
    assert "model.gguf is a file" in refusal(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "must hold a JSON object, got list"),
        ({}, "has no model_type"),
        ({"model_type": None}, "has no model_type"),
        ({"model_type": "gpt2"}, "'gpt2' is not supported: choose one of"),
        ({"model_type": "of_tomorrow"}, "'of_tomorrow' is not supported"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "mixture of experts (num_local_experts = 8)"),
        ({**LLAMA, "hidden_size": "wide"}, "hidden_size must be an integer of 1 to 1048576, got 'wide'"),
        ({**LLAMA, "num_attention_heads": 0}, "num_attention_heads must be"),
        ({**LLAMA, "vocab_size": True}, "vocab_size must be"),
        (
            {**LLAMA, "num_hidden_layers": MOST_LAYERS + 1},
            f"num_hidden_layers must be an integer of 1 to {MOST_LAYERS}",
        ),
        (
            {**LLAMA, "intermediate_size": MOST_FEATURES + 1},
            "intermediate_size must be an integer of 1 to 1048576, got 1048577",
        ),
        (
            {"model_type": "llama", "hidden_size": 96},
            "does not say intermediate_size, num_hidden_layers, num_attention_heads, vocab_size: expected all sizes",
        ),
        ({**LLAMA, "num_key_value_heads": 3}, "must be a multiple of num_key_value_heads, got 4 and 3"),
        ({**LLAMA, "num_key_value_heads": "2"}, "num_key_value_heads must be an integer of 1 to"),
        ({**LLAMA, "sliding_window": -5}, "sliding_window must be an integer of 1 to 2147483648, got -5"),
        ({**LLAMA, "head_dim": 0}, "head_dim must be an integer of 1 to"),
        ({**LLAMA, "layer_types": 5}, "layer_types must be a list of 3 names, one for each layer, got 5"),
        ({**LLAMA, "layer_types": ["full_attention"] * 2}, "one for each layer, got 2 entries"),
        ({**LLAMA, "layer_types": [None] * 3}, "layer_types must be a list of 3 names"),
        ({**LLAMA, "rope_scaling": 5}, "transformers could not build a llama from the config.json of"),
        *(
            (
                {**LLAMA, "hidden_act": act},
                f"hidden_act must be the name of an activation of transformers, such as 'silu', got {act!r}",
            )
            for act in ("softest", "", 5, True, None, [], {})
        ),
        (
            {**LLAMA, "model_type": "gemma3_text", "head_dim": 24, "hidden_activation": None},
            "hidden_activation must be the name of an activation of transformers",
        ),
        ({**LLAMA, "num_experts": "abc"}, "The config says num_experts = 'abc': expected an integer"),
        ({**LLAMA, "quantization_config": {"quant_method": "gptq"}}, "is quantised (gptq)"),
        ({**LLAMA, "quantization_config": {"quant_method": "neuronmm"}}, "lists no factorised projections"),
        (
            {**LLAMA, "quantization_config": {"quant_method": "neuronmm", "modules": {"a": {"rank": -1}}}},
            "lists no factorised projections",
        ),
    ],
    ids=str,
)
def test_configs_that_say_nonsense(raw_config, content, message):
    assert message in refusal(raw_config(content))


@pytest.mark.parametrize("size", ["num_key_value_heads", "head_dim"])
def test_heads_are_not_those_of_another_model_of_the_family(raw_config, size):
    content = {**LLAMA, "model_type": "qwen3", "head_dim": 24}
    assert read_model(raw_config(content)).head_size == 24
    assert f"does not say {size}, which a qwen3 needs" in refusal(
        raw_config({name: value for name, value in content.items() if name != size})
    )


def test_heads_that_follow_from_the_others_need_not_be_said(raw_config):
    found = read_model(raw_config({name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}))
    assert (found.kv_heads, found.head_size) == (4, 24)


@pytest.mark.parametrize("name", ["", " "])
def test_a_model_without_a_name(name):
    assert f"expected a model: a directory with config.json, or a Hub id, got {name!r}" in refusal(name)


def test_a_model_of_the_hub_that_cannot_be_fetched():
    assert "neither a directory nor a Hub model that could be fetched (" in refusal("nobody/nothing")
    assert "neither a directory nor a Hub model that could be fetched (" in refusal("no/such/name")


def test_of_the_hub_the_config_alone_is_fetched(monkeypatch, config_only):
    folder, asked = config_only(), []

    def hf_hub_download(*args, **options):
        asked.append((args, options))
        return str(folder / "config.json")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    assert read_model("someone/model", revision="main", cache_dir="cache").name == "someone/model"
    assert asked == [(("someone/model", "config.json"), {"revision": "main", "cache_dir": "cache"})]


def test_a_repository_without_config(monkeypatch):
    from huggingface_hub.errors import EntryNotFoundError

    def hf_hub_download(*args, **options):
        raise EntryNotFoundError.__new__(EntryNotFoundError)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    assert refusal("someone/data").startswith("someone/data has no config.json. Expected the repository of")


def test_every_family_is_covered():
    assert set(FAMILY_OPTIONS) == set(FAMILIES)
