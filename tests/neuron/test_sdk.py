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
"""What is said where a part of the SDK is missing."""

import importlib
import subprocess
import sys

import pytest

from optimum_neuronmm import NeuronMMError
from optimum_neuronmm.neuron import sdk
from tests.neuron import environment


def test_here_it_is():
    sdk.require_sdk()


@pytest.mark.parametrize(("module", "package"), sdk._NEEDED.items())
@pytest.mark.parametrize(
    "error", [ImportError("No module\nnamed x"), RuntimeError(""), OSError("libnrt.so"), ValueError()]
)
def test_each_part_is_named(monkeypatch, module, package, error):
    real = importlib.import_module

    def refuse(name):
        if name == module:
            raise error
        return real(name)

    monkeypatch.setattr(sdk.importlib, "import_module", refuse)
    with pytest.raises(NeuronMMError) as failure:
        sdk.require_sdk()
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    said = str(failure.value)
    assert said.startswith(f"{package} cannot be imported ({reason}). Compiling needs the Neuron SDK: install it")
    assert "pip install" in said and failure.value.__cause__ is error


def test_only_one(monkeypatch):
    asked = []
    monkeypatch.setattr(sdk.importlib, "import_module", asked.append)
    sdk.require_sdk("optimum.neuron")
    assert asked == ["optimum.neuron"]
    sdk.require_sdk()
    assert asked[1:] == list(sdk._NEEDED)


@pytest.mark.standins
def test_a_machine_without_any(child_environment):
    """The real thing: without stand-ins, what PyPI has under these names, or nothing."""
    code = """
import sys
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.neuron.sdk import require_sdk
try:
    require_sdk()
except NeuronMMError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=child_environment(PYTHONPATH=str(environment.ROOT)),
        cwd=environment.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "torch-neuronx cannot be imported (" in result.stdout, result.stderr
