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
"""Means over the tokens of windows, and logits of windows."""

import math
import statistics

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from optimum_neuronmm.errors import NeuronMMError, NotFiniteError
from optimum_neuronmm.recipes.metrics.window_metrics import cut, token_mean, window_logits

from ...conftest import build_tokenizer


@pytest.fixture(scope="module")
def model(tiny_llama):
    return AutoModelForCausalLM.from_pretrained(tiny_llama)


class TestTokenMean:
    def test_windows_of_one_size(self):
        sums = [12.0, 20.0, 16.5, 9.25]
        means = [value / 8 for value in sums]
        found = token_mean(sums, [8] * 4, "loss")
        assert (found.tokens, found.windows) == (32, 4)
        assert found.mean == pytest.approx(statistics.mean(means), rel=1e-14)
        assert found.stderr == pytest.approx(statistics.stdev(means) / math.sqrt(4), rel=1e-14)

    def test_a_window_counts_as_much_as_it_has_tokens(self):
        assert token_mean([2.0, 30.0], [1, 9], "loss").mean == pytest.approx(3.2, rel=1e-15)

    def test_the_error_for_windows_of_many_sizes_is_that_of_repeated_draws(self):
        """Against the spread of the mean over many draws of windows. 2000 of them know a standard deviation to 1.6 %."""
        generator = np.random.default_rng(0)
        n = 200

        def draw():
            counts = generator.integers(5, 50, n)
            return counts * (3 + generator.normal(0, 1, n)), counts

        found = [token_mean(*draw(), "loss") for _ in range(2000)]
        assert statistics.mean(f.stderr for f in found) == pytest.approx(
            statistics.stdev([f.mean for f in found]), rel=0.06
        )

    def test_one_window_has_no_error(self):
        assert token_mean([6.0], [3], "loss").stderr is None

    def test_a_large_sum_keeps_its_digits(self):
        """float32 would lose the last window."""
        assert token_mean([1e9, 0.5], [1, 1], "loss").mean == (1e9 + 0.5) / 2

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
    def test_what_is_not_finite(self, bad):
        with pytest.raises(NotFiniteError, match="The loss of window 1 is not finite"):
            token_mean([1.0, bad, 2.0], [1, 1, 1], "loss")

    @pytest.mark.parametrize("count", [0, -3, None])
    def test_windows_without_tokens(self, count):
        with pytest.raises(NeuronMMError, match=f"window 2 has {count}"):
            token_mean([1.0, 1.0, 2.0], [1, 1, count], "loss")


class TestCut:
    def test_the_texts_are_one(self):
        tokenizer = build_tokenizer()
        tokens = tokenizer("ab--cde").input_ids
        assert cut(["ab", "cde"], tokenizer, window=3, joiner="--").tolist() == [tokens[:3], tokens[3:6]]

    def test_the_standard_joiner_is_a_blank_line(self):
        tokenizer = build_tokenizer()
        assert cut(["ab", "cd"], tokenizer, window=6).tolist() == [tokenizer("ab\n\ncd").input_ids]

    def test_the_first_windows(self):
        tokenizer = build_tokenizer()
        full = cut(["abcdefgh"], tokenizer, window=2)
        assert full.shape == (4, 2)
        assert cut(["abcdefgh"], tokenizer, window=2, max_windows=3).tolist() == full[:3].tolist()
        assert cut(["abcdefgh"], tokenizer, window=2, max_windows=9).tolist() == full.tolist()

    @pytest.mark.parametrize("wrong", [{"window": 1}, {"max_windows": 0}, {"bos": "always"}])
    def test_settings_that_cannot_be(self, wrong):
        with pytest.raises(NeuronMMError, match="Expected window >= 2, max_windows >= 1 or None, and bos one of"):
            cut(["abcdefgh"], build_tokenizer(), **{"window": 2, **wrong})

    def test_a_text_that_is_too_short(self):
        with pytest.raises(NeuronMMError, match="got 3 tokens"):
            cut(["abc"], build_tokenizer(), window=4)


class TestWindowLogits:
    @pytest.mark.parametrize("batch_size", [1, 2, 5])
    def test_each_window_is_run_on_its_own(self, model, batch_size):
        tokens = torch.randint(256, (3, 7), generator=torch.Generator().manual_seed(0))
        found = list(window_logits(model, tokens, batch_size))
        assert len(found) == 3
        for window, logits in zip(tokens, found, strict=True):
            with torch.no_grad():
                torch.testing.assert_close(logits, model(window[None]).logits)

    def test_no_graph_is_kept(self, model):
        assert not next(window_logits(model, torch.tensor([[1, 2]]))).requires_grad

    def test_training_mode(self, model):
        model.train()
        try:
            with pytest.raises(NeuronMMError, match="training mode"):
                next(window_logits(model, torch.tensor([[1, 2]])))
        finally:
            model.eval()

    def test_a_token_of_another_model(self, model):
        with pytest.raises(NeuronMMError, match="The tokenizer gives token 260, but the model knows 260"):
            next(window_logits(model, torch.tensor([[1, 260], [1, 2]])))

    def test_as_long_as_the_model_goes(self, model):
        assert next(window_logits(model, torch.ones(1, 512, dtype=torch.int64))).shape == (1, 512, 260)
        with pytest.raises(NeuronMMError, match="made for 512 positions, and a window has 513"):
            next(window_logits(model, torch.ones(1, 513, dtype=torch.int64)))

    def test_no_batch(self, model):
        with pytest.raises(NeuronMMError, match="batch_size must be at least 1, got 0"):
            next(window_logits(model, torch.tensor([[1, 2]]), 0))
