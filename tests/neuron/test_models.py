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
"""What comes back from the doors to compiled models."""

import contextlib
import copy
import inspect
import json
import shutil

import pytest
import torch
from optimum.neuron import NeuronModelForCausalLM
from optimum.neuron.models.inference.backend.modules.decoder.modeling_decoder import NxDModelForCausalLM
from transformers import dynamic_module_utils

from optimum_neuronmm import NeuronMMConfig, NeuronMMError, hub
from optimum_neuronmm import NeuronModelForCausalLM as OurNeuronModelForCausalLM
from optimum_neuronmm.neuron.loading import compile_model
from optimum_neuronmm.neuron.models import NeuronMMModel
from tests.neuron import harness
from tests.neuron.compressed import save_compressed
from tests.neuron.harness import GREEDY, SHAPES, same


DOORS = {"ours": OurNeuronModelForCausalLM, "optimum": NeuronModelForCausalLM}


pytestmark = pytest.mark.usefixtures("home")


class TestFromADenseModel:
    @pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
    def test_it_is_compressed_once_compiled_and_loaded(self, tiny, quick_options, compressions, compilations, door):
        model = door.from_pretrained(tiny(), neuronmm=quick_options, **SHAPES)
        again = door.from_pretrained(str(tiny()), neuronmm=NeuronMMConfig(**quick_options), **SHAPES)
        assert len(compressions) == 1 and len(compilations) == 2
        assert isinstance(model, NeuronMMModel) and model.neuron_config.checkpoint_id is None
        assert same(model, compressions[0]) and same(again, compressions[0])

    def test_two_doors_compress_once(self, tiny, quick_options, compressions):
        for door in DOORS.values():
            door.from_pretrained(tiny(), neuronmm=quick_options, **SHAPES)
        assert len(compressions) == 1

    @pytest.mark.parametrize("option", [{"dtype": torch.bfloat16}, {"torch_dtype": "bfloat16"}, {"neuronmm": "dtype"}])
    def test_dtype(self, tiny, quick_options, tmp_path, option):
        options = quick_options
        if "neuronmm" in option:
            options, option = {**options, "dtype": "bfloat16"}, {}
        model = NeuronModelForCausalLM.from_pretrained(tiny(), neuronmm=options, **SHAPES, **option)
        assert model.neuron_config.torch_dtype == torch.bfloat16
        model.save_pretrained(tmp_path / "out")
        assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"
        assert json.loads((tmp_path / "out/neuron_config.json").read_text())["torch_dtype"] == "bfloat16"

    def test_auto_is_the_dtype_of_the_checkpoint(self, tiny, quick_options):
        model = NeuronModelForCausalLM.from_pretrained(tiny(), neuronmm=quick_options, **SHAPES, dtype="auto")
        assert model.neuron_config.torch_dtype == torch.float32

    def test_all_cores_are_used_where_no_number_is_given(self, tiny, quick_options, machine):
        machine("trn1", 4)
        model = NeuronModelForCausalLM.from_pretrained(tiny(), neuronmm=quick_options, sequence_length=64)
        assert (model.neuron_config.tp_degree, model.neuron_config.batch_size) == (4, 1)

    def test_export(self, tiny, quick_options, compressions):
        config = harness.neuron_config(tiny(), tp=2)
        config.checkpoint_id, config.checkpoint_revision = "me/dense", "main"  # as for a Hub id
        model = NeuronModelForCausalLM.export(tiny(), config, neuronmm=quick_options, load_weights=True)
        assert model.neuron_config.checkpoint_id is None and model.neuron_config.checkpoint_revision is None
        assert config.checkpoint_id == "me/dense", "the caller's config is the caller's"
        expected = harness.torch_logits(compressions[0], harness.tokens())
        assert harness.error(harness.logits(model, harness.tokens()), expected) < 1e-5

    def test_heads_of_their_own_go_on_any_number_of_ranks(self, tiny, tmp_path):
        """Where every query head has its key and value, optimum-neuron pads."""
        dense = tiny(num_attention_heads=4, num_key_value_heads=4, vocab_size=1536)
        checkpoint = save_compressed(dense, tmp_path / "compressed")
        model = NeuronModelForCausalLM.from_pretrained(
            checkpoint, neuronmm=True, **{**SHAPES, "tensor_parallel_size": 3}
        )
        assert same(model, checkpoint)

    def test_target_cpu_is_a_model_of_transformers(self, tiny, quick_options, compilations):
        model = OurNeuronModelForCausalLM.from_pretrained(tiny(), neuronmm={**quick_options, "target": "cpu"})
        assert not isinstance(model, NxDModelForCausalLM) and not compilations


class TestFromACompressedCheckpoint:
    @pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
    def test_nothing_is_compressed(self, compressed, compressions, caplog, door):
        model = door.from_pretrained(compressed, neuronmm={"compression_ratio": 0.9}, **SHAPES)
        assert same(model, compressed) and not compressions
        assert "is compressed already, and compiled as it is" in caplog.text

    def test_kernel_and_layout_are_those_that_were_asked_for(self, compressed):
        for layout in ("replicated", "sharded"):
            model = NeuronModelForCausalLM.from_pretrained(compressed, neuronmm={"layout": layout}, **SHAPES)
            assert model.config.quantization_config["compilation"]["layouts"] == [layout] * 2

    def test_sampling_is_as_optimum_neuron_has_it_or_on_the_host(self, compressed):
        for options, on_device in ((True, True), ({"sampling": "host"}, False)):
            model = NeuronModelForCausalLM.from_pretrained(compressed, neuronmm=options, **SHAPES)
            assert model.neuron_config.on_device_sampling is on_device and same(model, compressed)
            neuron_config = harness.neuron_config(compressed, tp=2, on_device_sampling=True, output_logits=False)
            model = NeuronModelForCausalLM.export(str(compressed), neuron_config, neuronmm=options, load_weights=True)
            assert model.neuron_config.on_device_sampling is on_device and same(model, compressed)
            assert neuron_config.on_device_sampling is True, "the caller's config is the caller's"

    def test_sampling_that_the_checkpoint_was_made_with(self, compressed):
        config = json.loads((compressed / "config.json").read_text())
        config["quantization_config"]["sampling"] = "host"
        (compressed / "config.json").write_text(json.dumps(config))
        neuron_config = harness.neuron_config(compressed, tp=2, on_device_sampling=True, output_logits=False)
        model = NeuronModelForCausalLM.export(str(compressed), neuron_config, load_weights=True)
        assert model.neuron_config.on_device_sampling is False and same(model, compressed)
        model = NeuronModelForCausalLM.export(str(compressed), neuron_config, neuronmm=True, load_weights=True)
        assert model.neuron_config.on_device_sampling is True and same(model, compressed)

    def test_export_without_neuronmm(self, compressed):
        model = NeuronModelForCausalLM.export(
            str(compressed), harness.neuron_config(compressed, tp=2), load_weights=True
        )
        expected = harness.torch_logits(compressed, harness.tokens())
        assert harness.error(harness.logits(model, harness.tokens()), expected) < 1e-5

    def test_without_neuronmm_it_is_not_compiled(self, compressed, compilations):
        with pytest.raises(NeuronMMError, match="compressed but not compiled: pass neuronmm=True"):
            NeuronModelForCausalLM.from_pretrained(compressed)
        assert not compilations


class TestCodeOfTheModel:
    @pytest.fixture
    def planted(self, tiny, tmp_path, monkeypatch):
        """A llama that brings code, and the file that the code writes when it runs."""
        directory, ran = shutil.copytree(tiny(), tmp_path / "planted"), tmp_path / "ran"
        monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
        (directory / "code.py").write_text(
            f"open({str(ran)!r}, 'w').close()\n"
            "from transformers import LlamaConfig, LlamaForCausalLM\n"
            "class Config(LlamaConfig): pass\n"
            "class Model(LlamaForCausalLM): pass\n"
        )
        config = json.loads((directory / "config.json").read_text())
        config["auto_map"] = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
        (directory / "config.json").write_text(json.dumps(config))
        return directory, ran

    @pytest.mark.parametrize("trust", [{}, {"trust_remote_code": False}])
    @pytest.mark.parametrize("door", [*DOORS.values(), None], ids=[*DOORS, "compile_model"])
    def test_it_is_not_run(self, planted, quick_options, door, trust):
        directory, ran = planted
        with pytest.raises(NeuronMMError, match="runs code of its own .AutoConfig, AutoModelForCausalLM"):
            if door is None:
                compile_model(directory, NeuronMMConfig(**quick_options), **SHAPES, **trust)
            else:
                door.from_pretrained(directory, neuronmm=quick_options, **SHAPES, **trust)
        assert not ran.exists()

    def test_it_is_run_where_it_is_trusted(self, planted, quick_options):
        directory, ran = planted
        with contextlib.suppress(Exception):  # whether it can be compiled is another question
            compile_model(directory, NeuronMMConfig(**quick_options), **SHAPES, trust_remote_code=True)
        assert ran.exists(), "the test above would pass whatever is trusted"


@pytest.mark.parametrize(("token", "passed"), [("t", "t"), (True, None), (None, None)])
def test_the_token_of_an_upload(compressed, monkeypatch, token, passed):
    model = NeuronModelForCausalLM.from_pretrained(compressed, neuronmm=True, **SHAPES)
    calls = []
    monkeypatch.setattr(hub, "push_to_hub", lambda *args, **options: calls.append((args, options)) or "an address")
    assert (
        model.push_to_hub("somewhere", "me/x", private=True, revision="r", token=token, endpoint="e") == "an address"
    )
    options = {"private": True, "revision": "r", "token": passed, "endpoint": "e"}
    assert calls == [(("somewhere", "me/x"), options)]


class TestRunning:
    @pytest.fixture(scope="module")
    @staticmethod
    def model(tiny, tmp_path_factory):
        compressed = save_compressed(tiny(), tmp_path_factory.mktemp("running") / "compressed")
        options = {**SHAPES, "batch_size": 2}
        return NeuronModelForCausalLM.from_pretrained(compressed, neuronmm={"kernel": "compiler"}, **options)

    def test_a_prompt_that_is_too_long(self, model):
        with pytest.raises(ValueError, match=r"length \(65\) exceeds the model static sequence length \(64\)"):
            model.generate(harness.tokens(length=65), **GREEDY)
        tokens = harness.tokens(length=65)
        with pytest.raises(NeuronMMError, match="compiled for prompts of 64 tokens at most, got 65"):
            model.forward(tokens, torch.arange(65)[None], torch.arange(1))

    def test_a_batch_that_is_too_large(self, model):
        with pytest.raises(ValueError, match=r"batch_size \(3\) exceeds the model static batch size \(2\)"):
            model.generate(harness.tokens(batch_size=3), **GREEDY)
        from optimum.neuron.models.inference.backend.modules.generation.sampling import prepare_sampling_params

        tokens, sampling = harness.tokens(batch_size=3), prepare_sampling_params(batch_size=3)
        with pytest.raises(ValueError, match="3 exceeds the maximum batch size 2"):
            model.forward(tokens, torch.arange(24).expand(3, -1), torch.arange(3), sampling)

    def test_a_smaller_batch(self, model):
        assert model.generate(harness.tokens(), **GREEDY).shape == (1, 28)

    def test_the_longest_prompt(self, model):
        assert model.generate(harness.tokens(length=64), **{**GREEDY, "max_new_tokens": 1}).shape == (1, 65)

    def test_forward_takes_what_it_took(self, model):
        assert inspect.signature(model.forward) == inspect.signature(super(NeuronMMModel, model).forward)

    def test_a_copy_keeps_its_source(self, model):
        shallow = copy.copy(model)
        assert shallow._source == model._source
