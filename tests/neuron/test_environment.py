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
"""What stands on this machine decides where the tests of this folder run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.neuron import environment


@pytest.fixture
def answer(tmp_path):
    """`answer(version, code)`: what `sdk()` says where torch-neuronx has that version, and importing it runs that code."""

    def ask(version: str, code: str = "") -> str:
        (tmp_path / "torch_neuronx.py").write_text(code)
        metadata = tmp_path / f"torch_neuronx-{version}.dist-info/METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: torch-neuronx\nVersion: {version}\n")
        folder = Path(environment.__file__).parent
        result = subprocess.run(
            [sys.executable, "-c", "import environment; print(*environment.sdk())"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(tmp_path)])},
            capture_output=True,
            text=True,
            check=True,
        )
        return result.stdout.strip()

    return ask


def test_the_placeholder_of_pypi_is_no_sdk(answer):
    found = answer("1.0", "raise RuntimeError('install it from the Neuron repository')")
    assert "the Neuron SDK is not installed" in found and environment.COMMAND in found


@pytest.mark.standins
def test_a_real_sdk_wants_a_device(answer):
    assert (
        answer("2.8.0.2.10.16998") == "None torch-neuronx 2.8.0.2.10.16998 is installed, but there is no Neuron device"
    )


def test_the_standins_are_known_by_their_version(answer):
    assert answer("2.8.0.2.10.16998+standin") == "standins"


@pytest.mark.standins
def test_the_command_never_hides_a_real_sdk(answer, tmp_path):
    answer("2.8.0.2.10.16998")
    result = subprocess.run(
        [sys.executable, str(Path(environment.__file__).parent)],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "skipped, torch-neuronx 2.8.0.2.10.16998 is installed, but there is no Neuron device" in result.stdout


def test_children_use_this_python(child_environment):
    env = child_environment(EXTRA="1")
    found = subprocess.run(
        "python3 -c 'import sys; print(sys.prefix)'", shell=True, env=env, capture_output=True, text=True
    )
    assert (found.stdout.strip(), env["EXTRA"]) == (sys.prefix, "1")
