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
"""The dense checkpoint on disk: what is read of it, and what is wrong with it before any work is done."""

import errno
import json
import math
import os
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from optimum_neuronmm import source
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.source import DenseCheckpoint, TensorInfo, list_shards, open_dense

from .conftest import save_tiny_model


@pytest.fixture(scope="module")
def sharded_original(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("source") / "sharded", shard_size="300KB")


@pytest.fixture
def sharded(sharded_original, tmp_path):
    """A model in several shards that a test may damage."""
    return shutil.copytree(sharded_original, tmp_path / "sharded")


@pytest.fixture
def model(tiny_llama, tmp_path):
    """A model in one file that a test may damage."""
    return shutil.copytree(tiny_llama, tmp_path / "model")


def edit_json(path, **changes):
    content = json.loads(path.read_text())
    for name, value in changes.items():
        content[name] = value
        if value is None:
            del content[name]
    path.write_text(json.dumps(content))


def edit_index(directory, change):
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def pickled(directory, weights=None, **options):
    """The weights of `directory` as pytorch_model.bin instead of safetensors."""
    weights = load_file(directory / "model.safetensors") if weights is None else weights
    (directory / "model.safetensors").unlink(missing_ok=True)
    torch.save(weights, directory / "pytorch_model.bin", **options)
    return directory


def test_tensors_are_those_of_the_files(sharded):
    checkpoint = open_dense(sharded)
    files = sorted(path.name for path in sharded.glob("*.safetensors"))
    assert sorted(checkpoint.shards) == files and len(files) > 3
    expected = {name: tensor for file in files for name, tensor in load_file(sharded / file).items()}
    assert checkpoint.tensors == {n: TensorInfo(tuple(t.shape), t.dtype) for n, t in expected.items()}
    read = checkpoint.read(expected)
    assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())
    assert checkpoint.nbytes == sum(tensor.nbytes for tensor in expected.values())
    assert checkpoint.name == str(sharded) and checkpoint.revision is None


def test_only_what_is_asked_for_is_read_and_no_file_stays_open(sharded):
    checkpoint = open_dense(sharded)
    read = checkpoint.read(["model.norm.weight"])
    assert list(read) == ["model.norm.weight"]
    opened = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    ]
    mapped = open("/proc/self/maps").read()
    assert not any(str(sharded) in path for path in opened) and str(sharded) not in mapped


def test_the_dtype_is_that_of_most_parameters(model):
    weights = load_file(model / "model.safetensors")
    mixed = {name: tensor if "norm" in name else tensor.bfloat16() for name, tensor in weights.items()}
    save_file(mixed, model / "model.safetensors", metadata={"format": "pt"})
    checkpoint = open_dense(model)
    assert checkpoint.dtype == torch.bfloat16
    assert checkpoint.info("model.norm.weight").dtype == torch.float32
    assert checkpoint.info("lm_head.weight") == TensorInfo((260, 96), torch.bfloat16)
    assert checkpoint.info("lm_head.weight").nbytes == 260 * 96 * 2


def test_the_dtype_is_not_that_of_most_tensors(tmp_path):
    directory = save_tiny_model(tmp_path / "model", vocab_size=4000)
    weights = load_file(directory / "model.safetensors")
    few = ("lm_head.weight", "model.embed_tokens.weight")  # but large
    save_file({n: t if n in few else t.half() for n, t in weights.items()}, directory / "model.safetensors")
    assert open_dense(directory).dtype == torch.float32


def test_a_single_file_counts_more_than_an_index_as_in_transformers(sharded):
    weights = {name: tensor for file in sharded.glob("*.safetensors") for name, tensor in load_file(file).items()}
    save_file(weights, sharded / "model.safetensors", metadata={"format": "pt"})
    assert list(open_dense(sharded).shards) == ["model.safetensors"]


def test_safetensors_count_more_than_pickles(model):
    (model / "pytorch_model.bin").write_bytes(b"never opened")
    assert list(open_dense(model).shards) == ["model.safetensors"]


class TestWhatIsWrong:
    """Each with a message that names the file or the setting."""

    def refused(self, directory, match, **options):
        with pytest.raises(NeuronMMError, match=match):
            open_dense(directory, **options)

    def test_a_file_instead_of_a_directory(self, model):
        self.refused(model / "config.json", "is a file. Expected a directory")

    def test_no_config(self, model):
        (model / "config.json").unlink()
        self.refused(model, "has no config.json")

    @pytest.mark.parametrize("content", ["", "{", '{"model_type": }', "\xff"])
    def test_a_config_that_is_no_json(self, model, content):
        (model / "config.json").write_bytes(content.encode("latin-1"))
        self.refused(model, "config.json is not valid JSON")

    def test_files_that_may_not_be_read(self, model, monkeypatch):
        with monkeypatch.context() as patch:  # root may read everything
            patch.setattr(source.os, "access", lambda path, mode: path.name != "generation_config.json")
            checkpoint = open_dense(model)
            with pytest.raises(NeuronMMError, match="generation_config.json belongs to the model and may not be read"):
                checkpoint.fingerprint()

        def read_text(path, **options):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "read_text", read_text)
        self.refused(model, "config.json could not be read: Permission denied")

    def test_a_name_that_no_file_can_have(self, tmp_path, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        self.refused("x" * 5000, "neither a directory nor a Hub model")

    @pytest.mark.parametrize("content", ["[]", "null", '"llama"', "3"])
    def test_a_config_that_is_no_object(self, model, content):
        (model / "config.json").write_text(content)
        self.refused(model, "config.json must hold a JSON object")

    def test_an_unknown_model_type(self, model):
        edit_json(model / "config.json", model_type="llama17")
        self.refused(model, "could not read the config of .*llama17")

    def test_no_model_type(self, model):
        edit_json(model / "config.json", model_type=None)
        self.refused(model, "could not read the config of .*None")

    def test_a_config_that_its_family_cannot_read(self, model):
        edit_json(model / "config.json", dtype="floaty")
        self.refused(model, "could not read the config of")

    def test_a_quantised_model(self, model):
        edit_json(model / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
        self.refused(model, r"is quantised \(gptq\).*start from the original model")

    def test_a_quantisation_without_a_name(self, model):
        edit_json(model / "config.json", quantization_config="int4")
        self.refused(model, r"is quantised \(int4\)")

    def test_a_compressed_model(self, compressed_llama):
        self.refused(compressed_llama, "is compressed already.*start from the dense model")

    def test_a_compressed_model_of_a_newer_format(self, compressed_llama, tmp_path):
        directory = shutil.copytree(compressed_llama, tmp_path / "newer")
        edit_json(directory / "config.json", quantization_config={"quant_method": "neuronmm", "format_version": 99})
        self.refused(directory, "is compressed already")

    def test_code_that_was_not_allowed(self, model):
        edit_json(model / "config.json", auto_map={"AutoModelForCausalLM": "modeling_x.Model"})
        self.refused(model, r"runs code of its own \(AutoModelForCausalLM\).*--trust-remote-code")
        assert open_dense(model, trust_remote_code=True).trust_remote_code is True

    @pytest.mark.parametrize("code", [["a", "b"], 3, "x"])
    def test_code_in_a_strange_form_is_not_allowed_either(self, model, code):
        edit_json(model / "config.json", auto_map=code)
        self.refused(model, "runs code of its own")

    def test_no_weights(self, model):
        (model / "model.safetensors").rename(model / "weights.safetensors")
        self.refused(model, "holds no weights that can be read: expected model.safetensors or pytorch_model.bin")

    def test_a_file_without_tensors(self, model):
        save_file({}, model / "model.safetensors")
        self.refused(model, "holds no weights")

    def test_an_index_without_tensors(self, sharded):
        edit_index(sharded, dict.clear)
        self.refused(sharded, "holds no weights")

    def test_a_missing_shard(self, sharded):
        (sharded / "model-00002-of-00005.safetensors").unlink()
        self.refused(sharded, "lacks the shard model-00002-of-00005.safetensors")

    def test_a_directory_instead_of_a_shard(self, sharded):
        (sharded / "model-00002-of-00005.safetensors").unlink()
        (sharded / "model-00002-of-00005.safetensors").mkdir()
        self.refused(sharded, "lacks the shard model-00002-of-00005.safetensors")

    @pytest.mark.parametrize("kept", [0, 4, 8, 100, -1])
    def test_a_truncated_shard(self, sharded, kept):
        path = sharded / "model-00003-of-00005.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[:kept])
        self.refused(sharded, "model-00003-of-00005.safetensors of .* is damaged or incomplete")

    @pytest.mark.parametrize(
        "header", [b"\xff" * 64, b"[]", b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}', b"{" * 4000]
    )
    def test_a_damaged_header(self, model, header):
        content = (model / "model.safetensors").read_bytes()
        (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + content[-4:])
        self.refused(model, "model.safetensors of .* is damaged or incomplete")

    def test_a_header_that_claims_to_be_enormous(self, model):
        (model / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
        self.refused(model, "is damaged or incomplete")

    def test_weights_in_eight_bits(self, model):
        weights = load_file(model / "model.safetensors")
        weights["lm_head.weight"] = weights["lm_head.weight"].to(torch.float8_e4m3fn)
        save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
        self.refused(model, "holds tensors of type F8_E4M3, expected full-precision")

    def test_a_tensor_that_is_not_where_the_index_says(self, sharded):
        def move(weight_map):
            weight_map["lm_head.weight"] = weight_map["model.norm.weight"] = "model-00001-of-00005.safetensors"

        edit_index(sharded, move)
        self.refused(sharded, "model-00001-of-00005.safetensors of .* lacks .*, which the index lists in it")

    @pytest.mark.parametrize("file", ["../model/model.safetensors", "/etc/passwd", "..", "a/b.safetensors", 3, None])
    def test_an_index_that_points_elsewhere(self, sharded, model, file):
        edit_index(sharded, lambda weight_map: weight_map.update({"lm_head.weight": file}))
        self.refused(sharded, "points outside its directory")

    @pytest.mark.parametrize("content", ["", "{}", "[]", '{"weight_map": 3}', '{"weight_map": {"a": ["b"]}}'])
    def test_an_index_that_is_none(self, sharded, content):
        (sharded / "model.safetensors.index.json").write_text(content)
        self.refused(sharded, "model.safetensors.index.json is not a weight index")

    def test_a_tensor_that_is_nowhere(self, model):
        weights = load_file(model / "model.safetensors")
        del weights["model.layers.1.mlp.up_proj.weight"]
        save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
        checkpoint = open_dense(model)
        with pytest.raises(NeuronMMError, match="no tensor 'model.layers.1.mlp.up_proj.weight', which a llama needs"):
            checkpoint.read(["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"])

    @pytest.mark.parametrize("name", ["no-such/model-xyz", "nosuchmodel", "a/b/c", "not a name!", "../elsewhere"])
    def test_what_is_neither_a_directory_nor_in_the_cache(self, name, tmp_path, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        self.refused(name, "neither a directory nor a Hub model.*spelling.*connection", cache_dir=str(tmp_path))


class TestHub:
    COMMIT = "0123456789abcdef0123456789abcdef01234567"

    @pytest.fixture
    def cache(self, tiny_llama, tmp_path):
        """A Hub cache that holds the tiny model as "me/tiny"."""
        repository = tmp_path / "models--me--tiny"
        shutil.copytree(tiny_llama, repository / "snapshots" / self.COMMIT)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(self.COMMIT)
        return tmp_path

    def test_without_a_connection_the_cache_is_used(self, cache, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        checkpoint = open_dense("me/tiny", cache_dir=str(cache))
        assert (checkpoint.name, checkpoint.revision) == ("me/tiny", self.COMMIT)
        assert checkpoint.fingerprint() == f"me/tiny@{self.COMMIT}"

    def test_what_was_fetched_by_half_is_incomplete(self, cache, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        (cache / "models--me--tiny" / "snapshots" / self.COMMIT / "model.safetensors").unlink()
        with pytest.raises(NeuronMMError, match="me/tiny holds no weights"):
            open_dense("me/tiny", cache_dir=str(cache))

    @pytest.mark.parametrize(
        ("files", "weights"),
        [
            (["model.safetensors", "pytorch_model.bin", "config.json"], ["model*.safetensors", "model*.bin"]),
            (["pytorch_model.bin", "config.json"], ["pytorch_model*.safetensors", "pytorch_model*.bin"]),
        ],
    )
    def test_only_one_form_of_the_weights_is_fetched(self, cache, monkeypatch, files, weights):
        asked = {}

        def snapshot_download(**options):
            asked.update(options)
            return str(cache / "models--me--tiny" / "snapshots" / self.COMMIT)

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda self, model, revision: files)
        open_dense("me/tiny", revision="v1", cache_dir="c", token="t")
        assert asked["allow_patterns"][-2:] == weights and "tokenizer*" not in asked["allow_patterns"][-2:]
        assert (asked["revision"], asked["cache_dir"], asked["token"]) == ("v1", "c", "t")


class Touch:
    """Unpickling it creates a file: what a malicious pickle would do."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


class TestPickles:
    def test_tensors_of_a_pickle(self, model, tiny_llama):
        expected = load_file(tiny_llama / "model.safetensors")
        checkpoint = open_dense(pickled(model))
        assert list(checkpoint.shards) == ["pytorch_model.bin"]
        read = checkpoint.read(expected)
        assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())

    def test_the_form_that_torch_wrote_before_1_6(self, model, tiny_llama):
        expected = load_file(tiny_llama / "model.safetensors")
        checkpoint = open_dense(pickled(model, _use_new_zipfile_serialization=False))
        assert torch.equal(checkpoint.read(["lm_head.weight"])["lm_head.weight"], expected["lm_head.weight"])

    def test_shards(self, model):
        weights = load_file(model / "model.safetensors")
        (model / "model.safetensors").unlink()
        names = sorted(weights)
        weight_map = {name: f"pytorch_model-0000{1 + (i > 9)}-of-00002.bin" for i, name in enumerate(names)}
        for file in set(weight_map.values()):
            torch.save({name: weights[name] for name in names if weight_map[name] == file}, model / file)
        (model / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
        checkpoint = open_dense(model)
        assert len(checkpoint.shards) == 2 and set(checkpoint.tensors) == set(names)
        assert torch.equal(checkpoint.read([names[0]])[names[0]], weights[names[0]])

    def test_no_code_is_run(self, model, tmp_path):
        weights = load_file(model / "model.safetensors")
        pickled(model, {**weights, "extra": Touch(tmp_path / "owned")})
        with pytest.raises(
            NeuronMMError, match="pytorch_model.bin could not be read with torch's weights-only loader"
        ):
            open_dense(model)
        assert not (tmp_path / "owned").exists()
        pickle.loads(pickle.dumps(Touch(tmp_path / "owned")))  # the trap works
        assert (tmp_path / "owned").exists()

    @pytest.mark.parametrize("protocol", [0, 2, 4])
    def test_a_plain_pickle_runs_no_code_either(self, model, tmp_path, protocol):
        (model / "model.safetensors").unlink()
        (model / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(tmp_path / "owned"), protocol=protocol))
        with pytest.raises(NeuronMMError, match="weights-only loader.*Convert the model to safetensors"):
            open_dense(model)
        assert not (tmp_path / "owned").exists()

    @pytest.mark.parametrize("content", [b"", b"\x80", b"PK\x03\x04 no archive", b"version https://git-lfs"])
    def test_a_damaged_pickle(self, model, content):
        (model / "model.safetensors").unlink()
        (model / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(NeuronMMError, match="pytorch_model.bin could not be read"):
            open_dense(model)

    def test_a_truncated_pickle(self, model):
        path = pickled(model) / "pytorch_model.bin"
        path.write_bytes(path.read_bytes()[:-5000])
        with pytest.raises(NeuronMMError, match="pytorch_model.bin could not be read"):
            open_dense(model)

    @pytest.mark.parametrize("content", [[torch.zeros(2)], {"state_dict": {"a": torch.zeros(2)}}, {"epoch": 3}])
    def test_something_else_than_a_dictionary_of_tensors(self, model, content):
        pickled(model, content)
        with pytest.raises(NeuronMMError, match="must hold a dictionary of tensors"):
            open_dense(model)

    def test_tensors_that_could_not_be_written(self, model):
        weights = load_file(model / "model.safetensors")
        weights["lm_head.weight"] = weights["lm_head.weight"].to(torch.complex64)
        pickled(model, weights)
        with pytest.raises(NeuronMMError, match="holds tensors of type torch.complex64, expected full-precision"):
            open_dense(model)


class TestFingerprint:
    def test_it_is_the_same_for_the_same_files(self, model):
        assert open_dense(model).fingerprint() == open_dense(model).fingerprint()

    @pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "generation_config.json"])
    def test_it_changes_with_every_file_that_the_result_comes_from(self, model, file):
        before = open_dense(model).fingerprint()
        content = (model / file).read_bytes()
        if file == "config.json":
            content = content.replace(b'"rms_norm_eps": 1e-06', b'"rms_norm_eps": 1e-05')
            assert content != (model / file).read_bytes()
        (model / file).write_bytes(content)
        os.utime(model / file, ns=(1, 2 + (model / file).stat().st_mtime_ns))
        assert open_dense(model).fingerprint() != before

    def test_it_does_not_change_with_what_lies_beside(self, model):
        before = open_dense(model).fingerprint()
        (model / "log.txt").write_text("running")
        (model / "out").mkdir()
        assert open_dense(model).fingerprint() == before


class TestCompanions:
    FILES = ["LICENSE", "NOTICE.txt", "merges.txt", "spiece.model", "chat_template.jinja", "vocab.json"]
    OTHERS = ["README.md", "train.log", "optimizer.pt", "tokenizer.bin", "vocab.safetensors", "log.txt", ".env"]

    @pytest.fixture
    def full(self, model):
        for name in [*self.FILES, *self.OTHERS, "modeling_x.py", "tokenizer_x.py"]:
            (model / name).write_text("x")
        (model / "tokenizer_cache").mkdir()
        return model

    ALWAYS = ["generation_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]

    def test_tokenizer_and_licence_but_no_code_and_no_weights(self, full):
        found = [path.name for path in open_dense(full).companions()]
        assert found == sorted(self.FILES + self.ALWAYS)

    def test_code_where_it_is_trusted(self, full):
        found = [path.name for path in open_dense(full, trust_remote_code=True).companions()]
        assert found == sorted([*self.FILES, *self.ALWAYS, "modeling_x.py", "tokenizer_x.py"])


def test_names_of_dtypes_are_those_of_the_format(tmp_path):
    for name, dtype in source.SAFETENSORS_DTYPES.items():
        save_file({"a": torch.zeros(3, dtype=dtype)}, tmp_path / "model.safetensors")
        header = (tmp_path / "model.safetensors").read_bytes()[8:80]
        assert f'"dtype":"{name}"'.encode() in header
        assert list_shards(tmp_path, "x")["model.safetensors"]["a"] == TensorInfo((3,), dtype)


def test_nothing_is_read_but_headers(tmp_path):
    """A file of 8 GB that is nearly all hole opens at once."""
    numel = 2**31
    header = json.dumps({"a": {"dtype": "F32", "shape": [numel], "data_offsets": [0, 4 * numel]}}).encode()
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 4 * numel)
    assert list_shards(tmp_path, "x")["model.safetensors"]["a"].nbytes == 8 * 2**30


def test_attributes(tiny_llama):
    checkpoint = DenseCheckpoint(tiny_llama, "a name", "abc")
    assert (checkpoint.name, checkpoint.revision, checkpoint.dtype) == ("a name", "abc", torch.float32)
    assert checkpoint.config.hidden_size == 96 and math.isfinite(checkpoint.nbytes)
