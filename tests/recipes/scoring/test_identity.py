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
"""Which model it is: its name, kind, size and what its hash depends on."""

import json
import os
import shutil

import pytest
from safetensors.torch import load_file, save_file

from optimum_neuronmm import load_report
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes.scoring.identity import _made, identify

from ...conftest import read_config, save_tiny_model
from .common import load_model


COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def dense(tiny_llama, tmp_path):
    """A dense model to change."""
    return shutil.copytree(tiny_llama, tmp_path / "dense")


def on_the_hub(directory, cache, name="org/model"):
    """The cache of the Hub's client with a model in it, as of one commit."""
    folder = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(directory, folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    return folder / "snapshots" / COMMIT


def change(path) -> None:
    """Another last byte. In a JSON file it stays white space."""
    content = path.read_bytes()
    if path.suffix == ".json":
        path.write_bytes(content + b"\n")
    else:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_a_dense_model(tiny_llama):
    found = identify(tiny_llama)
    assert (found.name, found.revision, found.directory, found.kind) == ("tiny-llama", None, tiny_llama, "dense")
    assert found.requested_ratio == found.achieved_ratio == 0
    assert found.parameters == load_model(tiny_llama).num_parameters()
    assert len(found.sha256) == 64 and identify(str(tiny_llama)) == found


def test_a_compressed_model(compressed_llama, tiny_llama):
    found, ratio = identify(compressed_llama), load_report(compressed_llama)["compression_ratio"]
    assert found.kind == "compressed" and found.requested_ratio == ratio["requested"] == 0.2
    assert found.achieved_ratio == ratio["projections"] > 0.1
    assert found.parameters == load_model(compressed_llama).num_parameters() < identify(tiny_llama).parameters
    made = "decomposition two_sided, allocation by_loss, calibrated on text.txt (8 windows)"
    assert (found.made, identify(tiny_llama).made) == (made, None)
    mlp = 3 * 3 * 96 * 200
    assert identify(tiny_llama).parameters - found.parameters == pytest.approx(found.achieved_ratio * mlp)


def test_a_compiled_model(compiled):
    found, ratio = identify(compiled), load_report(compiled)["compression_ratio"]
    assert found.kind == "compiled" and found.parameters is None
    assert (found.requested_ratio, found.achieved_ratio) == (ratio["requested"], ratio["projections"])


def test_a_compiled_model_that_is_not_compressed(compiled):
    config = read_config(compiled)
    del config["quantization_config"]
    (compiled / "config.json").write_text(json.dumps(config))
    found = identify(compiled)
    assert found.kind == "compiled" and found.requested_ratio == found.achieved_ratio == 0


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard_size", ["5GB", "300KB"])
def test_parameters(tmp_path, tied, shard_size):
    directory = save_tiny_model(tmp_path / "m", tie_word_embeddings=tied, shard_size=shard_size)
    assert len(list(directory.glob("*.safetensors"))) == 1 or shard_size == "300KB"
    model = load_model(directory)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert identify(directory).parameters == model.num_parameters()


def test_parameters_of_weights_in_another_format(dense):
    (dense / "model.safetensors").rename(dense / "pytorch_model.bin")
    assert identify(dense).parameters is None


def test_a_scalar_and_an_empty_tensor_count_as_they_are(dense):
    import torch

    before = identify(dense).parameters
    weights = load_file(dense / "model.safetensors")
    save_file({**weights, "one": torch.tensor(2.0), "none": torch.zeros(0, 5)}, dense / "model.safetensors")
    assert identify(dense).parameters == before + 1


@pytest.mark.parametrize("form", ["dense", "directory", "compiled"])
def test_the_hash_depends_on_every_file_that_decides(request, form):
    directory = request.getfixturevalue(form)
    others = {"README.md", "generation_config.json", "report.json", "notes.txt"}
    (directory / "modeling_own.py").write_text("pass\n")
    (directory / "README.md").write_text("words\n")
    (directory / "notes.txt").write_text("words\n")
    for name in (
        "vocab.json",
        "merges.txt",
        "vocab.txt",
        "spiece.model",
        "special_tokens_map.json",
        "added_tokens.json",
    ):
        (directory / name).write_text("{}\n")
    seen = {identify(directory).sha256}
    deciding = 0
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        if path.name in others or path.suffix == ".png" or "report" in path.name:
            change(path)
            assert identify(directory).sha256 in seen, f"{path.name} decides nothing"
            continue
        before = identify(directory).sha256
        content = path.read_bytes()
        change(path)
        assert identify(directory).sha256 not in seen, path.name
        seen.add(identify(directory).sha256)
        path.write_bytes(content)
        assert identify(directory).sha256 == before
        deciding += 1
    assert deciding >= 9


def test_the_hash_knows_which_file_holds_what(dense):
    (dense / "a.py").write_text("12")
    (dense / "b.py").write_text("3")
    before = identify(dense).sha256
    (dense / "a.py").write_text("1")
    (dense / "b.py").write_text("23")
    moved = identify(dense).sha256
    (dense / "b.py").rename(dense / "c.py")
    renamed = identify(dense).sha256
    (dense / "c.py").unlink()
    (dense / "a.py").write_text("1c.py23")
    assert len({before, moved, renamed, identify(dense).sha256}) == 4


def test_the_hash_of_files_larger_than_a_piece(dense, monkeypatch):
    whole = identify(dense).sha256
    monkeypatch.setattr("optimum_neuronmm.recipes.scoring.identity._PIECE", 1000)
    assert identify(dense).sha256 == whole


def test_the_name_and_the_place_do_not_decide(dense, tmp_path):
    before = identify(dense)
    moved = dense.rename(tmp_path / "moved")
    assert identify(moved).sha256 == before.sha256 and identify(moved).name == "moved"


def test_the_name_of_the_working_directory(dense, monkeypatch):
    monkeypatch.chdir(dense)
    assert identify(".").name == "dense"
    os.symlink(dense, dense.parent / "link")
    assert identify(dense.parent / "link").sha256 == identify(dense).sha256


def test_a_directory_without_configuration(dense):
    (dense / "config.json").unlink()
    with pytest.raises(NeuronMMError, match="has no config.json: expected the directory of a Hugging Face model"):
        identify(dense)


def test_a_file_in_place_of_a_directory(dense):
    with pytest.raises(NeuronMMError, match=r"config.json is a file. Expected a directory"):
        identify(dense / "config.json")


@pytest.mark.parametrize("size", [0, 4, 1000, -1])
def test_damaged_weights(dense, size):
    path = dense / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(NeuronMMError, match="model.safetensors is damaged or incomplete"):
        identify(dense)


def test_a_model_on_the_hub(tiny_llama, tmp_path):
    snapshot = on_the_hub(tiny_llama, tmp_path)
    found = identify("org/model", cache_dir=str(tmp_path))
    assert (found.name, found.revision, found.directory, found.kind) == ("org/model", COMMIT, snapshot, "dense")
    assert found.sha256 == identify(tiny_llama).sha256
    assert identify("org/model", COMMIT, str(tmp_path)) == found


def test_a_compiled_model_on_the_hub(compiled, tmp_path):
    snapshot = on_the_hub(compiled, tmp_path / "cache")
    found = identify("org/model", cache_dir=str(tmp_path / "cache"))
    assert (found.name, found.revision, found.directory, found.kind) == ("org/model", COMMIT, snapshot, "compiled")
    assert found.sha256 == identify(compiled).sha256


def test_a_model_that_is_nowhere(tmp_path):
    for name in ("org/nothing", str(tmp_path / "nothing")):
        with pytest.raises(NeuronMMError, match="nothing is neither a directory nor a Hub model"):
            identify(name, cache_dir=str(tmp_path))


def test_how_a_model_was_made():
    report = {"calibration": {"sources": [{"source": "a", "windows": 4}, {"source": "b", "windows": 3}]}}
    of_an_old_release = "decomposition whitened, allocation uniform, calibrated on a (4 windows) and b (3 windows)"
    assert _made(report) == of_an_old_release
    report |= {"refinements": [{"kept": False}], "recovery": {"tokens": 2048, "options": {"objective": "distill"}}}
    assert _made(report) == f"{of_an_old_release}, trained on 2,048 tokens (distill)"
    report["refinements"].append({"kept": True})
    assert _made(report) == f"{of_an_old_release}, refined, trained on 2,048 tokens (distill)"
