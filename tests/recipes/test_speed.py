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
"""The figures of speed: their arithmetic on a clock of the test's own, and what exactly runs on a real model."""

import dataclasses
import json
import logging
import time

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes import speed
from optimum_neuronmm.recipes.speed import SpeedSettings, measure_speed


FIGURES = ("latency_s", "ttft_s", "tpot_s", "throughput_tokens_per_s")
SMALL = SpeedSettings(prompt_length=12, new_tokens=6, batch_size=2, warmup=1, repeats=2)


class FakeModel:
    """Takes `seconds[run]` for the first token and then for each that follows, by the clock of the test."""

    training = False
    dtype = torch.bfloat16
    device = torch.device("cpu")

    def __init__(self, seconds=None, **config):
        self.config = LlamaConfig(**{"vocab_size": 50, "max_position_embeddings": 64, **config})
        self.generation_config = GenerationConfig()
        self.seconds, self.now, self.prompts, self.calls = list(seconds or [(1, 1)]), 1000.0, [], []
        self.change = lambda ids: ids  # of what is returned

    def parameters(self):
        return iter([torch.zeros(1)])

    def generate(self, input_ids, *, attention_mask, generation_config, stopping_criteria, **options):
        first, rest = self.seconds[len(self.prompts) % len(self.seconds)]
        self.prompts.append(input_ids)
        self.calls.append(options)
        assert torch.equal(attention_mask, torch.ones_like(input_ids))
        for step in range(generation_config.max_new_tokens):
            self.now += rest if step else first
            input_ids = torch.cat([input_ids, input_ids.new_zeros(len(input_ids), 1)], dim=1)
            assert not stopping_criteria(input_ids, None).any(), "the clock may not stop a run"
        self.now += 7  # what `generate` does after the last token is nobody's latency
        return self.change(input_ids)


@pytest.fixture
def fake(monkeypatch):
    """`fake(...)`: a FakeModel whose clock is the module's."""

    def make(*args, **config):
        model = FakeModel(*args, **config)
        monkeypatch.setattr(speed, "perf_counter", lambda: model.now)
        return model

    return make


@pytest.fixture
def model(tiny_llama):
    return AutoModelForCausalLM.from_pretrained(tiny_llama)


@pytest.fixture
def watched(model, monkeypatch):
    """The model; what goes into each of its passes as (batch, tokens), and what its `generate` returns."""
    inputs, outputs, generate = [], [], model.generate
    model.register_forward_pre_hook(
        lambda module, args, kwargs: inputs.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )

    def recording(*args, **options):
        outputs.append(generate(*args, **options))
        return outputs[-1]

    monkeypatch.setattr(model, "generate", recording)
    return model, inputs, outputs


class TestArithmetic:
    def test_one_run(self, fake):
        result = measure_speed(fake([(2, 0.5)]), SpeedSettings(4, 9, batch_size=3, warmup=0, repeats=1))
        # 2 s to the first token, 8 more of half a second each; 27 tokens in 6 s
        assert result["runs"] == [{"latency_s": 6, "ttft_s": 2, "tpot_s": 0.5, "throughput_tokens_per_s": 4.5}]
        for name in FIGURES:
            assert set(result[name].values()) == {result["runs"][0][name]}

    def test_two_new_tokens(self, fake):
        result = measure_speed(fake([(2, 0.5)]), SpeedSettings(4, 2, repeats=1))
        assert result["tpot_s"]["mean"] == 0.5 and result["latency_s"]["mean"] == 2.5

    def test_warm_up_does_not_count(self, fake):
        seconds = [(64, 64), (32, 32), (1, 1), (2, 2), (4, 4)]
        model = fake(seconds)
        result = measure_speed(model, SpeedSettings(4, 2, warmup=2, repeats=3))
        assert len(model.prompts) == 5
        assert [run["ttft_s"] for run in result["runs"]] == [1, 2, 4]
        assert [run["latency_s"] for run in result["runs"]] == [2, 4, 8]

    def test_what_is_said_of_several_runs(self, fake):
        # in no order; the 90th percentile of five lies at 3.6 of 0..4, the 99th at 3.96
        model = fake([(t, 1) for t in (16, 1, 4, 8, 2)])
        result = measure_speed(model, SpeedSettings(4, 5, warmup=0, repeats=5))
        assert result["ttft_s"] == pytest.approx(
            {"mean": 6.2, "min": 1, "p50": 4, "p90": 8 + 0.6 * 8, "p99": 8 + 0.96 * 8, "max": 16}
        )
        assert result["tpot_s"] == dict.fromkeys(("mean", "min", "p50", "p90", "p99", "max"), 1)
        assert result["latency_s"]["max"] == 20
        # the slowest run has the lowest throughput
        assert result["throughput_tokens_per_s"]["min"] == 5 / 20 and result["throughput_tokens_per_s"]["max"] == 1

    def test_the_result_is_json_and_says_what_was_asked(self, fake):
        result = measure_speed(fake(), SMALL)
        assert json.loads(json.dumps(result)) == result
        assert set(result) == {"settings", "device", "dtype", *FIGURES, "runs"}
        assert result["settings"] == dataclasses.asdict(SMALL) and result["dtype"] == "bfloat16"

    @pytest.mark.parametrize(("threads", "said"), [(1, "cpu (1 thread)"), (2, "cpu (2 threads)")])
    def test_device(self, fake, monkeypatch, threads, said):
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        assert measure_speed(fake(), SMALL)["device"] == said

    def test_progress_is_over_all_runs(self, fake, capfd):
        measure_speed(fake(), SMALL)
        shown = capfd.readouterr().err
        assert "Timing generation" in shown and "3/3" in shown


class TestPrompts:
    def prompts(self, model, seed):
        measure_speed(model, SMALL, seed=seed)
        return model.prompts

    def test_the_seed_decides_them(self, fake):
        first, second, third = (self.prompts(fake(), seed) for seed in (0, 0, 1))
        assert first[0].shape == (2, 12) and first[0].dtype == torch.int64
        assert all(torch.equal(prompt, first[0]) for prompt in [*first, *second])
        assert not torch.equal(third[0], first[0])
        assert not torch.equal(first[0][0], first[0][1]), "the prompts of a batch differ"

    def test_special_tokens_are_avoided_and_all_others_occur(self, fake):
        model = fake(bos_token_id=0, eos_token_id=[3, 9], pad_token_id=5, max_position_embeddings=1000)
        model.generation_config = GenerationConfig(eos_token_id=[7, 8])
        measure_speed(model, SpeedSettings(900, 2, warmup=0, repeats=1))
        assert set(model.prompts[0].flatten().tolist()) == set(range(50)) - {0, 3, 5, 7, 8, 9}

    def test_a_smaller_vocabulary(self, fake):
        model = fake(bos_token_id=0, eos_token_id=1, max_position_embeddings=1000)
        measure_speed(model, SpeedSettings(900, 2, warmup=0, repeats=1), vocab_size=10)
        assert set(model.prompts[0].flatten().tolist()) == set(range(2, 10))

    @pytest.mark.parametrize("vocab_size", [0, 51, -1, 8.0, True])
    def test_a_vocabulary_that_the_model_does_not_have(self, fake, vocab_size):
        model = fake()
        with pytest.raises(NeuronMMError, match=f"from 1 to the model's 50, got {vocab_size}"):
            measure_speed(model, SMALL, vocab_size=vocab_size)
        assert not model.prompts

    def test_the_whole_vocabulary(self, fake):
        measure_speed(fake(), SMALL, vocab_size=50)

    def test_a_vocabulary_of_special_tokens(self, fake):
        with pytest.raises(NeuronMMError, match=r"vocab_size 2 leaves only the special tokens \[0, 1\]"):
            measure_speed(fake(bos_token_id=0, eos_token_id=1), SMALL, vocab_size=2)


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "value", "least"),
        [
            *[(name, value, 1) for name in ("prompt_length", "batch_size", "repeats") for value in (0, -1, 1.0, "8")],
            *[("new_tokens", value, 2) for value in (1, 0, None, True)],
            *[("warmup", value, 0) for value in (-1, 0.0, False)],
        ],
    )
    def test_settings(self, name, value, least):
        with pytest.raises(
            NeuronMMError, match=f"{name} of speed must be an integer of at least {least}, got {value!r}"
        ):
            SpeedSettings(**{name: value})

    def test_the_smallest_settings(self, fake):
        smallest = SpeedSettings(prompt_length=1, new_tokens=2, batch_size=1, warmup=0, repeats=1)
        assert len(measure_speed(fake(), smallest)["runs"]) == 1

    def test_more_than_the_context(self, fake):
        measure_speed(fake(), SpeedSettings(58, 6, warmup=0, repeats=1))
        model = fake()
        with pytest.raises(
            NeuronMMError, match=r"64 positions .*prompt_length 59 \+ new_tokens 6 = 65 tokens: lower prompt_length"
        ):
            measure_speed(model, SpeedSettings(59, 6))
        assert not model.prompts

    def test_training_mode(self, model):
        with pytest.raises(NeuronMMError, match=r"evaluation mode.*call model.eval\(\)"):
            measure_speed(model.train(), SMALL)

    def test_weights_that_are_nowhere(self, model):
        with pytest.raises(NeuronMMError, match="on cpu, on cuda, or with a compiled model.*weights on meta"):
            measure_speed(model.to("meta"), SMALL)

    @pytest.mark.parametrize(
        ("change", "got"),
        [
            (lambda ids: ids[:, :-1], r"\(2, 17\)"),
            (lambda ids: torch.cat([ids, ids[:, :1]], dim=1), r"\(2, 19\)"),
            (lambda ids: ids[:1], r"\(1, 18\)"),
        ],
        ids=["too few", "too many", "too small a batch"],
    )
    def test_another_number_of_tokens(self, fake, change, got):
        model = fake()
        model.change = change
        with pytest.raises(NeuronMMError, match=f"6 new tokens for each of 2 prompts of 12.*returned the shape {got}"):
            measure_speed(model, SMALL)

    def test_steps_of_several_tokens(self, fake, monkeypatch):
        """Speculation, say: the shape is right, but there is no clock reading for each token."""
        model = fake()

        def generate(input_ids, *, stopping_criteria, **options):
            for tokens in (2, 1, 1, 1, 1):
                input_ids = torch.cat([input_ids, input_ids[:, :tokens]], dim=1)
                stopping_criteria(input_ids, None)
            return input_ids

        monkeypatch.setattr(model, "generate", generate)
        with pytest.raises(NeuronMMError, match=r"FakeModel.generate made 5 steps and returned the shape \(2, 18\)"):
            measure_speed(model, SMALL)


class TestARealModel:
    def test_prompt_once_then_token_by_token(self, watched):
        model, inputs, outputs = watched
        before = time.perf_counter()
        result = measure_speed(model, SMALL)
        elapsed = time.perf_counter() - before
        assert inputs == [(2, 12), *[(2, 1)] * 5] * 3
        assert all(output.shape == (2, 18) for output in outputs)
        assert result["dtype"] == "float32" and result["device"].startswith("cpu (")
        assert sum(run["latency_s"] for run in result["runs"]) < elapsed
        for run in result["runs"]:
            assert 0 < run["ttft_s"] < run["latency_s"]
            assert run["latency_s"] == pytest.approx(run["ttft_s"] + 5 * run["tpot_s"])
            assert run["throughput_tokens_per_s"] == pytest.approx(12 / run["latency_s"])

    def test_the_time_to_the_first_token_holds_the_prompts_pass(self, model, monkeypatch):
        """By a clock that only passes of the model move: 100 for the prompt, 1 for each token."""
        now = [0]
        monkeypatch.setattr(speed, "perf_counter", lambda: now[0])

        def passed(module, args, kwargs, output):
            now[0] += 100 if kwargs["input_ids"].shape[1] > 1 else 1

        model.register_forward_hook(passed, with_kwargs=True)
        [run] = measure_speed(model, dataclasses.replace(SMALL, warmup=0, repeats=1))["runs"]
        assert (run["ttft_s"], run["tpot_s"], run["latency_s"]) == (100, 1, 105)

    def test_an_eos_that_would_come_first(self, watched):
        model, inputs, outputs = watched
        measure_speed(model, SMALL, vocab_size=100)
        expected = outputs[-1]
        model.generation_config.eos_token_id = list(range(100, 260))  # most that it writes, and none of the prompts'
        model.generation_config.pad_token_id = 259
        assert model.generate(expected[:, :12], max_new_tokens=6).shape[1] < 18, "the model's own config ends early"
        outputs.clear()
        measure_speed(model, SMALL, vocab_size=100)
        assert len(outputs) == 3
        assert all(torch.equal(output, expected) for output in outputs), "no token is forbidden, none replaced"

    @pytest.mark.parametrize(
        "options",
        [
            {"do_sample": True, "temperature": 50.0, "top_k": 0},
            {"num_beams": 3, "num_return_sequences": 2},
            {"repetition_penalty": 50.0, "no_repeat_ngram_size": 1},
            {"max_length": 5, "min_length": 3},
            {"max_new_tokens": 3, "min_new_tokens": 2},
            {"max_time": 1e-9},
            {"stop_strings": ["a"]},
            {"use_cache": False},
            {"cache_implementation": "static"},
            {"prompt_lookup_num_tokens": 2},
            {"return_dict_in_generate": True, "output_scores": True},
            {"bad_words_ids": [[token] for token in range(1, 200)]},
            {"forced_bos_token_id": 3, "forced_eos_token_id": 4, "suppress_tokens": list(range(100))},
        ],
        ids=lambda options: next(iter(options)),
    )
    def test_the_models_generation_config_plays_no_part(self, watched, caplog, options):
        model, inputs, outputs = watched
        measure_speed(model, dataclasses.replace(SMALL, warmup=0, repeats=1))
        expected, passes = outputs.pop(), list(inputs)
        inputs.clear()
        model.generation_config = GenerationConfig(**options)
        before = model.generation_config.to_dict()
        logging.getLogger("transformers").addHandler(caplog.handler)
        try:
            measure_speed(model, dataclasses.replace(SMALL, warmup=0, repeats=1))
        finally:
            logging.getLogger("transformers").removeHandler(caplog.handler)
        assert torch.equal(outputs[0], expected) and inputs == passes
        assert model.generation_config.to_dict() == before
        assert not caplog.records

    def test_greedy(self, watched):
        model, _, outputs = watched
        measure_speed(model, dataclasses.replace(SMALL, warmup=0, repeats=1))
        ids = outputs[0]
        with torch.no_grad():
            assert torch.equal(model(input_ids=ids[:, :-1]).logits[:, 11:].argmax(-1), ids[:, 12:])

    def test_a_compressed_model(self, compressed_llama):
        result = measure_speed(AutoModelForCausalLM.from_pretrained(compressed_llama), SMALL)
        assert len(result["runs"]) == 2 and result["latency_s"]["min"] > 0


def test_cuda_is_waited_for_before_every_reading(monkeypatch):
    events = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append(str(device)))
    monkeypatch.setattr(speed, "perf_counter", lambda: events.append("read") or 0.0)
    clock = speed._Clock(torch.zeros(2, 3, dtype=torch.int64))
    clock.read()
    assert events == ["read"], "nothing to wait for on a CPU"
    clock.device = torch.device("cuda:1")
    events.clear()
    clock.read()
    clock(torch.zeros(2, 4), None)
    assert events == ["cuda:1", "read"] * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda(model):
    result = measure_speed(model.to("cuda"), SMALL)
    assert result["device"] == f"cuda: {torch.cuda.get_device_name()}"
    assert all(0 < run["ttft_s"] < run["latency_s"] for run in result["runs"])
