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
"""The model card, and what of a directory is let through to the Hub. Nothing here is sent anywhere."""

import json
import os
import shutil

import pytest
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from optimum_neuronmm import NeuronMMConfig, compress, load_report
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.hub import model_card, write_model_card
from optimum_neuronmm.hub_files import check_directory, check_holds_no_token

from .compiled_form import NEURON_CONFIG, save_compiled_form
from .conftest import save_tiny_model


@pytest.fixture
def directory(compressed_llama, tmp_path):
    return shutil.copytree(compressed_llama, tmp_path / "compressed")


@pytest.fixture
def compiled(compressed_llama, tmp_path):
    return save_compiled_form(compressed_llama, tmp_path / "compiled")


def report_with(directory, **changes):
    report = load_report(directory)
    report["perplexity"] |= {name: changes.pop(name) for name in ("before", "after") if name in changes}
    return {**report, **changes}


def front_matter(card):
    _, metadata, _ = card.split("---\n", 2)
    return yaml.safe_load(metadata)


def example_of(card):
    return card.split("```python\n")[1].split("```")[0]


class TestCard:
    def test_metadata_of_a_local_model(self, directory):
        card = (directory / "README.md").read_text()
        assert card.startswith("---\n")
        assert front_matter(card) == {
            "library_name": "transformers",
            "pipeline_tag": "text-generation",
            "tags": ["neuronmm", "low-rank", "aws-neuron"],
        }

    @pytest.mark.parametrize("name", ["me/my-model_1.2", "2.0", "null"])
    def test_metadata_of_a_model_of_the_hub(self, directory, name):
        report = report_with(directory, model=name, revision="a" * 40)
        card = model_card(report, NeuronMMConfig())
        metadata = front_matter(card)
        assert metadata["base_model"] == name and metadata["base_model_relation"] == "quantized"
        assert f"# {name}, MLPs in low-rank form\n" in card

    @pytest.mark.parametrize("neuron_config", [None, NEURON_CONFIG])
    def test_the_hub_accepts_its_metadata(self, directory, neuron_config):
        from huggingface_hub import ModelCard

        report = report_with(directory, model="me/dense", revision="a" * 40)
        write_model_card(directory, report, NeuronMMConfig(), neuron_config)
        data = ModelCard.load(directory / "README.md").data
        assert data.base_model == "me/dense" and data.pipeline_tag == "text-generation"
        assert data.library_name == ("optimum-neuron" if neuron_config else "transformers")
        assert data.tags == [
            "neuronmm",
            "low-rank",
            "aws-neuron",
            *(["neuron", "optimum-neuron"] * bool(neuron_config)),
        ]

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

    def test_ranks_by_projection(self, directory):
        report = report_with(directory)
        ranks = {"gate_proj": [32, 64, 32], "up_proj": [64, 64, 64], "down_proj": [None, 32, 64]}
        for projection in report["projections"]:
            projection["rank"] = ranks[projection["name"].rpartition(".")[2]].pop()
        card = model_card(report, NeuronMMConfig())
        assert "| rank of gate_proj (96 x 200) | 96 | 32-64 |\n" in card
        assert "| rank of up_proj (96 x 200) | 96 | 64 |\n" in card
        assert "| rank of down_proj (200 x 96) | 96 | 32-64 +1 dense |\n" in card

    def test_a_warning_is_in_it(self, directory):
        card = model_card(report_with(directory, before=10.0, after=20.0), NeuronMMConfig())
        assert "\n**WARNING: perplexity grew by a factor of 2.00" in card

    def test_it_warns_of_what_transformers_suggests(self, directory):
        card = (directory / "README.md").read_text()
        assert "`ignore_mismatched_sizes=True`" in card and "random" in card

    def test_its_code_works(self, directory):
        code = example_of((directory / "README.md").read_text()).replace("THIS_REPOSITORY", str(directory))
        names = {}
        exec(code, names)
        assert names["model"].num_parameters() == load_report(directory)["parameters"]["after"]


class TestCardOfACompiledModel:
    def test_what_it_is_compiled_for(self, directory):
        card = model_card(load_report(directory), NeuronMMConfig(), NEURON_CONFIG)
        rows = dict(line.strip("| ").split(" | ") for line in card.split("## Compiled for")[1].splitlines()[4:11])
        assert rows == {
            "device": "Trainium 1 and Inferentia 2 (`trn1`, `inf2`)",
            "cores (tensor parallel)": "2",
            "batch size": "1",
            "sequence length": "2048",
            "dtype": "bfloat16",
            "optimum-neuron": "0.4.5",
            "Neuron compiler": "2.21.33363.0+82129205",
        }

    def test_other_devices(self, directory):
        report = load_report(directory)
        assert "| Trainium 2 (`trn2`) |" in model_card(report, NeuronMMConfig(), NEURON_CONFIG | {"target": "trn2"})
        assert "| `trn9` |" in model_card(report, NeuronMMConfig(), NEURON_CONFIG | {"target": "trn9"})

    def test_what_is_not_known_is_left_out(self, directory):
        card = model_card(load_report(directory), NeuronMMConfig(), {"tp_degree": 2, "torch_dtype": "torch.float16"})
        assert "| cores (tensor parallel) | 2 |\n| dtype | float16 |\n\n" in card and "None" not in card

    def test_how_to_load_it(self, directory):
        card = model_card(load_report(directory), NeuronMMConfig(), NEURON_CONFIG)
        assert example_of(card) == (
            "from optimum_neuronmm import NeuronModelForCausalLM\n\n"
            'model = NeuronModelForCausalLM.from_pretrained("THIS_REPOSITORY")\n'
        )
        assert "A local copy of the repository loads with optimum-neuron alone." in card
        assert "any machine" not in card and "ignore_mismatched_sizes" not in card


def refused(directory, match):
    with pytest.raises(NeuronMMError, match=match):
        check_directory(directory)


class TestCompressedDirectory:
    def test_a_whole_one(self, directory):
        found = check_directory(str(directory))
        assert set(found.files) == {path.name for path in directory.iterdir()}
        assert found.config.modules and found.report == load_report(directory) and found.compiled is None

    def test_what_save_pretrained_wrote(self, directory, tmp_path):
        AutoModelForCausalLM.from_pretrained(directory).save_pretrained(tmp_path / "saved", max_shard_size="300KB")
        assert "model.safetensors.index.json" in check_directory(tmp_path / "saved").files

    def test_shards(self, tmp_path, quick_options):
        dense = save_tiny_model(tmp_path / "dense", shard_size="300KB")
        compress(dense, tmp_path / "out", NeuronMMConfig(**quick_options))
        check_directory(tmp_path / "out")
        next((tmp_path / "out").glob("*-00002-*")).unlink()
        refused(tmp_path / "out", "lacks the shard model-00002-of")

    def test_a_directory_that_is_none(self, tmp_path):
        refused(tmp_path / "nowhere", "is not a compressed checkpoint")

    def test_a_dense_model(self, tiny_llama):
        refused(tiny_llama, "is not a compressed checkpoint: expected a config.json with quant_method 'neuronmm'")

    @pytest.mark.parametrize("content", ["", "[]", "3", '{"quantization_config": 3}', '{"quantization_config": null}'])
    def test_a_damaged_config(self, directory, content):
        (directory / "config.json").write_text(content)
        refused(directory, "is not a compressed checkpoint")

    def test_a_newer_format(self, directory):
        config = json.loads((directory / "config.json").read_text())
        config["quantization_config"] |= {"format_version": 99}
        (directory / "config.json").write_text(json.dumps(config))
        refused(directory, "format 99")

    def test_missing_weights(self, directory):
        (directory / "model.safetensors").unlink()
        refused(directory, "holds no weights")

    def test_truncated_weights(self, directory):
        content = (directory / "model.safetensors").read_bytes()
        (directory / "model.safetensors").write_bytes(content[:-1])
        refused(directory, "model.safetensors of .* is damaged or incomplete")

    @pytest.mark.parametrize("leaf", ["u.weight", "v.weight"])
    def test_a_missing_factor(self, directory, leaf):
        weights = load_file(directory / "model.safetensors")
        del weights[f"model.layers.1.mlp.up_proj.{leaf}"]
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        refused(directory, f"lacks model.layers.1.mlp.up_proj.{leaf}: nothing was uploaded")

    def test_a_damaged_report(self, directory):
        (directory / "neuronmm_report.json").write_text("{}")
        refused(directory, "neuronmm_report.json is damaged")

    def test_the_workspace_of_a_run_that_goes_on(self, directory, tmp_path):
        workspace = tmp_path / ".out.neuronmm"
        workspace.mkdir()
        shutil.copytree(directory, workspace / "result")
        refused(workspace, "is not a compressed checkpoint")


class TestCompiledDirectory:
    SHARD = "checkpoint/weights/tp1_sharded_checkpoint.safetensors"

    def change(self, compiled, **changes):
        path = compiled / "neuron_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def test_a_whole_one(self, compiled):
        found = check_directory(compiled)
        assert {"model.pt", "neuron_config.json", self.SHARD} <= set(found.files)
        assert found.compiled == NEURON_CONFIG

    def test_weights_from_elsewhere(self, compiled):
        self.change(compiled, checkpoint_id="me/dense")
        refused(compiled, "to take its weights from elsewhere .checkpoint_id 'me/dense'.*Expected null")

    @pytest.mark.parametrize("degree", [None, 0, "2", 2.0, True])
    def test_a_tensor_parallel_degree_that_is_none(self, compiled, degree):
        self.change(compiled, tp_degree=degree)
        refused(compiled, "must have a positive integer tp_degree, got")

    def test_a_rank_without_weights(self, compiled):
        (compiled / self.SHARD).unlink()
        refused(compiled, f"lacks {self.SHARD}: it is not a whole compiled model")
        self.change(compiled, local_ranks_size=1)
        refused(compiled, f"lacks {self.SHARD}, and the Hub needs the weights of all 2 ranks: nothing was uploaded")

    def test_truncated_weights(self, compiled):
        content = (compiled / self.SHARD).read_bytes()
        (compiled / self.SHARD).write_bytes(content[:-1])
        refused(compiled, "tp1_sharded_checkpoint.safetensors is damaged or incomplete")

    def test_weights_that_are_none(self, compiled):
        save_file({}, compiled / self.SHARD)
        refused(compiled, "tp1_sharded_checkpoint.safetensors holds no tensors")

    @pytest.mark.parametrize("content", [None, b""])
    def test_missing_graphs(self, compiled, content):
        (compiled / "model.pt").unlink()
        if content is not None:
            (compiled / "model.pt").write_bytes(content)
        refused(compiled, "lacks model.pt")

    @pytest.mark.parametrize("content", ["", "[]", "{"])
    def test_a_damaged_neuron_config(self, compiled, content):
        (compiled / "neuron_config.json").write_text(content)
        refused(compiled, "neuron_config.json of .* (cannot be read|must hold a JSON object)")

    def test_a_model_that_is_compiled_but_not_compressed(self, compiled):
        config = json.loads((compiled / "config.json").read_text())
        del config["quantization_config"]
        (compiled / "config.json").write_text(json.dumps(config))
        refused(compiled, "is not a compressed checkpoint")


class TestFiles:
    def test_what_never_belongs_is_left_out(self, directory):
        before = check_directory(directory).files
        unwanted = (
            ".git/config",
            ".cache/x",
            ".env",
            "__pycache__/a.pyc",
            "a.partial",
            "sub/.hidden/x",
            "b.incomplete",
        )
        for name in (*unwanted, ".gitattributes", "sub/größe 1.txt", "empty.txt"):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text("")
        assert set(check_directory(directory).files) - set(before) == {
            ".gitattributes",
            "sub/größe 1.txt",
            "empty.txt",
        }

    def test_hidden_directories_above_do_not_matter(self, directory, tmp_path):
        moved = tmp_path / ".cache" / ".git" / "out"
        moved.parent.mkdir(parents=True)
        directory.rename(moved)
        assert "model.safetensors" in check_directory(moved).files

    def test_the_directory_itself_may_be_a_link(self, directory, tmp_path):
        (tmp_path / "link").symlink_to(directory)
        assert list(check_directory(tmp_path / "link").files) == list(check_directory(directory).files)

    def test_a_link_out_of_it(self, directory, tmp_path):
        (tmp_path / "id_rsa").write_text("secret")
        (directory / "notes.txt").symlink_to(tmp_path / "id_rsa")
        refused(directory, "notes.txt is a link out of the directory, to .*id_rsa: nothing was uploaded")

    def test_a_link_within_it(self, directory):
        (directory / "LICENSE").symlink_to("config.json")
        assert "LICENSE" in check_directory(directory).files

    def test_a_snapshot_of_the_hubs_cache(self, directory, tmp_path):
        blobs, snapshot = tmp_path / "models--me--x/blobs", tmp_path / "models--me--x/snapshots/abc"
        shutil.copytree(directory, blobs)
        snapshot.mkdir(parents=True)
        for path in blobs.iterdir():
            (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
        assert set(check_directory(snapshot).files) == {path.name for path in blobs.iterdir()}

    def test_a_link_to_nothing(self, directory):
        (directory / "notes.txt").symlink_to("nowhere")
        refused(directory, "notes.txt cannot be read .No such file or directory")

    def test_a_link_to_a_folder(self, directory):
        (directory / "loop").symlink_to(".")
        refused(directory, "loop is a link to a folder")

    def test_a_pipe(self, directory):
        os.mkfifo(directory / "pipe")
        refused(directory, "pipe is neither a file nor a folder")

    def test_a_name_that_is_no_text(self, directory):
        (directory / os.fsdecode(b"caf\xe9.txt")).write_text("")
        refused(directory, "udce9.txt' is not UTF-8")

    def test_a_folder_that_may_not_be_read(self, directory, monkeypatch):
        (directory / "closed").mkdir()
        scandir = os.scandir

        def closed(path):  # whom permissions do not stop, such as root, would not see the error
            if str(path).endswith("closed"):
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", closed)
        refused(directory, "closed cannot be read .Permission denied")

    def test_the_token_in_a_file(self, directory):
        (directory / "notes.txt").write_text("export HF_TOKEN=hf_secret\n")
        found = check_directory(directory)
        with pytest.raises(NeuronMMError, match="notes.txt holds your access token") as refusal:
            check_holds_no_token(found, "hf_secret")
        assert "hf_secret" not in str(refusal.value)
        check_holds_no_token(found, "hf_other")
        check_holds_no_token(found, None)
