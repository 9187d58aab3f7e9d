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
"""Which models a run compares, and what they are called."""

from types import SimpleNamespace

import pytest

from optimum_neuronmm.recipes import subjects
from optimum_neuronmm.recipes.description.recipe import Recipe
from optimum_neuronmm.recipes.subjects import Loading, given_models, variants_of

from .made_data import recipe_content


@pytest.fixture
def load():
    """Stands in for `Loading`: models are not looked for."""
    return lambda model: SimpleNamespace(identity=SimpleNamespace(name=model))


class TestGivenModels:
    def test_the_baseline_comes_first_and_is_the_only_one(self, load):
        found = given_models(["org/a", "b"], "org/dense", load)
        assert [(s.name, s.loaded.identity.name, s.is_baseline, s.variant) for s in found] == [
            ("dense", "org/dense", True, None),
            ("a", "org/a", False, None),
            ("b", "b", False, None),
        ]

    def test_without_a_baseline_there_is_none(self, load):
        assert [(s.name, s.is_baseline) for s in given_models(["a", "b"], None, load)] == [("a", False), ("b", False)]

    @pytest.mark.parametrize(
        ("models", "baseline", "names"),
        [
            (["one/a", "two/a", "a"], None, ["a", "a (2)", "a (3)"]),
            (["one/a"], "two/a", ["a", "a (2)"]),
            (["a (2)", "a", "b/a"], None, ["a (2)", "a", "a (3)"]),
            (["a", "a b", "a"], None, ["a", "a b", "a (2)"]),
        ],
    )
    def test_two_of_one_name_are_told_apart(self, load, models, baseline, names):
        assert [subject.name for subject in given_models(models, baseline, load)] == names


class TestVariants:
    def test_the_dense_one_comes_first_and_is_the_baseline(self, load):
        options = {"name": "small", "ratio": 0.2}
        recipe = Recipe.from_dict(recipe_content("m", variants=[options, {"ratio": 0}, {"ratio": 0.1}]))
        dense = load("m")
        found = variants_of(recipe, dense)
        assert [(s.name, s.is_baseline, s.loaded) for s in found] == [
            ("dense", True, dense),
            ("small", False, None),
            ("ratio-0.1", False, None),
        ]
        assert [subject.variant.ratio for subject in found] == [0, 0.2, 0.1]

    def test_without_the_dense_one_there_is_no_baseline(self, load):
        recipe = Recipe.from_dict(recipe_content("m", variants=[{"ratio": 0.2}]))
        [subject] = variants_of(recipe, load("m"))
        assert not subject.is_baseline and subject.loaded is None


def test_a_model_is_found_but_not_loaded(tiny_llama):
    found = Loading("bfloat16", "cpu")(tiny_llama)
    assert (found.identity.name, found.identity.directory) == ("tiny-llama", tiny_llama)
    assert (found.dtype, found.device) == ("bfloat16", "cpu") and "model" not in vars(found)


def test_a_revision_is_that_of_its_model_alone(monkeypatch):
    calls = []
    monkeypatch.setattr(subjects, "identify", lambda *args: calls.append(args) or SimpleNamespace(kind="dense"))
    load = Loading("float32", "cpu", {"org/a": "abc"}, cache_dir="here")
    load("org/a")
    load("org/b")
    assert calls == [("org/a", "abc", "here"), ("org/b", None, "here")]
