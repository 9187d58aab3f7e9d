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
"""KL(baseline || model), from sums and from texts."""

import math
import statistics

import pytest
import torch
from transformers import AutoModelForCausalLM

from optimum_neuronmm.errors import NeuronMMError, NotFiniteError

from ...conftest import build_tokenizer, save_tiny_model


TEXTS = ["A tile holds 128 rows.", "Two halves of it are loaded at once,", "and the third waits."]


@pytest.fixture
def metric(load_metric):
    return load_metric("kl_divergence", keep_in_memory=True)


@pytest.fixture(scope="module")
def baseline(tiny_llama):
    return AutoModelForCausalLM.from_pretrained(tiny_llama)


@pytest.fixture(scope="module")
def model(tiny_llama):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight *= -2
    return model


@torch.no_grad()
def divergences_by_hand(baseline, model, windows):
    """Summed over all predictions but the last, which has no token to be compared with, in float64."""
    sums = []
    for window in windows:
        p, q = (part(torch.tensor([window])).logits[0, :-1].double().softmax(-1) for part in (baseline, model))
        sums.append((p * (p / q).log()).sum().item())
    return sums


class TestSums:
    def test_by_hand(self, metric):
        result = metric.compute(predictions=[0.3, 0.9, 0.6], references=[3, 3, 3])
        assert result == {
            "divergence": pytest.approx(0.2, rel=1e-14),
            "stderr": pytest.approx(statistics.stdev([0.1, 0.3, 0.2]) / math.sqrt(3), rel=1e-12),
            "tokens": 9,
            "windows": 3,
        }

    def test_a_window_counts_as_much_as_it_has_tokens(self, metric):
        assert metric.compute(predictions=[1.0, 0.0], references=[1, 9])["divergence"] == pytest.approx(0.1)

    def test_one_window_has_no_error(self, metric):
        assert metric.compute(predictions=[1.0], references=[10])["stderr"] is None

    def test_what_rounding_leaves_below_zero(self, metric):
        assert metric.compute(predictions=[-9e-6], references=[10])["divergence"] == 0
        mixed = metric.compute(predictions=[-9e-6, 29e-6], references=[10, 10])
        assert mixed["divergence"] == pytest.approx(1e-6)

    def test_what_rounding_cannot_have_left(self, metric):
        with pytest.raises(NeuronMMError, match="window 1 has -1.1e-06 nats a token"):
            metric.compute(predictions=[5.0, -11e-6], references=[10, 10])

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_a_divergence_that_is_not_finite_is_never_dropped(self, metric, bad):
        with pytest.raises(NotFiniteError, match="The divergence of window 1 is not finite"):
            metric.compute(predictions=[1.0, bad], references=[1, 1])

    @pytest.mark.parametrize("count", [0, -1])
    def test_counts_that_cannot_be(self, metric, count):
        with pytest.raises(NeuronMMError, match=f"window 1 has {count}"):
            metric.compute(predictions=[1.0, 1.0], references=[1, count])

    @pytest.mark.parametrize("option", ["model", "baseline", "tokenizer", "window"])
    def test_options_of_texts(self, metric, option):
        with pytest.raises(NeuronMMError, match="go with texts"):
            metric.compute(predictions=[1.0], references=[1], **{option: 2})


class TestTexts:
    def test_against_numbers_by_hand(self, metric, model, baseline):
        """1e-4: the difference of two log-softmax in float32, against their mean."""
        tokens = build_tokenizer()("\n\n".join(TEXTS)).input_ids
        windows = [tokens[:9], tokens[9:18], tokens[18:27]]
        options = {"tokenizer": build_tokenizer(), "window": 9, "max_windows": 3, "bos": "none", "batch_size": 2}
        found = metric.compute(predictions=TEXTS, model=model, baseline=baseline, **options)
        expected = divergences_by_hand(baseline, model, windows)
        assert found == pytest.approx(metric.compute(predictions=expected, references=[8] * 3), rel=1e-4)
        assert found["divergence"] > 0.01
        turned = metric.compute(predictions=TEXTS, model=baseline, baseline=model, **options)
        assert turned["divergence"] != pytest.approx(found["divergence"], rel=1e-3)

    def test_every_window_begins_with_bos_where_asked(self, metric, model, baseline):
        tokenizer = build_tokenizer()
        tokenizer.bos_token = "<|endoftext|>"
        tokens = tokenizer("\n\n".join(TEXTS)).input_ids
        windows = [[256, *tokens[:8]], [256, *tokens[8:16]]]
        found = metric.compute(
            predictions=TEXTS,
            model=model,
            baseline=baseline,
            tokenizer=tokenizer,
            window=9,
            max_windows=2,
            bos="every",
        )
        expected = divergences_by_hand(baseline, model, windows)
        assert found == pytest.approx(metric.compute(predictions=expected, references=[8] * 2), rel=1e-4)

    def test_a_model_does_not_differ_from_itself(self, metric, baseline):
        found = metric.compute(
            predictions=TEXTS, model=baseline, baseline=baseline, tokenizer=build_tokenizer(), window=9
        )
        assert found["divergence"] == found["stderr"] == 0

    def test_models_of_different_vocabularies(self, metric, baseline, tmp_path):
        other = AutoModelForCausalLM.from_pretrained(save_tiny_model(tmp_path / "other", vocab_size=264))
        with pytest.raises(NeuronMMError, match="baseline has a vocabulary of 260 tokens and the model one of 264"):
            metric.compute(predictions=TEXTS, model=other, baseline=baseline, tokenizer=build_tokenizer(), window=9)

    def test_a_model_that_is_not_finite(self, metric, baseline, tiny_llama):
        broken = AutoModelForCausalLM.from_pretrained(tiny_llama)
        with torch.no_grad():
            broken.lm_head.weight[5] = math.nan
        for pair in ((broken, baseline), (baseline, broken)):
            with pytest.raises(NotFiniteError, match="The divergence of window 0"):
                metric.compute(
                    predictions=TEXTS, model=pair[0], baseline=pair[1], tokenizer=build_tokenizer(), window=9
                )

    def test_a_text_is_not_a_list_of_texts(self, metric, baseline):
        with pytest.raises(NeuronMMError, match="must be a list of texts, and got one text"):
            metric.compute(
                predictions="1234", model=baseline, baseline=baseline, tokenizer=build_tokenizer(), window=5
            )

    def test_a_text_of_digits_is_a_text(self, metric, baseline):
        options = {"model": baseline, "baseline": baseline, "tokenizer": build_tokenizer(), "window": 5}
        assert metric.compute(predictions=["1234", "5678"], **options)["tokens"] == 8

    def test_texts_in_batches(self, metric, model, baseline):
        options = {"model": model, "baseline": baseline, "tokenizer": build_tokenizer(), "window": 10}
        expected = metric.compute(predictions=TEXTS, **options)
        metric.add_batch(predictions=TEXTS[:2])
        metric.add(prediction=TEXTS[2])
        assert metric.compute(**options) == expected

    @pytest.mark.parametrize("missing", ["model", "baseline", "tokenizer"])
    def test_what_texts_need(self, metric, baseline, missing):
        options = {"model": baseline, "baseline": baseline, "tokenizer": build_tokenizer(), missing: None}
        with pytest.raises(NeuronMMError, match="model, baseline and tokenizer must be given"):
            metric.compute(predictions=TEXTS, window=10, **options)

    def test_texts_have_no_references(self, metric, baseline):
        with pytest.raises(NeuronMMError, match="references must not"):
            metric.compute(
                predictions=TEXTS,
                references=[1, 2, 3],
                model=baseline,
                baseline=baseline,
                tokenizer=build_tokenizer(),
                window=10,
            )
