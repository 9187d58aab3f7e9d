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
"""Training text: sources, forms of their lines, windows, and the order in which they are seen."""

import gzip
import hashlib
import json
import sys
from types import SimpleNamespace

import pytest
import torch

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recovery import RecoveryConfig
from optimum_neuronmm.recovery import data as data_module
from optimum_neuronmm.recovery.data import RecoveryText, Schedule, collect_text
from optimum_neuronmm.recovery.sources import check_sources, documents, joiner, label

from .conftest import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def config_for(*sources, **options):
    options = {"tokens": 8 * 4 * 6, "sequence_length": 8, "batch_size": 4, "held_out": 2, **options}
    return RecoveryConfig(data=[str(source) for source in sources], **options)


def write_lines(path, *rows):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.writelines((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    return str(path)


class TestSources:
    @pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
    def test_the_pieces_of_a_text_are_the_text(self, tmp_path, suffix):
        path = tmp_path / f"a{suffix}"
        opened = gzip.open if suffix.endswith("gz") else open
        with opened(path, "wt", encoding="utf-8") as file:
            file.write("\n two lines of wörds\n" * 5000)
        pieces = list(documents(str(path)))
        assert len(pieces) > 1 and joiner(str(path)).join(pieces) == "\n two lines of wörds\n" * 5000

    @pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
    def test_lines_with_text(self, tmp_path, suffix):
        path = write_lines(tmp_path / f"a{suffix}", {"text": "one"}, "", {"text": "two", "instruction": 3})
        assert list(documents(path)) == ["one", "two"] and joiner(path) == "\n\n"

    def test_lines_with_an_instruction_take_the_form_of_alpaca(self, tmp_path):
        path = write_lines(
            tmp_path / "a.jsonl",
            {"instruction": "Add.", "input": "1 {2}", "output": "3"},
            {"instruction": "Sing.", "input": "", "output": "La."},
            {"instruction": "Sing.", "input": None, "output": "La."},
            {"instruction": "Sing.", "output": "La."},
        )
        with_input, *without = documents(path)
        assert with_input == (
            "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
            "response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 {2}\n\n"
            "### Response:\n3"
        )
        expected = (
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
            "\n\n### Instruction:\nSing.\n\n### Response:\nLa."
        )
        assert without == [expected] * 3

    @pytest.mark.parametrize(
        ("line", "match"),
        [
            ("{broken", "a.jsonl, line 3: not JSON"),
            ("[1]", 'a.jsonl, line 3: expected a JSON object with "text", or with "instruction" and "output"'),
            ('{"instruction": "x"}', 'line 3: expected a JSON object with "text", or'),
            ('{"text": 5}', 'line 3: "text" must be a string, got int'),
            ('{"instruction": "x", "output": []}', 'line 3: "output" must be a string, got list'),
            ('{"instruction": "x", "input": 7, "output": "y"}', 'line 3: "input" must be a string, got int'),
            ('{"text": "\\ud800"}', 'line 3: "text" is not valid Unicode'),
        ],
    )
    def test_a_malformed_line_is_named(self, tmp_path, line, match):
        path = write_lines(tmp_path / "a.jsonl", {"text": "one"}, "", line)
        with pytest.raises(NeuronMMError, match=match):
            list(documents(path))

    @pytest.mark.parametrize(
        ("name", "content"), [("a.txt", b"\xff\xfe\xff"), ("a.txt.gz", b"plain"), ("a.jsonl.gz", b"\x1f\x8b\x08")]
    )
    def test_a_file_that_cannot_be_read(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(NeuronMMError, match=f"{name} could not be read"):
            list(documents(str(tmp_path / name)))

    def test_what_is_no_source(self, tmp_path):
        (tmp_path / "a.txt").write_text("x")
        for sources, match in (
            (
                ["wikitext3"],
                "Unknown source of data 'wikitext3': expected 'wikitext2', 'c4', 'alpaca-cleaned', or a file",
            ),
            (["self"], "Unknown source of data 'self'"),
            ([str(tmp_path / "b.txt")], "b.txt does not exist"),
            (["c4", "c4"], "c4 is given twice"),
            ([str(tmp_path / "a.txt"), str(tmp_path / "." / "a.txt")], "a.txt is given twice"),
        ):
            with pytest.raises(NeuronMMError, match=match):
                check_sources(sources)
        check_sources(["wikitext2", "c4", "alpaca-cleaned", str(tmp_path / "a.txt")])

    def test_datasets(self, monkeypatch):
        asked = []

        def load_dataset(repository, subset, **options):
            asked.append((repository, options["streaming"]))
            if repository == "allenai/c4":
                raise ConnectionError("no route")
            return [{"instruction": "Sing.", "input": "", "output": "La."}]

        monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
        (text,) = documents("alpaca-cleaned")
        assert text.endswith("Sing.\n\n### Response:\nLa.") and joiner("alpaca-cleaned") == "\n\n"
        with pytest.raises(
            NeuronMMError, match=r"c4 \(allenai/c4\) could not be fetched \(ConnectionError\).*--data FILE"
        ):
            list(documents("c4"))
        assert asked == [("yahma/alpaca-cleaned", False), ("allenai/c4", True)]
        assert label("c4") == "c4" and label("/private/a.txt") == "a.txt"


class TestWindows:
    def test_they_are_disjoint_and_the_last_are_held_out(self, tmp_path, tokenizer):
        text = "".join(chr(97 + index // 26 % 26) + chr(97 + index % 26) for index in range(400))
        (tmp_path / "a.txt").write_text(text)
        found = collect_text(config_for(tmp_path / "a.txt"), tokenizer)
        assert found.train[0].shape == (24, 8) and found.held_out[0].shape == (2, 8)
        together = torch.cat([found.train[0], found.held_out[0]])
        assert tokenizer.decode(together.flatten()) == text[: 26 * 8]
        digest = hashlib.sha256(together.numpy().tobytes()).hexdigest()
        (source,) = found.sources
        assert source == {"source": "a.txt", "windows": 24, "held_out": 2, "passes": 1.0, "sha256": digest}

    def test_chunks_do_not_change_the_tokens(self, tmp_path, tokenizer, monkeypatch):
        (tmp_path / "a.txt").write_text("some words " * 100)
        write_lines(tmp_path / "b.jsonl", *({"text": f"line {index}"} for index in range(100)))
        config = config_for(tmp_path / "a.txt", tmp_path / "b.jsonl", tokens=8 * 200)
        whole = collect_text(config, tokenizer)
        monkeypatch.setattr(data_module, "_CHUNK", 50)
        cut = collect_text(config, tokenizer)
        assert [source["sha256"] for source in cut.sources] == [source["sha256"] for source in whole.sources]
        assert tokenizer.decode(whole.train[1].flatten()).startswith("line 0\n\nline 1\n\nline 2")

    def test_every_window_begins_with_bos_where_texts_do(self, tmp_path):
        from tokenizers.processors import TemplateProcessing

        tokenizer = build_tokenizer()
        bos = tokenizer.convert_tokens_to_ids("<|endoftext|>")
        tokenizer.bos_token = "<|endoftext|>"
        template = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", bos)])
        tokenizer._tokenizer.post_processor = template
        (tmp_path / "a.txt").write_text("abcdefghijklmnopqrstuvwxyz" * 40)
        found = collect_text(config_for(tmp_path / "a.txt"), tokenizer)
        windows = torch.cat([found.train[0], found.held_out[0]])
        assert windows.shape == (26, 8)
        assert (windows[:, 0] == bos).all() and not (windows[:, 1:] == bos).any()
        assert tokenizer.decode(windows[:, 1:].flatten()).startswith("abcdefghijklmnopqrstuvwxyzabc")

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("", "holds no text"),
            (" \n" * 99, "holds no text"),
            ("x" * 23, "23 tokens make 2 windows of 8, and 3 are needed"),
        ],
    )
    def test_a_text_that_is_too_short(self, tmp_path, tokenizer, text, match):
        (tmp_path / "a.txt").write_text(text)
        with pytest.raises(NeuronMMError, match=match):
            collect_text(config_for(tmp_path / "a.txt"), tokenizer)

    def test_they_survive_being_stored(self, tmp_path, tokenizer):
        for name in ("a.txt", "b.txt"):
            (tmp_path / name).write_text(name * 100)
        text = collect_text(config_for(tmp_path / "a.txt", tmp_path / "b.txt"), tokenizer)
        again = RecoveryText.from_tensors(text.tensors(), text.sources)
        for part in ("train", "held_out"):
            assert all(torch.equal(*pair) for pair in zip(getattr(text, part), getattr(again, part), strict=True))


class TestSchedule:
    def schedule(self, *lengths, seed=0):
        train = [
            torch.arange(length).unsqueeze(1).repeat(1, 2) + 100 * source for source, length in enumerate(lengths)
        ]
        return Schedule(RecoveryText(train, [], []), seed)

    def test_sources_take_turns_whatever_their_size(self):
        seen = self.schedule(3, 50).windows(0, 12)[:, 0]
        assert [value.item() // 100 for value in seen] == [0, 1] * 6

    def test_a_pass_sees_every_window_once_and_each_pass_has_its_order(self):
        seen = self.schedule(20).windows(0, 60)[:, 0].view(3, 20)
        assert all(sorted(one.tolist()) == list(range(20)) for one in seen)
        assert len({tuple(one.tolist()) for one in seen}) == 3

    def test_it_depends_on_the_seed_and_on_nothing_else(self):
        whole = self.schedule(20, 7).windows(0, 30)
        parts = self.schedule(20, 7)
        assert torch.equal(whole[11:30], parts.windows(11, 30)) and torch.equal(whole[:11], parts.windows(0, 11))
        assert not torch.equal(whole, self.schedule(20, 7, seed=1).windows(0, 30))
