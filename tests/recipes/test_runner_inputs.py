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
"""What a run says about outputs, data and models that it cannot work with."""

import fcntl
import json
import shutil
from pathlib import Path

import pytest

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes import runner
from optimum_neuronmm.recipes.data.tasks import TASKS
from optimum_neuronmm.recipes.description.recipe import Recipe
from optimum_neuronmm.recipes.runner import run
from optimum_neuronmm.workspace import lock_directory

from .made_data import TEXTS, WINDOW, recipe, recipe_content, rows_of


class TestOutput:
    @pytest.fixture
    def evaluate(self, tiny_llama, nine_tasks):
        def evaluate(output, **changes):
            given = {"models": [tiny_llama], "data": nine_tasks, "device": "cpu", **changes}
            return run(recipe(tiny_llama, tasks={"arc_easy": {"examples": 1}}), output, **given)

        return evaluate

    def test_another_process_has_it(self, evaluate, tmp_path):
        (tmp_path / "scores").mkdir()
        with open(tmp_path / "scores" / "lock", "w") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(NeuronMMError, match="Another process is writing .* Wait for it, or choose another"):
                evaluate(tmp_path)
        assert evaluate(str(tmp_path))["models"]

    def test_it_is_kept_from_others_until_the_end(self, evaluate, tmp_path, monkeypatch):
        write, states = runner.write_report, []

        def is_free() -> bool:
            lock = lock_directory(tmp_path / "scores")
            if lock is not None:
                lock.close()
            return lock is not None

        monkeypatch.setattr(runner, "write_report", lambda *args: states.append(is_free()) or write(*args))
        evaluate(tmp_path)
        assert [*states, is_free()] == [False, True]

    def test_it_is_free_again_after_a_failure(self, evaluate, tmp_path):
        for _ in range(2):
            with pytest.raises(NeuronMMError, match="nowhere does not exist"):
                evaluate(tmp_path, data=tmp_path / "nowhere")
        assert evaluate(tmp_path)["models"]

    def test_a_file_is_in_the_way(self, evaluate, tmp_path):
        (tmp_path / "out").write_text("mine")
        with pytest.raises(NeuronMMError, match="out is a file: expected a directory for the report"):
            evaluate(tmp_path / "out")
        assert (tmp_path / "out").read_text() == "mine"

    def test_it_cannot_be_written(self, evaluate, tmp_path, monkeypatch):
        def refuse(*args, **options):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", refuse)
        with pytest.raises(NeuronMMError, match=r"out cannot be written \(Permission denied\). Choose another"):
            evaluate(tmp_path / "out")


class TestData:
    def evaluate(self, model, data, output, name="arc_easy"):
        options = {"window": WINDOW} if name in TEXTS else None
        return run(recipe(model, tasks={name: options}), output, models=[model], data=data, device="cpu")

    def test_a_file_is_missing(self, tiny_llama, tmp_path):
        (tmp_path / "arc_easy.train.jsonl").write_text("{}")
        message = r"has no file for the task arc_easy: expected one arc_easy.test\*.jsonl .*got arc_easy.train.jsonl"
        with pytest.raises(NeuronMMError, match=message):
            self.evaluate(tiny_llama, tmp_path, tmp_path / "out")

    def test_a_line_is_malformed(self, tiny_llama, tmp_path):
        lines = [json.dumps(row) for row in rows_of("arc_easy")]
        lines[3] = lines[3][:-5]
        file = tmp_path / "mine.jsonl"
        file.write_text("\n".join(lines))
        with pytest.raises(NeuronMMError, match="mine.jsonl, line 4: not JSON"):
            self.evaluate(tiny_llama, {"arc_easy": file}, tmp_path / "out")

    @pytest.mark.parametrize(("name", "suffix"), [("arc_easy", ".jsonl"), ("ptb", ".txt"), ("c4", ".jsonl")])
    def test_a_file_is_empty(self, tiny_llama, tmp_path, name, suffix):
        (tmp_path / f"{TASKS[name].file}{suffix}").write_text("")
        with pytest.raises(NeuronMMError, match=f"{TASKS[name].file}{suffix} is empty: it holds no"):
            self.evaluate(tiny_llama, tmp_path, tmp_path / "out", name)

    def test_data_are_looked_at_before_a_model_is(self, tmp_path):
        with pytest.raises(NeuronMMError, match="has no file for the task arc_easy"):
            self.evaluate(tmp_path / "no-model", tmp_path, tmp_path / "out")

    def test_without_a_connection_it_says_how_to_give_local_files(self, tiny_llama, tmp_path, monkeypatch):
        monkeypatch.delenv("NEURONMM_DATA", raising=False)
        with pytest.raises(NeuronMMError, match=r"give local files: --data DIR, or NEURONMM_DATA=DIR"):
            self.evaluate(tiny_llama, None, tmp_path / "out")

    def test_the_window_is_longer_than_the_model_takes(self, tiny_llama, nine_tasks, tmp_path):
        found = recipe(tiny_llama, tasks={"ptb": None})
        with pytest.raises(NeuronMMError, match="takes 512 tokens, and windows of text have 2048.*--window 512"):
            run(found, tmp_path / "out", models=[tiny_llama], data=nine_tasks, device="cpu")

    def test_a_model_is_not_there(self, nine_tasks, tmp_path):
        with pytest.raises(NeuronMMError, match="no-such-model"):
            run(recipe("m"), tmp_path, models=["org/no-such-model"], data=nine_tasks, device="cpu")


@pytest.mark.parametrize(
    ("models", "baseline", "revision", "expected"),
    [
        ([], None, None, {"m": "pinned"}),
        ([], None, "r", {"m": "r"}),
        (["a", "b"], None, "r", {"m": "pinned", "a": "r", "b": "r"}),
        (["a", "b"], "dense", "r", {"m": "pinned", "dense": "r"}),
        (["a"], "dense", None, {"m": "pinned"}),
    ],
)
def test_a_pinned_revision_is_that_of_the_recipes_model(monkeypatch, tmp_path, models, baseline, revision, expected):
    """Another model has no such commit."""
    found = []

    def stop(load, *_):
        found.append(load.revisions)
        raise NeuronMMError("far enough")

    monkeypatch.setattr(runner.Loading, "__call__", stop)
    monkeypatch.setattr(runner, "load_data", lambda *_, **options: None)
    content = recipe_content("m", revision="pinned", variants=[{"ratio": 0}])
    with pytest.raises(NeuronMMError, match="far enough"):
        run(Recipe.from_dict(content), tmp_path, models=models, baseline=baseline, revision=revision)
    assert found == [expected]


class TestBeforeTheFirstScore:
    """What would stop the last model is found before hours go into the first."""

    @pytest.fixture
    def evaluate(self, tiny_llama, nine_tasks, tmp_path):
        def evaluate(model, **changes):
            content = recipe_content(tiny_llama, tasks={"arc_easy": {"examples": 1}}, **changes)
            run(Recipe.from_dict(content), tmp_path / "out", models=[tiny_llama, model], data=nine_tasks, device="cpu")

        yield evaluate
        assert not list((tmp_path / "out" / "scores").glob("*.jsonl"))

    def test_a_compiled_model_without_the_sdk(self, evaluate, compiled):
        with pytest.raises(NeuronMMError, match="compiled is a compiled model, which needs the Neuron SDK"):
            evaluate(compiled)

    def test_no_tokenizer(self, evaluate, tiny_llama, tmp_path):
        directory = shutil.copytree(tiny_llama, tmp_path / "mute")
        for path in directory.glob("token*"):
            path.unlink()
        with pytest.raises(NeuronMMError, match="mute has no tokenizer that can be loaded"):
            evaluate(directory)

    def test_a_length_to_time_that_is_too_long(self, evaluate, tiny_llama):
        with pytest.raises(NeuronMMError, match="takes 512 tokens, and timing it needs 520: lower prompt_length"):
            evaluate(tiny_llama, speed={"prompt_length": 400, "new_tokens": 120})

    def test_evaluate_is_not_installed(self, evaluate, tiny_llama, monkeypatch):
        def missing(name):
            raise NeuronMMError("Evaluation needs the package evaluate")

        monkeypatch.setattr(runner, "metric", missing)
        with pytest.raises(NeuronMMError, match="needs the package evaluate"):
            evaluate(tiny_llama)
