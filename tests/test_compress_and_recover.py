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
"""A compression and a training in one command: what comes out, and that either half can be interrupted.

What a training does is tested in test_recovery.py.
"""

import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from optimum_neuronmm import NeuronMMConfig, NeuronModelForCausalLM, cache, compress, compression, layerwise
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recovery.training import Training
from optimum_neuronmm.source import DenseCheckpoint
from optimum_neuronmm.workspace import hidden_path, lock_directory

from .conftest import read_config, save_tiny_model
from .pipeline import result_of, sharpened


STEP = 8 * 512  # tokens of the default batch


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    options = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2}
    return sharpened(save_tiny_model(tmp_path_factory.mktemp("recovered") / "dense", **options))


@pytest.fixture(scope="module")
def options(quick_options):
    """Two steps of distillation, of a model that lost enough to gain by them."""
    lossy = {"compression_ratio": 0.4, "decomposition": "svd", "calibration_samples": 4}
    return {**quick_options, **lossy, "recovery": "distill", "recovery_tokens": 2 * STEP}


@pytest.fixture(scope="module")
def plain(model, options, tmp_path_factory):
    """Without recovery."""
    output = tmp_path_factory.mktemp("recovered") / "out"
    return SimpleNamespace(directory=output, report=compress(model, output, {**options, "recovery": "none"}))


@pytest.fixture(scope="module")
def distilled(model, options, tmp_path_factory):
    output = tmp_path_factory.mktemp("recovered") / "out"
    return SimpleNamespace(directory=output, report=compress(model, output, options))


@pytest.fixture
def output(tmp_path):
    """An output in a directory of its own, so that whatever is left beside it shows."""
    (tmp_path / "results").mkdir()
    return tmp_path / "results" / "out"


def hidden(output):
    return hidden_path(output, output.parent, "intermediate")


@pytest.fixture
def interrupt_compression(monkeypatch, model):
    """`interrupt_compression(output, options)`: after its first layer."""

    def interrupt(output, options):
        done, compress_layer = [], layerwise._compress_layer

        def interrupted(*args):
            if done:
                raise KeyboardInterrupt
            done.append(1)
            return compress_layer(*args)

        with monkeypatch.context() as patch:
            patch.setattr(layerwise, "_compress_layer", interrupted)
            with pytest.raises(KeyboardInterrupt):
                compress(model, output, options)
        assert not output.exists()

    return interrupt


@pytest.fixture
def interrupt_training(monkeypatch, model):
    """`interrupt_training(output, options)`: in its first step."""

    def interrupt(output, options):
        def interrupted(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Training, "_step", interrupted)
            with pytest.raises(KeyboardInterrupt):
                compress(model, output, options)
        assert not output.exists()

    return interrupt


def check_form(plain, recovered, changes_factors=True):
    """Of two results the second is the first with other values in its factors."""
    assert sorted(os.listdir(plain)) == sorted(os.listdir(recovered))
    before, after = (load_file(directory / "model.safetensors") for directory in (plain, recovered))
    assert {name: (t.shape, t.dtype) for name, t in before.items()} == {
        name: (t.shape, t.dtype) for name, t in after.items()
    }
    modules = read_config(recovered)["quantization_config"]["modules"]
    factors = {f"{path}.{factor}.weight" for path in modules for factor in ("u", "v")}
    assert modules == read_config(plain)["quantization_config"]["modules"] and factors
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == (factors if changes_factors else set())
    loaded, info = AutoModelForCausalLM.from_pretrained(recovered, output_loading_info=True)
    assert not any(info.values())
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in after.items())


class TestResult:
    def test_distilled(self, plain, distilled, model, text_file):
        check_form(plain.directory, distilled.directory)
        recovery = distilled.report["recovery"]
        assert recovery["improved"] and recovery["tokens"] == 2 * STEP and recovery["teacher"] == model.name
        assert recovery["options"]["objective"] == "distill" and recovery["options"]["data"] == [text_file.name]
        [source] = recovery["held_out"]
        assert source["after"] < source["before"] and source["dense"] is not None

    def test_the_report_is_that_of_the_compression_and_more(self, plain, distilled):
        written = json.loads((distilled.directory / "neuronmm_report.json").read_text())
        assert written == distilled.report and "recovery" not in plain.report
        for key in set(plain.report) - {"seconds"}:
            assert distilled.report[key] == plain.report[key], key
        card = (distilled.directory / "README.md").read_text()
        assert "## Recovery" in card and "neuronmm_ranks.png" in card

    def test_nothing_is_left_beside_it(self, distilled):
        assert os.listdir(distilled.directory.parent) == ["out"]

    def test_it_is_printed_at_the_end(self, model, options, output, capsys):
        compress(model, output, options)
        said = capsys.readouterr().out
        assert said.count("ratio removed") == 1  # one report, of the whole
        assert f"\nrecovery          {2 * STEP:,} tokens, distill\n" in said[said.index("ratio removed") :]

    def test_lora(self, model, plain, options, output, text_file):
        """SVD-LLM's recipe: batches of 64, U before V."""
        report = compress(model, output, {**options, "recovery": "lora", "recovery_tokens": 2 * 64 * 512})
        chosen = {"objective": "labels", "order": "sequential", "parameters": "lora", "learning_rate": 1e-4}
        entry = report["recovery"]
        assert {name: entry["options"][name] for name in chosen} == chosen and entry["options"]["batch_size"] == 64
        assert entry["steps"] == 2 and entry["held_out"][0]["dense"] is not None
        check_form(plain.directory, output, changes_factors=entry["improved"])
        assert os.listdir(output.parent) == ["out"]

    def test_data_of_its_own_is_named_without_its_place(self, model, options, output, text_file, tmp_path):
        (tmp_path / "private").mkdir()
        other = shutil.copyfile(text_file, tmp_path / "private" / "other.txt")
        changes = {"recovery_data": [str(other)], "recovery_tokens": STEP, "calibration": ["self"]}
        report = compress(model, output, {**options, **changes, "calibration_length": 16})
        assert report["recovery"]["options"]["data"] == ["other.txt"]
        settings = read_config(output)["quantization_config"]
        assert settings["recovery_data"] == [] and settings["recovery"] == "none"  # the report tells
        for file in ("config.json", "neuronmm_report.json", "README.md"):
            assert str(other.parent) not in (output / file).read_text()

    def test_of_the_calibrations_sources_the_models_own_text_is_left_out(self, options, text_file):
        config = NeuronMMConfig(**{**options, "calibration": ["self", str(text_file), "wikitext2"], "seed": 7})
        recovery = compression._recovery_options(config)
        assert recovery.data == [str(text_file), "wikitext2"]
        assert (recovery.seed, recovery.tokens, recovery.objective) == (7, 2 * STEP, "distill")

    def test_windows_are_no_longer_than_the_model_can_read(self, options, output, tmp_path):
        short = save_tiny_model(tmp_path / "short", max_position_embeddings=128, num_hidden_layers=1)
        report = compress(short, output, {**options, "recovery_tokens": STEP})
        assert report["recovery"]["options"]["sequence_length"] == 128

    def test_the_teacher_is_named_as_on_the_hub(self, model, options, output, monkeypatch):
        """Not by the directory of its snapshot."""
        checkpoint, calls = DenseCheckpoint(model, "me/dense", "a" * 40), []
        monkeypatch.setattr(compression, "open_dense", lambda *_, **__: checkpoint)
        monkeypatch.setattr(compression, "_compress", lambda *_: None)
        monkeypatch.setattr(compression, "format_report", lambda _: "")
        monkeypatch.setattr("optimum_neuronmm.recovery.recover", lambda *_, **options: calls.append(options))
        compress("me/dense", output, options, cache_dir="c", token="t")
        [asked] = calls
        hub = {"teacher": "me/dense", "revision": "a" * 40, "cache_dir": "c", "token": "t"}
        assert {name: asked[name] for name in hub} == hub


class TestRefused:
    """Before any work, and without a trace."""

    @pytest.fixture
    def refuse(self, model, options, output, monkeypatch):
        def refuse(match, **changes):
            monkeypatch.setattr(compression, "open_dense", None)  # which may fetch a model
            with pytest.raises(NeuronMMError, match=match):
                compress(model, output, {**options, **changes})
            assert list(output.parent.iterdir()) == []

        return refuse

    @pytest.mark.parametrize("recovery", ["lora", "distill"])
    def test_no_text_to_train_on(self, refuse, recovery):
        refuse("recovery needs text to train on.*--neuronmm_recovery_data", calibration=["self"], recovery=recovery)

    def test_unknown_text(self, refuse):
        refuse("Unknown source of data 'shakespeare'", recovery_data=["shakespeare"])

    def test_a_missing_text(self, refuse, tmp_path):
        refuse("none.txt does not exist", recovery_data=[str(tmp_path / "none.txt")])

    def test_too_few_tokens(self, refuse):
        refuse(f"tokens must be at least {STEP}, one step", recovery_tokens=STEP - 1)

    def test_a_ratio_that_no_ranks_reach(self, model, options, output):
        with pytest.raises(NeuronMMError, match="cannot be reached"):
            compress(model, output, {**options, "decomposition": "two_sided", "compression_ratio": 0.9})
        assert list(output.parent.iterdir()) == []


class TestInterrupted:
    def test_in_the_compression(self, model, options, output, distilled, interrupt_compression, caplog):
        interrupt_compression(output, options)
        assert list(output.parent.iterdir()) == [hidden(output)]
        report = compress(model, output, options)
        assert "after layer 1 of 2" in caplog.text
        assert result_of(output) == result_of(distilled.directory) and os.listdir(output.parent) == ["out"]
        assert report["recovery"]["held_out"] == distilled.report["recovery"]["held_out"]

    def test_in_the_training(self, model, options, output, distilled, interrupt_training, monkeypatch):
        interrupt_training(output, options)
        assert set(output.parent.iterdir()) == {hidden(output), output.parent / ".out.neuronmm"}
        monkeypatch.setattr(compression, "_compress", None)  # not again
        compress(model, output, options)
        assert result_of(output) == result_of(distilled.directory) and os.listdir(output.parent) == ["out"]

    @pytest.mark.parametrize("half", ["compression", "training"])
    def test_other_options_start_anew_and_leave_nothing(
        self, model, options, output, half, interrupt_compression, interrupt_training, plain
    ):
        interrupt = interrupt_compression if half == "compression" else interrupt_training
        interrupt(output, {**options, "compression_ratio": 0.2})
        interrupt(output, {**options, "seed": 5})
        kept = [path.name for path in hidden(output).iterdir() if path.name != "lock"]
        assert len(kept) == 1 and kept[0].startswith(".") == (half == "compression")
        compress(model, output, {**options, "recovery": "none"})
        assert result_of(output) == result_of(plain.directory) and os.listdir(output.parent) == ["out"]

    def test_where_its_process_died_after_the_output_was_in_place(self, model, options, output, monkeypatch):
        """What is left is removed by whoever looks at the output next."""
        with monkeypatch.context() as patch:
            patch.setattr("optimum_neuronmm.workspace.shutil.rmtree", lambda *_, **__: None)
            compress(model, output, options)
        assert hidden(output).is_dir()
        with pytest.raises(NeuronMMError, match="exists and is not empty"):
            compress(model, output, options)
        assert os.listdir(output.parent) == ["out"]

    def test_another_process_is_kept_out(self, model, options, output, interrupt_compression):
        interrupt_compression(output, options)
        lock = lock_directory(hidden(output))
        with pytest.raises(NeuronMMError, match="Another process is writing .*/out. Wait for it"):
            compress(model, output, {**options, "seed": 5})
        assert [path.name.startswith(".") for path in hidden(output).iterdir() if path.name != "lock"] == [True]
        lock.close()


def test_from_pretrained(model, options, distilled, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "HF_HOME", str(tmp_path / "home"))
    settings = {name: value for name, value in options.items() if name != "recovery_data"}
    loaded = NeuronModelForCausalLM.from_pretrained(model, neuronmm={**settings, "target": "cpu"})
    [directory] = (tmp_path / "home" / "neuronmm").iterdir()
    assert json.loads((directory / "neuronmm_report.json").read_text())["recovery"]["improved"]
    expected = load_file(distilled.directory / "model.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    monkeypatch.setattr(cache, "compress", None)
    NeuronModelForCausalLM.from_pretrained(model, neuronmm={**settings, "target": "cpu"})
