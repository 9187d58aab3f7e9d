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
"""The loss on held-out windows, source by source."""

import math

import torch

from .objectives import label_loss
from .parallel import Team


@torch.no_grad()
def held_out_losses(model, windows: list[torch.Tensor], team: Team) -> list[float]:
    """Mean cross-entropy per token, in nats, of each source's windows (n, L). The processes share the windows.

    A value that is not finite is returned as it is.
    """
    every = torch.cat(windows)
    losses = torch.zeros(len(every), dtype=torch.float64, device="cpu")
    mine = torch.arange(len(every))[team.rank :: team.size]  # may be none
    for positions in mine.split(team.micro) if len(mine) else ():
        tokens = every[positions].to(team.device)
        with team.autocast():
            logits = model(input_ids=tokens, use_cache=False).logits
        losses[positions] = label_loss(logits, tokens).double().cpu()
    losses = team.accelerator.reduce(losses.to(team.device), "sum").cpu()  # each process has set its own
    return [part.mean().item() for part in losses.split([len(part) for part in windows])]


def mean(losses: list[float]) -> float:
    """Over the sources, each counting the same."""
    return math.fsum(losses) / len(losses)
