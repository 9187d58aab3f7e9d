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
"""What of a directory is let through to the Hub. Nothing here is sent anywhere."""

import json
import os
import shutil

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from optimum_neuronmm import NeuronMMConfig, compress, load_report
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.hub_files import check_directory, check_holds_no_token

from .compiled_form import NEURON_CONFIG
from .conftest import read_config, save_tiny_model


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
        name = f"{list(read_config(directory)['quantization_config']['modules'])[-1]}.{leaf}"
        weights = load_file(directory / "model.safetensors")
        del weights[name]
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        refused(directory, f"lacks {name}: nothing was uploaded")

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
