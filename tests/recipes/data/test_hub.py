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
import gzip
import hashlib
import json

import pytest

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes.data.hub import digest, fetch, hub_source, place
from optimum_neuronmm.recipes.data.hub_rows import FIELDS
from optimum_neuronmm.recipes.data.tasks import TASKS

from .example_rows import HUB_ROWS


COMMIT = "210d026faf9955653af8916fad021475a3f00453"
SPLITS = {name: "validation" if name in ("c4", "winogrande", "hellaswag") else "test" for name in TASKS}


class Builder:
    """Stands in for a builder of `datasets`: gives rows, and records what was asked for."""

    def __init__(self, rows, commit=COMMIT):
        self.rows, self.hash, self.asked, self.given = iter(rows), commit, [], None

    def __call__(self, *args, **options):
        self.given = (args, options)
        return self

    def download_and_prepare(self):
        self.asked.append("prepare")

    def as_dataset(self, split):
        self.asked.append(split)
        return self.rows

    def as_streaming_dataset(self, split):
        self.asked.append(f"{split}, streaming")
        return self.rows


@pytest.fixture
def hub(monkeypatch):
    """Puts a Builder in the place of `datasets.load_dataset_builder`."""

    def install(rows, **options):
        builder = Builder(rows, **options)
        monkeypatch.setattr("datasets.load_dataset_builder", builder)
        return builder

    return install


class TestFetching:
    @pytest.mark.parametrize("name", list(TASKS))
    def test_rows_with_the_fields_that_are_used(self, name, hub):
        builder = hub([HUB_ROWS[name]] * 2)
        rows, commit = fetch(TASKS[name], "")
        assert rows == [{field: HUB_ROWS[name][field] for field in FIELDS[name]}] * 2
        assert commit == COMMIT
        split = SPLITS[name]
        assert builder.asked == ([f"{split}, streaming"] if name == "c4" else ["prepare", split])

    def test_what_is_asked_for(self, hub):
        for name, dataset, config, files, revision in [
            ("wikitext2", "Salesforce/wikitext", "wikitext-2-raw-v1", None, None),
            ("ptb", "ptb-text-only/ptb_text_only", None, "penn_treebank/test/*.parquet", "refs/convert/parquet"),
            ("c4", "allenai/c4", None, "en/c4-validation.00000-of-00008.json.gz", None),
            ("arc_easy", "allenai/ai2_arc", "ARC-Easy", None, None),
            ("arc_challenge", "allenai/ai2_arc", "ARC-Challenge", None, None),
        ]:
            builder = hub([HUB_ROWS[name]])
            fetch(TASKS[name], "")
            data_files = {SPLITS[name]: files} if files else None
            assert builder.given == ((dataset, config), {"data_files": data_files, "revision": revision})

    def test_c4_is_not_read_to_its_end(self, hub):
        builder = hub({"text": str(number)} for number in range(1200))
        rows, _ = fetch(TASKS["c4"], "")
        assert len(rows) == 1100 and rows[-1] == {"text": "1099"}
        assert next(builder.rows) == {"text": "1100"}

    def test_a_hash_that_is_no_commit(self, hub):
        for other in ("0123456789abcdef", COMMIT + "0" * 24, None):
            hub([HUB_ROWS["ptb"]], commit=other)
            assert fetch(TASKS["ptb"], "")[1] is None

    def test_by_datasets_itself(self, tmp_path, monkeypatch):
        """From directories laid out as the repositories are: a configuration of Parquet files, a file of many."""
        import dataclasses

        import datasets

        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        arc = tmp_path / "arc"
        rows = [HUB_ROWS["arc_easy"] | {"id": str(number)} for number in range(3)]
        for config, kept in {"ARC-Easy": rows, "ARC-Challenge": rows[:1]}.items():
            (arc / config).mkdir(parents=True)
            for split in ("train", "test"):
                chosen = kept if split == "test" else rows[:2]
                datasets.Dataset.from_list(chosen).to_parquet(arc / config / f"{split}-00000-of-00001.parquet")
        configs = "".join(
            f"- config_name: {config}\n  data_files:\n  - split: train\n    path: {config}/train-*\n"
            f"  - split: test\n    path: {config}/test-*\n"
            for config in ("ARC-Easy", "ARC-Challenge")
        )
        (arc / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
        task = TASKS["arc_easy"]
        local = dataclasses.replace(task, hub=dataclasses.replace(task.hub, dataset=str(arc)))
        assert fetch(local, "") == ([{field: row[field] for field in FIELDS["arc_easy"]} for row in rows], None)

        c4 = tmp_path / "c4" / "en"
        c4.mkdir(parents=True)
        for shard in range(2):
            lines = "".join(json.dumps(HUB_ROWS["c4"] | {"text": f"{shard}, {n}"}) + "\n" for n in range(3))
            (c4 / f"c4-validation.0000{shard}-of-00008.json.gz").write_bytes(gzip.compress(lines.encode()))
        task = TASKS["c4"]
        local = dataclasses.replace(task, hub=dataclasses.replace(task.hub, dataset=str(tmp_path / "c4")))
        assert fetch(local, "")[0] == [{"text": "0, 0"}, {"text": "0, 1"}, {"text": "0, 2"}]

        for split in ("train", "test"):
            folder = tmp_path / "ptb" / "penn_treebank" / split
            folder.mkdir(parents=True)
            datasets.Dataset.from_list([{"sentence": split}]).to_parquet(folder / "0000.parquet")
        task = TASKS["ptb"]
        local = dataclasses.replace(task, hub=dataclasses.replace(task.hub, dataset=str(tmp_path / "ptb")))
        assert fetch(local, "")[0] == [{"sentence": "test"}]


class TestErrors:
    def test_without_a_connection(self):
        """The suite forbids datasets to connect."""
        with pytest.raises(NeuronMMError) as raised:
            fetch(TASKS["mathqa"], "Give it files.")
        assert "of the task mathqa, regisss/math_qa (test), could not be fetched (" in str(raised.value)
        assert str(raised.value).endswith(f"({type(raised.value.__cause__).__name__}). Give it files.")

    @pytest.mark.parametrize("error", [OSError, ValueError])
    def test_a_fetch_that_breaks_off(self, error, hub):
        def rows():
            yield HUB_ROWS["ptb"]
            raise error("the line went dead")

        hub(rows())
        with pytest.raises(NeuronMMError, match=rf"could not be fetched \({error.__name__}\)") as raised:
            fetch(TASKS["ptb"], "")
        assert str(raised.value.__cause__) == "the line went dead"

    def test_a_field_that_is_missing_is_not_put_down_to_the_connection(self, hub):
        hub([HUB_ROWS["ptb"], {"text": "a"}])
        with pytest.raises(
            NeuronMMError, match=r'^ptb-text-only/ptb_text_only \(test\), row 2: the field "sentence" is missing'
        ):
            fetch(TASKS["ptb"], "")


def test_names():
    assert hub_source(TASKS["arc_easy"]) == "allenai/ai2_arc (ARC-Easy, test)"
    assert hub_source(TASKS["hellaswag"]) == "Rowan/hellaswag (validation)"
    assert place(TASKS["hellaswag"], 3) == "Rowan/hellaswag (validation), row 3"


def test_the_digest_is_of_json_lines():
    rows = [{"b": ["\u00e9"], "a": 1}, {"a": 2}]
    assert digest(rows) == hashlib.sha256(b'{"a":1,"b":["\\u00e9"]}\n{"a":2}\n').hexdigest()
    assert digest(rows) == digest([{"a": 1, "b": ["\u00e9"]}, {"a": 2}]) != digest(rows[::-1])
