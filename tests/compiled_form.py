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
"""A directory of the form that a compilation writes, without a compiler: for tests of what only moves files."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file


NEURON_CONFIG = {
    "_serialized_key": "NxDNeuronConfig",
    "optimum_neuron_version": "0.4.5",
    "neuronxcc_version": "2.21.33363.0+82129205",
    "target": "trn1",
    "tp_degree": 2,
    "batch_size": 1,
    "sequence_length": 2048,
    "torch_dtype": "bfloat16",
    "checkpoint_id": None,
    "start_rank_id": 0,
    "local_ranks_size": 2,
}


def save_compiled_form(compressed: Path, directory: Path, **changes) -> Path:
    """Copies a compressed directory, with shards for each rank in place of its weights. `changes` go to neuron_config.json."""
    shutil.copytree(compressed, directory, ignore=shutil.ignore_patterns("*.safetensors", "README.md"))
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"]["compilation"] = {"ranks": 2, "layout": "replicated"}
    (directory / "config.json").write_text(json.dumps(config))
    neuron_config = {**NEURON_CONFIG, **changes}
    (directory / "neuron_config.json").write_text(json.dumps(neuron_config))
    (directory / "model.pt").write_bytes(b"compiled graphs" * 1000)
    weights = directory / "checkpoint" / "weights"
    weights.mkdir(parents=True)
    for rank in range(neuron_config["tp_degree"]):
        shard = {"weight": torch.full((8, 8), float(rank)), "rank_util.rank": torch.tensor([rank], dtype=torch.int32)}
        save_file(shard, weights / f"tp{rank}_sharded_checkpoint.safetensors")
    return directory
