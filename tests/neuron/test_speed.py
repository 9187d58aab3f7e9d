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
"""Speed of a compiled model: what is run, and what its static shapes refuse."""

import pytest
import torch
from transformers import GenerationConfig

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes import speed
from optimum_neuronmm.recipes.speed import SpeedSettings, measure_speed
from tests.neuron import compressed, harness


KINDS = {
    "sampling on the host": {},
    "sampling on the device": {"on_device_sampling": True, "output_logits": False},
    "continuous batch": {"batch_size": 2, "on_device_sampling": True, "output_logits": False},
}


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    return compressed.save_compressed(tiny(), tmp_path_factory.mktemp("speed") / "compressed")


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def model(checkpoint, request):
    return compressed.export(checkpoint, tp=2, **request.param)


@pytest.fixture
def watched(model, monkeypatch):
    """The model; what goes into each of its passes as (batch, tokens), and what its `generate` returns."""
    inputs, outputs, forward, generate = [], [], model.forward, model.generate

    def recording_forward(*args, **options):
        inputs.append(tuple(options["input_ids"].shape))
        return forward(*args, **options)

    def recording_generate(*args, **options):
        outputs.append(generate(*args, **options))
        return outputs[-1]

    monkeypatch.setattr(model, "forward", recording_forward)
    monkeypatch.setattr(model, "generate", recording_generate)
    return model, inputs, outputs


def settings_for(model, prompt_length=12, new_tokens=6, **changes) -> SpeedSettings:
    shapes = {"batch_size": model.neuron_config.batch_size, "warmup": 1, "repeats": 2, **changes}
    return SpeedSettings(prompt_length, new_tokens, **shapes)


def test_prompt_once_then_token_by_token(watched, checkpoint):
    model, inputs, outputs = watched
    result = measure_speed(model, settings_for(model))
    batch_size = model.neuron_config.batch_size
    assert inputs == [(batch_size, 12), *[(batch_size, 1)] * 5] * 3
    expected = harness.load_torch(checkpoint).generate(
        outputs[0][:, :12], do_sample=False, max_new_tokens=6, eos_token_id=None, pad_token_id=0
    )
    assert all(torch.equal(output, expected) for output in outputs), "what transformers writes"
    assert len(result["runs"]) == 2
    for run in result["runs"]:
        assert 0 < run["ttft_s"] < run["latency_s"]
        assert run["latency_s"] == pytest.approx(run["ttft_s"] + 5 * run["tpot_s"])
        assert run["throughput_tokens_per_s"] == pytest.approx(6 * batch_size / run["latency_s"])


def test_what_it_was_compiled_for(model):
    result = measure_speed(model, settings_for(model))
    assert result["device"] == f"neuron (target {model.neuron_config.target}, tensor parallel 2)"
    assert result["dtype"] == "float32"


def test_the_time_to_the_first_token_holds_the_prompts_pass(model, monkeypatch):
    """By a clock that only passes of the model move: 100 for the prompt, 1 for each token."""
    now, forward = [0], model.forward
    monkeypatch.setattr(speed, "perf_counter", lambda: now[0])

    def passing(*args, **options):
        now[0] += 100 if options["input_ids"].shape[1] > 1 else 1
        return forward(*args, **options)

    monkeypatch.setattr(model, "forward", passing)
    [run] = measure_speed(model, settings_for(model, warmup=0, repeats=1))["runs"]
    assert (run["ttft_s"], run["tpot_s"], run["latency_s"]) == (100, 1, 105)


@pytest.mark.parametrize(
    "options",
    [
        {"eos_token_id": list(range(200, 1024)), "pad_token_id": 1023},  # none of the prompts', which are the same
        {"do_sample": True, "temperature": 50.0, "top_k": 200, "repetition_penalty": 50.0},
        {"max_new_tokens": 3},
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_models_generation_config_plays_no_part(watched, monkeypatch, options):
    model, _, outputs = watched
    measure_speed(model, settings_for(model, warmup=0, repeats=1), vocab_size=200)
    expected = outputs.pop()
    monkeypatch.setattr(model, "generation_config", GenerationConfig(**{"max_new_tokens": 6, **options}))
    assert not torch.equal(model.generate(expected[:, :12]), expected), "by itself it would"
    measure_speed(model, settings_for(model, warmup=0, repeats=1), vocab_size=200)
    assert torch.equal(outputs[-1], expected)


def test_the_longest_that_it_was_compiled_for(watched):
    model, inputs, _ = watched
    measure_speed(model, settings_for(model, 60, 4, warmup=0, repeats=1))
    assert inputs[0][1] == 60 and len(inputs) == 4


def test_the_longest_prompt_that_it_was_compiled_for(checkpoint):
    model = compressed.export(checkpoint, max_context_length=16)
    assert len(measure_speed(model, settings_for(model, 16))["runs"]) == 2


class TestRefusals:
    """Before anything runs, with the shapes that it was compiled for."""

    COMPILED = "compiled for batch_size {}, sequence_length 64 and prompts of at most {} tokens, got "

    @pytest.fixture(autouse=True)
    def nothing_runs(self, monkeypatch):
        from optimum.neuron.models.inference.backend.modules.decoder.modeling_decoder import NxDModelForCausalLM

        monkeypatch.setattr(NxDModelForCausalLM, "generate", lambda *args, **options: pytest.fail("it ran"))

    @pytest.mark.parametrize("change", [-1, 1])
    def test_another_batch_size(self, model, change):
        batch_size = model.neuron_config.batch_size
        if batch_size + change < 1:
            batch_size, change = 1, 1
        expected = self.COMPILED.format(batch_size, 64) + f"batch_size {batch_size + change}: set it to {batch_size}"
        with pytest.raises(NeuronMMError, match=expected):
            measure_speed(model, settings_for(model, batch_size=batch_size + change))

    def test_more_tokens_than_the_sequence(self, model):
        expected = self.COMPILED.format(model.neuron_config.batch_size, 64)
        with pytest.raises(NeuronMMError, match=expected + r"prompt_length 60 \+ new_tokens 5 = 65 tokens: lower"):
            measure_speed(model, settings_for(model, 60, 5))

    def test_a_prompt_that_would_be_cut(self, checkpoint):
        model = compressed.export(checkpoint, max_context_length=16)
        with pytest.raises(NeuronMMError, match=self.COMPILED.format(1, 16) + "prompt_length 17: lower it"):
            measure_speed(model, settings_for(model, 17))

    @pytest.mark.parametrize("on_device_sampling", [True, False])
    def test_a_model_that_returns_logits_as_well(self, checkpoint, on_device_sampling):
        model = compressed.export(checkpoint, on_device_sampling=on_device_sampling, output_logits=True)
        with pytest.raises(NeuronMMError, match="compile it without output_logits"):
            measure_speed(model, settings_for(model))
