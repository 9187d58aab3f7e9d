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
"""Calibration text: what windows come out of which sources, and what each kind of bad text is answered."""

import gzip
import json
import sys
from types import SimpleNamespace

import pytest
import torch

from optimum_neuronmm.calibration import (
    calibration_windows,
    check_sources,
    check_vocabulary,
    document_start,
    file_stats,
    held_out_count,
    read_documents,
)
from optimum_neuronmm.configuration import NeuronMMConfig
from optimum_neuronmm.errors import NeuronMMError

from .conftest import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def bos_tokenizer():
    """One that begins every text with BOS, as those of Llama do."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = build_tokenizer()
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
    )
    assert tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    return tokenizer


@pytest.fixture
def numbers(tmp_path):
    """A text in which no piece of 8 tokens occurs twice: the numbers 10000, 10001, ..."""
    path = tmp_path / "numbers.txt"
    path.write_text(" ".join(str(number) for number in range(10_000, 14_000)))
    return path


def config_of(*sources, samples=8, length=32, **options):
    return NeuronMMConfig(
        calibration=[str(source) for source in sources],
        calibration_samples=samples,
        calibration_length=length,
        **options,
    )


def no_samples(count, length):
    raise AssertionError("nothing is sampled for a file")


def collect(tokenizer, *sources, sample=no_samples, **options):
    return calibration_windows(config_of(*sources, **options), tokenizer, sample)


def rows(windows):
    return [tuple(window) for window in windows.tolist()]


def test_windows_are_pieces_of_the_text_and_no_token_is_in_two(tokenizer, numbers):
    text = collect(tokenizer, numbers)
    assert text.windows.shape == (8, 32) and text.windows.dtype == torch.int64
    assert text.held_out.shape == (4, 32)
    content = numbers.read_text()
    places = [content.index(tokenizer.decode(window)) for window in torch.cat([text.windows, text.held_out])]
    assert all(place % 32 == 0 for place in places)  # disjoint, and not just different
    assert len(set(places)) == 12
    assert text.bos is False


@pytest.mark.parametrize(("samples", "expected"), [(1, 4), (8, 4), (32, 4), (33, 5), (64, 8), (65, 9)])
def test_held_out_windows_are_an_eighth_and_at_least_four(samples, expected):
    assert held_out_count(samples) == expected


def test_the_seed_alone_decides_which_windows(tokenizer, numbers):
    first, again = (collect(tokenizer, numbers, seed=3) for _ in range(2))
    assert torch.equal(first.windows, again.windows) and torch.equal(first.held_out, again.held_out)
    assert first.sources == again.sources
    other = collect(tokenizer, numbers, seed=4)
    assert set(rows(first.windows)) != set(rows(other.windows))
    assert first.sources[0]["sha256"] != other.sources[0]["sha256"]


def test_the_global_generator_is_neither_used_nor_moved(tokenizer, numbers):
    torch.manual_seed(1)
    before, first = torch.get_rng_state(), collect(tokenizer, numbers)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(collect(tokenizer, numbers).windows, first.windows)


def test_a_huge_seed_is_a_seed(tokenizer, numbers):
    assert collect(tokenizer, numbers, seed=2**80).windows.shape == (8, 32)


def test_windows_are_drawn_from_all_of_the_text(tokenizer, numbers):
    """Not its beginning: 12 windows of 24 kB lie in the first third with probability 1e-6."""
    content = numbers.read_text()
    places = [content.index(tokenizer.decode(window)) for window in collect(tokenizer, numbers).windows]
    assert max(places) > len(content) // 3


def test_a_file_and_its_gzip_are_the_same_text(tokenizer, numbers, tmp_path):
    zipped = tmp_path / "numbers.txt.gz"
    zipped.write_bytes(gzip.compress(numbers.read_bytes()))
    plain, packed = collect(tokenizer, numbers), collect(tokenizer, zipped)
    assert torch.equal(plain.windows, packed.windows) and torch.equal(plain.held_out, packed.held_out)
    assert plain.sources[0]["sha256"] == packed.sources[0]["sha256"]


def test_a_text_is_read_as_it_is(tokenizer, tmp_path):
    """Line ends of every kind, a file without one at the end, and characters of several bytes."""
    content = "one\r\ntwo\rthree\n\n\tvier – fünf 六 " * 40
    path = tmp_path / "text.txt"
    path.write_bytes(content.encode())
    assert "".join(read_documents(path)) == content
    text = collect(tokenizer, path, samples=1, length=8)
    whole = tokenizer(content).input_ids
    assert all(list(window) in [whole[i : i + 8] for i in range(0, len(whole), 8)] for window in rows(text.windows))


def test_a_text_of_one_line_is_not_read_to_the_end(tokenizer, tmp_path):
    """One that is compressed to a thousandth: whoever reads all of it needs a gigabyte."""
    path = tmp_path / "line.txt.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(20):
            file.write(b"0123456789" * 100_000)
    pieces = read_documents(path)
    assert len(next(pieces)) < 1_000_000
    assert sum(map(len, read_documents(path))) == 20_000_000
    assert set(tokenizer.decode(collect(tokenizer, path).windows.flatten())) == set("0123456789")


def test_a_byte_order_mark_is_not_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone two")
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps({"text": "one two"}).encode())
    assert list(read_documents(tmp_path / "a.txt")) == ["one two"]
    assert list(read_documents(tmp_path / "a.jsonl")) == ["one two"]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_documents_of_a_jsonl_file_are_joined_by_a_blank_line(tokenizer, tmp_path, suffix):
    documents = [f"{number:05d}" for number in range(2000)]
    lines = "\n".join(json.dumps({"id": 1, "text": document}) for document in documents) + "\n\n"
    path = tmp_path / f"some.documents{suffix}"
    path.write_bytes(gzip.compress(lines.encode()) if suffix.endswith(".gz") else lines.encode())
    assert list(read_documents(path)) == documents
    joined = "\n\n".join(documents)
    for window in collect(tokenizer, path).windows:
        assert tokenizer.decode(window) in joined


def test_jsonl_is_known_by_the_end_of_a_name(tmp_path):
    path = tmp_path / "corpus.jsonl.txt"
    path.write_text("no JSON")
    assert list(read_documents(path)) == ["no JSON"]


def test_several_sources_share_the_windows_evenly(tokenizer, numbers, text_file):
    asked = []

    def sample(count, length):
        asked.append((count, length))
        return torch.full((count, length), 7)

    text = collect(tokenizer, numbers, "self", text_file, samples=8, sample=sample)
    assert asked == [(3 + 1, 32)]
    counts = [(source["source"], source["windows"], source["held_out"]) for source in text.sources]
    assert counts == [("numbers.txt", 3, 2), ("self", 3, 1), ("text.txt", 2, 1)]
    of_source = [
        [tokenizer.decode(window) in path.read_text() for window in text.windows] for path in (numbers, text_file)
    ]
    assert of_source == [[True] * 3 + [False] * 5, [False] * 6 + [True] * 2]
    assert (text.windows == 7).all(1).tolist() == [False] * 3 + [True] * 3 + [False] * 2
    assert (text.held_out == 7).all(1).tolist() == [False, False, True, False]


def test_the_report_gives_the_name_of_a_file_and_not_its_place(tokenizer, numbers):
    assert collect(tokenizer, numbers).sources[0]["source"] == "numbers.txt"


def test_every_window_begins_with_bos_where_the_tokenizer_adds_it(tokenizer, bos_tokenizer, numbers):
    text = collect(bos_tokenizer, numbers)
    assert text.bos is True
    bos = bos_tokenizer.bos_token_id
    for windows in (text.windows, text.held_out):
        assert windows.shape[1] == 32
        assert (windows[:, 0] == bos).all() and (windows[:, 1:] != bos).all()
    content = numbers.read_text()
    places = [content.index(bos_tokenizer.decode(window[1:])) for window in torch.cat([text.windows, text.held_out])]
    assert len(set(places)) == 12 and all(place % 31 == 0 for place in places)


def test_a_bos_token_that_is_only_defined_is_not_added(numbers):
    tokenizer = build_tokenizer()
    tokenizer.bos_token = "<|endoftext|>"
    text = collect(tokenizer, numbers)
    assert text.bos is False and (text.windows != tokenizer.bos_token_id).all()


def test_a_token_after_the_text_is_no_bos(numbers):
    from tokenizers.processors import TemplateProcessing

    tokenizer = build_tokenizer()
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
    )
    text = collect(tokenizer, numbers)
    assert text.bos is False and (text.windows != tokenizer.bos_token_id).all()


def test_exactly_enough_text_is_enough(tokenizer, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("a" * 12 * 32)
    assert collect(tokenizer, path).windows.shape == (8, 32)
    path.write_text("a" * (12 * 32 - 1))
    with pytest.raises(
        NeuronMMError, match="short.txt is too short: 383 tokens make 11 windows of 32, and 12 are need"
    ):
        collect(tokenizer, path)


@pytest.mark.parametrize("content", [b"", b" \n\t\r\n " * 500, b"\xef\xbb\xbf"])
def test_text_without_text_is_refused(tokenizer, tmp_path, content):
    path = tmp_path / "empty.txt"
    path.write_bytes(content)
    with pytest.raises(NeuronMMError, match="empty.txt holds no text"):
        collect(tokenizer, path)


def test_a_jsonl_file_of_empty_documents_is_refused(tokenizer, tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_text('{"text": ""}\n' * 10)
    with pytest.raises(NeuronMMError, match="empty.jsonl holds no text"):
        collect(tokenizer, path)


ZIPPED = gzip.compress(b"a text that goes on and on. " * 1500)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("latin.txt", b"caf\xe9 " * 1000, "latin.txt could not be read.*utf-8"),
        ("plain.txt.gz", b"not compressed at all", "plain.txt.gz could not be read.*[Nn]ot a gzipped"),
        ("cut.txt.gz", ZIPPED[: len(ZIPPED) // 2], "cut.txt.gz could not be read.*end-of-stream"),
        ("damaged.txt.gz", ZIPPED[:30] + b"\xff" * 40 + ZIPPED[70:], "damaged.txt.gz could not be read"),
        ("wrong.txt.gz", ZIPPED[:-8] + bytes(8), "wrong.txt.gz could not be read.*CRC"),
        ("bad.jsonl", b'{"text": "a"}\n{"text": "b"\n', 'bad.jsonl, line 2: expected a JSON object with "text"'),
        ("other.jsonl", b'{"content": "a"}\n', 'other.jsonl, line 1: expected a JSON object with "text"'),
        ("list.jsonl", b'["text"]\n', 'list.jsonl, line 1: expected a JSON object with "text"'),
        ("number.jsonl", b'{"text": "a"}\n\n{"text": 3}\n', 'number.jsonl, line 3: "text" must be a string, got int'),
        ("null.jsonl", b'{"text": null}\n', '"text" must be a string, got NoneType'),
        ("deep.jsonl", b"[" * 200_000 + b"\n", 'deep.jsonl, line 1: expected a JSON object with "text"'),
        ("cut.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 9000)[:60], "cut.jsonl.gz could not be read"),
    ],
)
def test_damaged_files_are_named(tokenizer, tmp_path, name, content, problem):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(NeuronMMError, match=problem):
        collect(tokenizer, path)


def test_half_a_character_of_two_is_refused(tokenizer, tmp_path):
    """JSON can hold a lone surrogate, which no UTF-8 and no tokenizer can."""
    path = tmp_path / "surrogate.jsonl"
    path.write_text('{"text": "' + "a\\ud800" * 4000 + '"}\n')
    with pytest.raises(NeuronMMError, match="surrogate.jsonl"):
        collect(tokenizer, path)


@pytest.mark.parametrize("source", ["wikitext", "text.csv", "Self", "", "text.txt.zip"])
def test_an_unknown_source_gets_the_list(source):
    with pytest.raises(NeuronMMError, match=r"'self', 'wikitext2', 'c4', or a file that ends in .txt, .jsonl"):
        check_sources(SimpleNamespace(calibration=[source], calibration_samples=8))


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_file_that_is_not_there_is_named_before_any_work(tmp_path, make):
    path = tmp_path / "missing.txt"
    make(path)
    with pytest.raises(NeuronMMError, match="missing.txt does not exist"):
        check_sources(config_of("self", path))


def test_a_source_given_twice_is_refused(tmp_path, numbers, monkeypatch):
    """Its windows would be drawn twice, some for the statistics and some held out."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.txt").symlink_to(numbers)
    for twice in (["self", "self"], [numbers, "./numbers.txt"], [numbers, "link.txt"], ["c4", numbers, "c4"]):
        with pytest.raises(NeuronMMError, match="given twice"):
            check_sources(config_of(*twice))
    check_sources(config_of("self", "c4", "wikitext2", numbers))


def test_more_sources_than_windows_are_refused(numbers):
    with pytest.raises(NeuronMMError, match="calibration_samples must be at least the number of .* sources, 2, got 1"):
        check_sources(config_of("self", numbers, samples=1))


def test_as_many_windows_as_sources_are_enough(tokenizer, tmp_path):
    sources = [tmp_path / f"{number}.txt" for number in range(6)]  # more than there are held-out windows
    for source in sources:
        source.write_text("\n" + "some text " * 40)
    text = collect(tokenizer, *sources, samples=6, length=8)
    assert text.windows.shape == (6, 8) and text.held_out.shape == (4, 8)


def test_file_stats_change_with_the_file(numbers):
    before = file_stats(["self", str(numbers), "c4"])
    assert len(before) == 1 and before[0][0] == str(numbers)
    assert file_stats(["self", str(numbers), "c4"]) == before
    numbers.write_text(numbers.read_text() + "!")
    assert file_stats(["self", str(numbers), "c4"]) != before


def test_a_token_that_the_model_does_not_know_is_refused():
    check_vocabulary(9, 10)
    with pytest.raises(NeuronMMError, match="token 10, but the model knows 10 tokens.*another model"):
        check_vocabulary(10, 10)


class TestNamedDatasets:
    @pytest.fixture
    def load_dataset(self, monkeypatch):
        """Stands in for `datasets.load_dataset`; `load_dataset.rows` is what it gives, `load_dataset.calls` what it was asked."""

        def load_dataset(*args, **kwargs):
            load_dataset.calls.append((args, kwargs))
            if isinstance(load_dataset.rows, Exception):
                raise load_dataset.rows
            return iter(load_dataset.rows)

        load_dataset.calls, load_dataset.rows = [], []
        monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
        return load_dataset

    def test_wikitext2_is_the_raw_text(self, tokenizer, load_dataset):
        lines = [" = Title = \n", "", *(f" line {number} \n" for number in range(2000))]
        load_dataset.rows = [{"text": line} for line in lines]
        text = collect(tokenizer, "wikitext2")
        args, kwargs = load_dataset.calls[0]
        assert args == ("Salesforce/wikitext", "wikitext-2-raw-v1") and kwargs["split"] == "train"
        whole = "".join(lines)
        assert all(tokenizer.decode(window) in whole for window in text.windows)
        assert text.sources[0]["source"] == "wikitext2"

    def test_c4_is_streamed_and_not_read_to_the_end(self, tokenizer, load_dataset):
        def rows():
            for number in range(10_000):
                taken.append(number)
                yield {"text": f"document {number} " * 20}

        taken = []
        load_dataset.rows = rows()
        text = collect(tokenizer, "c4", samples=2, length=16)
        args, kwargs = load_dataset.calls[0]
        assert args[0] == "allenai/c4" and kwargs["streaming"] is True
        assert kwargs["data_files"] == {"train": "en/c4-train.00000-of-01024.json.gz"}
        assert len(taken) < 200
        whole = "\n\n".join(f"document {number} " * 20 for number in taken)
        assert all(tokenizer.decode(window) in whole for window in text.windows)

    @pytest.mark.parametrize("error", [ConnectionError("no route"), OSError("x"), RuntimeError("y"), ValueError("z")])
    def test_what_cannot_be_fetched_names_the_alternatives(self, tokenizer, load_dataset, error):
        load_dataset.rows = error
        with pytest.raises(NeuronMMError) as raised:
            collect(tokenizer, "wikitext2")
        message = str(raised.value)
        assert "wikitext2 (Salesforce/wikitext) could not be fetched" in message and type(error).__name__ in message
        assert "--neuronmm_calibration self" in message and ".txt or .jsonl" in message
        assert "calibration='self'" in message

    def test_a_connection_that_breaks_off_is_no_end_of_text(self, tokenizer, load_dataset):
        def rows():
            yield {"text": "a" * 100_000}
            raise ConnectionError("reset")

        load_dataset.rows = rows()
        with pytest.raises(NeuronMMError, match="c4 .* could not be fetched"):
            collect(tokenizer, "c4", samples=64, length=64)

    def test_offline_the_real_library_answers_at_once(self, tokenizer, monkeypatch, tmp_path):
        """With HF_HUB_OFFLINE, which conftest.py sets, and nothing in the cache."""
        import datasets
        import huggingface_hub.constants

        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
        with pytest.raises(NeuronMMError, match="wikitext2 .* could not be fetched .*--neuronmm_calibration self"):
            collect(tokenizer, "wikitext2")


class TestDocumentStart:
    def fake(self, vocabulary, bos=None, eos=None):
        names = {token: name for name, token in vocabulary.items()}
        return SimpleNamespace(
            convert_tokens_to_ids=lambda name: vocabulary.get(name, vocabulary.get("<unk>")),
            convert_ids_to_tokens=names.get,
            bos_token_id=bos,
            eos_token_id=eos,
        )

    def test_the_separator_comes_before_bos(self):
        assert document_start(self.fake({"<|endoftext|>": 5, "<s>": 1}, bos=1, eos=2)) == 5

    def test_a_separator_with_the_number_zero_counts(self):
        assert document_start(self.fake({"<|endoftext|>": 0, "<s>": 1}, bos=1, eos=2)) == 0

    def test_the_unknown_token_is_no_separator(self):
        assert document_start(self.fake({"<unk>": 0, "<s>": 1}, bos=1, eos=2)) == 1

    def test_bos_comes_before_eos(self):
        assert document_start(self.fake({"<s>": 0}, bos=0, eos=2)) == 0
        assert document_start(self.fake({}, eos=2)) == 2

    def test_a_tokenizer_without_any_is_refused(self):
        with pytest.raises(NeuronMMError, match="no token that begins a document.*Use a file or a named dataset"):
            document_start(self.fake({"a": 0}))

    def test_of_the_real_thing(self, tokenizer):
        assert document_start(tokenizer) == tokenizer.convert_tokens_to_ids("<|endoftext|>") == 256
