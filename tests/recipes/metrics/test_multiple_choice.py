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
"""Accuracy over log-likelihoods of choices, with and without length normalisation."""

import math
import statistics
import warnings

import numpy as np
import pytest

from optimum_neuronmm.errors import NeuronMMError, NotFiniteError


INF = math.inf


@pytest.fixture
def metric(load_metric):
    return load_metric("multiple_choice", keep_in_memory=True)


def random_questions(n, seed=0):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(3, 6, n)
    scores = [(-30 * generator.random(size)).tolist() for size in sizes]
    lengths = [generator.integers(1, 40, size).tolist() for size in sizes]
    labels = [int(generator.integers(size)) for size in sizes]
    return scores, labels, lengths


def test_against_a_count_by_hand(metric):
    """lm-eval's rules, in plain Python."""
    scores, labels, lengths = random_questions(200)
    right = [float(max(range(len(s)), key=s.__getitem__) == label) for s, label in zip(scores, labels, strict=True)]
    per = [[value / size for value, size in zip(*pair, strict=True)] for pair in zip(scores, lengths, strict=True)]
    normed = [float(max(range(len(s)), key=s.__getitem__) == label) for s, label in zip(per, labels, strict=True)]
    result = metric.compute(predictions=scores, references=labels, lengths=lengths)
    assert right != normed and 0 < sum(right) < 200
    assert result == {
        "acc": pytest.approx(statistics.mean(right), rel=1e-12),
        "acc_stderr": pytest.approx(statistics.stdev(right) / math.sqrt(200), rel=1e-12),
        "acc_norm": pytest.approx(statistics.mean(normed), rel=1e-12),
        "acc_norm_stderr": pytest.approx(statistics.stdev(normed) / math.sqrt(200), rel=1e-12),
        "examples": 200,
    }


def test_without_lengths_there_is_no_acc_norm(metric):
    scores, labels, _ = random_questions(20)
    assert set(metric.compute(predictions=scores, references=labels)) == {"acc", "acc_stderr", "examples"}


def test_a_long_choice_can_win_by_its_characters(metric):
    given = {"predictions": [[-4.0, -6.0]], "lengths": [[2, 12]]}
    assert metric.compute(references=[0], **given) == {
        "acc": 1.0,
        "acc_stderr": None,
        "acc_norm": 0.0,
        "acc_norm_stderr": None,
        "examples": 1,
    }
    assert metric.compute(references=[1], **given)["acc_norm"] == 1.0


def test_all_right_has_no_error_and_two_questions_have_one(metric):
    pair = {"predictions": [[-1.0, -2.0], [-1.0, -2.0]]}
    assert metric.compute(references=[0, 0], **pair)["acc_stderr"] == 0
    assert metric.compute(references=[0, 1], **pair)["acc_stderr"] == pytest.approx(0.5)  # sqrt(1/2) / sqrt(2)


def test_the_first_of_equal_choices_is_taken(metric):
    result = metric.compute(predictions=[[-3.0, -2.0, -2.0]] * 3, references=[0, 1, 2], lengths=[[3, 2, 2]] * 3)
    assert result["acc"] == pytest.approx(1 / 3)
    assert [
        metric.compute(predictions=[[-3.0, -2.0, -2.0]], references=[label], lengths=[[3, 2, 2]])["acc_norm"]
        for label in range(3)
    ] == [1, 0, 0]


def test_log_likelihoods_keep_their_digits(metric):
    assert metric.compute(predictions=[[-100.00000001, -100.0]], references=[1])["acc"] == 1


def test_a_choice_that_cannot_be_is_not_taken(metric):
    result = metric.compute(predictions=[[-INF, -900.0], [-5.0, -INF]], references=[1, 1], lengths=[[4, 4], [4, 4]])
    assert result["acc"] == result["acc_norm"] == 0.5


@pytest.mark.parametrize("score", [-3.0, 0.0, -INF])
def test_a_choice_without_characters_is_never_taken_by_characters(metric, score):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = metric.compute(predictions=[[score, -40.0]], references=[1], lengths=[[0, 2]])
    assert result["acc_norm"] == 1.0


@pytest.mark.parametrize("bad", [math.nan, INF])
def test_numbers_that_are_none(metric, bad):
    with pytest.raises(NotFiniteError, match="Question 1 has"):
        metric.compute(predictions=[[-1.0, -2.0], [-1.0, bad, -3.0]], references=[0, 0])


def test_a_question_of_which_nothing_can_be(metric):
    with pytest.raises(NotFiniteError, match="Question 0 has"):
        metric.compute(predictions=[[-INF, -INF], [-1.0, -2.0]], references=[0, 0])


def test_a_missing_number_is_not_finite(metric):
    with pytest.raises(NotFiniteError, match="Question 0"):
        metric.compute(predictions=[[-1.0, None]], references=[0])


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_that_are_no_choice(metric, label):
    with pytest.raises(NeuronMMError, match=f"Question 1 has 3 choices.* from 0 to 2; got {label}"):
        metric.compute(predictions=[[-1.0, -2.0, -3.0, -4.0], [-1.0, -2.0, -3.0]], references=[3, label])


@pytest.mark.parametrize("choices", [[], [-1.0]])
def test_too_few_choices(metric, choices):
    with pytest.raises(NeuronMMError, match=f"question 1 has {len(choices)}"):
        metric.compute(predictions=[[-1.0, -2.0], choices], references=[0, 0])


@pytest.mark.parametrize("lengths", [[1], [1, 2, 3], [1, -1], [0, 0], []])
def test_lengths_of_a_question_that_do_not_fit(metric, lengths):
    with pytest.raises(NeuronMMError, match="Question 1 has 2 choices, so it needs as many lengths"):
        metric.compute(predictions=[[-1.0, -2.0]] * 2, references=[0, 0], lengths=[[1, 1], lengths])


def test_lengths_of_other_questions(metric):
    with pytest.raises(NeuronMMError, match="each of the 2 questions, got 1"):
        metric.compute(predictions=[[-1.0, -2.0]] * 2, references=[0, 0], lengths=[[1, 1]])


def test_arrays_and_tuples(metric):
    result = metric.compute(
        predictions=np.array([[-1.0, -2.0], [-2.0, -1.0]]), references=np.array([0, 0]), lengths=((1, 1), (1, 9))
    )
    assert (result["acc"], result["acc_norm"]) == (0.5, 0.5)
