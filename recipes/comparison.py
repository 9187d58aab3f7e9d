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
"""What a model loses against the baseline, from examples that both were scored on.

The difference is taken example by example, so that what makes an example easy or hard for both models cancels. Its
standard error is therefore smaller than that of two figures measured on different examples.
"""

from collections.abc import Sequence

from .data.tasks import MULTIPLE_CHOICE
from .metrics.by_name import metric
from .metrics.window_metrics import token_mean
from .report.figures import speedup
from .scoring.examples import TaskResult


def compare(entries: list[dict], results: Sequence[dict[str, TaskResult]], baseline: int) -> None:
    """Adds to the entries of report.json how they differ from the baseline's.

    Each task of another model gets "change": "difference" of acc, or of the mean loss in nats per token, and its
    "stderr". Each model gets "gamma" where accuracy and speed were measured for both, on devices of one kind.

    Args:
        entries: of the models.
        results: of each of them, by task.
        baseline: index of the model to compare with.
    """
    base = entries[baseline]
    for entry, own in zip(entries, results, strict=True):
        if entry is base:
            continue
        for name, result in own.items():
            other = results[baseline][name]
            if result.examples == other.examples:
                result.entry["change"] = paired(result.outcomes, other.outcomes, result.tokens)
        entry["gamma"] = _gamma(entry, base)


def _gamma(entry: dict, base: dict) -> float | None:
    faster = speedup(entry, base)
    own, other = (
        {name: task["acc"] for name, task in of["tasks"].items() if task["kind"] == MULTIPLE_CHOICE}
        for of in (entry, base)
    )
    if faster is None or not own or own.keys() != other.keys():
        return None
    accuracies = {"predictions": list(own.values()), "references": [other[name] for name in own]}
    return metric("speedup_degradation").compute(**accuracies, speedup=faster)["gamma"]


def paired(own: Sequence[float], other: Sequence[float], weights: Sequence[int] | None = None) -> dict:
    """Mean of own - other over the same examples, and its standard error.

    Args:
        own, other: one number an example, in the same order.
        weights: how many tokens an example has, where the numbers are sums over them; the mean is then per token.

    Returns:
        "difference" and "stderr"; None for the latter with one example.
    """
    differences = [one - another for one, another in zip(own, other, strict=True)]
    mean = token_mean(differences, [1] * len(differences) if weights is None else weights, "difference")
    return {"difference": mean.mean, "stderr": mean.stderr}
