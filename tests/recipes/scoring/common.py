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
"""Models, tokenizers and rows that the tests of scoring share."""

import random
from collections.abc import Sequence
from pathlib import Path

import torch

from optimum_neuronmm.recipes.data.prompts import Question
from optimum_neuronmm.recipes.data.sources import Data
from optimum_neuronmm.recipes.scoring.identity import identify
from optimum_neuronmm.recipes.scoring.loading import LoadedModel
from optimum_neuronmm.recipes.scoring.packing import Row

from ...conftest import build_tokenizer


BOS = "<s>"
BOS_ID = 257  # after the bytes and <|endoftext|>


def load(directory: Path, dtype: str = "float32") -> LoadedModel:
    return LoadedModel(identify(directory), dtype, "cpu")


def load_model(directory: Path, dtype: torch.dtype = torch.float32):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()


def bos_tokenizer():
    """The tokenizer of the suite, which begins each text with a BOS token of its own."""
    from tokenizers import processors

    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"bos_token": BOS})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, BOS_ID)]
    )
    assert tokenizer.bos_token_id == BOS_ID
    return tokenizer


def group(context: Sequence[int], *continuations: Sequence[int]) -> list[Row]:
    return [Row((*context, *continuation), len(continuation)) for continuation in continuations]


def random_tokens(length: int, seed: int = 0, vocabulary: int = 257) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(vocabulary), k=length))


@torch.no_grad()
def alone(model, row: Row) -> torch.Tensor:
    """The logits that predict a row's scored tokens, from the whole logits of the row on its own."""
    return model(input_ids=torch.tensor([list(row.tokens)])).logits[0, -row.scored - 1 : -1]


def question(
    name: str, rows: Sequence[tuple[str, str]], label: int = 0, lengths: Sequence[int] | None = None
) -> Question:
    lengths = [len(continuation.strip()) for _, continuation in rows] if lengths is None else lengths
    return Question(name, tuple(rows), tuple(lengths), label, f"made.jsonl, line {name}")


def as_data(rows: list[Question] | str) -> Data:
    return Data("made.jsonl", "5" * 64, rows)
