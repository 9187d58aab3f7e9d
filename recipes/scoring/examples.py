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
"""Scores every example of a task once, in batches of like length, and keeps the scores."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from optimum_neuronmm.errors import NeuronMMError, NotFiniteError

from ..data.tasks import Task
from ..provenance import versions
from .loading import LoadedModel
from .packing import Row, packed_length
from .score_file import ScoreFile


_BATCH_TOKENS = 512  # on a CPU, larger batches are no faster
_GPU_BATCH_TOKENS = 16_384
_LABEL = 100  # characters of a model's name in that of a file
_FORM = 2  # to be raised when the same settings give other scores
_DECIDING_VERSIONS = ("torch", "transformers", "tokenizers", "optimum-neuronmm")


@dataclass(frozen=True)
class Example:
    """What is scored at once: the choices of a question, or a window.

    Attributes:
        id: unique in the task.
        rows: one a choice.
        place: where it comes from, for errors.
    """

    id: str
    rows: list[Row]
    place: str


@dataclass(frozen=True)
class TaskResult:
    """A model on a task.

    Attributes:
        entry: of the task in report.json.
        outcomes: what each example gave, in the order of the data: 1 for a right answer (acc) and 0 for a wrong one, or
            the loss of a window, summed over its tokens.
        examples: identifies what was scored: results with the same can be compared one by one.
        tokens: scored in each window.
    """

    entry: dict
    outcomes: list[float]
    examples: str
    tokens: list[int] | None = None


class Scores:
    """Where scores are kept, and how many tokens are computed at a time.

    Args:
        directory: of the kept scores.
        batch_tokens: tokens in one forward pass; None for what suits the device. An example that is longer is computed
            alone.
    """

    def __init__(self, directory: Path, batch_tokens: int | None = None):
        self._directory = directory
        self._batch_tokens = batch_tokens

    def of(
        self,
        loaded: LoadedModel,
        task: Task,
        deciding: dict,
        examples: list[Example],
        score: Callable[[list[Example]], dict[str, dict]],
        fits: Callable[[Example, dict], bool] = lambda example, score: True,
    ) -> dict[str, dict]:
        """The scores of all examples by id. What is not known from before is measured, the longest first.

        Args:
            deciding: what decides the scores beside the model and the task; JSON.
            score: from a batch of examples to their scores by id.
            fits: whether a kept score can be of an example: a file can have been edited.

        Raises:
            NeuronMMError: a kept score does not fit.
        """
        settings = {
            "form": _FORM,
            "model": loaded.identity.sha256,
            "dtype": loaded.dtype,
            "device": loaded.device,
            "task": task.name,
            **deciding,
            "versions": {name: version for name, version in versions().items() if name in _DECIDING_VERSIONS},
        }
        label = f"{loaded.identity.name.replace('/', '--')[-_LABEL:]}-{task.name}"
        tokens = self._batch_tokens or (_GPU_BATCH_TOKENS if loaded.device == "cuda" else _BATCH_TOKENS)
        with ScoreFile(self._directory, label, settings) as file:
            missing = [example for example in examples if example.id not in file.known]
            for example in examples:
                if example.id in file.known and not fits(example, file.known[example.id]):
                    raise NeuronMMError(
                        f"{file.path}: damaged: no score of {example.place} looks so. Delete the file to measure again."
                    )
            with tqdm(total=len(examples), initial=len(examples) - len(missing), desc=task.title, unit="ex") as bar:
                for batch in batches(missing, tokens):
                    file.add(score(batch))
                    bar.update(len(batch))
            return file.known


def batches(examples: list[Example], tokens: int) -> Iterator[list[Example]]:
    """Examples of like length together, the longest first: what does not fit into memory shows at once.

    Args:
        tokens: in a batch at most, padding included, unless an example alone has more.
    """
    lengths = {example.id: packed_length(example.rows) for example in examples}
    batch: list[Example] = []
    for example in sorted(examples, key=lambda example: -lengths[example.id]):
        if batch and (len(batch) + 1) * lengths[batch[0].id] > tokens:
            yield batch
            batch = []
        batch.append(example)
    if batch:
        yield batch


def not_finite(loaded: LoadedModel, example: Example, values: list[float]) -> NotFiniteError:
    """The error for an example whose scores are not numbers."""
    advice = ": try bfloat16 or float32" if loaded.dtype == "float16" else ""
    return NotFiniteError(
        f"{example.place}: {loaded.identity.name} gives {', '.join(map(str, values))} instead of finite numbers. Its "
        f"activations overflow in {loaded.dtype}, or its weights are damaged{advice}."
    )
