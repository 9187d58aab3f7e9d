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
"""Models that are read when they are needed, and let go."""

import gc
import json
import shutil
import weakref
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes.scoring.identity import identify
from optimum_neuronmm.recipes.scoring.loading import LoadedModel
from optimum_neuronmm.recipes.scoring.torch_model import TorchModel

from ...compiled_form import save_compiled_form
from ...conftest import read_config, save_tiny_model
from .common import group, load, load_model


ROWS = [group((1, 2, 3), (4, 5), (6,))]


@pytest.fixture
def dense(tiny_llama, tmp_path):
    """A dense model to change."""
    return shutil.copytree(tiny_llama, tmp_path / "dense")


@pytest.mark.parametrize("form", ["tiny_llama", "compressed_llama"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_of_transformers(request, form, dtype):
    directory = request.getfixturevalue(form)
    loaded = load(directory, dtype)
    assert (loaded.dtype, loaded.device, loaded.max_length, loaded.is_compiled) == (dtype, "cpu", 512, False)
    assert set(loaded.__dict__) == {"identity", "_trust", "is_compiled", "device", "dtype", "max_length"}, "too early"
    assert isinstance(loaded.scoring, TorchModel)
    assert (loaded.scoring.name, loaded.scoring.max_length, loaded.scoring.dtype) == (directory.name, 512, dtype)
    assert loaded.model is loaded.scoring.model and loaded.model.dtype == getattr(torch, dtype)
    expected = TorchModel(load_model(directory, getattr(torch, dtype)), "", 512).logits(ROWS)
    assert torch.equal(loaded.scoring.logits(ROWS)[0][0], expected[0][0])
    assert loaded.tokenizer.decode(loaded.tokenizer("a b").input_ids) == "a b"


def test_sharded_weights(tiny_llama, tmp_path):
    sharded = save_tiny_model(tmp_path / "sharded", shard_size="300KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    one, other = (load(directory).scoring.logits(ROWS)[0][0] for directory in (tiny_llama, sharded))
    assert torch.equal(one, other)


def test_release(tiny_llama):
    loaded = load(tiny_llama)
    first, model, tokenizer = loaded.scoring.logits(ROWS)[0][0], weakref.ref(loaded.model), loaded.tokenizer
    loaded.release()
    gc.collect()
    assert model() is None, "something still holds the weights"
    assert torch.equal(loaded.scoring.logits(ROWS)[0][0], first) and loaded.tokenizer is tokenizer
    loaded.release()
    loaded.release()


def test_release_on_a_gpu_empties_the_cache(tiny_llama, monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    LoadedModel(identify(tiny_llama), "float32").release()
    assert emptied
    LoadedModel(identify(tiny_llama), "float32", "cpu").release()
    assert len(emptied) == 1


def test_devices(tiny_llama, monkeypatch):
    identity = identify(tiny_llama)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert LoadedModel(identity, "float32").device == "cpu"
    with pytest.raises(NeuronMMError, match="Device cuda needs an NVIDIA GPU"):
        LoadedModel(identity, "float32", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert LoadedModel(identity, "float32").device == LoadedModel(identity, "float32", "cuda").device == "cuda"
    assert LoadedModel(identity, "float32", "cpu").device == "cpu"


@pytest.mark.parametrize("written", ["bfloat16", "torch.float16"])
def test_a_compiled_model(compressed_llama, tmp_path, written):
    directory = save_compiled_form(compressed_llama, tmp_path / "compiled", torch_dtype=written)
    loaded = LoadedModel(identify(directory), "float32", "cpu")
    assert (loaded.is_compiled, loaded.device, loaded.dtype) == (True, "neuron", written.removeprefix("torch."))
    loaded.__dict__["scoring"] = SimpleNamespace(max_length=2047)
    assert loaded.max_length == 2047, "what it was compiled for, whatever its configuration says"


@pytest.mark.parametrize(
    ("config", "limit", "expected"),
    [
        ({"model_type": "llama", "max_position_embeddings": 77}, 33, 77),
        ({"model_type": "gpt2", "n_positions": 66}, None, 66),
        ({"model_type": "mamba", "n_ctx": 55}, 33, 55),
        ({"model_type": "mamba", "n_positions": 44, "n_ctx": 55}, 33, 44),
        ({"model_type": "mamba", "max_position_embeddings": None, "n_positions": 99}, None, 99),
        ({"model_type": "gemma3", "text_config": {"max_position_embeddings": 22}}, 33, 22),
        ({"model_type": "mamba"}, 33, 33),
        ({"model_type": "mamba"}, None, 2048),
    ],
)
def test_the_longest_input(dense, config, limit, expected):
    (dense / "config.json").write_text(json.dumps(config))
    path = dense / "tokenizer_config.json"
    tokenizer = json.loads(path.read_text())
    tokenizer.pop("model_max_length")
    path.write_text(json.dumps(tokenizer if limit is None else {**tokenizer, "model_max_length": limit}))
    assert load(dense).max_length == expected


def test_no_tokenizer(dense):
    for path in [*dense.glob("token*"), *dense.glob("special*")]:
        path.unlink()
    with pytest.raises(NeuronMMError, match="dense has no tokenizer that can be loaded"):
        _ = load(dense).tokenizer


@pytest.mark.parametrize("content", ["{", '{"model_type": "no such model"}', "{}"])
def test_a_configuration_that_says_nothing(dense, content):
    loaded = load(dense)
    (dense / "config.json").write_text(content)
    with pytest.raises(NeuronMMError, match="dense has no configuration that can be read"):
        _ = loaded.max_length
    with pytest.raises(NeuronMMError, match="dense could not be loaded"):
        _ = loaded.model


def test_weights_that_are_gone(dense):
    loaded = load(dense)
    (dense / "model.safetensors").unlink()
    with pytest.raises(NeuronMMError, match="dense could not be loaded"):
        _ = loaded.scoring


def test_weights_of_other_shapes(dense):
    config = read_config(dense)
    (dense / "config.json").write_text(json.dumps({**config, "hidden_size": 48}))
    with pytest.raises(NeuronMMError, match="dense could not be loaded"):
        _ = load(dense).model


def test_weights_that_are_damaged_later(dense):
    loaded = load(dense)
    path = dense / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(NeuronMMError, match="dense could not be loaded"):
        _ = loaded.model


def test_code_of_the_model_needs_trust(dense):
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (dense / "config.json").write_text(json.dumps(config))
    code = "from transformers import PretrainedConfig\nclass Own(PretrainedConfig):\n    model_type = 'own'\n"
    (dense / "own.py").write_text(code + "    max_position_embeddings = 88\n")
    assert LoadedModel(identify(dense), "float32", "cpu", trust_remote_code=True).max_length == 88
    with pytest.raises(NeuronMMError, match="trust_remote_code"):
        _ = load(dense).max_length


def test_weights_that_lack_a_tensor(tiny_llama, tmp_path):
    """transformers would fill it with random numbers, and only warn."""
    directory = shutil.copytree(tiny_llama, tmp_path / "model")
    tensors = load_file(directory / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(NeuronMMError, match=r"model lacks 1 weights .* such as model.layers.1.mlp.up_proj.weight"):
        _ = LoadedModel(identify(directory), "float32", "cpu").model
