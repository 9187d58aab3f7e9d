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
import shlex
from unittest.mock import create_autospec

import pytest

from optimum_neuronmm.commands.export import run_neuronmm, wants_neuronmm
from optimum_neuronmm.errors import NeuronMMError


@pytest.fixture
def run(parser):
    """Runs the export with the given command line, as the command classes do."""

    def run(line: str, sdk_installed: bool = False):
        args = parser.parse_args(["-m", "model", "out", *shlex.split(line)])
        assert wants_neuronmm(args)
        run_neuronmm(args, parser, sdk_installed=sdk_installed)

    return run


def fails(run, capsys, line, status=1, **kwargs) -> str:
    """The one line on stderr with which a command line fails."""
    with pytest.raises(SystemExit) as exit:
        run(line, **kwargs)
    assert exit.value.code == status
    (message,) = capsys.readouterr().err.strip().splitlines()
    return message


def test_compress_gets_what_was_given(run, compress):
    run(
        "--neuronmm --neuronmm_compression_ratio 0.2 --neuronmm_calibration self --torch_dtype bfloat16 --cache_dir cache "
        "--trust-remote-code --task text-generation"
    )
    ((model, output, config), options) = compress.calls[0]
    assert (model, str(output)) == ("model", "out")
    assert (config.compression_ratio, config.calibration, config.dtype) == (0.2, ["self"], "bfloat16")
    assert options == {"trust_remote_code": True, "cache_dir": "cache"}


def test_dtype_is_the_checkpoints_own_when_not_given(run, compress):
    run("--neuronmm")
    assert compress.calls[0][0][2].dtype is None


def test_call_fits_the_real_compress(run, monkeypatch):
    compression = pytest.importorskip("optimum_neuronmm.compression")
    monkeypatch.setattr(compression, "compress", create_autospec(compression.compress))
    run("--neuronmm")
    compression.compress.assert_called_once()


def test_report_is_the_last_thing_printed(run, compress, capsys):
    run("--neuronmm")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "the report"
    assert "not compiled" in lines[0]


def test_the_command_for_the_instance_can_be_parsed(run, compress, parser, capsys):
    shapes = "--batch_size 1 --sequence_length 2048 --tensor_parallel_size 2 --instance_type inf2"
    run(f"--neuronmm {shapes} --neuronmm_kernel compiler --neuronmm_layout sharded --neuronmm_sampling host")
    line = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("  optimum-cli export neuron")
    )
    args = parser.parse_args(shlex.split(line)[3:])
    assert (args.model, args.output, args.neuronmm) == ("out", "out-neuron", True)
    assert (args.batch_size, args.sequence_length, args.tensor_parallel_size) == (1, 2048, 2)
    assert args.instance_type == "inf2"
    assert (args.neuronmm_kernel, args.neuronmm_layout, args.neuronmm_sampling) == ("compiler", "sharded", "host")
    assert args.neuronmm_compression_ratio is None, "what is compressed already is not asked for again"


def test_an_error_is_one_line_and_status_1(run, compress, capsys):
    compress.error = NeuronMMError("model.layers.0: expected this, got that, try those.")
    assert fails(run, capsys, "--neuronmm") == "error: model.layers.0: expected this, got that, try those."


def test_a_defect_keeps_its_traceback(run, compress):
    compress.error = ValueError("a defect")
    with pytest.raises(ValueError, match="a defect"):
        run("--neuronmm")


def test_interruption_says_how_to_go_on(run, compress, capsys):
    compress.error = KeyboardInterrupt()
    assert "run the same command again to resume" in fails(run, capsys, "--neuronmm", status=130)


def test_bad_values_are_errors_of_the_config(run, compress, capsys):
    assert "compression_ratio" in fails(run, capsys, "--neuronmm --neuronmm_compression_ratio 1.5")
    assert not compress.calls


@pytest.mark.parametrize("ratio", ["0.1", "0.3"])  # the default too, which the config could not tell
def test_a_ratio_and_a_speed_up_are_too_much(run, compress, capsys, ratio):
    flags = f"--neuronmm --neuronmm_compression_ratio {ratio} --neuronmm_target_speedup 1.2"
    assert "--neuronmm_compression_ratio and --neuronmm_target_speedup were both given" in fails(run, capsys, flags)
    assert not compress.calls


@pytest.mark.parametrize("flag", ["--neuronmm_alpha 0.3", "--neuronmm_calibration self", "--neuronmm_target cpu"])
def test_options_without_neuronmm_are_refused(run, compress, capsys, flag):
    message = fails(run, capsys, flag)
    assert f"{flag.split()[0]} given without --neuronmm" in message
    assert not compress.calls


@pytest.mark.parametrize("flag", ["--subfolder unet", "-O1", "--lora_scales 1 2"])
def test_options_that_would_be_ignored_are_refused(run, compress, capsys, flag):
    message = fails(run, capsys, f"--neuronmm {flag}")
    assert flag.split()[0] in message
    assert "cannot be combined with --neuronmm" in message
    assert not compress.calls


def test_other_tasks_are_refused(run, compress, capsys):
    message = fails(run, capsys, "--neuronmm --task feature-extraction")
    assert "'feature-extraction'" in message
    assert "text-generation" in message


@pytest.mark.parametrize("target", ["", "--neuronmm_target auto", "--neuronmm_target cpu"])
def test_targets_without_the_sdk(run, compress, target):
    run(f"--neuronmm {target}")
    assert len(compress.calls) == 1


def test_target_cpu_with_the_sdk(run, compress, compilations):
    run("--neuronmm --neuronmm_target cpu", sdk_installed=True)
    assert len(compress.calls) == 1 and not compilations


def test_a_compilation_without_the_sdk(run, compress, compilations, capsys):
    message = fails(run, capsys, "--neuronmm --neuronmm_target neuron")
    assert "the Neuron SDK is not installed" in message and "--neuronmm_target cpu" in message
    assert not compress.calls and not compilations


@pytest.mark.parametrize("target", ["", "--neuronmm_target auto", "--neuronmm_target neuron"])
def test_with_the_sdk_a_child_compiles(run, compress, compilations, target):
    run(f"--neuronmm {target}", sdk_installed=True)
    ((args, options),) = compilations
    assert args[:2] == ("model", "out") and not compress.calls
    shapes = {"instance_type": None, "batch_size": None, "sequence_length": None, "tensor_parallel_size": 1}
    assert options == {**shapes, "trust_remote_code": False, "cache_dir": None}


def test_the_child_gets_what_was_given(run, compilations):
    run(
        "--neuronmm --neuronmm_compression_ratio 0.2 --neuronmm_layout sharded --torch_dtype bfloat16 --cache_dir cache "
        "--trust-remote-code --instance_type inf2 --batch_size 2 --sequence_length 64 --num_cores 4",
        sdk_installed=True,
    )
    (((_, _, options), given),) = compilations
    assert options == {"compression_ratio": 0.2, "layout": "sharded", "dtype": "bfloat16"}
    shapes = {"instance_type": "inf2", "batch_size": 2, "sequence_length": 64, "tensor_parallel_size": 4}
    assert given == {**shapes, "trust_remote_code": True, "cache_dir": "cache"}


def test_the_child_is_not_started_for_bad_values(run, compilations, capsys):
    assert "compression_ratio" in fails(run, capsys, "--neuronmm --neuronmm_compression_ratio 1.5", sdk_installed=True)
    assert "cannot be combined" in fails(run, capsys, "--neuronmm --subfolder unet", sdk_installed=True)
    assert not compilations
