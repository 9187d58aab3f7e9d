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
"""What is taken for a compiled model, and for a whole one."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from optimum_neuronmm import NeuronMMError
from optimum_neuronmm.compiled import check_whole, find_compiled, shard_name

from .compiled_form import NEURON_CONFIG, save_compiled_form
from .conftest import ROOT


@pytest.fixture
def directory(compressed_llama, tmp_path):
    return save_compiled_form(compressed_llama, tmp_path / "compiled")


class TestFind:
    def test_directories(self, directory, compressed_llama, tmp_path):
        assert find_compiled(directory) == NEURON_CONFIG == find_compiled(str(directory))
        assert find_compiled(compressed_llama) is None and find_compiled(tmp_path) is None

    @pytest.mark.parametrize("name", ["no-such/model", "./nowhere/at all", "a/b/c", "", "x" * 200])
    def test_what_is_nowhere(self, name, tmp_path):
        assert find_compiled(name or tmp_path / "none", cache_dir=str(tmp_path), revision=None, token=None) is None

    def test_a_file(self, directory):
        assert find_compiled(directory / "config.json") is None

    @pytest.mark.parametrize(
        ("content", "match"),
        [
            ("{", "cannot be read"),
            ("[]", "JSON object, got list"),
            ("null", "got NoneType"),
            (b"\xff", "cannot be read"),
        ],
    )
    def test_a_damaged_one(self, directory, content, match):
        path = directory / "neuron_config.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(NeuronMMError, match=f"neuron_config.json of .* {match}.* Compile the model again"):
            find_compiled(directory)


class TestWhole:
    def test_it_is(self, directory):
        check_whole(directory, NEURON_CONFIG)

    def test_ranks_of_another_host_are_not_asked_for(self, directory):
        (directory / shard_name(0)).unlink()
        check_whole(directory, {**NEURON_CONFIG, "start_rank_id": 1, "local_ranks_size": 1})
        with pytest.raises(NeuronMMError, match=f"lacks {shard_name(0)}"):
            check_whole(directory, NEURON_CONFIG)

    def test_old_files_do_not_say_where_they_start(self, directory):
        check_whole(directory, {"tp_degree": 2})

    @pytest.mark.parametrize("name", ["model.pt", shard_name(0), shard_name(1)])
    @pytest.mark.parametrize("empty", [False, True])
    def test_what_is_missing(self, directory, name, empty):
        (directory / name).write_bytes(b"") if empty else (directory / name).unlink()
        with pytest.raises(NeuronMMError, match=f"lacks {name}: it is not a whole compiled model"):
            check_whole(directory, NEURON_CONFIG)

    def test_what_is_truncated(self, directory):
        path = directory / shard_name(1)
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(NeuronMMError, match="tp1_sharded_checkpoint.safetensors is damaged or incomplete"):
            check_whole(directory, NEURON_CONFIG)

    @pytest.mark.parametrize(
        "changes",
        [{"tp_degree": value} for value in (None, "2", True, 0, -1, 2.0)]
        + [{"tp_degree": 1025}, {"tp_degree": 10**10}, {"start_rank_id": "0"}, {"local_ranks_size": [2]}],
    )
    def test_numbers_that_are_none(self, directory, changes):
        with pytest.raises(NeuronMMError, match="positive integer tp_degree"):
            check_whole(directory, json.loads(json.dumps({**NEURON_CONFIG, **changes})))

    @pytest.mark.parametrize(("first", "here"), [(0, 10**10), (0, 3), (0, 0), (0, -1), (1, 2), (2, 1), (-1, 1)])
    def test_ranks_that_cannot_be(self, directory, first, here):
        changes = {"start_rank_id": first, "local_ranks_size": here}
        with pytest.raises(
            NeuronMMError, match=f"start_rank_id {first} and local_ranks_size {here}: expected some of"
        ):
            check_whole(directory, {**NEURON_CONFIG, **changes})

    def test_weights_of_another_rank(self, directory):
        shutil.copyfile(directory / shard_name(0), directory / shard_name(1))
        with pytest.raises(NeuronMMError, match="tp1_.* holds the weights of rank 0: expected those of rank 1"):
            check_whole(directory, NEURON_CONFIG)

    def test_weights_that_do_not_say_their_rank(self, directory):
        save_file({"weight": torch.zeros(2)}, directory / shard_name(1))
        check_whole(directory, NEURON_CONFIG)

    def test_a_rank_that_is_no_number(self, directory):
        save_file({"rank_util.rank": torch.arange(2)}, directory / shard_name(1))
        with pytest.raises(NeuronMMError, match="tp1_sharded_checkpoint.safetensors is damaged"):
            check_whole(directory, NEURON_CONFIG)


def test_nothing_of_the_sdk_is_imported():
    code = (
        "import sys, optimum_neuronmm.compiled\n"
        "assert not any(name.split('.')[0] in ('optimum', 'torch_neuronx', 'neuronxcc') for name in sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
