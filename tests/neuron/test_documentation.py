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
"""The examples of the guides that need an instance."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.neuron.compressed import save_compressed


ROOT = Path(__file__).resolve().parents[2]
GUIDES = [ROOT / "docs/source/guides" / f"{name}.mdx" for name in ("compile", "tensor_parallel", "serve")]
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list:
    return [
        pytest.param(code, id=f"{guide.stem}-{index}")
        for guide in GUIDES
        for index, code in enumerate(c for kind, c in _FENCE.findall(guide.read_text()) if kind == language)
    ]


@pytest.fixture
def playground(tmp_path, monkeypatch, tiny, text_file, quick_options):
    """A directory that holds what the examples name, with compressions of a second."""
    from optimum_neuronmm import NeuronMMConfig, cache, compression

    def quick(model, output_dir, config, **options):
        return compression.compress(model, output_dir, NeuronMMConfig(**quick_options), **options)

    monkeypatch.chdir(tmp_path)
    Path("MODEL").symlink_to(tiny("llama", max_position_embeddings=256))
    save_compressed(Path("MODEL"), Path("OUT"))
    monkeypatch.setattr(cache, "compress", quick)
    monkeypatch.setattr(cache, "HF_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.standins
@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples_run(code, playground):
    from tests.neuron import harness

    if "OUT-neuron/" in code:
        harness.export(Path("OUT"), on_device_sampling=True, output_logits=False).save_pretrained("OUT-neuron")
    exec(compile(code, "example", "exec"), {})


@pytest.mark.standins
@pytest.mark.parametrize("code", blocks("bash"))
def test_commands_run(code, playground, child_environment, text_file):
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        assert words[:3] == ["optimum-cli", "export", "neuron"], line
        # Made for a model of real size, and read from where there is a connection.
        words = [{"2048": "64", "4096": "64"}.get(word, word) for word in words]
        words = [*words[:-1], "--instance_type", "trn1", words[-1]]
        if words[words.index("-m") + 1] == "MODEL":
            small = {"block_size": 32, "calibration": text_file, "calibration_samples": 8, "calibration_length": 64}
            words[-1:-1] = [str(part) for name, value in small.items() for part in (f"--neuronmm_{name}", value)]
        words[0] = str(Path(sys.executable).with_name("optimum-cli"))
        environment = child_environment(HF_HOME=str(playground / "home"))
        result = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
        assert result.returncode == 0, result.stderr
        assert json.loads(Path(words[-1], "neuron_config.json").read_text())["checkpoint_id"] is None
        shutil.rmtree(words[-1])
