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
"""Logits of a model compiled for Neuron devices by optimum-neuron, at the places that are scored.

A compiled model has fixed shapes, and gives the logits of one token a sequence at a time: of the last one of a prompt, or
of the one that it decodes. So a row's context is its prompt, and the scored tokens are decoded one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from optimum_neuronmm.errors import NeuronMMError

from .packing import Row


_GREEDY = (1.0, 1.0, 1.0)  # top_k, top_p, temperature: an input of the graphs, which models without a sampler ignore


class CompiledModel:
    """Scores with a causal LM that optimum-neuron compiled, loaded onto the device.

    Attributes:
        name: for messages.
        max_length: most inputs that the model takes, its compiled `sequence_length`. A row may have one token more, since
            its last one is only predicted.
        dtype: that it computes in.
    """

    device = "neuron"

    def __init__(self, model, name: str):
        """Takes a model that `optimum_neuronmm.NeuronModelForCausalLM.from_pretrained` loaded.

        Raises:
            NeuronMMError: the model returns no logits, or not all of them.
        """
        self.model, self.name = model, name
        compiled = model.neuron_config
        self.max_length, self._batch_size = compiled.sequence_length, compiled.batch_size
        self._prompt_length, self._vocabulary = compiled.max_context_length, model.config.vocab_size
        self.dtype = str(compiled.torch_dtype).removeprefix("torch.")
        self._check(compiled)

    def _check(self, compiled) -> None:
        again = (
            f"Compile the model for evaluation with --neuronmm_sampling host (it is compiled for batch_size={self._batch_size}, "
            f"sequence_length={self.max_length}, tensor_parallel_size={compiled.tp_degree})."
        )
        if compiled.on_device_sampling and not compiled.output_logits:
            raise NeuronMMError(f"{self.name} chooses tokens on the device and returns no logits to score. {again}")
        if compiled.output_logits and compiled.continuous_batching and self._batch_size > 1:
            raise NeuronMMError(
                f"{self.name} returns tokens and logits (output_logits), which optimum-neuron cannot put together for "
                f"several sequences with continuous_batching. {again}"
            )
        if not compiled.on_device_sampling and self._vocabulary % compiled.tp_degree:
            raise NeuronMMError(
                f"{self.name} masks the last {-self._vocabulary % compiled.tp_degree} of the logits that it returns, because "
                f"its {compiled.tp_degree} ranks do not divide its vocabulary of {self._vocabulary} tokens. Compile it with "
                "a tensor_parallel_size that does."
            )

    @torch.no_grad()
    def logits(self, groups: Sequence[Sequence[Row]]) -> list[list[torch.Tensor]]:
        """Logits (scored, vocabulary) of each row in float32: entry i predicts the i-th of its scored tokens.

        Rows are computed in batches of the compiled size, those together that decode about as many tokens.

        Raises:
            NeuronMMError: a row is longer than the model takes, has no context or no scored tokens, or others than the
                model knows.
        """
        rows = [[self._begin(row) for row in group] for group in groups]
        waiting = sorted((row for group in rows for row in group), key=lambda row: row.steps, reverse=True)
        for start in range(0, len(waiting), self._batch_size):
            self._compute(waiting[start : start + self._batch_size])
        return [[row.logits for row in group] for group in rows]

    def _begin(self, row: Row) -> "_Row":
        tokens, scored = list(row[0]), row[1]
        if not 1 <= scored < len(tokens):
            raise NeuronMMError(
                f"A row of {len(tokens)} tokens has {scored} to score: expected at least one, and one of context before it."
            )
        if len(tokens) > self.max_length + 1:
            raise NeuronMMError(
                f"{self.name} is compiled for sequence_length={self.max_length}, and a row has {len(tokens) - 1} tokens to put "
                "in. Score shorter ones, or compile the model with a larger sequence_length."
            )
        if min(tokens) < 0 or max(tokens) >= self._vocabulary:  # a device reads some other embedding, without a word
            raise NeuronMMError(
                f"{self.name} has a vocabulary of {self._vocabulary} tokens, and a row has tokens {min(tokens)} to {max(tokens)}. "
                "Use the tokenizer of this model."
            )
        context = len(tokens) - scored
        # A prompt of one token is one that the model decodes.
        prompt = min(context, self._prompt_length) if context > 1 else 0
        return _Row(tokens, context, prompt, torch.full((scored, self._vocabulary), torch.nan))

    def _compute(self, rows: list["_Row"]) -> None:
        batch = rows + [rows[-1]] * (self._batch_size - len(rows))
        self.model.reset()
        for row, logits in zip(rows, self._prompt(batch), strict=False):
            row.keep(row.prompt - 1, logits)
        for step in range(max(row.steps for row in rows)):
            positions = [row.position(step) for row in batch]
            tokens = [row.tokens[position] for row, position in zip(batch, positions, strict=True)]
            found = self._forward([[token] for token in tokens], [[position] for position in positions])
            for row, position, logits in zip(rows, positions, found, strict=False):
                if step < row.steps:
                    row.keep(position, logits)

    def _prompt(self, batch: list["_Row"]) -> torch.Tensor:
        """Puts the contexts into the cache.

        They are padded here, with the lowest position: optimum-neuron pads with 1, and takes the logits where the
        position is highest, which is not the last token of a short prompt.
        """
        width = self._prompt_length
        tokens = [row.tokens[: row.prompt] + [0] * (width - row.prompt) for row in batch]
        positions = [[*range(row.prompt), *[0] * (width - row.prompt)] for row in batch]
        return self._forward(tokens, positions)

    def _forward(self, tokens: list[list[int]], positions: list[list[int]]) -> torch.Tensor:
        """Logits (batch, vocabulary) of the last token of each sequence."""
        outputs = self.model.forward(
            input_ids=torch.tensor(tokens),
            position_ids=torch.tensor(positions),
            seq_ids=torch.arange(self._batch_size),
            sampling_params=torch.tensor([_GREEDY] * self._batch_size),
        )
        if isinstance(outputs, (list, tuple)):  # tokens, and the logits that they were chosen by
            outputs = outputs[1]
        return outputs[:, -1, : self._vocabulary]


@dataclass
class _Row:
    """A row that is being scored.

    Attributes:
        tokens: ids, the last of which is only predicted.
        context: how many of them come before the scored ones.
        prompt: how many of the context's go in at once. 0: the context has one token, which is decoded.
        logits: (scored, vocabulary) float32, filled in one by one.
    """

    tokens: list[int]
    context: int
    prompt: int
    logits: torch.Tensor

    @property
    def steps(self) -> int:
        """How many tokens are decoded."""
        return len(self.tokens) - 1 - self.prompt

    def position(self, step: int) -> int:
        """Of the token to decode. After its last one, a row repeats it, which changes nothing."""
        return min(self.prompt + step, len(self.tokens) - 2)

    def keep(self, position: int, logits: torch.Tensor) -> None:
        """Keeps the logits of the token at `position` if they predict one that is scored."""
        if position + 1 >= self.context:
            self.logits[position + 1 - self.context] = logits
