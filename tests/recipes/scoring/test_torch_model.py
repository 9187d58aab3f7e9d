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
"""Logits of packed rows against those of each row on its own, for each family."""

import copy
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes.scoring.packing import Row
from optimum_neuronmm.recipes.scoring.torch_model import TorchModel

from ...conftest import FAMILY_OPTIONS, save_tiny_model
from .common import alone, group, load_model, random_tokens


EXTRA = {"gemma3_text": {"final_logit_softcapping": 2.0}}
LIMIT = 16  # the sliding window of mistral and gemma3_text
A = random_tokens(8)
# Rows of different lengths, some with a beginning in common and some that are the same; rows of one token; one row;
# rows that differ from the first token on; rows of which only the last token differs; a row that goes on where another ends.
GROUPS = [
    group(A, (1, 2, 3), (1, 2, 4), (5,), (6, 7, 8, 9, 10), (1, 2, 3)),
    group(A[:3], (11, 12)),
    [Row((20, 21, 22, 23), 2), Row((30, 31, 32), 1), Row((40, 41), 1)],
    group(A[:5], (1,), (2,), (3,)),
    [Row((*A, 1, 2, 3), 3), Row((*A, 1, 2, 3, 4, 5), 2), Row((*A, 1), 1)],
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model of each family, made when it is first asked for."""
    made = {}

    def model(family: str, dtype=torch.float32):
        if family not in made:
            made[family] = save_tiny_model(tmp_path_factory.mktemp("models") / family, family, **EXTRA.get(family, {}))
        return load_model(made[family], dtype)

    return model


@pytest.fixture(scope="module")
def llama(tiny_llama):
    model = load_model(tiny_llama)
    for layer in model.model.layers:  # so that it matters which tokens are seen, and from how far
        layer.self_attn.q_proj.weight.data *= 20
    return model


def calls(model, groups) -> tuple[list[dict], list[list[torch.Tensor]]]:
    """What the model is called with, and the logits."""
    seen, inner = [], getattr(model, "model", None) or model
    handle = (inner.inner if isinstance(inner, Around) else inner).register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    found = model.logits(groups)
    handle.remove()
    return seen, found


def check(model, groups, found, **tolerance) -> None:
    tolerance = tolerance or {"rtol": 1e-4, "atol": 1e-4}
    assert [len(rows) for rows in found] == [len(rows) for rows in groups]
    for rows, logits in zip(groups, found, strict=True):
        for row, own in zip(rows, logits, strict=True):
            assert own.shape == (row.scored, model.config.vocab_size)
            torch.testing.assert_close(own, alone(model, row), **tolerance)


@pytest.mark.parametrize("family", FAMILY_OPTIONS)
def test_packed_rows_as_rows_on_their_own(models, family):
    model = models(family)
    scoring = TorchModel(model, "m", 512)
    seen, found = calls(scoring, GROUPS)
    check(model, GROUPS, found)
    assert scoring._packs and [call["input_ids"].shape[0] for call in seen] == [len(GROUPS), 5]
    seen, found = calls(scoring, GROUPS)  # the look at whether packing works was once
    check(model, GROUPS, found)
    assert [tuple(call["input_ids"].shape) for call in seen] == [(len(GROUPS), 18)]


TOKENS = st.integers(1, 3)  # few different ones, so that rows have beginnings in common
ROWS = st.lists(TOKENS, min_size=2, max_size=9).flatmap(
    lambda tokens: st.builds(Row, st.just(tuple(tokens)), st.integers(1, len(tokens) - 1))
)


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.lists(st.lists(ROWS, min_size=1, max_size=4), min_size=1, max_size=3))
def test_any_rows(llama, groups):
    check(llama, groups, TorchModel(llama, "m", 512).logits(groups))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_both_attentions_that_take_a_mask(tiny_llama, attention):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama, attn_implementation=attention)
    seen, found = calls(TorchModel(model, "m", 512), GROUPS)
    check(model, GROUPS, found)
    assert len(seen) == 2


def test_an_attention_that_takes_no_such_mask(tiny_llama):
    model = load_model(tiny_llama)
    scoring = TorchModel(OtherAttention(model, "flash_attention_2"), "m", 512)
    found = scoring.logits(GROUPS)
    check(model, GROUPS, found)
    assert not scoring._packs


@pytest.mark.parametrize("family", ["llama", "granite", "gemma3_text"])
def test_bfloat16(models, family):
    model = models(family, torch.bfloat16)
    scoring = TorchModel(model, "m", 512)
    found = scoring.logits(GROUPS)
    assert found[0][0].dtype == torch.bfloat16 and scoring.dtype == "bfloat16" and scoring._packs
    check(model, GROUPS, found, rtol=0.02, atol=0.25)


@pytest.mark.parametrize("family", ["mistral", "gemma3_text"])
@pytest.mark.parametrize("inputs", [LIMIT - 1, LIMIT, LIMIT + 1, LIMIT + 9])
def test_sliding_windows(models, family, inputs):
    model = models(family)
    context = random_tokens(inputs - 2)
    groups = [group(context[:4], (1, 2)), group(context, (1, 2, 3), (4, 5), (6, 7, 8))]
    seen, found = calls(TorchModel(model, "m", 512), groups)
    check(model, groups, found)
    packed = [call["attention_mask"] is not None for call in seen if "attention_mask" in call]
    assert packed == ([True] if inputs <= LIMIT else [])


def test_one_long_row_in_a_batch_of_short_ones(models):
    model = models("mistral")
    groups = [group(A, (1, 2), (3, 4)), [Row(random_tokens(30), 3)], group(A, (5, 6), (7, 8))]
    check(model, groups, TorchModel(model, "m", 512).logits(groups))


@pytest.mark.parametrize("family", ["granite", "gemma3_text", "llama"])
def test_what_is_done_to_the_logits_is_done_at_the_places_too(models, family):
    """Granite divides its logits, and Gemma can cap them."""
    model = models(family)
    rows = [[Row(random_tokens(14), 13)], [Row(random_tokens(9, 1), 2)]]
    found = TorchModel(model, "m", 512).logits(rows)
    check(model, rows, found)
    if family == "gemma3_text":
        assert found[0][0].abs().max() <= 2.0


def test_the_head_computes_only_what_is_scored(llama):
    shapes = []
    handle = llama.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    TorchModel(llama, "m", 512).logits([[Row(random_tokens(50), 2)], [Row(random_tokens(20), 1)]])
    handle.remove()
    hidden = llama.config.hidden_size
    assert shapes == [(2, 50 - 1, hidden)] or shapes == [(1, 3, hidden)]
    full = llama(input_ids=torch.tensor([list(random_tokens(50))])).logits
    assert full.shape[1] == 50, "the hook on the head stayed"


def test_the_hook_goes_where_the_model_fails(llama):
    head = llama.get_output_embeddings()
    before = len(head._forward_pre_hooks)
    handle = llama.model.layers[0].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        TorchModel(llama, "m", 512).logits(GROUPS)
    handle.remove()
    assert len(head._forward_pre_hooks) == before


class Around(torch.nn.Module):
    """A model around another, which loses some of what it is given."""

    drops: tuple[str, ...] = ()

    def __init__(self, inner):
        super().__init__()
        self.inner, self.config, self.dtype, self.device = inner, inner.config, inner.dtype, inner.device

    def get_output_embeddings(self):
        return self.inner.get_output_embeddings()

    def forward(self, input_ids, attention_mask=None, position_ids=None, use_cache=None):
        options = {"attention_mask": attention_mask, "position_ids": position_ids}
        return self.inner(
            input_ids=input_ids,
            use_cache=use_cache,
            **{name: value for name, value in options.items() if name not in self.drops and value is not None},
        )


class IgnoresTheMask(Around):
    drops = ("attention_mask",)


class IgnoresPositions(Around):
    drops = ("position_ids",)


class WithoutPositions(Around):
    def forward(self, input_ids, attention_mask=None, use_cache=None):
        assert attention_mask is None
        return self.inner(input_ids=input_ids, use_cache=use_cache)


class WithoutHead(Around):
    def get_output_embeddings(self):
        return None


class OtherAttention(Around):
    """Says that its attention is another."""

    def __init__(self, inner, attention: str):
        super().__init__(inner)
        self.config = copy.deepcopy(inner.config)
        self.config._attn_implementation = attention

    def forward(self, input_ids, attention_mask=None, position_ids=None, use_cache=None):
        assert attention_mask is None and position_ids is None
        return self.inner(input_ids=input_ids, use_cache=use_cache)


@pytest.mark.parametrize("kind", [IgnoresTheMask, IgnoresPositions])
def test_a_model_that_ignores_what_packing_needs(llama, kind, caplog):
    scoring = TorchModel(kind(llama), "the model", 512)
    with caplog.at_level(logging.WARNING):
        check(llama, GROUPS, scoring.logits(GROUPS))
    assert "the model gives other logits where the choices of a question share a sequence" in caplog.text
    seen, found = calls(scoring, GROUPS)
    check(llama, GROUPS, found)
    assert [call["input_ids"].shape[0] for call in seen] == list(map(len, GROUPS)), "a question at a time"
    assert len(caplog.records) == 1, "it is said once"


@pytest.mark.parametrize("kind", [IgnoresTheMask, IgnoresPositions])
def test_the_look_waits_for_rows_that_a_mask_keeps_apart(llama, kind):
    """A question of one row, or whose rows have all inputs in common, says nothing of what the model does with a mask."""
    scoring = TorchModel(kind(llama), "m", 512)
    one_adds = [Row((*A, 1), 1), Row((*A, 1, 2, 3), 2)]
    for groups in ([GROUPS[1]], [GROUPS[3]], [one_adds], [one_adds, GROUPS[4]], [GROUPS[1], GROUPS[3], GROUPS[0]]):
        check(llama, groups, scoring.logits(groups))


def test_the_first_packed_batch_only_is_looked_at(llama):
    scoring = TorchModel(llama, "m", 512)
    assert [len(calls(scoring, [rows])[0]) for rows in (GROUPS[1], GROUPS[3], GROUPS[0], GROUPS[0])] == [1, 1, 2, 1]


def test_a_model_without_positions(llama):
    scoring = TorchModel(WithoutPositions(llama), "m", 512)
    check(llama, GROUPS, scoring.logits(GROUPS))


def test_a_model_whose_head_is_not_known(llama):
    scoring = TorchModel(WithoutHead(llama), "m", 512)
    seen, found = calls(scoring, GROUPS)
    check(llama, GROUPS, found)
    assert len(seen) == 2 and scoring._packs


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_handed_on(tiny_llama, wrong, caplog):
    model = load_model(tiny_llama)
    model.lm_head.weight.data[5] = wrong
    scoring = TorchModel(model, "m", 512)
    assert not torch.cat(scoring.logits(GROUPS)[0]).isfinite().all()
    assert not caplog.records, "it is not the packing that is wrong"


def test_tokens_of_another_vocabulary(llama):
    TorchModel(llama, "m", 512).logits([[Row((1, 259), 1)]])
    for groups in ([[Row((1, 260), 1)]], [GROUPS[0], [Row((1, 2), 1), Row((300, 1, 2), 1)]]):
        with pytest.raises(NeuronMMError, match="The tokenizer gives token (260|300), but the model knows 260 tokens"):
            TorchModel(llama, "m", 512).logits(groups)


def test_what_it_says_of_itself(tiny_llama):
    model = load_model(tiny_llama).train()
    scoring = TorchModel(model, "a model", 77)
    assert (scoring.name, scoring.max_length, scoring.dtype, scoring.device) == ("a model", 77, "float32", "cpu")
    assert not model.training and not scoring.logits(GROUPS)[0][0].requires_grad
