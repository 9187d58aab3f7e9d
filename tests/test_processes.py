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
"""Children find the modules that this process finds, and no others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from optimum_neuronmm.processes import python_command

from .conftest import ROOT


def run(command, **options) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout


@pytest.fixture
def module(tmp_path, monkeypatch):
    """`module(code)`: a module `told` that this process can import."""
    (tmp_path / "found").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "found"))
    return (tmp_path / "found" / "told.py").write_text


def test_arguments_arrive_as_they_are(module):
    module("import sys; print(__name__, sys.argv[1:])")
    odd = ["a 'b' \"c\" $(touch no)", "", "line\nbreak", "-x"]
    assert run(python_command("told", *odd)) == f"__main__ {odd}\n"


def test_the_module_is_run_by_this_python(module):
    module("import sys; print(sys.executable)")
    command = python_command("told")
    assert command[0] == sys.executable and run(command).strip() == sys.executable


def test_nothing_is_found_where_the_user_is(module, tmp_path):
    module("import json, runpy; print(json.__file__)")
    here = tmp_path / "here"
    here.mkdir()
    for name in ("json", "runpy", "os", "told", "optimum_neuronmm"):
        (here / f"{name}.py").write_text("raise SystemExit('planted')")
    assert str(here) not in run(python_command("told"), cwd=here)


def test_the_package_is_found_however_this_process_found_it(module, tmp_path, monkeypatch):
    module("import optimum_neuronmm; print(optimum_neuronmm.__file__)")
    monkeypatch.setattr(sys, "path", ["", *(path for path in sys.path if path and Path(path).resolve() != ROOT)])
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = run(python_command("told"), cwd=tmp_path, env=environment).strip()
    assert found == str(ROOT / "optimum_neuronmm" / "__init__.py")
