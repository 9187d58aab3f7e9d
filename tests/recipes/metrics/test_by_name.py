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
"""The project's metrics by their names."""

import sys

import pytest

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes.metrics import by_name
from optimum_neuronmm.recipes.metrics.by_name import METRICS, metric


def test_every_folder_is_a_metric_by_its_name():
    inputs = {"perplexity": {"predictions": [2.0], "references": [2]}}
    inputs["kl_divergence"] = {"predictions": [0.5], "references": [2]}
    inputs["multiple_choice"] = {"predictions": [[-1.0, -2.0]], "references": [0]}
    inputs["speedup_degradation"] = {"predictions": [0.4], "references": [0.5], "speedup": 2.0}
    assert {path.parent.name for path in METRICS.glob("*/*.py")} == set(inputs)
    found = {name: metric(name).compute(**arguments) for name, arguments in inputs.items()}
    assert found["perplexity"]["mean_loss"] == 1 and found["kl_divergence"]["divergence"] == 0.25
    assert found["multiple_choice"]["acc"] == 1 and found["speedup_degradation"]["gamma"] == pytest.approx(0.1)


def test_it_is_loaded_once_and_keeps_nothing_on_disk(monkeypatch):
    import evaluate

    calls, load = [], evaluate.load
    monkeypatch.setattr(evaluate, "load", lambda *args, **options: calls.append(options) or load(*args, **options))
    by_name.metric.cache_clear()
    first = metric("perplexity")
    assert metric("perplexity") is first and calls == [{"keep_in_memory": True}]
    assert first.compute(predictions=[2.0], references=[2]) == metric("perplexity").compute(
        predictions=[2.0], references=[2]
    )


def test_without_evaluate_it_says_what_to_install(monkeypatch):
    by_name.metric.cache_clear()
    monkeypatch.setitem(sys.modules, "evaluate", None)
    with pytest.raises(NeuronMMError, match=r"pip install 'optimum-neuronmm\[recipes\]'"):
        metric("perplexity")
