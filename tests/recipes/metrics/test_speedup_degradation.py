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
"""gamma, and the table of the NeuronMM paper."""

import math

import pytest

from optimum_neuronmm.errors import NeuronMMError, NotFiniteError


# Accuracy on OpenBookQA, ARC-easy, ARC-challenge, WinoGrande, HellaSwag and MathQA as the paper prints it (arXiv
# 2510.25977), to two digits; its speed-up; its gamma. First the dense model.
PAPER = {
    "Llama-3.2-1B": [
        ((0.26, 0.66, 0.31, 0.61, 0.48, 0.29), None, None),
        ((0.20, 0.59, 0.28, 0.55, 0.41, 0.26), 1.21, 0.2527),
        ((0.18, 0.56, 0.26, 0.54, 0.39, 0.25), 1.63, 0.1124),
    ],
    "Llama-3.2-3B": [
        ((0.31, 0.74, 0.42, 0.70, 0.55, 0.35), None, None),
        ((0.24, 0.65, 0.34, 0.64, 0.47, 0.28), 1.88, 0.0866),
        ((0.23, 0.62, 0.29, 0.60, 0.43, 0.27), 2.49, 0.0720),
    ],
    "Qwen-3-1.7B": [
        ((0.28, 0.72, 0.40, 0.61, 0.46, 0.38), None, None),
        ((0.27, 0.72, 0.39, 0.62, 0.43, 0.34), 1.41, 0.0324),
        ((0.25, 0.70, 0.37, 0.58, 0.42, 0.31), 1.74, 0.0472),
    ],
    "Qwen-3-4B": [
        ((0.29, 0.80, 0.51, 0.66, 0.52, 0.47), None, None),
        ((0.31, 0.78, 0.47, 0.66, 0.50, 0.42), 1.28, 0.0693),
        ((0.30, 0.75, 0.43, 0.64, 0.48, 0.37), 1.67, 0.0741),
    ],
}
ROWS = [(model, index) for model, rows in PAPER.items() for index in (1, 2)]


@pytest.fixture
def metric(load_metric):
    return load_metric("speedup_degradation", keep_in_memory=True)


def test_by_hand(metric):
    result = metric.compute(predictions=[0.2, 0.5, 0.5], references=[0.4, 0.4, 1.0], speedup=1.5)
    assert result == {
        "mean_accuracy": pytest.approx(0.4),
        "baseline_mean_accuracy": pytest.approx(0.6),
        "gamma": pytest.approx(0.4),
    }


@pytest.mark.parametrize("model, index", ROWS)
def test_the_paper(metric, model, index):
    """Each number of a row may be off by half of its last digit, which bounds what gamma may be off by."""
    dense, (own, speedup, gamma) = PAPER[model][0][0], PAPER[model][index]
    result = metric.compute(predictions=own, references=dense, speedup=speedup)
    loss = result["baseline_mean_accuracy"] - result["mean_accuracy"]
    least, most = (loss - 0.01) / (speedup + 0.005 - 1), (loss + 0.01) / (speedup - 0.005 - 1)
    assert least <= result["gamma"] <= most
    assert least - 0.00005 <= gamma <= most + 0.00005


def test_the_paper_as_a_whole(metric):
    """Roundings of twelve numbers cancel: the rows are much closer than they might be.

    A number of two digits is off by 0.01 / sqrt(12) (standard deviation), and the difference of two means of six by
    sqrt(2 / 6) of that.
    """
    worst = 0.0
    for model, index in ROWS:
        own, speedup, gamma = PAPER[model][index]
        result = metric.compute(predictions=own, references=PAPER[model][0][0], speedup=speedup)
        worst = max(worst, abs(result["gamma"] - gamma) * (speedup - 1))
    assert worst < 2 * 0.01 / math.sqrt(12) * math.sqrt(2 / 6)


def test_a_model_that_gained_accuracy(metric):
    assert metric.compute(predictions=[0.5], references=[0.4], speedup=2)["gamma"] == pytest.approx(-0.1)


@pytest.mark.parametrize("speedup", [1, 0.8])
def test_no_speed_up_has_no_gamma(metric, speedup):
    assert metric.compute(predictions=[0.4], references=[0.5], speedup=speedup) == {
        "mean_accuracy": 0.4,
        "baseline_mean_accuracy": 0.5,
        "gamma": None,
    }


@pytest.mark.parametrize("speedup", [None, 0, -1.5])
def test_speed_ups_that_cannot_be(metric, speedup):
    with pytest.raises(NeuronMMError, match=f"speedup must be above 0.*got {speedup}"):
        metric.compute(predictions=[0.4], references=[0.5], speedup=speedup)


@pytest.mark.parametrize("speedup", [math.nan, math.inf])
def test_speed_ups_that_are_not_finite(metric, speedup):
    with pytest.raises(NotFiniteError, match="speedup is not finite"):
        metric.compute(predictions=[0.4], references=[0.5], speedup=speedup)


@pytest.mark.parametrize("name", ["predictions", "references"])
class TestAccuracies:
    @pytest.mark.parametrize("accuracy", [-0.01, 43.0])
    def test_outside_their_range(self, metric, name, accuracy):
        given = {"predictions": [0.4, 0.5], "references": [0.5, 0.6], "speedup": 2}
        given[name] = [0.4, accuracy]
        with pytest.raises(NeuronMMError, match=f"task 1 in {name} has"):
            metric.compute(**given)

    @pytest.mark.parametrize("accuracy", [math.nan, math.inf])
    def test_not_finite(self, metric, name, accuracy):
        given = {"predictions": [0.4, 0.5], "references": [0.5, 0.6], "speedup": 2}
        given[name] = [accuracy, 0.4]
        with pytest.raises(NotFiniteError, match=f"task 0 in {name}"):
            metric.compute(**given)

    def test_none_and_all_right(self, metric, name):
        given = {"predictions": [0.5], "references": [0.5], "speedup": 2, name: [1.0]}
        metric.compute(**given)
        metric.compute(**{**given, name: [0.0]})
