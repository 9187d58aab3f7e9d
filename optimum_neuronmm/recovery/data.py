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
"""Windows of tokens to train on, windows to measure on, and the order in which they are seen."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..calibration import adds_bos
from ..errors import NeuronMMError
from .config import RecoveryConfig
from .sources import documents, joiner, label


_CHUNK = 1_000_000  # characters that are turned into tokens at once


@dataclass(frozen=True)
class RecoveryText:
    """Disjoint windows of token ids of every source.

    Attributes:
        train: of each source, (n, sequence_length) int64.
        held_out: of each source, (held_out, sequence_length) int64: the last windows of what was read.
        sources: one entry a source for the report: its name, numbers of windows, sha256 of all its tokens.
    """

    train: list[torch.Tensor]
    held_out: list[torch.Tensor]
    sources: list[dict]

    def tensors(self) -> dict[str, torch.Tensor]:
        """All windows, by name, to be stored."""
        named = {f"train.{index}": windows for index, windows in enumerate(self.train)}
        return named | {f"held_out.{index}": windows for index, windows in enumerate(self.held_out)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor], sources: list[dict]) -> "RecoveryText":
        parts = [[tensors[f"{part}.{i}"] for i in range(len(sources))] for part in ("train", "held_out")]
        return cls(*parts, sources)


def collect_text(config: RecoveryConfig, tokenizer) -> RecoveryText:
    """Reads as much of each source as its even share of the tokens takes.

    Every window begins with BOS where the tokenizer begins a text so. A source with fewer windows than its share is gone
    through again; only one without a window to train on is refused.

    Raises:
        NeuronMMError: for a source that is empty, too short or cannot be read.
    """
    count = -(-config.steps * config.batch_size // len(config.data))
    bos = tokenizer.bos_token_id if adds_bos(tokenizer) else None
    train, held_out, sources = [], [], []
    for source in config.data:
        windows = _windows(source, count + config.held_out, config, tokenizer, bos)
        train.append(windows[: -config.held_out])
        held_out.append(windows[-config.held_out :])
        sources.append(
            {
                "source": label(source),
                "windows": len(train[-1]),
                "held_out": config.held_out,
                "passes": round(count / len(train[-1]), 2),
                "sha256": hashlib.sha256(windows.numpy().tobytes()).hexdigest(),
            }
        )
    return RecoveryText(train, held_out, sources)


class Schedule:
    """Which windows each step sees: the sources in turn, each shuffled anew whenever it has been gone through.

    Args:
        seed: of the order.
    """

    def __init__(self, text: RecoveryText, seed: int):
        self._train, self._seed = text.train, seed
        self._orders: dict[tuple[int, int], torch.Tensor] = {}

    def windows(self, first: int, last: int) -> torch.Tensor:
        """The windows at positions `first` to `last - 1` of the whole training: (last - first, L)."""
        return torch.stack([self._window(position) for position in range(first, last)])

    def _window(self, position: int) -> torch.Tensor:
        turn, source = divmod(position, len(self._train))
        windows = self._train[source]
        turn_of_pass, index = divmod(turn, len(windows))
        return windows[self._order(source, turn_of_pass)[index]]

    def _order(self, source: int, number: int) -> torch.Tensor:
        if (source, number) not in self._orders:
            digest = hashlib.sha256(f"{self._seed} {source} {number}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            self._orders[source, number] = torch.randperm(len(self._train[source]), generator=generator)
        return self._orders[source, number]


def _windows(source: str, count: int, config: RecoveryConfig, tokenizer, bos: int | None) -> torch.Tensor:
    """The first windows of a source, at most `count`: (n, sequence_length)."""
    content = config.sequence_length - (bos is not None)
    pieces, total = [], 0
    for chunk in _chunks(source):
        pieces.append(torch.tensor(tokenizer(chunk, add_special_tokens=False, verbose=False).input_ids).long())
        total += len(pieces[-1])
        if total >= count * content:
            break
    if not total:
        raise NeuronMMError(f"The source of data {source} holds no text.")
    available = min(total // content, count)
    if available < config.held_out + 1:
        raise NeuronMMError(
            f"The source of data {source} is too short: {total} tokens make {available} windows of {config.sequence_length}, "
            f"and {config.held_out + 1} are needed ({config.held_out} are held out). Use more text, or a smaller "
            "sequence_length or held_out."
        )
    windows = torch.cat(pieces)[: available * content].view(available, content)
    if bos is not None:
        windows = torch.cat([torch.full((available, 1), bos), windows], dim=1)
    return windows.contiguous()


def _chunks(source: str) -> Iterator[str]:
    """The text of a source in parts of about a million characters, cut at the end of a line or before a space."""
    between, held, size = joiner(source), [], 0
    for text in documents(source):
        held.append(text)
        size += len(text) + len(between)
        if size >= _CHUNK:
            joined = between.join(held) + between
            cut = joined.rfind("\n") + 1 or max(joined.rfind(" "), 0) or len(joined)
            if joined[:cut].strip():
                yield joined[:cut]
            # What joins documents ends in a new line, so that there is a rest only where nothing joins them.
            held, size = ([joined[cut:]] if joined[cut:] else []), len(joined) - cut
    rest = between.join(held)
    if rest.strip():
        yield rest
