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
import sys
from types import SimpleNamespace

import pytest

from optimum_neuronmm.commands.push import PushCommand
from optimum_neuronmm.errors import NeuronMMError


@pytest.fixture
def run(monkeypatch):
    """Runs `optimum-cli neuronmm push` over a hub that only records; `run.error` is raised."""

    def push_to_hub(*args, **options):
        run.calls.append((args, options))
        if run.error is not None:
            raise run.error
        return "https://hub/me/name/commit/1"

    monkeypatch.setitem(sys.modules, "optimum_neuronmm.hub", SimpleNamespace(push_to_hub=push_to_hub))

    def run(*line):
        root = argparse.ArgumentParser()
        PushCommand(root.add_subparsers(), command=SimpleNamespace(name="push", help=""))
        args = root.parse_args(["push", *line])
        args.func(args).run()

    run.calls, run.error = [], None
    return run


def test_the_address_is_printed(run, capsys):
    run("out", "me/name")
    assert run.calls == [(("out", "me/name"), {"private": None, "revision": None})]
    assert capsys.readouterr().out == "https://hub/me/name/commit/1\n"


def test_options(run):
    run("out", "me/name", "--private", "--revision", "dev", "--commit-message", "A; message")
    assert run.calls[0][1] == {"private": True, "revision": "dev", "commit_message": "A; message"}


def test_an_empty_message_is_passed_on_to_be_refused(run):
    run("out", "me/name", "--commit-message", "")
    assert run.calls[0][1]["commit_message"] == ""


def test_the_call_fits_the_real_function(run, monkeypatch):
    from unittest.mock import create_autospec

    monkeypatch.undo()
    import optimum_neuronmm.hub

    real = create_autospec(optimum_neuronmm.hub.push_to_hub, return_value="url")
    monkeypatch.setattr(optimum_neuronmm.hub, "push_to_hub", real)
    run("out", "me/name", "--private", "--revision", "dev", "--commit-message", "m")
    real.assert_called_once()


def test_an_error_is_one_line_and_status_1(run, capsys):
    run.error = NeuronMMError("out is not a compressed checkpoint.")
    with pytest.raises(SystemExit) as exit:
        run("out", "me/name")
    assert exit.value.code == 1
    assert capsys.readouterr() == ("", "error: out is not a compressed checkpoint.\n")


def test_an_interruption(run, capsys):
    run.error = KeyboardInterrupt()
    with pytest.raises(SystemExit) as exit:
        run("out", "me/name")
    assert exit.value.code == 130 and "nothing was committed" in capsys.readouterr().err


@pytest.mark.parametrize("line", [["out", "me/name", "--token", "hf_x"], ["out"], []])
def test_what_it_does_not_take(run, line):
    with pytest.raises(SystemExit) as exit:
        run(*line)
    assert exit.value.code == 2 and run.calls == []


def test_it_is_a_command_of_optimum_cli():
    from optimum_neuronmm.commands.neuronmm import NeuronMMCommand

    commands = {command.name: command.subcommand_class for command in NeuronMMCommand.SUBCOMMANDS}
    assert commands["push"] is PushCommand and set(commands) == {"plan", "report", "push", "evaluate", "recover"}
