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
"""A compression from its inputs to its output: given bad input, interrupted and run again, and beside another.

What it computes is tested in test_layerwise.py and test_analysis.py, what it writes in test_checkpoint.py and
test_report.py, and how it is killed in test_killed.py.
"""

import errno
import gzip
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from optimum_neuronmm import NeuronMMConfig, __version__, compress
from optimum_neuronmm.errors import NeuronMMError

from .conftest import ROOT, read_config, save_tiny_model
from .pipeline import result_of, sharpened


# Inputs that cannot be compressed: each ends with a message, and with the output's directory as it was.


@pytest.fixture
def model(tiny_llama, tmp_path):
    """A model that a test may damage."""
    return shutil.copytree(tiny_llama, tmp_path / "a model")


@pytest.fixture
def output(tmp_path):
    """An output in a directory of its own, so that whatever is left beside it shows."""
    (tmp_path / "some results").mkdir()
    return tmp_path / "some results" / "an output"


def config_with(quick_options, **changes):
    return NeuronMMConfig(**{**quick_options, **changes})


@pytest.fixture
def refuse(model, output, quick_options):
    """`refuse(match, **changes)`: compressing `model` with changed options fails and leaves nothing, or what is `left`."""

    def refuse(match, source=model, left=(), **changes):
        before = sorted(output.parent.iterdir())
        with pytest.raises(NeuronMMError, match=match):
            compress(source, output, config_with(quick_options, **changes))
        workspace = output.parent / ".an output.neuronmm"
        assert sorted(output.parent.iterdir()) == before + ([workspace] if left else [])
        assert {path.name for path in workspace.glob("*.safetensors")} == set(left)

    return refuse


def edit_weights(directory, change):
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def edit_config(directory, **changes):
    content = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**content, **changes}))


def measured(layers):
    """The files of a run that ended after so many layers of the first walk."""
    kept = [f"{name}-{layer}.safetensors" for name in ("moments", "entering") for layer in range(layers)]
    return ["calibration.safetensors", *kept, *([f"hidden-{layers}.safetensors"] if layers else [])]


class TestBadInput:
    def test_an_output_with_content(self, refuse, output):
        output.mkdir()
        (output / "thesis.txt").write_text("mine")
        refuse("exists and is not empty. Choose another output, or remove it")
        assert [path.name for path in output.iterdir()] == ["thesis.txt"]

    def test_an_output_that_is_a_file(self, refuse, output):
        output.write_text("mine")
        refuse("exists and is not empty")
        assert output.read_text() == "mine"

    def test_an_output_below_a_file(self, refuse, output, model, quick_options):
        output.write_text("mine")
        with pytest.raises(NeuronMMError, match="an output is not a directory that you may write to"):
            compress(model, output / "below", config_with(quick_options))

    def test_the_model_itself_as_output(self, model, quick_options):
        before = sorted(model.iterdir())
        with pytest.raises(NeuronMMError, match="exists and is not empty"):
            compress(model, model, config_with(quick_options))
        assert sorted(model.iterdir()) == before

    @pytest.mark.parametrize(
        ("content", "match"),
        [
            ("", "holds no text"),
            (" \n\t" * 9000, "holds no text"),
            ("too short", "is too short: 9 tokens make 0 windows of 64, and 12 are needed"),
        ],
    )
    def test_a_text_that_is_none(self, refuse, tmp_path, content, match):
        (tmp_path / "text.txt").write_text(content)
        refuse(match, calibration=str(tmp_path / "text.txt"))

    def test_a_text_in_another_encoding(self, refuse, tmp_path):
        (tmp_path / "text.txt").write_bytes(b"\xe9t\xe9 " * 9000)
        refuse("could not be read.*utf-8", calibration=str(tmp_path / "text.txt"))

    def test_a_damaged_archive(self, refuse, tmp_path):
        (tmp_path / "text.txt.gz").write_bytes(gzip.compress(b"a text " * 9000)[:-9])
        refuse("could not be read", calibration=str(tmp_path / "text.txt.gz"))

    def test_an_unknown_source(self, refuse):
        refuse("Unknown calibration source 'shakespeare'", calibration="shakespeare")

    def test_a_missing_text(self, refuse, tmp_path):
        refuse("none.txt does not exist", calibration=["self", str(tmp_path / "none.txt")])

    def test_a_dataset_without_a_connection(self, refuse, monkeypatch):
        def load_dataset(*args, **kwargs):
            raise ConnectionError

        monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
        refuse("wikitext2 .* could not be fetched", calibration="wikitext2")

    def test_a_model_that_is_nowhere(self, refuse, monkeypatch, tmp_path):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        refuse("no-such/model is neither a directory nor a Hub model", source="no-such/model")

    def test_a_compressed_model(self, refuse, compressed_llama):
        refuse("is compressed already", source=compressed_llama)

    def test_a_model_without_a_tokenizer(self, refuse, model):
        for path in [*model.glob("tokenizer*"), model / "special_tokens_map.json"]:
            path.unlink()
        refuse("has no tokenizer that transformers can load")

    @pytest.mark.parametrize("content", ["", "{}", "[]", '{"model": {"type": "none"}}', "\x00"])
    def test_a_damaged_tokenizer(self, refuse, model, content):
        (model / "tokenizer.json").write_text(content)
        refuse("has no tokenizer that transformers can load")

    @pytest.mark.parametrize("source", ["text", "self"])
    def test_a_tokenizer_of_another_model(self, refuse, tmp_path, text_file, source):
        small = save_tiny_model(tmp_path / "small", vocab_size=64)
        refuse(
            "The tokenizer gives token .* but the model knows 64 tokens",
            source=small,
            calibration="self" if source == "self" else str(text_file),
        )

    def test_a_ratio_at_which_nothing_is_saved(self, refuse):
        refuse("Nothing would be compressed", block_size=128)

    @pytest.mark.parametrize("ratio", [0.51, 0.9])
    def test_a_ratio_that_no_ranks_reach(self, refuse, ratio):
        refuse(f"compression_ratio {ratio} cannot be reached.*removes 50.7%", compression_ratio=ratio)

    def test_a_limit_of_perplexity_that_no_ratio_keeps(self, refuse, monkeypatch):
        from optimum_neuronmm import search

        monkeypatch.setattr(search, "trial", lambda *_: {"before": 10.0, "after": 12.0, "divergence": 0.2})
        decomposed = [f"{name}-{layer}.safetensors" for name in ("factors", "losses") for layer in range(3)]
        refuse(
            "No ratio keeps the increase of perplexity below 10.00%.*already costs 20.00%",
            max_perplexity_increase=0.1,
            left=["calibration.safetensors", "dense-held-out.safetensors", *decomposed],
        )

    def test_an_unsupported_model(self, refuse, model):
        edit_config(model, model_type="gpt2")
        refuse("'gpt2' is not supported: choose one of")

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"intermediate_size": 128}, r"gate_proj.weight .* has shape \(200, 96\), but config.json .* \(128, 96\)"),
            ({"vocab_size": 300}, r"embed_tokens.weight .* has shape \(260, 96\), but config.json .* \(300, 96\)"),
            ({"num_key_value_heads": 4}, r"layers.0.self_attn.k_proj.weight .* has shape \(48, 96\)"),
            ({"num_hidden_layers": 4}, "no tensor 'model.layers.3"),
            ({"attention_bias": True}, "no tensor 'model.layers.0.self_attn.q_proj.bias'"),
            ({"hidden_act": "magic"}, "describes no model: 'magic'"),
            ({"num_attention_heads": 0}, "describes no model"),
        ],
    )
    def test_a_config_of_another_model(self, refuse, model, changes, match):
        edit_config(model, **changes)
        refuse(match)

    def test_a_weight_of_another_shape_in_the_last_layer_is_found_at_once(self, refuse, model):
        def change(weights):
            weights["model.layers.2.mlp.up_proj.weight"] = torch.zeros(96 * 200)

        edit_weights(model, change)
        refuse(r"layers.2.mlp.up_proj.weight .* has shape \(19200,\), but config.json describes \(200, 96\)")

    def test_a_missing_tensor(self, refuse, model):
        edit_weights(model, lambda weights: weights.pop("model.layers.2.post_attention_layernorm.weight"))
        refuse("no tensor 'model.layers.2.post_attention_layernorm.weight'")

    @pytest.mark.parametrize(
        "name",
        [
            "model.layers.1.mlp.down_proj.weight",
            "model.layers.2.input_layernorm.weight",
            "model.embed_tokens.weight",
            "lm_head.weight",
        ],
    )
    @pytest.mark.parametrize("value", [math.nan, -math.inf])
    def test_a_weight_that_is_not_finite_is_named(self, refuse, model, name, value):
        def change(weights):
            weights[name].view(-1)[7] = value

        edit_weights(model, change)
        layers = int(name.split(".")[2]) if ".layers." in name else 0
        refuse(f"{name} of .* holds values that are not finite", left=measured(layers))

    def test_activations_that_overflow_are_named_by_their_layer(self, refuse, model):
        def change(weights):
            for name in ("up_proj", "down_proj"):
                weights[f"model.layers.1.mlp.{name}.weight"] *= 1e25

        edit_weights(model, change)
        refuse(r"activations of layer 1 \(model.layers.1\) are not finite", left=measured(1))

    def test_a_model_that_cannot_sample_is_named_by_its_layer(self, refuse, model):
        edit_weights(model, lambda weights: weights["model.layers.1.mlp.down_proj.weight"].fill_(math.nan))
        refuse("activations of layer 1 are not finite, so no text can be sampled", calibration="self")

    def test_no_space(self, refuse, monkeypatch):
        monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1_000_000))
        refuse("Not enough disk space")

    def test_a_truncated_shard(self, refuse, model):
        content = (model / "model.safetensors").read_bytes()
        (model / "model.safetensors").write_bytes(content[:-100])
        refuse("model.safetensors of .* is damaged or incomplete")

    def test_a_malicious_pickle(self, refuse, model, tmp_path):
        (model / "model.safetensors").unlink()
        code = "import pathlib; pathlib.Path({!r}).touch()".format(str(tmp_path / "owned"))
        (model / "pytorch_model.bin").write_bytes(b"c__builtin__\nexec\n(V" + code.encode() + b"\ntR.")
        refuse("weights-only loader")
        assert not (tmp_path / "owned").exists()


def test_space_that_the_dtype_of_the_output_needs_is_counted(model, output, quick_options, monkeypatch):
    from optimum_neuronmm import compression

    needed = []
    monkeypatch.setattr(compression, "check_disk_space", lambda output, bytes: needed.append(bytes))
    compress(model, output, config_with(quick_options))
    edit_weights(model, lambda weights: weights.update({name: t.bfloat16() for name, t in weights.items()}))
    for dtype in (None, "float32"):
        compress(model, output.parent / str(dtype), config_with(quick_options, dtype=dtype))
    states = (2 * (8 + 2 * 4) + 3 * (8 + 4)) * 64 * 96 * 4  # of two walks; gradients are of all 8 windows
    moments = 3 * 2 * 96 * 96 * 8
    weights = 306_336 * 4
    assert needed == [part + states + moments for part in (3 * weights, 1.5 * weights, 3 * weights)]


class TestFullDisk:
    """The disk fills up at a write; after space was made, the same command goes on."""

    @pytest.mark.parametrize(
        "write",
        [
            "hidden-2.safetensors.part",
            "factors-1.safetensors.part",
            "gradients-0.safetensors.part",
            "layer-1.json.part",
            "held-out-gradients-1.safetensors.part",
            "model.safetensors",
            "tokenizer.json",
            "README.md",
        ],
    )
    def test_it_can_be_resumed(self, tiny_llama, compressed_llama, output, quick_options, monkeypatch, write, capfd):
        import builtins

        from optimum_neuronmm import workspace

        def full(path):
            if isinstance(path, Path) and path.name == write:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def wrap(function, which):
            def wrapped(*args, **kwargs):
                full(args[which])
                return function(*args, **kwargs)

            return wrapped

        with monkeypatch.context() as patch:
            patch.setattr(workspace, "save_file", wrap(workspace.save_file, 1))
            patch.setattr(Path, "write_text", wrap(Path.write_text, 0))
            patch.setattr(shutil, "copyfile", wrap(shutil.copyfile, 1))
            patch.setattr(builtins, "open", wrap(builtins.open, 0))
            with pytest.raises(NeuronMMError, match="No space left on the disk of .*run the same command again"):
                compress(tiny_llama, output, config_with(quick_options))
        assert not output.exists()
        compress(tiny_llama, output, config_with(quick_options))
        assert result_of(output) == result_of(compressed_llama)
        assert list(output.parent.iterdir()) == [output]

    def test_of_the_operating_system(self, tiny_llama, compressed_llama, output, quick_options):
        """A limit on the size of files stands for a disk that fills up while the weights are written."""
        code = f"""
import resource, sys
from optimum_neuronmm import NeuronMMConfig, __version__, compress
from optimum_neuronmm.errors import NeuronMMError
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
try:
    compress({str(tiny_llama)!r}, {str(output)!r}, NeuronMMConfig(**{quick_options!r}))
except NeuronMMError as error:
    sys.exit(str(error))
"""
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert process.returncode == 1 and "No space left" in process.stderr.splitlines()[-1], process.stderr
        half = output.parent / ".an output.neuronmm" / "result" / "model.safetensors"
        assert 0 < half.stat().st_size <= 600_000 and not output.exists()
        compress(tiny_llama, output, config_with(quick_options))
        assert result_of(output) == result_of(compressed_llama)


class TestStartingAnew:
    """A run that was interrupted does not go on under other circumstances."""

    @pytest.fixture
    def interrupted(self, model, output, quick_options, monkeypatch, tmp_path):
        """Compresses `model` with a text of its own up to the second layer."""
        from optimum_neuronmm import layerwise

        text = tmp_path / "text.txt"
        shutil.copyfile(quick_options["calibration"], text)
        with monkeypatch.context() as patch:
            done, compress_layer = [], layerwise._compress_layer

            def interrupt(*args):
                if len(done) == 2:
                    raise KeyboardInterrupt
                done.append(1)
                return compress_layer(*args)

            patch.setattr(layerwise, "_compress_layer", interrupt)
            with pytest.raises(KeyboardInterrupt):
                compress(model, output, config_with(quick_options, calibration=str(text)))
        assert not output.exists()
        return text

    def again(self, model, output, quick_options, caplog, **changes):
        """Runs again, and afresh beside it. Returns what was warned of, and whether both gave the same."""
        compress(model, output, config_with(quick_options, **changes))
        compress(model, output.parent / "fresh", config_with(quick_options, **changes))
        assert result_of(output) == result_of(output.parent / "fresh")
        return caplog.text

    def test_the_same_run_goes_on(self, model, output, quick_options, caplog, interrupted):
        said = self.again(model, output, quick_options, caplog, calibration=str(interrupted))
        assert "after layer 2 of 3" in said and "starting anew" not in said

    def test_another_target_or_kernel_goes_on(self, model, output, quick_options, caplog, interrupted):
        changes = {"calibration": str(interrupted), "target": "cpu", "kernel": "compiler"}
        assert "after layer 2 of 3" in self.again(model, output, quick_options, caplog, **changes)

    @pytest.mark.parametrize(
        "changes",
        [
            {"compression_ratio": 0.4},
            {"seed": 1},
            {"calibration_samples": 9},
            {"projections": ["up"]},
            {"decomposition": "svd"},
            {"gradient_samples": 3},
            {"allocation": "uniform"},
            {"max_perplexity_increase": 9.0},
            {"dtype": "bfloat16"},
        ],
    )
    def test_other_options(self, model, output, quick_options, caplog, interrupted, changes):
        said = self.again(model, output, quick_options, caplog, calibration=str(interrupted), **changes)
        assert "changed since" in said and "starting anew" in said and "Resuming" not in said

    def test_another_text_under_the_same_name(self, model, output, quick_options, caplog, interrupted):
        interrupted.write_text(interrupted.read_text().replace("rank", "RANK"))
        said = self.again(model, output, quick_options, caplog, calibration=str(interrupted))
        assert "starting anew" in said and "Resuming" not in said

    def test_other_weights_under_the_same_name(self, model, output, quick_options, caplog, interrupted):
        edit_weights(model, lambda weights: weights["model.layers.0.mlp.up_proj.weight"].mul_(2))
        said = self.again(model, output, quick_options, caplog, calibration=str(interrupted))
        assert "starting anew" in said and "Resuming" not in said

    def test_another_config_of_the_model(self, model, output, quick_options, caplog, interrupted):
        edit_config(model, rms_norm_eps=1e-3)
        said = self.again(model, output, quick_options, caplog, calibration=str(interrupted))
        assert "starting anew" in said and "Resuming" not in said

    def test_another_tokenizer(self, model, output, quick_options, caplog, interrupted):
        content = (model / "tokenizer.json").read_text()
        changed = content.replace('"a":64', '"a":65').replace('"b":65', '"b":64').replace('"a": 64', '"a": 65')
        changed = changed.replace('"b": 65', '"b": 64')
        assert changed != content
        (model / "tokenizer.json").write_text(changed)
        said = self.again(model, output, quick_options, caplog, calibration=str(interrupted))
        assert "starting anew" in said and "Resuming" not in said


def test_two_processes_on_one_output(tiny_llama, output, quick_options):
    """The second is refused, and the first finishes."""
    import threading

    from optimum_neuronmm import layerwise

    entered, go_on, compress_layer = threading.Event(), threading.Event(), layerwise._compress_layer

    def waiting(*args):
        entered.set()
        assert go_on.wait(60)
        return compress_layer(*args)

    layerwise._compress_layer = waiting
    try:
        first = threading.Thread(target=compress, args=(tiny_llama, output, config_with(quick_options)))
        first.start()
        assert entered.wait(60)
        with pytest.raises(
            NeuronMMError, match="Another process is writing .*an output. Wait for it, or choose another"
        ):
            compress(tiny_llama, output, config_with(quick_options, seed=1))
    finally:
        layerwise._compress_layer = compress_layer
        go_on.set()
        first.join()
    assert (output / "config.json").is_file() and list(output.parent.iterdir()) == [output]


def test_an_output_may_be_an_empty_directory_a_link_or_relative(
    tiny_llama, compressed_llama, tmp_path, quick_options, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "dangling").symlink_to(tmp_path / "new disk" / "out")
    for output in ("empty", "link", "dangling", "new/levels/./x/../out", str(tmp_path / "Ünï cödé")):
        compress(tiny_llama, output, config_with(quick_options))
        assert result_of((tmp_path / output).resolve()) == result_of(compressed_llama)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "config.json").is_file()
    assert not [path for path in tmp_path.rglob("*.neuronmm")]


def test_the_result_names_inputs_without_where_they_lie(tiny_llama, text_file, quick_options, tmp_path, monkeypatch):
    """It may be published."""
    monkeypatch.chdir(tiny_llama)
    report = compress(".", tmp_path / "out", NeuronMMConfig(**quick_options))
    assert report["model"] == tiny_llama.name
    assert read_config(tmp_path / "out")["quantization_config"]["calibration"] == [text_file.name]
    for file in ("config.json", "neuronmm_report.json", "README.md"):
        content = (tmp_path / "out" / file).read_text()
        assert str(text_file.parent) not in content and str(tiny_llama.parent) not in content


def test_the_result_says_which_release_wrote_it(tiny_llama, quick_options, tmp_path):
    """Not the one that wrote the options it was given."""
    compress(tiny_llama, tmp_path / "out", NeuronMMConfig(**quick_options, neuronmm_version="99.0"))
    assert read_config(tmp_path / "out")["quantization_config"]["neuronmm_version"] == __version__


@pytest.mark.parametrize("changes", [{}, {"allocation": "uniform"}, {"decomposition": "whitened"}])
def test_a_ratio_that_was_searched_for(changes, quick_options, tmp_path):
    """What the report says of the result is what the best trial measured."""
    model = sharpened(save_tiny_model(tmp_path / "model"))
    options = {"compression_ratio": 0.9, "max_perplexity_increase": 0.3, **changes}
    report = compress(model, tmp_path / "out", config_with(quick_options, **options))
    assert 1 <= len(report["trials"]) <= 10
    best = max((trial for trial in report["trials"] if trial["increase"] <= 0.3), key=lambda trial: trial["ratio"])
    assert report["compression_ratio"]["projections"] == best["achieved"]
    perplexity = report["perplexity"]
    assert perplexity["after"] == pytest.approx(best["perplexity"], rel=1e-6)
    assert perplexity["after"] / perplexity["before"] - 1 == pytest.approx(best["increase"], rel=1e-4, abs=1e-6)
    assert perplexity["divergence"] == pytest.approx(best["divergence"], rel=1e-5)
    written = read_config(tmp_path / "out")["quantization_config"]
    assert written["compression_ratio"] == report["compression_ratio"]["requested"] >= best["ratio"]
    assert written["max_perplexity_increase"] == 0.3
    if not changes:
        assert written["compression_ratio"] == best["ratio"]


def test_gradients_are_worth_something(quick_options, tmp_path):
    """On held-out text, at ranks that are the same."""
    model, divergence = sharpened(save_tiny_model(tmp_path / "model")), {}
    for decomposition in ("svd", "whitened", "two_sided"):
        options = {"compression_ratio": 0.506, "calibration_samples": 32, "decomposition": decomposition}
        report = compress(model, tmp_path / decomposition, config_with(quick_options, **options))
        assert {entry["rank"] for entry in report["projections"]} == {32}
        divergence[decomposition] = report["perplexity"]["divergence"]
    assert divergence["two_sided"] < 0.8 * divergence["whitened"] < divergence["svd"]


@pytest.mark.parametrize("layers", [0, 2])
def test_a_config_that_tells_another_number_of_layers_is_refused(layers, tiny_llama, quick_options, tmp_path):
    model = shutil.copytree(tiny_llama, tmp_path / "model")
    changed = {**read_config(model), "num_hidden_layers": layers}
    (model / "config.json").write_text(json.dumps(changed))
    with pytest.raises(NeuronMMError, match=f"num_hidden_layers = {layers}"):
        compress(model, tmp_path / "out", quick_options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_windows_longer_than_the_model_can_read_are_refused(tiny_llama, quick_options, tmp_path):
    with pytest.raises(NeuronMMError, match="calibration_length must be at most 512"):
        compress(tiny_llama, tmp_path / "out", {**quick_options, "calibration_length": 513})
    assert not list(tmp_path.iterdir())


def test_values_that_the_dtype_cannot_hold_are_refused(tmp_path, quick_options):
    """They would be written as infinity, which no figure of the report shows."""
    model = save_tiny_model(tmp_path / "model", dtype=torch.bfloat16)
    weights = load_file(model / "model.safetensors")
    weights["model.embed_tokens.weight"][3, 5] = 1e5
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NeuronMMError, match="model.embed_tokens.weight holds values up to .*float16 cannot.*bfloat16"):
        compress(model, tmp_path / "out", {**quick_options, "dtype": "float16"})
    assert not (tmp_path / "out").exists()
