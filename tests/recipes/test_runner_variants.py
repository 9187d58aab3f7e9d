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
"""Runs that make the models of a recipe: each once, from local text."""

import json
from pathlib import Path

import pytest

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes import preparation, runner
from optimum_neuronmm.recipes.description.recipe import Recipe
from optimum_neuronmm.recipes.runner import run

from .made_data import WINDOW, recipe, without_times


COMPRESSION = {
    "block_size": 32,
    "calibration": ["wikitext2", "c4"],
    "calibration_samples": 8,
    "calibration_length": 32,
}
RECOVERY = {"data": ["c4"], "tokens": 128, "sequence_length": 16, "batch_size": 2, "held_out": 2}
VARIANTS = [
    {"name": "by-loss", "ratio": 0.2},
    {"name": "uniform", "ratio": 0.2, "compression": {"allocation": "uniform", "decomposition": "whitened"}},
    {"ratio": 0},
    {"name": "recovered", "ratio": 0.2, "recovery": RECOVERY},
]


def with_variants(model, **changes) -> Recipe:
    tasks = {"wikitext2": {"window": WINDOW, "windows": 2}, "mathqa": {"examples": 2}}
    return recipe(model, **{"compression": COMPRESSION, "variants": VARIANTS, "tasks": tasks, **changes})


@pytest.fixture(scope="module")
def made(tiny_llama, nine_tasks, tmp_path_factory):
    """A run that made its variants: the directory and the results."""
    output = tmp_path_factory.mktemp("made")
    return output, run(with_variants(tiny_llama), output, data=nine_tasks, device="cpu")


@pytest.fixture
def makes(monkeypatch):
    """Which variants were made, as usual."""
    made = []

    def recorded(planned, *args, **options):
        made.append(planned.directory.name.rpartition("-")[0])
        return preparation.make(planned, *args, **options)

    monkeypatch.setattr(runner, "make", recorded)
    return made


class TestVariants:
    def test_they_are_made_as_the_recipe_says(self, made):
        output, results = made
        names = ["dense", "by-loss", "uniform", "recovered"]
        assert [model["name"] for model in results["models"]] == names
        assert [model["baseline"] for model in results["models"]] == [True, False, False, False]
        assert [model["kind"] for model in results["models"]] == ["dense", *["compressed"] * 3]
        directories = {path.name.rpartition("-")[0] for path in (output / "models").iterdir()}
        assert directories - {"recovered"} == {"by-loss", "uniform"} | {
            path.name.removesuffix("-compressed") for path in (output / "models").glob("recovered-*-compressed")
        }
        by_loss, uniform, recovered = (
            json.loads((output / "models" / model["model"] / "neuronmm_report.json").read_text())
            for model in results["models"][1:]
        )
        assert "recovery" in recovered and "recovery" not in by_loss
        assert uniform["compression_ratio"]["requested"] == results["models"][2]["requested_ratio"] == 0.2
        configs = [
            json.loads((output / "models" / model["model"] / "config.json").read_text())["quantization_config"]
            for model in results["models"][1:]
        ]
        assert [config["allocation"] for config in configs] == ["auto", "uniform", "auto"]

    def test_the_text_to_calibrate_on_is_the_local_one(self, made, nine_tasks):
        [config] = (made[0] / "models").glob("by-loss-*/config.json")
        told = json.loads(config.read_text())["quantization_config"]["calibration"]
        assert [Path(source).name for source in told] == ["wikitext2.train-4kb.txt", "c4.train-40.jsonl"]

    def test_each_differs_from_the_dense_one(self, made):
        for model in made[1]["models"][1:]:
            entry = model["tasks"]["wikitext2"]
            assert entry["divergence"] > 0 and entry["change"]["difference"] != 0
            assert 0 < model["achieved_ratio"] < 0.5 and model["parameters"] < made[1]["models"][0]["parameters"]

    def test_they_are_made_once(self, made, tiny_llama, nine_tasks, makes):
        again = run(with_variants(tiny_llama), made[0], data=nine_tasks, device="cpu")
        assert makes == [] and without_times(again) == without_times(made[1])

    def test_another_option_makes_another(self, made, tiny_llama, nine_tasks, makes):
        before = set((made[0] / "models").iterdir())
        compression = {**COMPRESSION, "calibration_samples": 9}
        changed = with_variants(tiny_llama, compression=compression).narrowed(variants=["uniform"], tasks=["mathqa"])
        [model] = run(changed, made[0], data=nine_tasks, device="cpu")["models"]
        assert makes == ["uniform"] and len(set((made[0] / "models").iterdir()) - before) == 1
        assert model["sha256"] != made[1]["models"][2]["sha256"]

    def test_without_the_dense_one_nothing_is_compared(self, made, tiny_llama, nine_tasks, makes):
        narrowed = with_variants(tiny_llama).narrowed(variants=["uniform", "by-loss"])
        results = run(narrowed, made[0], data=nine_tasks, device="cpu")
        assert makes == [] and [model["name"] for model in results["models"]] == ["by-loss", "uniform"]
        for model in results["models"]:
            assert not model["baseline"] and model["tasks"]["wikitext2"]["divergence"] is None
            assert not any("change" in entry for entry in model["tasks"].values())
        perplexities = [model["tasks"]["wikitext2"]["perplexity"] for model in made[1]["models"][1:3]]
        assert [model["tasks"]["wikitext2"]["perplexity"] for model in results["models"]] == pytest.approx(
            perplexities
        )

    def test_the_baseline_takes_the_place_of_the_recipes_model(self, made, tiny_llama, nine_tasks, makes):
        elsewhere = with_variants("org/not-here")
        results = run(elsewhere, made[0], baseline=tiny_llama, data=nine_tasks, device="cpu")
        assert makes == [] and [m["sha256"] for m in results["models"]] == [m["sha256"] for m in made[1]["models"]]

    def test_what_is_missing_is_found_before_anything_is_made(self, tiny_llama, nine_tasks, tmp_path, makes):
        last = {"name": "last", "ratio": 0.2, "recovery": {**RECOVERY, "data": ["none.txt"]}}
        broken = with_variants(tiny_llama, variants=[*VARIANTS, last])
        with pytest.raises(NeuronMMError, match="none.txt does not exist"):
            run(broken, tmp_path, data=nine_tasks, device="cpu")
        assert makes == [] and not (tmp_path / "models").exists()
