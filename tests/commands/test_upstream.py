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
"""What the extension of optimum-neuron's command class changes, and what it leaves alone."""

import argparse

import pytest

from optimum_neuronmm.commands.upstream import extend


neuronx = pytest.importorskip("optimum.commands.export.neuronx", reason="needs optimum-neuron")


@pytest.fixture
def command():
    """A subclass of optimum-neuron's command, extended; the class itself stays as it is."""

    class Command(neuronx.NeuronxExportCommand):
        plain_runs = []

        def run(self):
            self.plain_runs.append(self.args)

    extend(Command)
    return Command


def parse(command, line):
    root = argparse.ArgumentParser("optimum-cli")
    command(root.add_subparsers())
    return root.parse_args(["neuron", *line.split()])


PLAIN = [
    "-m model out --instance_type trn1",
    "--model model out --instance_type inf2 --torch_dtype float16 --batch_size 1 --sequence_length 64 -O1",
    "out --instance_type trn1n --num_cores 2 -m model --lora_scales 0.5 1 --task fill-mask --subfolder unet",
]


@pytest.mark.parametrize("line", PLAIN)
def test_plain_command_lines_parse_as_before(command, line):
    ours, theirs = vars(parse(command, line)), vars(parse(neuronx.NeuronxExportCommand, line))
    ours = {name: value for name, value in ours.items() if not name.startswith("neuronmm")}
    for args in (ours, theirs):
        del args["func"]
        if "--torch_dtype" not in line:
            del args["torch_dtype"]
    assert ours == theirs


@pytest.mark.parametrize("line", PLAIN)
def test_plain_command_lines_run_the_original(command, line):
    args = parse(command, line)
    args.func(args).run()
    assert command.plain_runs == [args]


@pytest.mark.parametrize(
    "line", ["", "-m model", "-m model out", "-m model out --instance_type gpu", "-m model out -x"]
)
def test_plain_errors_end_as_before(command, line, capsys, monkeypatch):
    monkeypatch.setattr(neuronx, "get_neuron_major", lambda: -1)
    messages = []
    for cls in (command, neuronx.NeuronxExportCommand):
        with pytest.raises(SystemExit) as exit:
            parse(cls, line)
        assert exit.value.code == 2
        messages.append(capsys.readouterr().err.splitlines()[-1])
    assert messages[0] == messages[1]


def test_extending_twice_adds_the_flags_once(command):
    extend(command)
    assert parse(command, "-m model out --neuronmm").neuronmm is True


def test_with_neuronmm_the_original_does_not_run(command, compress):
    args = parse(command, "-m model out --neuronmm --neuronmm_target cpu")
    args.func(args).run()
    assert len(compress.calls) == 1
    assert not command.plain_runs


def test_with_neuronmm_a_child_compiles(command, compress, compilations):
    args = parse(command, "-m model out --neuronmm --instance_type trn1")
    args.func(args).run()
    assert len(compilations) == 1 and not compress.calls and not command.plain_runs
