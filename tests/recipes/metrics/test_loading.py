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
"""All metrics are found by path, without a connection, and say what they take."""

import doctest
import importlib
import shutil
import socket
from pathlib import Path

import datasets
import pytest

from optimum_neuronmm.errors import NeuronMMError


METRICS = Path(__file__).resolve().parents[3] / "recipes" / "metrics"
NAMES = sorted(path.parent.name for path in METRICS.glob("*/*.py"))
# Something that each computes.
INPUTS = {
    "perplexity": {"predictions": [4.0, 6.0], "references": [2, 3]},
    "kl_divergence": {"predictions": [0.4, 0.6], "references": [2, 3]},
    "multiple_choice": {"predictions": [[-1.0, -2.0], [-3.0, -2.0, -4.0]], "references": [0, 2]},
    "speedup_degradation": {"predictions": [0.4, 0.5], "references": [0.5, 0.6], "speedup": 2.0},
}


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a metric looked for a connection")

    for name in ("socket", "getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)


@pytest.mark.parametrize("name", NAMES)
class TestEach:
    def test_a_folder_holds_the_script_alone(self, name):
        assert [path.name for path in (METRICS / name).iterdir() if path.name != "__pycache__"] == [f"{name}.py"]

    def test_it_computes_from_any_directory_without_a_connection(
        self, name, load_metric, no_network, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        assert load_metric(name).compute(**INPUTS[name])
        assert list(tmp_path.iterdir()) == []

    def test_it_loads_by_a_relative_path(self, name, load_metric, tmp_path, monkeypatch):
        import evaluate

        monkeypatch.chdir(METRICS.parents[1])
        metric = evaluate.load(f"recipes/metrics/{name}", cache_dir=str(tmp_path))
        assert metric.compute(**INPUTS[name]) == load_metric(name).compute(**INPUTS[name])

    def test_it_loads_where_only_its_folder_was_copied(self, name, load_metric, tmp_path):
        import evaluate

        shutil.copytree(METRICS / name, tmp_path / name)
        metric = evaluate.load(str(tmp_path / name), cache_dir=str(tmp_path / "cache"))
        assert metric.compute(**INPUTS[name]) == load_metric(name).compute(**INPUTS[name])

    def test_it_is_the_installed_module(self, name, load_metric):
        module = importlib.import_module(f"optimum_neuronmm.recipes.metrics.{name}.{name}")
        assert Path(module.__file__).samefile(METRICS / name / f"{name}.py")

    def test_memory_gives_what_the_disk_gives(self, name, load_metric, tmp_path):
        metric = load_metric(name, keep_in_memory=True)
        assert metric.compute(**INPUTS[name]) == load_metric(name).compute(**INPUTS[name])

    def test_results_are_plain_numbers(self, name, load_metric):
        for key, value in load_metric(name).compute(**INPUTS[name]).items():
            assert type(value) in (int, float), key

    def test_batches_add_up(self, name, load_metric):
        metric, options = load_metric(name), dict(INPUTS[name])
        predictions, references = options.pop("predictions"), options.pop("references")
        metric.add_batch(predictions=predictions[:1], references=references[:1])
        metric.add(prediction=predictions[1], reference=references[1])
        assert metric.compute(**options) == load_metric(name).compute(**INPUTS[name])

    def test_it_says_what_it_is(self, name, load_metric):
        info = load_metric(name).info
        for text in (info.description, info.citation):
            assert len(text) > 50
        for section in ("Args:", "Returns:", "Raises:", "Examples:"):
            assert section in info.inputs_description
        forms = info.features if isinstance(info.features, list) else [info.features]
        assert all(
            isinstance(form, datasets.Features) and set(form) == {"predictions", "references"} for form in forms
        )
        for key in load_metric(name).compute(**INPUTS[name]):
            assert key in info.inputs_description

    def test_its_example_runs(self, name, load_metric):
        class Loader:
            @staticmethod
            def load(path):
                assert path == f"recipes/metrics/{name}"
                return load_metric(name)

        text = load_metric(name).info.inputs_description
        example = doctest.DocTestParser().get_doctest(text, {"evaluate": Loader}, name, None, None)
        outcome = doctest.DocTestRunner().run(example)
        assert outcome.attempted >= 2 and outcome.failed == 0

    @pytest.mark.parametrize("predictions, references", [([], []), (None, None), ("all", None), ("all", "first")])
    def test_what_comes_in_pairs(self, name, predictions, references, load_metric):
        given = dict(INPUTS[name])
        predictions = given["predictions"] if predictions == "all" else predictions
        given["references"] = given["references"][:1] if references == "first" else references
        given["predictions"] = predictions
        if predictions is None:
            given["predictions"], given["references"] = None, INPUTS[name]["references"]
        with pytest.raises(NeuronMMError, match="as many, and at least one; got"):
            load_metric(name).compute(**given)

    def test_it_works_again_after_an_error(self, name, load_metric):
        metric = load_metric(name, keep_in_memory=True)
        with pytest.raises(NeuronMMError):
            metric.compute(predictions=INPUTS[name]["predictions"], references=INPUTS[name]["references"][:1])
        assert metric.compute(**INPUTS[name]) == load_metric(name).compute(**INPUTS[name])
