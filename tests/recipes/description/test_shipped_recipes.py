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
"""The recipes that the package ships: they load, and say what their comments say. Figures: test_published.py."""

import json
import re

import pytest

from optimum_neuronmm import NeuronMMConfig
from optimum_neuronmm.recipes.data.tasks import TASKS
from optimum_neuronmm.recipes.description.recipe import Recipe, load_recipe
from optimum_neuronmm.recipes.description.recipe_file import shipped_recipes
from optimum_neuronmm.recipes.description.task_options import QuestionOptions, TextOptions
from optimum_neuronmm.recipes.description.variants import Variant
from optimum_neuronmm.recipes.speed import SpeedSettings


SPEED = "llama-3.2-1b-speed"
PAPER = ["llama-3.2-1b", "llama-3.2-3b", "qwen3-1.7b", "qwen3-4b"]


def test_names():
    assert shipped_recipes() == sorted([*PAPER, SPEED, "smollm2-135m-instruct"])


@pytest.mark.parametrize("name", [*PAPER, "smollm2-135m-instruct"])
def test_loads_and_reads_back(name):
    recipe = load_recipe(name)
    assert recipe.name.lower() == name
    assert recipe.model.endswith(f"/{recipe.name}")
    assert re.fullmatch("[0-9a-f]{40}", recipe.revision)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert list(recipe.tasks) == list(TASKS)
    assert recipe.divergence


@pytest.mark.parametrize("name", PAPER)
def test_recipes_of_the_paper(name):
    recipe = load_recipe(name)
    paper = [variant for variant in recipe.variants if variant.name.startswith("paper-")]
    own = [variant for variant in recipe.variants if variant not in paper]
    assert recipe.dtype == "bfloat16"
    assert [variant.ratio for variant in own] == [0, 0.05, 0.1, 0.15, 0.2]
    assert own[0].is_dense
    for variant in own[1:]:
        assert variant.compression == NeuronMMConfig(compression_ratio=variant.ratio, calibration=["wikitext2", "c4"])
        assert variant.recovery is None
    assert [variant.ratio for variant in paper] == [0.1, 0.2]
    for variant in paper:
        config = NeuronMMConfig(
            compression_ratio=variant.ratio,
            decomposition="whitened",
            allocation="uniform",
            calibration=["wikitext2", "c4"],
        )
        assert variant.compression == config
        recovery = variant.recovery
        assert (recovery.objective, recovery.order, recovery.parameters) == ("labels", "sequential", "lora")
        assert (recovery.lora_rank, recovery.learning_rate, recovery.batch_size) == (8, 1e-4, 64)
        assert recovery.data == ["alpaca-cleaned"]
    texts = {task: options for task, options in recipe.tasks.items() if isinstance(options, TextOptions)}
    assert texts == {
        "wikitext2": TextOptions("joined"), "ptb": TextOptions("blank_lines"), "c4": TextOptions("joined")
    }  # fmt: skip
    assert all(recipe.tasks[task] == QuestionOptions() for task in recipe.tasks if task not in texts)
    assert recipe.speed == SpeedSettings(prompt_length=1024, new_tokens=128, batch_size=1)


def test_the_small_recipe():
    recipe = load_recipe("smollm2-135m-instruct")
    common = {"block_size": 32, "calibration": ["wikitext2", "c4"]}
    assert recipe.dtype == "float32"
    assert recipe.variants == (
        Variant("dense", 0.0),
        Variant(
            "uniform-0.1",
            0.1,
            NeuronMMConfig(compression_ratio=0.1, decomposition="whitened", allocation="uniform", **common),
        ),
        Variant("ratio-0.1", 0.1, NeuronMMConfig(compression_ratio=0.1, **common)),
        Variant("ratio-0.2", 0.2, NeuronMMConfig(compression_ratio=0.2, **common)),
    )
    assert all(variant.is_dense or variant.compression.allocates_by_loss for variant in recipe.variants[2:])
    assert recipe.tasks["wikitext2"] == TextOptions("raw", 512, 40)
    assert recipe.tasks["ptb"] == recipe.tasks["c4"] == TextOptions("joined", 512, 20)
    assert all(recipe.tasks[task] == QuestionOptions(100) for task in list(TASKS)[3:])
    assert recipe.speed is None
    assert recipe.published is None


def test_the_recipe_of_speed():
    """The paper's end-to-end table: as many seconds as its tokens take, and faster from ratio to ratio."""
    recipe = load_recipe(SPEED)
    assert recipe.tasks == {} and recipe.model == load_recipe("llama-3.2-1b").model
    assert recipe.speed == SpeedSettings(prompt_length=1024, new_tokens=1024, batch_size=1)
    rows = [recipe.published_row(variant.ratio, 0).speed for variant in recipe.variants]
    for row in rows:
        assert row["latency_s"] == pytest.approx(row["ttft_s"] + 1023 * row["tpot_s"], rel=0.06)
    for name in ("latency_s", "ttft_s", "tpot_s"):
        assert [row[name] for row in rows] == sorted((row[name] for row in rows), reverse=True)
