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
"""`optimum-cli neuronmm evaluate` and `python -m optimum_neuronmm.recipes`: arguments, messages, interruptions."""

import json
import os
import re
import signal
import subprocess
import sys
from argparse import ArgumentParser
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from optimum_neuronmm.commands.evaluate import EvaluateCommand
from optimum_neuronmm.commands.evaluation_flags import assignments
from optimum_neuronmm.commands.neuronmm import NeuronMMCommand
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes.__main__ import main
from optimum_neuronmm.recipes.data.tasks import TASKS

from ..conftest import ROOT
from ..recipes import metric_scripts
from ..recipes.made_data import EXAMPLES, WINDOW, recipe_content, without_times, write_data, write_recipe
from .test_registration import CLI, place_stub


@pytest.fixture(scope="module", autouse=True)
def modules_cache(tmp_path_factory):
    with metric_scripts.copied_to(tmp_path_factory.mktemp("modules")) as directory:
        yield directory


@pytest.fixture
def parser():
    parser = ArgumentParser()
    EvaluateCommand.parse_args(parser)
    return parser


def run(*words: str) -> None:
    """Runs `optimum-cli neuronmm evaluate`."""
    root = ArgumentParser()
    EvaluateCommand(root.add_subparsers(), command=SimpleNamespace(name="evaluate", help=""))
    args = root.parse_args(["evaluate", *words])
    args.func(args).run()


@pytest.fixture
def evaluations(monkeypatch):
    """Stands in for the evaluation; holds the arguments of each call."""
    calls = []
    monkeypatch.setattr("optimum_neuronmm.recipes.command.evaluate_models", calls.append)
    return calls


class TestArguments:
    def test_it_is_a_subcommand(self):
        assert {c.name: c.subcommand_class for c in NeuronMMCommand.SUBCOMMANDS}["evaluate"] is EvaluateCommand

    def test_nothing_given_is_nothing_chosen(self, evaluations):
        run("--output", "out")
        given = {name: value for name, value in vars(evaluations[0]).items() if name != "func" and value}
        assert given == {"output": "out"}

    def test_what_is_given_arrives(self, evaluations):
        words = "-m a b --model c --baseline d --recipe r --output o --revision v --trust-remote-code --cache_dir here"
        words += " --data c4=x ptb=y --tasks c4 ptb --variants dense --examples 1 --windows 2 --window 3 --device cpu"
        run(*words.split(), *"--dtype bfloat16 --batch_tokens 4 --no_divergence --speed repeats=1 warmup=0".split())
        found = {name: value for name, value in vars(evaluations[0]).items() if name != "func"}
        assert found == {
            "model": ["a", "b", "c"],
            "baseline": "d",
            "recipe": "r",
            "output": "o",
            "revision": "v",
            "trust_remote_code": True,
            "cache_dir": "here",
            "data": ["c4=x", "ptb=y"],
            "tasks": ["c4", "ptb"],
            "variants": ["dense"],
            "examples": 1,
            "windows": 2,
            "window": 3,
            "device": "cpu",
            "dtype": "bfloat16",
            "batch_tokens": 4,
            "no_divergence": True,
            "no_speed": False,
            "speed": ["repeats=1", "warmup=0"],
        }

    def test_models_of_two_calls_are_not_mixed(self, evaluations):
        run("--output", "out", "-m", "a")
        run("--output", "out", "-m", "b")
        assert [args.model for args in evaluations] == [["a"], ["b"]]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ("-m a", "required: --output"),
            ("--output o --examples 0", "--examples: expected a positive integer, got '0'"),
            ("--output o --windows many", "--windows: expected a positive integer, got 'many'"),
            ("--output o --window -3", "--window: expected a positive integer, got '-3'"),
            ("--output o --batch_tokens 1.5", "--batch_tokens: expected a positive integer, got '1.5'"),
            ("--output o --dtype int8", "--dtype: invalid choice: 'int8'"),
            ("--output o --device neuron", "--device: invalid choice: 'neuron'"),
            ("--output o --tasks", "--tasks: expected at least one argument"),
            ("--output o --data", "--data: expected at least one argument"),
            ("--output o -m", "--model: expected at least one argument"),
            ("--output o model", "unrecognized arguments: model"),
        ],
    )
    def test_wrong_values_are_refused(self, parser, words, message, capsys):
        with pytest.raises(SystemExit) as stopped:
            parser.parse_args(words.split())
        assert stopped.value.code == 2 and message in capsys.readouterr().err

    def test_every_flag_has_a_help(self, parser):
        assert all(action.help and action.help.endswith((".", "exit")) for action in parser._actions)

    def test_assignments(self):
        assert assignments(["a=1", "b=2=3"], "--x") == {"a": "1", "b": "2=3"}
        for texts in (["a"], ["=1"], ["a="], ["a=1", "a=1"]):
            with pytest.raises(NeuronMMError, match="^--x "):
                assignments(texts, "--x")


class TestEndings:
    def test_an_error_is_one_line(self, capsys, tmp_path):
        with pytest.raises(SystemExit) as stopped:
            run("--output", str(tmp_path / "out"))
        assert stopped.value.code == 1
        assert re.fullmatch(r"error: Nothing to evaluate: .*\n", capsys.readouterr().err)

    def test_ctrl_c_says_how_to_go_on(self, monkeypatch, capsys):
        def interrupted(args):
            raise KeyboardInterrupt

        monkeypatch.setattr("optimum_neuronmm.recipes.command.evaluate_models", interrupted)
        with pytest.raises(SystemExit) as stopped:
            run("--output", "out")
        assert stopped.value.code == 130
        assert "interrupted: run the same command again to go on" in capsys.readouterr().err


# Runs the module twice in one process, which gets a signal each time while it keeps an example, with half of its line
# written. Between the two, the scores are copied.
DEADLY = """
import os, runpy, shutil, signal, sys
from optimum_neuronmm.recipes.scoring.score_file import ScoreFile
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it runs in the background ignore it
write, left = ScoreFile._write, []
def deadly(self, entries):
    left[0][0] -= 1
    if not left[0][0]:
        self._file.write(b'{"id": "half of')
        self._file.flush()
        os.kill(os.getpid(), left[0][1])
    write(self, entries)
ScoreFile._write = deadly
for left[:] in [[[4, signal.SIGINT]], [[13, signal.SIGKILL]]]:
    try:
        runpy.run_module("optimum_neuronmm.recipes", run_name="__main__")
    except SystemExit as stopped:
        print("status", stopped.code, flush=True)
        shutil.copytree(sys.argv[-1], sys.argv[-1] + "-first")
"""
MODULE = "import runpy; runpy.run_module('optimum_neuronmm.recipes', run_name='__main__')"
COMMAND_HELP = """
from argparse import ArgumentParser
from optimum_neuronmm.commands.evaluate import EvaluateCommand
parser = ArgumentParser()
EvaluateCommand.parse_args(parser)
parser.parse_args()
"""
OPTIMUM_CLI = f"import sys; sys.argv[1:1] = ['neuronmm', 'evaluate']; {CLI}"


@pytest.fixture(scope="module")
def start(modules_cache, tmp_path_factory):
    """`start(code, *words)`: a process of its own, with this checkout as if it were installed."""
    folder = tmp_path_factory.mktemp("evaluate")
    paths = [ROOT]
    if find_spec("optimum.commands.register.register_neuronmm") is None:
        place_stub(folder / "stub")
        paths.append(folder / "stub")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }
    environment.pop("NEURONMM_DATA", None)

    def start(code, *words):
        command = [sys.executable, *(code if isinstance(code, list) else ["-c", code]), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=200)

    return start


@pytest.fixture(scope="module")
def words(tiny_llama, compressed_llama, tmp_path_factory) -> list:
    """Arguments of a run over two models and two tasks, but for its output. Each example is computed alone."""
    folder = tmp_path_factory.mktemp("inputs")
    recipe = write_recipe(folder / "tiny.yaml", "org/not-here")
    data = write_data(folder / "data")
    given = ["--recipe", recipe, "--data", data, "--device", "cpu", "--batch_tokens", 1]
    return ["-m", compressed_llama, "--baseline", tiny_llama, *given]


def report_of(output) -> dict:
    return without_times(json.loads((output / "report.json").read_text()))


def scores_of(output) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (output / "scores").glob("*.jsonl")}


@pytest.fixture(scope="module")
def interrupted(start, words, tmp_path_factory):
    """A process that was interrupted, begun again and killed, the scores after either, and their directory."""
    output = tmp_path_factory.mktemp("runs") / "out"
    process = start(DEADLY, *words, "--output", output)
    first = output.with_name("out-first")
    assert not (output / "report.json").exists() and not (first / "report.json").exists(), process.stderr
    return process, scores_of(first), scores_of(output), output


@pytest.fixture(scope="module")
def finished(interrupted, start, words):
    """The directory, its scores after the command went on to the end, and the processes of that and of the module after it."""
    *_, output = interrupted
    command = start(OPTIMUM_CLI, *words, "--output", output)
    assert command.returncode == 0, command.stderr
    scores = scores_of(output)
    module = start(["-m", "optimum_neuronmm.recipes"], *words, "--output", output)
    assert module.returncode == 0, module.stderr
    return output, scores, command, module


class TestProcesses:
    def test_ctrl_c_is_one_line(self, interrupted):
        killed, *_ = interrupted
        assert killed.stdout == "status 130\n" and "Traceback" not in killed.stderr
        assert "\ninterrupted: run the same command again to go on\n" in killed.stderr
        assert killed.returncode == -signal.SIGKILL

    def test_it_goes_on_where_it_was(self, interrupted, finished):
        stages = [*interrupted[1:3], scores_of(finished[0])]
        # Two of four windows; those, six questions and two windows of the next model; all. Each file has a first line.
        lines = [sum(content.count(b"\n") for content in scores.values()) for scores in stages]
        assert lines == [3, 5 + 7 + 3, 2 * (5 + 7)]
        for before, after in zip(stages, stages[1:], strict=False):
            assert any(not content.endswith(b"\n") for content in before.values())  # half of a line
            assert all(after[name].startswith(content[: content.rfind(b"\n") + 1]) for name, content in before.items())
        assert finished[1] == stages[2], "the last run changed scores"

    def test_in_the_end_it_is_what_an_uninterrupted_run_gives(self, finished, words, tmp_path, capsys):
        output, _, *processes = finished
        run(*map(str, words), "--output", str(tmp_path))
        assert scores_of(output) == scores_of(tmp_path) and report_of(output) == report_of(tmp_path)
        table, _, end = capsys.readouterr().out.partition("\n\n")
        assert end == f"The report is {tmp_path / 'report.md'}.\n" and table in (tmp_path / "report.md").read_text()
        for process in processes:
            assert process.stdout == f"{table}\n\nThe report is {output / 'report.md'}.\n"

    def test_what_is_reported(self, finished):
        output, _, _, process = finished
        assert {path.name for path in output.iterdir()} == {
            *("report.json", "report.md", "accuracy.png", "perplexity.png", "scores")
        }
        assert process.stdout.startswith("| model | requested |") and "tiny-llama (baseline)" in process.stdout
        assert "[1/2] tiny-llama\n" in process.stderr and "[2/2] tiny-llama (2)\n" in process.stderr
        report = report_of(output)
        assert [model["kind"] for model in report["models"]] == ["dense", "compressed"]
        for model in report["models"]:
            assert model["tasks"]["arc_easy"]["examples"] == EXAMPLES
            assert [model["tasks"]["wikitext2"][key] for key in ("window", "windows")] == [WINDOW, 4]
        assert report["recipe"]["content"]["tasks"] == {
            "wikitext2": {**recipe_content("m")["tasks"]["wikitext2"], "layout": "joined"},
            "arc_easy": {"examples": None},
        }

    @pytest.mark.parametrize("code", [COMMAND_HELP, MODULE], ids=["command", "module"])
    def test_help_loads_no_framework(self, start, code):
        code = "import atexit, sys; atexit.register(lambda: print('loaded:', *sys.modules)); " + code
        result = start(code, "--help")
        assert result.returncode == 0, result.stderr
        for flag in (
            "--model",
            "--baseline",
            "--recipe",
            "--output",
            "--data",
            "--speed",
            "--no_speed",
            "--no_divergence",
        ):
            assert flag in result.stdout
        loaded = result.stdout.partition("loaded:")[2].split()
        assert not {"torch", "transformers", "numpy", "evaluate", "datasets", "matplotlib"} & set(loaded)
        assert "optimum_neuronmm.commands.evaluation_flags" in loaded


def test_without_a_recipe_all_tasks_are_evaluated(words, tmp_path):
    few = "--window 32 --windows 2 --examples 2 --speed prompt_length=4 new_tokens=2 repeats=1 warmup=0".split()
    given = [*words[:4], *words[6:], "--output", tmp_path, *few, "--dtype", "bfloat16", "--no_divergence"]
    run(*map(str, given))
    for model in json.loads((tmp_path / "report.json").read_text())["models"]:
        assert {
            name: entry.get("examples") or entry["windows"] for name, entry in model["tasks"].items()
        } == dict.fromkeys(TASKS, 2)
        assert model["dtype"] == "bfloat16" and model["speed"]["settings"]["new_tokens"] == 2
        assert model["tasks"]["c4"]["divergence"] is None


class TestModule:
    def test_an_error_is_one_line(self, words, tmp_path, monkeypatch, capsys):
        given = [*words, "--output", tmp_path / "out", "--tasks", "arc"]
        monkeypatch.setattr(sys, "argv", ["recipes", *map(str, given)])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 1 and not (tmp_path / "out").exists()
        assert re.fullmatch(r"error: recipe tiny: no task arc\. .*\n", capsys.readouterr().err)

    def test_ctrl_c_says_how_to_go_on(self, monkeypatch, capsys):
        def interrupted(args):
            raise KeyboardInterrupt

        monkeypatch.setattr(sys, "argv", ["recipes", "--output", "out"])
        monkeypatch.setattr("optimum_neuronmm.recipes.command.evaluate_models", interrupted)
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 130
        assert "interrupted: run the same command again to go on" in capsys.readouterr().err
