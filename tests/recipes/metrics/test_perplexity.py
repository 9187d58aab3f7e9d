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
"""Token perplexity, from losses and from texts."""

import math
import statistics

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM

from optimum_neuronmm.errors import NeuronMMError, NotFiniteError
from optimum_neuronmm.perplexity import perplexity

from ...conftest import build_tokenizer


TEXTS = ["A tile holds 128 rows.", "Two halves of it are loaded at once,", "and the third waits."]


@pytest.fixture
def metric(load_metric):
    return load_metric("perplexity", keep_in_memory=True)


@pytest.fixture(scope="module")
def model(tiny_llama):
    return AutoModelForCausalLM.from_pretrained(tiny_llama)


def tokenizer_with_bos():
    tokenizer = build_tokenizer()
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 256)]
    )
    return tokenizer


@torch.no_grad()
def losses_by_hand(model, windows):
    """Summed loss of each window: one token after the other, with nothing but the tokens before it."""
    losses = []
    for window in windows:
        total = 0.0
        for place in range(1, len(window)):
            logits = model(torch.tensor([window[:place]])).logits[0, -1].double()
            total -= logits.log_softmax(-1)[window[place]].item()
        losses.append(total)
    return losses


class TestLosses:
    def test_by_hand(self, metric):
        result = metric.compute(predictions=[6.0, 9.0, 12.0], references=[3, 3, 3])
        deviation = statistics.stdev([2.0, 3.0, 4.0]) / math.sqrt(3)
        assert result == {
            "perplexity": pytest.approx(math.exp(3), rel=1e-14),
            "mean_loss": pytest.approx(3, rel=1e-14),
            "stderr": pytest.approx(math.exp(3) * deviation, rel=1e-14),
            "tokens": 9,
            "windows": 3,
        }

    def test_it_is_not_the_mean_of_perplexities_nor_of_means(self, metric):
        result = metric.compute(predictions=[1.0, 8.0], references=[1, 2])
        assert result["perplexity"] == pytest.approx(math.exp(3))
        assert result["perplexity"] != pytest.approx((math.exp(1) + math.exp(4)) / 2)
        assert result["perplexity"] != pytest.approx(math.exp(2.5))

    def test_one_window_has_no_error(self, metric):
        result = metric.compute(predictions=[4.0], references=[2])
        assert result["perplexity"] == pytest.approx(math.exp(2))
        assert result["stderr"] is None

    def test_losses_keep_their_digits(self, metric):
        losses = [1234.56789012345, 1234.56789012344]
        assert metric.compute(predictions=losses, references=[511, 511])["mean_loss"] == sum(losses) / 1022

    def test_a_perplexity_too_large_for_a_float(self, metric):
        result = metric.compute(predictions=[800.0, 801.0], references=[1, 1])
        assert result["perplexity"] == math.inf and result["stderr"] is None
        assert result["mean_loss"] == 800.5

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_a_loss_that_is_not_finite_is_never_dropped(self, metric, bad):
        with pytest.raises(NotFiniteError, match="The loss of window 1 is not finite"):
            metric.compute(predictions=[1.0, bad, 2.0], references=[1, 1, 1])

    @pytest.mark.parametrize("count", [0, -1])
    def test_counts_that_cannot_be(self, metric, count):
        with pytest.raises(NeuronMMError, match=f"window 1 has {count}"):
            metric.compute(predictions=[1.0, 1.0], references=[1, count])

    def test_log_likelihoods_are_no_losses(self, metric):
        with pytest.raises(NeuronMMError, match="window 1 has -2.5. Change the sign"):
            metric.compute(predictions=[0.0, -2.5], references=[1, 1])

    def test_what_rounding_leaves_of_a_loss_of_zero(self, metric):
        assert metric.compute(predictions=[-1e-8], references=[5])["perplexity"] == pytest.approx(1, rel=1e-8)

    @pytest.mark.parametrize("option", ["model", "tokenizer", "window"])
    def test_options_of_texts(self, metric, option):
        with pytest.raises(NeuronMMError, match="go with texts"):
            metric.compute(predictions=[1.0], references=[1], **{option: 2})


class TestTexts:
    @pytest.mark.parametrize("bos", ["first", "none", "every"])
    def test_against_a_loop_over_tokens(self, metric, model, bos):
        """1e-5: float32 against float64 for the softmax of 260 tokens."""
        tokenizer = tokenizer_with_bos()
        tokens = tokenizer("\n\n".join(TEXTS), add_special_tokens=False).input_ids
        windows = {
            "first": [[256, *tokens[:8]], tokens[8:17], tokens[17:26]],
            "none": [tokens[:9], tokens[9:18], tokens[18:27]],
            "every": [[256, *tokens[:8]], [256, *tokens[8:16]], [256, *tokens[16:24]]],
        }[bos]
        expected = metric.compute(predictions=losses_by_hand(model, windows), references=[8] * 3)
        found = metric.compute(
            predictions=TEXTS, model=model, tokenizer=tokenizer, window=9, max_windows=3, bos=bos, batch_size=2
        )
        assert found == pytest.approx(expected, rel=1e-5)
        assert (found["tokens"], found["windows"]) == (24, 3)

    def test_against_the_package(self, metric, model):
        """The standard: all windows, and no BOS from a tokenizer that adds none."""
        tokens = torch.tensor(build_tokenizer()("\n\n".join(TEXTS)).input_ids)
        n = len(tokens) // 16
        assert len(tokens) % 16 and n > 2
        found = metric.compute(predictions=TEXTS, model=model, tokenizer=build_tokenizer(), window=16)
        assert found["perplexity"] == pytest.approx(perplexity(model, tokens[: n * 16].view(n, 16)), rel=1e-6)
        assert found["windows"] == n

    @pytest.mark.parametrize("batch_size", [2, 3, 100])
    def test_batches_change_nothing(self, metric, model, batch_size):
        options = {"predictions": TEXTS, "model": model, "tokenizer": build_tokenizer(), "window": 7}
        assert metric.compute(**options, batch_size=batch_size) == pytest.approx(metric.compute(**options), rel=1e-5)

    def test_a_joiner(self, metric, model):
        options = {"model": model, "tokenizer": build_tokenizer(), "window": 10}
        whole = metric.compute(predictions=[" ".join(TEXTS)], **options)
        assert metric.compute(predictions=TEXTS, joiner=" ", **options) == whole
        assert metric.compute(predictions=TEXTS, **options) != whole

    def test_a_text_of_digits_is_a_text(self, metric, model):
        found = metric.compute(predictions=["1234", "5678"], model=model, tokenizer=build_tokenizer(), window=5)
        assert (found["tokens"], found["windows"]) == (8, 2)

    def test_a_text_is_not_a_list_of_texts(self, metric, model):
        with pytest.raises(NeuronMMError, match="must be a list of texts, and got one text"):
            metric.compute(predictions="1234", model=model, tokenizer=build_tokenizer(), window=5)

    def test_texts_in_batches(self, metric, model):
        options = {"model": model, "tokenizer": build_tokenizer(), "window": 10}
        expected = metric.compute(predictions=TEXTS, **options)
        metric.add_batch(predictions=TEXTS[:2])
        metric.add(prediction=TEXTS[2])
        assert metric.compute(**options) == expected

    def test_the_standard_window_is_2048(self, metric, model):
        with pytest.raises(NeuronMMError, match="window of 2048 tokens, got 2047"):
            metric.compute(predictions=["a" * 2047], model=model, tokenizer=build_tokenizer())

    def test_a_model_that_is_not_finite(self, metric, model, tiny_llama):
        broken = AutoModelForCausalLM.from_pretrained(tiny_llama)
        with torch.no_grad():
            broken.lm_head.weight[5] = math.nan
        with pytest.raises(NotFiniteError, match="The loss of window 0"):
            metric.compute(predictions=TEXTS, model=broken, tokenizer=build_tokenizer(), window=10)

    @pytest.mark.parametrize("missing", ["model", "tokenizer"])
    def test_what_texts_need(self, metric, model, missing):
        options = {"model": model, "tokenizer": build_tokenizer(), missing: None}
        with pytest.raises(NeuronMMError, match="model and tokenizer must be given"):
            metric.compute(predictions=TEXTS, window=10, **options)

    def test_texts_have_no_references(self, metric, model):
        with pytest.raises(NeuronMMError, match="references must not"):
            metric.compute(
                predictions=TEXTS, references=[1, 2, 3], model=model, tokenizer=build_tokenizer(), window=10
            )
