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
"""From the arguments of the command to a run, which here is only recorded."""

from argparse import ArgumentParser
from pathlib import Path

import pytest

from optimum_neuronmm.commands.evaluation_flags import add_evaluation_arguments
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes import command
from optimum_neuronmm.recipes.data.tasks import TASKS
from optimum_neuronmm.recipes.speed import SpeedSettings

from .made_data import QUESTIONS, TEXTS, write_recipe


@pytest.fixture
def evaluate(monkeypatch):
    """`evaluate(*words)` is what `run` is called with: recipe, output, options."""
    calls = []
    monkeypatch.setattr(command, "run", lambda *args, **options: calls.append((*args, options)))
    monkeypatch.setattr(command, "results_table", lambda results: "the table")
    monkeypatch.setattr(command, "published_notes", lambda results: ["whose figures these are"])
    parser = ArgumentParser()
    add_evaluation_arguments(parser)

    def evaluate(*words):
        command.evaluate_models(parser.parse_args(list(map(str, words))))
        return calls.pop()

    return evaluate


@pytest.fixture
def recipe_file(tmp_path) -> Path:
    variants = [{"ratio": 0}, {"name": "small", "ratio": 0.1}, {"name": "smaller", "ratio": 0.2}]
    speed = {"prompt_length": 8, "new_tokens": 4}
    return write_recipe(tmp_path / "tiny.yaml", "org/model", variants=variants, speed=speed, dtype="bfloat16")


def test_a_recipe_alone(evaluate, recipe_file, capsys):
    recipe, output, options = evaluate("--recipe", recipe_file, "--output", "out")
    assert recipe == command.load_recipe(recipe_file) and output == "out"
    assert options == {
        "models": [],
        "baseline": None,
        "data": None,
        "device": None,
        "batch_tokens": None,
        "revision": None,
        "cache_dir": None,
        "trust_remote_code": False,
    }
    assert (
        capsys.readouterr().out == f"the table\n\nwhose figures these are\n\nThe report is {Path('out/report.md')}.\n"
    )


def test_where_things_come_from_and_run(evaluate, recipe_file):
    words = (
        "-m a b --baseline dense --device cpu --batch_tokens 64 --cache_dir here --revision r --trust-remote-code -m c"
    )
    _, _, options = evaluate("--recipe", recipe_file, "--output", "out", *words.split())
    assert options == {
        "models": ["a", "b", "c"],
        "baseline": "dense",
        "data": None,
        "device": "cpu",
        "batch_tokens": 64,
        "revision": "r",
        "cache_dir": "here",
        "trust_remote_code": True,
    }


def test_how_much_is_evaluated(evaluate, recipe_file):
    words = ["--recipe", recipe_file, "--output", "out"]
    recipe, *_ = evaluate(*words, *"--examples 3 --windows 2 --window 16 --variants dense small".split())
    assert (recipe.tasks["arc_easy"].examples, recipe.tasks["wikitext2"].windows) == (3, 2)
    assert recipe.tasks["wikitext2"].window == 16 and recipe.tasks["wikitext2"].bos == "none"
    assert [variant.name for variant in recipe.variants] == ["dense", "small"] and recipe.divergence
    recipe, *_ = evaluate(*words, "--tasks", "arc_easy", "--variants", "smaller")
    assert list(recipe.tasks) == ["arc_easy"] and not recipe.divergence


def test_how_it_is_evaluated(evaluate, recipe_file):
    words = ["--recipe", recipe_file, "--output", "out"]
    recipe, *_ = evaluate(*words)
    assert (recipe.dtype, recipe.divergence) == ("bfloat16", True)
    assert recipe.speed == SpeedSettings(prompt_length=8, new_tokens=4)
    recipe, *_ = evaluate(*words, *"--dtype float16 --no_divergence --speed batch_size=2 warmup=0".split())
    assert (recipe.dtype, recipe.divergence) == ("float16", False)
    assert recipe.speed == SpeedSettings(batch_size=2, warmup=0)
    recipe, *_ = evaluate(*words, "--speed")
    assert recipe.speed == SpeedSettings()


class TestWithoutARecipe:
    def test_all_tasks_on_whole_data(self, evaluate):
        recipe, _, options = evaluate("-m", "org/small", "other", "--output", "out")
        assert list(recipe.tasks) == list(TASKS) and options["models"] == ["org/small", "other"]
        assert {recipe.tasks[name].examples for name in QUESTIONS} == {None}
        assert {(recipe.tasks[name].windows, recipe.tasks[name].window) for name in TEXTS} == {(None, 2048)}
        assert (recipe.name, recipe.model, recipe.dtype, recipe.speed) == ("all-tasks", "org/small", "float32", None)

    def test_a_baseline_alone_is_evaluated(self, evaluate):
        recipe, _, options = evaluate("--baseline", "org/dense", "--output", "out", "--tasks", "ptb")
        assert recipe.model == "org/dense" and [variant.name for variant in recipe.variants] == ["dense"]
        assert options["baseline"] == "org/dense" and options["models"] == []

    def test_there_must_be_something(self, evaluate):
        with pytest.raises(NeuronMMError, match="Nothing to evaluate: give --model MODEL, or --recipe RECIPE"):
            evaluate("--output", "out")


class TestData:
    def test_a_directory(self, evaluate, recipe_file, tmp_path):
        odd = tmp_path / "a=b"
        odd.mkdir()
        for directory in ("somewhere", str(odd)):
            assert evaluate("--recipe", recipe_file, "--output", "o", "--data", directory)[2]["data"] == Path(
                directory
            )

    def test_files(self, evaluate, recipe_file):
        given = ["arc_easy=a.jsonl", "wikitext2=w=1.txt"]
        data = evaluate("--recipe", recipe_file, "--output", "o", "--data", *given)[2]["data"]
        assert data == {"arc_easy": "a.jsonl", "wikitext2": "w=1.txt"}
        assert evaluate("--recipe", recipe_file, "--output", "o", "--data", given[0])[2]["data"] == {
            "arc_easy": "a.jsonl"
        }

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (["one", "two"], "--data takes NAME=VALUE, got 'one'"),
            (["c4=a", "c4=b"], "--data names c4 twice"),
            (["c4="], "--data takes NAME=VALUE, got 'c4='"),
            (["=a", "c4=b"], "--data takes NAME=VALUE, got '=a'"),
        ],
    )
    def test_anything_else(self, evaluate, recipe_file, given, message):
        with pytest.raises(NeuronMMError, match=message):
            evaluate("--recipe", recipe_file, "--output", "o", "--data", *given)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-m a --variants small", "--variants chooses what a recipe makes, and --model evaluates models that exist"),
        ("--tasks arc", r"recipe tiny: no task arc. Choose from wikitext2, arc_easy"),
        ("--variants tiny", r"recipe tiny: no variant tiny. Choose from dense, small, smaller"),
        ("--tasks wikitext2 --examples 3", "examples was given, but fits none of the tasks wikitext2"),
        ("--tasks arc_easy --window 3", "window was given, but fits none of the tasks arc_easy"),
        ("--window 1", "tasks.wikitext2.window: .*at least 2.* got the number 1"),
        (
            "--speed prompt=3",
            "--speed knows no 'prompt': expected prompt_length, new_tokens, batch_size, warmup, repeats",
        ),
        ("--speed repeats=some", "--speed repeats must be an integer, got 'some'"),
        ("--speed new_tokens=1", "new_tokens of speed must be an integer of at least 2, got 1"),
        ("--speed repeats", "--speed takes NAME=VALUE, got 'repeats'"),
    ],
)
def test_what_does_not_fit(evaluate, recipe_file, words, message):
    with pytest.raises(NeuronMMError, match=message):
        evaluate("--recipe", recipe_file, "--output", "out", *words.split())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": {}}, r"recipe tiny.yaml: .*task.*did you mean tasks"),
        ({"tasks": {"arc-easy": {}}}, "unknown task; did you mean arc_easy"),
        ({"tasks": {"arc_easy": {"windows": 3}}}, "ARC-easy is a multiple-choice task, which has no windows"),
    ],
)
def test_what_a_recipe_does_not_know(evaluate, tmp_path, changes, message):
    file = write_recipe(tmp_path / "tiny.yaml", "m", **changes)
    with pytest.raises(NeuronMMError, match=message):
        evaluate("--recipe", file, "--output", "out")


def test_an_unknown_recipe(evaluate):
    with pytest.raises(NeuronMMError, match="Unknown recipe 'smollm2-135m'; did you mean smollm2-135m-instruct?"):
        evaluate("--recipe", "smollm2-135m", "--output", "out")


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "llama-3.2-1b"])
def test_a_recipe_of_the_package(evaluate, name):
    recipe, *_ = evaluate("--recipe", name, "--output", "out", "--variants", "dense")
    assert recipe.revision and [variant.name for variant in recipe.variants] == ["dense"]


class TestSpeed:
    def test_the_recipes_own_can_be_left_out(self, evaluate, recipe_file):
        assert evaluate("--recipe", recipe_file, "--output", "o", "--no_speed")[0].speed is None

    def test_a_recipe_of_nothing_else(self, evaluate):
        with pytest.raises(
            NeuronMMError, match="The recipe Llama-3.2-1B-speed only measures speed: leave --no_speed out"
        ):
            evaluate("--recipe", "llama-3.2-1b-speed", "--output", "o", "--no_speed")
        with pytest.raises(NeuronMMError, match=r"examples was given, but fits none of the tasks \(there are none\)"):
            evaluate("--recipe", "llama-3.2-1b-speed", "--output", "o", "--examples", "3")
        with pytest.raises(NeuronMMError, match="no task arc_easy. It has no tasks"):
            evaluate("--recipe", "llama-3.2-1b-speed", "--output", "o", "--tasks", "arc_easy")

    def test_a_number_beyond_all_measure(self, evaluate, recipe_file):
        with pytest.raises(NeuronMMError, match="--speed repeats must be an integer"):
            evaluate("--recipe", recipe_file, "--output", "o", "--speed", "repeats=" + 5000 * "9")


@pytest.mark.parametrize("words", [["-m", ""], ["-m", "a", "--baseline", ""], ["-m", "a", "--output", ""]])
def test_names_that_are_empty(evaluate, words):
    with pytest.raises(NeuronMMError, match=r"--(model|baseline|output) is empty"):
        evaluate("--output", "o", *words)


def test_a_file_for_a_task_that_is_not_evaluated(evaluate, recipe_file):
    with pytest.raises(NeuronMMError, match="--data names a file for ptb, which is not evaluated"):
        evaluate("--recipe", recipe_file, "--output", "o", "--tasks", "arc_easy", "--data", "ptb=x.txt")
