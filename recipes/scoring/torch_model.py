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
"""Logits of a transformers model at just the places that are scored."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers.utils import logging

from optimum_neuronmm.calibration import check_vocabulary

from .packing import Batch, Packed, Row, collate, pack


logger = logging.get_logger(__name__)

_MASKED_ATTENTION = ("sdpa", "eager")  # which take a mask of any form
# How far two distributions of the next token may be apart (total variation) and be the same but for rounding.
_SAME = {torch.float32: 1e-3, torch.float64: 1e-3}
_SAME_IN_HALF = 0.1


class TorchModel:
    """Scores with a causal LM of transformers, on the device and in the dtype that it has.

    Rows of a question are packed into one sequence where the model's attention allows it. The first question whose rows
    only the mask keeps apart is computed row by row as well; where the two disagree, rows are never packed.

    Attributes:
        name: for messages.
        max_length: most inputs that the model takes.
    """

    def __init__(self, model, name: str, max_length: int):
        self.model = model.eval()
        self.name, self.max_length = name, max_length
        self.dtype, self.device = str(model.dtype).removeprefix("torch."), str(model.device)
        self._config = model.config.get_text_config()
        self._packs = _can_pack(model)
        self._packing_is_checked = False

    @torch.no_grad()
    def logits(self, groups: Sequence[Sequence[Row]]) -> list[list[torch.Tensor]]:
        """Logits (scored, vocabulary) of each row: entry i predicts the i-th of its scored tokens.

        Args:
            groups: rows that share their first tokens, those of one question.

        Raises:
            NeuronMMError: a token is not of the model's vocabulary.
        """
        check_vocabulary(max(max(row.tokens) for group in groups for row in group), self._config.vocab_size)
        if not self._packs or all(len(group) == 1 for group in groups):
            return self._row_by_row(groups)
        window = _sliding_window(self._config)
        if window is not None and any(len(row.inputs) > window for group in groups for row in group):
            return self._row_by_row(groups)
        sequences = [pack(group) for group in groups]
        found = self._forward(sequences)
        telling = next((number for number, sequence in enumerate(sequences) if _needs_mask(sequence)), None)
        if not self._packing_is_checked and telling is not None:
            [plain] = self._row_by_row([groups[telling]])
            self._packs = _agree(found[telling], plain)
            self._packing_is_checked = True
            if not self._packs:
                logger.warning(
                    f"{self.name} gives other logits where the choices of a question share a sequence: each is computed on "
                    "its own, which is slower."
                )
                return self._row_by_row(groups)
        return found

    def _row_by_row(self, groups: Sequence[Sequence[Row]]) -> list[list[torch.Tensor]]:
        if all(len(group) == 1 for group in groups):
            return self._forward([pack(group) for group in groups])
        # Batches are made for packed rows: one by one, those of a question at a time fill no more memory.
        return [[found for [found] in self._forward([pack([row]) for row in group])] for group in groups]

    def _forward(self, sequences: list[Packed]) -> list[list[torch.Tensor]]:
        batch = collate(sequences, self.model.dtype, self.model.device)
        wanted = [sorted({place for places in s.predicting for place in places}) for s in sequences]
        found = iter(self._logits_at(batch, wanted).split([len(places) for places in wanted]))
        result = []
        for sequence, places in zip(sequences, wanted, strict=True):
            logits, index = next(found), {place: number for number, place in enumerate(places)}
            result.append([logits[[index[place] for place in of_row]] for of_row in sequence.predicting])
        return result

    def _logits_at(self, batch: Batch, wanted: list[list[int]]) -> torch.Tensor:
        """(number of places, vocabulary), sequence by sequence."""
        sequence = torch.tensor([number for number, places in enumerate(wanted) for _ in places])
        place = torch.tensor([place for places in wanted for place in places])
        options = {"attention_mask": batch.attention_mask, "position_ids": batch.position_ids}
        if batch.attention_mask is None:
            options = {}
        head = self.model.get_output_embeddings()
        if head is None:
            return self.model(input_ids=batch.input_ids, use_cache=False, **options).logits[sequence, place]
        with _only_at(head, sequence, place):
            return self.model(input_ids=batch.input_ids, use_cache=False, **options).logits[0]


@contextmanager
def _only_at(head: torch.nn.Module, sequence: torch.Tensor, place: torch.Tensor) -> Iterator[None]:
    """Has the head compute logits at some places only, as (1, number of places, vocabulary).

    What a family does to its logits afterwards (scaling, a soft cap) is done to these as well.
    """
    handle = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][sequence, place][None], *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def _can_pack(model) -> bool:
    takes = inspect.signature(model.forward).parameters
    return {"attention_mask", "position_ids"} <= set(takes) and model.config._attn_implementation in _MASKED_ATTENTION


def _sliding_window(config) -> int | None:
    """Beyond so many tokens some layers of the model see only the last ones, which a mask of our own would undo."""
    window = getattr(config, "sliding_window", None)
    return window if isinstance(window, int) and window > 0 else None


def _needs_mask(sequence: Packed) -> bool:
    """Whether two rows add tokens to what all share. One alone sees the same with the causal mask of the model."""
    return len({segment for segment in sequence.segments if segment}) > 1


def _agree(found: list[torch.Tensor], plain: list[torch.Tensor]) -> bool:
    found, plain = torch.cat(found), torch.cat(plain)
    if not plain.isfinite().all():
        return True  # the numbers themselves are wrong, and whoever scores them says so
    apart = (found.double().softmax(-1) - plain.double().softmax(-1)).abs().sum(-1) / 2
    return bool(apart.max() <= _SAME.get(plain.dtype, _SAME_IN_HALF))
