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
"""Compiled models as directories and repositories: what is written, what is refused, and that nothing half is left."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from optimum.neuron import NeuronModelForCausalLM
from safetensors import safe_open

from optimum_neuronmm import NeuronMMError, auto
from optimum_neuronmm import NeuronModelForCausalLM as OurNeuronModelForCausalLM
from optimum_neuronmm.neuron import artifact
from optimum_neuronmm.workspace import hidden_path, lock_directory
from tests.neuron import harness
from tests.neuron.compressed import save_compressed


GREEDY = {"do_sample": False, "max_new_tokens": 4, "pad_token_id": 0, "eos_token_id": None}
DOORS = {"ours": OurNeuronModelForCausalLM, "optimum": NeuronModelForCausalLM}


def compile_checkpoint(checkpoint: Path, tp: int = 2, **options):
    shapes = {"batch_size": 1, "sequence_length": 64, "tensor_parallel_size": tp}
    return NeuronModelForCausalLM.from_pretrained(checkpoint, neuronmm=True, **shapes, **options)


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    return save_compressed(tiny(), tmp_path_factory.mktemp("artifacts") / "compressed")


@pytest.fixture(scope="module")
def model(checkpoint):
    return compile_checkpoint(checkpoint)


@pytest.fixture(scope="module")
def saved(model):
    directory = model._source.parent / "saved"
    model.save_pretrained(directory)
    return directory


@pytest.fixture
def directory(saved, tmp_path):
    """A copy of the saved model, to be damaged."""
    return shutil.copytree(saved, tmp_path / "artifact")


def generated(model) -> torch.Tensor:
    return model.generate(harness.tokens(), **GREEDY)


def files(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*"))


def shards(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "checkpoint/weights").iterdir())


class TestSaving:
    def test_everything_is_there(self, saved, checkpoint):
        written = json.loads((saved / "neuron_config.json").read_text())
        assert written["checkpoint_id"] is None and written["tp_degree"] == 2
        assert len(shards(saved)) == 2 and (saved / "model.pt").stat().st_size
        assert not list(saved.glob("*.safetensors")) and not list(saved.parent.glob(".*"))
        for name in ("tokenizer.json", "generation_config.json", "special_tokens_map.json"):
            assert (saved / name).read_bytes() == (checkpoint / name).read_bytes()

    @pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
    def test_it_loads(self, saved, model, door):
        loaded = door.from_pretrained(saved)
        assert torch.equal(generated(loaded), generated(model))

    def test_a_loaded_model_is_saved_with_its_weights(self, saved, model, tmp_path):
        loaded = NeuronModelForCausalLM.from_pretrained(saved)
        loaded.save_pretrained(tmp_path / "again")
        assert files(tmp_path / "again") == files(saved)
        for name in files(saved / "checkpoint/weights"):
            path = f"checkpoint/weights/{name}"
            assert (tmp_path / "again" / path).read_bytes() == (saved / path).read_bytes()
        assert torch.equal(generated(NeuronModelForCausalLM.from_pretrained(tmp_path / "again")), generated(model))

    def test_over_the_directory_that_it_came_from(self, directory, model):
        before = files(directory)
        NeuronModelForCausalLM.from_pretrained(directory).save_pretrained(directory)
        assert files(directory) == before
        assert torch.equal(generated(NeuronModelForCausalLM.from_pretrained(directory)), generated(model))

    @pytest.mark.parametrize("tp", [1, 4])
    def test_over_a_model_of_another_size(self, directory, checkpoint, model, tp):
        (directory / "notes.txt").write_text("mine")
        (directory / "sub").mkdir()
        compile_checkpoint(checkpoint, tp).save_pretrained(directory)
        assert shards(directory) == [f"tp{rank}_sharded_checkpoint.safetensors" for rank in range(tp)]
        assert (directory / "notes.txt").read_text() == "mine" and (directory / "sub").is_dir()
        assert torch.equal(generated(NeuronModelForCausalLM.from_pretrained(directory)), generated(model))

    def test_a_directory_beside_which_nothing_can_be_written(self, model, saved, tmp_path, monkeypatch):
        (tmp_path / "mounted").mkdir()
        rename = os.rename

        def refuse(source, target):
            if Path(target) == tmp_path / "mounted":
                raise OSError(errno.EBUSY, "Device or resource busy")
            rename(source, target)

        monkeypatch.setattr(os, "rename", refuse)
        monkeypatch.setattr(artifact, "lock_directory", inside_only(tmp_path / "mounted"))
        model.save_pretrained(tmp_path / "mounted")
        assert files(tmp_path / "mounted") == files(saved)

    @pytest.mark.parametrize(
        "name", ["with space", "quote'\"", "ünïcödé", "$(touch pwned)", "new\nline", "-dash", "a" * 255, "語" * 85]
    )
    def test_names(self, model, saved, tmp_path, monkeypatch, name):
        monkeypatch.chdir(tmp_path)
        model.save_pretrained(name)
        assert os.listdir(tmp_path) == [name] and files(tmp_path / name) == files(saved)
        assert NeuronModelForCausalLM.from_pretrained(tmp_path / name)._source == tmp_path / name

    def test_below_directories_that_do_not_exist(self, model, saved, tmp_path):
        model.save_pretrained(tmp_path / "a/b/c")
        assert files(tmp_path / "a/b/c") == files(saved) and os.listdir(tmp_path / "a/b") == ["c"]

    def test_it_is_a_model_only_at_the_end(self, model, directory, monkeypatch):
        order, replace = [], os.replace

        def record(source, target):
            assert not (directory / "config.json").exists()
            order.append(Path(target).relative_to(directory).as_posix())
            replace(source, target)

        monkeypatch.setattr(artifact.os, "replace", record)
        model.save_pretrained(directory)
        assert order[-1] == "config.json" and order.count("config.json") == 1 and "model.pt" in order

    @pytest.mark.parametrize("exists", [True, False])
    def test_through_a_link(self, model, saved, tmp_path, exists):
        if exists:
            (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        model.save_pretrained(tmp_path / "link")
        assert (tmp_path / "link").is_symlink() and files(tmp_path / "real") == files(saved)

    def test_after_a_change_of_directory(self, checkpoint, saved, tmp_path, monkeypatch):
        monkeypatch.chdir(checkpoint.parent)
        model = compile_checkpoint(Path(checkpoint.name))
        monkeypatch.chdir(tmp_path)
        model.save_pretrained("out")
        assert files(tmp_path / "out") == files(saved)

    def test_twice_at_once(self, model, saved, tmp_path):
        loaded = NeuronModelForCausalLM.from_pretrained(saved)  # shards are cut in a state that a process has once
        errors = []

        def save():
            try:
                loaded.save_pretrained(tmp_path / "out")
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=save) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors and files(tmp_path / "out") == files(saved)
        assert torch.equal(generated(NeuronModelForCausalLM.from_pretrained(tmp_path / "out")), generated(model))

    def test_the_model_card(self, tiny, quick_options, tmp_path, monkeypatch):
        from optimum_neuronmm import cache

        monkeypatch.setattr(cache, "HF_HOME", str(tmp_path / "home"))
        options = {"sequence_length": 64, "tensor_parallel_size": 2}
        NeuronModelForCausalLM.from_pretrained(tiny(), neuronmm=quick_options, **options).save_pretrained(
            tmp_path / "out"
        )
        card = (tmp_path / "out/README.md").read_text()
        assert "compiled for AWS Neuron" in card and "](neuronmm_ranks.png)" in card
        [compressed] = (tmp_path / "home" / "neuronmm").iterdir()
        for name in ("neuronmm_report.json", "neuronmm_ranks.png"):
            assert (tmp_path / "out" / name).read_bytes() == (compressed / name).read_bytes()


def inside_only(folder: Path):
    """`lock_directory` where only `folder` may be written."""

    def make(directory, **options):
        if directory.parent != folder:
            raise PermissionError(errno.EACCES, "Permission denied")
        return lock_directory(directory, **options)

    return make


# Dies while everything is written and nothing is in place.
KILLED = """
import os, signal, sys
from optimum_neuronmm import NeuronModelForCausalLM
from optimum_neuronmm.neuron import artifact
artifact._add_companions = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
NeuronModelForCausalLM.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])
"""


@pytest.mark.parametrize("exists", [False, True])
def test_what_a_killed_save_left_is_removed_by_the_next(model, saved, tmp_path, child_environment, exists):
    output = tmp_path / "out"
    if exists:
        output.mkdir()
    command = [sys.executable, "-c", KILLED, saved, output]
    root = Path(__file__).resolve().parents[2]
    killed = subprocess.run(command, env=child_environment(), cwd=root, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = (output if exists else tmp_path).iterdir()
    assert left.name.startswith(".out-") and (left / "model/model.pt").is_file()
    model.save_pretrained(output)
    assert os.listdir(tmp_path) == ["out"] and files(output) == files(saved)


def test_a_save_waits_for_another_to_the_same_place(model, saved, tmp_path, caplog, monkeypatch):
    """What the other has written so far stays until it lets go."""
    hidden = hidden_path(tmp_path / "out", tmp_path, "save")
    lock = lock_directory(hidden)
    (hidden / "model").mkdir()
    waiting = threading.Thread(target=model.save_pretrained, args=(tmp_path / "out",))
    waiting.start()
    deadline = time.monotonic() + 20
    while "Another process saves a model to" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)
    assert waiting.is_alive() and (hidden / "model").is_dir()
    lock.close()
    waiting.join()
    assert os.listdir(tmp_path) == ["out"] and files(tmp_path / "out") == files(saved)


def test_other_files_among_the_weights_stay(directory, model):
    weights = directory / "checkpoint/weights"
    (weights / "notes.txt").write_text("mine")
    (weights / "sub").mkdir()
    (weights / "tp7_sharded_checkpoint.safetensors").write_text("of an earlier model")
    model.save_pretrained(directory)
    own = [f"tp{rank}_sharded_checkpoint.safetensors" for rank in range(2)]
    assert shards(directory) == ["notes.txt", "sub", *own]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_who_may_read_it_is_for_the_umask_to_say(model, saved, tmp_path, mask):
    before = os.umask(mask)
    try:
        model.save_pretrained(tmp_path / "compiled")
        NeuronModelForCausalLM.from_pretrained(saved).save_pretrained(tmp_path / "loaded")
    finally:
        os.umask(before)
    for name in ("compiled", "loaded"):
        written = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        assert {path.stat().st_mode & 0o777 for path in written} == {0o666 & ~mask}


class TestSavingRefused:
    @pytest.fixture(autouse=True)
    def nothing_is_left(self, tmp_path):
        (tmp_path / "there").mkdir()
        yield
        assert [name for name in os.listdir(tmp_path) if name != "file"] == ["there"]
        assert os.listdir(tmp_path / "there") == []

    def test_a_file(self, model, tmp_path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(NeuronMMError, match="file is a file: expected a directory"):
            model.save_pretrained(tmp_path / "file")
        with pytest.raises(NeuronMMError, match="cannot be written: .*file"):
            model.save_pretrained(tmp_path / "file/below")
        assert (tmp_path / "file").read_text() == "mine"

    def test_no_permission(self, model, tmp_path, monkeypatch):
        monkeypatch.setattr(artifact, "lock_directory", inside_only(tmp_path / "no"))
        for name in ("out", "there"):
            with pytest.raises(NeuronMMError, match=f"{name} cannot be written: Permission denied"):
                model.save_pretrained(tmp_path / name)

    @pytest.mark.parametrize("name", ["out", "there"])
    def test_a_full_disk(self, model, tmp_path, monkeypatch, name):
        def full(*args, **kwargs):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(artifact.shutil, "copyfile", full)
        with pytest.raises(NeuronMMError, match="No space left on the disk"):
            model.save_pretrained(tmp_path / name)

    def test_an_interruption(self, model, tmp_path, monkeypatch):
        monkeypatch.setattr(artifact, "_add_companions", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        for name in ("out", "there"):
            with pytest.raises(KeyboardInterrupt):
                model.save_pretrained(tmp_path / name)

    def test_weights_that_are_gone(self, checkpoint, tmp_path):
        copied = shutil.copytree(checkpoint, tmp_path / "copy")
        model = compile_checkpoint(copied)
        shutil.rmtree(copied)
        with pytest.raises(NeuronMMError, match="weights were in .*copy, which is gone: compile the model again"):
            model.save_pretrained(tmp_path / "out")


class TestLoadingRefused:
    @pytest.fixture(params=DOORS.values(), ids=DOORS)
    def refused(self, request, directory):
        """`refused(match)`: loading the damaged copy says so, and leaves it as it is."""

        def refused(match, kind=NeuronMMError, **options):
            before = files(directory)
            with pytest.raises(kind, match=match):
                request.param.from_pretrained(directory, **options)
            assert files(directory) == before

        return refused

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            (
                {"batch_size": 2},
                "batch_size=2 was asked for, but .*artifact is compiled for 1. Leave it out, or compile",
            ),
            ({"sequence_length": 128}, "sequence_length=128 was asked for, but .* is compiled for 64"),
            ({"tensor_parallel_size": 1}, "tensor_parallel_size=1 was asked for, but .* is compiled for 2"),
            ({"batch_size": True}, "batch_size=True was asked for, but .* is compiled for 1"),
            ({"instance_type": "trn2"}, "instance_type=trn2 was asked for, but .* is compiled for trn1"),
            ({"instance_type": "gpu"}, "instance_type must be one of"),
            ({"dtype": "bfloat16"}, "dtype=bfloat16 was asked for, but .* is compiled for float32"),
            ({"torch_dtype": torch.float16}, "torch_dtype=torch.float16 was asked for"),
        ],
    )
    def test_arguments(self, refused, options, match):
        refused(match, **options)

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"optimum_neuron_version": "0.3.0"}, "with optimum-neuron 0.3.0, and 0.4.5 is installed here: compile"),
            ({"neuronxcc_version": "1.0"}, "with neuronxcc 1.0, and .* is installed here.*or install that version"),
            ({"tp_degree": None}, "positive integer tp_degree, got None"),
            ({"tp_degree": "2"}, "positive integer tp_degree, got '2'"),
            ({"local_ranks_size": "2"}, "integers for its ranks"),
            ({"local_ranks_size": 10**10}, "local_ranks_size 10000000000: expected some of the ranks 0 to 1"),
            (
                {"start_rank_id": 1, "local_ranks_size": 1},
                "the part of a model for ranks 1 to 1 of 2: expected one with",
            ),
            ({"tp_degree": 4, "local_ranks_size": 4}, "lacks checkpoint/weights/tp2_sharded_checkpoint.safetensors"),
        ],
    )
    def test_neuron_config(self, refused, directory, change, match):
        path = directory / "neuron_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        refused(match)

    @pytest.mark.parametrize(
        ("content", "match"), [("{", "cannot be read"), ("[]", "must hold a JSON object, got list")]
    )
    def test_a_damaged_neuron_config(self, refused, directory, content, match):
        (directory / "neuron_config.json").write_text(content)
        refused(f"neuron_config.json of .* {match}.* Compile the model again")

    def test_a_damaged_config(self, refused, directory):
        (directory / "config.json").write_text("{")
        refused("not a valid JSON file", kind=(OSError, NeuronMMError))

    @pytest.mark.parametrize("name", ["model.pt", "checkpoint/weights/tp1_sharded_checkpoint.safetensors"])
    @pytest.mark.parametrize("empty", [False, True])
    def test_a_file_that_is_missing(self, refused, directory, name, empty):
        (directory / name).write_bytes(b"") if empty else (directory / name).unlink()
        refused(f"lacks {name}: it is not a whole compiled model")

    @pytest.mark.parametrize("bytes", [4, 100, -1])
    def test_a_truncated_shard(self, refused, directory, bytes):
        path = directory / "checkpoint/weights/tp1_sharded_checkpoint.safetensors"
        path.write_bytes(path.read_bytes()[:bytes])
        refused("tp1_sharded_checkpoint.safetensors is damaged or incomplete .*Fetch or compile it again")

    def test_shards_of_each_other(self, refused, directory):
        first, second = (directory / f"checkpoint/weights/tp{rank}_sharded_checkpoint.safetensors" for rank in (0, 1))
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
        refused("tp0_sharded_checkpoint.safetensors holds the weights of rank 1: expected those of rank 0")

    def test_graphs_that_are_none(self, refused, directory):
        (directory / "model.pt").write_bytes(b"junk" * 1000)
        refused("artifact could not be loaded .RuntimeError: .*model.pt may be damaged: fetch or compile it again")

    def test_too_few_cores(self, refused, machine):
        machine("trn1", 1)
        refused("is compiled for 2 Neuron cores, and there are 1 here")

    @pytest.mark.standins
    def test_another_machine(self, refused, monkeypatch):
        monkeypatch.setenv("NEURON_STANDIN_MACHINE", "trn2:4")
        refused("is compiled for trn1, and this is a trn2")

    @pytest.mark.standins
    def test_no_machine(self, refused, monkeypatch):
        monkeypatch.delenv("NEURON_STANDIN_MACHINE")
        refused("runs on a Trainium or Inferentia instance only, and this is none")


def test_arguments_that_are_those_of_the_compilation(directory):
    options = {"batch_size": 1, "sequence_length": 64, "tensor_parallel_size": 2, "dtype": "float32"}
    for dtype in ({}, {"torch_dtype": torch.float32}, {"torch_dtype": "auto"}):
        NeuronModelForCausalLM.from_pretrained(directory, instance_type="inf2", **{**options, **dtype})


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_neuronmm_on_what_is_compiled_already(saved, caplog, door):
    assert door.from_pretrained(saved, neuronmm={"compression_ratio": 0.5}).neuron_config.tp_degree == 2
    assert "is compressed and compiled already: its own settings apply" in caplog.text


def test_without_the_sdk_it_is_refused(saved, monkeypatch):
    monkeypatch.setattr(auto, "has_neuron_sdk", lambda: False)
    with pytest.raises(NeuronMMError, match="compiled model.* needs the Neuron SDK .*not installed here"):
        OurNeuronModelForCausalLM.from_pretrained(saved)


def test_the_weights_are_those_of_the_checkpoint_and_no_others(saved, checkpoint):
    with safe_open(saved / "checkpoint/weights/tp0_sharded_checkpoint.safetensors", "pt") as shard:
        names = set(shard.keys())
    assert any("mlp.gate_v.weight" in name for name in names) and not any("mlp.gate_proj" in name for name in names)


# What loads a directory where this package is not registered. Unpickling what stands in for a NEFF imports its code.
STOCK = """
import sys
from optimum.neuron.models.inference import auto_models
assert "optimum_neuronmm" not in sys.modules, "the package is imported"
from optimum.neuron import NeuronModelForCausalLM
from tests.neuron.harness import tokens
model = NeuronModelForCausalLM.from_pretrained(sys.argv[1])
assert type(model).__module__.startswith("optimum.neuron."), type(model)
print(model.generate(tokens(), do_sample=False, max_new_tokens=4, pad_token_id=0, eos_token_id=None).tolist())
"""


@pytest.mark.parametrize("flags", [[], ["-O"]])
def test_without_this_package(saved, model, child_environment, flags):
    result = subprocess.run(
        [sys.executable, *flags, "-c", STOCK, saved],
        env=child_environment(),
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == generated(model).tolist()
