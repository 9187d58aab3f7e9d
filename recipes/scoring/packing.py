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
"""Several continuations of one context in one sequence, so that the context is computed once.

The rows of a multiple-choice question share most of their tokens. Packed, the sequence is what they share, then what
each row adds to it; a mask lets each addition see the shared part and itself, and positions go on from the shared part
in each. The logits are those of the rows one by one. (The same idea is known as tree attention, from speculative
decoding.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch


class Row(NamedTuple):
    """A text whose end is scored.

    Attributes:
        tokens: ids of the context and of what is scored. The last one is only predicted, never an input.
        scored: how many of the last tokens are scored; at least one token comes before them.
    """

    tokens: Sequence[int]
    scored: int

    @property
    def inputs(self) -> Sequence[int]:
        return self.tokens[:-1]

    @property
    def targets(self) -> Sequence[int]:
        return self.tokens[len(self.tokens) - self.scored :]


@dataclass(frozen=True)
class Packed:
    """One sequence of the inputs of some rows.

    Attributes:
        tokens: ids, L of them.
        positions: of each in its row.
        segments: 0 for what all rows share, i + 1 for what row i adds.
        predicting: for each row, where in the sequence the tokens are whose logits predict its scored ones.
    """

    tokens: list[int]
    positions: list[int]
    segments: list[int]
    predicting: list[list[int]]


def pack(rows: Sequence[Row]) -> Packed:
    """Packs the inputs of `rows` into one sequence."""
    shared = shared_length(rows)
    tokens, positions, segments = list(rows[0].inputs[:shared]), list(range(shared)), [0] * shared
    predicting = []
    for number, row in enumerate(rows, 1):
        added = row.inputs[shared:]
        start = len(tokens) - shared  # of the row's own part, less what comes before it in the row
        predicting.append(
            [
                place if place < shared else place + start
                for place in range(len(row.inputs) - row.scored, len(row.inputs))
            ]
        )
        tokens += added
        positions += range(shared, len(row.inputs))
        segments += [number] * len(added)
    return Packed(tokens, positions, segments, predicting)


def shared_length(rows: Sequence[Row]) -> int:
    """How many of their first inputs all rows have in common."""
    length = min(len(row.inputs) for row in rows)
    first = rows[0].inputs
    return next((i for i in range(length) if any(row.inputs[i] != first[i] for row in rows[1:])), length)


def packed_length(rows: Sequence[Row]) -> int:
    """The number of tokens of `pack(rows)`."""
    shared = shared_length(rows)
    return shared + sum(len(row.inputs) - shared for row in rows)


class Batch(NamedTuple):
    """Packed sequences side by side, padded to the longest (L tokens) with zeros.

    Attributes:
        input_ids, position_ids: (B, L) int64.
        attention_mask: (B, 1, L, L), what is added to attention scores: 0 where a token sees another, the dtype's
            lowest number elsewhere. None where no row is packed with another: the model's own causal mask will do.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attention_mask: torch.Tensor | None


def collate(sequences: Sequence[Packed], dtype: torch.dtype, device: torch.device | str = "cpu") -> Batch:
    """Makes a batch of packed sequences.

    Args:
        dtype: of the mask, which has to be the model's.
    """
    input_ids, position_ids, segments = (
        torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(getattr(sequence, name)) for sequence in sequences], batch_first=True, padding_value=padding
        )
        for name, padding in (("tokens", 0), ("positions", 0), ("segments", -1))
    )
    mask = None
    if any(sequence.segments[-1] > 0 for sequence in sequences):
        length = input_ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        seen = (segments[:, None, :] == 0) | (segments[:, None, :] == segments[:, :, None])
        mask = torch.full(seen.shape, torch.finfo(dtype).min, dtype=dtype).masked_fill(causal & seen, 0)[:, None]
        mask = mask.to(device)
    return Batch(input_ids.to(device), position_ids.to(device), mask)
