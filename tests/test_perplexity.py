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
"""Token perplexity against what it must be, and against transformers' own loss."""

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.perplexity import perplexity, perplexity_from_loss, token_divergence, token_loss


def model_giving(logits_of):
    """A stand-in for a causal LM: `logits_of(input_ids)` -> (n, L, vocabulary)."""

    def call(input_ids, use_cache):
        assert use_cache is False
        return SimpleNamespace(logits=logits_of(input_ids))

    call.device = torch.device("cpu")
    return call


def windows_of(n, length, vocabulary=256, seed=0):
    return torch.randint(vocabulary, (n, length), generator=torch.Generator().manual_seed(seed))


def test_a_model_that_knows_nothing_has_the_size_of_its_vocabulary():
    model = model_giving(lambda ids: torch.zeros(*ids.shape, 50))
    assert perplexity(model, windows_of(3, 7, 50)) == pytest.approx(50, rel=1e-6)


def test_every_token_but_the_first_is_predicted_from_those_before_it():
    """A model that gives the probability 1/2 to the token that follows, and the rest to the others."""
    successor = torch.tensor([3, 1, 4, 2, 0])
    table = torch.full((5, 5), math.log(1 / 8))
    table[torch.arange(5), successor] = math.log(1 / 2)
    windows = torch.tensor([[0, 3, 2, 4, 0], [1, 1, 1, 1, 1]])  # every token is the successor of the one before
    assert perplexity(model_giving(lambda ids: table[ids]), windows) == pytest.approx(2, rel=1e-6)
    # The first token is never predicted: what stands there changes nothing but the prediction of the second.
    assert token_loss(table[windows], windows) == pytest.approx(8 * math.log(2), rel=1e-6)


def test_equals_the_loss_of_transformers(tiny_llama):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    windows = windows_of(4, 33)
    with torch.no_grad():
        losses = [model(input_ids=window, labels=window).loss.item() for window in windows.split(1)]
    assert perplexity(model, windows) == pytest.approx(math.exp(sum(losses) / 4), rel=1e-5)


def test_does_not_depend_on_the_batch_size(tiny_llama):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    windows = windows_of(5, 20)
    one = perplexity(model, windows)
    assert perplexity(model, windows, batch_size=3) == pytest.approx(one, rel=1e-6)
    assert perplexity(model, windows, batch_size=64) == pytest.approx(one, rel=1e-6)


def test_windows_are_scored_on_their_own(tiny_llama):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    first, second = windows_of(1, 20, seed=1), windows_of(1, 20, seed=2)
    mean = (math.log(perplexity(model, first)) + math.log(perplexity(model, second))) / 2
    assert perplexity(model, torch.cat([first, second])) == pytest.approx(math.exp(mean), rel=1e-6)


def test_half_precision_logits_are_reduced_in_float32():
    logits = torch.randn(2, 400, 97, generator=torch.Generator().manual_seed(0)).bfloat16()
    windows = windows_of(2, 400, 97)
    exact = token_loss(logits.double(), windows)
    assert token_loss(logits, windows) == pytest.approx(exact, rel=1e-6)


def test_no_gradient_is_kept(tiny_llama):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    seen = []
    model.lm_head.register_forward_hook(lambda _, args, output: seen.append(output.requires_grad))
    perplexity(model, windows_of(1, 8))
    assert seen == [False]


class TestDivergence:
    @staticmethod
    def logits(seed, *shape):
        return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

    def test_it_is_the_sum_over_the_predictions_that_count(self):
        p, q = self.logits(1, 2, 5, 7), self.logits(2, 2, 5, 7)
        total = 0.0
        for window in range(2):
            for position in range(4):  # the last one predicts a token that is not there
                a, b = (x[window, position].double().softmax(-1) for x in (p, q))
                total += (a * (a / b).log()).sum().item()
        assert token_divergence(p, q) == pytest.approx(total, rel=1e-5)
        assert token_divergence(q, p) != pytest.approx(total, rel=0.05)

    def test_of_equal_distributions_it_is_zero(self):
        p = self.logits(1, 1, 5, 7)
        assert token_divergence(p, p + 4) == pytest.approx(0, abs=1e-5)

    def test_half_precision_is_reduced_in_float32(self):
        p, q = (self.logits(seed, 1, 400, 97).bfloat16() for seed in (1, 2))
        assert token_divergence(p, q) == pytest.approx(token_divergence(p.float(), q.float()), rel=1e-6)


@pytest.mark.parametrize("shape", [(0, 8), (3, 1), (8,), (1, 2, 3)])
def test_windows_of_another_form_are_refused(shape):
    with pytest.raises(NeuronMMError, match=r"windows must be \(n, L\)"):
        perplexity(model_giving(None), torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_window_without_a_finite_loss_is_an_error(value):
    def logits_of(ids):
        logits = torch.zeros(*ids.shape, 5)
        logits[:, 3, 2] = value if ids[0, 0] == 4 else 0.0
        return logits

    windows = torch.tensor([[0, 1, 2, 3, 0], [4, 1, 2, 3, 0], [1, 1, 2, 3, 0]])
    with pytest.raises(NeuronMMError, match="not finite.*float32 or bfloat16"):
        perplexity(model_giving(logits_of), windows)


def test_a_loss_beyond_floating_point_is_infinite_and_not_an_overflow():
    windows = torch.zeros(1, 2, dtype=torch.int64)
    assert perplexity_from_loss(10_000.0, windows) == math.inf
    assert perplexity_from_loss(0.0, windows) == 1.0
