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
"""What a run compares: the variants of a recipe, or models that exist already."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from .description.recipe import Recipe
from .description.variants import Variant
from .scoring.identity import identify
from .scoring.loading import LoadedModel


@dataclass
class Subject:
    """One model of the report.

    Attributes:
        name: its row in the report.
        loaded: None until a variant is compressed.
        is_baseline: whether the others are compared with it.
        variant: of the recipe; None for a model that was given.
    """

    name: str
    loaded: LoadedModel | None
    is_baseline: bool
    variant: Variant | None = None


@dataclass(frozen=True)
class Loading:
    """How models are found and loaded.

    Attributes:
        revisions: of models on the Hub that are not taken from their main branch.
    """

    dtype: str
    device: str | None = None
    revisions: dict[str, str | None] = field(default_factory=dict)
    cache_dir: str | None = None
    trust_remote_code: bool = False

    def __call__(self, model: str | Path) -> LoadedModel:
        identity = identify(model, self.revisions.get(str(model)), self.cache_dir)
        return LoadedModel(identity, self.dtype, self.device, self.trust_remote_code)


def given_models(models: Sequence[str | Path], baseline: str | Path | None, load: Loading) -> list[Subject]:
    """Subjects for models that exist: the baseline first, each with the name of its directory or repository."""
    subjects: list[Subject] = []
    for number, model in enumerate([*([] if baseline is None else [baseline]), *models]):
        loaded = load(model)
        name = _free(loaded.identity.name.rpartition("/")[2], [subject.name for subject in subjects])
        subjects.append(Subject(name, loaded, is_baseline=baseline is not None and number == 0))
    return subjects


def _free(name: str, taken: list[str]) -> str:
    """The name, with a number where there is one such already."""
    numbered = (f"{name} ({number})" for number in count(2))
    return name if name not in taken else next(other for other in numbered if other not in taken)


def variants_of(recipe: Recipe, dense: LoadedModel) -> list[Subject]:
    """Subjects for the variants of a recipe, the dense one first. It is the baseline."""
    variants = sorted(recipe.variants, key=lambda variant: not variant.is_dense)
    return [Subject(v.name, dense if v.is_dense else None, v.is_dense, v) for v in variants]
