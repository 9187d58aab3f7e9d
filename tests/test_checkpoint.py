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
"""The written checkpoint: its files against those of the dense one, and its bytes against safetensors' own reader."""

import json
import re
import shutil
import struct
import weakref
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_neuronmm import NeuronMMConfig, compress
from optimum_neuronmm.checkpoint import StoredTensor, write_checkpoint, write_safetensors
from optimum_neuronmm.source import SAFETENSORS_DTYPES, TensorInfo, open_dense

from .conftest import read_config, save_tiny_model


FACTOR = re.compile(r"\.mlp\.\w+_proj\.([uv]\.)?(weight|bias)$")


def tensors_of(directory):
    files = sorted(directory.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def compressed(directory, output, quick_options, **changes):
    """Of uniform ranks, so that all of the chosen projections get factors."""
    compress(directory, output, NeuronMMConfig(**{**quick_options, "allocation": "uniform", **changes}))
    return output


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("checkpoint") / "dense", shard_size="300KB", mlp_bias=True)


@pytest.fixture(scope="module")
def compressed_sharded(sharded, quick_options, tmp_path_factory):
    return compressed(sharded, tmp_path_factory.mktemp("checkpoint") / "compressed", quick_options)


class TestWriter:
    @pytest.fixture
    def write(self, tmp_path):
        def write(tensors: dict[str, torch.Tensor]) -> Path:
            """Writes tensors, each from a file of its own."""
            stored = []
            for index, (name, tensor) in enumerate(tensors.items()):
                source = tmp_path / f"{index}.safetensors"
                save_file({name: tensor.contiguous()}, source)
                stored.append(StoredTensor(name, TensorInfo(tuple(tensor.shape), tensor.dtype), source))
            write_safetensors(tmp_path / "written.safetensors", stored)
            return tmp_path / "written.safetensors"

        return write

    def test_safetensors_reads_what_was_written(self, write):
        generator = torch.Generator().manual_seed(0)
        tensors = {
            f"{dtype}.{shape}": (100 * torch.randn(shape, generator=generator)).to(dtype)
            for dtype in SAFETENSORS_DTYPES.values()
            for shape in [(), (0,), (1,), (3,), (3, 5), (2, 0, 4), (1, 2, 3, 4)]
        }
        path = write(tensors)
        read = load_file(path)
        assert read.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name
        with safe_open(path, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}  # transformers refuses a file without it

    def test_values_are_kept_to_the_bit(self, write):
        bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)  # every NaN, infinity and zero
        path = write({"a": bits.view(torch.bfloat16), "b": bits.view(torch.float16)})
        read = load_file(path)
        assert torch.equal(read["a"].view(torch.int16), bits) and torch.equal(read["b"].view(torch.int16), bits)

    def test_every_tensor_is_aligned(self, write):
        """Readers that map the file cannot use a float32 at an odd place."""
        tensors = {f"{i}": torch.ones(3, dtype=dtype) for i, dtype in enumerate(reversed(SAFETENSORS_DTYPES.values()))}
        content = write(tensors).read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        assert length % 8 == 0
        for name, tensor in tensors.items():
            assert header[name]["data_offsets"][0] % tensor.element_size() == 0
        assert list(header)[0] == "__metadata__"

    def test_tensors_of_one_dtype_keep_their_order(self, write):
        path = write({name: torch.zeros(2) for name in "zebra"})
        (length,) = struct.unpack("<Q", path.read_bytes()[:8])
        assert list(json.loads(path.read_bytes()[8 : 8 + length]))[1:] == list("zebra")

    def test_one_tensor_is_in_memory_at_a_time(self, tmp_path, monkeypatch):
        alive = []

        class Counted:
            def __init__(self, name):
                self.name, self.info = name, TensorInfo((2,), torch.float32)

            def read(self):
                assert not any(reference() is not None for reference in alive)
                tensor = torch.zeros(2)
                alive.append(weakref.ref(tensor))
                return tensor

        write_safetensors(tmp_path / "x.safetensors", [Counted(name) for name in "abcd"])
        assert len(alive) == 4


class TestShards:
    def test_files_are_named_as_those_of_the_dense_model(self, sharded, compressed_sharded):
        for pattern in ("*.safetensors", "*.index.json"):
            names = [
                sorted(path.name for path in directory.glob(pattern)) for directory in (sharded, compressed_sharded)
            ]
            assert names[0] == names[1] and len(names[0]) >= 1

    def test_every_tensor_is_in_the_file_that_it_was_in(self, sharded, compressed_sharded):
        maps = [
            json.loads((directory / "model.safetensors.index.json").read_text())["weight_map"]
            for directory in (sharded, compressed_sharded)
        ]
        assert len(set(maps[0].values())) > 3
        for name, file in maps[1].items():
            dense = name
            if name not in maps[0]:  # a factor, or the bias that went to the second one
                dense = name.replace(".u.", ".").replace(".v.", ".").replace("bias", "weight")
            assert file == maps[0][dense]
            assert name in load_file(compressed_sharded / file)

    def test_the_index_is_of_all_tensors_and_its_totals_are_right(self, compressed_sharded):
        index = json.loads((compressed_sharded / "model.safetensors.index.json").read_text())
        tensors = tensors_of(compressed_sharded)
        assert index["weight_map"].keys() == tensors.keys()
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
        assert index["metadata"]["total_parameters"] == sum(tensor.numel() for tensor in tensors.values())

    def test_a_model_in_one_file_has_no_index(self, compressed_llama):
        assert [path.name for path in compressed_llama.glob("model*")] == ["model.safetensors"]

    def test_tensors_that_are_not_compressed_are_the_same_to_the_bit(self, sharded, compressed_sharded):
        dense, written = tensors_of(sharded), tensors_of(compressed_sharded)
        kept = [name for name in dense if not FACTOR.search(name)]
        assert len(kept) == 3 + 3 * 6
        assert all(torch.equal(dense[name], written[name]) for name in kept)
        assert {name for name in written if not FACTOR.search(name)} == set(kept)

    def test_a_bias_goes_with_the_second_factor(self, sharded, compressed_sharded):
        dense, written = tensors_of(sharded), tensors_of(compressed_sharded)
        path = "model.layers.1.mlp.down_proj"
        assert torch.equal(written[f"{path}.v.bias"], dense[f"{path}.bias"])
        assert f"{path}.bias" not in written and f"{path}.u.bias" not in written

    def test_projections_have_factors_and_an_empty_weight(self, compressed_sharded):
        written = tensors_of(compressed_sharded)
        modules = read_config(compressed_sharded)["quantization_config"]["modules"]
        assert len(modules) == 9
        for path, entry in modules.items():
            K, N = (200, 96) if path.endswith("down_proj") else (96, 200)
            assert written[f"{path}.u.weight"].shape == (entry["rank"], K)
            assert written[f"{path}.v.weight"].shape == (N, entry["rank"])
            assert written[f"{path}.weight"].shape == (0,)

    def test_it_loads_without_a_missing_or_an_unexpected_tensor(self, compressed_sharded):
        model, info = AutoModelForCausalLM.from_pretrained(compressed_sharded, output_loading_info=True)
        assert not any(info.values()), info
        loaded = model.state_dict()
        for name, tensor in tensors_of(compressed_sharded).items():
            assert torch.equal(loaded[name], tensor)

    def test_only_some_projections(self, sharded, quick_options, tmp_path):
        output = compressed(sharded, tmp_path / "out", quick_options, projections=["up"])
        dense, written = tensors_of(sharded), tensors_of(output)
        path = "model.layers.0.mlp.gate_proj"
        assert torch.equal(written[f"{path}.weight"], dense[f"{path}.weight"])
        assert torch.equal(written[f"{path}.bias"], dense[f"{path}.bias"])
        assert set(read_config(output)["quantization_config"]["modules"]) == {
            f"model.layers.{layer}.mlp.up_proj" for layer in range(3)
        }

    def test_pickled_shards_are_written_as_safetensors(self, sharded, compressed_sharded, quick_options, tmp_path):
        directory = tmp_path / "pickled"
        shutil.copytree(sharded, directory)
        index = json.loads((directory / "model.safetensors.index.json").read_text())
        for file in set(index["weight_map"].values()):
            name = file.replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
            torch.save(load_file(directory / file), directory / name)
            (directory / file).unlink()
            index["weight_map"] = {tensor: name if f == file else f for tensor, f in index["weight_map"].items()}
        (directory / "model.safetensors.index.json").unlink()
        (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        output = compressed(directory, tmp_path / "out", quick_options)
        assert not list(output.glob("*.bin*"))
        for path in compressed_sharded.glob("*.safetensors*"):
            if path.name.endswith(".json"):
                weight_map = [json.loads((d / path.name).read_text())["weight_map"] for d in (output, path.parent)]
                assert weight_map[0] == weight_map[1]
            else:
                expected, found = load_file(path), load_file(output / path.name)
                assert expected.keys() == found.keys()
                assert all(torch.equal(expected[name], found[name]) for name in expected)

    def test_tensors_that_are_no_parameters_are_kept(self, tiny_llama, quick_options, tmp_path):
        directory = shutil.copytree(tiny_llama, tmp_path / "dense")
        extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.rand(12), "step": torch.tensor(7)}
        save_file({**tensors_of(tiny_llama), **extra}, directory / "model.safetensors", metadata={"format": "pt"})
        written = tensors_of(compressed(directory, tmp_path / "out", quick_options, dtype="bfloat16"))
        assert written["step"].dtype == torch.int64 and written["step"] == 7
        assert written["model.layers.0.self_attn.rotary_emb.inv_freq"].dtype == torch.bfloat16


class TestChangedWeights:
    """Dense weights that are written with other values than the checkpoint's."""

    @pytest.mark.parametrize("dtype", [None, "bfloat16"])
    def test_they_take_the_place_of_the_dense_ones(self, sharded, tmp_path, dtype):
        changed = {
            "model.layers.0.mlp.down_proj.weight": torch.rand(96, 200),
            "model.layers.2.mlp.down_proj.weight": torch.rand(96, 200),
        }
        path = "model.layers.1.mlp.up_proj"
        shapes = {f"{path}.u.weight": (32, 96), f"{path}.v.weight": (200, 32), f"{path}.v.bias": (200,)}
        factors = {name: torch.rand(shape) for name, shape in {**shapes, f"{path}.weight": (0,)}.items()}
        new = {name: t.to(getattr(torch, dtype or "float32")) for name, t in {**changed, **factors}.items()}
        files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
        save_file({name: t for name, t in new.items() if ".2." not in name}, files[0])
        save_file({name: t for name, t in new.items() if ".2." in name}, files[1])
        config = NeuronMMConfig(modules={path: {"rank": 32, "storage": "uv"}}, dtype=dtype)
        (tmp_path / "out").mkdir()
        write_checkpoint(open_dense(sharded), files, config, tmp_path / "out")
        dense, written = tensors_of(sharded), tensors_of(tmp_path / "out")
        assert written.keys() == {*dense, *factors} - {f"{path}.bias"}
        for name, tensor in written.items():
            expected = new[name] if name in new else dense[name].to(getattr(torch, dtype or "float32"))
            assert tensor.dtype == expected.dtype and torch.equal(tensor, expected), name
        maps = [
            json.loads((directory / "model.safetensors.index.json").read_text())["weight_map"]
            for directory in (sharded, tmp_path / "out")
        ]
        assert all(maps[0][name] == maps[1][name] for name in changed)
        assert not any(AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)[1].values())


class TestDtypes:
    @pytest.fixture(scope="class")
    @staticmethod
    def mixed(tmp_path_factory):
        """A model in bfloat16 whose norms are float32 and one of whose projections is float16."""
        directory = save_tiny_model(tmp_path_factory.mktemp("mixed") / "dense", dtype=torch.bfloat16)
        weights = tensors_of(directory)
        for name in weights:
            if "norm" in name:
                weights[name] = weights[name].float() + 1e-5
        weights["model.layers.1.mlp.up_proj.weight"] = weights["model.layers.1.mlp.up_proj.weight"].half()
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        return directory

    def test_every_tensor_keeps_its_own(self, mixed, quick_options, tmp_path):
        output = compressed(mixed, tmp_path / "out", quick_options)
        dense, written = tensors_of(mixed), tensors_of(output)
        for name, tensor in written.items():
            original = name.replace(".u.", ".").replace(".v.", ".")
            assert tensor.dtype == dense[original].dtype, name
        assert {tensor.dtype for tensor in written.values()} == {torch.float32, torch.bfloat16, torch.float16}
        assert read_config(output)["dtype"] == "bfloat16"
        assert AutoModelForCausalLM.from_pretrained(output, dtype="auto").dtype == torch.bfloat16

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_one_dtype_for_all(self, mixed, quick_options, tmp_path, dtype):
        output = compressed(mixed, tmp_path / "out", quick_options, dtype=dtype)
        dense, written = tensors_of(mixed), tensors_of(output)
        assert {tensor.dtype for tensor in written.values()} == {getattr(torch, dtype)}
        assert torch.equal(written["lm_head.weight"], dense["lm_head.weight"].to(getattr(torch, dtype)))
        config = read_config(output)
        assert config["dtype"] == dtype and config["quantization_config"]["dtype"] == dtype
        assert AutoModelForCausalLM.from_pretrained(output, dtype="auto").dtype == getattr(torch, dtype)


class TestConfig:
    def test_it_is_that_of_the_dense_model_and_the_settings(self, tiny_llama, compressed_llama, quick_options):
        dense, written = read_config(tiny_llama), read_config(compressed_llama)
        settings = written.pop("quantization_config")
        assert written == {**dense, "dtype": "float32"}
        assert settings["quant_method"] == "neuronmm" and settings["format_version"] == 1
        assert settings["compression_ratio"] == quick_options["compression_ratio"] and settings["block_size"] == 32
        projections = json.loads((compressed_llama / "neuronmm_report.json").read_text())["projections"]
        ranks = {entry["name"]: entry["rank"] for entry in projections if entry["rank"] is not None}
        assert settings["modules"] == {name: {"rank": rank, "storage": "uv"} for name, rank in ranks.items()} and ranks
        assert NeuronMMConfig.from_dict(settings).to_dict() == settings

    def test_the_old_name_of_the_dtype_is_replaced(self, tiny_llama, quick_options, tmp_path):
        directory = shutil.copytree(tiny_llama, tmp_path / "dense")
        config = read_config(directory)
        config["torch_dtype"] = config.pop("dtype")
        (directory / "config.json").write_text(json.dumps(config))
        written = read_config(compressed(directory, tmp_path / "out", quick_options, dtype="bfloat16"))
        assert "torch_dtype" not in written and written["dtype"] == "bfloat16"


class TestFiles:
    def test_what_is_there(self, compressed_llama):
        assert sorted(path.name for path in compressed_llama.iterdir()) == [
            "README.md",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "neuronmm_ranks.png",
            "neuronmm_report.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]

    def test_tokenizer_licence_and_generation_config_are_copied(self, tiny_llama, quick_options, tmp_path):
        directory = shutil.copytree(tiny_llama, tmp_path / "dense")
        (directory / "LICENSE").write_text("a licence")
        (directory / "README.md").write_text("the dense model")
        (directory / "modeling_x.py").write_text("raise SystemExit")
        (directory / "tokenizer_x.py").write_text("raise SystemExit")
        (directory / "pytorch_model.bin").write_text("weights")
        (directory / ".env").write_text("a secret")
        output = compressed(directory, tmp_path / "out", quick_options)
        for name in ("LICENSE", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
            assert (output / name).read_bytes() == (directory / name).read_bytes()
        assert not {"modeling_x.py", "tokenizer_x.py", "pytorch_model.bin", ".env"} & {
            p.name for p in output.iterdir()
        }
        assert "the dense model" not in (output / "README.md").read_text()
        text = "a text"
        tokenizers = [AutoTokenizer.from_pretrained(d)(text).input_ids for d in (directory, output)]
        assert tokenizers[0] == tokenizers[1]

    def test_code_is_copied_where_it_is_trusted(self, tiny_llama, tmp_path):
        directory = shutil.copytree(tiny_llama, tmp_path / "dense")
        (directory / "modeling_x.py").write_text("code")
        (tmp_path / "out").mkdir()
        config = NeuronMMConfig()
        write_checkpoint(open_dense(directory, trust_remote_code=True), [], config, tmp_path / "out")
        assert (tmp_path / "out" / "modeling_x.py").read_text() == "code"
        assert all(torch.equal(t, tensors_of(directory)[n]) for n, t in tensors_of(tmp_path / "out").items())
