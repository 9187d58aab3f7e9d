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
import subprocess
import sys

import pytest

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes.data.hub import digest
from optimum_neuronmm.recipes.data.hub_rows import FIELDS
from optimum_neuronmm.recipes.data.local_files import json_lines
from optimum_neuronmm.recipes.data.sources import load_data
from optimum_neuronmm.recipes.data.tasks import MULTIPLE_CHOICE, TASKS
from optimum_neuronmm.recipes.data.texts import rows_of_file

from .example_rows import HUB_ROWS, as_hub_row, lm_eval_requests, lm_eval_task, local_row


CHOICES = [name for name, task in TASKS.items() if task.kind == MULTIPLE_CHOICE]
COMMIT = "210d026faf9955653af8916fad021475a3f00453"
# The uncompressed files of the shared data: their sha256, and how many examples or characters they give.
SHARED = {
    "wikitext2": ("173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08", 1_294_336),
    "ptb": ("91a2fa938d84baddaa05a3d67a5698924847eca8a4e7faa1518f3fd11c3d6d73", 442_422),
    "c4": ("b95be438166852593c16bcfd48877bc75f0f547ca0bb4a3540b8b3de62831a97", 2_356_922),
    "openbookqa": ("4cab25ce1e63f9501bf9e2de788d2ac301e14b78164cecea78a0ac840e8cbae1", 500),
    "arc_easy": ("83a8602b410eeb0aaf1d1a511d32a74da24f4dadd043822b5a119b16e661966d", 2376),
    "arc_challenge": ("60619285301b96db8d8bcd06c990af42ecd49cd0e25fd4e58db46ae5ac76ba9b", 1172),
    "winogrande": ("b751471a0956d18d61ecb905c840f79f73a3a45706226f89891c22e802ea7317", 1267),
    "hellaswag": ("bbfa2c0fd843a1c9ed26645cd828f8500ce46e061148823b8b880c5cf8070942", 10042),
    "mathqa": ("3d7ad2ecd2b4c36dfe1b26c99d6aa3be6140cff4a84f627e7ed5ba3d7514a6b5", 2985),
}
# The right choice of the first example of each, checked by hand against the files: which it is, and the sha256 of its context
# and continuation. The texts themselves are not ours to copy.
FIRST = {
    "openbookqa": (1, "104379e1c02036987557f386910cb95144007769197193ad0455c86e9741bb9b"),
    "arc_easy": (0, "113e6ef23e3f3a43134f4fe9ae622fa01dfecdf4782c61e2ed21fb9ad5f690a0"),
    "arc_challenge": (2, "8ac2fd0e1f312311ad6810971185ef363285aa8edb8858a18d0038c72853d8e4"),
    "winogrande": (1, "31a851b004577a0c36ffd4302d4f857ec9e0016cd641cc6f851f2c78632fdd85"),
    "hellaswag": (3, "91f120de674bcb9ac35f3c086b4922789a3b8255bddf044706f375cfaee4468c"),
    "mathqa": (0, "e1289cc9e77e5fff1565b61abe15fbd659dd14f31b7dd081d72e446c5138a18f"),
}


@pytest.fixture(autouse=True)
def no_default(monkeypatch):
    monkeypatch.delenv("NEURONMM_DATA", raising=False)


@pytest.fixture
def hub(monkeypatch):
    """Has the Hub give these rows."""

    def give(rows, commit=COMMIT):
        class Builder:
            hash = commit

            def download_and_prepare(self):
                pass

            def as_dataset(self, split):
                return rows

            as_streaming_dataset = as_dataset

        monkeypatch.setattr("datasets.load_dataset_builder", lambda *args, **options: Builder())

    return give


def write(path, *rows: dict):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class TestLocal:
    @pytest.mark.parametrize("name", CHOICES)
    def test_questions(self, name, tmp_path):
        path = write(tmp_path / f"{TASKS[name].file}.jsonl", local_row(name), local_row(name, id="2", label=0))
        data = load_data(TASKS[name], data=tmp_path)
        assert data.source == path.name
        assert data.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert [(q.id, q.label, q.place) for q in data.rows] == [
            (f"{name}-1", 1, f"{path.name}, line 1"),
            ("2", 0, f"{path.name}, line 2"),
        ]
        if name == "hellaswag":
            [note] = data.notes
            assert "used as the file has it" in note
        else:
            assert data.notes == ()

    def test_the_hash_is_of_what_is_compressed(self, tmp_path):
        path = write(tmp_path / "a.jsonl", local_row("mathqa"))
        (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
        plain = load_data(TASKS["mathqa"], data={"mathqa": path})
        packed = load_data(TASKS["mathqa"], data={"mathqa": tmp_path / "b.jsonl.gz"})
        assert (plain.sha256, packed.source) == (packed.sha256, "b.jsonl.gz")

    def test_texts_and_their_layouts(self, tmp_path):
        (tmp_path / "wikitext2.test.txt").write_bytes(b" \n = A = \n \n Text . \n")
        (tmp_path / "ptb.test.txt").write_bytes(b" no it \n was \n not ")
        write(tmp_path / "c4.validation.jsonl", {"text": "One.\nTwo."}, {"text": ""}, {"text": "Three."})
        wikitext, ptb, c4 = (TASKS[name] for name in ("wikitext2", "ptb", "c4"))
        assert load_data(wikitext, data=tmp_path).rows == "\n\n = A = \n\n\n\n\n Text . \n"
        assert load_data(wikitext, data=tmp_path, layout="raw").rows == " \n = A = \n \n Text . \n"
        assert load_data(ptb, data=tmp_path).rows == "no it was not"
        assert load_data(ptb, data=tmp_path, layout="blank_lines").rows == "no it\n\nwas\n\nnot"
        data = load_data(c4, data=tmp_path, layout="joined")
        assert data.rows == "One.\nTwo.  Three."
        assert data.notes == ("There are 3 documents, and the usual text has the first 1100.",)

    def test_c4_has_no_note_when_it_is_whole(self, tmp_path):
        path = write(tmp_path / "c4.validation.jsonl", *({"text": f"{number}"} for number in range(1100)))
        path.write_text(path.read_text() + "not read")
        data = load_data(TASKS["c4"], data=tmp_path)
        assert data.notes == () and data.rows.endswith(" 1098 1099")

    def test_the_raw_file_is_taken_as_it_is(self, tmp_path):
        (tmp_path / "wikitext2.test.txt").write_bytes(b"a\n\n  \nb")
        assert load_data(TASKS["wikitext2"], data=tmp_path, layout="raw").rows == "a\n\n  \nb"

    def test_line_ends_of_windows(self, tmp_path):
        (tmp_path / "wikitext2.test.txt").write_bytes(b" = A = \r\n \r\n Text . \r\n")
        for layout, expected in [("raw", " = A = \n \n Text . \n"), ("joined", " = A = \n\n\n\n\n Text . \n")]:
            data = load_data(TASKS["wikitext2"], data=tmp_path, layout=layout)
            assert (data.rows, data.notes) == (expected, ("Line ends of the file (CR LF) were read as LF.",))
            assert data.sha256 == hashlib.sha256(b" = A = \r\n \r\n Text . \r\n").hexdigest()


class TestErrors:
    @pytest.mark.parametrize("content", ["", " \n\n", "\ufeff"])
    @pytest.mark.parametrize("name", list(TASKS))
    def test_an_empty_file(self, name, content, tmp_path):
        path = tmp_path / f"{TASKS[name].file}{TASKS[name].suffix}"
        path.write_text(content, encoding="utf-8")
        what = "no examples" if name in CHOICES else "no text"
        for layout in TASKS[name].layouts or (None,):
            with pytest.raises(NeuronMMError, match=f"{path.name} is empty: it holds {what}"):
                load_data(TASKS[name], data=tmp_path, layout=layout)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (b'{"id": "2"', "not JSON"),
            (b"[]", "expected a JSON object, got list"),
            (b'{"id": "2"}', 'the field "choices" is missing'),
            (json.dumps(local_row("mathqa")).encode(), "the \"id\" 'mathqa-1' is that of mathqa.test.jsonl, line 1"),
            (json.dumps(local_row("mathqa", id="2", question="\ud83d")).encode(), '"question" is not valid Unicode'),
            (b'{"id": "\xff"}', "the file must be UTF-8"),
        ],
    )
    def test_a_line_is_named(self, line, message, tmp_path):
        path = write(tmp_path / "mathqa.test.jsonl", local_row("mathqa"))
        path.write_bytes(path.read_bytes() + line)
        with pytest.raises(NeuronMMError, match=f"mathqa.test.jsonl, line 2: {message}"):
            load_data(TASKS["mathqa"], data=tmp_path)

    @pytest.mark.parametrize("row", [{"txt": "a"}, {"text": 3}, {"text": "\udc00"}])
    def test_a_document_without_text(self, row, tmp_path):
        write(tmp_path / "c4.validation.jsonl", {"text": "a"}, row)
        with pytest.raises(NeuronMMError, match='c4.validation.jsonl, line 2: (the field )?"text" '):
            load_data(TASKS["c4"], data=tmp_path)

    def test_an_unknown_layout_is_found_before_the_data(self, tmp_path):
        with pytest.raises(NeuronMMError, match="no layout 'raw'"):
            load_data(TASKS["ptb"], data=tmp_path / "none", layout="raw")

    def test_without_a_connection_it_says_what_to_give(self):
        with pytest.raises(NeuronMMError) as raised:
            load_data(TASKS["winogrande"])
        message = str(raised.value)
        assert message.startswith(
            "The data of the task winogrande, allenai/winogrande (winogrande_xl, validation), could"
        )
        assert message.endswith(
            "Without a connection, give local files: --data DIR, or NEURONMM_DATA=DIR, with a directory in which there is "
            "a file winogrande.validation*.jsonl or winogrande.validation*.jsonl.gz."
        )
        assert raised.value.__cause__ is not None


class TestHub:
    @pytest.mark.parametrize("name", CHOICES)
    def test_questions(self, name, hub):
        second = HUB_ROWS[name] | ({"id": "other"} if "id" in HUB_ROWS[name] else {})
        hub([HUB_ROWS[name], second])
        task = TASKS[name]
        data = load_data(task)
        inside = f"{task.hub.config}, {task.split}" if task.hub.config else task.split
        assert data.source == f"{task.hub.dataset} ({inside}) at {COMMIT}"
        assert data.sha256 == digest(
            [{field: row[field] for field in FIELDS[name]} for row in (HUB_ROWS[name], second)]
        )
        assert [q.place for q in data.rows] == [f"{task.hub.dataset} ({inside}), row {n}" for n in (1, 2)]
        assert len({q.id for q in data.rows}) == 2 and data.notes == ()

    def test_texts(self, hub):
        hub([{"text": ""}, {"text": " = A = \n"}], commit=None)
        data = load_data(TASKS["wikitext2"], layout="raw")
        assert (data.rows, data.source) == (" \n = A = \n", "Salesforce/wikitext (wikitext-2-raw-v1, test)")
        assert load_data(TASKS["wikitext2"]).rows == "\n\n = A = \n"
        hub([{"sentence": "no it"}, {"sentence": "was"}])
        assert load_data(TASKS["ptb"], layout="blank_lines").rows == "no it\n\nwas"
        hub([HUB_ROWS["c4"]])
        data = load_data(TASKS["c4"])
        assert data.rows == HUB_ROWS["c4"]["text"] and "There are 1 documents" in data.notes[0]

    def test_errors_name_the_row(self, hub):
        hub([HUB_ROWS["mathqa"], HUB_ROWS["mathqa"] | {"options": "a ) 1 , e ) 2", "correct": "d"}])
        with pytest.raises(
            NeuronMMError, match=r'^regisss/math_qa \(test\), row 2: "label" must be from 0 to 1, got 3'
        ):
            load_data(TASKS["mathqa"])
        hub([])
        with pytest.raises(NeuronMMError, match=r"^regisss/math_qa \(test\) at \w+ is empty: it holds no examples"):
            load_data(TASKS["mathqa"])


class TestSharedData:
    @pytest.mark.parametrize("name", list(TASKS))
    def test_what_is_there(self, name, corpora):
        data = load_data(TASKS[name], data=corpora.parent)
        assert (data.sha256, len(data.rows)) == SHARED[name]

    @pytest.mark.parametrize("name", CHOICES)
    def test_a_prompt(self, name, corpora):
        question = load_data(TASKS[name], data=corpora.parent).rows[0]
        label, digest = FIRST[name]
        assert question.label == label
        assert hashlib.sha256("\0".join(question.rows[label]).encode()).hexdigest() == digest

    def test_the_one_empty_option(self, corpora):
        questions = load_data(TASKS["mathqa"], data=corpora.parent).rows
        [(question, index)] = [(q, i) for q in questions for i, length in enumerate(q.lengths) if length == 0]
        assert question.id == "mathqa-test-1041" and question.rows[index][1] == " "

    @pytest.mark.parametrize("name", CHOICES)
    def test_the_first_examples_as_lm_eval_builds_them(self, name, corpora):
        data = load_data(TASKS[name], data=corpora.parent)
        path = corpora.parent / "tasks" / data.source
        rows = [row for _, row in json_lines(gzip.decompress(path.read_bytes()).decode(), path, 50)]
        changes = {"process_docs": None, "doc_to_text": "{{context}}"} if name == "hellaswag" else {}
        expected = lm_eval_requests(lm_eval_task(name, [as_hub_row(name, row) for row in rows], **changes))
        assert len(expected) == 50
        assert [(q.rows, q.label, q.lengths) for q in data.rows[:50]] == expected

    @pytest.mark.parametrize("name", ["openbookqa", "arc_easy", "arc_challenge", "winogrande", "mathqa"])
    def test_the_hubs_rows_give_the_same_questions(self, name, corpora, hub):
        local = load_data(TASKS[name], data=corpora.parent)
        path = corpora.parent / "tasks" / local.source
        rows = [row for _, row in json_lines(gzip.decompress(path.read_bytes()).decode(), path)]
        hub([as_hub_row(name, row) for row in rows])
        remote = load_data(TASKS[name])
        assert [(q.rows, q.label, q.lengths) for q in remote.rows] == [
            (q.rows, q.label, q.lengths) for q in local.rows
        ]

    @pytest.mark.parametrize("name", ["wikitext2", "ptb", "c4"])
    def test_the_hubs_rows_give_the_same_text(self, name, corpora, hub):
        task = TASKS[name]
        [path] = corpora.glob(f"{task.file}*")
        text = gzip.decompress(path.read_bytes()).decode()
        if name == "c4":
            rows = [row for _, row in json_lines(text, path)]
        else:
            rows = [{FIELDS[name][0]: row} for row in rows_of_file(task, text)]
            assert len(rows) == {"wikitext2": 4358, "ptb": 3761}[name]
        hub(rows)
        for layout in task.layouts:
            assert load_data(task, layout=layout).rows == load_data(task, data=corpora, layout=layout).rows

    def test_wikitexts_rows_are_those_that_the_papers_join(self, corpora):
        text = gzip.decompress((corpora / "wikitext2.test.txt.gz").read_bytes()).decode()
        rows = ["" if not line.strip() else line + "\n" for line in text.split("\n")[:-1]]
        assert load_data(TASKS["wikitext2"], data=corpora).rows == "\n\n".join(rows)
        assert load_data(TASKS["wikitext2"], data=corpora, layout="raw").rows == text


def test_local_data_need_no_slow_import():
    code = "import sys; import optimum_neuronmm.recipes.data.sources; print(sorted({'datasets', 'torch', 'evaluate'} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
