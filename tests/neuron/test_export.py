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
"""`optimum-cli export neuron --neuronmm`, whole, in processes of its own, and what the child process does."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from optimum.neuron import NeuronModelForCausalLM
from safetensors.torch import load_file

from optimum_neuronmm import NeuronMMConfig, NeuronMMError, cache
from optimum_neuronmm.neuron import loading
from optimum_neuronmm.neuron.export import export
from tests.neuron import environment, harness
from tests.neuron.compressed import save_compressed


TOKEN = "hf_" + "aTokenThatIsEasyToRecognise0123456789"  # in two, so that no scanner takes it for one
GREEDY = {"do_sample": False, "max_new_tokens": 4, "pad_token_id": 0, "eos_token_id": None}
CLI = [sys.executable, "-c", "from optimum.commands.optimum_cli import main; main()", "export", "neuron"]
OPTIONS = {"instance_type": "trn1", "sequence_length": 64, "tensor_parallel_size": 2}
SHAPES = ["--batch_size", "1", "--sequence_length", "64", "--instance_type", "trn1"]


@pytest.fixture
def arguments(tmp_path, quick_options):
    """What a command starts with, and a place for it to work in. Its home lies elsewhere."""
    flags = [item for name, value in quick_options.items() for item in (f"--neuronmm_{name}", str(value))]
    (tmp_path / "work").mkdir()
    return [*CLI, *SHAPES, "--neuronmm", *flags]


@pytest.fixture
def variables(tmp_path, child_environment):
    paths = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(environment.ROOT)])
    return child_environment(HF_HOME=str(tmp_path / "home"), HF_TOKEN=TOKEN, PYTHONPATH=paths)


@pytest.fixture
def cli(arguments, variables, tmp_path):
    """Runs the command. No output may show the token."""

    def cli(model, output="out", *flags, **changes) -> subprocess.CompletedProcess:
        result = subprocess.run(
            [*arguments, "-m", str(model), str(output), *map(str, flags)],
            env=variables | changes,
            cwd=tmp_path / "work",
            capture_output=True,
            text=True,
            check=False,
        )
        assert TOKEN not in result.stdout + result.stderr
        return result

    return cli


@pytest.fixture
def fails(tmp_path, monkeypatch):
    """The error with which the child's work fails. Nothing is left that was not there before, and nothing compressed."""
    monkeypatch.setattr(cache, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    def fails(model, output="out", **options) -> str:
        before = sorted(tmp_path.rglob("*"))
        neuronmm = NeuronMMConfig(**options.pop("neuronmm", {}))
        options = {"instance_type": "trn1", "sequence_length": 64, "tensor_parallel_size": 1, **options}
        with pytest.raises(NeuronMMError) as failure:
            export(str(model), tmp_path / "work" / output, neuronmm, **options)
        assert sorted(tmp_path.rglob("*")) == before
        assert TOKEN not in str(failure.value) and len(str(failure.value)) < 600
        return str(failure.value)

    (tmp_path / "work").mkdir()
    return fails


@pytest.fixture
def compressed(tiny, tmp_path):
    return save_compressed(tiny(), tmp_path / "compressed")


def config_of(directory: Path) -> dict:
    return json.loads((directory / "neuron_config.json").read_text())


@pytest.mark.parametrize(("family", "tp"), [("llama", 2), ("phi3", 1)])
def test_from_a_dense_model(cli, tiny, tmp_path, family, tp):
    output = tmp_path / "work" / "out"
    result = cli(tiny(family), "out", "--tensor_parallel_size", tp, "--torch_dtype", "float32")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "ratio removed" in result.stdout and f"tensor parallel size {tp}" in result.stdout
    assert result.stdout.splitlines()[-1] == f"  model = NeuronModelForCausalLM.from_pretrained({str(output)!r})"
    (checkpoint,) = (tmp_path / "home/neuronmm").iterdir()
    assert os.listdir(tmp_path / "work") == ["out"] and config_of(output)["checkpoint_id"] is None
    tokens = harness.tokens()
    expected = harness.load_torch(checkpoint).generate(tokens, **GREEDY)
    model = NeuronModelForCausalLM.from_pretrained(output)
    assert torch.equal(model.generate(tokens, **GREEDY), expected)


def test_from_a_compressed_checkpoint_with_everything_that_can_be_chosen(cli, compressed, tmp_path):
    name = "a dir with 'quotes', \"more\", $(touch pwned); `touch pwned`, ünïcödé\nand lines"
    odd = shutil.copytree(compressed, tmp_path / "work" / f"from {name}")
    output = tmp_path / "work" / f"to {name}"
    flags = (
        "--tensor_parallel_size",
        4,
        "--torch_dtype",
        "bfloat16",
        "--batch_size",
        2,
        "--neuronmm_layout",
        "sharded",
        "--neuronmm_sampling",
        "host",
    )
    result = cli(odd.name, output.name, *flags)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (
        "of the options, kernel, layout, sampling and dtype count" in result.stderr
        and "ratio removed" not in result.stdout
    )
    assert {path.name for path in (tmp_path / "work").iterdir()} == {odd.name, output.name}
    assert not (tmp_path / "home/neuronmm").exists()
    written = config_of(output)
    assert [written[key] for key in ("tp_degree", "torch_dtype", "batch_size")] == [4, "bfloat16", 2]
    assert written["on_device_sampling"] is False and "on the host: the model returns logits" in result.stdout
    shard = load_file(output / "checkpoint/weights/tp3_sharded_checkpoint.safetensors")
    assert {tensor.dtype for tensor in shard.values() if tensor.is_floating_point()} == {torch.bfloat16}
    compilation = json.loads((output / "config.json").read_text())["quantization_config"]["compilation"]
    assert compilation["layouts"] == ["sharded"] * 2


def test_from_a_link_to_a_link(compressed, tmp_path):
    (tmp_path / "model").symlink_to(compressed)
    (tmp_path / "out").symlink_to(tmp_path / "real")
    (tmp_path / "real").mkdir()
    export(str(tmp_path / "model"), tmp_path / "out", NeuronMMConfig(), **OPTIONS)
    assert (tmp_path / "out").is_symlink() and (tmp_path / "real/model.pt").is_file()


@pytest.mark.standins
def test_an_error_is_one_line_and_names_no_token(cli, tmp_path):
    (tmp_path / "broken/neuronxcc").mkdir(parents=True)
    (tmp_path / "broken/neuronxcc/__init__.py").write_text("raise RuntimeError('a placeholder')")
    paths = os.pathsep.join([str(tmp_path / "broken"), os.environ["PYTHONPATH"], str(environment.ROOT)])
    result = cli("no-such/model", PYTHONPATH=paths)
    assert result.returncode == 1 and "Traceback" not in result.stderr and os.listdir(tmp_path / "work") == []
    assert result.stderr.splitlines()[-1].startswith(
        "error: neuronx-cc cannot be imported (a placeholder). Compiling needs the Neuron SDK: install it"
    )


class TestOthersThatWrite:
    """While one export compiles, others come to the same output."""

    @pytest.fixture
    def meanwhile(self, monkeypatch):
        """`meanwhile(act)`: calls `act` once, where the compilation has just ended."""

        def meanwhile(act):
            compile_model = loading.compile_model

            def compile_and_act(*args, **options):
                model = compile_model(*args, **options)
                monkeypatch.setattr(loading, "compile_model", compile_model)
                act()
                return model

            monkeypatch.setattr(loading, "compile_model", compile_and_act)

        return meanwhile

    def test_a_second_export(self, compressed, tmp_path, meanwhile):
        def again():
            with pytest.raises(NeuronMMError, match="Another process is writing .*out. Wait for it, or choose"):
                export(str(compressed), tmp_path / "out", NeuronMMConfig(), **OPTIONS)
            export(str(compressed), tmp_path / "other", NeuronMMConfig(), **OPTIONS)

        meanwhile(again)
        export(str(compressed), tmp_path / "out", NeuronMMConfig(), **OPTIONS)
        assert sorted(os.listdir(tmp_path)) == ["compressed", "other", "out"]

    @pytest.mark.parametrize("existed", [False, True])
    def test_files_that_came_to_be(self, compressed, tmp_path, meanwhile, existed):
        output = tmp_path / "out"
        if existed:
            output.mkdir()

        def write():
            output.mkdir(exist_ok=True)
            (output / "config.json").write_text("mine")

        meanwhile(write)
        with pytest.raises(
            NeuronMMError,
            match="out did not exist or was empty when .* another output, .*the compressed model is kept",
        ):
            export(str(compressed), output, NeuronMMConfig(), **OPTIONS)
        assert sorted(os.listdir(tmp_path)) == ["compressed", "out"] and os.listdir(output) == ["config.json"]
        assert (output / "config.json").read_text() == "mine"

    def test_a_file_that_came_to_be(self, compressed, tmp_path, meanwhile):
        meanwhile(lambda: (tmp_path / "out").write_text("mine"))
        with pytest.raises(NeuronMMError, match="out did not exist or was empty when .*Not a directory"):
            export(str(compressed), tmp_path / "out", NeuronMMConfig(), **OPTIONS)
        assert (tmp_path / "out").read_text() == "mine"

    def test_into_an_empty_directory(self, compressed, tmp_path):
        (tmp_path / "out").mkdir()
        export(str(compressed), tmp_path / "out", NeuronMMConfig(), **OPTIONS)
        assert (tmp_path / "out/model.pt").is_file() and not list((tmp_path / "out").glob(".*"))


class TestRefused:
    def test_before_the_model_is_read(self, fails, tmp_path):
        work = tmp_path / "work"
        (work / "full").mkdir()
        (work / "full/notes.txt").write_text("mine")
        (work / "file").write_text("mine")
        assert "full exists and is not empty" in fails("nowhere", "full")
        assert "file exists and is not empty" in fails("nowhere", "file")
        assert "cannot be created" in fails("nowhere", "file/below")

    def test_what_is_no_decoder(self, fails, tiny, tmp_path):
        for model_type, message in {
            "bert": "Model type 'bert' is not supported",
            "t5": "Model type 't5' is not supported",
            "qwen3_moe": "qwen3_moe is a mixture of experts",
            "mistral": "optimum-neuron cannot compile a mistral, although its MLPs can be compressed",
        }.items():
            directory = shutil.copytree(tiny(), tmp_path / model_type)
            config = json.loads((directory / "config.json").read_text()) | {"model_type": model_type}
            (directory / "config.json").write_text(json.dumps(config))
            assert message in fails(directory)

    def test_models_that_are_none(self, fails, tmp_path):
        (tmp_path / "diffusion").mkdir()
        (tmp_path / "diffusion/model_index.json").write_text("{}")
        assert "it is a diffusion pipeline" in fails(tmp_path / "diffusion")
        assert "no-such/model cannot be used" in fails("no-such/model")

    def test_what_is_compiled_already(self, fails, compressed, tiny, tmp_path):
        compiled = NeuronModelForCausalLM.from_pretrained(compressed, neuronmm=True, tensor_parallel_size=1)
        compiled.save_pretrained(tmp_path / "compiled")
        assert "compiled is compiled already: pass the model that it was compiled from" in fails(tmp_path / "compiled")
        harness.export(tiny()).save_pretrained(tmp_path / "dense")
        assert "dense is compiled already" in fails(tmp_path / "dense")

    def test_values(self, fails, tiny):
        assert "batch_size must be a positive integer, got 0" in fails(tiny(), batch_size=0)
        model = tiny(num_attention_heads=6, num_key_value_heads=2)
        assert "divide the 2 key-value heads" in fails(model, tensor_parallel_size=3)
        assert "kernel='nki' was asked for" in fails(tiny(), neuronmm={"kernel": "nki"})
        assert "none.txt does not exist" in fails(tiny(), neuronmm={"calibration": "none.txt"})

    @pytest.mark.standins
    def test_no_instance_type_without_a_device(self, fails, tiny):
        assert "no Neuron device here: say what to compile for with --instance_type" in fails(
            tiny(), instance_type=None
        )

    def test_factors_that_do_not_fit_config_json(self, fails, compressed):
        path = compressed / "config.json"
        config = json.loads(path.read_text())
        config["quantization_config"]["modules"]["model.layers.1.mlp.up_proj"]["rank"] = 64
        path.write_text(json.dumps(config))
        assert "model.layers.1.mlp.up_proj.u.weight of" in fails(compressed)

    def test_a_truncated_checkpoint(self, fails, compressed):
        path = compressed / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-10])
        assert "model.safetensors of" in (message := fails(compressed)) and "damaged or incomplete" in message

    def test_a_damaged_report(self, fails, compressed):
        (compressed / "neuronmm_report.json").write_text("{")
        assert "neuronmm_report.json" in fails(compressed)


@pytest.mark.standins
def test_the_target_is_set_before_the_sdk_is_imported(child_environment):
    script = """
import os, sys
from optimum_neuronmm.neuron import export
export.require_sdk("optimum.neuron")
for name in ("trn1", "trn2", "trn1n", "trn2", "inf2"):
    export._set_target(name)
    print(os.environ["NEURON_PLATFORM_TARGET_OVERRIDE"])
assert not {"neuronx_distributed", "torch_neuronx", "torch._dynamo"} & set(sys.modules)
"""
    command = [sys.executable, "-c", script]
    result = subprocess.run(
        command, env=child_environment(), cwd=environment.ROOT, capture_output=True, text=True, check=False
    )
    assert result.stdout.split() == ["trn1", "trn2", "trn1", "trn2", "trn1"], result.stderr


@pytest.mark.standins
def test_another_instance(compressed, tmp_path, monkeypatch):
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn1")
    export(str(compressed), tmp_path / "out", NeuronMMConfig(), **{**OPTIONS, "instance_type": "trn2"})
    assert config_of(tmp_path / "out")["target"] == "trn2"
    assert os.environ["NEURON_PLATFORM_TARGET_OVERRIDE"] == "trn2"


def test_more_ranks_than_cores_here(compressed, tmp_path, machine):
    machine("trn1", 1)
    export(str(compressed), tmp_path / "out", NeuronMMConfig(), **{**OPTIONS, "tensor_parallel_size": 4})
    with pytest.raises(NeuronMMError, match="compiled for 4 Neuron cores, and there are 1 here"):
        NeuronModelForCausalLM.from_pretrained(tmp_path / "out")


def test_a_full_disk(compressed, tmp_path, monkeypatch):
    from optimum_neuronmm.neuron import artifact

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact.shutil, "copyfile", full)
    before = os.listdir(tmp_path)
    with pytest.raises(NeuronMMError, match="No space left on the disk"):
        export(str(compressed), tmp_path / "out", NeuronMMConfig(), **OPTIONS)
    assert os.listdir(tmp_path) == before


# Keeps the child compiling until it is told to end, without a change to what it does then.
SLOW = """
import os, time
from pathlib import Path
import optimum_neuronmm.neuron.artifact as artifact
write = artifact._add_companions
def wait(*args):
    Path(os.environ["REACHED"]).write_text(str(os.getpid()))
    time.sleep(30)
    write(*args)
artifact._add_companions = wait
"""


class TestEnding:
    """While everything is written beside the output: the worst moment."""

    @pytest.fixture
    def started(self, arguments, variables, tiny, tmp_path):
        """The running command, the process id of its child, and what is started instead to try again."""
        (tmp_path / "slow").mkdir()
        (tmp_path / "slow/slow.py").write_text(SLOW)
        code = "import slow; from optimum_neuronmm.commands.child import main; import sys; main(sys.argv[1])"
        (tmp_path / "slow/slow_child.py").write_text(code)
        # The command with the slow child in place of the child.
        patched = (
            "import optimum_neuronmm.commands.compilation as c; c.MODULE = 'slow_child'; "
            "from optimum.commands.optimum_cli import main; main()"
        )
        command = [arguments[0], "-c", patched, *arguments[3:], "-m", str(tiny()), "out"]
        paths = os.pathsep.join([str(tmp_path / "slow"), variables["PYTHONPATH"]])
        reached = tmp_path / "reached"
        process = subprocess.Popen(
            command,
            env=variables | {"PYTHONPATH": paths, "REACHED": str(reached)},
            cwd=tmp_path / "work",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A background job would not hear it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 60
        while not (reached.exists() and reached.read_text()) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert process.poll() is None, process.communicate()
        yield process, int(reached.read_text())
        for pid in (process.pid, int(reached.read_text())):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.wait()

    @pytest.mark.parametrize("to_group", [True, False])
    def test_an_interruption_ends_both(self, started, cli, tiny, tmp_path, to_group):
        process, child = started
        (os.killpg if to_group else os.kill)(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 130 and said.rstrip().endswith(
            "run the same command again, what was compressed is kept"
        )
        assert "Traceback" not in said
        assert not Path(f"/proc/{child}").exists()
        assert os.listdir(tmp_path / "work") == []
        if not to_group:
            return
        result = cli(tiny())
        assert result.returncode == 0 and "Using the compressed model in" in result.stderr

    def test_a_child_that_is_killed(self, started, tmp_path):
        process, child = started
        os.kill(child, signal.SIGKILL)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 1
        assert said.splitlines()[-1].startswith(
            "error: the compilation was killed by signal 9 (Killed). If this machine ran"
        )
        assert not (tmp_path / "work/out").exists()
