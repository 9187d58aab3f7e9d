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

import pytest

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes.data.local_files import decoded, find_file, json_lines, read_bytes
from optimum_neuronmm.recipes.data.tasks import TASKS


ARC, C4, PTB = TASKS["arc_easy"], TASKS["c4"], TASKS["ptb"]


@pytest.fixture(autouse=True)
def no_default(monkeypatch):
    monkeypatch.delenv("NEURONMM_DATA", raising=False)


@pytest.fixture
def touch(tmp_path):
    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("x")
        return tmp_path

    return make


class TestFinding:
    @pytest.mark.parametrize(
        "name",
        [
            "arc_easy.test.jsonl",
            "arc_easy.test.jsonl.gz",
            "tasks/arc_easy.test.jsonl",
            "corpora/arc_easy.test-100.jsonl.gz",
        ],
    )
    def test_in_a_directory(self, touch, name):
        root = touch(
            name, "arc_challenge.test.jsonl", "arc_easy.train.jsonl", "arc_easy.test.txt", "x.arc_easy.test.jsonl"
        )
        assert find_file(ARC, root) == find_file(ARC, str(root)) == root / name

    def test_the_suffix_is_that_of_the_task(self, touch):
        root = touch(
            "corpora/ptb.test.txt.gz", "corpora/ptb.test.jsonl", "c4.validation-2k.jsonl.gz", "c4.validation.txt"
        )
        assert find_file(PTB, root).name == "ptb.test.txt.gz"
        assert find_file(C4, root).name == "c4.validation-2k.jsonl.gz"

    def test_a_folder_of_that_name_is_no_file(self, touch):
        root = touch("arc_easy.test.jsonl/readme", "tasks/arc_easy.test.jsonl")
        assert find_file(ARC, root) == root / "tasks" / "arc_easy.test.jsonl"

    def test_a_single_file(self, touch):
        root = touch("mine.jsonl")
        assert find_file(ARC, {"arc_easy": root / "mine.jsonl"}) == root / "mine.jsonl"
        assert find_file(ARC, {"arc_easy": str(root / "mine.jsonl")}) == root / "mine.jsonl"

    def test_the_hub_is_the_last_choice(self, touch, monkeypatch):
        root = touch("arc_easy.test.jsonl", "mine.jsonl", "other/arc_easy.test.jsonl")
        assert find_file(ARC, None) is None
        assert find_file(ARC, {"mathqa": root / "mine.jsonl"}) is None
        monkeypatch.setenv("NEURONMM_DATA", "")
        assert find_file(ARC, None) is None
        monkeypatch.setenv("NEURONMM_DATA", str(root))
        assert find_file(ARC, None) == root / "arc_easy.test.jsonl"
        assert find_file(ARC, {"mathqa": root / "mine.jsonl"}) == root / "arc_easy.test.jsonl"
        assert find_file(ARC, {"arc_easy": root / "mine.jsonl"}) == root / "mine.jsonl"
        assert find_file(ARC, root / "other") == root / "other" / "arc_easy.test.jsonl"


class TestNotFinding:
    def test_no_file_lists_what_is_there(self, touch):
        root = touch("tasks/mathqa.test.jsonl", "notes.md")
        with pytest.raises(NeuronMMError) as raised:
            find_file(ARC, root)
        assert str(raised.value) == (
            f"The directory of data {root} has no file for the task arc_easy: expected one arc_easy.test*.jsonl or "
            "arc_easy.test*.jsonl.gz in it or in its folders corpora and tasks, got notes.md, tasks/mathqa.test.jsonl."
        )

    def test_several_files_are_listed(self, touch):
        root = touch("arc_easy.test.jsonl", "tasks/arc_easy.test.jsonl.gz", "notes.md")
        with pytest.raises(
            NeuronMMError, match="has several files .*, got arc_easy.test.jsonl, tasks/arc_easy.test.jsonl.gz"
        ):
            find_file(ARC, root)

    def test_an_empty_directory_and_a_full_one(self, touch, tmp_path):
        with pytest.raises(NeuronMMError, match=r"got no files\.$"):
            find_file(ARC, tmp_path)
        with pytest.raises(NeuronMMError, match=r"got 00, 01, .*, 19, \.\.\.\.$"):
            find_file(ARC, touch(*(f"{number:02}" for number in range(21))))

    def test_the_environment_variable_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setenv("NEURONMM_DATA", str(tmp_path / "none"))
        with pytest.raises(NeuronMMError, match="The directory .*none that NEURONMM_DATA names does not exist"):
            find_file(ARC, None)

    def test_what_is_no_directory(self, touch):
        root = touch("a.jsonl")
        with pytest.raises(NeuronMMError, match="data .*none does not exist"):
            find_file(ARC, root / "none")
        with pytest.raises(NeuronMMError, match="is a file, not a directory. A single file is given as arc_easy=FILE"):
            find_file(ARC, root / "a.jsonl")

    def test_a_single_file_that_is_wrong(self, touch):
        root = touch("a.txt", "b.jsonl/readme")
        with pytest.raises(NeuronMMError, match=r"arc_easy must end in \.jsonl or \.jsonl\.gz, got a\.txt"):
            find_file(ARC, {"arc_easy": root / "a.txt"})
        for name in ("none.jsonl", "b.jsonl"):
            with pytest.raises(NeuronMMError, match=f"{name} of the task arc_easy does not exist"):
                find_file(ARC, {"arc_easy": root / name})

    def test_a_file_for_an_unknown_task(self, touch):
        with pytest.raises(NeuronMMError, match="Unknown task 'arc': expected one of wikitext2, "):
            find_file(ARC, {"arc_easy": touch("a.jsonl") / "a.jsonl", "arc": "b.jsonl"})


class TestReading:
    def test_plain_and_compressed(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"some\r\ntext")
        (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"some\r\n") + gzip.compress(b"text"))
        assert read_bytes(tmp_path / "a.txt") == read_bytes(tmp_path / "a.txt.gz") == b"some\r\ntext"

    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: b"text",
            lambda content: content[:-9],
            lambda content: content[:20] + b"x" + content[21:],  # what is stored
            lambda content: content[:10] + b"\xff" + content[11:],  # how it is stored
        ],
    )
    def test_a_damaged_archive(self, tmp_path, damage):
        path = tmp_path / "a.txt.gz"
        path.write_bytes(damage(gzip.compress(bytes(range(200)))))
        with pytest.raises(NeuronMMError, match=r"a\.txt\.gz could not be read: "):
            read_bytes(path)

    def test_a_file_that_cannot_be_read(self, tmp_path):
        with pytest.raises(NeuronMMError, match="could not be read: .*directory"):
            read_bytes(tmp_path)

    def test_text(self, tmp_path):
        assert decoded("\ufeff\u00e9\r\n".encode(), tmp_path) == "\u00e9\r\n"
        with pytest.raises(NeuronMMError, match=r"a\.txt, line 3: the file must be UTF-8 \(invalid start byte\)"):
            decoded(b"a\nb\nc \xff\n", tmp_path / "a.txt")
        with pytest.raises(NeuronMMError, match="line 1: the file must be UTF-8"):
            decoded(b"\xff\n", tmp_path / "a.txt")


class TestLines:
    def test_objects_and_their_places(self, tmp_path):
        text = '{"a": 1}\r\n\n{"a": "\u2028"}\n \n{"a": 3}'
        assert json_lines(text, tmp_path / "a.jsonl") == [
            ("a.jsonl, line 1", {"a": 1}),
            ("a.jsonl, line 3", {"a": "\u2028"}),
            ("a.jsonl, line 5", {"a": 3}),
        ]

    def test_a_limit_leaves_the_rest_unread(self, tmp_path):
        assert [row["a"] for _, row in json_lines('{"a": 1}\n{"a": 2}\nnot', tmp_path, 2)] == [1, 2]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('{"a": 1', r"not JSON \("),
            ('{"a": 1} {"a": 2}', r"not JSON \(Extra data"),
            ("[" * 100_000, r"not JSON \("),
            ("[1]", "expected a JSON object, got list"),
            ("null", "expected a JSON object, got NoneType"),
        ],
    )
    def test_errors(self, tmp_path, line, message):
        with pytest.raises(NeuronMMError, match=rf"^a\.jsonl, line 2: {message}"):
            json_lines('{"a": 1}\n' + line, tmp_path / "a.jsonl")
