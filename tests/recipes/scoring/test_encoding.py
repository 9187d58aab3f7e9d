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
"""Tokens of questions, against lm-eval's own encoding, and windows of a text."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes.scoring import encoding
from optimum_neuronmm.recipes.scoring.encoding import encode_questions, windows
from optimum_neuronmm.recipes.scoring.packing import Row

from ...conftest import build_tokenizer
from .common import BOS, BOS_ID, bos_tokenizer, question


repeatable = settings(derandomize=True, deadline=None, max_examples=150)
END = "<|endoftext|>"
PIECES = st.sampled_from(
    ["a", "water ", " ", "  ", "\n", "\t", "é", "日本", "\U0001f600", BOS, END, ".", "\u00a0", "\u2003x"]
)
TEXTS = st.lists(PIECES, max_size=6).map("".join)


def merging_tokenizer(bos: bool):
    """Has tokens that reach over the border of context and continuation, as real ones do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "a"), ("a", "a"), (".", "."), ("aa", "aa"), ("w", "a"), ("Ġ", "Ġ")]
    vocabulary = {token: index for index, token in enumerate([*letters, END, BOS, *map("".join, merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {"eos_token": END}
    if bos:
        names["bos_token"] = BOS
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


TOKENIZERS = {
    "plain": build_tokenizer(),
    "bos": bos_tokenizer(),
    "merging": merging_tokenizer(False),
    "merging_bos": merging_tokenizer(True),
}


@pytest.fixture(scope="module")
def lm_eval_models():
    """lm-eval's class for transformers models with each tokenizer; none of what it does here needs a model."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'lm-eval[hf]>=0.4.13'")
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    made = {}
    for name, tokenizer in TOKENIZERS.items():
        model = made[name] = object.__new__(HFLM)
        model.tokenizer, model.backend, model.add_bos_token, model.custom_prefix_token_id = (
            tokenizer,
            "causal",
            None,
            None,
        )
    return made


def cut(context: list[int], continuation: list[int], max_length: int) -> Row:
    """As lm-eval cuts what is too long."""
    return Row(tuple((context + continuation)[-(max_length + 1) :]), len(continuation))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_as_lm_eval_encodes(lm_eval_models, name):
    reference = lm_eval_models[name]

    @repeatable
    @given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3), st.sampled_from([25, 60, 1000]))
    def compare(pairs, max_length):
        expected, truncated = [], 0
        for context, continuation in pairs:
            context, continuation = reference._encode_pair(context or " ", continuation)
            context = context or [reference.prefix_token_id]
            if len(continuation) > max_length:
                with pytest.raises(NeuronMMError, match="a choice has"):
                    encode_questions([question("q", pairs)], TOKENIZERS[name], max_length)
                return
            truncated += bool(continuation) and len(context) + len(continuation) - 1 > max_length
            expected.append(cut(context, continuation, max_length) if continuation else None)
        pairs = [(context or " ", continuation) for context, continuation in pairs]
        [found] = encode_questions([question("q", pairs)], TOKENIZERS[name], max_length)
        assert found.rows == expected and found.truncated == truncated
        assert found.group == list({row: None for row in expected if row})

    compare()


@pytest.mark.parametrize(("name", "first"), [("plain", 256), ("bos", BOS_ID)])
def test_a_context_without_tokens(name, first):
    """The token for the beginning of a text, else the one for its end, stands for it."""
    [found] = encode_questions([question("q", [("", "b"), ("  ", "b")])], TOKENIZERS[name], 100)
    space, letter = (build_tokenizer()(text).input_ids[0] for text in (" ", "b"))
    assert found.rows == [Row((first, letter), 1), Row((first, space, space, letter), 3)]


def test_no_token_stands_for_a_context_without_tokens():
    tokenizer = build_tokenizer()
    tokenizer.eos_token = None
    encode_questions([question("q", [("a", "b"), ("a", "c")])], tokenizer, 100)
    with pytest.raises(NeuronMMError, match=r"made.jsonl, line q: the context has no tokens.* neither BOS nor EOS"):
        encode_questions([question("p", [("a", "b")]), question("q", [(" ", "b")])], tokenizer, 100)


def test_what_is_too_long_loses_its_start():
    tokens = tuple(build_tokenizer()("abcdefgh").input_ids)
    rows = [("abcdef", "gh"), ("abcde", "fgh"), ("a", "bcdefgh")]

    def encode(length):
        [found] = encode_questions([question("q", rows[: 2 if length < 7 else 3])], build_tokenizer(), length)
        return found

    assert encode(7).rows == [Row(tokens, 2), Row(tokens, 3), Row(tokens, 7)] and encode(7).truncated == 0
    assert encode(6).rows == [Row(tokens[1:], 2), Row(tokens[1:], 3)] and encode(6).truncated == 2
    assert encode(3).rows == [Row(tokens[4:], 2), Row(tokens[4:], 3)]
    with pytest.raises(NeuronMMError, match="made.jsonl, line q: a choice has 3 tokens, and the model takes 2"):
        encode(2)


def test_choices_without_tokens_and_equal_choices():
    rows = [("a", ""), ("a", "b"), ("a", "c"), ("a", "b"), ("aa", "b")]
    [found] = encode_questions([question("q", rows)], build_tokenizer(), 100)
    a, b, c = build_tokenizer()("abc").input_ids
    assert found.rows == [None, Row((a, b), 1), Row((a, c), 1), Row((a, b), 1), Row((a, a, b), 1)]
    assert found.group == [Row((a, b), 1), Row((a, c), 1), Row((a, a, b), 1)]
    [nothing] = encode_questions([question("q", [("a", ""), ("b", "")])], build_tokenizer(), 100)
    assert nothing.rows == [None, None] and nothing.group == [] and nothing.truncated == 0
    assert encode_questions([], build_tokenizer(), 100) == []


@pytest.mark.parametrize("at_once", [1, 2, 3, 7])
def test_many_questions_are_encoded_piece_by_piece(monkeypatch, at_once):
    texts = ["a", f"{BOS}b", "c", "d", f"{BOS}e", "f", f"{BOS}g"]
    questions = [question(str(n), [(text, " x"), (text, " yy")]) for n, text in enumerate(texts)]
    whole = encode_questions(questions, bos_tokenizer(), 100)
    monkeypatch.setattr(encoding, "_TEXTS", at_once)
    pieces = encode_questions(questions, bos_tokenizer(), 100)
    assert [found.rows for found in pieces] == [found.rows for found in whole]
    for text, found in zip(texts, whole, strict=True):
        ids = tuple(build_tokenizer()(text.removeprefix(BOS) + " x").input_ids)
        assert found.rows[0] == Row((BOS_ID, *ids), 2), "one BOS, whether or not the text has it"


TEXT = "one two three, four five six. é" * 9


@pytest.mark.parametrize("tokenizer", ["plain", "bos"])
@pytest.mark.parametrize("bos", ["first", "none", "every"])
@pytest.mark.parametrize("count", [None, 1, 3, 1000])
@pytest.mark.parametrize("window", [2, 10, 64])
def test_windows(tokenizer, bos, count, window):
    ids = build_tokenizer()(TEXT).input_ids
    if bos == "every":
        if tokenizer == "plain":
            with pytest.raises(NeuronMMError, match="a text: the tokenizer has no BOS token .* Use bos: none"):
                windows(TEXT, TOKENIZERS[tokenizer], window, count, bos, "a text")
            return
        pieces = [[BOS_ID, *ids[start : start + window - 1]] for start in range(0, len(ids), window - 1)]
    else:
        ids = [BOS_ID, *ids] if (tokenizer, bos) == ("bos", "first") else ids
        pieces = [ids[start : start + window] for start in range(0, len(ids), window)]
    expected = [piece for piece in pieces if len(piece) == window][:count]
    found = windows(TEXT, TOKENIZERS[tokenizer], window, count, bos, "a text")
    assert found.dtype == torch.int64 and found.tolist() == expected


@pytest.mark.parametrize(("bos", "length"), [("none", 10), ("first", 9), ("every", 9)])
def test_a_text_of_just_one_window(bos, length):
    assert windows("a" * length, bos_tokenizer(), 10, None, bos, "a text").shape == (1, 10)
    with pytest.raises(NeuronMMError, match=r"a text: expected at least one window of 10 tokens, got (8|9) tokens"):
        windows("a" * (length - 1), bos_tokenizer(), 10, 5, bos, "a text")


def test_a_tokenizer_with_bos_that_does_not_begin_texts_with_it():
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"bos_token": BOS})
    first, none, every = (windows(TEXT, tokenizer, 10, 1, bos, "") for bos in ("first", "none", "every"))
    assert (
        torch.equal(first, none) and every[0, 0] == tokenizer.bos_token_id and torch.equal(every[0, 1:], none[0, :9])
    )


def test_a_long_text_gives_no_warning_of_its_length(monkeypatch):
    from transformers import tokenization_utils_base

    said = []
    monkeypatch.setattr(tokenization_utils_base.logger, "warning", lambda *args: said.append(args))
    tokenizer = build_tokenizer()
    tokenizer.model_max_length = 5
    assert windows(TEXT, tokenizer, 10, None, "none", "").shape[0] > 1
    encode_questions([question("q", [(TEXT, " x"), (TEXT, " y")])], tokenizer, 1000)
    assert not said
    tokenizer(TEXT)
    assert said, "a call that is expected to warn did not"
