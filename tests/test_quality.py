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
"""What compression costs on held-out text, against whole models of transformers."""

import pytest
import torch
from torch import nn

from optimum_neuronmm.allocation import Allocation
from optimum_neuronmm.modeling import LowRankLinear
from optimum_neuronmm.perplexity import perplexity
from optimum_neuronmm.quality import computing_with, dense_hidden, layer_tensors, quality, trial
from optimum_neuronmm.ranks import DENSE

from .conftest import save_tiny_model
from .pipeline import analysed, divergence, sharpened, whole, with_factors


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """With biases, which the factors keep."""
    return sharpened(save_tiny_model(tmp_path_factory.mktemp("quality") / "model", mlp_bias=True))


@pytest.fixture(scope="module")
def run_and_analysis(dense, quick_options, tmp_path_factory):
    return analysed(dense, tmp_path_factory.mktemp("quality") / "out", quick_options)


@pytest.fixture(scope="module")
def allocation(run_and_analysis):
    """Every kind of mixture: a layer with all, one with some and one without factors."""
    run, _ = run_and_analysis
    ranks = [32, 64, 32, DENSE, 32, DENSE, DENSE, DENSE, DENSE]
    return Allocation(run.projections, dict(zip(run.projections.shapes, ranks, strict=True)))


def test_a_trial_is_what_transformers_measures(run_and_analysis, allocation, dense):
    run, analysis = run_and_analysis
    before, after = whole(dense), with_factors(dense, analysis, allocation)
    figures = trial(run, analysis, allocation)
    held_out = run.text.held_out
    assert figures == {
        "before": pytest.approx(perplexity(before, held_out), rel=1e-4),
        "after": pytest.approx(perplexity(after, held_out), rel=1e-4),
        "divergence": pytest.approx(divergence(before, after, held_out), rel=1e-3),
    }
    # The comparisons tell the models, the windows and the direction of the divergence apart.
    assert figures["after"] != pytest.approx(figures["before"], rel=1e-2)
    assert perplexity(after, run.text.windows) != pytest.approx(figures["after"], rel=1e-3)
    assert divergence(after, before, held_out) != pytest.approx(figures["divergence"], rel=1e-2)
    assert trial(run, analysis, allocation) == figures


def test_a_trial_leaves_nothing_but_the_dense_states(run_and_analysis, allocation):
    run, analysis = run_and_analysis
    dense_hidden(run)
    before = {path.name: path.read_bytes() for path in run.workspace.path.iterdir()}
    trial(run, analysis, allocation)
    assert {path.name: path.read_bytes() for path in run.workspace.path.iterdir()} == before
    assert not any(isinstance(module, LowRankLinear) for module in run.stream.model.modules())
    assert all(parameter.is_meta for parameter in run.stream.layers.parameters())


def test_without_factors_nothing_is_lost(run_and_analysis):
    run, analysis = run_and_analysis
    figures = trial(run, analysis, Allocation(run.projections, dict.fromkeys(run.projections.shapes, DENSE)))
    assert figures["before"] == figures["after"] and figures["divergence"] == pytest.approx(0, abs=1e-6)


def test_the_dense_states_are_computed_once(run_and_analysis, dense, monkeypatch):
    run, _ = run_and_analysis
    hidden = dense_hidden(run)
    with torch.no_grad():
        states = []
        model = whole(dense)
        model.model.norm.register_forward_pre_hook(lambda _, args: states.append(args[0]))
        model(input_ids=run.text.held_out)
    torch.testing.assert_close(hidden, states[0], rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(run.stream, "layer", lambda index: pytest.fail("a layer was loaded"))
    assert torch.equal(dense_hidden(run), hidden)


def test_quality_of_states_that_are_equal(run_and_analysis):
    run, _ = run_and_analysis
    hidden = dense_hidden(run)
    figures = quality(run.stream, hidden, hidden, run.text)
    assert figures["before"] == figures["after"] and figures["divergence"] == 0


class TestComputingWith:
    def test_the_modules_are_those_of_the_dense_model_again(self, run_and_analysis, allocation):
        run, analysis = run_and_analysis
        for layer, expected in ((0, ["down_proj", "gate_proj", "up_proj"]), (1, ["up_proj"]), (2, [])):
            with run.stream.layer(layer) as module:
                before = {name: child for name, child in module.mlp.named_children()}
                tensors = layer_tensors(run, analysis, allocation, layer)
                with computing_with(run.stream, allocation, tensors):
                    replaced = [n for n, c in module.mlp.named_children() if isinstance(c, LowRankLinear)]
                    assert sorted(replaced) == expected
                after = dict(module.mlp.named_children())
                assert after.keys() == before.keys() and all(after[name] is before[name] for name in before)
                assert all(type(after[name]) is nn.Linear for name in expected)

    def test_after_an_error_too(self, run_and_analysis, allocation):
        run, analysis = run_and_analysis
        with run.stream.layer(0) as module:
            before = module.mlp.down_proj
            with pytest.raises(RuntimeError, match="inside"):
                with computing_with(run.stream, allocation, layer_tensors(run, analysis, allocation, 0)):
                    raise RuntimeError("inside")
            assert module.mlp.down_proj is before

    def test_tensors_are_the_factors_and_the_bias(self, run_and_analysis, allocation):
        run, analysis = run_and_analysis
        with run.stream.layer(0):
            tensors = layer_tensors(run, analysis, allocation, 0)
            bias = run.stream.model.model.layers[0].mlp.up_proj.bias.clone()
        assert list(tensors) == [f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")]
        path = "model.layers.0.mlp.up_proj"
        assert {name: tuple(t.shape) for name, t in tensors[path].items()} == {
            f"{path}.u.weight": (64, 96),
            f"{path}.v.weight": (200, 64),
            f"{path}.v.bias": (200,),
            f"{path}.weight": (0,),
        }
        assert torch.equal(tensors[path][f"{path}.v.bias"], bias)
        U, V = analysis.factors(0, {"up_proj": 64})["up_proj"]
        assert torch.equal(tensors[path][f"{path}.u.weight"], U.T)
        assert torch.equal(tensors[path][f"{path}.v.weight"], V.T)
