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
import argparse
import json
import sys
from types import SimpleNamespace

import pytest

from optimum_neuronmm.commands.report import ReportCommand
from optimum_neuronmm.errors import NeuronMMError


REPORT = {"parameters": {"before": 100, "after": 90}}


@pytest.fixture
def run(monkeypatch):
    """Runs `optimum-cli neuronmm report` over a report module that knows one directory."""

    def load_report(directory):
        if directory != "compressed":
            raise NeuronMMError(f"{directory} holds no report.")
        return REPORT

    module = SimpleNamespace(load_report=load_report, format_report=lambda report: f"{len(report)} section")
    monkeypatch.setitem(sys.modules, "optimum_neuronmm.report", module)

    def run(*line):
        root = argparse.ArgumentParser()
        ReportCommand(root.add_subparsers(), command=SimpleNamespace(name="report", help=""))
        args = root.parse_args(["report", *line])
        args.func(args).run()

    return run


def test_report_is_printed(run, capsys):
    run("compressed")
    assert capsys.readouterr().out == "1 section\n"


def test_report_as_json(run, capsys):
    run("compressed", "--json")
    assert json.loads(capsys.readouterr().out) == REPORT


def test_a_directory_without_report_is_an_error(run, capsys):
    with pytest.raises(SystemExit) as exit:
        run("elsewhere")
    assert exit.value.code == 1
    assert capsys.readouterr().err == "error: elsewhere holds no report.\n"
