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
"""The figures of every layer and of the whole, against dense models that transformers runs and compressed ones it loads."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from optimum_neuronmm import LowRankLinear, NeuronMMConfig, compress
from optimum_neuronmm.calibration import calibration_windows
from optimum_neuronmm.families import FAMILIES
from optimum_neuronmm.perplexity import perplexity
from optimum_neuronmm.workspace import Workspace

from .conftest import read_config, save_tiny_model
from .pipeline import analysed, divergence, observe, sharpened, whole


def windows_of(directory, config):
    """The calibration text that a compression of `directory` takes, collected anew."""
    return calibration_windows(config, AutoTokenizer.from_pretrained(directory), None)


class Compressed:
    """A dense directory, what it was compressed to, and both as models in float32."""

    def __init__(self, dense, output, config):
        self.config = config
        self.report = compress(dense, output, config)
        self.source, self.directory = dense, output
        self.text = windows_of(dense, config)
        self.dense, self.model = whole(dense), whole(output)
        self.factored = [entry for entry in self.report["projections"] if entry["rank"] is not None]

    def inputs(self, path, windows):
        """What the projection at `path` of the dense model reads, (M, K)."""
        rows = []
        hook = self.dense.get_submodule(path).register_forward_pre_hook(
            lambda _, args: rows.append(args[0].flatten(0, 1))
        )
        with torch.no_grad():
            self.dense(input_ids=windows)
        hook.remove()
        return torch.cat(rows)

    def matrices(self, path):
        """W (K, N) of the dense model and U V of the compressed one, in float64."""
        low_rank = self.model.get_submodule(path)
        W = self.dense.get_submodule(path).weight.detach().T.double()
        return W, (low_rank.v.weight @ low_rank.u.weight).detach().T.double()


def config_with(quick_options, **changes):
    return NeuronMMConfig(**{**quick_options, "block_size": 32, "compression_ratio": 0.4, **changes})


@pytest.fixture(scope="module")
def llama(quick_options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("layerwise")
    dense = sharpened(save_tiny_model(folder / "dense"))
    run = Compressed(dense, folder / "out", config_with(quick_options))
    assert 5 <= len(run.factored) < 9  # a mixture
    return run


@pytest.fixture(scope="module")
def whitened(quick_options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("layerwise")
    dense = sharpened(save_tiny_model(folder / "dense"))
    return Compressed(dense, folder / "out", config_with(quick_options, decomposition="whitened"))


@pytest.fixture(scope="module")
def plain(quick_options, tmp_path_factory):
    """By plain SVD."""
    folder = tmp_path_factory.mktemp("layerwise")
    dense = sharpened(save_tiny_model(folder / "dense"))
    return Compressed(dense, folder / "out", config_with(quick_options, decomposition="svd"))


def test_perplexity_is_that_of_the_models_on_the_held_out_windows(llama):
    figures = llama.report["perplexity"]
    assert (figures["windows"], figures["length"], figures["bos"]) == (4, 64, False)
    assert figures["before"] == pytest.approx(perplexity(llama.dense, llama.text.held_out), rel=1e-5)
    assert figures["after"] == pytest.approx(perplexity(llama.model, llama.text.held_out), rel=1e-5)
    # The comparisons above tell the models and the windows apart.
    assert abs(figures["after"] / figures["before"] - 1) > 1e-3
    assert abs(perplexity(llama.dense, llama.text.windows) / figures["before"] - 1) > 1e-3


def test_measured_error_is_that_of_the_projections_output_on_held_out_text(llama):
    assert len(llama.report["projections"]) == 9
    for entry in llama.factored:
        W, UV = llama.matrices(entry["name"])
        X = llama.inputs(entry["name"], llama.text.held_out).double()
        expected = ((X @ (W - UV)).norm() / (X @ W).norm()).item()
        assert entry["measured_error"] == pytest.approx(expected, rel=1e-4), entry["name"]


@pytest.mark.parametrize("name", ["llama", "whitened", "plain"])
def test_divergence_is_that_of_the_models_on_the_held_out_windows(name, request):
    run = request.getfixturevalue(name)
    expected = divergence(run.dense, run.model, run.text.held_out)
    assert run.report["perplexity"]["divergence"] == pytest.approx(expected, rel=1e-4)
    assert divergence(run.model, run.dense, run.text.held_out) != pytest.approx(expected, rel=1e-3)


def measured_losses(run):
    """1/2 E[(g . dy)^2] of held-out text, from the whole model."""
    paths = [entry["name"] for entry in run.factored]
    seen = observe(run.dense, run.text.held_out, paths, seed=run.config.seed + 2)
    losses = {}
    for path in paths:
        W, UV = run.matrices(path)
        errors = seen.inputs[path].double() @ (W - UV)
        losses[path] = 0.5 * (errors * seen.gradients[path].double()).sum(1).square().mean().item()
    return losses


def test_measured_loss_is_that_of_the_models_gradients_on_held_out_text(llama):
    for path, expected in measured_losses(llama).items():
        [entry] = [entry for entry in llama.factored if entry["name"] == path]
        assert entry["measured_loss"] == pytest.approx(expected, rel=2e-3), path


def test_predicted_loss_is_that_of_the_analysis(llama, tmp_path):
    """The figures are checked in test_analysis.py."""
    run, analysis = analysed(llama.source, tmp_path / "out", llama.config.deciding_options())
    assert sum(entry["predicted_loss"] for entry in llama.factored) > 0
    for entry in llama.factored:
        expected = analysis.predictions(entry["name"], entry["rank"])
        assert {name: entry[name] for name in expected} == expected


def test_which_figures_there_are(llama, whitened, plain):
    for run in (llama, whitened, plain):
        figures = {"name", "shape", "rank", "predicted_error", "measured_error", "ridge"}
        for entry in run.report["projections"]:
            if entry["rank"] is None:
                assert entry.keys() == {"name", "shape", "rank"}
            elif run is llama:
                assert entry.keys() == figures | {"predicted_loss", "measured_loss"}
            else:
                assert entry.keys() == figures
    assert [run.report["allocation"] for run in (llama, whitened, plain)] == ["by_loss", "uniform", "uniform"]
    assert [run.report["decomposition"] for run in (llama, whitened, plain)] == ["two_sided", "whitened", "svd"]
    assert llama.report["trials"] == []


def test_local_gradients_predict_and_are_not_measured(quick_options, tmp_path):
    dense = sharpened(save_tiny_model(tmp_path / "dense"))
    run = Compressed(dense, tmp_path / "out", config_with(quick_options, decomposition="two_sided_local"))
    assert run.report["allocation"] == "by_loss" and len(run.factored) >= 5
    for entry in run.factored:
        assert "predicted_loss" in entry and "measured_loss" not in entry
    expected = divergence(run.dense, run.model, run.text.held_out)
    assert run.report["perplexity"]["divergence"] == pytest.approx(expected, rel=1e-4)


def test_predicted_error_is_that_on_the_calibration_text(whitened):
    """The statistics are of the calibration windows, all of them and no others; damping changes the fourth digit."""
    for entry in whitened.report["projections"]:
        W, UV = whitened.matrices(entry["name"])
        X = whitened.inputs(entry["name"], whitened.text.windows).double()
        expected = ((X @ (W - UV)).norm() / (X @ W).norm()).item()
        assert entry["predicted_error"] == pytest.approx(expected, rel=2e-3), entry["name"]
        assert entry["ridge"] == pytest.approx(1e-6)


def test_whitening_is_better_on_its_text_than_plain_svd(whitened, plain):
    for entry, other in zip(whitened.report["projections"], plain.report["projections"], strict=True):
        W, UV = plain.matrices(other["name"])
        X = plain.inputs(other["name"], plain.text.windows).double()
        assert entry["predicted_error"] < ((X @ (W - UV)).norm() / (X @ W).norm()).item()


def test_plain_svd_is_the_truncated_svd_of_the_weights(plain):
    assert len(plain.report["projections"]) == 9
    for entry in plain.report["projections"]:
        W, UV = plain.matrices(entry["name"])
        U, S, Vh = torch.linalg.svd(W, full_matrices=False)
        r = entry["rank"]
        torch.testing.assert_close(UV, (U[:, :r] * S[:r]) @ Vh[:r], rtol=1e-4, atol=1e-5)
        assert entry["predicted_error"] == pytest.approx((S[r:].norm() / S.norm()).item(), rel=1e-6)
        X = plain.inputs(entry["name"], plain.text.held_out).double()
        expected = ((X @ (W - UV)).norm() / (X @ W).norm()).item()
        assert entry["measured_error"] == pytest.approx(expected, rel=1e-4)


def test_plain_svd_reports_perplexity_too(plain):
    figures = plain.report["perplexity"]
    assert figures["before"] == pytest.approx(perplexity(plain.dense, plain.text.held_out), rel=1e-5)
    assert figures["after"] == pytest.approx(perplexity(plain.model, plain.text.held_out), rel=1e-5)


def test_shapes_and_ranks_are_those_of_the_modules(llama):
    for entry in llama.report["projections"]:
        module = llama.model.get_submodule(entry["name"])
        assert entry["shape"] == [module.in_features, module.out_features]
        assert entry["rank"] == (module.rank if isinstance(module, LowRankLinear) else None)


def test_projections_are_in_the_order_of_the_layers(llama):
    names = [entry["name"] for entry in llama.report["projections"]]
    kinds = ("gate_proj", "up_proj", "down_proj")
    assert names == [f"model.layers.{layer}.mlp.{kind}" for layer in range(3) for kind in kinds]


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_every_family(model_type, quick_options, tmp_path):
    dense = sharpened(save_tiny_model(tmp_path / "dense", model_type, tie_word_embeddings=False))
    run = Compressed(dense, tmp_path / "out", config_with(quick_options, calibration_samples=4))
    figures = run.report["perplexity"]
    assert figures["before"] == pytest.approx(perplexity(run.dense, run.text.held_out), rel=1e-4)
    assert figures["after"] == pytest.approx(perplexity(run.model, run.text.held_out), rel=1e-4)
    assert abs(figures["after"] / figures["before"] - 1) > 5e-4
    parameters = run.report["parameters"]
    assert parameters["before"] == sum(p.numel() for p in run.dense.parameters())
    assert parameters["after"] == sum(p.numel() for p in run.model.parameters())
    expected = divergence(run.dense, run.model, run.text.held_out)
    assert figures["divergence"] == pytest.approx(expected, rel=1e-3)
    assert run.report["compression_ratio"]["projections"] >= 0.4
    for path, expected in measured_losses(run).items():
        [entry] = [entry for entry in run.factored if entry["name"] == path]
        assert entry["measured_loss"] == pytest.approx(expected, rel=5e-3), path
        W, UV = run.matrices(path)
        X = run.inputs(path, run.text.held_out).double()
        error = ((X @ (W - UV)).norm() / (X @ W).norm()).item()
        assert entry["measured_error"] == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("stored_twice", [False, True])
def test_parameters_and_ratios_count_those_of_the_loaded_models(tied, stored_twice, quick_options, tmp_path):
    dense = save_tiny_model(tmp_path / "dense", tie_word_embeddings=tied)
    if stored_twice and tied:
        weights = load_file(dense / "model.safetensors")
        assert "lm_head.weight" not in weights
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        save_file(weights, dense / "model.safetensors", metadata={"format": "pt"})
    run = Compressed(dense, tmp_path / "out", config_with(quick_options, projections=["up", "down"]))
    counts = [sum(p.numel() for p in model.parameters()) for model in (run.dense, run.model)]
    parameters, ratio = run.report["parameters"], run.report["compression_ratio"]
    assert [parameters["before"], parameters["after"]] == counts
    assert ratio["model"] == pytest.approx(1 - counts[1] / counts[0])
    chosen = [
        sum(p.numel() for n, p in model.named_parameters() if ".up_proj." in n or ".down_proj." in n)
        for model in (run.dense, run.model)
    ]
    assert [parameters["projections_before"], parameters["projections_after"]] == chosen
    assert ratio["projections"] == pytest.approx(1 - chosen[1] / chosen[0]) and ratio["requested"] == 0.4
    assert ratio["projections"] != pytest.approx(0.4)  # by alignment


def test_a_bfloat16_model_is_measured_with_the_factors_as_they_are_stored(quick_options, tmp_path):
    dense = sharpened(save_tiny_model(tmp_path / "dense", dtype=torch.bfloat16))
    run = Compressed(dense, tmp_path / "out", config_with(quick_options))
    figures = run.report["perplexity"]
    assert figures["before"] == pytest.approx(perplexity(run.dense, run.text.held_out), rel=1e-5)
    assert figures["after"] == pytest.approx(perplexity(run.model, run.text.held_out), rel=1e-5)
    for entry in run.factored:
        W, UV = run.matrices(entry["name"])
        X = run.inputs(entry["name"], run.text.held_out).double()
        expected = ((X @ (W - UV)).norm() / (X @ W).norm()).item()
        assert entry["measured_error"] == pytest.approx(expected, rel=1e-4)


def test_windows_with_bos(quick_options, tmp_path):
    from tokenizers.processors import TemplateProcessing

    dense = sharpened(save_tiny_model(tmp_path / "dense"))
    tokenizer = AutoTokenizer.from_pretrained(dense)
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 256)]
    )
    tokenizer.save_pretrained(dense)
    run = Compressed(dense, tmp_path / "out", config_with(quick_options))
    assert run.report["perplexity"]["bos"] is True and (run.text.held_out[:, 0] == 256).all()
    assert run.report["perplexity"]["after"] == pytest.approx(perplexity(run.model, run.text.held_out), rel=1e-5)


def test_a_layer_without_factors_stays_as_it_is(quick_options, tmp_path):
    """A fused gate and up at whose shape no rank of this block saves parameters, beside a down at which it does not."""
    dense = sharpened(save_tiny_model(tmp_path / "dense", "phi3", intermediate_size=48))
    # gate_up (96, 96): rank 32 saves; down (48, 96): rank 32 is exactly as large as dense.
    run = Compressed(dense, tmp_path / "out", config_with(quick_options, compression_ratio=0.2))
    ranks = {entry["name"].rpartition(".")[2]: entry["rank"] for entry in run.report["projections"]}
    assert ranks == {"gate_up_proj": 32, "down_proj": None}
    entries = [entry for entry in run.report["projections"] if entry["rank"] is None]
    assert len(entries) == 3 and all(entry.keys() == {"name", "shape", "rank"} for entry in entries)
    assert run.report["perplexity"]["after"] == pytest.approx(perplexity(run.model, run.text.held_out), rel=1e-5)
    assert "model.layers.0.mlp.down_proj" not in read_config(run.directory)["quantization_config"]["modules"]


def test_one_thread_and_two_give_the_same_factors_to_rounding(llama, quick_options, tmp_path):
    """Relative to the largest entry: 1e-4 in float32."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        dense = sharpened(save_tiny_model(tmp_path / "dense"))
        compress(dense, tmp_path / "out", llama.config)
    finally:
        torch.set_num_threads(threads)
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        expected = llama.model.state_dict()[name]
        torch.testing.assert_close(
            tensor, expected, rtol=0, atol=1e-4 * max(1.0, expected.abs().max().item() if expected.numel() else 0)
        )


def test_equal_inputs_give_equal_bytes(llama, quick_options, tmp_path):
    dense = sharpened(save_tiny_model(tmp_path / "dense"))
    report = compress(dense, tmp_path / "out", llama.config)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        llama.directory / "model.safetensors"
    ).read_bytes()
    assert report["projections"] == llama.report["projections"] and report["perplexity"] == llama.report["perplexity"]


def test_files_come_and_go(tiny_llama, quick_options, tmp_path, monkeypatch):
    """Hidden states of one layer at a time, and of each layer what the walk back needs; the same where it is resumed."""
    seen, finish = [], Workspace.finish

    def recorded(workspace, stage, steps):
        finish(workspace, stage, steps)
        if stage in ("layers", "losses"):
            seen.append({path.name.removesuffix(".safetensors") for path in workspace.path.glob("held-out-*")})

    monkeypatch.setattr(Workspace, "finish", recorded)
    compress(tiny_llama, tmp_path / "out", config_with(quick_options))
    entering = [f"held-out-entering-{layer}" for layer in range(3)]
    assert seen == [
        {"held-out-1", *entering[:1]},
        {"held-out-1", "held-out-2", *entering[:2]},
        {"held-out-2", "held-out-3", *entering},
        {"held-out-3", "held-out-gradients-2", *entering},
        {"held-out-3", "held-out-gradients-2", "held-out-gradients-1", *entering[:2]},
        {"held-out-3", "held-out-gradients-1", "held-out-gradients-0", *entering[:1]},
    ]


def test_the_report_is_written_and_returned(llama):
    assert json.loads((llama.directory / "neuronmm_report.json").read_text()) == llama.report
