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
"""The model card and the upload, with a Hub that only records."""

import json
import shutil
from types import SimpleNamespace

import pytest
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from optimum_neuronmm import NeuronMMConfig, compress, load_report, push_to_hub
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.hub import model_card

from .conftest import save_tiny_model


@pytest.fixture
def directory(compressed_llama, tmp_path):
    return shutil.copytree(compressed_llama, tmp_path / "compressed")


@pytest.fixture(autouse=True)
def hub(monkeypatch):
    """Stands in for `HfApi`; `hub.calls` holds what it was asked."""

    class Api:
        def __init__(self, token=None):
            hub.calls.append(("token", token))

        def create_repo(self, repo_id, **options):
            hub.calls.append(("create_repo", repo_id, options))
            return SimpleNamespace(repo_id=f"resolved/{repo_id}")

        def upload_folder(self, **options):
            hub.calls.append(("upload_folder", options))
            return SimpleNamespace(commit_url="https://hub/commit/1")

    hub = SimpleNamespace(calls=[])
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    return hub


def report_with(directory, **changes):
    report = load_report(directory)
    report["perplexity"] |= {name: changes.pop(name) for name in ("before", "after") if name in changes}
    return {**report, **changes}


def front_matter(card):
    _, metadata, _ = card.split("---\n", 2)
    return yaml.safe_load(metadata)


class TestCard:
    def test_metadata_of_a_local_model(self, directory):
        card = (directory / "README.md").read_text()
        assert card.startswith("---\n")
        assert front_matter(card) == {
            "library_name": "transformers",
            "pipeline_tag": "text-generation",
            "tags": ["neuronmm", "low-rank", "aws-neuron"],
        }

    def test_metadata_of_a_model_of_the_hub(self, directory):
        report = report_with(directory, model="me/my-model_1.2", revision="a" * 40)
        card = model_card(report, NeuronMMConfig())
        metadata = front_matter(card)
        assert metadata["base_model"] == "me/my-model_1.2" and metadata["base_model_relation"] == "quantized"
        assert "# me/my-model_1.2, MLPs in low-rank form" in card

    def test_the_hub_accepts_its_metadata(self, directory):
        from huggingface_hub import ModelCard

        data = ModelCard.load(directory / "README.md").data
        assert data.library_name == "transformers" and data.tags == ["neuronmm", "low-rank", "aws-neuron"]

    def test_a_local_model_is_named_without_its_place(self, directory, tiny_llama):
        card = (directory / "README.md").read_text()
        assert "# tiny-llama, MLPs in low-rank form" in card
        assert str(tiny_llama.parent) not in card

    def test_figures(self, directory):
        card = model_card(report_with(directory, before=12.346, after=14.0), NeuronMMConfig(block_size=32))
        assert "| parameters | 306,336 | 304,032 |" in card
        assert "| perplexity, 4 held-out windows of calibration text | 12.35 | 14.00 |" in card
        assert "1.33% of the parameters of the compressed projections are removed (20.00% were" in card
        assert "ranks a multiple of 32" in card
        assert "**" not in card  # no warning

    def test_a_warning_is_in_it(self, directory):
        card = model_card(report_with(directory, before=10.0, after=20.0), NeuronMMConfig())
        assert "\n**WARNING: perplexity grew by a factor of 2.00" in card

    def test_it_warns_of_what_transformers_suggests(self, directory):
        card = (directory / "README.md").read_text()
        assert "`ignore_mismatched_sizes=True`" in card and "random" in card

    def test_its_code_works(self, directory):
        card = (directory / "README.md").read_text()
        code = card.split("```python\n")[1].split("```")[0].replace("THIS_REPOSITORY", str(directory))
        names = {}
        exec(code, names)
        assert names["model"].num_parameters() == load_report(directory)["parameters"]["after"]


class TestPush:
    def test_a_whole_directory(self, directory, hub):
        url = push_to_hub(str(directory), "name", private=True, token="t", revision="r", commit_message="m")
        assert url == "https://hub/commit/1"
        assert hub.calls == [
            ("token", "t"),
            ("create_repo", "name", {"private": True, "exist_ok": True}),
            (
                "upload_folder",
                {"repo_id": "resolved/name", "folder_path": directory, "revision": "r", "commit_message": "m"},
            ),
        ]

    def test_what_save_pretrained_wrote(self, directory, hub, tmp_path):
        AutoModelForCausalLM.from_pretrained(directory).save_pretrained(tmp_path / "saved", max_shard_size="300KB")
        push_to_hub(tmp_path / "saved", "me/name")
        assert hub.calls[-1][0] == "upload_folder"

    def test_shards(self, hub, tmp_path, quick_options):
        dense = save_tiny_model(tmp_path / "dense", shard_size="300KB")
        compress(dense, tmp_path / "out", NeuronMMConfig(**quick_options))
        push_to_hub(tmp_path / "out", "me/name")
        assert hub.calls[-1][0] == "upload_folder"
        next((tmp_path / "out").glob("*-00002-*")).unlink()
        with pytest.raises(NeuronMMError, match="model-00002-of-.* lacks the shard|lacks the shard model-00002-of"):
            push_to_hub(tmp_path / "out", "me/name")

    def refused(self, directory, hub, match):
        with pytest.raises(NeuronMMError, match=match):
            push_to_hub(directory, "me/name")
        assert hub.calls == []

    def test_a_directory_that_is_none(self, tmp_path, hub):
        self.refused(tmp_path / "nowhere", hub, "is not a compressed checkpoint")

    def test_a_dense_model(self, tiny_llama, hub):
        self.refused(
            tiny_llama, hub, "is not a compressed checkpoint: expected a config.json with quant_method 'neuronmm'"
        )

    @pytest.mark.parametrize("content", ["", "[]", "3", '{"quantization_config": 3}', '{"quantization_config": null}'])
    def test_a_damaged_config(self, directory, hub, content):
        (directory / "config.json").write_text(content)
        self.refused(directory, hub, "is not a compressed checkpoint")

    def test_a_newer_format(self, directory, hub):
        config = json.loads((directory / "config.json").read_text())
        config["quantization_config"] |= {"format_version": 99}
        (directory / "config.json").write_text(json.dumps(config))
        self.refused(directory, hub, "format 99")

    def test_missing_weights(self, directory, hub):
        (directory / "model.safetensors").unlink()
        self.refused(directory, hub, "holds no weights")

    def test_truncated_weights(self, directory, hub):
        content = (directory / "model.safetensors").read_bytes()
        (directory / "model.safetensors").write_bytes(content[:-1])
        self.refused(directory, hub, "model.safetensors of .* is damaged or incomplete")

    @pytest.mark.parametrize("leaf", ["u.weight", "v.weight"])
    def test_a_missing_factor(self, directory, hub, leaf):
        weights = load_file(directory / "model.safetensors")
        del weights[f"model.layers.1.mlp.up_proj.{leaf}"]
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        self.refused(directory, hub, f"lacks model.layers.1.mlp.up_proj.{leaf}: nothing was uploaded")

    def test_a_damaged_report(self, directory, hub):
        (directory / "neuronmm_report.json").write_text("{}")
        self.refused(directory, hub, "neuronmm_report.json is damaged")

    def test_the_workspace_of_a_run_that_goes_on(self, directory, hub, tmp_path):
        workspace = tmp_path / ".out.neuronmm"
        workspace.mkdir()
        shutil.copytree(directory, workspace / "result")
        self.refused(workspace, hub, "is not a compressed checkpoint")
