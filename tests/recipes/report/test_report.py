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
"""What a report leaves on disk, and how it is read back."""

import json
import math
import os
import sys

import pytest

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes.report import report
from optimum_neuronmm.recipes.report.markdown import markdown
from optimum_neuronmm.recipes.report.report import load_report_file, write_report

from .fabricated import full_results, model, question_entry, results, text_entry


FILES = {"report.json", "report.md", "perplexity.png", "accuracy.png"}


@pytest.fixture
def quick_pictures(monkeypatch):
    """Pictures that take no time, where what they show plays no part."""
    monkeypatch.setattr(report, "draw_pictures", lambda told: dict.fromkeys(report.PICTURES, bytes([told["seed"]])))


def names(directory) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_all_files_are_written_and_read_back(tmp_path):
    directory = tmp_path / "new" / "report"
    told = full_results()
    write_report(told, directory)
    assert names(directory) == FILES
    assert load_report_file(directory / "report.json") == load_report_file(directory) == told
    assert load_report_file(str(directory)) == told
    text = (directory / "report.md").read_text(encoding="utf-8")
    assert text == markdown(told, ["perplexity.png", "accuracy.png"])
    for name in ("perplexity.png", "accuracy.png"):
        assert (directory / name).read_bytes().startswith(b"\x89PNG") and f"]({name})" in text


def test_only_pictures_with_data_are_written_and_embedded(tmp_path):
    write_report(results(model("a", tasks={"ptb": text_entry(9.0)}, mean_accuracy=None)), tmp_path / "text")
    assert names(tmp_path / "text") == FILES - {"accuracy.png"}
    assert "accuracy.png" not in (tmp_path / "text" / "report.md").read_text(encoding="utf-8")
    write_report(results(model("a", tasks={"mathqa": question_entry(0.3, 0.3)})), tmp_path / "questions")
    assert names(tmp_path / "questions") == FILES - {"perplexity.png"}
    write_report(results(model("a", tasks={}, mean_accuracy=None)), tmp_path / "none")
    assert names(tmp_path / "none") == {"report.json", "report.md"}


def test_an_earlier_report_is_replaced_and_other_files_are_left(tmp_path):
    write_report(full_results(), tmp_path)
    (tmp_path / "scores.jsonl").write_text("mine")
    told = results(model("a", tasks={"ptb": text_entry(9.0)}, mean_accuracy=None))
    write_report(told, tmp_path)
    assert names(tmp_path) == FILES - {"accuracy.png"} | {"scores.jsonl"}
    assert load_report_file(tmp_path) == told
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == markdown(told, ["perplexity.png"])


def test_numbers_that_are_not_finite_are_null_and_the_file_is_json(tmp_path, quick_pictures):
    told = full_results()
    told["models"][1]["tasks"]["c4"]["perplexity"] = math.inf
    told["models"][1]["gamma"] = math.nan
    told["machine"]["list"] = (1.0, -math.inf)
    write_report(told, tmp_path)

    def refuse(word):
        raise AssertionError(word)

    read = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert read["models"][1]["tasks"]["c4"]["perplexity"] is None and read["models"][1]["gamma"] is None
    assert read["machine"]["list"] == [1.0, None]
    assert read["models"][2] == told["models"][2] and told["models"][1]["tasks"]["c4"]["perplexity"] == math.inf
    assert "not finite" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_names_outside_ascii(tmp_path, quick_pictures):
    told = results(model("modèle-0.1 ±"))
    write_report(told, tmp_path)
    assert load_report_file(tmp_path) == told
    assert "modèle-0.1 ±".encode() in (tmp_path / "report.json").read_bytes()


@pytest.mark.parametrize("failing", FILES)
def test_a_failure_before_the_renames_leaves_the_earlier_report(tmp_path, quick_pictures, monkeypatch, failing):
    write_report(full_results(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write = report.Path.write_bytes

    def full_disk(path, content):
        if path.name == failing:
            write(path, content[: len(content) // 2])
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(report.Path, "write_bytes", full_disk)
    with pytest.raises(NeuronMMError, match="could not be written to .*No space left on device"):
        write_report(results(model("other"), seed=8), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_report_json_comes_last(tmp_path, quick_pictures, monkeypatch):
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (moved.append(target.name), replace(source, target)))
    write_report(full_results(), tmp_path)
    assert set(moved) == FILES and moved[-1] == "report.json"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": []}, "at least one model, got none"),
        ({"format_version": 2}, "format_version is 2"),
        ({"format_version": None}, "with a format_version"),
    ],
)
def test_bad_results_leave_no_directory(tmp_path, change, message):
    with pytest.raises(NeuronMMError, match=message):
        write_report(full_results() | change, tmp_path / "report")
    assert not names(tmp_path)


def test_what_stands_in_the_way(tmp_path, quick_pictures):
    (tmp_path / "file").write_text("")
    with pytest.raises(NeuronMMError, match="could not be written to .*file .*expected a directory"):
        write_report(full_results(), tmp_path / "file")
    (tmp_path / "report" / "report.md").mkdir(parents=True)
    with pytest.raises(NeuronMMError, match="report.md is a directory: expected a file"):
        write_report(full_results(), tmp_path / "report")
    assert names(tmp_path / "report") == {"report.md"}


def test_without_matplotlib_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(NeuronMMError, match="needs matplotlib: pip install matplotlib"):
        write_report(full_results(), tmp_path / "report")
    assert not names(tmp_path)


def test_a_report_that_is_missing(tmp_path):
    for path in (tmp_path, tmp_path / "report.json", tmp_path / "nowhere" / "report.json"):
        with pytest.raises(NeuronMMError, match=r"report.json does not exist: .* Run the evaluation"):
            load_report_file(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged: Expecting value"),
        (b'{"format_version": 1, "models": [', "is damaged: Expecting value"),
        (b"\xff\xfe", "is damaged: .*decode"),
        (b"[1]", r"expected the results of an evaluation with a format_version, got '\[1\]'"),
        (b'{"model": "x"}', "with a format_version"),
        (b'{"format_version": "1"}', "with a format_version"),
        (b'{"format_version": true}', "with a format_version"),
        (b'{"format_version": 0}', "with a format_version"),
        (b'{"format_version": 1}', "recipe, models, data, .* expected, but missing"),
        (b'{"format_version": 3}', r"format_version is 3, and .* reads up to 1. Upgrade optimum-neuronmm"),
    ],
)
def test_files_that_are_no_report(tmp_path, content, message):
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(NeuronMMError, match=message) as caught:
        load_report_file(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told["models"][0].pop("tasks"),
        lambda told: told["models"][0]["tasks"]["ptb"].pop("perplexity"),
        lambda told: told["models"][1]["tasks"].update(c4=None),
        lambda told: told["models"][1]["tasks"]["arc_easy"].update(acc="high"),
        lambda told: told["models"][2].update(speed={}),
        lambda told: told["data"]["c4"].pop("source"),
        lambda told: told["models"].append("model"),
        lambda told: told.update(machine=None),
        lambda told: told["models"][1]["speed"]["latency_s"].update(p50=0.0),
    ],
)
def test_reports_with_a_part_missing(tmp_path, change):
    told = full_results()
    change(told)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(told))
    with pytest.raises(NeuronMMError, match="report.json is damaged: .*Run the evaluation again"):
        load_report_file(path)


def test_two_models_of_one_name_are_refused(tmp_path):
    with pytest.raises(NeuronMMError, match="two models are called 'a'"):
        write_report(results(model("a"), model("a", 0.1)), tmp_path / "report")
