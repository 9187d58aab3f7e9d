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


def check_whole(directory: Path, compiled: dict) -> None:
    """Checks that the graphs and the weights of every rank are there.

    Raises:
        NeuronMMError: naming what is missing or damaged.
    """
    ranks, first = compiled.get("tp_degree"), compiled.get("start_rank_id") or 0
    here = compiled.get("local_ranks_size") or ranks
    if any(type(number) is not int for number in (ranks, first, here)) or ranks < 1:
        raise NeuronMMError(
            f"{COMPILED_CONFIG} of {directory} must have a positive integer tp_degree, got {ranks!r}, and integers for its ranks. "
            "Compile the model again."
        )
    shards = [shard_name(rank) for rank in range(first, first + here)]
    for name in (COMPILED_GRAPHS, *shards):
        if not (directory / name).is_file() or not (directory / name).stat().st_size:
            raise NeuronMMError(
                f"{directory} lacks {name}: it is not a whole compiled model. Fetch or compile it again."
            )
    for name in shards:
        try:
            with safe_open(directory / name, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise NeuronMMError(
                f"{directory / name} is damaged or incomplete ({error}). Fetch or compile it again."
            ) from error
