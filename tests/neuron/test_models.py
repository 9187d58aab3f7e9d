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
"""What comes back from the doors to compiled models, and that dense models pass through them as they always did."""

import contextlib
import copy
import inspect
import json
import shutil
import subprocess
import sys

import pytest
import torch
from optimum.neuron import NeuronModelForCausalLM
from optimum.neuron.models.auto_model import get_neuron_model_class
from optimum.neuron.models.inference.backend.modules.decoder.modeling_decoder import NxDModelForCausalLM
from optimum.neuron.models.inference.backend.pretrained_model import NxDPreTrainedModel
from transformers import dynamic_module_utils

from optimum_neuronmm import NeuronMMConfig, NeuronMMError, cache, hub
from optimum_neuronmm import NeuronModelForCausalLM as OurNeuronModelForCausalLM
from optimum_neuronmm.neuron.compilation import Compilation
from optimum_neuronmm.neuron.loading import compile_model
from optimum_neuronmm.neuron.models import NeuronMMModel, register
from tests.neuron import environment, harness
from tests.neuron.compressed import save_compressed


SHAPES = {"batch_size": 1, "sequence_length": 64, "tensor_parallel_size": 2}
GREEDY = {"do_sample": False, "max_new_tokens": 4, "pad_token_id": 0, "eos_token_id": None}
DOORS = {"ours": OurNeuronModelForCausalLM, "optimum": NeuronModelForCausalLM}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Where what is compressed is kept."""
    monkeypatch.setattr(cache, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "neuronmm"


@pytest.fixture
def compressions(monkeypatch):
    """The directories that were compressed to."""
    calls, compress = [], cache.compress
    monkeypatch.setattr(
        cache, "compress", lambda *args, **options: calls.append(args[1]) or compress(*args, **options)
    )
    return calls


@pytest.fixture
def compilations(monkeypatch):
    """What was compiled: the arguments of the last step before the compiler."""
    calls, compile = [], NxDPreTrainedModel.compile
    monkeypatch.setattr(
        NxDPreTrainedModel, "compile", staticmethod(lambda **options: calls.append(options) or compile(**options))
    )
    return calls


@pytest.fixture
def compressed(tiny, tmp_path):
    return save_compressed(tiny(), tmp_path / "compressed")


def same(compiled, checkpoint) -> bool:
    tokens = harness.tokens()
    expected = harness.load_torch(checkpoint).generate(tokens, **GREEDY)
    return torch.equal(compiled.generate(tokens, **GREEDY), expected)


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


class TestRefusedBeforeAnythingIsCompressed:
    @pytest.fixture(autouse=True)
    def nothing_is_done(self, compressions, compilations, home):
        yield
        assert not compressions and not compilations and not home.exists()

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
            ({"sequence_length": "64"}, "sequence_length must be a positive integer, got '64'"),
            ({"tensor_parallel_size": True}, "tensor_parallel_size must be a positive integer, got True"),
            ({"tensor_parallel_size": -1}, "tensor_parallel_size must be a positive integer"),
            ({"tensor_parallel_size": 64}, "=64 needs as many Neuron cores, and there are 32 here"),
            ({"dtype": "float64"}, "dtype must be one of float32, bfloat16, float16, got 'float64'"),
            ({"torch_dtype": torch.int8}, "dtype must be one of"),
            ({"instance_type": "p4d"}, "instance_type must be one of trn1, .* got 'p4d'"),
            ({"instance_type": "trn2"}, "instance_type=trn2 was asked for, and this is a trn1"),
            ({"neuronmm": "yes"}, "neuronmm must be True, a NeuronMMConfig or a dictionary"),
            ({"neuronmm": {"ratio": 0.1}}, "Unknown option ratio"),
            ({"neuronmm": {"kernel": "nki"}}, "kernel='nki' was asked for, but no working neuronxcc.nki"),
        ],
    )
    @pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
    def test_options(self, tiny, door, options, match):
        with pytest.raises(NeuronMMError, match=match):
            door.from_pretrained(tiny(), **{"neuronmm": True, "sequence_length": 64, **options})

    @pytest.mark.parametrize(
        ("sizes", "match"),
        [
            (
                {"sequence_length": 1025},
                "sequence_length=1025 is more than 8 times the 128 positions .* Use 128 or less",
            ),
            ({"sequence_length": 10**12}, "sequence_length=1000000000000 is more than"),
            ({"tensor_parallel_size": 8}, "=8 leaves each rank fewer than 256 of the 1024 tokens .*Use fewer ranks"),
        ],
    )
    @pytest.mark.parametrize("door", [*DOORS.values(), None], ids=[*DOORS, "export"])
    def test_sizes_that_cannot_work(self, tiny, door, sizes, match):
        sizes = {**SHAPES, **sizes}
        with pytest.raises(NeuronMMError, match=match):
            if door is None:
                config = NeuronModelForCausalLM.get_neuron_config(str(tiny()), instance_type="trn1", **sizes)
                NeuronModelForCausalLM.export(tiny(), config, neuronmm=True)
            else:
                door.from_pretrained(tiny(), neuronmm=True, **sizes)

    @pytest.mark.parametrize("export", [False, True])
    def test_ranks_that_do_not_share_the_heads(self, tiny, export):
        model = tiny(num_attention_heads=6, num_key_value_heads=2)
        with pytest.raises(NeuronMMError, match="divide the 2 key-value heads .* got 3. Use 1, 2, or a multiple of 2"):
            if export:
                NeuronModelForCausalLM.export(model, harness.neuron_config(model, tp=3), neuronmm=True)
            else:
                NeuronModelForCausalLM.from_pretrained(model, neuronmm=True, tensor_parallel_size=3)

    def test_another_target_than_that_of_the_process(self, tiny):
        config = harness.neuron_config(tiny(), instance_type="trn2")
        with pytest.raises(NeuronMMError, match="trn2 was asked for, but this process compiles for trn1"):
            NeuronModelForCausalLM.export(tiny(), config, neuronmm=True)

    @pytest.mark.standins
    def test_without_a_device(self, tiny, monkeypatch):
        monkeypatch.delenv("NEURON_STANDIN_MACHINE")
        with pytest.raises(NeuronMMError, match="runs on a Trainium or Inferentia instance only.*optimum-cli export"):
            NeuronModelForCausalLM.from_pretrained(tiny(), neuronmm=True)

    @pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe"])
    @pytest.mark.parametrize("door", [*DOORS.values(), None], ids=[*DOORS, "export"])
    def test_mixtures_of_experts(self, tiny, tmp_path, model_type, door):
        directory = retyped(tiny(), tmp_path, model_type)
        with pytest.raises(NeuronMMError, match=f"{model_type} is a mixture of experts"):
            if door is None:
                config = harness.neuron_config(tiny())
                NeuronModelForCausalLM.export(directory, config, neuronmm=True)
            else:
                door.from_pretrained(directory, neuronmm=True)

    @pytest.mark.parametrize("model_type", ["bert", "t5"])
    def test_other_models(self, tiny, tmp_path, model_type):
        directory = retyped(tiny(), tmp_path, model_type)
        with pytest.raises(NeuronMMError, match=f"Model type '{model_type}' is not supported"):
            OurNeuronModelForCausalLM.from_pretrained(directory, neuronmm=True)
        with pytest.raises(ValueError, match=f"{model_type} is not supported"):
            NeuronModelForCausalLM.from_pretrained(directory, neuronmm=True)

    @pytest.mark.parametrize("model_type", ["mistral", "gemma3_text"])
    def test_what_can_be_compressed_and_not_compiled(self, tiny, tmp_path, model_type):
        directory = retyped(tiny(), tmp_path, model_type)
        with pytest.raises(NeuronMMError, match=f"cannot compile a {model_type}, although .* compressed .target cpu."):
            OurNeuronModelForCausalLM.from_pretrained(directory, neuronmm=True)

    def test_a_diffusion_pipeline(self, tmp_path):
        (tmp_path / "model_index.json").write_text("{}")
        with pytest.raises(NeuronMMError, match="it is a diffusion pipeline .*Expected .* a decoder model"):
            OurNeuronModelForCausalLM.from_pretrained(tmp_path, neuronmm=True)

    @pytest.mark.parametrize("name", ["no-such/model", "./nowhere/at all"])
    def test_a_model_that_is_nowhere(self, name):
        with pytest.raises(NeuronMMError, match="cannot be used: .*Check the spelling"):
            OurNeuronModelForCausalLM.from_pretrained(name, neuronmm=True)

    def test_weights_that_are_missing(self, tiny, tmp_path):
        directory = retyped(tiny(), tmp_path, "llama")
        (directory / "model.safetensors").unlink()
        with pytest.raises(NeuronMMError, match="holds no weights"):
            NeuronModelForCausalLM.from_pretrained(directory, neuronmm=True, tensor_parallel_size=1)


class TestSizes:
    """What works however unusual it is."""

    def test_a_sequence_longer_than_the_model_is_made_for(self, compressed, caplog):
        model = NeuronModelForCausalLM.from_pretrained(compressed, neuronmm=True, **{**SHAPES, "sequence_length": 256})
        assert "sequence_length=256 is more than the 128 positions that the model was made for" in caplog.text
        tokens = harness.tokens(length=200)
        expected = harness.load_torch(compressed).generate(tokens, **GREEDY)
        assert torch.equal(model.generate(tokens, **GREEDY), expected)

    @pytest.mark.parametrize("sizes", [{"sequence_length": 128}, {"tensor_parallel_size": 4}, {"batch_size": 2}])
    def test_the_largest_that_pass(self, compressed, caplog, sizes):
        NeuronModelForCausalLM.from_pretrained(compressed, neuronmm=True, **{**SHAPES, **sizes})
        assert "positions" not in caplog.text

    @pytest.mark.parametrize("changes", [{"on_device_sampling": False}, {"on_device_sampling": True, "max_topk": 128}])
    def test_what_is_sampled_on_the_device_counts(self, tiny, tmp_path, changes):
        checkpoint = save_compressed(tiny(vocab_size=512), tmp_path / "compressed")
        config = harness.neuron_config(checkpoint, tp=4, **changes)
        NeuronModelForCausalLM.export(str(checkpoint), config, neuronmm=True)

    def test_a_dense_model_whose_config_has_no_dtype(self, tiny, tmp_path, quick_options):
        directory = shutil.copytree(tiny(), tmp_path / "no dtype")
        config = json.loads((directory / "config.json").read_text())
        del config["dtype"]
        (directory / "config.json").write_text(json.dumps(config))
        options = {**quick_options, "dtype": "float32"}
        model = NeuronModelForCausalLM.from_pretrained(directory, neuronmm=options, **SHAPES)
        assert model.neuron_config.torch_dtype == torch.float32


class TestCompilersThatFail:
    @pytest.fixture
    def failing(self, compressed, monkeypatch):
        """`failing(error, kernels)`: compiles a model that uses these, where the compiler raises that."""

        def failing(error, kernels):
            def fail(**options):
                raise error

            table = {"1": [None, *kernels], "64": [None, None]}
            monkeypatch.setattr(Compilation, "decide", lambda forms, *args: Compilation(forms, table))
            monkeypatch.setattr(NxDPreTrainedModel, "compile", staticmethod(fail))
            NeuronModelForCausalLM.from_pretrained(compressed, neuronmm={"layout": "replicated"}, **SHAPES)

        return failing

    @pytest.mark.parametrize("error", [RuntimeError("no PSUM left"), subprocess.CalledProcessError(70, "neuronx-cc")])
    def test_kernels_are_named(self, failing, error):
        with pytest.raises(NeuronMMError, match="Its MLPs use the kernels mlp_decode.*kernel='compiler'") as failure:
            failing(error, ["mlp_decode"])
        assert failure.value.__cause__ is error and type(error).__name__ in str(failure.value)

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), NeuronMMError("one of ours"), TypeError("a defect")])
    def test_what_is_no_compilers_error(self, failing, error):
        with pytest.raises(type(error)) as failure:
            failing(error, ["mlp_decode"])
        assert failure.value is error

    def test_without_kernels(self, failing):
        with pytest.raises(RuntimeError, match="no PSUM left"):
            failing(RuntimeError("no PSUM left"), [None])


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


def retyped(model, tmp_path, model_type: str):
    """A copy of a model whose config says that it is another."""
    directory = shutil.copytree(model, tmp_path / "retyped")
    config = json.loads((directory / "config.json").read_text())
    config |= (
        {"model_type": model_type, "num_local_experts": 8} if model_type == "mixtral" else {"model_type": model_type}
    )
    (directory / "config.json").write_text(json.dumps(config))
    return directory


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


class TestDenseModels:
    """In every method that is overridden they reach optimum-neuron with the arguments that were given."""

    @pytest.fixture
    def spied(self, monkeypatch):
        """`spied(name)` records the calls of a method of the base class, which then does nothing."""
        base = get_neuron_model_class("llama", "text-generation", "inference").__mro__[2]

        def spy(name):
            calls = []
            kind = type(inspect.getattr_static(base, name))

            def record(*args, **kwargs):
                calls.append((args if kind is staticmethod else args[1:], kwargs))
                return "what it returned"

            monkeypatch.setattr(base, name, kind(record) if kind in (classmethod, staticmethod) else record)
            return calls

        return spy

    @pytest.fixture
    def dense(self, tiny):
        return harness.export(tiny(), tp=2, load_weights=False)

    def test_from_pretrained(self, tiny, spied):
        calls = spied("_from_pretrained")
        options = {"revision": "r", "token": "t", "batch_size": 3, "strange": [1], "trust_remote_code": True}
        assert NeuronModelForCausalLM.from_pretrained(tiny(), **options) == "what it returned"
        (((model, config), passed),) = calls
        assert model == tiny() and config.model_type == "llama" and passed == options

    def test_export(self, tiny, spied):
        calls = spied("_export")
        config = harness.neuron_config(tiny())
        options = {"config": None, "token": "t", "load_weights": True, "cache_dir": "c", "strange": [1]}
        assert NeuronModelForCausalLM.export(tiny(), config, **options) == "what it returned"
        (((model, _, passed_config), passed),) = calls
        assert model == tiny() and passed_config is config
        expected = {"token": "t", "revision": None, "load_weights": True, "cache_dir": "c", "strange": [1]}
        assert passed == expected

    def test_save_pretrained(self, dense, spied):
        calls = spied("save_pretrained")
        assert dense.save_pretrained("somewhere", strange=1) == "what it returned"
        assert calls == [(("somewhere",), {"strange": 1})]

    def test__save_pretrained(self, dense, spied):
        calls = spied("_save_pretrained")
        dense._save_pretrained("somewhere", strange=1)
        assert calls == [(("somewhere",), {"strange": 1})]

    @pytest.mark.parametrize("token", [True, "t", False, None])
    def test_push_to_hub(self, dense, spied, token):
        calls = spied("push_to_hub")
        options = {"private": True, "revision": "r", "token": token, "endpoint": "e"}
        assert dense.push_to_hub("somewhere", "me/x", **options) == "what it returned"
        assert calls == [(("somewhere", "me/x"), options)]

    def test_forward(self, dense, spied):
        calls = spied("forward")
        tokens = harness.tokens(length=100)
        assert dense.forward(input_ids=tokens, position_ids=1, return_dict=False) == "what it returned"
        ((args, kwargs),) = calls
        assert (*args, *kwargs) == (tokens, "position_ids", "return_dict")

    def test_conversion_and_graphs(self, tiny, spied):
        calls = spied("convert_hf_to_neuron_state_dict"), spied("create_graph_builders")
        cls = get_neuron_model_class("llama", "text-generation", "inference")
        config = harness.load_torch(tiny()).config
        assert cls.convert_hf_to_neuron_state_dict({}, config, 2) == "what it returned"
        assert cls.create_graph_builders(config, 2) == "what it returned"
        assert calls == ([(({}, config, 2), {})], [((config, 2), {})])

    def test_without_neuronmm_no_hub_is_asked(self, tiny, spied, monkeypatch):
        from optimum_neuronmm.neuron import models

        spied("_from_pretrained")
        monkeypatch.setattr(models, "find_compiled", None)
        NeuronModelForCausalLM.from_pretrained(tiny())

    def test_a_compiled_one_with_neuronmm(self, tiny, tmp_path):
        harness.export(tiny(), tp=2).save_pretrained(tmp_path / "dense")
        for door in DOORS.values():
            with pytest.raises(NeuronMMError, match="is compiled from a dense model: pass the model"):
                door.from_pretrained(tmp_path / "dense", neuronmm=True)
        assert same(OurNeuronModelForCausalLM.from_pretrained(tmp_path / "dense", **SHAPES), tiny())


def test_registering_twice_changes_nothing():
    before = get_neuron_model_class("llama", "text-generation", "inference")
    register()
    after = get_neuron_model_class("llama", "text-generation", "inference")
    assert before is after and [cls.__name__ for cls in after.__mro__[:2]] == [after.__name__, "NeuronMMModel"]


def test_other_tasks_are_left_alone():
    assert not issubclass(get_neuron_model_class("qwen3", "feature-extraction", "inference"), NeuronMMModel)


# The module of pipelines imports what other kinds of models need.
PIPELINE = """
import sys
from unittest.mock import MagicMock
import torch_neuronx
if not hasattr(torch_neuronx, "move_trace_to_device"):
    torch_neuronx.move_trace_to_device = None
import optimum.utils
for name in ("sentence_transformers", "sentence_transformers.similarity_functions"):
    sys.modules.setdefault(name, MagicMock(__spec__=None))
import optimum_neuronmm
from optimum.neuron import pipeline
generate = pipeline("text-generation", sys.argv[1])
print(type(generate.model).__name__, generate("tile", max_new_tokens=4, do_sample=False))
"""


def test_a_pipeline(compressed, tmp_path, child_environment):
    model = NeuronModelForCausalLM.from_pretrained(compressed, neuronmm=True, **SHAPES)
    model.save_pretrained(tmp_path / "out")
    command = [sys.executable, "-c", PIPELINE, tmp_path / "out"]
    result = subprocess.run(
        command, env=child_environment(), cwd=environment.ROOT, capture_output=True, text=True, check=False
    )
    assert "CompressibleLlama" in result.stdout and "'generated_text': 'tile" in result.stdout, result.stderr
