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
"""What is put into a compiled model and read from it, over a model with the habits of optimum-neuron's and no SDK.

Its logits are a function of all the tokens that the model may look at, so any mistake in the cache shows.
"""

from types import SimpleNamespace

import pytest
import torch

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes.scoring.compiled_model import CompiledModel


VOCABULARY = 20


def expected(tokens) -> torch.Tensor:
    """Logits of what follows these tokens."""
    weights = torch.tensor([float(token + 1) * (place + 2) for place, token in enumerate(tokens)])
    return torch.sin(weights.sum() + torch.arange(VOCABULARY))


class Fake:
    """A model of fixed shapes with a cache of tokens, which forgets nothing between batches."""

    def __init__(self, batch_size=2, length=8, prompt=None, **changes):
        self.neuron_config = SimpleNamespace(
            batch_size=batch_size,
            sequence_length=length,
            max_context_length=prompt or length,
            tp_degree=1,
            torch_dtype=torch.bfloat16,
            on_device_sampling=False,
            output_logits=False,
            continuous_batching=batch_size > 1,
        )
        for name, value in changes.items():
            setattr(self.neuron_config, name, value)
        self.config = SimpleNamespace(vocab_size=VOCABULARY)
        self.cache = torch.full((batch_size, length), 17)
        self.calls = []

    def reset(self):
        self.calls.append("reset")

    def forward(self, input_ids, position_ids, seq_ids, sampling_params):
        assert not torch.is_grad_enabled()
        size = self.neuron_config.batch_size
        assert input_ids.shape == position_ids.shape and input_ids.shape[0] == size
        assert seq_ids.tolist() == list(range(size))
        assert sampling_params.shape == (size, 3) and sampling_params.dtype == torch.float32
        self.calls.append(input_ids.shape[1])
        found = torch.stack([self._row(*row) for row in zip(self.cache, input_ids, position_ids, strict=True)])
        found = torch.cat([found, torch.full((size, 3), 1e9)], dim=1)[:, None]  # a vocabulary that was padded
        return (found[:, 0].argmax(-1), found) if self.neuron_config.output_logits else found

    def _row(self, cache, tokens, positions):
        if len(tokens) == 1:
            cache[positions] = tokens
            return expected(cache[: positions + 1].tolist())
        assert len(tokens) == self.neuron_config.max_context_length, "the prompt is not of the compiled width"
        cache[: len(tokens)] = tokens
        last = (positions == positions.max()).nonzero()[-1, 0]  # of several, a device may take any
        return expected(tokens[: last + 1].tolist())


def tokens(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def check(fake, groups):
    found = CompiledModel(fake, "m").logits(groups)
    assert [len(group) for group in found] == [len(group) for group in groups]
    for rows, group in zip(groups, found, strict=True):
        for (ids, scored), logits in zip(rows, group, strict=True):
            assert logits.dtype == torch.float32 and logits.shape == (scored, VOCABULARY)
            wanted = [expected(ids[:end]) for end in range(len(ids) - scored, len(ids))]
            assert torch.equal(logits, torch.stack(wanted)), (ids, scored)


# Lengths, and how many tokens are scored: contexts of one token and of almost all, rows that fill the model.
RAGGED = [
    [(4, 1), (6, 3), (5, 2), (8, 7)],
    [(2, 1)],
    [(9, 8), (9, 1), (3, 2)],
    [(7, 5), (8, 1), (2, 1)],
    [],
]


def rows(shapes):
    return [[(tokens(length, seed), scored) for length, scored in group] for seed, group in enumerate(shapes)]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
@pytest.mark.parametrize("prompt", [None, 3, 2, 1])
def test_rows_of_different_lengths(batch_size, prompt):
    check(Fake(batch_size, prompt=prompt), rows(RAGGED))


def test_every_shape_beside_every_other():
    shapes = [(length, scored) for length in range(2, 6) for scored in range(1, length)]
    for one in shapes:
        for other in shapes:
            check(Fake(2, length=4), [[(tokens(one[0], 1), one[1]), (tokens(other[0], 2), other[1])]])


def test_nothing():
    fake = Fake()
    assert CompiledModel(fake, "m").logits([]) == [] and CompiledModel(fake, "m").logits([[]]) == [[]]
    assert fake.calls == []


def test_logits_beside_tokens():
    check(Fake(1, on_device_sampling=True, output_logits=True), rows(RAGGED))
    check(Fake(2, on_device_sampling=True, output_logits=True, continuous_batching=False), rows(RAGGED))


def test_what_it_says_of_itself():
    model = CompiledModel(Fake(length=8), "a model")
    assert (model.name, model.max_length, model.dtype, model.device) == ("a model", 8, "bfloat16", "neuron")


def test_rows_that_decode_about_as_many_tokens_go_together():
    fake = Fake(2)
    CompiledModel(fake, "m").logits(rows([[(8, 6), (5, 1), (8, 5), (4, 1), (7, 2)]]))
    # 5 and 4 tokens to decode, then 1 and none, then none.
    assert fake.calls == ["reset", 8, *[1] * 5, "reset", 8, 1, "reset", 8]


class Drifting(Fake):
    """Computes a little otherwise in each step."""

    def forward(self, **inputs):
        if inputs["input_ids"].shape[1] > 1:
            self.drift = 0
        self.drift += 1
        return super().forward(**inputs) + self.drift


def test_a_row_does_not_depend_on_what_is_beside_it():
    wanted = rows([[(8, 6), (5, 1), (5, 3), (2, 1)]])[0]
    alone = [CompiledModel(Drifting(4), "m").logits([[row]])[0][0] for row in wanted]
    beside = CompiledModel(Drifting(4), "m").logits([wanted])[0]
    assert all(torch.equal(one, other) for one, other in zip(alone, beside, strict=True))


@pytest.mark.parametrize(
    ("length", "scored", "match"),
    [
        (10, 1, "m is compiled for sequence_length=8, and a row has 9 tokens to put in"),
        (30, 29, "and a row has 29 tokens .* compile the model with a larger sequence_length"),
        (4, 4, "A row of 4 tokens has 4 to score: expected at least one, and one of context"),
        (4, 0, "A row of 4 tokens has 0 to score"),
        (4, -1, "A row of 4 tokens has -1 to score"),
        (0, 1, "A row of 0 tokens has 1 to score"),
    ],
)
def test_rows_that_cannot_be_scored(length, scored, match):
    fake = Fake()
    with pytest.raises(NeuronMMError, match=match):
        CompiledModel(fake, "m").logits([[(tokens(4), 1)], [(tokens(length), scored)]])
    assert fake.calls == [], "something was computed before every row was looked at"


@pytest.mark.parametrize("wrong", [VOCABULARY, -1])
def test_tokens_of_another_vocabulary(wrong):
    with pytest.raises(NeuronMMError, match="vocabulary of 20 tokens, and a row has tokens .* Use the tokenizer"):
        CompiledModel(Fake(), "m").logits([[([3, wrong, 4], 1)]])


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_model_that_returns_tokens(batch_size):
    with pytest.raises(NeuronMMError, match="m chooses tokens on the device and returns no logits") as error:
        CompiledModel(Fake(batch_size, on_device_sampling=True), "m")
    shapes = f"batch_size={batch_size}, sequence_length=8, tensor_parallel_size=1"
    assert "--neuronmm_sampling host" in str(error.value) and shapes in str(error.value)


@pytest.mark.parametrize("on_device", [True, False])
def test_tokens_and_logits_of_a_continuous_batch(on_device):
    both = {"on_device_sampling": on_device, "output_logits": True, "continuous_batching": True}
    CompiledModel(Fake(1, **both), "m")
    with pytest.raises(NeuronMMError, match="several sequences with continuous_batching.*--neuronmm_sampling host"):
        CompiledModel(Fake(2, **both), "m")


def test_logits_that_are_masked():
    with pytest.raises(NeuronMMError, match="m masks the last 1 of the logits .* 3 ranks .* vocabulary of 20 tokens"):
        CompiledModel(Fake(tp_degree=3), "m")
    CompiledModel(Fake(tp_degree=4), "m")
    CompiledModel(Fake(1, tp_degree=3, on_device_sampling=True, output_logits=True), "m")
