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
"""Tables and goals of the benchmarks: what counts as met, what is printed, what is kept."""

import json

import pytest

from benchmarks.results import Results, text


@pytest.fixture
def results():
    made = Results()
    made.begin("one", "Some figures")
    return made


@pytest.mark.parametrize(
    ("value", "compare", "limit", "within", "met"),
    [
        (1.0, ">=", 1.0, 0, True),
        (0.9, ">=", 1.0, 0, False),
        (1.0, ">", 1.0, 0, False),
        (1.1, ">", 1.0, 0, True),
        (1.0, "<", 1.0, 0, False),
        (1.04, "<=", 1.0, 0.05, True),
        (1.06, "<=", 1.0, 0.05, False),
        (0.96, "=", 1.0, 0.05, True),
        (0.94, "=", 1.0, 0.05, False),
        (1.06, "=", 1.0, 0.05, False),
        (0, "=", 0, 0, True),
        (None, "<", 1.0, 0, False),
    ],
)
def test_goal(results, capsys, value, compare, limit, within, met):
    results.goal("it", value, compare, limit, within)
    assert results.goals[0]["met"] is met
    assert bool(results.missed) is not met
    assert ("MISSED" in capsys.readouterr().out) is not met


def test_table_has_the_columns_of_all_rows(results, capsys):
    capsys.readouterr()
    results.table("t", [{"a": 1, "b": True}, {"a": 12345.678, "c": None}])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [["a", "b", "c"], ["1", "yes", "-"], ["12345.7", "-", "-"]]
    assert len({len(line) for line in lines}) == 1


def test_text():
    assert [text(value) for value in (None, False, 0.123456, 999.9, 1234.56, "x")] == [
        "-",
        "no",
        "0.1235",
        "999.9",
        "1234.6",
        "x",
    ]


def test_notes_are_printed_once_at_the_end_of_their_section(results, capsys):
    for row in range(6):
        results.note(f"row {row}", ["unchecked"])
    results.note("row 6", ["spills"])
    capsys.readouterr()
    results.begin("two", "Others")
    printed = capsys.readouterr().out
    assert "note on row 0; row 1; row 2; row 3 and 2 more: unchecked" in printed and "note on row 6: spills" in printed
    results.end(None)
    assert "unchecked" not in capsys.readouterr().out


def test_end_writes_what_was_printed(results, tmp_path, capsys):
    results.table("t", [{"a": 1}])
    results.goal("it", 1, "=", 2)
    results.note("a row", ["a note"])
    results.end(tmp_path / "r.json", target="trn1")
    content = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert content["target"] == "trn1" and content["tables"] == {"t": [{"a": 1}]}
    assert content["notes"] == {"one": {"a note": ["a row"]}} and content["goals"][0]["section"] == "one"
    assert "0 of 1 goals met" in capsys.readouterr().out
