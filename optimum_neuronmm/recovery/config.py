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
"""RecoveryConfig: what the user chooses about a recovery."""

import os
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import NeuronMMError


OBJECTIVES = ("distill", "labels")
ORDERS = ("joint", "sequential")
PARAMETERS = ("lora", "factors")
DTYPES = ("auto", "float32", "bfloat16")
# What trains well without being asked for: adapters start at zero and bear larger steps than the factors themselves.
LEARNING_RATES = {"lora": 1e-3, "factors": 1e-4}

_LEAST = {
    "lora_rank": 1,
    "tokens": 1,
    "sequence_length": 8,
    "batch_size": 1,
    "micro_batch_size": 1,
    "held_out": 1,
    "seed": 0,
    "eval_every": 1,
    "patience": 1,
    "save_every": 1,
}
_POSITIVE = ("temperature", "lora_alpha", "max_grad_norm")
_NOT_NEGATIVE = ("hidden_weight", "weight_decay")


@dataclass
class RecoveryConfig:
    """Options of a recovery.

    SVD-LLM's recipe (arXiv 2403.07378) is `objective="labels"`, `order="sequential"`, `parameters="lora"`, rank 8,
    learning rate 1e-4, 64 sequences a step, on alpaca-cleaned.

    Args:
        objective: "distill" (the divergence KL(dense || compressed) of the next token's distribution, in nats) or
            "labels" (cross-entropy of the text's own tokens).
        temperature: both distributions of "distill" are softened by it; the divergence is multiplied by its square, so
            that gradients keep their size (Hinton et al., arXiv 1503.02531).
        hidden_weight: for "distill", weight of the mean squared error of the hidden states after each layer, in units
            of the dense model's variance of that channel over the tokens of the window. 0 leaves it out.
        order: "joint" trains both factors at once; "sequential" first U of all projections, then V, with half of the
            tokens each (SVD-LLM).
        parameters: "lora" trains adapters of rank `lora_rank` on both factors and merges them at the end; "factors"
            trains the factors themselves. Both in float32.
        lora_rank: rank of the adapters.
        lora_alpha: adapters are scaled by `lora_alpha / lora_rank`.
        data: sources of text, sampled evenly: .txt and .jsonl files (gzipped too), "wikitext2", "c4",
            "alpaca-cleaned". Lines of a .jsonl file have "text", or "instruction", "output" and, optionally, "input".
        tokens: budget of training tokens, over all sources. Whole batches are taken of it.
        sequence_length: tokens in each window of text.
        batch_size: windows in each step of the optimiser, over all processes.
        micro_batch_size: windows in each forward pass of one process. Decides memory, and the result to rounding only.
        held_out: windows of each source that are kept apart, to measure on.
        learning_rate: the highest; None is 1e-3 for "lora" and 1e-4 for "factors".
        warmup_fraction: share of the steps in which the rate rises from 0; then it falls to 0 along a cosine.
        weight_decay: of AdamW.
        max_grad_norm: gradients are scaled down to this norm.
        seed: of the order of the text and the adapters' start.
        eval_every: steps between two measurements on the held-out windows.
        patience: training ends after so many measurements in a row without a new best.
        save_every: steps between two checkpoints to resume from.
        gradient_checkpointing: activations are computed again rather than kept: less memory, about a third slower.
        dtype: of the computation, "float32" or "bfloat16"; "auto" is bfloat16 on CUDA, else float32. What is trained
            is float32 in either.

    Raises:
        NeuronMMError: naming the option, what was expected and what was got.
    """

    objective: str = "distill"
    temperature: float = 1.0
    hidden_weight: float = 0.0
    order: str = "joint"
    parameters: str = "lora"
    lora_rank: int = 8
    lora_alpha: float = 16.0
    data: list[str] = field(default_factory=lambda: ["wikitext2", "c4"])
    tokens: int = 2_000_000
    sequence_length: int = 512
    batch_size: int = 8
    micro_batch_size: int = 4
    held_out: int = 16
    learning_rate: float | None = None
    warmup_fraction: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    eval_every: int = 25
    patience: int = 5
    save_every: int = 25
    gradient_checkpointing: bool = False
    dtype: str = "auto"

    def __post_init__(self):
        self._check_choices()
        self._check_numbers()
        self._check_data()
        if self.learning_rate is None:
            self.learning_rate = LEARNING_RATES[self.parameters]
        if self.objective == "labels" and self.hidden_weight:
            raise NeuronMMError(
                f"hidden_weight needs objective 'distill', got {self.hidden_weight} with 'labels': only a teacher has hidden "
                "states to match."
            )
        self.micro_batch_size = min(self.micro_batch_size, self.batch_size)
        if self.batch_size % self.micro_batch_size:
            raise NeuronMMError(
                f"batch_size must be a multiple of micro_batch_size, got {self.batch_size} and {self.micro_batch_size}."
            )
        if self.steps < len(self.phases):
            needed = len(self.phases) * self.batch_size * self.sequence_length
            raise NeuronMMError(
                f"tokens must be at least {needed}, one step in each phase of order {self.order!r} (batch_size x "
                f"sequence_length tokens), got {self.tokens}."
            )

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> "RecoveryConfig":
        unknown = sorted(set(options) - set(cls.__dataclass_fields__))
        if unknown:
            known = ", ".join(cls.__dataclass_fields__)
            raise NeuronMMError(f"Unknown option {', '.join(unknown)}: RecoveryConfig takes {known}.")
        return cls(**options)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def deciding_options(self) -> dict[str, Any]:
        """The options that decide the result."""
        return {name: value for name, value in self.to_dict().items() if name != "save_every"}

    @property
    def steps(self) -> int:
        """Steps of the optimiser, over all phases."""
        return self.tokens // (self.batch_size * self.sequence_length)

    @property
    def phases(self) -> list[tuple[str, ...]]:
        """The factors that are trained together, phase after phase."""
        return [("u", "v")] if self.order == "joint" else [("u",), ("v",)]

    def _check_choices(self) -> None:
        choices = {"objective": OBJECTIVES, "order": ORDERS, "parameters": PARAMETERS, "dtype": DTYPES}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise NeuronMMError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}.")
        if not isinstance(self.gradient_checkpointing, bool):
            raise NeuronMMError(f"gradient_checkpointing must be True or False, got {self.gradient_checkpointing!r}.")

    def _check_numbers(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise NeuronMMError(f"{name} must be an integer of at least {least}, got {value!r}.")
        for name in _POSITIVE:
            self._check_number(name, "a number above 0", lambda value: value > 0)
        for name in _NOT_NEGATIVE:
            self._check_number(name, "a number of at least 0", lambda value: value >= 0)
        self._check_number("warmup_fraction", "a number in [0, 1)", lambda value: 0 <= value < 1)
        if self.learning_rate is not None:
            self._check_number("learning_rate", "a number above 0", lambda value: value > 0)

    def _check_number(self, name: str, expected: str, fits) -> None:
        value = getattr(self, name)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (is_number and fits(value) and value < float("inf")):
            raise NeuronMMError(f"{name} must be {expected}, got {value!r}.")

    def _check_data(self) -> None:
        if isinstance(self.data, (str, os.PathLike)):
            self.data = [self.data]
        sources = list(self.data) if isinstance(self.data, (list, tuple)) else []
        self.data = [os.fspath(source) if isinstance(source, os.PathLike) else source for source in sources]
        if not self.data or not all(isinstance(source, str) and source.strip() for source in self.data):
            raise NeuronMMError(
                f"data must name at least one source of text, got {self.data!r}. Try 'wikitext2', or a .txt or .jsonl file."
            )
