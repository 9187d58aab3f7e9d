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
"""What was compressed before is found again by model, revision and options."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from optimum_neuronmm import NeuronMMConfig, NeuronMMError, cache
from optimum_neuronmm.cache import compressed_once, is_compressed

from .conftest import ROOT


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "neuronmm"


@pytest.fixture
def config(quick_options):
    return NeuronMMConfig(**quick_options)


class TestIsCompressed:
    def test_directories(self, tiny_llama, compressed_llama, tmp_path):
        assert is_compressed(compressed_llama) and is_compressed(str(compressed_llama))
        assert not is_compressed(tiny_llama) and not is_compressed(tmp_path)

    @pytest.mark.parametrize("name", ["no-such/model", "./nowhere/at all", "a/b/c"])
    def test_what_is_nowhere(self, name, tmp_path):
        assert not is_compressed(name, cache_dir=str(tmp_path), revision=None, token=None)

    @pytest.mark.parametrize(
        "content",
        ["{", "[]", "3", "null", "{}", '{"quantization_config": null}']
        + [
            json.dumps({"quantization_config": value})
            for value in ("neuronmm", ["neuronmm"], {"quant_method": "gptq"})
        ],
    )
    def test_what_it_cannot_read_is_for_others_to_report(self, tmp_path, content):
        (tmp_path / "config.json").write_text(content)
        assert not is_compressed(tmp_path)


class TestCompressedOnce:
    def test_the_second_time_nothing_is_compressed(self, tiny_llama, config, kept, monkeypatch):
        directory = compressed_once(tiny_llama, config)
        assert directory.parent == kept and is_compressed(directory)
        monkeypatch.setattr(cache, "compress", None)
        assert compressed_once(tiny_llama, config) == directory

    def test_what_only_matters_where_it_runs_is_not_another_model(
        self, tiny_llama, quick_options, config, monkeypatch
    ):
        directory = compressed_once(tiny_llama, config)
        monkeypatch.setattr(cache, "compress", None)
        for options in ({"kernel": "compiler"}, {"layout": "sharded"}, {"sampling": "host"}, {"target": "neuron"}):
            assert compressed_once(tiny_llama, NeuronMMConfig(**quick_options, **options)) == directory

    def test_a_directory_without_config_json_is_none(self, tiny_llama, config):
        directory = compressed_once(tiny_llama, config)
        shutil.rmtree(directory)
        assert compressed_once(tiny_llama, config) == directory and is_compressed(directory)

    def test_options_reach_the_compression(self, tiny_llama, config, monkeypatch):
        calls = []
        monkeypatch.setattr(cache, "compress", lambda *args, **options: calls.append((args, options)))
        hub = {"revision": "r", "cache_dir": "c", "token": "t"}
        directory = compressed_once(tiny_llama, config, True, **hub)
        assert calls == [((tiny_llama, directory, config), {"trust_remote_code": True, **hub})]

    def test_what_cannot_be_compressed_leaves_nothing(self, tmp_path, config, kept):
        with pytest.raises(NeuronMMError, match="neither a directory nor a Hub model"):
            compressed_once("no-such/model", config, cache_dir=str(tmp_path / "hub"))
        with pytest.raises(NeuronMMError, match="compressed already"):
            directory = tmp_path / "model"
            directory.mkdir()
            (directory / "config.json").write_text('{"quantization_config": {"quant_method": "neuronmm"}}')
            compressed_once(directory, config)
        assert not kept.exists()


def test_it_follows_hf_home(tmp_path):
    code = "from optimum_neuronmm import cache; print(cache.HF_HOME)"
    environment = {**os.environ, "HF_HOME": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert found.stdout.strip() == str(tmp_path), found.stderr
