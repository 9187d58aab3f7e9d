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
"""What a report says about where its numbers come from, and what it must not say."""

import getpass
import importlib.metadata
import json
import os
import platform
import socket

import torch

import optimum_neuronmm
from optimum_neuronmm.recipes import provenance
from optimum_neuronmm.recipes.provenance import machine, versions, without_directories


def test_versions_are_those_that_are_installed():
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["optimum-neuronmm"] == optimum_neuronmm.__version__
    for package in ("torch", "transformers", "tokenizers", "datasets", "evaluate", "numpy"):
        assert found[package] == importlib.metadata.version(package)


def test_what_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(provenance, "_PACKAGES", ("torch", "no-such-package-anywhere", "numpy"))
    assert list(versions()) == ["python", "optimum-neuronmm", "torch", "numpy"]


def test_the_machine_without_a_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = machine()
    assert found == {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "architecture": platform.machine()}


def test_a_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    assert machine()["gpu"] == "Some GPU"


def test_nobody_is_asked_for_a_host_or_a_user(monkeypatch):
    def refuse(*args):
        raise AssertionError("asked for a name")

    for module, names in {
        socket: ("gethostname", "getfqdn"),
        platform: ("node", "uname"),
        getpass: ("getuser",),
        os: ("uname", "getlogin"),
    }.items():
        for name in names:
            if (module, name) != (platform, "uname"):  # machine() is a part of it
                monkeypatch.setattr(module, name, refuse)
    platform.machine()  # kept by the module from here on
    assert json.dumps([versions(), machine()])


def test_directories_are_not_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "text.txt").touch()
    content = {
        "model": "./here",
        "list": [str(tmp_path / "gone.txt"), "here/text.txt", "org/name", 3, None],
        "n": {"a": "b"},
    }
    assert without_directories(content) == {
        "model": "here",
        "list": ["gone.txt", "text.txt", "org/name", 3, None],
        "n": {"a": "b"},
    }
