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
"""From logits to log-likelihoods."""

import math
from collections.abc import Sequence
from typing import Protocol

import torch

from .packing import Row


_CHUNK = 256  # predictions that are turned into float32 at a time: all of a window can be a gigabyte


class ScoringModel(Protocol):
    """What the evaluation asks of a model.

    Attributes:
        name: for messages.
        max_length: most tokens that it takes as input.
        dtype, device: for the report.
    """

    name: str
    max_length: int
    dtype: str
    device: str

    def logits(self, groups: Sequence[Sequence[Row]]) -> list[list[torch.Tensor]]:
        """Logits (scored, vocabulary) of each row: entry i predicts the i-th of its scored tokens.

        Args:
            groups: rows that share their first tokens, those of one question.
        """


def log_likelihood(logits: torch.Tensor, row: Row) -> float:
    """Sum of the log-probabilities of the scored tokens, in nats. NaN where a logit is NaN or inf: it has overflowed.

    -inf says that a scored token has a logit of -inf, which makes it one that cannot be.

    Args:
        logits: (scored, vocabulary), any floating dtype; reduced in float32, added up in float64.
    """
    total = 0.0
    targets = torch.tensor(row.targets, device=logits.device)
    for part, tokens in zip(logits.split(_CHUNK), targets.split(_CHUNK), strict=True):
        part = part.float()
        normalizer = part.logsumexp(1)
        normalizer = normalizer.masked_fill(normalizer == math.inf, math.nan)
        picked = part.gather(1, tokens[:, None])[:, 0] - normalizer
        total += picked.double().sum().item()
    return total


def divergence(reference: torch.Tensor, logits: torch.Tensor) -> float:
    """Summed KL(reference || logits) over the predictions, in nats.

    Args:
        reference, logits: (scored, vocabulary), any floating dtype; reduced in float32.
    """
    total = 0.0
    for p, q in zip(reference.split(_CHUNK), logits.split(_CHUNK), strict=True):
        # Not log_softmax, which in float32 is off by as much as 1e-5 with a large vocabulary.
        p, q = (logits - logits.logsumexp(-1, keepdim=True) for logits in (p.float(), q.float().to(p.device)))
        total += torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True).item()
    return total
