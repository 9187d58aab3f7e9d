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
"""Batches, and that each example is scored once over any number of interrupted runs."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_neuronmm.errors import NotFiniteError
from optimum_neuronmm.recipes.data.tasks import TASKS
from optimum_neuronmm.recipes.scoring import examples as module
from optimum_neuronmm.recipes.scoring.examples import Example, Scores, batches, not_finite
from optimum_neuronmm.recipes.scoring.packing import Row, packed_length

from .common import group


repeatable = settings(derandomize=True, deadline=None, max_examples=150)
TASK = TASKS["arc_easy"]


def examples_of(lengths: list[int]) -> list[Example]:
    return [Example(f"e{n}", [Row(range(length + 1), 1)], f"line {n}") for n, length in enumerate(lengths)]


def model(**changes):
    about = {"name": "org/m", "sha256": "0" * 64, "dtype": "float32", "device": "cpu", **changes}
    identity = SimpleNamespace(name=about["name"], sha256=about["sha256"])
    return SimpleNamespace(identity=identity, dtype=about["dtype"], device=about["device"])


class Counted:
    """Scores by the length of an example. Remembers the batches, and fails in one."""

    def __init__(self, fails_in: int | None = None):
        self.batches, self.fails_in = [], fails_in

    def __call__(self, batch):
        if len(self.batches) == self.fails_in:
            raise KeyboardInterrupt
        self.batches.append([example.id for example in batch])
        return {example.id: {"length": len(example.rows[0].tokens)} for example in batch}

    @property
    def ids(self):
        return [name for batch in self.batches for name in batch]


def run(directory, lengths, score=None, deciding=None, task=TASK, tokens=20, **changes):
    score = score or Counted()
    deciding = {"data": "d"} if deciding is None else deciding
    found = Scores(directory, tokens).of(model(**changes), task, deciding, examples_of(lengths), score)
    return found, score


@repeatable
@given(st.lists(st.integers(1, 30), max_size=20), st.integers(1, 70))
def test_batches(lengths, tokens):
    examples = examples_of(lengths)
    found = list(batches(examples, tokens))
    flat = [example for batch in found for example in batch]
    assert sorted(example.id for example in flat) == sorted(example.id for example in examples)
    sizes = [[packed_length(example.rows) for example in batch] for batch in found]
    assert sum(sizes, []) == sorted(lengths, reverse=True), "the longest first"
    assert all(len(batch) == 1 or len(batch) * batch[0] <= tokens for batch in sizes), "padding counts"
    for batch, following in zip(sizes, sizes[1:], strict=False):
        assert following and (len(batch) + 1) * batch[0] > tokens, "one more would have fitted"


def test_what_choices_share_counts_once():
    rows = group(range(10), (1, 2), (3, 4), (5, 6))
    assert packed_length(rows) == 13
    examples = [Example(str(n), rows, "") for n in range(4)]
    assert [len(batch) for batch in batches(examples, 26)] == [2, 2]
    assert [len(batch) for batch in batches(examples, 25)] == [1, 1, 1, 1]


def test_equally_long_ones_keep_their_order():
    assert [e.id for batch in batches(examples_of([5] * 7), 15) for e in batch] == [f"e{n}" for n in range(7)]


def test_each_example_is_scored_once(tmp_path):
    lengths = [3, 9, 1, 7, 12, 3]
    found, score = run(tmp_path, lengths)
    assert found == {f"e{n}": {"length": length + 1} for n, length in enumerate(lengths)}
    assert score.batches == [["e4"], ["e1", "e3"], ["e0", "e5", "e2"]]
    again, score = run(tmp_path, lengths)
    assert again == found and score.batches == []
    more, score = run(tmp_path, [*lengths, 2])
    assert score.ids == ["e6"] and more == {**found, "e6": {"length": 3}}
    fewer, score = run(tmp_path, lengths[:2])
    assert score.batches == [] and fewer.items() >= {name: found[name] for name in ("e0", "e1")}.items()


@pytest.mark.parametrize("fails_in", range(6))
def test_interrupted_and_resumed(tmp_path, fails_in):
    lengths = [3, 9, 1, 7, 12, 3, 20, 4, 4]
    whole, score = run(tmp_path / "whole", lengths)
    interrupted = Counted(fails_in)
    if fails_in < len(score.batches):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", lengths, interrupted)
    found, resumed = run(tmp_path / "cut", lengths)
    assert found == whole
    assert interrupted.ids + resumed.ids == score.ids, "what was scored is not scored again"
    [one], [other] = (list((tmp_path / name).iterdir()) for name in ("whole", "cut"))
    assert one.name == other.name and one.read_bytes() == other.read_bytes()


def test_what_decides_the_scores(tmp_path, monkeypatch):
    run(tmp_path, [3])
    changes = [
        {"sha256": "1" * 64},
        {"dtype": "bfloat16"},
        {"device": "cuda"},
        {"task": TASKS["arc_challenge"]},
        {"deciding": {"data": "e"}},
        {"deciding": {"data": "d", "window": 3}},
    ]
    for change in changes:
        assert run(tmp_path, [3], **change)[1].ids == ["e0"], change
    assert run(tmp_path, [3], tokens=1)[1].ids == [], "the size of a batch decides nothing"
    versions = module.versions()
    for name, measured in [("torch", True), ("transformers", True), ("evaluate", False), ("python", False)]:
        monkeypatch.setattr(module, "versions", lambda name=name: {**versions, name: "0.1"})
        assert bool(run(tmp_path, [3])[1].ids) == measured, name
    monkeypatch.setattr(module, "versions", lambda: versions)
    assert run(tmp_path, [3])[1].ids == []
    monkeypatch.setattr(module, "_FORM", module._FORM + 1)
    assert run(tmp_path, [3])[1].ids == ["e0"]


def test_the_name_of_the_file(tmp_path):
    run(tmp_path, [3])
    [path] = tmp_path.iterdir()
    assert path.name.startswith("org--m-arc_easy-")


@pytest.mark.parametrize(("device", "expected"), [("cpu", [5, 3]), ("neuron", [5, 3]), ("cuda", [8])])
def test_tokens_at_a_time_by_device(tmp_path, device, expected):
    _, score = run(tmp_path, [100] * 8, tokens=None, device=device)
    assert [len(batch) for batch in score.batches] == expected


def test_no_examples(tmp_path):
    assert run(tmp_path, [])[0] == {}


def test_the_error_for_what_is_no_number():
    error = not_finite(model(dtype="float16"), Example("e", [], "x.jsonl, line 7"), [float("nan"), -2.5])
    assert isinstance(error, NotFiniteError)
    assert str(error).startswith("x.jsonl, line 7: org/m gives nan, -2.5 instead of finite numbers")
    assert "float16" in str(error)
