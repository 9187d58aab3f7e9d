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
"""The report in Markdown: which figure stands in which cell, and what is said with it."""

import pytest

from optimum_neuronmm.recipes.report.markdown import markdown
from optimum_neuronmm.recipes.report.tables import EMPTY

from .fabricated import full_results, model, published_row, question_entry, results, speed_entry
from .reading import CHANGE, DATA, MODELS, RESULTS, SPEED, read_tables, tables_of


def test_the_source_of_published_rows_is_named():
    text = markdown(full_results())
    assert "*Rows in italics are published figures* from NeuronMM, arXiv 2510.25977, table 5." in text
    assert "from a source that the recipe does not name" in markdown({**full_results(), "published_source": None})
    alone = markdown(results(model("dense")))
    assert "italics" not in alone and "2510.25977" not in alone and "gamma" not in alone.lower()


def test_a_published_mean_over_other_tasks_is_called_so():
    fewer = full_results()
    for entry in fewer["models"]:
        for name in ("mathqa", "hellaswag"):
            del entry["tasks"][name]
    assert "published mean accuracy is over 6 tasks, ours over at most 4" in markdown(fewer)
    assert "ours over at most" not in markdown(full_results())
    fewer["models"][2]["published"]["accuracy"] = {"mathqa": 0.2}
    fewer["models"][2]["published"]["perplexity"] = {}
    row = read_tables(markdown(fewer))[RESULTS][5]
    assert [row["C4 ↓"], row["ARC-easy ↑"], row["mean accuracy ↑"]] == [EMPTY, EMPTY, "*36*"]
    assert "is over 1 or 6 tasks, ours" in markdown(fewer)


def test_one_model_without_anything():
    text = markdown(results(model("only", tasks={}, mean_accuracy=None)))
    tables = read_tables(text)
    assert set(tables) == {RESULTS, MODELS}
    assert tables[RESULTS] == [{"model": "only (baseline)", "requested": "0.00 %", "achieved": "0.00 %"}]
    assert "One model was measured." in text and "standard error" not in text


def test_without_a_baseline_nothing_is_compared():
    text = markdown(results(model("a", 0.1, speed=speed_entry(3)), model("b", 0.2, speed=speed_entry(2))))
    tables = read_tables(text)
    assert CHANGE not in tables and "speed-up" not in tables[RESULTS][0] and "speed-up" not in tables[SPEED][0]
    assert "2 models were measured." in text and "baseline" not in text.split("## Speed")[0]


def test_a_model_alone_is_not_compared_with_itself():
    assert CHANGE not in tables_of(model("dense"))


def test_data_and_protocol():
    dense, small = model("dense"), model("a", 0.1)
    small["tasks"]["arc_easy"] |= {"examples": 100, "bos": False}
    small["tasks"]["ptb"] |= {"layout": "blank_lines", "window": 2048, "bos": "every"}
    told = results(dense, small)
    told["data"]["hellaswag"]["notes"] = ["text as it is", "a|b"]
    del told["data"]["mathqa"]
    rows = {row["task"]: row for row in read_tables(markdown(told))[DATA]}
    assert list(rows) == [
        *("WikiText-2", "PTB", "C4", "OpenBookQA", "ARC-easy", "ARC-challenge", "WinoGrande", "HellaSwag", "MathQA")
    ]
    assert rows["C4"] == {
        "task": "C4",
        "split": "validation",
        "source": "c4.file",
        "sha256": "fedcba987654",
        "scored": "40 windows of 512, 20,440 tokens",
        "layout": "raw",
        "BOS token": "first",
        "notes": EMPTY,
    }
    assert [rows["ARC-easy"][key] for key in ("scored", "layout", "BOS token")] == [
        *("1,000 examples / 100 examples", EMPTY, "yes / no")
    ]
    assert [rows["PTB"][key] for key in ("scored", "layout", "BOS token")] == [
        "40 windows of 512, 20,440 tokens / 40 windows of 2,048, 20,440 tokens",
        r"raw / blank_lines",
        "first / every",
    ]
    assert rows["HellaSwag"]["notes"] == r"text as it is; a\|b"
    assert [rows["MathQA"][key] for key in ("source", "sha256", "notes")] == [EMPTY] * 3


def test_settings_are_listed():
    lines = markdown(full_results()).splitlines()
    assert {
        "- seed: 7",
        "- versions: torch 2.13.0, transformers 4.57.6",
        "- time of the last command: 4,321 s",
    } <= set(lines)
    assert "- machine: cores 2, threads 1" in lines


def test_empty_and_truncated_rows_are_counted_only_where_there_are_any():
    told = full_results()
    assert "empty" not in markdown(told) and "context" not in markdown(told)
    for entry in told["models"][:2]:
        entry["tasks"]["mathqa"]["empty_options"] = 3
    told["models"][2]["tasks"]["mathqa"]["empty_options"] = 4
    told["models"][1]["tasks"]["hellaswag"]["truncated"] = 1
    lines = markdown(told).splitlines()
    assert "- MathQA, choices that are empty: 3 (dense, uniform-0.1)" in lines
    assert "- MathQA, choices that are empty: 4 (uniform-0.2)" in lines
    assert "- HellaSwag, rows longer than the model's context, which lost their beginning: 1 (uniform-0.1)" in lines


def test_few_examples_are_pointed_out():
    text = markdown(full_results())
    assert "A difference smaller than about two standard errors is noise." in text and "Few examples" not in text
    few = full_results()
    few["models"][1]["tasks"]["arc_easy"]["examples"] = 100
    few["models"][2]["tasks"]["mathqa"]["examples"] = 499
    few["models"][2]["tasks"]["hellaswag"]["examples"] = 500
    text = markdown(few)
    assert "**Few examples** (ARC-easy 100, MathQA 499): with 100 of them" in text
    assert "has a standard error of 5.0 points" in text


def test_pictures_are_embedded_where_they_exist():
    assert "](" not in markdown(full_results())
    text = markdown(full_results(), ["accuracy.png"])
    assert text.count("](") == 1 and "\n\n![Accuracy of every model on every task](accuracy.png)\n\n" in text


def test_a_task_of_another_version_keeps_its_name():
    rows = tables_of(model("a", tasks={"boolq": question_entry(0.5), "arc_easy": question_entry(0.6)}))
    assert list(rows[RESULTS][0])[3:5] == ["ARC-easy ↑", "boolq ↑"]
    assert [(row["task"], row["split"]) for row in rows[DATA]] == [("ARC-easy", "test"), ("boolq", EMPTY)]


def test_times_alone():
    told = results(model("dense", tasks={}, mean_accuracy=None, speed=speed_entry(2.0)))
    assert markdown(told).startswith("# Speed by recipe ")


@pytest.mark.parametrize(("measured", "warns"), [("other/model", False), ("model", False), ("org/x", True)])
def test_published_figures_of_a_model_that_was_not_measured(measured, warns):
    told = results(model("dense", model=measured, published=published_row(0, 1, 0)))
    told["recipe"]["content"]["model"] = "org/model"
    assert ("none of the models above is known by its name to be that one" in markdown(told)) == warns
