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
"""What a speed-up costs in accuracy, as a metric of `evaluate`."""

import math

import datasets
import evaluate

from optimum_neuronmm.errors import NeuronMMError, NotFiniteError
from optimum_neuronmm.recipes.metrics.pairs import check_pairs


_DESCRIPTION = """\
Speedup Degradation Ratio, gamma: the mean accuracy that a compressed model loses against the dense one, divided by the
speed-up that it gains. With a speed-up of 1.5 and a mean accuracy 0.05 lower, gamma is 0.05 / 0.5 = 0.1. Lower is better;
below 0 the compressed model is the more accurate one. NeuronMM's table of accuracy prints it in percent. Its numbers
agree with this definition.
"""

_CITATION = """\
S. He, G. Sun, Z. Shen and A. Li, "What Matters in Transformers? Not All Attention is Needed", 2024 (arXiv 2406.15786);
printed for models on Trainium by D. Song and others, "NeuronMM", 2025 (arXiv 2510.25977).
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: accuracy of the compressed model on each task, 0 to 1.
    references: accuracy of the dense model on the same tasks, 0 to 1.
    speedup: how many times as fast as the dense model the compressed one is; 1.5 for two thirds of the time. Above 0.

Returns:
    mean_accuracy: of the compressed model over the tasks, each of which counts the same.
    baseline_mean_accuracy: of the dense model.
    gamma: (baseline_mean_accuracy - mean_accuracy) / (speedup - 1), not in percent. None where speedup is not above 1:
        nothing was gained that a loss could be divided by, and the ratio would have the wrong sign.

Raises:
    NotFiniteError: for an accuracy or a speed-up that is not finite.
    NeuronMMError: for no tasks, numbers of tasks that differ, an accuracy outside 0 to 1, a speed-up that is not above 0.

Examples:
    >>> degradation = evaluate.load("recipes/metrics/speedup_degradation")
    >>> degradation.compute(predictions=[0.25, 0.5], references=[0.5, 0.75], speedup=1.5)["gamma"]
    0.5
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class SpeedupDegradation(evaluate.Metric):
    def _info(self):
        features = {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(features),
            reference_urls=["https://arxiv.org/abs/2406.15786", "https://arxiv.org/abs/2510.25977"],
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Adds tasks."""
        check_pairs(predictions, references, ("accuracies", "accuracies of the dense model"))
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def _compute(self, predictions, references, speedup=None):
        if speedup is None or speedup <= 0:
            raise NeuronMMError(f"speedup must be above 0, such as 1.5 for two thirds of the time; got {speedup}.")
        if not math.isfinite(speedup):
            raise NotFiniteError(f"speedup is not finite: {speedup}. Measure it again.")
        own, dense = _mean("predictions", predictions), _mean("references", references)
        gamma = (dense - own) / (speedup - 1) if speedup > 1 else None
        return {"mean_accuracy": own, "baseline_mean_accuracy": dense, "gamma": gamma}


def _mean(name: str, accuracies: list[float]) -> float:
    for task, accuracy in enumerate(accuracies):
        if not math.isfinite(accuracy):
            raise NotFiniteError(f"The accuracy of task {task} in {name} is not finite: {accuracy}.")
        if not 0 <= accuracy <= 1:
            raise NeuronMMError(f"Accuracies are shares from 0 to 1; task {task} in {name} has {accuracy}.")
    return math.fsum(accuracies) / len(accuracies)
