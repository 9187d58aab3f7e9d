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
"""How a recipe's variants are made: from which text, where they are kept, and when they are made again."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes import preparation
from optimum_neuronmm.recipes.description.recipe import Recipe
from optimum_neuronmm.recipes.preparation import Plan, make, plan

from .made_data import recipe_content


DENSE = SimpleNamespace(sha256="0" * 64, directory=Path("dense"))
RECOVERY = {"tokens": 128, "sequence_length": 16, "batch_size": 2, "data": ["c4"]}


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv("NEURONMM_DATA", raising=False)


@pytest.fixture
def text(tmp_path) -> Path:
    """A directory with text to train on, in each of the places for it."""
    directory = tmp_path / "data"
    for name in ("wikitext2.train-1mb.txt", "corpora/c4.train-3.jsonl.gz", "finetune/alpaca_cleaned.first5.jsonl"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(b"text")
    return directory


def variant(**changes):
    """The compressed variant of a recipe."""
    content = {"name": "small", "ratio": 0.2, **changes}
    [found] = Recipe.from_dict(recipe_content("m", variants=[content])).variants
    return found


class TestSources:
    def test_names_become_the_files_that_are_there(self, text, tmp_path):
        recovery = {**RECOVERY, "data": ["alpaca-cleaned", "c4"]}
        found = plan(variant(recovery=recovery), DENSE, tmp_path, text)
        c4 = str(text / "corpora/c4.train-3.jsonl.gz")
        assert found.compression.calibration == [str(text / "wikitext2.train-1mb.txt"), c4]
        assert found.recovery.data == [str(text / "finetune/alpaca_cleaned.first5.jsonl"), c4]

    def test_without_files_names_stay(self, tmp_path):
        (tmp_path / "wikitext2.test.txt").write_text("not to train on")
        (tmp_path / "wikitext2.train.zip").write_text("of another kind")
        (tmp_path / "c4.train.jsonl").mkdir()
        found = plan(variant(recovery=RECOVERY), DENSE, tmp_path, tmp_path)
        assert found.compression.calibration == ["wikitext2", "c4"] and found.recovery.data == ["c4"]
        assert plan(variant(), DENSE, tmp_path).compression.calibration == ["wikitext2", "c4"]

    def test_other_sources_stay(self, text, tmp_path):
        file = str(text / "wikitext2.train-1mb.txt")
        compression = {"calibration": ["self", file]}
        assert plan(variant(compression=compression), DENSE, tmp_path, text).compression.calibration == ["self", file]

    def test_the_variable_names_a_directory(self, text, tmp_path, monkeypatch):
        monkeypatch.setenv("NEURONMM_DATA", str(text))
        local = plan(variant(), DENSE, tmp_path).compression.calibration
        assert local[0] == str(text / "wikitext2.train-1mb.txt")
        (tmp_path / "empty").mkdir()
        assert plan(variant(), DENSE, tmp_path, tmp_path / "empty").compression.calibration == ["wikitext2", "c4"]

    def test_several_files_for_a_source(self, text, tmp_path):
        (text / "corpora" / "wikitext2.train.txt").write_text("more")
        message = r"several files for the source wikitext2: wikitext2.train-1mb.txt, wikitext2.train.txt. Leave one"
        with pytest.raises(NeuronMMError, match=message):
            plan(variant(), DENSE, tmp_path, text)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"compression": {"calibration": ["wikitext"]}}, "Unknown calibration source 'wikitext'"),
            ({"compression": {"calibration": ["none.txt"]}}, "none.txt does not exist"),
            ({"recovery": {**RECOVERY, "data": ["c5"]}}, "Unknown source of data 'c5'"),
            ({"recovery": {**RECOVERY, "data": ["none.jsonl"]}}, "none.jsonl does not exist"),
        ],
    )
    def test_what_is_not_there_is_found_at_once(self, tmp_path, changes, message):
        with pytest.raises(NeuronMMError, match=message):
            plan(variant(**changes), DENSE, tmp_path)

    def test_a_name_and_its_file_are_one_source(self, text, tmp_path):
        file = str(text / "wikitext2.train-1mb.txt")
        with pytest.raises(NeuronMMError, match="is given twice"):
            plan(variant(compression={"calibration": ["wikitext2", file]}), DENSE, tmp_path, text)


class TestDirectory:
    def test_it_is_named_after_the_variant_and_stays(self, text, tmp_path):
        first, again = (plan(variant(), DENSE, tmp_path / "models", text).directory for _ in range(2))
        assert first == again and first.parent == tmp_path / "models" and first.name.startswith("small-")
        assert not first.exists() and not first.parent.exists()

    @pytest.mark.parametrize(
        "changes",
        [
            {"ratio": 0.25},
            {"compression": {"seed": 1}},
            {"compression": {"block_size": 64}},
            {"recovery": RECOVERY},
        ],
    )
    def test_other_options_have_another(self, text, tmp_path, changes):
        assert self.name(variant(**changes), text) != self.name(variant(), text)

    def test_other_recoveries_have_another(self, text):
        recoveries = [RECOVERY, {**RECOVERY, "tokens": 256}, {**RECOVERY, "objective": "labels"}]
        assert len({self.name(variant(recovery=recovery), text) for recovery in recoveries}) == 3

    def test_another_model_or_text_has_another(self, text):
        before = self.name(variant(), text)
        assert self.name(variant(), text, SimpleNamespace(sha256="1" * 64)) != before
        trained = self.name(variant(recovery={**RECOVERY, "data": ["alpaca-cleaned"]}), text)
        (text / "finetune/alpaca_cleaned.first5.jsonl").write_bytes(b"more text")
        assert self.name(variant(), text) == before
        assert self.name(variant(recovery={**RECOVERY, "data": ["alpaca-cleaned"]}), text) != trained
        (text / "wikitext2.train-1mb.txt").write_bytes(b"more text")
        assert self.name(variant(), text) != before

    def test_where_a_model_runs_changes_nothing(self, text):
        assert self.name(variant(compression={"kernel": "compiler"}), text) == self.name(variant(), text)

    @staticmethod
    def name(variant, data, dense=DENSE) -> str:
        return plan(variant, dense, data.parent, data).directory.name

    def test_it_is_made_where_it_has_a_config(self, tmp_path):
        planned = plan(variant(), DENSE, tmp_path)
        planned.directory.mkdir()
        assert not planned.is_made
        (planned.directory / "config.json").write_text("{}")
        assert planned.is_made


class TestMake:
    @pytest.fixture
    def calls(self, monkeypatch):
        """Stands in for `compress` and `recover`, which only write a config."""
        calls = []

        def work(name):
            def record(source, output, *args, **options):
                calls.append((name, source, output, args, options))
                output.mkdir(parents=True)
                (output / "config.json").write_text("{}")

            return record

        monkeypatch.setattr(preparation, "compress", work("compress"))
        monkeypatch.setattr("optimum_neuronmm.recovery.recover", work("recover"))
        return calls

    def test_a_variant_is_compressed(self, calls, tmp_path):
        planned = plan(variant(), DENSE, tmp_path)
        make(planned, DENSE, device="cpu", trust_remote_code=True)
        options = {"device": "cpu", "trust_remote_code": True}
        assert calls == [("compress", Path("dense"), planned.directory, (planned.compression,), options)]

    def test_a_variant_is_trained_from_what_was_compressed(self, calls, tmp_path):
        planned = plan(variant(recovery=RECOVERY), DENSE, tmp_path)
        make(planned, DENSE)
        compressed = planned.directory.with_name(planned.directory.name + "-compressed")
        options = {"device": None, "trust_remote_code": False}
        assert calls == [
            ("compress", Path("dense"), compressed, (planned.compression,), options),
            ("recover", compressed, planned.directory, (planned.recovery,), {"teacher": Path("dense"), **options}),
        ]

    def test_what_was_compressed_is_not_compressed_again(self, calls, tmp_path):
        planned = Plan(tmp_path / "small-1", variant().compression, variant(recovery=RECOVERY).recovery)
        make(planned, DENSE)
        (planned.directory / "config.json").unlink()
        planned.directory.rmdir()
        make(planned, DENSE)
        assert [name for name, *_ in calls] == ["compress", "recover", "recover"]


def test_what_the_text_is_decides_and_not_where_it_lies(text, tmp_path):
    recovered = variant(recovery=RECOVERY)
    first = plan(recovered, DENSE, tmp_path / "models", text).directory
    moved = text.rename(tmp_path / "elsewhere")
    assert plan(recovered, DENSE, tmp_path / "models", moved).directory == first
    for name in ("wikitext2.train-1mb.txt", "corpora/c4.train-3.jsonl.gz"):
        (moved / name).write_bytes(b"TEXT")  # of the same length
        assert plan(recovered, DENSE, tmp_path / "models", moved).directory != first
        (moved / name).write_bytes(b"text")


def test_another_release_makes_its_own(tmp_path, monkeypatch):
    first = plan(variant(), DENSE, tmp_path).directory
    monkeypatch.setattr(preparation, "__version__", "9.9")
    assert plan(variant(), DENSE, tmp_path).directory != first
