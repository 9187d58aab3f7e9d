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
"""A task is evaluated as its options say."""

import pytest

from optimum_neuronmm.recipes.data.tasks import TASKS
from optimum_neuronmm.recipes.description.task_options import QuestionOptions, TextOptions
from optimum_neuronmm.recipes.scoring.evaluation import evaluate
from optimum_neuronmm.recipes.scoring.examples import Scores

from .common import as_data, load, question


@pytest.fixture(scope="module")
def loaded(tiny_llama):
    return load(tiny_llama)


def test_questions(loaded, tmp_path):
    asked = [question(str(n), [("a b", " c"), ("a b", " d")], n % 2) for n in range(3)]
    result = evaluate(loaded, TASKS["openbookqa"], QuestionOptions(2), as_data(asked), Scores(tmp_path), loaded)
    assert (
        result.entry["kind"] == "multiple_choice" and result.entry["acc"] == 0.5 and "divergence" not in result.entry
    )


@pytest.mark.parametrize("with_baseline", [False, True])
def test_a_text(loaded, tmp_path, with_baseline):
    options = TextOptions("joined", 16, 2, "none")
    baseline = [loaded] if with_baseline else []
    result = evaluate(loaded, TASKS["ptb"], options, as_data("abc " * 20), Scores(tmp_path), *baseline)
    assert result.entry["kind"] == "perplexity" and result.entry["windows"] == 2 and result.entry["layout"] == "joined"
    assert result.entry["divergence"] == (0 if with_baseline else None)
