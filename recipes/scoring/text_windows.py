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
"""A model on a text: perplexity over its windows, and the divergence from another model."""

import hashlib
import math
from collections.abc import Sequence
from functools import partial

import torch

from optimum_neuronmm.calibration import adds_bos
from optimum_neuronmm.errors import NeuronMMError

from ..data.sources import Data
from ..data.tasks import Task
from ..description.task_options import TextOptions
from ..metrics.by_name import metric
from .encoding import windows
from .examples import Example, Scores, TaskResult, not_finite
from .likelihood import divergence, log_likelihood
from .loading import LoadedModel
from .packing import Row


def evaluate_text(
    loaded: LoadedModel,
    task: Task,
    options: TextOptions,
    data: Data,
    scores: Scores,
    baseline: LoadedModel | None = None,
) -> TaskResult:
    """Evaluates a model on the first windows of a text.

    Args:
        baseline: the divergence from it is measured as well, unless its tokenizer gives other windows: then there is no
            common next token.

    Raises:
        NeuronMMError: the windows are longer than the model takes, or the text is shorter than one.
        NotFiniteError: the loss of a window is not finite. No window is ever left out.
    """
    cut = _windows(loaded, options, data)
    if baseline is not None and not torch.equal(cut, _windows(baseline, options, data)):
        baseline = None
    examples = [
        Example(str(number), [Row(tokens, len(tokens) - 1)], f"{data.source}, window {number + 1}")
        for number, tokens in enumerate(cut.tolist())
    ]

    def score(batch: list[Example]) -> dict[str, dict]:
        groups = [example.rows for example in batch]
        logits = loaded.scoring.logits(groups)
        references = [[None]] * len(batch) if baseline is None else baseline.scoring.logits(groups)
        found = {}
        for example, [own], [reference] in zip(batch, logits, references, strict=True):
            [row] = example.rows
            loss = -log_likelihood(own, row)
            if not math.isfinite(loss):
                raise not_finite(loaded, example, [loss])
            found[example.id] = {"loss": loss, "tokens": row.scored}
            if reference is not None:
                _check_same_vocabulary(own, reference)
                found[example.id]["divergence"] = apart = divergence(reference, own)
                if not math.isfinite(apart):  # the model's own logits are numbers
                    raise not_finite(baseline, example, [apart])
        return found

    settings = {"window": options.window, "layout": options.layout, "bos": options.bos}
    other = None if baseline is None else [baseline.identity.sha256, baseline.dtype]
    keys = ("loss",) if baseline is None else ("loss", "divergence")
    known = scores.of(
        loaded, task, {"data": data.sha256, **settings, "baseline": other}, examples, score, partial(_fits, keys)
    )
    found = [known[example.id] for example in examples]
    losses, tokens = [entry["loss"] for entry in found], [entry["tokens"] for entry in found]
    entry = {
        "kind": task.kind,
        **metric("perplexity").compute(predictions=losses, references=tokens),
        "divergence": None,
        "divergence_stderr": None,
        **settings,
        "bos": "none" if options.bos == "first" and not adds_bos(loaded.tokenizer) else options.bos,
    }
    if baseline is not None:
        sums = [one["divergence"] for one in found]
        apart = metric("kl_divergence").compute(predictions=sums, references=tokens)
        entry |= {"divergence": apart["divergence"], "divergence_stderr": apart["stderr"]}
    return TaskResult(entry, losses, hashlib.sha256(cut.numpy().tobytes()).hexdigest(), tokens)


def _fits(keys: Sequence[str], example: Example, score: dict) -> bool:
    numbers = [score.get(key) for key in keys]
    return score.get("tokens") == example.rows[0].scored and all(
        isinstance(number, float) and math.isfinite(number) for number in numbers
    )


def _windows(loaded: LoadedModel, options: TextOptions, data: Data) -> torch.Tensor:
    if options.window > loaded.max_length:
        raise NeuronMMError(
            f"{loaded.identity.name} takes {loaded.max_length} tokens, and the windows of {data.source} have {options.window}. Use "
            f"windows of at most {loaded.max_length}: --window {loaded.max_length}."
        )
    return windows(data.rows, loaded.tokenizer, options.window, options.windows, options.bos, data.source)


def _check_same_vocabulary(own: torch.Tensor, reference: torch.Tensor) -> None:
    if own.shape != reference.shape:
        raise NeuronMMError(
            f"The model has {own.shape[1]} logits and the baseline {reference.shape[1]}: there is no divergence between them. "
            "Evaluate without it: --no_divergence."
        )
