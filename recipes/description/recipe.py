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
"""`Recipe`: which variants of a model are evaluated, on which tasks and how. Read from YAML and checked before any work."""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_neuronmm.errors import NeuronMMError

from ..data.tasks import TASKS
from .published import Published, PublishedRow, read_published
from .recipe_file import find_recipe, read_recipe
from .schema import Place, choice, file_name, flag, integer, mapping, text
from .task_options import QuestionOptions, TaskOptions, TextOptions, checked, read_tasks
from .variants import Variant, read_variants


if TYPE_CHECKING:
    from ..speed import SpeedSettings

_REQUIRED = ("name", "model", "variants")
_LARGEST_SEED = 2**63 - 1  # that torch takes
_KEYS = (
    *("name", "model", "revision", "dtype", "seed", "compression", "recovery"),
    *("variants", "tasks", "divergence", "speed", "published"),
)


@dataclass(frozen=True)
class Recipe:
    """What is evaluated.

    Attributes:
        name: of the recipe, fit for a file's name.
        model: the dense model, a Hub id or a directory.
        variants: the models to compare, in this order; at most one is the dense one.
        tasks: task -> its options, in the order of `TASKS`. None where only speed is measured.
        revision: branch or commit of the model on the Hub; None is its main branch.
        dtype: "float32", "bfloat16" or "float16": of the evaluation, for every variant.
        seed: of whatever is drawn; compression and recovery use it where they set none.
        divergence: measure the divergence to the dense model on the perplexity tasks. Needs a dense variant; None is what
            it is without one: measured where a run is given a baseline.
        speed: what is timed; None times nothing.
        published: figures to print beside the measured ones.
    """

    name: str
    model: str
    variants: tuple[Variant, ...]
    tasks: dict[str, TaskOptions]
    revision: str | None = None
    dtype: str = "float32"
    seed: int = 0
    divergence: bool | None = True
    speed: "SpeedSettings | None" = None
    published: Published | None = None

    @classmethod
    def from_dict(cls, content: Any, label: str = "of a dictionary") -> "Recipe":
        """The recipe that YAML or JSON says.

        Args:
            label: what errors call the recipe: the name of its file.

        Raises:
            NeuronMMError: naming the place of what is wrong.
        """
        from optimum_neuronmm.configuration import DTYPES

        place = Place(label)
        if content is None:
            raise place.error(f"empty. A recipe has at least {', '.join(_REQUIRED)}.")
        content = mapping(content, place, _KEYS, required=_REQUIRED)
        revision = content.get("revision")
        seed = integer(content.get("seed", 0), place / "seed", 0)
        if seed > _LARGEST_SEED:
            raise (place / "seed").wrong(f"an integer of at most {_LARGEST_SEED}", seed)
        variants = read_variants(content, place, seed)
        has_dense = any(variant.is_dense for variant in variants)
        divergence = content.get("divergence")
        divergence = (True if has_dense else None) if divergence is None else flag(divergence, place / "divergence")
        if divergence and not has_dense:
            raise (place / "divergence").error(
                "needs the dense model to compare with. Add the variant {ratio: 0}, or set divergence to false."
            )
        return cls(
            name=file_name(content["name"], place / "name"),
            model=text(content["model"], place / "model", "a Hub id or a directory"),
            variants=variants,
            tasks=_tasks(content, place),
            revision=None if revision is None else text(revision, place / "revision", "a branch, a commit or null"),
            dtype=choice(content.get("dtype", "float32"), place / "dtype", DTYPES),
            seed=seed,
            divergence=divergence,
            speed=_speed(content.get("speed"), place / "speed"),
            published=read_published(content.get("published"), place / "published"),
        )

    def to_dict(self) -> dict[str, Any]:
        """The recipe for JSON or YAML, with every option of every variant; `from_dict` makes an equal recipe of it."""
        return {
            "name": self.name,
            "model": self.model,
            "revision": self.revision,
            "dtype": self.dtype,
            "seed": self.seed,
            "variants": [variant.to_dict() for variant in self.variants],
            "tasks": {name: asdict(options) for name, options in self.tasks.items()},
            "divergence": self.divergence,
            "speed": None if self.speed is None else asdict(self.speed),
            "published": None if self.published is None else self.published.to_dict(),
        }

    def narrowed(
        self,
        *,
        tasks: list[str] | None = None,
        variants: list[str] | None = None,
        examples: int | None = None,
        windows: int | None = None,
        window: int | None = None,
    ) -> "Recipe":
        """A copy with less to do. What is None stays as it is.

        Args:
            tasks: the ones to keep.
            variants: names of the ones to keep.
            examples: questions of each multiple-choice task that is kept.
            windows: number of windows of each perplexity task that is kept.
            window: tokens in each of them.

        Raises:
            NeuronMMError: for a name that the recipe has not, a number out of range, or an option of a kind of task of
                which none is kept.
        """
        kept = _kept("task", tasks, list(self.tasks), self.name)
        options = {name: self.tasks[name] for name in kept}
        options = self._overridden(options, QuestionOptions, {"examples": examples})
        options = self._overridden(options, TextOptions, {"windows": windows, "window": window})
        names = _kept("variant", variants, [variant.name for variant in self.variants], self.name)
        chosen = tuple(variant for variant in self.variants if variant.name in names)
        has_dense = any(variant.is_dense for variant in chosen)
        divergence = self.divergence if has_dense or not self.divergence else None
        return replace(self, tasks=options, variants=chosen, divergence=divergence)

    def published_row(self, ratio: float, tolerance: float = 0.03) -> PublishedRow | None:
        """What was published for the ratio that is nearest to `ratio`, if it is no further away than `tolerance`."""
        return None if self.published is None else self.published.row(ratio, tolerance)

    def _overridden(
        self, tasks: dict[str, TaskOptions], kind: type[TaskOptions], changes: dict[str, int | None]
    ) -> dict[str, TaskOptions]:
        changes = {name: value for name, value in changes.items() if value is not None}
        fitting = [name for name, options in tasks.items() if isinstance(options, kind)]
        if changes and not fitting:
            raise Place(self.name).error(
                f"{', '.join(changes)} was given, but fits none of the tasks {', '.join(tasks) or '(there are none)'}. Leave it out."
            )
        place = Place(self.name) / "tasks"
        changed = {name: checked(replace(tasks[name], **changes), TASKS[name], place / name) for name in fitting}
        return {**tasks, **changed}


def load_recipe(path_or_name: str | Path) -> Recipe:
    """Reads a recipe and checks all of it.

    Args:
        path_or_name: of a YAML file, or the name of a recipe that the package ships, such as "smollm2-135m-instruct".

    Raises:
        NeuronMMError: it is not there, is not YAML, or says something that is wrong; names the place.
    """
    path = find_recipe(path_or_name)
    return Recipe.from_dict(read_recipe(path), path.name)


def _tasks(content: dict[str, Any], place: Place) -> dict[str, TaskOptions]:
    """The tasks, which a recipe that times its models need not have."""
    if not content.get("tasks") and content.get("speed") is not None:
        return {}
    if "tasks" not in content:
        raise (place / "tasks").error("missing. A recipe has tasks, or speed, or both.")
    return read_tasks(content["tasks"], place / "tasks")


def _speed(content: Any, place: Place) -> "SpeedSettings | None":
    if content is None:
        return None
    from ..speed import SpeedSettings

    content = mapping(content, place, [field.name for field in fields(SpeedSettings)])
    try:
        return SpeedSettings(**content)
    except NeuronMMError as error:
        raise place.error(str(error)) from error


def _kept(what: str, wanted: list[str] | None, known: list[str], recipe: str) -> list[str]:
    """The names that are wanted, in the recipe's order."""
    if wanted is None:
        return known
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        got = f"no {what} {', '.join(map(str, unknown))}" if unknown else f"no {what} was chosen"
        if not known:
            raise Place(recipe).error(f"{got}. It has no {what}s.")
        raise Place(recipe).error(f"{got}. Choose from {', '.join(known)}.")
    return [name for name in known if name in wanted]
