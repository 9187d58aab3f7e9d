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
"""What the tables and the pictures of a report take from the results of an evaluation."""

import math

from ..data.tasks import TASKS


def finite(value: float | None) -> float | None:
    """The number, or None where there is none or it is not finite."""
    return value if value is not None and math.isfinite(value) else None


def baseline_of(results: dict) -> dict | None:
    """The model that the others are compared with, if there is one."""
    return next((model for model in results["models"] if model["baseline"]), None)


def measured_tasks(results: dict, kind: str) -> list[str]:
    """Names of the tasks of one kind that at least one model has, in the order of the task list, others after them."""
    found = {
        name: None for model in results["models"] for name, entry in model["tasks"].items() if entry["kind"] == kind
    }
    return [name for name in TASKS if name in found] + [name for name in found if name not in TASKS]


def title_of(name: str) -> str:
    """A task as tables call it."""
    return TASKS[name].title if name in TASKS else name


def published_rows(models: list[dict]) -> dict[int, dict]:
    """`{index of a model: the published row that belongs under it}`: each row once, under the last model that has it."""
    rows: dict[int, dict] = {}
    for index, model in enumerate(models):
        if model["published"] is not None:
            rows = {place: row for place, row in rows.items() if row != model["published"]}
            rows[index] = model["published"]
    return rows


def speedup(model: dict, baseline: dict | None) -> float | None:
    """How many times as fast as the baseline: the baseline's median latency over the model's.

    None where one of them was not timed, or where they were timed differently: other lengths, device or dtype.
    """
    own, other = model["speed"], baseline["speed"] if baseline else None
    if own is None or other is None or any(own[key] != other[key] for key in ("settings", "device", "dtype")):
        return None
    return other["latency_s"]["p50"] / own["latency_s"]["p50"]


def accuracy_tasks(model: dict) -> list[str]:
    """Names of the model's tasks that its mean accuracy is over."""
    return [name for name, entry in model["tasks"].items() if finite(entry.get("acc")) is not None]


def mean_accuracy_error(model: dict) -> float | None:
    """Standard error of the mean accuracy: its tasks are different data sets, so their errors are independent."""
    errors = [finite(model["tasks"][name].get("acc_stderr")) for name in accuracy_tasks(model)]
    if not errors or None in errors:
        return None
    return math.hypot(*errors) / len(errors)
