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
"""Whole runs on a tiny model: what is measured, made, kept and reported."""

import getpass
import json
import math
import socket
import statistics
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_neuronmm.recipes import runner
from optimum_neuronmm.recipes.data.tasks import TASKS
from optimum_neuronmm.recipes.description.recipe import Recipe
from optimum_neuronmm.recipes.runner import run
from optimum_neuronmm.recipes.scoring.loading import LoadedModel
from optimum_neuronmm.recipes.scoring.score_file import ScoreFile
from optimum_neuronmm.recipes.speed import SpeedSettings

from .made_data import EXAMPLES, QUESTIONS, TEXTS, WINDOW, lines_of, recipe, rows_of, without_times


ALL_TASKS = {name: {"window": WINDOW, "bos": "none"} if name in TEXTS else None for name in TASKS}


@pytest.fixture(scope="module")
def everything(tiny_llama, compressed_llama, nine_tasks, tmp_path_factory):
    """A dense and a compressed model on all nine tasks: the directory and the results."""
    output = tmp_path_factory.mktemp("everything") / "report"
    models = {"models": [compressed_llama], "baseline": tiny_llama}
    return output, run(recipe(tiny_llama, tasks=ALL_TASKS), output, data=nine_tasks, device="cpu", **models)


class Judge:
    """Figures of a model, one text at a time in float64, with nothing of the recipes' scoring."""

    def __init__(self, directory: Path):
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(directory)

    @torch.no_grad()
    def log_probabilities(self, tokens: list[int]) -> torch.Tensor:
        return self.model(input_ids=torch.tensor([tokens])).logits[0].double().log_softmax(-1)

    def likelihood(self, context: str, continuation: str) -> float:
        start = self.tokenizer(context).input_ids
        tokens = self.tokenizer(context + continuation).input_ids
        found = self.log_probabilities(tokens)
        return sum(found[place - 1, tokens[place]].item() for place in range(len(start), len(tokens)))

    def right(self, name: str) -> tuple[list[int], list[int]]:
        """Whether each question is answered rightly, by likelihood and by likelihood per character."""
        plain, normalised = [], []
        for row in rows_of(name):
            values = [self.likelihood(*pair) for pair in pairs(name, row)]
            by_length = [value / len(choice) for value, choice in zip(values, row["choices"], strict=True)]
            plain.append(int(values.index(max(values)) == row["label"]))
            normalised.append(int(by_length.index(max(by_length)) == row["label"]))
        return plain, normalised

    def windows(self, name: str) -> list[torch.Tensor]:
        """For each window the log-probabilities (WINDOW - 1, vocabulary) of the next token, and those tokens."""
        tokens = self.tokenizer(joined(name)).input_ids
        cut = [tokens[start : start + WINDOW] for start in range(0, len(tokens) - WINDOW + 1, WINDOW)]
        return [(self.log_probabilities(window)[:-1], torch.tensor(window[1:])) for window in cut]


def pairs(name: str, row: dict) -> list[tuple[str, str]]:
    if name == "winogrande":
        before, after = row["sentence"].split("_")
        return [(before + choice, f" {after.strip()}") for choice in row["choices"]]
    context = row.get("question") or row["context"]
    if name in ("arc_easy", "arc_challenge", "mathqa"):
        context = f"Question: {context}\nAnswer:"
    return [(context, f" {choice}") for choice in row["choices"]]


def joined(name: str) -> str:
    lines = lines_of(name)
    return "\n\n".join(line + "\n" for line in lines) if name == "wikitext2" else " ".join(lines)


@pytest.fixture(scope="module")
def judges(tiny_llama, compressed_llama) -> tuple[Judge, Judge]:
    return Judge(tiny_llama), Judge(compressed_llama)


def error(values: list[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))


class TestFigures:
    def test_all_tasks_of_both_models_are_there(self, everything):
        dense, compressed = everything[1]["models"]
        assert list(dense["tasks"]) == list(compressed["tasks"]) == list(TASKS)

    @pytest.mark.parametrize("name", QUESTIONS)
    def test_accuracy(self, everything, judges, name):
        of_models = [judge.right(name) for judge in judges]
        for (plain, normalised), model in zip(of_models, everything[1]["models"], strict=True):
            entry = model["tasks"][name]
            assert (entry["examples"], entry["acc"]) == (EXAMPLES, pytest.approx(sum(plain) / EXAMPLES))
            assert entry["acc_stderr"] == pytest.approx(error(plain))
            if name == "winogrande":
                assert "acc_norm" not in entry
            else:
                assert entry["acc_norm"] == pytest.approx(sum(normalised) / EXAMPLES)
        differences = [own - other for own, other in zip(of_models[1][0], of_models[0][0], strict=True)]
        change = {"difference": sum(differences) / EXAMPLES, "stderr": error(differences)}
        assert entry["change"] == pytest.approx(change) and "change" not in everything[1]["models"][0]["tasks"][name]

    @pytest.mark.parametrize("name", TEXTS)
    def test_perplexity_and_divergence(self, everything, judges, name):
        losses, of_models = [], [judge.windows(name) for judge in judges]
        for windows, model in zip(of_models, everything[1]["models"], strict=True):
            losses.append([-found.gather(1, next[:, None]).mean().item() for found, next in windows])
            entry = model["tasks"][name]
            assert (entry["windows"], entry["tokens"]) == (len(windows), len(windows) * (WINDOW - 1))
            assert entry["perplexity"] == pytest.approx(math.exp(statistics.mean(losses[-1])), rel=1e-5)
            assert entry["stderr"] == pytest.approx(entry["perplexity"] * error(losses[-1]), rel=1e-3)
        divergences = [(p.exp() * (p - q)).sum(-1).mean().item() for (p, _), (q, _) in zip(*of_models, strict=True)]
        assert entry["divergence"] == pytest.approx(statistics.mean(divergences), rel=1e-3)
        assert everything[1]["models"][0]["tasks"][name]["divergence"] is None
        differences = [own - other for other, own in zip(*losses, strict=True)]
        change = {"difference": statistics.mean(differences), "stderr": error(differences)}
        assert entry["change"] == pytest.approx(change, rel=1e-2, abs=1e-5)

    def test_mean_accuracy(self, everything):
        for model in everything[1]["models"]:
            accuracies = [model["tasks"][name]["acc"] for name in QUESTIONS]
            assert model["mean_accuracy"] == pytest.approx(sum(accuracies) / 6)


class TestReport:
    def test_what_is_written(self, everything):
        output, results = everything
        names = {"report.json", "report.md", "accuracy.png", "perplexity.png", "scores"}
        assert {path.name for path in output.iterdir()} == names
        assert json.loads((output / "report.json").read_text()) == json.loads(json.dumps(results))
        assert all((output / name).read_bytes().startswith(b"\x89PNG") for name in names if name.endswith(".png"))

    def test_what_the_models_are(self, everything, tiny_llama, compressed_llama):
        dense, compressed = everything[1]["models"]
        assert [dense[key] for key in ("name", "kind", "baseline", "revision")] == ["tiny-llama", "dense", True, None]
        assert [compressed[key] for key in ("name", "model", "kind")] == ["tiny-llama (2)", "tiny-llama", "compressed"]
        assert compressed["baseline"] is False and dense["sha256"] != compressed["sha256"]
        report = json.loads((compressed_llama / "neuronmm_report.json").read_text())
        assert (compressed["requested_ratio"], dense["requested_ratio"], dense["achieved_ratio"]) == (0.2, 0, 0)
        assert compressed["achieved_ratio"] == report["compression_ratio"]["projections"]
        for model, directory in ((dense, tiny_llama), (compressed, compressed_llama)):
            count = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(directory).parameters())
            assert model["parameters"] == count
            assert (model["dtype"], model["device"], model["speed"], model["gamma"]) == ("float32", "cpu", None, None)
            assert 0 < model["seconds"] < everything[1]["seconds"]

    def test_where_data_come_from(self, everything):
        data = everything[1]["data"]
        assert data["wikitext2"]["source"] == "wikitext2.test.txt.gz" and data["c4"]["notes"]
        assert {data[name]["examples"] for name in QUESTIONS} == {EXAMPLES} and data["ptb"]["examples"] == 1
        assert data["arc_easy"]["source"] == "arc_easy.test.jsonl" and len(data["arc_easy"]["sha256"]) == 64

    def test_how_it_was_run(self, everything, tiny_llama):
        results = everything[1]
        content = recipe(tiny_llama, tasks=ALL_TASKS).to_dict() | {"model": tiny_llama.name}
        assert results["recipe"] == {"name": "tiny", "content": content}
        assert (results["seed"], results["published_source"]) == (0, None)
        assert results["versions"]["torch"] == torch.__version__ and results["machine"]["threads"] == 1

    def test_no_host_and_no_user_is_named(self, everything):
        kept = {key: value for key, value in everything[1].items() if key != "recipe"}
        told = json.dumps(kept) + (everything[0] / "report.md").read_text()
        for name in (socket.gethostname(), str(Path.home()), f'"{getpass.getuser()}"'):
            assert name not in told
        assert str(everything[0].parent) not in told


class TestAgain:
    def test_what_was_scored_is_not_scored_again(
        self, everything, tiny_llama, compressed_llama, nine_tasks, monkeypatch
    ):
        output, results = everything
        before = contents(output / "scores")
        monkeypatch.setattr(LoadedModel, "model", property(lambda loaded: pytest.fail("a model was loaded")))
        given = {"models": [compressed_llama], "baseline": tiny_llama, "data": nine_tasks, "device": "cpu"}
        again = run(recipe(tiny_llama, tasks=ALL_TASKS), output, **given)
        assert without_times(again) == without_times(results) and contents(output / "scores") == before

    def test_more_examples_are_scored_alone(self, tiny_llama, nine_tasks, tmp_path, monkeypatch):
        few = recipe(tiny_llama).narrowed(examples=2, windows=1)
        given = {"models": [tiny_llama], "data": nine_tasks, "device": "cpu"}
        assert run(few, tmp_path, **given)["models"][0]["tasks"]["arc_easy"]["examples"] == 2
        scored, add = [], ScoreFile.add
        monkeypatch.setattr(ScoreFile, "add", lambda file, scores: scored.extend(scores) or add(file, scores))
        [model] = run(recipe(tiny_llama), tmp_path, **given)["models"]
        assert set(scored) == {f"arc_easy-{index}" for index in range(2, EXAMPLES)} | {"1", "2", "3"}
        assert len(scored) == 4 + 3 and model["tasks"]["arc_easy"]["examples"] == EXAMPLES

    @pytest.mark.parametrize("exception", [KeyboardInterrupt, MemoryError])
    def test_interrupted_it_goes_on(self, tiny_llama, nine_tasks, tmp_path, monkeypatch, exception):
        given = {"models": [tiny_llama], "data": nine_tasks, "device": "cpu", "batch_tokens": 1}
        whole = run(recipe(tiny_llama), tmp_path / "whole", **given)
        add = ScoreFile.add
        for number in (3, 4):  # examples until it is stopped, in the first task and in the second
            left = [number]

            def stop(file, scores, left=left):
                left[0] -= 1
                if left[0] < 0:
                    raise exception
                add(file, scores)

            monkeypatch.setattr(ScoreFile, "add", stop)
            with pytest.raises(exception):
                run(recipe(tiny_llama), tmp_path / "cut", **given)
            assert not (tmp_path / "cut" / "report.json").exists()
        before = contents(tmp_path / "cut" / "scores")
        assert sum(content.count(b"\n") for content in before.values()) == 2 + 3 + 4
        monkeypatch.setattr(ScoreFile, "add", add)
        again = run(recipe(tiny_llama), tmp_path / "cut", **given)
        after = contents(tmp_path / "cut" / "scores")
        assert all(after[name].startswith(content) for name, content in before.items())
        assert after == contents(tmp_path / "whole" / "scores") and without_times(again) == without_times(whole)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("*.jsonl")}


class TestPublished:
    def test_rows_stand_beside_ours(self, tiny_llama, compressed_llama, nine_tasks, tmp_path):
        rows = [{"ratio": 0, "perplexity": {"wikitext2": 9.75}}, {"ratio": 0.19, "gamma": 0.25}, {"ratio": 0.4}]
        published = {"source": "Somebody, 2025", "rows": rows}
        found = recipe(tiny_llama, published=published, tasks={"arc_easy": {"examples": 2}})
        given = {"models": [compressed_llama], "baseline": tiny_llama, "data": nine_tasks, "device": "cpu"}
        results = run(found, tmp_path, **given)
        assert results["published_source"] == "Somebody, 2025"
        assert [model["published"]["ratio"] for model in results["models"]] == [0, 0.19]
        assert results["models"][0]["published"]["perplexity"] == {"wikitext2": 9.75}
        assert "*published, ratio 0.19*" in (tmp_path / "report.md").read_text()


class TestSpeed:
    def test_gamma_where_both_were_timed(self, tiny_llama, compressed_llama, nine_tasks, tmp_path, monkeypatch):
        calls, measure = [], runner.measure_speed

        def timed(model, settings, *, seed):
            calls.append((settings, seed))
            found = measure(model, settings, seed=seed)
            found["latency_s"]["p50"] = 3.0 / len(calls)  # the second is twice as fast
            return found

        monkeypatch.setattr(runner, "measure_speed", timed)
        settings = {"prompt_length": 4, "new_tokens": 2, "warmup": 0, "repeats": 1}
        tasks = {"openbookqa": None, "arc_easy": None}
        found = recipe(tiny_llama, speed=settings, seed=3, tasks=tasks)
        given = {"models": [compressed_llama], "baseline": tiny_llama, "data": nine_tasks, "device": "cpu"}
        dense, compressed = run(found, tmp_path, **given)["models"]
        assert calls == [(SpeedSettings(**settings), 3)] * 2
        assert dense["speed"]["settings"] == {**settings, "batch_size": 1} and dense["gamma"] is None
        assert compressed["gamma"] == pytest.approx(dense["mean_accuracy"] - compressed["mean_accuracy"])
        assert "2.00 x" in (tmp_path / "report.md").read_text()


class TestMemory:
    def test_only_the_baseline_stays_loaded(self, tiny_llama, compressed_llama, nine_tasks, tmp_path, monkeypatch):
        released = []
        monkeypatch.setattr(LoadedModel, "release", lambda loaded: released.append(loaded.identity.kind))
        found = recipe(tiny_llama, tasks={"arc_easy": {"examples": 1}})
        given = {"data": nine_tasks, "device": "cpu"}
        run(found, tmp_path, models=[compressed_llama], baseline=tiny_llama, **given)
        assert released == ["compressed"]
        run(found, tmp_path, models=[tiny_llama, compressed_llama], **given)
        assert released == ["compressed", "dense", "compressed"]


class TestLayout:
    def test_the_text_is_laid_out_as_the_recipe_says(self, tiny_llama, nine_tasks, tmp_path):
        options = {"window": WINDOW, "bos": "none"}
        given = {"models": [tiny_llama], "data": nine_tasks, "device": "cpu"}
        losses = {}
        for layout in ("joined", "blank_lines"):
            found = recipe(tiny_llama, tasks={"ptb": {**options, "layout": layout}})
            [model] = run(found, tmp_path / layout, **given)["models"]
            losses[layout] = model["tasks"]["ptb"]["perplexity"]
            assert model["tasks"]["ptb"]["layout"] == layout
        assert losses["joined"] != losses["blank_lines"]


class TestDivergence:
    def test_it_can_be_left_out(self, tiny_llama, compressed_llama, nine_tasks, tmp_path):
        found = recipe(tiny_llama, divergence=False, tasks={"wikitext2": {"window": WINDOW, "windows": 2}})
        given = {"models": [compressed_llama], "baseline": tiny_llama, "data": nine_tasks, "device": "cpu"}
        entry = run(found, tmp_path, **given)["models"][1]["tasks"]["wikitext2"]
        assert entry["divergence"] is None and "change" in entry


def test_times_alone(tiny_llama, tmp_path):
    """A recipe without tasks times its models and scores nothing."""
    content = {
        "name": "s",
        "model": "m",
        "variants": [{"ratio": 0}],
        "speed": {"prompt_length": 8, "new_tokens": 3, "warmup": 0, "repeats": 2},
    }
    results = run(Recipe.from_dict(content), tmp_path, models=[tiny_llama], device="cpu")
    [entry] = results["models"]
    assert entry["tasks"] == {} and entry["mean_accuracy"] is None and len(entry["speed"]["runs"]) == 2
    assert (tmp_path / "report.md").read_text(encoding="utf-8").startswith("# Speed by recipe ")
