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
"""Recipes: what is read, what is refused and where, what a copy with less to do holds."""

import copy
import json
import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_neuronmm import NeuronMMConfig
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes.data.tasks import TASKS
from optimum_neuronmm.recipes.description.recipe import Recipe, load_recipe
from optimum_neuronmm.recipes.description.task_options import QuestionOptions, TextOptions
from optimum_neuronmm.recipes.description.variants import Variant
from optimum_neuronmm.recipes.speed import SpeedSettings
from optimum_neuronmm.recovery.config import RecoveryConfig


RECOVERY = {"tokens": 8192, "data": ["text.txt"]}
CONTENT = {
    "name": "Tiny",
    "model": "org/tiny",
    "revision": "main",
    "dtype": "bfloat16",
    "seed": 3,
    "compression": {"block_size": 32, "calibration": ["self"]},
    "recovery": None,
    "variants": [
        {"ratio": 0},
        {"name": "uniform", "ratio": 0.1, "compression": {"allocation": "uniform", "block_size": 64, "seed": 7}},
        {"ratio": 0.2, "recovery": RECOVERY},
    ],
    "tasks": {
        "arc_easy": {"examples": 10},
        "wikitext2": {"layout": "raw", "window": 64, "windows": 3, "bos": "every"},
        "c4": None,
        "mathqa": {},
    },
    "divergence": True,
    "speed": {"prompt_length": 16, "new_tokens": 4},
    "published": {
        "source": "A paper",
        "rows": [{"ratio": 0.1, "perplexity": {"ptb": 20}, "accuracy": {"mathqa": 0.25}, "speedup": 2, "gamma": -0.1}],
    },
}
MINIMAL = {"name": "Tiny", "model": "org/tiny", "variants": [{"ratio": 0}], "tasks": {"ptb": None}}
ABSENT = object()


def changed(path: list, value, content: dict = CONTENT) -> dict:
    """A copy of the content with another value at the path; ABSENT takes the key away."""
    content = copy.deepcopy(content)
    parent = content
    for step in path[:-1]:
        parent = parent[step]
    if value is ABSENT:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return content


def read(content) -> Recipe:
    return Recipe.from_dict(content, "a.yaml")


class TestReading:
    def test_everything_that_can_be_said(self):
        recipe = read(CONTENT)
        dense, uniform, recovered = recipe.variants
        assert (recipe.name, recipe.model, recipe.revision) == ("Tiny", "org/tiny", "main")
        assert (recipe.dtype, recipe.seed, recipe.divergence) == ("bfloat16", 3, True)
        assert dense == Variant("dense", 0.0)
        assert uniform.recovery is None
        assert uniform.compression == NeuronMMConfig(
            compression_ratio=0.1, block_size=64, calibration=["self"], allocation="uniform", seed=7
        )
        assert (recovered.name, recovered.ratio) == ("ratio-0.2-recovered", 0.2)
        assert recovered.compression == NeuronMMConfig(
            compression_ratio=0.2, block_size=32, calibration=["self"], seed=3
        )
        assert recovered.recovery == RecoveryConfig(tokens=8192, data=["text.txt"], seed=3)
        assert recipe.tasks == {
            "wikitext2": TextOptions("raw", 64, 3, "every"),
            "c4": TextOptions("joined", 2048, None, "first"),
            "arc_easy": QuestionOptions(10),
            "mathqa": QuestionOptions(None),
        }
        assert list(recipe.tasks) == ["wikitext2", "c4", "arc_easy", "mathqa"]  # in the order of the tables
        assert recipe.speed == SpeedSettings(prompt_length=16, new_tokens=4)

    def test_defaults(self):
        recipe = read(MINIMAL)
        assert (recipe.revision, recipe.dtype, recipe.seed) == (None, "float32", 0)
        assert (recipe.divergence, recipe.speed, recipe.published) == (True, None, None)
        assert recipe.tasks == {"ptb": TextOptions("joined")}

    def test_no_divergence_by_default_without_a_dense_model(self):
        assert not read(changed(["variants"], [{"ratio": 0.1}], MINIMAL)).divergence

    def test_is_dense(self):
        assert [variant.is_dense for variant in read(CONTENT).variants] == [True, False, False]

    def test_recovery_for_all_but_where_it_is_taken_away(self):
        variants = [
            {"ratio": 0},
            {"ratio": 0.1},
            {"ratio": 0.1, "recovery": None},
            {"ratio": 0.2, "recovery": {"seed": 9}},
        ]
        recipe = read(changed(["variants"], variants) | {"recovery": RECOVERY})
        names = ["dense", "ratio-0.1-recovered", "ratio-0.1", "ratio-0.2-recovered"]
        assert [variant.name for variant in recipe.variants] == names
        tokens = [variant.recovery and (variant.recovery.tokens, variant.recovery.seed) for variant in recipe.variants]
        assert tokens == [None, (8192, 3), None, (8192, 9)]

    def test_an_empty_recovery_is_the_default_one(self):
        variants = [{"ratio": 0.1, "recovery": {}}]
        (variant,) = read(changed(["variants"], variants, MINIMAL)).variants
        assert variant.recovery == RecoveryConfig()

    def test_reading_changes_no_input(self):
        content = copy.deepcopy(CONTENT)
        read(content)
        assert content == CONTENT

    def test_variants_share_no_config(self):
        recipe = read(changed(["variants"], [{"ratio": 0.1}, {"ratio": 0.2}]) | {"divergence": False})
        recipe.variants[0].compression.calibration.append("c4")
        assert recipe.variants[1].compression.calibration == ["self"]


class TestRoundTrip:
    @pytest.mark.parametrize(
        "content", [CONTENT, MINIMAL, CONTENT | {"recovery": RECOVERY}], ids=["all", "least", "more"]
    )
    def test_json_and_yaml_read_back_as_equals(self, content):
        recipe = read(content)
        assert read(json.loads(json.dumps(recipe.to_dict(), allow_nan=False))) == recipe
        assert read(yaml.safe_load(yaml.safe_dump(recipe.to_dict()))) == recipe

    def test_json_is_yaml_of_the_same_recipe(self, tmp_path):
        recipe = read(changed(["variants", 2, "recovery"], {**RECOVERY, "learning_rate": 1e-5}))
        path = tmp_path / "again.yaml"
        path.write_text(json.dumps(recipe.to_dict()))
        assert load_recipe(path) == recipe

    def test_defaults_are_written_out(self):
        written = read(CONTENT).to_dict()
        assert written["variants"][1]["compression"]["alpha"] == 0.5
        assert written["variants"][2]["recovery"]["lora_rank"] == 8
        assert written["tasks"]["c4"] == {"layout": "joined", "window": 2048, "windows": None, "bos": "first"}

    @settings(max_examples=40, deadline=None)
    @given(
        ratios=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4, unique=True),
        seed=st.integers(0, 2**40),
        names=st.sets(st.sampled_from(list(TASKS)), min_size=1),
        size=st.integers(2, 5000),
    )
    def test_any_recipe(self, ratios, seed, names, size):
        tasks = {
            name: {"window": size, "windows": size} if TASKS[name].layouts else {"examples": size} for name in names
        }
        variants = [{"ratio": ratio} for ratio in ratios]
        recipe = read(MINIMAL | {"variants": variants, "tasks": tasks, "seed": seed})
        assert [variant.ratio for variant in recipe.variants] == ratios
        assert list(recipe.tasks) == [name for name in TASKS if name in names]
        assert read(json.loads(json.dumps(recipe.to_dict()))) == recipe


# path of what is changed, its new value, what the error says: the place first.
WRONG = {
    "no name": (["name"], ABSENT, "name: missing. Required keys: name, model, variants."),
    "no model": (["model"], ABSENT, "model: missing"),
    "no variants": (["variants"], ABSENT, "variants: missing"),
    "unknown key": (["varients"], [], "varients: unknown key; did you mean variants? Known keys: name, model"),
    "key far from all": (["zzz"], 1, "zzz: unknown key. Known keys: name"),
    "key that is no text": ([3], 1, "the number 3: unknown key. Known"),
    "name of a path": (["name"], "../up", "name: expected a name of letters"),
    "name that ends in a dot": (["name"], "a.", "name: expected a name of letters"),
    "long name": (["name"], "a" * 65, "name: expected a name of letters"),
    "name of two lines": (["name"], "a\nb", "name: expected a name"),
    "name that is a number": (["name"], 135, "name: expected a name, got the number 135. Put it in quotes."),
    "blank model": (["model"], "  ", "model: expected a Hub id or a directory, got the text '  '."),
    "model of two lines": (["model"], "a\nb", "model: expected a Hub id or a directory, got the text"),
    "model null": (["model"], None, "model: expected a Hub id or a directory, got null."),
    "revision of digits": (["revision"], 1234567, "revision: expected a branch, a commit or null, got the number 1234567"),
    "revision true": (["revision"], True, "revision: expected a branch, a commit or null, got true."),
    "dtype": (["dtype"], "bfloat", "dtype: expected one of float32, bfloat16, float16, got the text 'bfloat'. Did you mean bfloat16?"),
    "dtype list": (["dtype"], ["float32"], "dtype: expected one of float32, bfloat16, float16, got a list."),
    "seed true": (["seed"], True, "seed: expected an integer of at least 0, got true."),
    "seed negative": (["seed"], -1, "seed: expected an integer of at least 0, got the number -1."),
    "seed float": (["seed"], 1.0, "seed: expected an integer"),
    "divergence 1": (["divergence"], 1, "divergence: expected true or false, got the number 1."),
    "divergence from nothing": (["variants"], [{"ratio": 0.1}], "divergence: needs the dense model to compare with."),
    # compression and recovery of all variants
    "compression list": (["compression"], [1], "compression: expected a mapping with the keys block_size, alpha"),
    "compression key": (["compression", "blocksize"], 1, "compression.blocksize: unknown key; did you mean block_size?"),
    "two ratios": (["compression", "compression_ratio"], 0.1, "compression.compression_ratio: not allowed here: the `ratio`"),
    "search": (["compression", "max_perplexity_increase"], 0.1, "compression.max_perplexity_increase: not allowed here"),
    "speed-up": (["compression", "target_speedup"], 1.2, "compression.target_speedup: not allowed here: it takes the place"),
    "two recoveries": (["compression", "recovery"], "lora", "compression.recovery: not allowed here: the recipe's own"),
    "modules": (["compression", "modules"], {}, "compression.modules: unknown key."),
    "value of all": (["compression", "alpha"], 1, "variants[1].compression: (with what holds for every variant) alpha must lie"),
    "recovery key": (["recovery"], {"token": 1}, "recovery.token: unknown key; did you mean tokens?"),
    "recovery value": (["recovery"], {"tokens": 0}, "variants[1].recovery: (with what holds for every variant) tokens must"),
    # variants
    "variants mapping": (["variants"], {"ratio": 0}, "variants: expected a list with at least one variant, got a mapping."),
    "no variant": (["variants"], [], "variants: expected a list with at least one variant, got an empty list."),
    "variant number": (["variants", 1], 0.1, "variants[1]: expected a mapping with the keys name, ratio"),
    "variant key": (["variants", 1, "raito"], 0.1, "variants[1].raito: unknown key; did you mean ratio?"),
    "no ratio": (["variants", 1, "ratio"], ABSENT, "variants[1].ratio: missing"),
    "ratio 1": (["variants", 1, "ratio"], 1, "variants[1].ratio: expected a number in [0, 1), got the number 1."),
    "ratio below": (["variants", 1, "ratio"], -0.1, "variants[1].ratio: expected a number in [0, 1)"),
    "ratio nan": (["variants", 1, "ratio"], float("nan"), "variants[1].ratio: expected a number in [0, 1), got the number nan."),
    "ratio text": (["variants", 1, "ratio"], "0.1", "variants[1].ratio: expected a number in [0, 1), got the text '0.1'."),
    "ratio true": (["variants", 1, "ratio"], False, "variants[1].ratio: expected a number in [0, 1), got false."),
    "ratio huge": (["variants", 1, "ratio"], 10**5000, "variants[1].ratio: expected a number in [0, 1), got a very large integer."),
    "variant name": (["variants", 1, "name"], "a/b", "variants[1].name: expected a name of letters"),
    "same name": (["variants", 1, "name"], "Dense", "variants[1].name: there is already a variant of the name dense."),
    "same default name": (["variants", 1], {"ratio": 0.2, "recovery": {}}, "variants[2].name: there is already a variant"),
    "two dense": (["variants", 1], {"name": "again", "ratio": 0}, "variants[1]: a second dense model (ratio 0) beside dense."),
    "dense compressed": (["variants", 0, "compression"], {}, "variants[0].compression: a ratio of 0 is the dense model, which has no"),
    "dense recovered": (["variants", 0, "recovery"], {}, "variants[0].recovery: a ratio of 0 is the dense model"),
    "own key": (["variants", 1, "compression", "alocation"], 1, "variants[1].compression.alocation: unknown key; did you mean allocation?"),
    "own ratio": (["variants", 1, "compression", "compression_ratio"], 0.1, "variants[1].compression.compression_ratio: not allowed"),
    "own value": (["variants", 1, "compression", "allocation"], "even", "variants[1].compression: (with what holds for every variant) allocation must be one of"),
    "own recovery key": (["variants", 2, "recovery", "tokns"], 1, "variants[2].recovery.tokns: unknown key; did you mean tokens?"),
    "own recovery value": (["variants", 2, "recovery", "tokens"], "all", "variants[2].recovery: (with what holds for every variant) tokens must be an integer"),
    # tasks
    "tasks list": (["tasks"], ["ptb"], "tasks: expected a mapping of at least one task to its options, got a list."),
    "unknown task": (["tasks", "arc-easy"], None, "tasks.arc-easy: unknown task; did you mean arc_easy? Tasks: wikitext2, ptb, c4, openbookqa"),
    "task that is no text": (["tasks", None], None, "tasks.null: unknown task. Tasks"),
    "options number": (["tasks", "c4"], 3, "tasks.c4: expected a mapping with the keys layout, window, windows, bos, got the number 3."),
    "options key": (["tasks", "wikitext2", "windwos"], 3, "tasks.wikitext2.windwos: unknown key; did you mean windows? Known keys: layout, window, windows, bos."),
    "windows of questions": (["tasks", "arc_easy", "windows"], 3, "tasks.arc_easy.windows: ARC-easy is a multiple-choice task, which has no windows. Known keys: examples."),
    "examples of a text": (["tasks", "wikitext2", "examples"], 3, "tasks.wikitext2.examples: WikiText-2 is a perplexity task, which has no examples."),
    "layout": (["tasks", "wikitext2", "layout"], "blank_lines", "tasks.wikitext2.layout: expected one of joined, raw, got the text 'blank_lines'."),
    "window of one": (["tasks", "wikitext2", "window"], 1, "tasks.wikitext2.window: expected an integer of at least 2, got the number 1."),
    "window null": (["tasks", "wikitext2", "window"], None, "tasks.wikitext2.window: expected an integer of at least 2, got null."),
    "no windows": (["tasks", "wikitext2", "windows"], 0, "tasks.wikitext2.windows: expected an integer of at least 1, or null for all, got the number 0."),
    "windows true": (["tasks", "wikitext2", "windows"], True, "tasks.wikitext2.windows: expected an integer of at least 1, or null for all, got true."),
    "bos": (["tasks", "wikitext2", "bos"], True, "tasks.wikitext2.bos: expected one of first, none, every, got true."),
    "no examples": (["tasks", "arc_easy", "examples"], 0, "tasks.arc_easy.examples: expected an integer of at least 1, or null for all, got the number 0."),
    "half an example": (["tasks", "arc_easy", "examples"], 0.5, "tasks.arc_easy.examples: expected an integer"),
    # speed
    "speed true": (["speed"], True, "speed: expected a mapping with the keys prompt_length"),
    "speed key": (["speed", "batch"], 1, "speed.batch: unknown key; did you mean batch_size?"),
    "speed value": (["speed", "new_tokens"], 0, "speed: new_tokens of speed must be an integer of at least"),
    # published
    "published list": (["published"], [], "published: expected a mapping with the keys source, rows, got an empty list."),
    "no source": (["published", "source"], ABSENT, "published.source: missing"),
    "source number": (["published", "source"], 2510.25977, "published.source: expected the source of the figures as a text"),
    "no rows": (["published", "rows"], [], "published.rows: expected a list with at least one row"),
    "row key": (["published", "rows", 0, "speedy"], 1, "published.rows[0].speedy: unknown key; did you mean speed?"),
    "row speed": (["published", "rows", 0, "speed"], {"ttft_s": 0}, "published.rows[0].speed.ttft_s: expected a number above 0"),
    "row speed key": (["published", "rows", 0, "speed"], {"ttft": 1}, "published.rows[0].speed.ttft: unknown key; did you mean ttft_s?"),
    "row without ratio": (["published", "rows", 0, "ratio"], ABSENT, "published.rows[0].ratio: missing"),
    "row ratio": (["published", "rows", 0, "ratio"], 1, "published.rows[0].ratio: expected a number in [0, 1)"),
    "ratio twice": (["published", "rows"], [{"ratio": 0}, {"ratio": 0.0}], "published.rows[1].ratio: there is already a row of ratio 0."),
    "accuracy of a text": (["published", "rows", 0, "accuracy"], {"ptb": 0.5}, "published.rows[0].accuracy.ptb: unknown key"),
    "perplexity of questions": (["published", "rows", 0, "perplexity"], {"mathqa": 5}, "published.rows[0].perplexity.mathqa: unknown key"),
    "accuracy in per cent": (["published", "rows", 0, "accuracy"], {"mathqa": 25}, "published.rows[0].accuracy.mathqa: expected a number in [0, 1], got the number 25."),
    "mean in per cent": (["published", "rows", 0, "mean_accuracy"], 43, "published.rows[0].mean_accuracy: expected a number in [0, 1]"),
    "perplexity 0": (["published", "rows", 0, "perplexity"], {"ptb": 0}, "published.rows[0].perplexity.ptb: expected a number above 0"),
    "perplexity null": (["published", "rows", 0, "perplexity"], {"ptb": None}, "published.rows[0].perplexity.ptb: expected a number above 0, got null."),
    "perplexity infinite": (["published", "rows", 0, "perplexity"], {"ptb": float("inf")}, "published.rows[0].perplexity.ptb: expected a number above 0, got the number inf."),
    "speedup 0": (["published", "rows", 0, "speedup"], 0, "published.rows[0].speedup: expected a number above 0"),
    "gamma": (["published", "rows", 0, "gamma"], "25 %", "published.rows[0].gamma: expected a number, got the text '25 %'."),
}  # fmt: skip


class TestRefusing:
    @pytest.mark.parametrize("case", WRONG)
    def test_names_the_place(self, case):
        path, value, message = WRONG[case]
        with pytest.raises(NeuronMMError, match="^" + re.escape(f"recipe a.yaml: {message}")):
            read(changed(path, value))

    @pytest.mark.parametrize("content", [[], "text", 3, True])
    def test_not_a_mapping(self, content):
        with pytest.raises(
            NeuronMMError, match=r"^recipe a\.yaml: expected a mapping with the keys name, model, .*got "
        ):
            read(content)

    @pytest.mark.parametrize(
        ("tasks", "message"),
        [
            ({}, "tasks: missing. A recipe has tasks, or speed, or both."),
            ({"tasks": {}}, "tasks: expected a mapping of at least one task to its options, got an empty mapping."),
            ({"tasks": None}, "tasks: expected a mapping of at least one task to its options, got null."),
        ],
    )
    def test_neither_tasks_nor_speed(self, tasks, message):
        content = {name: value for name, value in CONTENT.items() if name not in ("tasks", "speed")}
        with pytest.raises(NeuronMMError, match=re.escape(f"recipe a.yaml: {message}")):
            read({**content, **tasks})
        assert read({**content, **tasks, "speed": {}}).narrowed().tasks == {}

    def test_nothing(self):
        with pytest.raises(
            NeuronMMError, match=r"^recipe a\.yaml: empty\. A recipe has at least name, model, variants\."
        ):
            read(None)

    def test_long_values_are_cut(self):
        with pytest.raises(NeuronMMError) as error:
            read(CONTENT | {"dtype": "x" * 10_000})
        assert len(str(error.value)) < 200

    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def test_nothing_but_the_one_error(self, data):
        content, path = copy.deepcopy(CONTENT), []
        parent = content
        while True:  # walk down to some place
            steps = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
            path.append(data.draw(st.sampled_from(steps)))
            child = parent[path[-1]]
            if not isinstance(child, (dict, list)) or not child or data.draw(st.booleans()):
                break
            parent = child
        scalar = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**70)
        tree = st.recursive(
            scalar, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(scalar, inner, max_size=2)
        )
        parent[path[-1]] = data.draw(tree)
        try:
            recipe = read(content)
        except NeuronMMError as error:
            assert str(error).startswith("recipe a.yaml: ")
        else:
            json.dumps(recipe.to_dict(), allow_nan=False)


class TestNarrowing:
    recipe = read(CONTENT)

    def test_nothing_to_change(self):
        assert self.recipe.narrowed() == self.recipe

    def test_tasks_in_the_order_of_the_recipe(self):
        assert list(self.recipe.narrowed(tasks=["arc_easy", "wikitext2"]).tasks) == ["wikitext2", "arc_easy"]

    def test_examples_of_questions_alone(self):
        tasks = self.recipe.narrowed(examples=2).tasks
        assert tasks["arc_easy"] == tasks["mathqa"] == QuestionOptions(2)
        assert (tasks["wikitext2"], tasks["c4"]) == (self.recipe.tasks["wikitext2"], self.recipe.tasks["c4"])
        assert list(tasks) == list(self.recipe.tasks)

    def test_windows_of_texts_alone(self):
        tasks = self.recipe.narrowed(windows=5, window=32).tasks
        assert tasks["wikitext2"] == TextOptions("raw", 32, 5, "every")
        assert tasks["c4"] == TextOptions("joined", 32, 5, "first")
        assert tasks["arc_easy"] == QuestionOptions(10)

    def test_one_of_the_two_for_texts(self):
        assert self.recipe.narrowed(windows=5).tasks["wikitext2"] == TextOptions("raw", 64, 5, "every")
        assert self.recipe.narrowed(window=5).tasks["wikitext2"] == TextOptions("raw", 5, 3, "every")

    def test_variants(self):
        narrowed = self.recipe.narrowed(variants=["uniform", "dense"])
        assert [variant.name for variant in narrowed.variants] == ["dense", "uniform"]
        assert narrowed.divergence

    def test_no_divergence_without_the_dense_model(self):
        narrowed = self.recipe.narrowed(variants=["uniform"])
        assert not narrowed.divergence
        assert read(narrowed.to_dict()) == narrowed

    def test_divergence_is_not_switched_on(self):
        assert not read(CONTENT | {"divergence": False}).narrowed(variants=["dense"]).divergence

    def test_the_recipe_stays_as_it_was(self):
        self.recipe.narrowed(tasks=["c4"], windows=1, variants=["uniform"])
        assert self.recipe == read(CONTENT)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"tasks": ["ptb"]}, "no task ptb. Choose from wikitext2, c4, arc_easy, mathqa."),
            ({"tasks": []}, "no task was chosen. Choose from wikitext2"),
            ({"variants": ["ratio-0.2"]}, "no variant ratio-0.2. Choose from dense, uniform, ratio-0.2-recovered."),
            ({"examples": 0}, "tasks.arc_easy.examples: expected an integer of at least 1"),
            ({"windows": True}, "tasks.wikitext2.windows: expected an integer of at least 1"),
            ({"window": 1}, "tasks.wikitext2.window: expected an integer of at least 2"),
            ({"tasks": ["c4"], "examples": 3}, "examples was given, but fits none of the tasks c4. Leave it out."),
            ({"tasks": ["mathqa"], "window": 8, "windows": 1}, "windows, window was given, but fits none of the tasks mathqa."),
        ],
    )  # fmt: skip
    def test_refuses(self, options, message):
        with pytest.raises(NeuronMMError, match="^" + re.escape(f"recipe Tiny: {message}")):
            self.recipe.narrowed(**options)
