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
"""Figures that others have published for a model, for the report to print beside those that were measured."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..data.tasks import MULTIPLE_CHOICE, PERPLEXITY, TASKS
from .schema import Place, mapping, number, text


_ROW = ("ratio", "perplexity", "accuracy", "mean_accuracy", "speedup", "gamma", "speed")
_SPEED = ("latency_s", "throughput_tokens_per_s", "ttft_s", "tpot_s")
_ROUNDING = 1e-9  # 0.1 - 0.08 is a little more than 0.02


@dataclass(frozen=True)
class PublishedRow:
    """What was published for one ratio.

    Attributes:
        ratio: the fraction of the MLP's parameters that is removed; 0 is the dense model.
        perplexity: task -> perplexity.
        accuracy: task -> share of right answers.
        mean_accuracy: over the multiple-choice tasks, as published: a mean of figures before they were rounded.
        speedup: over the dense model.
        gamma: accuracy lost for the speed-up gained: drop of the mean accuracy / (speed-up - 1).
        speed: figures of generation, under the names that `measure_speed` gives them, in seconds and tokens a second.
    """

    ratio: float
    perplexity: dict[str, float] = field(default_factory=dict)
    accuracy: dict[str, float] = field(default_factory=dict)
    mean_accuracy: float | None = None
    speedup: float | None = None
    gamma: float | None = None
    speed: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Published:
    """What was published for a model.

    Attributes:
        source: of the figures, to be printed with them.
        rows: at least one, no two of one ratio.
    """

    source: str
    rows: tuple[PublishedRow, ...]

    def row(self, ratio: float, tolerance: float = 0.03) -> PublishedRow | None:
        """The row of the ratio that is nearest, if it is no further away than `tolerance`.

        That of the dense model is only for a dense model.
        """
        rows = [row for row in self.rows if (row.ratio == 0) == (ratio == 0)]
        nearest = min(rows, key=lambda row: abs(row.ratio - ratio), default=None)
        return nearest if nearest and abs(nearest.ratio - ratio) <= tolerance + _ROUNDING else None

    def to_dict(self) -> dict[str, Any]:
        return {"source": self.source, "rows": [row.to_dict() for row in self.rows]}


def read_published(content: Any, place: Place) -> Published | None:
    """What stands under `published`.

    Raises:
        NeuronMMError: naming the place of what is wrong.
    """
    if content is None:
        return None
    content = mapping(content, place, ("source", "rows"), required=("source", "rows"))
    source = text(content["source"], place / "source", "the source of the figures as a text on one line")
    rows = content["rows"]
    if not isinstance(rows, list) or not rows:
        raise (place / "rows").wrong("a list with at least one row", rows)
    read: list[PublishedRow] = []
    for index, row in enumerate(rows):
        read.append(_row(row, place / "rows" / index))
        if read[-1].ratio in [other.ratio for other in read[:-1]]:
            raise (place / "rows" / index / "ratio").error(f"there is already a row of ratio {read[-1].ratio:g}.")
    return Published(source, tuple(read))


def _row(content: Any, place: Place) -> PublishedRow:
    content = mapping(content, place, _ROW, required=("ratio",))
    share = ("a number in [0, 1]", 0, 1)
    positive = ("a number above 0", 0, float("inf"))
    optional = {
        "mean_accuracy": (*share, ()),
        "speedup": (*positive, (0,)),
        "gamma": ("a number", float("-inf"), float("inf"), ()),
    }
    values = {
        name: None if content.get(name) is None else number(content[name], place / name, *check)
        for name, check in optional.items()
    }
    return PublishedRow(
        ratio=number(content["ratio"], place / "ratio", "a number in [0, 1)", 0, 1, (1,)),
        perplexity=_figures(content.get("perplexity"), place / "perplexity", PERPLEXITY, (*positive, (0,))),
        accuracy=_figures(content.get("accuracy"), place / "accuracy", MULTIPLE_CHOICE, (*share, ())),
        speed=_numbers(content.get("speed"), place / "speed", _SPEED, (*positive, (0,))),
        **values,
    )


def _figures(content: Any, place: Place, kind: str, check: tuple) -> dict[str, float]:
    """Figures of the tasks of a kind, in the order of the tasks."""
    return _numbers(content, place, [task.name for task in TASKS.values() if task.kind == kind], check)


def _numbers(content: Any, place: Place, names: Sequence[str], check: tuple) -> dict[str, float]:
    given = {} if content is None else mapping(content, place, names)
    return {name: number(given[name], place / name, *check) for name in names if name in given}
