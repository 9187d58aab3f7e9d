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
"""What a compiled model is on disk: optimum-neuron's files, and whether they are there. Imports nothing of the SDK."""

import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.utils import cached_file

from .errors import NeuronMMError


COMPILED_CONFIG = "neuron_config.json"
COMPILED_GRAPHS = "model.pt"
COMPILED_WEIGHTS = "checkpoint/weights"

_MOST_RANKS = 1024
_RANK = "rank_util.rank"  # the tensor by which a rank knows its number


def shard_name(rank: int) -> str:
    """The file of one rank's weights, in the directory of a compiled model."""
    return f"{COMPILED_WEIGHTS}/tp{rank}_sharded_checkpoint.safetensors"


def find_compiled(model_id, **hub) -> dict | None:
    """neuron_config.json of a directory or Hub id, or None where it has none or cannot be reached.

    hub: `revision`, `cache_dir`, `token`.

    Raises:
        NeuronMMError: it is damaged.
    """
    path = Path(model_id) / COMPILED_CONFIG
    if not os.path.isdir(model_id):
        options = {name: value for name, value in hub.items() if value is not None}
        try:
            path = cached_file(
                str(model_id),
                COMPILED_CONFIG,
                **options,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
        except (OSError, ValueError):  # a ValueError where it cannot be the name of a repository
            path = None  # loading the model says what is wrong
    if path is None or not os.path.isfile(path):
        return None
    try:
        compiled = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NeuronMMError(
            f"{COMPILED_CONFIG} of {model_id} cannot be read: {error}. Compile the model again."
        ) from error
    if not isinstance(compiled, dict):
        raise NeuronMMError(
            f"{COMPILED_CONFIG} of {model_id} must hold a JSON object, got {type(compiled).__name__}. Compile the model again."
        )
    return compiled


def ranks_here(model_id, compiled: dict) -> range:
    """The ranks whose weights a compiled model has to hold: all of them, unless it is for several hosts.

    Raises:
        NeuronMMError: neuron_config.json has numbers that cannot be.
    """
    ranks = compiled.get("tp_degree")
    first = 0 if compiled.get("start_rank_id") is None else compiled["start_rank_id"]
    here = ranks if compiled.get("local_ranks_size") is None else compiled["local_ranks_size"]
    if any(type(number) is not int for number in (ranks, first, here)) or not 1 <= ranks <= _MOST_RANKS:
        raise NeuronMMError(
            f"{COMPILED_CONFIG} of {model_id} must have a positive integer tp_degree, got {ranks!r} ({_MOST_RANKS} is the most), "
            "and integers for its ranks. Compile the model again."
        )
    if first < 0 or not 1 <= here <= ranks - first:
        raise NeuronMMError(
            f"{COMPILED_CONFIG} of {model_id} has start_rank_id {first} and local_ranks_size {here}: expected some of the ranks 0 "
            f"to {ranks - 1}. Compile the model again."
        )
    return range(first, first + here)


def check_whole(directory: Path, compiled: dict) -> None:
    """Checks that the graphs and the weights of every rank are there.

    Raises:
        NeuronMMError: naming what is missing, damaged or of another rank.
    """
    shards = {rank: shard_name(rank) for rank in ranks_here(directory, compiled)}
    for name in (COMPILED_GRAPHS, *shards.values()):
        if not (directory / name).is_file() or not (directory / name).stat().st_size:
            raise NeuronMMError(
                f"{directory} lacks {name}: it is not a whole compiled model. Fetch or compile it again."
            )
    for rank, name in shards.items():
        found = _rank_of(directory / name)
        if found not in (None, rank):
            raise NeuronMMError(
                f"{directory / name} holds the weights of rank {found}: expected those of rank {rank}. Fetch or compile it again."
            )


def _rank_of(shard: Path) -> int | None:
    """The rank whose weights a file holds, None where it does not say so. Only that tensor is read."""
    try:
        with safe_open(shard, framework="pt") as file:
            return int(file.get_tensor(_RANK)) if _RANK in file.keys() else None
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise NeuronMMError(f"{shard} is damaged or incomplete ({error}). Fetch or compile it again.") from error
