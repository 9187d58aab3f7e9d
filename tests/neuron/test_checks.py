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
"""What is refused before it takes time, and compilers that fail."""

import json
import shutil
import subprocess

import pytest
import torch
from optimum.neuron import NeuronModelForCausalLM
from optimum.neuron.models.inference.backend.pretrained_model import NxDPreTrainedModel

from optimum_neuronmm import NeuronMMError
from optimum_neuronmm import NeuronModelForCausalLM as OurNeuronModelForCausalLM
from optimum_neuronmm.neuron.compilation import Compilation
from tests.neuron import harness
from tests.neuron.compressed import save_compressed
from tests.neuron.harness import GREEDY, SHAPES


DOORS = {"ours": OurNeuronModelForCausalLM, "optimum": NeuronModelForCausalLM}


pytestmark = pytest.mark.usefixtures("home")


def retyped(model, tmp_path, model_type: str):
    """A copy of a model whose config says that it is another."""
    directory = shutil.copytree(model, tmp_path / "retyped")
    config = json.loads((directory / "config.json").read_text())
    config |= (
        {"model_type": model_type, "num_local_experts": 8} if model_type == "mixtral" else {"model_type": model_type}
    )
    (directory / "config.json").write_text(json.dumps(config))
    return directory


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

    @pytest.mark.parametrize("door", [*DOORS.values(), None], ids=[*DOORS, "export"])
    def test_logits_that_would_be_masked(self, tiny, door):
        model, options = tiny(vocab_size=1025), {"sampling": "host"}
        with pytest.raises(
            NeuronMMError, match="size=2 does not divide the vocabulary of 1025 tokens, .* the last 1 of the logits"
        ):
            if door is None:
                config = harness.neuron_config(model, tp=2, on_device_sampling=True)
                NeuronModelForCausalLM.export(model, config, neuronmm=options)
            else:
                door.from_pretrained(model, neuronmm=options, **SHAPES)

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

    @pytest.mark.parametrize(("speedup", "ranks"), [(1.2, 2), (1.2, 1), (None, 2)])
    def test_ranks_for_a_speed_on_one_rank(self, tiny, tmp_path, caplog, speedup, ranks):
        checkpoint = save_compressed(tiny(), tmp_path / "compressed")
        config = json.loads((checkpoint / "config.json").read_text())
        config["quantization_config"]["target_speedup"] = speedup
        (checkpoint / "config.json").write_text(json.dumps(config))
        shapes = {**SHAPES, "tensor_parallel_size": ranks}
        NeuronModelForCausalLM.from_pretrained(checkpoint, neuronmm=True, **shapes)
        told = f"target_speedup of 1.2, predicted for one rank of tensor parallelism, and the model is compiled for {ranks}"
        assert (told in caplog.text) == (speedup is not None and ranks > 1)

    @pytest.mark.parametrize(("sampling", "ranks"), [("host", 1), ("device", 2), ("device", 4)])
    def test_a_vocabulary_of_which_no_logit_is_masked(self, tiny, tmp_path, sampling, ranks):
        checkpoint = save_compressed(tiny(vocab_size=1025), tmp_path / "compressed")
        shapes = {**SHAPES, "tensor_parallel_size": ranks}
        model = NeuronModelForCausalLM.from_pretrained(checkpoint, neuronmm={"sampling": sampling}, **shapes)
        assert harness.same(model, checkpoint)

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
