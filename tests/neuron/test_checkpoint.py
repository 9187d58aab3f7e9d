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
"""The checkpoint that a compilation starts from: found, and held against its config.json."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from optimum_neuronmm import NeuronMMConfig, NeuronMMError
from optimum_neuronmm.neuron import checkpoint as checkpoint_module
from optimum_neuronmm.neuron.checkpoint import check_factors, local_checkpoint, read_config
from optimum_neuronmm.neuron.compilation import compressed_with
from optimum_neuronmm.neuron.form import forms_of
from tests.neuron.compressed import save_compressed


@pytest.fixture(scope="module", params=["llama", "phi3"])
def family(request):
    return request.param


@pytest.fixture
def directory(tiny, tmp_path, family):
    """The second layer is dense."""
    return save_compressed(tiny(family), tmp_path / "compressed", layer_1={})


def check(directory) -> None:
    config = read_config(directory)
    check_factors(directory, config, tuple(forms_of(config, compressed_with(config).modules, 1)))


def change(directory, edit) -> None:
    tensors = load_file(directory / "model.safetensors")
    edit(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


class TestFactors:
    def test_they_fit(self, directory):
        check(directory)

    @pytest.mark.parametrize("leaf", ["u.weight", "v.weight", "weight"])
    def test_one_is_missing(self, directory, leaf):
        name = f"model.layers.0.mlp.down_proj.{leaf}"
        change(directory, lambda tensors: tensors.pop(name))
        with pytest.raises(
            NeuronMMError, match=f"{name} of .* is missing, expected .*Fetch or compress the model again"
        ):
            check(directory)

    def test_one_has_another_rank(self, directory):
        name = "model.layers.0.mlp.down_proj.u.weight"
        change(directory, lambda tensors: tensors.update({name: tensors[name][:16].clone()}))
        with pytest.raises(
            NeuronMMError, match=rf"{name} of .* is \(16, 203\), expected \(32, 203\) by its config.json"
        ):
            check(directory)

    def test_one_is_too_many(self, directory):
        name = "model.layers.0.mlp.down_proj.u.bias"
        change(directory, lambda tensors: tensors.update({name: torch.zeros(32)}))
        with pytest.raises(NeuronMMError, match=rf"{name} of .* is \(32,\), expected none of that name"):
            check(directory)

    @pytest.mark.parametrize("layer", [0, 1])
    def test_config_json_does_not_know_of_them(self, directory, layer):
        name = f"model.layers.{layer}.mlp.down_proj"
        if layer:
            change(directory, lambda tensors: tensors.update({f"{name}.u.weight": torch.zeros(32, 203)}))
        else:
            path = directory / "config.json"
            config = json.loads(path.read_text())
            for module in list(config["quantization_config"]["modules"]):
                del config["quantization_config"]["modules"][module]
            path.write_text(json.dumps(config))
        with pytest.raises(NeuronMMError, match="expected none of that name by its config.json"):
            check(directory)

    @pytest.mark.parametrize("bytes", [4, 200, -1])
    def test_the_file_is_truncated(self, directory, bytes):
        path = directory / "model.safetensors"
        path.write_bytes(path.read_bytes()[:bytes])
        with pytest.raises(NeuronMMError, match="model.safetensors of .* is damaged or incomplete"):
            check(directory)

    def test_there_are_no_weights(self, directory):
        (directory / "model.safetensors").unlink()
        with pytest.raises(NeuronMMError, match="holds no weights that can be read"):
            check(directory)


class TestReadConfig:
    def test_directory(self, directory, family):
        assert read_config(directory).model_type == read_config(str(directory)).model_type == family

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (None, "it has no config.json"),
            ("{", "not a valid JSON file"),
            ("{}", "Unrecognized model"),
            ('{"model_type": "no-such"}', "no-such"),
            ('{"model_type": "llama", "num_attention_heads": 0}', "."),
            ('{"auto_map": {"AutoConfig": "code.Config"}, "model_type": "custom"}', "trust_remote_code"),
        ],
    )
    def test_what_it_cannot_read(self, tmp_path, content, reason):
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        with pytest.raises(NeuronMMError, match=f"cannot be used: .*{reason}.*Expected the directory") as failure:
            read_config(tmp_path)
        assert len(str(failure.value)) < 900 and "logged in" not in str(failure.value)

    def test_what_is_no_directory(self):
        with pytest.raises(NeuronMMError, match="no-such/model cannot be used.*Check the spelling.*hf auth login"):
            read_config("no-such/model")

    def test_a_file(self, tmp_path):
        (tmp_path / "model.gguf").write_text("")
        with pytest.raises(NeuronMMError, match="model.gguf cannot be used: it has no config.json"):
            read_config(tmp_path / "model.gguf")

    def test_code_is_run_only_where_it_is_trusted(self, monkeypatch, directory):
        asked = []
        monkeypatch.setattr(
            checkpoint_module.AutoConfig, "from_pretrained", lambda *args, **options: asked.append(options)
        )
        hub = {"revision": "r", "cache_dir": "c", "token": "t"}
        read_config("me/x", True, **hub)
        read_config(directory)
        assert asked == [{"trust_remote_code": True, **hub}, {"trust_remote_code": False}]


class TestLocalCheckpoint:
    def test_a_compressed_directory_is_its_own(self, directory, caplog):
        assert local_checkpoint(str(directory), None) == directory
        assert not caplog.text
        assert local_checkpoint(directory, NeuronMMConfig()) == directory
        assert "is compressed already, and compiled as it is" in caplog.text

    def test_a_dense_one_is_compressed(self, tiny, monkeypatch, tmp_path):
        calls = []

        def compressed_once(*args, **options):
            calls.append((args, options))
            return tmp_path

        monkeypatch.setattr(checkpoint_module, "compressed_once", compressed_once)
        config = NeuronMMConfig()
        assert local_checkpoint(tiny(), config, True, revision="r") == tmp_path
        assert calls == [((tiny(), config, True), {"revision": "r"})]

    def test_a_copy_elsewhere_is_the_same(self, directory, tmp_path):
        moved = shutil.move(directory, tmp_path / "ünï $(x)")
        check(moved)
        assert local_checkpoint(moved, None) == moved
