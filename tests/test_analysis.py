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
"""Statistics and decompositions of whole models, against what transformers observes in one pass; and interruptions."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from optimum_neuronmm import analysis as module
from optimum_neuronmm.analysis import Analysis
from optimum_neuronmm.run import Run
from optimum_neuronmm.workspace import Workspace

from .conftest import save_tiny_model
from .pipeline import (
    Observed,
    analysed,
    covariance,
    expected_losses,
    expected_predictions,
    observe,
    run_of,
    weight_of,
    whole,
    with_gradients,
)


GRADIENT_SAMPLES = 3  # of 8 windows
MODELS = {
    "wide": {"mlp_bias": True},
    "narrow": {"mlp_bias": True, "intermediate_size": 64},  # gate and up have K > N, down K < N
    "phi3": {"model_type": "phi3"},
    "bfloat16": {"dtype": torch.bfloat16},
}


@dataclass
class Analysed:
    directory: Path
    options: dict
    run: Run
    analysis: Analysis
    model: torch.nn.Module
    inputs: Observed  # on all windows
    gradients: Observed  # on some of them


@pytest.fixture(scope="module")
def options(quick_options):
    return {**quick_options, "gradient_samples": GRADIENT_SAMPLES, "seed": 4}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analysis")
    return {name: save_tiny_model(folder / name, **changes) for name, changes in MODELS.items()}


@pytest.fixture(scope="module", params=MODELS)
def two_sided(request, directories, options, tmp_path_factory):
    directory = directories[request.param]
    run, analysis = analysed(directory, tmp_path_factory.mktemp("analysed") / "out", options)
    model, paths = whole(directory), list(run.projections.shapes)
    inputs = observe(model, run.text.windows, paths)
    gradients = observe(model, with_gradients(run), paths, seed=run.seed)
    return Analysed(directory, options, run, analysis, model, inputs, gradients)


def assert_losses(found, expected):
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-5 * expected[0].item())


class TestTwoSided:
    def test_losses_are_of_all_windows_and_some_gradients(self, two_sided):
        """And of all projections of a kind as much larger as held-out text says."""
        expected = expected_predictions(two_sided.model, two_sided.run)
        assert two_sided.analysis.losses.keys() == expected.keys()
        for path, losses in two_sided.analysis.losses.items():
            W, X = weight_of(two_sided.model, path), two_sided.inputs.inputs[path]
            g = two_sided.gradients.gradients[path]
            assert len(X) == 8 * 64 and len(g) == GRADIENT_SAMPLES * 64
            assert_losses(losses, expected[path])
            # The comparison tells them from those that are not corrected, and from those of other windows.
            plain, few = expected_losses(W, X, g), expected_losses(W, X[: len(g)], g)
            assert abs(plain[32] / losses[32] - 1) > 0.01 and abs(few[32] / plain[32] - 1) > 0.01

    def test_factors_reach_their_losses(self, two_sided):
        """As they are stored, in the dtype of the model."""
        tolerance = 0.05 if "bfloat16" in str(two_sided.directory) else 2e-3
        for layer in range(3):
            for attribute in two_sided.run.projections.attributes:
                path = two_sided.run.projections.path(layer, attribute)
                W = weight_of(two_sided.model, path)
                G = covariance(two_sided.inputs.inputs[path], 1e-6)
                B = covariance(two_sided.gradients.gradients[path], 1e-3)
                U, V = two_sided.analysis.factors(layer, {attribute: 32})[attribute]
                E = W - U.double() @ V.double()
                loss = 0.5 * ((E.T @ G @ E) * B).sum().item()
                X, g = two_sided.inputs.inputs[path], two_sided.gradients.gradients[path]
                assert loss == pytest.approx(expected_losses(W, X, g)[32].item(), rel=tolerance)

    def test_factors_are_those_of_the_largest_rank_that_saves_cut(self, two_sided):
        shapes, attributes = two_sided.run.projections.shapes, two_sided.run.projections.attributes
        for layer in range(3):
            for attribute in attributes:
                shape = shapes[two_sided.run.projections.path(layer, attribute)]
                U, V = two_sided.analysis.factors(layer, {attribute: shape.largest_rank})[attribute]
                assert U.shape == (shape.K, shape.largest_rank) and V.shape == (shape.largest_rank, shape.N)
                assert shape.saves_parameters(shape.largest_rank) and not shape.saves_parameters(
                    shape.largest_rank + 1
                )
                for rank in (1, 17, 32):
                    less_u, less_v = two_sided.analysis.factors(layer, {attribute: rank})[attribute]
                    assert torch.equal(less_u, U[:, :rank]) and torch.equal(less_v, V[:rank])
                dtype = torch.bfloat16 if "bfloat16" in str(two_sided.directory) else torch.float32
                assert U.dtype == V.dtype == dtype
        assert two_sided.analysis.factors(1, {}) == {}
        both = two_sided.analysis.factors(1, dict.fromkeys(reversed(attributes), 5))
        assert list(both) == attributes[::-1]

    def test_what_the_report_says(self, two_sided):
        for path, losses in two_sided.analysis.losses.items():
            predictions = two_sided.analysis.predictions(path, 32)
            assert predictions == {
                "predicted_error": pytest.approx((losses[32] / losses[0]).sqrt().item()),
                "predicted_loss": losses[32].item(),
                "ridge": pytest.approx(1e-6),
            }

    def test_only_what_is_needed_is_left(self, two_sided):
        files = {path.name for path in two_sided.run.workspace.path.glob("*.safetensors")}
        assert files == {f"{name}-{layer}.safetensors" for name in ("factors", "losses") for layer in range(3)}
        assert two_sided.run.workspace.done("activations") == two_sided.run.workspace.done("gradients") == 3

    def test_nothing_is_done_twice(self, two_sided, monkeypatch):
        monkeypatch.setattr(two_sided.run.stream, "layer", lambda index: pytest.fail("a layer was loaded"))
        Analysis(two_sided.run).complete()


def recorded(monkeypatch):
    """The moments of every call of `decompose`, by path."""
    calls, decompose = {}, module.decompose

    def record(weight, moments, name):
        assert name not in calls
        calls[name] = moments
        return decompose(weight, moments, name)

    monkeypatch.setattr(module, "decompose", record)
    return calls


def test_gate_and_up_share_what_is_measured_at_their_input(directories, options, tmp_path, monkeypatch):
    calls, added = recorded(monkeypatch), []
    add = module.InputMoments.add
    monkeypatch.setattr(module.InputMoments, "add", lambda self, *rows: added.append(self) or add(self, *rows))
    analysed(directories["wide"], tmp_path / "out", options)
    assert len(set(map(id, added))) == 3 * 2
    gate, up = (calls[f"model.layers.1.mlp.{name}"] for name in ("gate_proj", "up_proj"))
    assert torch.equal(gate.inputs, up.inputs) and gate.inputs_mean_square == up.inputs_mean_square
    assert not torch.allclose(gate.gradients, up.gradients)


def test_where_their_outputs_count_they_share_nothing(directories, options, tmp_path, monkeypatch):
    calls = recorded(monkeypatch)
    analysed(directories["narrow"], tmp_path / "out", options)
    gate, up = (calls[f"model.layers.1.mlp.{name}"] for name in ("gate_proj", "up_proj"))
    assert not torch.allclose(gate.inputs, up.inputs) and gate.inputs_mean_square == up.inputs_mean_square


@pytest.mark.parametrize("name", ["wide", "narrow", "phi3"])
@pytest.mark.parametrize("decomposition", ["two_sided_local", "whitened", "svd"])
def test_other_decompositions(name, decomposition, directories, options, tmp_path):
    options = {**options, "decomposition": decomposition}
    run, analysis = analysed(directories[name], tmp_path / "out", options)
    model, paths = whole(directories[name]), list(run.projections.shapes)
    assert sorted(analysis.losses) == sorted(paths)
    if decomposition == "two_sided_local":
        expected = expected_predictions(model, run)
    else:
        seen = observe(model, run.text.windows, paths).inputs if decomposition == "whitened" else {}
        expected = {path: expected_losses(weight_of(model, path), seen.get(path), None) for path in paths}
    for path, losses in analysis.losses.items():
        assert_losses(losses, expected[path])
        predictions = analysis.predictions(path, 32)
        assert ("predicted_loss" in predictions) == (decomposition == "two_sided_local")
        assert predictions["ridge"] == pytest.approx(0 if decomposition == "svd" else 1e-6)
        layer, attribute = int(path.split(".")[2]), path.rpartition(".")[2]
        rank = run.projections.shapes[path].largest_rank
        U, V = analysis.factors(layer, {attribute: rank})[attribute]
        if decomposition == "svd":
            error = (weight_of(model, path) - U.double() @ V.double()).square().sum().item()
            assert error == pytest.approx(losses[rank].item(), rel=1e-3)


def test_local_gradients_stand_for_the_relative_change_of_a_layers_output(directories, options):
    """Of a change d of the hidden states h, E[(g . d)^2] is |d|^2 / |h|^2."""
    leaving = (
        torch.randn(2000, 4, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5, 0.1, 2])[:, None]
    )
    gradients = module._local_gradients(leaving, seed=1)
    direction = torch.arange(1.0, 9)
    change = direction * leaving.norm(dim=-1, keepdim=True) / direction.norm()  # of the size of the states themselves
    assert (gradients * change).sum(-1).square().mean(0).tolist() == pytest.approx([1.0] * 4, rel=0.1)
    assert torch.equal(module._local_gradients(leaving, 1), gradients)
    assert not torch.equal(module._local_gradients(leaving, 2), gradients)
    assert torch.isfinite(module._local_gradients(torch.zeros(1, 2, 8), 1)).all()


def test_the_dtype_that_was_asked_for(directories, options, tmp_path):
    _, analysis = analysed(directories["wide"], tmp_path / "out", {**options, "dtype": "bfloat16"})
    U, V = analysis.factors(0, {"gate_proj": 3})["gate_proj"]
    assert U.dtype == V.dtype == torch.bfloat16
    assert analysis.losses["model.layers.0.mlp.gate_proj"].dtype == torch.float64


@pytest.mark.parametrize("decomposition", ["two_sided", "whitened"])
def test_of_projections_that_no_block_makes_smaller_nothing_is_kept(decomposition, options, tmp_path, monkeypatch):
    """phi3's fused gate and up at (96, 96), and a down at (48, 96) where rank 32 is as large as dense."""
    directory = save_tiny_model(tmp_path / "model", "phi3", intermediate_size=48)
    run, analysis = analysed(directory, tmp_path / "out", {**options, "decomposition": decomposition})
    assert list(analysis.losses) == [f"model.layers.{layer}.mlp.gate_up_proj" for layer in range(3)]
    for layer in range(3):
        with safe_open(run.workspace.path / f"factors-{layer}.safetensors", framework="pt") as file:
            assert sorted(file.keys()) == ["gate_up_proj.u", "gate_up_proj.v"]


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (2, [0, 4]), (5, [0, 1, 3, 4, 6]), (100, [*range(8)])])
def test_gradients_are_of_windows_at_even_distances(count, expected, directories, options, tmp_path):
    """The windows of a source follow those of another. More than there are are all of them."""
    run, analysis = analysed(directories["narrow"], tmp_path / "out", {**options, "gradient_samples": count})
    assert torch.equal(with_gradients(run), run.text.windows[expected])
    predictions = expected_predictions(whole(directories["narrow"]), run)
    for path, losses in analysis.losses.items():
        assert_losses(losses, predictions[path])


def test_gradients_that_are_not_finite_are_an_error_and_the_walk_can_go_on_elsewhere(directories, options, tmp_path):
    run = run_of(directories["wide"], tmp_path / "out", options)
    run.stream.loss_gradients = lambda hidden, *_: torch.full_like(hidden, torch.nan)
    with pytest.raises(Exception, match="gradients at layer 2 .* not finite"):
        Analysis(run).complete()


class Stopped(Exception):
    pass


class TestInterrupted:
    """After any step of a walk, just before or just after it counts."""

    STEPS = {"two_sided": 6, "two_sided_local": 3, "whitened": 3, "svd": 3}

    @pytest.fixture(scope="class")
    @classmethod
    def uninterrupted(cls, directories, options, tmp_path_factory):
        folder, results = tmp_path_factory.mktemp("uninterrupted"), {}
        for decomposition in cls.STEPS:
            run, _ = analysed(directories["wide"], folder / decomposition, {**options, "decomposition": decomposition})
            results[decomposition] = cls.results_of(run)
        return results

    @staticmethod
    def results_of(run):
        files = [p for p in run.workspace.path.iterdir() if p.name.startswith(("factors", "losses"))]
        assert len(files) == 6
        return {path.name: path.read_bytes() for path in files}

    @pytest.mark.parametrize(
        ("decomposition", "step"), [(name, step) for name, steps in STEPS.items() for step in range(1, steps + 1)]
    )
    @pytest.mark.parametrize("counted", [False, True])
    def test_the_next_run_goes_on_and_ends_alike(
        self, decomposition, step, counted, uninterrupted, directories, options, tmp_path, monkeypatch
    ):
        options = {**options, "decomposition": decomposition}
        finish, steps = Workspace.finish, []

        def stop(self, stage, number):
            steps.append((stage, number))
            if len(steps) == step and not counted:
                raise Stopped
            finish(self, stage, number)
            if len(steps) == step:
                raise Stopped

        run = run_of(directories["wide"], tmp_path / "out", options)
        with monkeypatch.context() as patch:
            patch.setattr(Workspace, "finish", stop)
            with pytest.raises(Stopped):
                Analysis(run).complete()
        run.workspace.close()
        again = run_of(directories["wide"], tmp_path / "out", options)
        entered, layer = [], again.stream.layer
        again.stream.layer = lambda index: entered.append(index) or layer(index)
        Analysis(again).complete()
        assert self.results_of(again) == uninterrupted[decomposition]
        plan = [0, 1, 2, 2, 1, 0] if decomposition == "two_sided" else [0, 1, 2]
        assert entered == plan[step if counted else step - 1 :]  # what was finished is not done again
        stages = [("activations", 1), ("activations", 2), ("activations", 3)]
        stages += [("gradients", 1), ("gradients", 2), ("gradients", 3)]
        assert steps == stages[:step]


def test_files_come_and_go(directories, options, tmp_path, monkeypatch):
    """Of hidden states one layer's are there at a time; what the walk back reads goes when it was read."""
    seen, finish = [], Workspace.finish

    def record(self, stage, number):
        finish(self, stage, number)
        names = (path.name.removesuffix(".safetensors") for path in self.path.glob("*.safetensors"))
        seen.append({name for name in names if not name.startswith(("factors", "losses"))})

    monkeypatch.setattr(Workspace, "finish", record)
    analysed(directories["wide"], tmp_path / "out", options)
    kept = [{f"entering-{i}", f"moments-{i}"} for i in range(3)]
    assert seen == [
        {"hidden-1"} | kept[0],
        {"hidden-1", "hidden-2"} | kept[0] | kept[1],
        {"hidden-2", "hidden-3"} | kept[0] | kept[1] | kept[2],
        {"hidden-3", "gradients-2"} | kept[0] | kept[1] | kept[2],
        {"hidden-3", "gradients-2", "gradients-1"} | kept[0] | kept[1],
        {"hidden-3", "gradients-1", "gradients-0"} | kept[0],
    ]


def test_states_of_the_walk_back_are_of_its_windows_alone(directories, options, tmp_path, monkeypatch):
    saved, save = {}, Workspace.save
    monkeypatch.setattr(Workspace, "save", lambda self, name, t: saved.update({name: t}) or save(self, name, t))
    run, _ = analysed(directories["wide"], tmp_path / "out", options)
    held_out = len(run.text.held_out)
    sizes = {
        name: {key: len(tensor) for key, tensor in tensors.items()}
        for name, tensors in saved.items()
        if name.startswith(("hidden", "entering", "gradients"))
    }
    assert set(sizes) == {f"{name}-{i}" for name in ("entering", "gradients") for i in range(3)} | {
        f"hidden-{i}" for i in (1, 2, 3)
    }
    for name, found in sizes.items():
        assert found == {"calibration": 8 if "hidden" in name else GRADIENT_SAMPLES, "held_out": held_out}


@pytest.mark.parametrize("decomposition", ["two_sided", "whitened"])
def test_it_does_not_depend_on_the_ratio(decomposition, directories, options, tmp_path):
    results = []
    for ratio in (0.2, 0.5):
        changed = {**options, "compression_ratio": ratio, "decomposition": decomposition}
        run, _ = analysed(directories["wide"], tmp_path / str(ratio), changed)
        results.append(load_file(run.workspace.path / "factors-1.safetensors"))
        shutil.rmtree(run.workspace.path)
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())
