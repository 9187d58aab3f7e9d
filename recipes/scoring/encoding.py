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
"""From texts to tokens, as lm-eval and the SVD papers encode them."""

from collections.abc import Sequence

import torch

from optimum_neuronmm.calibration import adds_bos
from optimum_neuronmm.errors import NeuronMMError

from ..data.prompts import Question
from .packing import Row


_TEXTS = 4096  # encoded in one call


class Encoded:
    """The rows of a question, and what had to be done to make them fit.

    Attributes:
        rows: one a choice, None for a choice that has no tokens: it cannot be chosen.
        truncated: how many rows lost tokens at their start.
    """

    def __init__(self, rows: list[Row | None], truncated: int):
        self.rows, self.truncated = rows, truncated

    @property
    def group(self) -> list[Row]:
        """The rows to score. Equal choices are scored once: rounding must not decide between them."""
        return list(dict.fromkeys(row for row in self.rows if row is not None))


def encode_questions(questions: Sequence[Question], tokenizer, max_length: int) -> list[Encoded]:
    """Tokens of each choice of each question, as lm-eval makes them.

    Context and continuation are encoded as one text, which is cut after as many tokens as the context alone has; spaces
    that end the context go to the continuation. The tokenizer adds BOS where it does so on its own. A row that is too
    long loses tokens at its start.

    Args:
        max_length: most tokens that the model takes as input. The last token of a row is not one.

    Raises:
        NeuronMMError: a continuation alone is longer than the model takes; a context without tokens, and a tokenizer that
            has no token to stand for it.
    """
    pairs = [_with_spaces(*row) for question in questions for row in question.rows]
    begun = iter(_encode([context for context, _ in pairs], tokenizer))
    whole = iter(_encode([context + continuation for context, continuation in pairs], tokenizer))
    encoded = []
    for question in questions:
        rows: list[Row | None] = []
        truncated = 0
        for _ in question.rows:
            context, tokens = next(begun), next(whole)
            continuation = tokens[len(context) :]
            if not continuation:
                rows.append(None)
                continue
            if len(continuation) > max_length:
                raise NeuronMMError(
                    f"{question.place}: a choice has {len(continuation)} tokens, and the model takes {max_length}. Use a model "
                    "that takes more."
                )
            full = [*(context or [_start(tokenizer, question)]), *continuation]
            truncated += len(full) > max_length + 1
            rows.append(Row(tuple(full[-(max_length + 1) :]), len(continuation)))
        encoded.append(Encoded(rows, truncated))
    return encoded


def windows(text: str, tokenizer, window: int, count: int | None, bos: str, place: str) -> torch.Tensor:
    """Windows (n, window) of token ids, one after the other, without overlap. What is left at the end is dropped.

    Args:
        window: tokens in each, BOS included.
        count: how many at most; None for all.
        bos: "first" begins the text as the tokenizer begins one (the scripts of the SVD papers), "every" begins each
            window with BOS, "none" adds nothing.
        place: of the text, for errors.

    Raises:
        NeuronMMError: the text is shorter than a window, or the tokenizer has no BOS for every window.
    """
    if bos == "every" and tokenizer.bos_token_id is None:
        raise NeuronMMError(f"{place}: the tokenizer has no BOS token to begin each window with. Use bos: none.")
    content = window - (bos == "every")
    tokens = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    if bos == "first" and adds_bos(tokenizer):
        tokens = [tokenizer.bos_token_id, *tokens]
    found = min(len(tokens) // content, count or len(tokens))
    if not found:
        raise NeuronMMError(
            f"{place}: expected at least one window of {window} tokens, got {len(tokens)} tokens. Use more text, or a shorter "
            "window."
        )
    cut = torch.tensor(tokens[: found * content]).view(found, content)
    if bos == "every":
        cut = torch.cat([torch.full((found, 1), tokenizer.bos_token_id), cut], dim=1)
    return cut


def _with_spaces(context: str, continuation: str) -> tuple[str, str]:
    """The same text, with the spaces that end the context in the continuation."""
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def _encode(texts: list[str], tokenizer) -> list[list[int]]:
    """Ids of each text. What begins with the text of BOS gets no other."""
    prefix = _prefix(tokenizer)
    prefix = None if prefix is None else tokenizer.decode(prefix)
    plain = [index for index, text in enumerate(texts) if not (prefix and text.startswith(prefix))]
    begun = [index for index, text in enumerate(texts) if prefix and text.startswith(prefix)]
    encoded: list[list[int]] = [[]] * len(texts)
    for indices, options in ((plain, {}), (begun, {"add_special_tokens": False})):
        for start in range(0, len(indices), _TEXTS):
            some = indices[start : start + _TEXTS]
            ids = tokenizer([texts[index] for index in some], verbose=False, **options).input_ids
            for index, tokens in zip(some, ids, strict=True):
                encoded[index] = tokens
    return encoded


def _prefix(tokenizer) -> int | None:
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def _start(tokenizer, question: Question) -> int:
    token = _prefix(tokenizer)
    if token is None:
        raise NeuronMMError(
            f"{question.place}: the context has no tokens, and the tokenizer has neither BOS nor EOS to stand for it. Set "
            "bos_token or eos_token in tokenizer_config.json."
        )
    return token
