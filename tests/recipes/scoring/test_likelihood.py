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
"""Log-likelihoods and divergences, against float64."""

import math

import pytest
import torch

from optimum_neuronmm.recipes.scoring.likelihood import divergence, log_likelihood
from optimum_neuronmm.recipes.scoring.packing import Row


def random_logits(count: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    return (4 * torch.randn(count, 50, generator=torch.Generator().manual_seed(seed))).to(dtype)


def row_of(count: int) -> Row:
    targets = torch.randint(50, (count,), generator=torch.Generator().manual_seed(1)).tolist()
    return Row((3, 1, *targets), count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 512, 513])
def test_log_likelihood(count, dtype):
    logits, row = random_logits(count, dtype=dtype), row_of(count)
    expected = logits.double().log_softmax(-1)[torch.arange(count), list(row.tokens[2:])].sum().item()
    assert log_likelihood(logits, row) == pytest.approx(expected, rel=1e-6)


def test_sums_are_kept_in_float64():
    logits = torch.zeros(256 * 40, 50)
    assert log_likelihood(logits, Row([0] * (256 * 40 + 1), 256 * 40)) == pytest.approx(
        256 * 40 * float(torch.tensor(1 / 50).log()), rel=1e-7
    )


def test_the_logits_are_left_as_they_are():
    logits, other = random_logits(3), random_logits(3, 1)
    before = logits.clone(), other.clone()
    log_likelihood(logits, row_of(3))
    divergence(logits, other)
    assert torch.equal(logits, before[0]) and torch.equal(other, before[1])


def test_a_token_that_cannot_be():
    logits = torch.zeros(2, 4)
    logits[1, 3] = -math.inf
    assert log_likelihood(logits, Row((0, 1, 3), 2)) == -math.inf
    assert log_likelihood(logits, Row((0, 1, 2), 2)) == pytest.approx(-math.log(4) - math.log(3))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 299])
def test_logits_that_are_no_numbers(wrong, place):
    logits, row = random_logits(300), row_of(300)
    logits[place, 7] = wrong
    assert math.isnan(log_likelihood(logits, row)), "-inf would be a choice that cannot be"
    assert not math.isfinite(divergence(logits, random_logits(300, 1)))
    assert not math.isfinite(divergence(random_logits(300, 1), logits))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 256, 257, 600])
def test_divergence(count, dtype):
    reference, logits = random_logits(count, dtype=dtype), random_logits(count, 1, dtype=dtype)
    p, q = (one.double().softmax(-1) for one in (reference, logits))
    expected = (p * (p / q).log()).sum().item()
    assert divergence(reference, logits) == pytest.approx(expected, rel=1e-5)
    assert divergence(reference, reference) == 0
    assert divergence(reference.float(), reference.float() + 3) == pytest.approx(0, abs=1e-5 * count)
    backward = divergence(logits, reference)
    assert backward != pytest.approx(expected, rel=1e-3), "the order matters"
