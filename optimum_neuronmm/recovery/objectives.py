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
"""What a recovery minimises, and the figure by which it is judged."""

import torch
from torch.nn import functional

from ..errors import NeuronMMError
from .config import RecoveryConfig


_LEAST_VARIANCE = 1e-3  # relative to the median over the channels: one that hardly changes says nothing


def label_loss(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of tokens 2 to L of each window, in nats.

    Args:
        logits: (n, L, vocabulary), any floating dtype; reduced in float32.
        tokens: (n, L) integers.

    Returns:
        (n,) float32.
    """
    predicted = logits[:, :-1].float().transpose(1, 2)  # (n, vocabulary, L - 1)
    return functional.cross_entropy(predicted, tokens[:, 1:], reduction="none").mean(1)


def divergence(logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """KL(teacher || student) of the next token's distribution, mean over the positions of each window, in nats.

    Args:
        logits, teacher_logits: (n, L, vocabulary), any floating dtype; reduced in float32.
        temperature: divides both logits. The result is multiplied by its square.

    Returns:
        (n,) float32.
    """
    student = (logits.float() / temperature).log_softmax(-1)
    teacher = (teacher_logits.float() / temperature).log_softmax(-1)
    each = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)  # (n, L)
    return each.mean(1) * temperature**2


def hidden_error(hidden: tuple[torch.Tensor, ...], teacher_hidden: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Mean squared error of hidden states, relative to the teacher's variance over the tokens of each window.

    Each channel has its own variance: in many models a few are so large that they would hide all others.

    Args:
        hidden, teacher_hidden: of the embeddings and each layer, (n, L, H).

    Returns:
        (n,) float32: the mean over layers and channels.
    """
    errors = []
    for student, teacher in zip(hidden[1:], teacher_hidden[1:], strict=True):  # the embeddings are the same
        student, teacher = student.float(), teacher.float()
        variance = teacher.var(1, correction=0)  # (n, H)
        error = (student - teacher).square().mean(1)  # (n, H)
        least = _LEAST_VARIANCE * variance.median(1, keepdim=True).values + torch.finfo(torch.float32).tiny
        errors.append((error / torch.maximum(variance, least)).mean(1))
    return torch.stack(errors).mean(0)


class Objective:
    """The training loss that a config describes.

    Args:
        teacher: the dense model, frozen; None where the objective needs none.
    """

    def __init__(self, config: RecoveryConfig, teacher=None):
        if config.objective == "distill" and teacher is None:
            raise NeuronMMError("objective 'distill' needs a teacher, got none.")
        self._config, self.teacher = config, teacher

    def __call__(self, model, tokens: torch.Tensor) -> torch.Tensor:
        """The mean loss over windows (n, L), a scalar with a graph."""
        hidden_weight = self._config.hidden_weight
        output = model(input_ids=tokens, use_cache=False, output_hidden_states=hidden_weight > 0)
        if self._config.objective == "labels":
            return label_loss(output.logits, tokens).mean()
        with torch.no_grad():
            dense = self.teacher(input_ids=tokens, use_cache=False, output_hidden_states=hidden_weight > 0)
        loss = divergence(output.logits, dense.logits, self._config.temperature).mean()
        if hidden_weight:
            loss = loss + hidden_weight * hidden_error(output.hidden_states, dense.hidden_states).mean()
        return loss
