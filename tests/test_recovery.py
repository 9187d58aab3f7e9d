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
"""`recover` from its inputs to its output: what it wins, what it leaves as it was, interrupted, and given bad input."""

import json
import math
import os
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_neuronmm import NeuronMMConfig, compress, load_report
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.perplexity import perplexity
from optimum_neuronmm.recovery import RecoveryConfig, recover
from optimum_neuronmm.recovery import run as run_module
from optimum_neuronmm.recovery import training as training_module
from optimum_neuronmm.recovery.objectives import Objective, divergence, label_loss
from optimum_neuronmm.recovery.training import Training

from .conftest import read_config, save_tiny_model


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A dense model of two layers in bfloat16 and several shards."""
    folder = tmp_path_factory.mktemp("small") / "dense"
    return save_tiny_model(
        folder, "qwen2", torch.bfloat16, hidden_size=64, intermediate_size=160, num_hidden_layers=2, shard_size="90KB"
    )


@pytest.fixture(scope="module")
def lossy(small, text_file, tmp_path_factory) -> Path:
    """`small`, compressed so much that there is something to win back."""
    output = tmp_path_factory.mktemp("lossy") / "compressed"
    options = {"compression_ratio": 0.3, "block_size": 32, "decomposition": "svd", "calibration": str(text_file)}
    compress(small, output, NeuronMMConfig(**options, calibration_samples=4, calibration_length=32))
    return output


@pytest.fixture
def options(text_file) -> dict:
    """Options of a recovery that takes half a second: 12 steps of 4 x 32 tokens."""
    return {
        "objective": "labels",
        "data": [str(text_file)],
        "tokens": 12 * 4 * 32,
        "sequence_length": 32,
        "batch_size": 4,
        "micro_batch_size": 4,
        "held_out": 3,
        "eval_every": 3,
        "save_every": 2,
        "learning_rate": 3e-3,
    }


@pytest.fixture
def spoil(monkeypatch):
    """`spoil(steps)`: measured after one of these steps (from 0), the model seems to have become much worse."""
    step, measured, now = Training._step, training_module.held_out_losses, [-1]

    def install(steps):
        def watched(self, *args):
            now[0] = self.progress.step
            return step(self, *args)

        def spoiled(*args):
            return [loss + (now[0] in steps) for loss in measured(*args)]

        now[0] = -1
        monkeypatch.setattr(Training, "_step", watched)
        monkeypatch.setattr(training_module, "held_out_losses", spoiled)

    return install


def checksums(directory: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in directory.iterdir() if path.is_file()}


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


def factor_names(directory: Path) -> set[str]:
    modules = read_config(directory)["quantization_config"]["modules"]
    return {f"{path}.{factor}.weight" for path in modules for factor in ("u", "v")}


def changed(before: Path, after: Path) -> set[str]:
    old, new = weights(before), weights(after)
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}


class TestResult:
    @pytest.fixture(scope="class")
    @staticmethod
    def recovered(small, lossy, text_file, tmp_path_factory):
        """Directory and report of a recovery with a teacher that is only measured."""
        output = tmp_path_factory.mktemp("recovered") / "a model"
        config = RecoveryConfig(
            objective="labels",
            data=[str(text_file)],
            tokens=12 * 4 * 32,
            sequence_length=32,
            batch_size=4,
            held_out=3,
            eval_every=5,
            learning_rate=3e-3,
        )
        before = checksums(lossy)
        report = recover(lossy, output, config, teacher=small)
        assert checksums(lossy) == before
        return output, report

    def test_the_loss_goes_down(self, recovered):
        _, report = recovered
        (held_out,) = report["recovery"]["held_out"]
        assert held_out["after"] < held_out["before"] - 0.3
        losses = [entry["loss"] for entry in report["recovery"]["log"][1:]]
        assert losses == sorted(losses, reverse=True)

    def test_only_the_factors_changed_and_the_form_is_the_same(self, recovered, lossy):
        output, _ = recovered
        assert changed(lossy, output) == factor_names(lossy)
        assert {path.name for path in output.iterdir()} == {path.name for path in lossy.iterdir()}
        before, after = checksums(lossy), checksums(output)
        shards = {path.name for path in lossy.glob("*.safetensors")}
        assert len(shards) == 3
        different = {name for name in before if before[name] != after[name]}
        assert different - shards == {"neuronmm_report.json", "README.md"}
        for name in shards:
            with safe_open(lossy / name, "pt") as old, safe_open(output / name, "pt") as new:
                assert old.metadata() == new.metadata() and list(old.keys()) == list(new.keys())
                for tensor in old.keys():
                    forms = [(f.get_slice(tensor).get_shape(), f.get_slice(tensor).get_dtype()) for f in (old, new)]
                    assert forms[0] == forms[1]
            assert (lossy / name).stat().st_size == (output / name).stat().st_size

    def test_the_loss_after_is_that_of_what_was_written(self, recovered, text_file):
        output, report = recovered
        tokens = AutoTokenizer.from_pretrained(output)(text_file.read_text(), return_tensors="pt").input_ids[0]
        windows = tokens[: 51 * 32].view(51, 32)[-3:]
        (held_out,) = report["recovery"]["held_out"]
        model = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32)
        with torch.no_grad():
            loss = label_loss(model(input_ids=windows).logits, windows).double().mean().item()
        assert held_out["after"] == pytest.approx(loss, rel=0, abs=2e-7)  # without rounding it would be 2e-6 off
        assert perplexity(model, windows) == pytest.approx(math.exp(held_out["after"]), rel=1e-5)

    def test_the_report_says_what_was_done(self, recovered, lossy, small, text_file):
        output, report = recovered
        assert load_report(output) == json.loads((output / "neuronmm_report.json").read_text()) == report
        before = load_report(lossy)
        assert {name: value for name, value in report.items() if name != "recovery"} == before
        entry = report["recovery"]
        assert entry["improved"] is True and entry["teacher"] == small.name and entry["processes"] == 1
        assert (entry["tokens"], entry["steps"], entry["best_step"]) == (12 * 4 * 32, 12, 12) and entry["seconds"] > 0
        (source,) = entry["sources"]
        assert (source["source"], source["windows"], source["held_out"]) == ("text.txt", 48, 3)
        assert len(source["sha256"]) == 64 and source["passes"] == 1.0
        assert entry["options"]["data"] == ["text.txt"] and str(text_file.parent) not in json.dumps(report["recovery"])
        assert entry["options"]["learning_rate"] == 3e-3 and entry["options"]["objective"] == "labels"
        assert [e["step"] for e in entry["log"]] == [0, 5, 10, 12]
        assert [e["tokens"] for e in entry["log"]] == [0, 640, 1280, 1536]
        (held_out,) = entry["held_out"]
        assert entry["log"][0]["held_out"] == [held_out["before"]]
        lost = held_out["before"] - held_out["dense"]
        expected = (held_out["before"] - held_out["after"]) / lost if lost > 0 else None
        assert held_out["won_back"] == pytest.approx(expected)
        json.dumps(report, allow_nan=False)

    def test_the_model_card_tells_of_it(self, recovered):
        output, report = recovered
        card = (output / "README.md").read_text()
        assert card.startswith("---\nlibrary_name") and "## Recovery" in card
        (held_out,) = report["recovery"]["held_out"]
        assert f"{torch.tensor(held_out['after']).exp().item():.2f}" in card.partition("## Recovery")[2]

    def test_it_can_be_recovered_again(self, recovered, options, tmp_path):
        output, report = recovered
        again = recover(output, tmp_path / "again", options)
        assert again["recovery"]["previous"] == report["recovery"]
        assert again["recovery"]["held_out"][0]["before"] < report["recovery"]["held_out"][0]["before"]


class TestOptions:
    @pytest.mark.parametrize("parameters", ["lora", "factors"])
    @pytest.mark.parametrize("order", ["joint", "sequential"])
    def test_every_recipe_learns(self, lossy, options, tmp_path, parameters, order):
        report = recover(lossy, tmp_path / "out", {**options, "parameters": parameters, "order": order})
        (held_out,) = report["recovery"]["held_out"]
        assert held_out["after"] < held_out["before"] - 0.1
        assert changed(lossy, tmp_path / "out") == factor_names(lossy)

    def test_u_is_trained_before_v(self, lossy, options, tmp_path, monkeypatch):
        moved = []
        step = Training._step

        def watched(self, *args):
            before = self._trained.merged()
            loss = step(self, *args)
            after = self._trained.merged()
            moved.append({name.split(".")[-2] for name in after if not torch.equal(before[name], after[name])})
            return loss

        monkeypatch.setattr(Training, "_step", watched)
        recover(lossy, tmp_path / "out", {**options, "order": "sequential"})
        assert moved == [{"u"}] * 6 + [{"v"}] * 6

    def test_distillation_brings_the_student_to_the_teacher(self, small, lossy, options, tmp_path):
        config = {**options, "objective": "distill", "tokens": 24 * 4 * 32, "hidden_weight": 0.01, "patience": 99}
        report = recover(lossy, tmp_path / "out", config, teacher=small)
        losses = [entry["loss"] for entry in report["recovery"]["log"][1:]]
        assert losses[-1] < 0.7 * losses[0]
        teacher, before, after = (
            AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
            for path in (small, lossy, tmp_path / "out")
        )
        if report["recovery"]["improved"]:
            tokens = torch.randint(0, 257, (4, 32), generator=torch.Generator().manual_seed(5))
            dense, old, new = (model(input_ids=tokens).logits for model in (teacher, before, after))
            assert divergence(new, dense).mean() < divergence(old, dense).mean()

    def test_forms_of_the_same_computation(self, lossy, options, tmp_path, monkeypatch):
        """Micro-batches and recomputed activations change rounding only."""
        from transformers import modeling_utils

        calls, original = [], modeling_utils.checkpoint

        def counted(*args, **kwargs):
            calls.append(kwargs.get("use_reentrant"))
            return original(*args, **kwargs)

        monkeypatch.setattr(modeling_utils, "checkpoint", counted)
        plain = recover(lossy, tmp_path / "plain", options)["recovery"]
        assert not calls
        other = {**options, "micro_batch_size": 2, "gradient_checkpointing": True}
        changed_form = recover(lossy, tmp_path / "other", other)["recovery"]
        assert calls and set(calls) == {False}
        for ours, theirs in zip(plain["log"], changed_form["log"], strict=True):
            assert ours["held_out"] == pytest.approx(theirs["held_out"], abs=2e-4)

    def test_recomputed_activations_see_no_dropout(self, lossy, options, tmp_path):
        for rate in (0.0, 0.5):
            source = shutil.copytree(lossy, tmp_path / f"model {rate}")
            config = json.loads((source / "config.json").read_text())
            (source / "config.json").write_text(json.dumps({**config, "attention_dropout": rate}))
            recover(source, tmp_path / f"out {rate}", {**options, "gradient_checkpointing": True})
        assert not changed(tmp_path / "out 0.0", tmp_path / "out 0.5")

    def test_gradients_are_scaled_down(self, lossy, options, tmp_path):
        # Far below the epsilon of AdamW, so that hardly anything moves.
        entry = recover(lossy, tmp_path / "out", {**options, "max_grad_norm": 1e-12})["recovery"]
        held_out = [measured["held_out"][0] for measured in entry["log"]]
        assert max(held_out) - min(held_out) < 1e-3

    def test_bfloat16(self, lossy, options, tmp_path):
        report = recover(lossy, tmp_path / "out", {**options, "dtype": "bfloat16"})
        (held_out,) = report["recovery"]["held_out"]
        assert held_out["after"] < held_out["before"] - 0.1

    def test_sources_are_mixed_and_reported_one_by_one(self, lossy, options, tmp_path, capsys):
        (tmp_path / "noise.txt").write_bytes(bytes(torch.randint(33, 126, (1000,)).tolist()))
        config = {**options, "data": [*options["data"], str(tmp_path / "noise.txt")]}
        report = recover(lossy, tmp_path / "out", config)
        entry = report["recovery"]
        assert [source["source"] for source in entry["held_out"]] == ["text.txt", "noise.txt"]
        assert [source["passes"] for source in entry["sources"]] == [1.0, 1.0]
        assert all(len(e["held_out"]) == 2 for e in entry["log"])
        assert capsys.readouterr().out.count("noise.txt  ") == 1

    def test_a_short_source_is_gone_through_again(self, lossy, options, tmp_path):
        (tmp_path / "short.txt").write_text("a tile of a matrix " * 20)
        report = recover(lossy, tmp_path / "out", {**options, "data": [str(tmp_path / "short.txt")]})
        (source,) = report["recovery"]["sources"]
        assert source["windows"] == 8 and source["passes"] == 6.0

    def test_patience_ends_a_training_and_the_best_is_kept(self, lossy, options, tmp_path, spoil):
        spoil(range(4, 99))
        report = recover(lossy, tmp_path / "out", {**options, "patience": 2, "eval_every": 1})
        entry = report["recovery"]
        assert entry["best_step"] == 4 and entry["steps"] == 6 and entry["tokens"] == 6 * 4 * 32
        (held_out,) = entry["held_out"]
        assert held_out["after"] == pytest.approx(entry["log"][4]["held_out"][0], abs=2e-3)  # factors are rounded
        assert held_out["after"] < entry["log"][6]["held_out"][0] - 0.01

    def test_patience_begins_anew_with_each_new_best(self, lossy, options, tmp_path, spoil):
        spoil((2, 6))
        report = recover(lossy, tmp_path / "out", {**options, "patience": 2, "eval_every": 1})
        assert report["recovery"]["steps"] == 12

    def test_each_phase_begins_from_the_best_of_the_one_before(self, lossy, options, tmp_path, spoil):
        spoil(range(3, 5))
        report = recover(lossy, tmp_path / "out", {**options, "patience": 2, "eval_every": 1, "order": "sequential"})
        entry = report["recovery"]
        assert [e["step"] for e in entry["log"]] == list(range(12))  # 5 steps of U, 6 of V
        held_out = [e["held_out"][0] for e in entry["log"]]
        assert held_out[5] > held_out[3] + 0.01 > held_out[6]

    @pytest.mark.parametrize("parameters", ["lora", "factors"])
    @pytest.mark.parametrize("model", ["lossy", "compressed_llama"])  # masters of float32 could be what is written
    def test_where_nothing_is_better_the_factors_stay(
        self, request, options, tmp_path, capsys, spoil, model, parameters
    ):
        spoil(range(99))
        directory = request.getfixturevalue(model)
        config = {**options, "patience": 1, "parameters": parameters}
        report = recover(directory, tmp_path / "out", config)
        assert changed(directory, tmp_path / "out") == set()
        assert report["recovery"]["improved"] is False and report["recovery"]["best_step"] == 0
        assert report["recovery"]["steps"] == 3
        (held_out,) = report["recovery"]["held_out"]
        assert held_out["after"] == held_out["before"]
        assert "made nothing better" in capsys.readouterr().out.splitlines()[-1]

    def test_where_rounding_undoes_what_was_better_the_factors_stay(self, lossy, options, tmp_path, monkeypatch):
        monkeypatch.setattr(run_module, "held_out_losses", lambda *args: [99.0])
        entry = recover(lossy, tmp_path / "out", options)["recovery"]
        assert entry["best_step"] > 0 and entry["improved"] is False
        assert entry["held_out"][0]["after"] == entry["held_out"][0]["before"] < 99
        assert changed(lossy, tmp_path / "out") == set()

    def test_every_window_is_trained_on_once_and_none_that_is_held_out(self, lossy, options, tmp_path, monkeypatch):
        call, seen = Objective.__call__, []

        def watched(self, model, tokens):
            seen.extend(map(tuple, tokens.tolist()))
            return call(self, model, tokens)

        monkeypatch.setattr(Objective, "__call__", watched)
        recover(lossy, tmp_path / "out", {**options, "micro_batch_size": 2, "order": "sequential"})
        text = Path(options["data"][0]).read_text()
        windows = AutoTokenizer.from_pretrained(lossy)(text, return_tensors="pt").input_ids[0, : 51 * 32].view(51, 32)
        assert sorted(seen) == sorted(map(tuple, windows[:48].tolist()))

    def test_the_seed_decides(self, lossy, options, tmp_path):
        runs = []
        for index, seed in enumerate((0, 0, 1)):
            torch.manual_seed(index)  # what the caller draws does not
            runs.append(recover(lossy, tmp_path / str(index), {**options, "seed": seed}))
        logs = [[entry["held_out"] for entry in run["recovery"]["log"]] for run in runs]
        assert logs[0] == logs[1] != logs[2]
        assert not changed(tmp_path / "0", tmp_path / "1")

    def test_the_callers_random_numbers_are_left_alone(self, lossy, options, tmp_path):
        torch.manual_seed(3)
        expected = torch.rand(4)
        torch.manual_seed(3)
        recover(lossy, tmp_path / "out", options)
        assert torch.equal(torch.rand(4), expected)


class TestInterrupted:
    @pytest.fixture
    def interrupt(self, monkeypatch):
        """`interrupt(n)`: the next recoveries are interrupted after n steps, as by Ctrl-C; None: no longer."""
        steps = []

        def install(after):
            step = getattr(Training._step, "original", Training._step)

            def interrupted(self, *args):
                if len(steps) == after:
                    raise KeyboardInterrupt
                steps.append(self.progress.step)
                return step(self, *args)

            steps.clear()
            interrupted.original = step
            monkeypatch.setattr(Training, "_step", interrupted)
            return steps

        return install

    @pytest.mark.parametrize("parameters", ["lora", "factors"])
    @pytest.mark.parametrize("order", ["joint", "sequential"])
    def test_resumed_it_gives_what_it_would_have_given(self, lossy, options, tmp_path, interrupt, parameters, order):
        config = {**options, "parameters": parameters, "order": order}
        whole = recover(lossy, tmp_path / "whole", config)["recovery"]
        for after in (5, 4):  # from step 4, then from step 8, which is in V's half
            interrupt(after)
            with pytest.raises(KeyboardInterrupt):
                recover(lossy, tmp_path / "out", config)
            assert not (tmp_path / "out").exists()
        steps = interrupt(None)
        again = recover(lossy, tmp_path / "out", config)["recovery"]
        assert steps == [8, 9, 10, 11]
        for name in ("held_out", "best_step", "tokens", "sources"):
            assert again[name] == whole[name]
        timeless = [[{**entry, "seconds": 0} for entry in run["log"]] for run in (again, whole)]
        assert timeless[0] == timeless[1]
        assert not changed(tmp_path / "whole", tmp_path / "out")
        assert not list(tmp_path.glob(".*"))

    def test_the_best_state_is_remembered(self, lossy, options, tmp_path, interrupt, spoil):
        """What was best before the interruption is written, if nothing after it was better."""
        config = {**options, "patience": 99, "eval_every": 4}
        spoil(range(4, 99))
        whole = recover(lossy, tmp_path / "whole", config)["recovery"]
        spoil(range(4, 99))
        interrupt(8)
        with pytest.raises(KeyboardInterrupt):
            recover(lossy, tmp_path / "out", config)
        steps = interrupt(None)
        assert recover(lossy, tmp_path / "out", config)["recovery"]["best_step"] == whole["best_step"] == 4
        assert steps[0] == 8 and not changed(tmp_path / "whole", tmp_path / "out")

    @pytest.mark.parametrize("change", [{"learning_rate": 1e-3}, {"seed": 1}, {"batch_size": 2}])
    def test_other_options_begin_anew_and_say_so(self, lossy, options, tmp_path, interrupt, caplog, change):
        interrupt(5)
        with pytest.raises(KeyboardInterrupt):
            recover(lossy, tmp_path / "out", options)
        steps = interrupt(None)
        with caplog.at_level("WARNING"):
            import logging

            logging.getLogger("transformers").addHandler(caplog.handler)
            recover(lossy, tmp_path / "out", {**options, **change})
        assert "starting anew" in caplog.text and steps[0] == 0

    def test_how_often_it_saves_may_change(self, lossy, options, tmp_path, interrupt, capsys):
        interrupt(5)
        with pytest.raises(KeyboardInterrupt):
            recover(lossy, tmp_path / "out", options)
        steps = interrupt(None)
        recover(lossy, tmp_path / "out", {**options, "save_every": 3})
        assert steps[0] == 4 and "Resuming the recovery" in capsys.readouterr().out

    def test_interrupted_while_it_writes(self, lossy, options, tmp_path, interrupt, monkeypatch):
        write = run_module.write_description

        def interrupted(*args):
            raise KeyboardInterrupt

        monkeypatch.setattr(run_module, "write_description", interrupted)
        with pytest.raises(KeyboardInterrupt):
            recover(lossy, tmp_path / "out", options)
        assert not (tmp_path / "out").exists()
        monkeypatch.setattr(run_module, "write_description", write)
        steps = interrupt(None)
        recover(lossy, tmp_path / "out", options)
        assert steps == [] and load_report(tmp_path / "out")["recovery"]["steps"] == 12


@pytest.fixture
def refuse(lossy, options, tmp_path):
    """`refuse(match, **changes)`: a recovery with changed options fails and leaves nothing."""
    (tmp_path / "some results").mkdir()

    def refuse(match, source=lossy, left=False, teacher=None, output=None, **changes):
        output = output or tmp_path / "some results" / "out"
        with pytest.raises(NeuronMMError, match=match):
            recover(source, output, {**options, **changes}, teacher=teacher)
        beside = [path.name for path in (tmp_path / "some results").iterdir()]
        assert beside == ([".out.neuronmm"] if left else [])

    return refuse


@pytest.fixture
def copy(lossy, tmp_path):
    """A compressed model that a test may damage."""
    return shutil.copytree(lossy, tmp_path / "a copy")


class TestBadInput:
    def test_no_directory(self, refuse, tmp_path):
        refuse("nowhere is not a directory", source=tmp_path / "nowhere")

    def test_a_dense_model(self, refuse, small):
        refuse("is not compressed. Expected the output of a compression", source=small)

    def test_no_config(self, refuse, copy):
        (copy / "config.json").unlink()
        refuse("config.json could not be read", source=copy)
        (copy / "config.json").write_text("[]")
        refuse("config.json could not be read", source=copy)

    def test_no_report(self, refuse, copy):
        (copy / "neuronmm_report.json").unlink()
        refuse("has no neuronmm_report.json", source=copy)

    def test_a_factor_is_missing(self, refuse, copy):
        name = sorted(factor_names(copy))[0]
        index = json.loads((copy / "model.safetensors.index.json").read_text())
        file = copy / index["weight_map"].pop(name)
        tensors = load_file(file)
        del tensors[name]
        save_file(tensors, file, metadata={"format": "pt"})
        (copy / "model.safetensors.index.json").write_text(json.dumps(index))
        refuse(f"lacks {name}, which config.json lists", source=copy)

    def test_weights_that_are_not_finite(self, refuse, copy):
        name = sorted(factor_names(copy))[0]
        index = json.loads((copy / "model.safetensors.index.json").read_text())
        tensors = load_file(copy / index["weight_map"][name])
        tensors[name][0, 0] = float("nan")
        save_file(tensors, copy / index["weight_map"][name], metadata={"format": "pt"})
        refuse("held-out loss on text.txt is not finite after step 0. The compressed model is", source=copy, left=True)

    def test_a_loss_that_is_not_finite(self, refuse, monkeypatch):
        call, steps = Objective.__call__, []

        def bad(self, model, tokens):
            steps.append(0)
            return call(self, model, tokens) * (float("nan") if len(steps) == 3 else 1)

        monkeypatch.setattr(Objective, "__call__", bad)
        refuse(r"The loss of step 3 of 12 is not finite. Try a lower learning_rate \(it is 0.003\)", left=True)

    def test_an_output_with_content(self, refuse, tmp_path):
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "thesis.txt").write_text("mine")
        refuse("full exists and is not empty", output=tmp_path / "full")

    def test_an_output_in_the_input(self, refuse, copy):
        before = checksums(copy)
        for output in (copy, copy / "below"):
            refuse("lies in the checkpoint that is read", source=copy, output=output)
        assert checksums(copy) == before and not (copy / "below").exists()

    def test_data(self, refuse, tmp_path):
        refuse("Unknown source of data 'wikitext'", data=["wikitext"])
        refuse("none.txt does not exist", data=[str(tmp_path / "none.txt")])
        (tmp_path / "short.txt").write_text("too short")
        refuse("9 tokens make 0 windows of 32, and 4 are needed", data=[str(tmp_path / "short.txt")])
        (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"txt": "not"}\n')
        refuse(r"bad.jsonl, line 2: expected a JSON object", data=[str(tmp_path / "bad.jsonl")])

    def test_windows_longer_than_the_model_takes(self, refuse):
        refuse("sequence_length must be at most 512, the max_position_embeddings", sequence_length=513, tokens=10**5)

    def test_a_tokenizer_of_another_model(self, refuse, copy, text_file, tmp_path):
        tokenizer = AutoTokenizer.from_pretrained(copy)
        tokenizer.add_tokens([f"word{index}" for index in range(20)])
        tokenizer.save_pretrained(copy)
        (tmp_path / "words.txt").write_text(text_file.read_text() + "word19 " * 200)
        refuse(
            "gives token 276, but the model knows 260", source=copy, data=[str(tmp_path / "words.txt")], tokens=10**6
        )

    def test_no_tokenizer(self, refuse, copy):
        for path in copy.glob("tokenizer*"):
            path.unlink()
        refuse("has no tokenizer that transformers can load", source=copy)


class TestTeacher:
    def test_one_that_lies_in_an_unknown_directory(self, refuse):
        refuse("names a directory, 'dense', not where it lies. Give it with --teacher", objective="distill")

    def test_one_on_the_hub_is_found_by_its_name(self, refuse, copy, monkeypatch):
        asked = []

        def open_dense(*args):
            asked.append(args)
            raise NeuronMMError("stop")

        monkeypatch.setattr(run_module, "open_dense", open_dense)
        report = json.loads((copy / "neuronmm_report.json").read_text())
        (copy / "neuronmm_report.json").write_text(json.dumps({**report, "model": "some/model", "revision": "abc"}))
        refuse("stop", source=copy, objective="distill")
        assert asked == [("some/model", "abc", None, None, False)]

    def test_one_that_is_compressed(self, refuse, lossy):
        refuse("is compressed already", teacher=lossy, objective="distill")

    def test_another_vocabulary(self, refuse, tmp_path):
        other = save_tiny_model(tmp_path / "other", vocab_size=270)
        refuse("has a vocabulary of 270, .* one of 260", teacher=other, objective="distill")

    def test_another_tokenizer(self, refuse, small, tmp_path):
        other = shutil.copytree(small, tmp_path / "other")
        content = json.loads((other / "tokenizer.json").read_text())
        vocabulary = content["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
        (other / "tokenizer.json").write_text(json.dumps(content))
        refuse("The tokenizer of the teacher .* is not that of", teacher=other, objective="distill")

    def test_another_shape_where_hidden_states_are_compared(self, refuse, tmp_path):
        other = save_tiny_model(tmp_path / "other")
        match = r"has \(layers, hidden size\) \(3, 96\), expected \(2, 64\)"
        refuse(match, teacher=other, objective="distill", hidden_weight=1.0)

    def test_without_a_tokenizer_it_teaches(self, small, lossy, options, tmp_path):
        other = shutil.copytree(small, tmp_path / "other")
        for path in other.glob("tokenizer*"):
            os.unlink(path)
        report = recover(lossy, tmp_path / "out", {**options, "objective": "distill"}, teacher=other)
        assert report["recovery"]["teacher"] == "other" and report["recovery"]["held_out"][0]["dense"] > 0
