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
"""`optimum-cli neuronmm recover` and `python -m optimum_neuronmm.recovery`: arguments, messages, several processes."""

import json
import os
import re
import subprocess
import sys
from argparse import ArgumentParser
from dataclasses import fields
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from optimum_neuronmm.commands.neuronmm import NeuronMMCommand
from optimum_neuronmm.commands.recover import RecoverCommand
from optimum_neuronmm.recovery import RecoveryConfig

from ..conftest import ROOT


@pytest.fixture
def parser():
    parser = ArgumentParser()
    RecoverCommand.parse_args(parser)
    return parser


def run(*words: str) -> None:
    """Runs `optimum-cli neuronmm recover`."""
    root = ArgumentParser()
    RecoverCommand(root.add_subparsers(), command=SimpleNamespace(name="recover", help=""))
    args = root.parse_args(["recover", *words])
    args.func(args).run()


class TestArguments:
    def test_it_is_a_subcommand(self):
        assert {c.name: c.subcommand_class for c in NeuronMMCommand.SUBCOMMANDS}["recover"] is RecoverCommand

    def test_every_option_has_a_flag_with_its_default(self, parser):
        actions = {action.dest: action for action in parser._actions}
        for option in fields(RecoveryConfig):
            action = actions[option.name]
            assert action.option_strings == [f"--{option.name}"] and action.default is None
            default = getattr(RecoveryConfig(), option.name)
            shown = re.search(r"Default: (.*)\.$", action.help)[1]
            if option.name == "learning_rate":
                assert shown == "1e-3 for lora, 1e-4 for factors"
                assert (
                    RecoveryConfig().learning_rate == 1e-3
                    and RecoveryConfig(parameters="factors").learning_rate == 1e-4
                )
            elif option.name == "gradient_checkpointing":
                assert shown == "off" and default is False
            else:
                assert shown == (" ".join(default) if isinstance(default, list) else str(default)), option.name

    def test_every_flag_is_in_the_reference_with_its_default(self, parser):
        page = (ROOT / "docs/source/reference/cli.mdx").read_text()
        section = page.partition("## optimum-cli neuronmm recover")[2].partition("\n## ")[0]
        rows = re.findall(r"^\| `(--[\w-]+)` \|[^|]*\|\s*([^|]*?)\s*\|", section, re.MULTILINE)
        shown = {name.removeprefix("--"): default for name, default in rows}
        flags = {action.option_strings[-1].removeprefix("--") for action in parser._actions if action.option_strings}
        assert set(shown) == flags - {"help"} and len(rows) == len(shown)
        helped = {a.dest: re.search(r"Default: (.*)\.$", a.help) for a in parser._actions}
        for option in fields(RecoveryConfig):
            assert shown[option.name] == helped[option.name][1]

    def test_what_is_given_arrives(self, monkeypatch):
        calls = []
        monkeypatch.setattr(
            "optimum_neuronmm.recovery.recover", lambda *args, **options: calls.append((args, options))
        )
        words = (
            "IN OUT --teacher M --data a.txt c4 --data b.jsonl --objective labels --lora_rank 4 --learning_rate 3e-4"
        )
        words += " --gradient_checkpointing --device cpu --trust-remote-code --cache_dir here --revision r"
        run(*words.split())
        ((directory, output, config), options), *_ = calls
        assert (directory, output) == ("IN", "OUT")
        given = {
            "data": ["a.txt", "c4", "b.jsonl"],
            "objective": "labels",
            "lora_rank": 4,
            "learning_rate": 3e-4,
            "gradient_checkpointing": True,
        }
        assert config == RecoveryConfig(**given)
        assert options == {
            "teacher": "M",
            "device": "cpu",
            "trust_remote_code": True,
            "cache_dir": "here",
            "revision": "r",
        }
        run("IN", "OUT")
        assert calls[1] == (("IN", "OUT", RecoveryConfig()), {"trust_remote_code": False})

    def test_an_error_is_one_line(self, capsys, tmp_path):
        with pytest.raises(SystemExit) as stopped:
            run(str(tmp_path / "none"), str(tmp_path / "out"))
        assert stopped.value.code == 1
        assert re.fullmatch(r"error: .*none is not a directory.*\n", capsys.readouterr().err)

    def test_ctrl_c_says_how_to_go_on(self, monkeypatch, capsys):
        def interrupted(*args, **options):
            raise KeyboardInterrupt

        monkeypatch.setattr("optimum_neuronmm.recovery.recover", interrupted)
        with pytest.raises(SystemExit) as stopped:
            run("IN", "OUT")
        assert stopped.value.code == 130
        assert "run the same command again to resume" in capsys.readouterr().err


OPTIONS = (
    "--objective labels --order sequential --tokens 1536 --sequence_length 32 --batch_size 4 --micro_batch_size 2 --held_out 5 "
    "--eval_every 3 --learning_rate 3e-3 --device cpu"
).split()


@pytest.fixture
def start(compressed_llama, text_file, tmp_path):
    """`start(output, *launcher)`: a recovery in processes of its own."""

    def start(output, *launcher, directory=compressed_llama):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
        command = [
            sys.executable,
            "-m",
            *launcher,
            "optimum_neuronmm.recovery",
            str(directory),
            str(tmp_path / output),
        ]
        return subprocess.run(
            [*command, "--data", str(text_file), *OPTIONS],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            timeout=200,
        )

    return start


LAUNCHER = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0", "-m")


class TestProcesses:
    def test_an_error_of_the_module(self, start, tmp_path):
        result = start("out", directory=tmp_path / "none")
        assert result.returncode == 1 and re.fullmatch(r"error: .*is not a directory.*\n", result.stderr), (
            result.stderr
        )

    @pytest.mark.slow
    @pytest.mark.timeout(400)
    def test_two_processes_give_what_one_gives(self, start, tmp_path):
        for output, launcher in (("one", ()), ("two", LAUNCHER)):
            result = start(output, *launcher)
            assert result.returncode == 0, result.stderr
            assert result.stdout.count("held-out perplexity") == result.stdout.count("objective labels") == 1
        one, two = (
            json.loads((tmp_path / name / "neuronmm_report.json").read_text())["recovery"] for name in ("one", "two")
        )
        assert (one["processes"], two["processes"]) == (1, 2)
        assert one["sources"] == two["sources"]
        for ours, theirs in zip(one["log"], two["log"], strict=True):
            assert ours["held_out"] == pytest.approx(theirs["held_out"], abs=1e-4)
            assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        assert one["held_out"][0]["after"] < one["held_out"][0]["before"] - 0.1
        ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
        for name, tensor in ours.items():
            if tensor.numel():
                assert (tensor - theirs[name]).abs().max() < 1e-3, name

    @pytest.mark.slow
    @pytest.mark.timeout(400)
    def test_an_error_of_two_processes_is_said_once(self, start, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").write_text("mine")
        result = start("out", *LAUNCHER)
        assert result.returncode != 0 and len(re.findall("^error: ", result.stderr, re.MULTILINE)) == 1
        assert "exists and is not empty" in result.stderr
