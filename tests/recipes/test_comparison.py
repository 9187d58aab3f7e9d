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
"""Changes against the baseline, example by example, against formulas written out."""

import math
import random
import statistics

import pytest

from optimum_neuronmm.recipes.comparison import compare, paired
from optimum_neuronmm.recipes.scoring.examples import TaskResult


def jackknifed(own: list[float], other: list[float], weights: list[float]) -> float:
    """Standard error of sum(own - other) / sum(weights), from leaving out each example once."""
    differences = [a - b for a, b in zip(own, other, strict=True)]
    total, weight, n = sum(differences), sum(weights), len(own)
    means = [(total - d) / (weight - w) for d, w in zip(differences, weights, strict=True)]
    centre = sum(means) / n
    return math.sqrt((n - 1) / n * sum((mean - centre) ** 2 for mean in means))


class TestPaired:
    def test_without_weights_it_is_the_mean_and_its_error(self):
        own, other = [1.0, 0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0, 1.0]
        differences = [0.0, -1.0, 0.0, 1.0, -1.0]
        found = paired(own, other)
        assert found["difference"] == pytest.approx(-0.2)
        assert found["stderr"] == pytest.approx(statistics.stdev(differences) / math.sqrt(5))
        assert type(found["difference"]) is type(found["stderr"]) is float

    def test_with_equal_weights_it_is_that_of_the_means(self):
        own, other, size = [70.0, 60.5, 66.25], [62.0, 61.5, 60.0], 31
        means = [(a - b) / size for a, b in zip(own, other, strict=True)]
        found = paired(own, other, [size] * 3)
        assert found["difference"] == pytest.approx(statistics.mean(means))
        assert found["stderr"] == pytest.approx(statistics.stdev(means) / math.sqrt(3))

    def test_with_other_weights_by_hand(self):
        # Differences 1 and 7 over 1 and 3 tokens: 2 a token, and residuals -1 and 1.
        assert paired([3.0, 9.0], [2.0, 2.0], [1, 3]) == pytest.approx({"difference": 2.0, "stderr": math.sqrt(4) / 4})
        assert paired([3.0, 8.0], [1.0, 2.0], [1, 3]) == {"difference": 2.0, "stderr": 0.0}  # 2 a token in each

    def test_with_other_weights_it_is_the_jackknife(self):
        generator = random.Random(0)
        weights = [generator.randint(10, 40) for _ in range(400)]
        other = [weight * generator.uniform(2, 4) for weight in weights]
        own = [value + weight * generator.gauss(0.3, 0.2) for value, weight in zip(other, weights, strict=True)]
        found = paired(own, other, weights)
        assert found["difference"] == pytest.approx((sum(own) - sum(other)) / sum(weights))
        assert found["stderr"] == pytest.approx(jackknifed(own, other, weights), rel=0.01)

    def test_what_is_hard_for_both_cancels(self):
        hard = [1.0, 50.0, 3.0, 90.0]
        assert paired([value + 0.5 for value in hard], hard)["stderr"] == pytest.approx(0, abs=1e-12)

    def test_one_example_has_no_error(self):
        assert paired([3.0], [1.0], [4]) == {"difference": 0.5, "stderr": None}


def entry(acc: dict[str, float], latency: float | None = None, **changes) -> dict:
    tasks = {name: {"kind": "multiple_choice", "acc": value} for name, value in acc.items()}
    speed = None
    if latency is not None:
        speed = {"settings": {"batch_size": 1}, "device": "cpu", "dtype": "float32", "latency_s": {"p50": latency}}
        speed |= changes
    return {"tasks": tasks, "speed": speed, "gamma": None}


def results(entry: dict, outcomes: list[float], examples: str = "same", tokens=None) -> dict[str, TaskResult]:
    return {name: TaskResult(task, outcomes, examples, tokens) for name, task in entry["tasks"].items()}


class TestCompare:
    def test_every_task_of_the_others_has_a_change(self):
        entries = [entry({"arc_easy": 0.5}), entry({"arc_easy": 0.75}), entry({"arc_easy": 0.25})]
        outcomes = [[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
        compare(entries, [results(*pair) for pair in zip(entries, outcomes, strict=True)], 1)
        assert "change" not in entries[1]["tasks"]["arc_easy"]
        for number in (0, 2):
            assert entries[number]["tasks"]["arc_easy"]["change"] == paired(outcomes[number], outcomes[1])
        assert entries[2]["tasks"]["arc_easy"]["change"]["difference"] == -0.5

    def test_losses_are_per_token(self):
        entries = [{"tasks": {"c4": {"kind": "perplexity"}}, "speed": None, "gamma": None} for _ in range(2)]
        tokens = [10, 30]
        compare(
            entries, [results(entries[0], [5.0, 9.0], "a", tokens), results(entries[1], [8.0, 14.0], "a", tokens)], 0
        )
        assert entries[1]["tasks"]["c4"]["change"] == paired([8.0, 14.0], [5.0, 9.0], tokens)
        assert entries[1]["tasks"]["c4"]["change"]["difference"] == 0.2

    def test_other_examples_are_not_compared(self):
        entries = [entry({"arc_easy": 0.5, "mathqa": 0.5}), entry({"arc_easy": 0.5, "mathqa": 0.5})]
        of_models = [results(one, [1.0, 0.0]) for one in entries]
        of_models[1]["arc_easy"] = TaskResult(entries[1]["tasks"]["arc_easy"], [1.0, 0.0, 0.0], "others")
        compare(entries, of_models, 0)
        assert "change" not in entries[1]["tasks"]["arc_easy"] and "change" in entries[1]["tasks"]["mathqa"]


class TestGamma:
    def test_it_is_the_lost_accuracy_over_the_gained_speed(self):
        dense, fast = entry({"arc_easy": 0.6, "mathqa": 0.4}, 3.0), entry({"arc_easy": 0.5, "mathqa": 0.3}, 2.0)
        fast["tasks"]["c4"] = dense["tasks"]["c4"] = {"kind": "perplexity"}
        compare([dense, fast], [results(one, [1.0, 0.0]) for one in (dense, fast)], 0)
        assert fast["gamma"] == pytest.approx(0.1 / 0.5) and dense["gamma"] is None

    @pytest.mark.parametrize(
        ("dense", "other"),
        [
            (entry({"mathqa": 0.5}), entry({"mathqa": 0.4}, 2.0)),
            (entry({"mathqa": 0.5}, 3.0), entry({"mathqa": 0.4})),
            (entry({"mathqa": 0.5}, 3.0), entry({"mathqa": 0.4}, 2.0, device="cuda")),
            (entry({"mathqa": 0.5}, 3.0), entry({"mathqa": 0.4}, 2.0, settings={"batch_size": 2})),
            (entry({"mathqa": 0.5}, 2.0), entry({"mathqa": 0.4}, 3.0)),
            (entry({}, 3.0), entry({}, 2.0)),
            (entry({"mathqa": 0.5, "arc_easy": 0.5}, 3.0), entry({"mathqa": 0.4}, 2.0)),
        ],
        ids=["dense not timed", "not timed", "other device", "other settings", "slower", "no accuracy", "other tasks"],
    )
    def test_where_there_is_none(self, dense, other):
        compare([dense, other], [results(one, [1.0, 0.0]) for one in (dense, other)], 0)
        assert other["gamma"] is None
