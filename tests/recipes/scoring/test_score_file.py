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
"""Kept scores: what comes back, after whatever happened to the file."""

import json
import os
import resource
import signal

import pytest

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes.scoring.score_file import ScoreFile


SETTINGS = {"model": "m", "window": 512, "bos": None}
SCORES = {"a": {"loss": 1.5, "tokens": 3}, "b": {"loss": -0.1, "tokens": 1}}


def write(directory, *batches, settings=SETTINGS):
    with ScoreFile(directory, "label", settings) as file:
        for batch in batches:
            file.add(batch)
        return file.path


def known(directory, settings=SETTINGS):
    with ScoreFile(directory, "label", settings) as file:
        return file.known


def test_scores_come_back(tmp_path):
    directory = tmp_path / "not" / "there"
    path = write(directory, {"a": SCORES["a"]}, {"b": SCORES["b"]})
    assert path.parent == directory and path.name.startswith("label-") and path.suffix == ".jsonl"
    assert known(directory) == SCORES
    write(directory, {"c": {"loss": 0.0}})
    assert known(directory) == {**SCORES, "c": {"loss": 0.0}}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [
        {"settings": SETTINGS},
        *({"id": name, **score} for name, score in SCORES.items()),
        {"id": "c", "loss": 0},
    ]


def test_numbers_come_back_to_the_last_bit(tmp_path):
    values = [-0.1 - 0.2, 1e-300, -123456.789012345678, float("-inf")]
    write(tmp_path, {"a": {"log_likelihoods": values}})
    assert known(tmp_path) == {"a": {"log_likelihoods": values}}


def test_what_was_added_is_known_at_once(tmp_path):
    with ScoreFile(tmp_path, "label", SETTINGS) as file:
        assert file.known == {}
        file.add(SCORES)
        assert file.known == SCORES


def test_each_batch_is_on_disk_when_it_was_added(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def record(descriptor):
        fsync(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", record)
    with ScoreFile(tmp_path, "label", SETTINGS) as file:
        assert synced == [file.path.stat().st_size] and synced[0] > 0
        for name, score in SCORES.items():
            file.add({name: score})
            assert synced[-1] == file.path.stat().st_size == len(file.path.read_bytes())
    assert len(synced) == 3


def test_other_settings_are_another_file(tmp_path):
    path = write(tmp_path, SCORES)
    changes = [{**SETTINGS, "window": 513}, {**SETTINGS, "more": 1}, {"model": "m"}, {**SETTINGS, "bos": "None"}]
    for settings in changes:
        assert write(tmp_path, settings=settings) != path
        assert known(tmp_path, settings) == {}
    assert len(list(tmp_path.iterdir())) == 1 + len(changes)
    assert write(tmp_path, settings=dict(reversed(SETTINGS.items()))) == path, "their order decides nothing"
    with ScoreFile(tmp_path, "other", SETTINGS) as file:
        assert file.path != path


@pytest.mark.parametrize("name", ["é 日本 \U0001f600", "a\nb", "a\rb\u2028c\x85d", '"\\', "", "x" * 10_000])
def test_ids(tmp_path, name):
    write(tmp_path, {name: {"loss": 1.0}}, {"next": {"loss": 2.0}})
    assert known(tmp_path) == {name: {"loss": 1.0}, "next": {"loss": 2.0}}


def test_every_place_to_cut_the_file_off(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # it takes its time, and there are hundreds
    path = write(tmp_path, SCORES, {"日": {"loss": 3.0}})
    content = path.read_bytes()
    wholes = [number + 1 for number, byte in enumerate(content) if byte == ord("\n")]
    every = list({**SCORES, "日": {"loss": 3.0}}.items())
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        lines = sum(whole <= size for whole in wholes)
        assert known(tmp_path) == dict(every[: max(lines - 1, 0)])
        assert path.read_bytes() == content[: wholes[max(lines, 1) - 1]], (
            "the cut-off line is gone, or the header is back"
        )
        write(tmp_path, {"new": {"loss": 9.0}})
        assert known(tmp_path) == dict([*every[: max(lines - 1, 0)], ("new", {"loss": 9.0})])


def test_the_later_score_counts(tmp_path):
    write(tmp_path, {"a": {"loss": 1.0}}, {"a": {"loss": 2.0}})
    write(tmp_path, {"a": {"loss": 3.0, "more": 1}})
    assert known(tmp_path) == {"a": {"loss": 3.0, "more": 1}}


def test_nothing_to_add(tmp_path):
    write(tmp_path, {}, SCORES, {})
    assert known(tmp_path) == SCORES


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"",
        b"null",
        b"17",
        b"[]",
        b'"id"',
        b'{"loss": 1}',
        b'{"id": ["a"]}',
        b"\xff\xfe",
        b'{"id": "a"} {}',
        b"\0\0",
    ],
)
def test_a_damaged_line_before_the_last(tmp_path, line):
    path = write(tmp_path, SCORES)
    lines = path.read_bytes().splitlines()
    for place in range(len(lines)):
        damaged = b"\n".join([*lines[:place], line, *lines[place + 1 :]]) + b"\n"
        path.write_bytes(damaged)
        with pytest.raises(NeuronMMError) as error:
            ScoreFile(tmp_path, "label", SETTINGS)
        assert f"{path}, line {place + 1}: not a score" in str(error.value) and "Delete the file" in str(error.value)
        assert path.read_bytes() == damaged, "what cannot be read is left as it is"


def test_a_file_of_something_else(tmp_path):
    path = write(tmp_path)
    path.write_text(json.dumps({"id": "a", "loss": 1.0}) + "\n")
    with pytest.raises(NeuronMMError, match="line 1: not a score .*settings"):
        ScoreFile(tmp_path, "label", SETTINGS)


def test_the_file_is_closed_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), ScoreFile(tmp_path, "label", SETTINGS) as file:
        file.add(SCORES)
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="closed file"):
        file.add(SCORES)
    assert known(tmp_path) == SCORES


def test_a_disk_that_is_full(tmp_path):
    with ScoreFile(tmp_path, "m", {"a": 1}) as file:
        file.add({"1": {"x": 1.0}})
        whole = file.path.read_bytes()
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 5, limit[1]))
            with pytest.raises(
                NeuronMMError, match="could not be written .* Make room, then run the same command again"
            ):
                file.add({"2": {"x": 2.0}})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            signal.signal(signal.SIGXFSZ, handler)
    with ScoreFile(tmp_path, "m", {"a": 1}) as file:
        assert file.known == {"1": {"x": 1.0}} and file.path.read_bytes() == whole
