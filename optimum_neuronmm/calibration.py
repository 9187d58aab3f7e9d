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
"""Calibration text: from sources to windows of tokens.

A source is "self" (text that the model itself writes), a named dataset, or a file. `calibration_windows` turns a list
of them into two disjoint sets of windows: one for the statistics, one held out for the report's perplexity.
"""

import gzip
import hashlib
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from .configuration import NeuronMMConfig
from .errors import NeuronMMError
from .json_text import checked_text


SELF = "self"
# name -> (repository, configuration, data files, what joins two rows)
DATASETS = {
    "wikitext2": ("Salesforce/wikitext", "wikitext-2-raw-v1", None, ""),
    "c4": ("allenai/c4", None, {"train": "en/c4-train.00000-of-01024.json.gz"}, "\n\n"),
}
FILE_SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")

_HELD_OUT_SHARE = 8  # one held-out window for so many calibration windows, and at least ...
_LEAST_HELD_OUT = 4
# Windows are drawn from a text this many times as long as needed; a larger corpus is read up to here.
_POOL = 32
_CHARACTERS_PER_TOKEN = 4
_PIECE = 65_536  # characters: a text may be one line


@dataclass(frozen=True)
class CalibrationText:
    """Windows of token ids and where they come from.

    Attributes:
        windows: (calibration_samples, calibration_length) int64, for the statistics.
        held_out: (n, calibration_length) int64, disjoint from `windows`.
        sources: one entry a source for the report: its name, number of windows, sha256 of its tokens.
        bos: whether every window begins with the tokenizer's BOS token.
    """

    windows: torch.Tensor
    held_out: torch.Tensor
    sources: list[dict]
    bos: bool


def held_out_count(calibration_samples: int) -> int:
    return max(_LEAST_HELD_OUT, math.ceil(calibration_samples / _HELD_OUT_SHARE))


def check_sources(config: NeuronMMConfig) -> None:
    """Finds what is wrong with the sources before any work is done: unknown names, files that are not there."""
    sources = config.calibration
    if config.calibration_samples < len(sources):
        raise NeuronMMError(
            f"calibration_samples must be at least the number of calibration sources, {len(sources)}, got "
            f"{config.calibration_samples}."
        )
    names = [source if _is_name(source) else str(Path(source).resolve()) for source in sources]
    twice = [source for index, source in enumerate(sources) if names[index] in names[:index]]
    if twice:  # its windows would be drawn twice, some of them for the statistics and held out
        raise NeuronMMError(f"The calibration source {twice[0]} is given twice. Name each source once.")
    for source in sources:
        if _is_name(source):
            continue
        if not source.endswith(FILE_SUFFIXES):
            raise NeuronMMError(
                f"Unknown calibration source {source!r}: expected 'self', {', '.join(map(repr, DATASETS))}, or a file "
                f"that ends in {', '.join(FILE_SUFFIXES)}."
            )
        if not os.path.isfile(source):
            raise NeuronMMError(f"The calibration file {source} does not exist.")


def check_vocabulary(token: int, vocabulary: int) -> None:
    """Refuses a token that the model has no embedding for."""
    if token >= vocabulary:
        raise NeuronMMError(
            f"The tokenizer gives token {token}, but the model knows {vocabulary} tokens: it is the tokenizer of another "
            "model. Put the model's own beside its weights."
        )


def file_stats(sources: list[str]) -> list[tuple[str, int, int]]:
    """Path, size and time of the files among the sources: whether they are what they were when work began."""
    paths = [Path(source).resolve() for source in sources if not _is_name(source) and os.path.isfile(source)]
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]


def calibration_windows(
    config: NeuronMMConfig, tokenizer, sample: Callable[[int, int], torch.Tensor]
) -> CalibrationText:
    """Collects the calibration text that `config` describes.

    Several sources share the windows evenly; of each, some are held out.

    Args:
        tokenizer: of the model.
        sample: `sample(count, length)` -> (count, length) token ids written by the model, for the source "self".

    Raises:
        NeuronMMError: for a source that is empty, too short or cannot be fetched.
    """
    counts = _shares(config.calibration_samples, len(config.calibration))
    held_out_counts = _shares(held_out_count(config.calibration_samples), len(config.calibration))
    bos = adds_bos(tokenizer)
    windows, held_out, sources = [], [], []
    for index, source in enumerate(config.calibration):
        count, kept = counts[index], held_out_counts[index]
        if source == SELF:
            drawn = sample(count + kept, config.calibration_length)
        else:
            drawn = _draw(source, count + kept, config, tokenizer, bos, config.seed + index)
        windows.append(drawn[:count])
        held_out.append(drawn[count:])
        digest = hashlib.sha256(drawn.numpy().tobytes()).hexdigest()
        label = source if _is_name(source) else Path(source).name
        sources.append({"source": label, "windows": count, "held_out": kept, "sha256": digest})
    return CalibrationText(torch.cat(windows), torch.cat(held_out), sources, bos)


def read_documents(path: str | Path) -> Iterator[str]:
    """Pieces of text of a .txt file (joined they are the file), or the "text" of each line of a .jsonl file.

    Raises:
        NeuronMMError: for a file that is not UTF-8, not gzip although named so, or a line without "text".
    """
    path = Path(path)
    opened = gzip.open if path.suffix == ".gz" else open
    as_json = _is_jsonl(path)
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="\n") as file:
            while not as_json and (piece := file.read(_PIECE)):
                yield piece
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _document(line, path, number)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise NeuronMMError(f"The calibration file {path} could not be read: {error}.") from error


def document_start(tokenizer) -> int:
    """The token that begins a document: <|endoftext|> where the vocabulary has it, else BOS, else EOS."""
    separator = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    is_real = separator is not None and tokenizer.convert_ids_to_tokens(separator) == "<|endoftext|>"
    for token in (separator if is_real else None, tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    raise NeuronMMError(
        "The tokenizer has no token that begins a document (<|endoftext|>, BOS or EOS), so no text can be sampled from "
        "the model. Use a file or a named dataset for calibration."
    )


def _draw(source: str, count: int, config: NeuronMMConfig, tokenizer, bos: bool, seed: int) -> torch.Tensor:
    """`count` windows of a text, at random among its disjoint ones."""
    length = config.calibration_length
    content = length - bos
    text = _text(source, count * content * _CHARACTERS_PER_TOKEN * _POOL)
    if not text.strip():
        raise NeuronMMError(f"The calibration source {source} holds no text.")
    tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt", verbose=False).input_ids[0]
    available = len(tokens) // content
    if available < count:
        raise NeuronMMError(
            f"The calibration source {source} is too short: {len(tokens)} tokens make {available} windows of {length}, "
            f"and {count} are needed (with those held out to measure perplexity). Use more text, fewer "
            "calibration_samples, or a smaller calibration_length."
        )
    order = torch.randperm(available, generator=torch.Generator().manual_seed(seed % 2**63))[:count]
    windows = tokens[: available * content].view(available, content)[order]
    if bos:
        windows = torch.cat([torch.full((count, 1), tokenizer.bos_token_id), windows], dim=1)
    return windows.contiguous()


def _text(source: str, characters: int) -> str:
    if source in DATASETS:
        documents, joiner = _dataset_rows(source), DATASETS[source][3]
    else:
        documents, joiner = read_documents(source), "\n\n" if _is_jsonl(source) else ""
    pieces, read = [], 0
    for document in documents:
        pieces.append(document)
        read += len(document)
        if read >= characters:
            break
    return joiner.join(pieces)


def _dataset_rows(name: str) -> Iterator[str]:
    repository, subset, data_files, _ = DATASETS[name]
    try:
        from datasets import load_dataset

        rows = load_dataset(repository, subset, data_files=data_files, split="train", streaming=data_files is not None)
        for row in rows:
            yield row["text"]
    except Exception as error:  # datasets raises errors of its own, of huggingface_hub, requests, fsspec, ...
        raise NeuronMMError(
            f"The calibration dataset {name} ({repository}) could not be fetched ({type(error).__name__}). Without a "
            "connection, use --neuronmm_calibration self (text sampled from the model itself, nothing to download) or "
            "--neuronmm_calibration FILE with a .txt or .jsonl file; in Python, NeuronMMConfig(calibration='self')."
        ) from error


def _is_name(source: str) -> bool:
    return source == SELF or source in DATASETS


def _is_jsonl(path: str | Path) -> bool:
    return str(path).endswith((".jsonl", ".jsonl.gz"))


def _document(line: str, path: Path, number: int) -> str:
    try:
        document = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NeuronMMError(f'{path}, line {number}: expected a JSON object with "text".') from error
    return checked_text(document, '"text"', f"{path}, line {number}")


def adds_bos(tokenizer) -> bool:
    """Whether the tokenizer begins a text with BOS, as its model was trained."""
    ids = tokenizer("a").input_ids
    return tokenizer.bos_token_id is not None and len(ids) > 1 and ids[0] == tokenizer.bos_token_id


def _shares(total: int, parts: int) -> list[int]:
    """`total` in `parts` as even as possible; the first ones get one more."""
    return [total // parts + (index < total % parts) for index in range(parts)]
