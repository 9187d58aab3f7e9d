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
"""Refinement of the down projections, against least squares on what whole models of transformers compute."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from optimum_neuronmm import NeuronMMConfig, NeuronMMError, compress, refinement
from optimum_neuronmm.allocation import Allocation
from optimum_neuronmm.quality import trial
from optimum_neuronmm.refinement import refine
from optimum_neuronmm.report import format_report
from optimum_neuronmm.workspace import Workspace, workspace_path

from .conftest import FAMILY_OPTIONS, read_config, save_tiny_model
from .pipeline import analysed, covariance, observe, result_of, sharpened, weight_of, whole, with_factors


DOWN = "model.layers.{}.mlp.down_proj"
# Ranks at which U V of down is far from W, and layers whose down is dense.
RANKS = {"gate_proj": [32, None, 32], "up_proj": [32, 64, None], "down_proj": [32, None, 64]}
REFINE = {"refine": True, "compression_ratio": 0.4, "calibration_samples": 32}


def options_with(quick_options, **changes):
    return {**quick_options, **REFINE, **changes}


def allocation_of(run):
    """Of RANKS, or what a family has of them and its shapes allow."""
    names, ranks = {**RANKS, "gate_up_proj": RANKS["gate_proj"]}, {}
    for path, shape in run.projections.shapes.items():
        rank = names[path.rpartition(".")[2]][int(path.split(".")[2])]
        ranks[path] = None if rank is None else min(rank, shape.largest_rank // 32 * 32)
    return Allocation(run.projections, ranks)


class Refined:
    """What `refine` left in a workspace, with the whole models to compare with: without refinement, and to fill in."""

    def __init__(self, dense, output, options):
        self.run, analysis = analysed(dense, output, options)
        allocation = allocation_of(self.run)
        self.layers = range(self.run.projections.layers)
        self.dense, self.first = whole(dense), with_factors(dense, analysis, allocation)
        self.before = trial(self.run, analysis, allocation)["divergence"]
        self.described = refine(self.run, analysis, allocation)
        self.after = trial(self.run, analysis, allocation)["divergence"]
        self.files = [self.run.workspace.load(f"refined-{layer}") for layer in self.layers]
        self.left = {path.name.partition(".")[0] for path in self.run.workspace.path.iterdir()}
        self.run.workspace.close()

    def expected(self):
        """Of every layer what W (K, H) of its down must change by, and the refined model, which is filled in on the way."""
        windows, model, multiplier = self.run.text.windows, self.first, 1.0
        if self.run.checkpoint.config.model_type == "granite":
            multiplier = FAMILY_OPTIONS["granite"]["residual_multiplier"]
        dense = observe(self.dense, windows, [])
        for layer in self.layers:
            path = DOWN.format(layer)
            seen = observe(model, windows, [path])
            h = seen.inputs[path].double()
            target = (dense.leaving[layer] - seen.leaving[layer]).flatten(0, 1).double() / multiplier
            yield layer, path, torch.linalg.solve(covariance(h, 1e-2), h.T @ target / len(h))
            module = model.get_submodule(path)
            state = {name.removeprefix(f"{path}."): tensor for name, tensor in self.files[layer].items()}
            module.load_state_dict(state, strict=False)


@pytest.fixture(scope="module")
def llama(quick_options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("refined")
    dense = sharpened(save_tiny_model(folder / "dense", mlp_bias=True))
    return Refined(dense, folder / "out", options_with(quick_options))


def check_changes(refined, tolerance=2e-3):
    seen = set()
    for layer, path, change in refined.expected():
        found = refined.files[layer]
        if f"{path}.weight" in found and found[f"{path}.weight"].numel():
            assert found.keys() == {f"{path}.weight"}
            difference = found[f"{path}.weight"].T.double() - weight_of(refined.dense, path)
        else:
            module = refined.first.get_submodule(path)
            U, V = module.u.weight.detach().double().T, module.v.weight.detach().double().T
            change = torch.linalg.lstsq(V.T, change.T).solution.T
            difference = found[f"{path}.u.weight"].double().T - U
        assert (difference - change).norm() < tolerance * change.norm(), path
        seen.add(len(found) == 1)
    assert seen == {True, False}


def test_changes_are_those_of_least_squares_on_whole_models(llama):
    """In order: what enters a layer is what the refined ones before it left."""
    check_changes(llama)


@pytest.mark.parametrize("model_type", ["granite", "phi3", "qwen3"])
def test_other_families(model_type, quick_options, tmp_path):
    dense = sharpened(save_tiny_model(tmp_path / "dense", model_type, tie_word_embeddings=False))
    check_changes(Refined(dense, tmp_path / "out", options_with(quick_options)), 5e-3)


def test_of_factors_u_changes_and_nothing_else(llama, quick_options, tmp_path):
    dense = llama.run.checkpoint.directory
    run, analysis = analysed(dense, tmp_path / "out", options_with(quick_options))
    first = with_factors(dense, analysis, allocation_of(run)).state_dict()
    for layer, rank in enumerate(RANKS["down_proj"]):
        path = DOWN.format(layer)
        if rank is None:
            assert llama.files[layer].keys() == {f"{path}.weight"}
            assert llama.files[layer][f"{path}.weight"].shape == (96, 200)
            continue
        assert llama.files[layer].keys() == {f"{path}.{n}" for n in ("u.weight", "v.weight", "weight", "v.bias")}
        for name, tensor in llama.files[layer].items():
            assert tensor.shape == first[name].shape and tensor.dtype == torch.float32
            assert torch.equal(tensor, first[name]) == (not name.endswith("u.weight")), name
    run.workspace.close()


def test_what_it_says_is_what_was_measured(llama):
    [step] = llama.described
    assert step == {"name": "down from compressed inputs", "before": llama.before, "after": llama.after, "kept": True}
    assert llama.after < llama.before
    assert "refining-3" not in llama.left and {"refined-0", "refined-1", "refined-2"} < llama.left


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes_are_kept(dtype, quick_options, tmp_path):
    dense = sharpened(save_tiny_model(tmp_path / "dense", dtype=dtype))
    refined = Refined(dense, tmp_path / "out", options_with(quick_options))
    assert {tensor.dtype for file in refined.files for tensor in file.values()} == {dtype}
    for layer, path, change in refined.expected():
        if RANKS["down_proj"][layer] is None:
            difference = refined.files[layer][f"{path}.weight"].T.double() - weight_of(refined.dense, path)
            assert (difference - change).norm() < 0.05 * change.norm()  # by rounding


def test_factors_that_have_not_full_rank(quick_options, tmp_path, monkeypatch):
    """A layer that was switched off: no U makes good what it lacks, and none is the smallest."""
    dense = save_tiny_model(tmp_path / "dense", intermediate_size=80)  # of a down that widens, V is made from W
    weights = load_file(dense / "model.safetensors")
    weights[f"{DOWN.format(0)}.weight"].zero_()
    save_file(weights, dense / "model.safetensors", metadata={"format": "pt"})
    figures = iter([{"divergence": 0.2}, {"divergence": 0.1}])
    monkeypatch.setattr(refinement, "trial", lambda *_: next(figures))
    refined = Refined(sharpened(dense), tmp_path / "out", options_with(quick_options))
    assert all(torch.isfinite(tensor).all() for file in refined.files for tensor in file.values())
    assert not refined.files[0][f"{DOWN.format(0)}.v.weight"].any()


# From the command to the checkpoint.


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return sharpened(save_tiny_model(tmp_path_factory.mktemp("refined") / "dense", mlp_bias=True))


@pytest.fixture(scope="module")
def plain(model, quick_options, tmp_path_factory):
    """Without refinement."""
    output = tmp_path_factory.mktemp("refined") / "out"
    return SimpleNamespace(directory=output, report=compress(model, output, options_with(quick_options, refine=False)))


@pytest.fixture(scope="module")
def kept(model, quick_options, tmp_path_factory):
    output = tmp_path_factory.mktemp("refined") / "out"
    report = compress(model, output, options_with(quick_options))
    assert report["refinements"][0]["kept"]
    return SimpleNamespace(directory=output, report=report)


def tensors_of(directory):
    return {name: t for file in sorted(directory.glob("*.safetensors")) for name, t in load_file(file).items()}


def check_written(dense, plain, kept):
    """That of two checkpoints the second is the first with other values of down: where factored, of U alone."""
    before, after = tensors_of(plain), tensors_of(kept)
    modules = read_config(kept)["quantization_config"]["modules"]
    assert modules == read_config(plain)["quantization_config"]["modules"]
    assert {name: (t.shape, t.dtype) for name, t in before.items()} == {
        name: (t.shape, t.dtype) for name, t in after.items()
    }
    downs = [DOWN.format(layer) for layer in range(3)]
    expected = {f"{path}.u.weight" if path in modules else f"{path}.weight" for path in downs}
    assert {name for name in before if not torch.equal(before[name], after[name])} == expected
    assert {path in modules for path in downs} == {True, False}  # both kinds
    loaded, info = AutoModelForCausalLM.from_pretrained(kept, output_loading_info=True, dtype="auto")
    assert not any(info.values())
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in after.items())


def test_what_is_kept_reaches_the_checkpoint(model, plain, kept):
    check_written(model, plain.directory, kept.directory)


def test_the_figures_are_of_the_refined_model(kept, plain):
    [step] = kept.report["refinements"]
    assert step["before"] == pytest.approx(plain.report["perplexity"]["divergence"], rel=1e-6)
    assert step["after"] == pytest.approx(kept.report["perplexity"]["divergence"], rel=1e-6)
    assert plain.report["refinements"] == []
    ranks = [[entry["rank"] for entry in run.report["projections"]] for run in (plain, kept)]
    assert ranks[0] == ranks[1] and kept.report["parameters"] == plain.report["parameters"]


def test_the_report_tells_of_it(kept, plain):
    [step] = kept.report["refinements"]
    said = format_report(kept.report)
    figures = f"divergence {step['before']:.4f} -> {step['after']:.4f}, kept"
    assert f"refinement        down from compressed inputs: {figures}" in said
    assert "second order" not in said  # refined projections differ from the dense ones on purpose
    assert "refinement" not in format_report(plain.report) and "second order" in format_report(plain.report)
    assert json.loads((kept.directory / "neuronmm_report.json").read_text()) == kept.report


def test_shards_and_another_dtype(quick_options, tmp_path):
    dense = sharpened_shards(save_tiny_model(tmp_path / "dense", shard_size="300KB", mlp_bias=True))
    outputs = [tmp_path / "plain", tmp_path / "kept"]
    for output, refined in zip(outputs, (False, True), strict=True):
        options = options_with(quick_options, refine=refined, dtype="bfloat16")
        report = compress(dense, output, options)
    assert report["refinements"][0]["kept"]
    check_written(dense, *outputs)
    assert {tensor.dtype for tensor in tensors_of(outputs[1]).values()} == {torch.bfloat16}
    indices = [json.loads((output / "model.safetensors.index.json").read_text()) for output in outputs]
    assert indices[0] == indices[1]
    for name, file in indices[0]["weight_map"].items():
        with safe_open(outputs[1] / file, framework="pt") as opened:
            assert name in opened.keys()


def sharpened_shards(directory):
    """As `sharpened`, of a model in shards."""
    file = (
        directory
        / json.loads((directory / "model.safetensors.index.json").read_text())["weight_map"]["lm_head.weight"]
    )
    weights = load_file(file)
    weights["lm_head.weight"] *= 10
    save_file(weights, file, metadata={"format": "pt"})
    return directory


def test_what_does_not_help_is_not_kept(model, plain, quick_options, tmp_path, monkeypatch):
    measured, residuals = [], refinement._residual_multiplier

    def watched(*args):
        measured.append(trial(*args)["divergence"])
        return {"divergence": measured[-1]}

    monkeypatch.setattr(refinement, "trial", watched)
    monkeypatch.setattr(refinement, "_residual_multiplier", lambda run: -residuals(run))  # the wrong way
    report = compress(model, tmp_path / "out", options_with(quick_options))
    assert measured[1] > measured[0]
    assert report["refinements"] == [
        {"name": "down from compressed inputs", "before": measured[0], "after": measured[1], "kept": False}
    ]
    assert "not kept" in format_report(report)
    for name in ("model.safetensors", "generation_config.json", "neuronmm_ranks.png"):
        assert (tmp_path / "out" / name).read_bytes() == (plain.directory / name).read_bytes()
    ours, theirs = read_config(tmp_path / "out"), read_config(plain.directory)
    assert ours["quantization_config"].pop("refine") and not theirs["quantization_config"].pop("refine")
    assert ours == theirs
    for key in ("perplexity", "projections", "parameters", "compression_ratio", "calibration"):
        assert report[key] == plain.report[key]


@pytest.mark.parametrize("after", [0.5, float("nan")])
def test_no_better_is_not_kept(after, model, plain, quick_options, tmp_path, monkeypatch):
    divergences = iter([0.5, after])
    monkeypatch.setattr(refinement, "trial", lambda *_: {"divergence": next(divergences)})
    report = compress(model, tmp_path / "out", options_with(quick_options))
    assert report["refinements"][0]["kept"] is False
    written = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert written == (plain.directory / "model.safetensors").read_bytes()


def test_a_down_that_no_rank_makes_smaller(quick_options, tmp_path):
    """It has no factors, but weights that refinement changes."""
    # gate_up (96, 96): rank 32 saves; down (48, 96): rank 32 is exactly as large as dense.
    dense = sharpened(save_tiny_model(tmp_path / "dense", "phi3", intermediate_size=48))
    options = options_with(quick_options, compression_ratio=0.2)
    report = compress(dense, tmp_path / "out", options)
    assert report["refinements"][0]["kept"]
    before, after = tensors_of(dense), tensors_of(tmp_path / "out")
    for layer in range(3):
        name = f"{DOWN.format(layer)}.weight"
        assert before[name].shape == after[name].shape and not torch.equal(before[name], after[name])
    assert not [path for path in read_config(tmp_path / "out")["quantization_config"]["modules"] if "down" in path]


@pytest.mark.parametrize("changes", [{"decomposition": "whitened"}, {"decomposition": "svd"}])
def test_with_every_decomposition(changes, model, quick_options, tmp_path):
    report = compress(model, tmp_path / "out", options_with(quick_options, **changes))
    assert report["refinements"][0]["kept"]
    assert report["perplexity"]["divergence"] == pytest.approx(report["refinements"][0]["after"], rel=1e-6)


def test_a_family_with_a_norm_after_down_is_refused_at_once(quick_options, tmp_path, capsys):
    dense = save_tiny_model(tmp_path / "dense", "gemma3_text")
    with pytest.raises(
        NeuronMMError, match="refine cannot be used with gemma3_text: a norm lies between.*Leave it out"
    ):
        compress(dense, tmp_path / "results" / "out", options_with(quick_options))
    assert [path.name for path in tmp_path.iterdir()] == ["dense"] and "Compressing" not in capsys.readouterr().out


def test_it_needs_down():
    with pytest.raises(NeuronMMError, match="refine changes the down projections: add 'down'"):
        NeuronMMConfig(refine=True, projections=["gate", "up"])


class TestInterrupted:
    @pytest.fixture
    def moments(self, model, quick_options, tmp_path, monkeypatch):
        """What is written from the beginning of the refinement to its end, in order."""
        written, whole_write = [], Workspace._written_whole

        def watched(workspace, name):
            written.append(name)
            return whole_write(workspace, name)

        with monkeypatch.context() as patch:
            patch.setattr(Workspace, "_written_whole", watched)
            compress(model, tmp_path / "watched", options_with(quick_options))
        first, last = (number for number, name in enumerate(written) if name == "refinement.json")
        return written[first : last + 1]

    def test_it_goes_on_where_it_was(self, model, kept, quick_options, tmp_path, monkeypatch, moments, caplog):
        """After each kind of write: the first figure; a layer, its hidden states and the state; the second figure."""
        layers = [(f"refined-{i}.safetensors", f"refining-{i + 1}.safetensors", "state.json") for i in range(3)]
        assert moments == ["refinement.json", *sum(layers, ()), "refinement.json"]
        whole_write = Workspace._written_whole
        for last in (1, 2, 3, 4, 10, 11):  # that is written
            output, passed = tmp_path / f"out-{last}", []

            def dying(workspace, name, last=last, passed=passed):
                if passed or name == "refinement.json":
                    passed.append(name)
                    if len(passed) > last:
                        raise KeyboardInterrupt
                return whole_write(workspace, name)

            with monkeypatch.context() as patch:
                patch.setattr(Workspace, "_written_whole", dying)
                with pytest.raises(KeyboardInterrupt):
                    compress(model, output, options_with(quick_options))
            assert not output.exists() and passed[:last] == moments[:last]
            report = compress(model, output, options_with(quick_options))
            assert result_of(output) == result_of(kept.directory), last
            for key in ("refinements", "projections"):
                assert report[key] == kept.report[key], last
            assert not workspace_path(output).exists()
        assert "starting anew" not in caplog.text

    def test_in_the_second_measurement(self, model, kept, quick_options, tmp_path, monkeypatch):
        calls = []

        def dying(*args):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return trial(*args)

        output = tmp_path / "out"
        with monkeypatch.context() as patch:
            patch.setattr(refinement, "trial", dying)
            with pytest.raises(KeyboardInterrupt):
                compress(model, output, options_with(quick_options))
        monkeypatch.setattr(refinement, "_refine_layer", None)  # not done again
        report = compress(model, output, options_with(quick_options))
        assert report["refinements"] == kept.report["refinements"]
        assert result_of(output) == result_of(kept.directory)

    def test_after_it_was_not_kept(self, model, plain, quick_options, tmp_path, monkeypatch):
        from optimum_neuronmm import compression

        output, divergences = tmp_path / "out", iter([0.5, 0.6])

        def die(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(refinement, "trial", lambda *_: {"divergence": next(divergences)})
            patch.setattr(compression, "compress_layers", die)
            with pytest.raises(KeyboardInterrupt):
                compress(model, output, options_with(quick_options))
        assert not list(workspace_path(output).glob("refin*.safetensors"))
        report = compress(model, output, options_with(quick_options))
        assert report["refinements"][0] | {"name": ""} == {"name": "", "before": 0.5, "after": 0.6, "kept": False}
        written = (output / "model.safetensors").read_bytes()
        assert written == (plain.directory / "model.safetensors").read_bytes()
