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
"""The one door: what comes back from it, what is kept for the next time, and what it refuses."""

import os
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from optimum_neuronmm import LowRankLinear, NeuronMMConfig, NeuronModelForCausalLM, auto, cache, compress
from optimum_neuronmm.errors import NeuronMMError

from .compiled_form import save_compiled_form


FACTORED = 4  # of the nine projections of `compressed_llama`; the others stay dense


def low_rank_modules(model):
    return [module for module in model.modules() if isinstance(module, LowRankLinear)]


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """Where what is compressed is kept."""
    monkeypatch.setattr(cache, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(auto, "has_neuron_sdk", lambda: False)
    return tmp_path / "home" / "neuronmm"


@pytest.fixture
def said(caplog):
    """`said()` is what was warned of since the last call."""

    def said():
        text = caplog.text
        caplog.clear()
        return text

    return said


@pytest.fixture
def compressions(monkeypatch):
    """The directories that were compressed to."""
    calls = []
    monkeypatch.setattr(
        cache, "compress", lambda *args, **options: calls.append(args[1]) or compress(*args, **options)
    )
    return calls


@pytest.fixture
def model(tiny_llama, tmp_path):
    return shutil.copytree(tiny_llama, tmp_path / "a model")


class TestCompressing:
    @pytest.mark.parametrize("as_dictionary", [False, True])
    def test_a_working_model_comes_back(self, tiny_llama, quick_options, compressed_llama, as_dictionary):
        option = quick_options if as_dictionary else NeuronMMConfig(**quick_options)
        model = NeuronModelForCausalLM.from_pretrained(tiny_llama, neuronmm=option)
        expected = AutoModelForCausalLM.from_pretrained(compressed_llama)
        assert type(model) is type(expected)
        assert len(low_rank_modules(model)) == len(low_rank_modules(expected)) == FACTORED
        assert all(torch.equal(value, expected.state_dict()[name]) for name, value in model.state_dict().items())
        generated = model.generate(torch.tensor([[256, 1, 2]]), max_new_tokens=4, do_sample=False, pad_token_id=256)
        assert generated.shape == (1, 7)

    def test_true_means_the_defaults(self, tiny_llama, monkeypatch, compressed_llama):
        asked = []

        def record(model, directory, config, **options):
            asked.append((model, config, options))
            shutil.copytree(compressed_llama, directory)

        monkeypatch.setattr(cache, "compress", record)
        NeuronModelForCausalLM.from_pretrained(str(tiny_llama), neuronmm=True)
        ((model, config, options),) = asked
        assert model == str(tiny_llama) and config == NeuronMMConfig()
        assert options == {"revision": None, "cache_dir": None, "token": None, "trust_remote_code": False}

    def test_the_second_call_compresses_nothing(self, tiny_llama, quick_options, compressions, said, kept):
        config = NeuronMMConfig(**quick_options)
        first = NeuronModelForCausalLM.from_pretrained(tiny_llama, neuronmm=config)
        assert "Using the compressed model in" not in said()
        second = NeuronModelForCausalLM.from_pretrained(str(tiny_llama), neuronmm=config)
        assert len(compressions) == 1 and f"Using the compressed model in {compressions[0]}" in said()
        assert compressions[0].parent == kept and list(kept.iterdir()) == compressions
        assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())

    def test_other_settings_are_another_model(self, tiny_llama, quick_options, compressions):
        NeuronModelForCausalLM.from_pretrained(tiny_llama, neuronmm=quick_options)
        NeuronModelForCausalLM.from_pretrained(tiny_llama, neuronmm={**quick_options, "seed": 1})
        assert len(set(compressions)) == 2

    def test_other_weights_are_another_model(self, model, quick_options, compressions):
        NeuronModelForCausalLM.from_pretrained(model, neuronmm=quick_options)
        os.utime(model / "model.safetensors", ns=(1, 1))
        NeuronModelForCausalLM.from_pretrained(model, neuronmm=quick_options)
        assert len(set(compressions)) == 2

    def test_another_text_under_the_same_name_is_another_model(
        self, tiny_llama, quick_options, compressions, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        shutil.copyfile(quick_options["calibration"], "text.txt")
        options = {**quick_options, "calibration": "text.txt"}
        NeuronModelForCausalLM.from_pretrained(tiny_llama, neuronmm=options)
        NeuronModelForCausalLM.from_pretrained(tiny_llama, neuronmm=options)
        assert len(compressions) == 1
        (tmp_path / "text.txt").write_text((tmp_path / "text.txt").read_text().upper())
        NeuronModelForCausalLM.from_pretrained(tiny_llama, neuronmm=options)
        assert len(set(compressions)) == 2

    def test_an_interrupted_one_is_no_model(self, tiny_llama, quick_options, kept, monkeypatch, compressions):
        from optimum_neuronmm import compression

        with monkeypatch.context() as patch:
            patch.setattr(compression.Workspace, "publish", lambda workspace: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                NeuronModelForCausalLM.from_pretrained(tiny_llama, neuronmm=quick_options)
        model = NeuronModelForCausalLM.from_pretrained(tiny_llama, neuronmm=quick_options)
        assert len(low_rank_modules(model)) == FACTORED and list(kept.iterdir()) == [compressions[1]]

    def test_a_name_is_made_of_any_model_id(self, tiny_llama, quick_options, tmp_path, compressions):
        odd = shutil.copytree(tiny_llama, tmp_path / "ä model (1)" / ("x" * 80))
        NeuronModelForCausalLM.from_pretrained(odd, neuronmm=quick_options)
        (directory,) = compressions
        assert directory.name.startswith("x" * 60 + "-") and len(directory.name) == 77


class TestLoading:
    def test_without_neuronmm_the_model_is_as_it_is(self, tiny_llama, compressions):
        for option in (None, False):
            model = NeuronModelForCausalLM.from_pretrained(tiny_llama, neuronmm=option)
            assert not low_rank_modules(model)
        assert compressions == []

    def test_a_compressed_directory_without_neuronmm(self, compressed_llama, compressions, said):
        model = NeuronModelForCausalLM.from_pretrained(compressed_llama)
        assert len(low_rank_modules(model)) == FACTORED and compressions == []
        assert said().count("Not compiled for a Neuron device: running through PyTorch.") == 1

    def test_a_compressed_directory_keeps_its_settings(self, compressed_llama, compressions, said):
        model = NeuronModelForCausalLM.from_pretrained(
            compressed_llama, neuronmm=NeuronMMConfig(compression_ratio=0.5)
        )
        assert model.config.quantization_config.compression_ratio == 0.2 and compressions == []
        assert "is compressed already: its own settings apply" in said()

    def test_arguments_of_transformers_are_passed_on(self, tiny_llama, quick_options):
        options = {"dtype": torch.bfloat16, "output_loading_info": True}
        model, info = NeuronModelForCausalLM.from_pretrained(tiny_llama, neuronmm=quick_options, **options)
        assert model.dtype == torch.bfloat16 and "missing_keys" in info

    def test_arguments_of_a_compilation_are_left_out_and_named(self, compressed_llama, said):
        options = {"batch_size": 1, "sequence_length": 64, "tensor_parallel_size": 2, "export": True}
        NeuronModelForCausalLM.from_pretrained(compressed_llama, **options, instance_type="trn1", auto_cast_type=None)
        assert (
            "Not compiled for a Neuron device: running through PyTorch (batch_size, export, instance_type, sequence_length, "
            "tensor_parallel_size matter only to a compilation)." in said()
        )


class TestRefused:
    @pytest.mark.parametrize("option", ["yes", 1, 0, 0.2, [], ["gate"], NeuronMMConfig])
    def test_a_neuronmm_that_is_no_choice(self, tiny_llama, option):
        with pytest.raises(NeuronMMError, match="neuronmm must be True, a NeuronMMConfig or a dictionary"):
            NeuronModelForCausalLM.from_pretrained(tiny_llama, neuronmm=option)

    @pytest.mark.parametrize(
        ("options", "match"),
        [({"ratio": 0.1}, "Unknown option ratio"), ({"compression_ratio": 2}, "strictly between")],
    )
    def test_options_that_are_wrong(self, tiny_llama, options, match):
        with pytest.raises(NeuronMMError, match=match):
            NeuronModelForCausalLM.from_pretrained(tiny_llama, neuronmm=options)

    def test_the_target_neuron_without_the_sdk(self, tiny_llama, kept):
        with pytest.raises(NeuronMMError, match="Target neuron needs the Neuron SDK .*Use target cpu"):
            NeuronModelForCausalLM.from_pretrained(tiny_llama, neuronmm={"target": "neuron"})
        assert not kept.exists()

    def test_the_target_cpu_runs_where_there_is_the_sdk(self, tiny_llama, monkeypatch, quick_options):
        monkeypatch.setattr(auto, "has_neuron_sdk", lambda: True)
        model = NeuronModelForCausalLM.from_pretrained(tiny_llama, neuronmm={**quick_options, "target": "cpu"})
        assert len(low_rank_modules(model)) == FACTORED

    @pytest.mark.parametrize("name", ["no-such/model", "nosuchmodel", "./nowhere/at all"])
    def test_a_model_that_is_nowhere(self, name, monkeypatch, kept, tmp_path):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(NeuronMMError, match="neither a directory nor a Hub model"):
            NeuronModelForCausalLM.from_pretrained(name, neuronmm=True, cache_dir=str(tmp_path / "hub"))
        assert not kept.exists()

    def test_a_directory_without_a_model(self, tmp_path, kept):
        with pytest.raises(NeuronMMError, match="has no config.json"):
            NeuronModelForCausalLM.from_pretrained(tmp_path, neuronmm=True)
        assert not kept.exists()

    def test_a_damaged_config(self, model, kept):
        (model / "config.json").write_text("{")
        with pytest.raises(NeuronMMError, match="config.json is not valid JSON"):
            NeuronModelForCausalLM.from_pretrained(model, neuronmm=True)

    def test_a_missing_text(self, tiny_llama, kept):
        with pytest.raises(NeuronMMError, match="none.txt does not exist"):
            NeuronModelForCausalLM.from_pretrained(tiny_llama, neuronmm={"calibration": "none.txt"})
        assert not kept.exists()

    def test_a_text_that_is_too_short(self, tiny_llama, quick_options, kept, tmp_path):
        (tmp_path / "short.txt").write_text("short")
        with pytest.raises(NeuronMMError, match="too short"):
            NeuronModelForCausalLM.from_pretrained(
                tiny_llama, neuronmm={**quick_options, "calibration": str(tmp_path / "short.txt")}
            )
        assert not kept.exists() or not list(kept.iterdir())

    def test_an_instance(self):
        with pytest.raises(TypeError, match="from_pretrained"):
            NeuronModelForCausalLM()


class TestCompiling:
    """Where there is the SDK, and for what is compiled, the door of optimum-neuron is opened with what was given."""

    @pytest.fixture(autouse=True)
    def loads(self, monkeypatch):
        monkeypatch.setattr(auto, "has_neuron_sdk", lambda: True)
        calls = []

        def load(*args, **options):
            calls.append((args, options))
            return "a compiled model"

        monkeypatch.setitem(sys.modules, "optimum_neuronmm.neuron.loading", SimpleNamespace(load=load))
        return calls

    @pytest.mark.parametrize("target", ["neuron", "auto"])
    def test_a_dense_model(self, tiny_llama, loads, kept, target):
        options = {"batch_size": 2, "dtype": "bfloat16", "strange": 1}
        found = NeuronModelForCausalLM.from_pretrained(tiny_llama, neuronmm={"target": target}, **options, token="t")
        assert found == "a compiled model" and not kept.exists()
        assert loads == [
            ((tiny_llama, NeuronMMConfig(target=target)), {"trust_remote_code": False, "token": "t", **options})
        ]

    def test_a_compiled_model(self, compressed_llama, tmp_path, loads):
        directory = save_compiled_form(compressed_llama, tmp_path / "compiled")
        for neuronmm in (None, {"target": "cpu"}):
            assert NeuronModelForCausalLM.from_pretrained(directory, neuronmm=neuronmm) == "a compiled model"
        assert [args[0] for args, _ in loads] == [directory] * 2

    def test_a_compiled_model_without_the_sdk(self, compressed_llama, tmp_path, loads, monkeypatch):
        monkeypatch.setattr(auto, "has_neuron_sdk", lambda: False)
        directory = save_compiled_form(compressed_llama, tmp_path / "compiled")
        with pytest.raises(NeuronMMError, match="compiled model.* needs the Neuron SDK .*not installed here"):
            NeuronModelForCausalLM.from_pretrained(directory)
        assert not loads

    def test_without_neuronmm_a_checkpoint_is_not_compiled(self, compressed_llama, loads):
        assert (
            len(low_rank_modules(NeuronModelForCausalLM.from_pretrained(compressed_llama))) == FACTORED and not loads
        )


class TestTarget:
    @pytest.mark.parametrize(
        ("target", "sdk", "resolved"),
        [
            ("auto", False, "cpu"),
            ("auto", True, "neuron"),
            ("cpu", False, "cpu"),
            ("cpu", True, "cpu"),
            ("neuron", True, "neuron"),
        ],
    )
    def test_it_is_resolved(self, monkeypatch, target, sdk, resolved):
        monkeypatch.setattr(auto, "has_neuron_sdk", lambda: sdk)
        assert auto.resolve_target(target) == resolved

    @pytest.mark.parametrize(
        ("version", "has"), [("2.8.0.2.10", True), ("1.13.1", True), ("0.0.0.1", False), ("0.1", False), (None, False)]
    )
    def test_the_sdk_is_known_by_its_version(self, monkeypatch, version, has):
        """PyPI has a placeholder of the name torch-neuronx, with a version that begins with 0."""
        import importlib

        monkeypatch.undo()  # what `cache` put in place of the function that is tested

        def lookup(name):
            assert name == "torch-neuronx"
            if version is None:
                raise importlib.metadata.PackageNotFoundError
            return version

        monkeypatch.setattr(importlib.metadata, "version", lookup)
        assert auto.has_neuron_sdk() is has
