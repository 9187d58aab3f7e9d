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
"""Tokens, positions and mask of a packed sequence, against a construction from their definition."""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_neuronmm.recipes.scoring.packing import Row, collate, pack, packed_length, shared_length

from .common import group


repeatable = settings(derandomize=True, deadline=None, max_examples=100)
# Few different tokens, so that rows have beginnings in common.
ROWS = st.lists(st.integers(1, 3), min_size=2, max_size=7).flatmap(
    lambda tokens: st.builds(Row, st.just(tuple(tokens)), st.integers(1, len(tokens) - 1))
)
GROUPS = st.lists(ROWS, min_size=1, max_size=5)


def paths(rows: list[Row]) -> list[list[int]]:
    """For each row the places of its inputs in the sequence: first those in common, then each row's own."""
    shared = len(os.path.commonprefix([list(row.tokens[:-1]) for row in rows]))
    found, length = [], shared
    for row in rows:
        own = len(row.tokens) - 1 - shared
        found.append([*range(shared), *range(length, length + own)])
        length += own
    return found


def check(rows: list[Row], mask: torch.Tensor, positions: torch.Tensor, input_ids: torch.Tensor) -> None:
    """The mask has each input see those of its row up to itself, and no other."""
    for row, places in zip(rows, paths(rows), strict=True):
        assert input_ids[places].tolist() == list(row.tokens[:-1])
        assert positions[places].tolist() == list(range(len(places)))
        for number, place in enumerate(places):
            assert mask[place].nonzero()[:, 0].tolist() == places[: number + 1]


@repeatable
@given(GROUPS)
def test_a_packed_sequence(rows):
    packed = pack(rows)
    expected = paths(rows)
    length = max(max(places) for places in expected) + 1
    assert len(packed.tokens) == len(packed.positions) == len(packed.segments) == length == packed_length(rows)
    for row, places, predicting in zip(rows, expected, packed.predicting, strict=True):
        assert predicting == places[-row.scored :]
        assert [packed.tokens[place] for place in places] == list(row.inputs) == list(row.tokens[:-1])
        assert [packed.positions[place] for place in places] == list(range(len(places)))
        assert list(row.targets) == list(row.tokens[-row.scored :])
    assert shared_length(rows) == len(os.path.commonprefix([list(row.inputs) for row in rows]))


@repeatable
@given(st.lists(GROUPS, min_size=1, max_size=4))
def test_a_batch(groups):
    sequences = [pack(rows) for rows in groups]
    batch = collate(sequences, torch.float32)
    length = max(len(sequence.tokens) for sequence in sequences)
    assert batch.input_ids.shape == batch.position_ids.shape == (len(groups), length)
    assert batch.input_ids.dtype == batch.position_ids.dtype == torch.int64
    for sequence, ids, positions in zip(sequences, batch.input_ids, batch.position_ids, strict=True):
        own = len(sequence.tokens)
        assert not ids[own:].any() and not positions[own:].any()
    if any(len(set(map(tuple, (row.inputs for row in rows)))) > 1 for rows in groups):
        mask = batch.attention_mask
        assert mask.shape == (len(groups), 1, length, length)
        assert set(mask.unique().tolist()) <= {0.0, torch.finfo(torch.float32).min}
        for number, rows in enumerate(groups):
            check(rows, mask[number, 0] == 0, batch.position_ids[number], batch.input_ids[number])
        assert (mask == 0).any(-1).all(), "padding that sees nothing gives NaN"
    else:
        assert batch.attention_mask is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_dtype_of_the_mask(dtype):
    mask = collate([pack(group((1, 2), (3, 4), (5, 6)))], dtype).attention_mask
    assert mask.dtype == dtype and mask.min() == torch.finfo(dtype).min and mask.max() == 0


def test_an_example_by_hand():
    rows = group((7, 8), (1, 2), (1, 3, 4), (5, 6))
    packed = pack(rows)
    #                        shared  row 1 row 2    row 3
    assert packed.tokens == [7, 8] + [1] + [1, 3] + [5]
    assert packed.positions == [0, 1, 2, 2, 3, 2]
    assert packed.segments == [0, 0, 1, 2, 2, 3]
    assert packed.predicting == [[1, 2], [1, 3, 4], [1, 5]]
    mask = collate([packed], torch.float32).attention_mask[0, 0] == 0
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


def test_rows_that_share_nothing_and_rows_that_share_everything():
    apart = pack([Row((1, 2, 3), 1), Row((4, 5), 1)])
    assert apart.segments == [1, 1, 2] and apart.positions == [0, 1, 0] and apart.predicting == [[1], [2]]
    alike = pack(group((1, 2), (3,), (4,)))  # the last token of a row is no input
    assert alike.tokens == [1, 2] and alike.segments == [0, 0] and alike.predicting == [[1], [1]]
    assert collate([alike], torch.float32).attention_mask is None
    ends_early = pack([Row((1, 2, 3, 4), 2), Row((1, 2, 3), 1)])
    assert ends_early.tokens == [1, 2, 3] and ends_early.predicting == [[1, 2], [1]]
