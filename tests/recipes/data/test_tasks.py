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
import pytest

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes.data.tasks import MULTIPLE_CHOICE, PERPLEXITY, TASKS, find_task

from .example_rows import lm_eval_config


def test_the_order_of_the_papers_table():
    assert list(TASKS) == [
        "wikitext2",
        "ptb",
        "c4",
        "openbookqa",
        "arc_easy",
        "arc_challenge",
        "winogrande",
        "hellaswag",
        "mathqa",
    ]
    assert all(name == task.name for name, task in TASKS.items())


def test_kinds_metrics_and_layouts():
    for name, task in TASKS.items():
        if name in ("wikitext2", "ptb", "c4"):
            assert (task.kind, task.metrics) == (PERPLEXITY, ("perplexity",))
            assert task.layouts[0] == "joined"
        else:
            assert (task.kind, task.layouts) == (MULTIPLE_CHOICE, ())
            assert task.metrics == (("acc",) if name == "winogrande" else ("acc", "acc_norm"))


def test_no_file_is_taken_for_that_of_another_task():
    files = [task.file for task in TASKS.values()]
    assert not [(a, b) for a in files for b in files if a != b and a.startswith(b)]
    assert TASKS["c4"].file == "c4.validation" and TASKS["arc_easy"].file == "arc_easy.test"


def test_tasks_can_be_keys():
    assert len(set(TASKS.values())) == 9


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.kind == MULTIPLE_CHOICE])
def test_data_and_metrics_are_those_of_lm_eval(name):
    config, task = lm_eval_config(name), TASKS[name]
    assert task.hub.dataset == config["dataset_path"]
    assert task.hub.config == config.get("dataset_name")
    assert task.split == (config.get("test_split") or config["validation_split"])
    assert list(task.metrics) == [metric["metric"] for metric in config["metric_list"]]
    assert not config.get("num_fewshot")


def test_an_unknown_task_lists_the_known_ones():
    assert find_task("ptb") is TASKS["ptb"]
    with pytest.raises(NeuronMMError, match=r"Unknown task 'piqa': expected one of wikitext2, ptb, .*, mathqa\."):
        find_task("piqa")
