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
"""The real `optimum-cli` in each situation in which this package can be installed, in processes of their own."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import files
from importlib.util import find_spec
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[2]
STUB = "optimum/commands/register/register_neuronmm.py"
CLI = "from optimum.commands.optimum_cli import main; main()"

needs_optimum_neuron = pytest.mark.skipif(find_spec("optimum.neuron") is None, reason="needs optimum-neuron")


def place_stub(folder: Path) -> None:
    (folder / STUB).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "optimum_neuronmm/commands/register/register_neuronmm.py", folder / STUB)


@pytest.fixture
def cli(tmp_path):
    """Runs Python code, by default `optimum-cli`, with this checkout as if it were installed."""
    paths = [ROOT]
    if find_spec("optimum.commands.register.register_neuronmm") is None:
        place_stub(tmp_path / "stub")
        paths.append(tmp_path / "stub")

    def cli(line: str, code: str = CLI, paths=tuple(paths)) -> subprocess.CompletedProcess:
        path = os.pathsep.join(map(str, [*cli.extra_paths, *paths]))
        environment = {**os.environ, **cli.environment, "PYTHONPATH": path}
        command = [sys.executable, "-c", code, *line.split()]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    cli.extra_paths = []
    cli.environment = {}
    return cli


# As much of the SDK as optimum-neuron imports before it exports anything.
SDK_FILES = {
    "torch_neuronx/__init__.py": "class DataParallel: pass",
    "torch_neuronx-2.8.0.dist-info/METADATA": "Name: torch-neuronx\nVersion: 2.8.0",
    "torch_xla/__init__.py": "",
    "torch_xla/core/xla_model.py": "",
    "torch_xla/runtime.py": "",
    "libneuronxla/neuron_cc_cache.py": (
        "class CompileCache: pass\nCacheUrl = CompileCacheFs = CompileCacheS3 = create_compile_cache = CompileCache"
    ),
}


@pytest.fixture
def sdk(cli, tmp_path):
    """Puts an SDK in place, and a `python3` that prints its arguments instead of exporting."""
    for name, content in SDK_FILES.items():
        (tmp_path / "sdk" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sdk" / name).write_text(f"{content}\n")
    recorder = tmp_path / "bin/python3"
    recorder.parent.mkdir()
    recorder.write_text('#!/bin/sh\necho "child: $*"\n')
    recorder.chmod(0o755)
    cli.extra_paths = [tmp_path / "sdk"]
    cli.environment = {"PATH": f"{recorder.parent}{os.pathsep}{os.environ['PATH']}", "USE_TORCH_XLA": "0"}


@pytest.fixture
def without_optimum_neuron(cli, tmp_path):
    """`optimum` as its own distribution installs it, with only this package beside it."""
    site = tmp_path / "site"
    for file in files("optimum"):
        if file.parts[0] == "optimum" and file.suffix == ".py":
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.locate(), site / file)
    # Where optimum-neuron is installed it has replaced Optimum's own `optimum-cli env`, with one that needs it.
    (site / "optimum/commands/env.py").write_text(
        "from .base import BaseOptimumCLICommand, CommandInfo\n"
        "class EnvironmentCommand(BaseOptimumCLICommand):\n"
        "    COMMAND = CommandInfo(name='env', help='')\n"
    )
    place_stub(site)

    def run(line: str) -> subprocess.CompletedProcess:
        return cli(line, f"import optimum; optimum.__path__ = [{str(site / 'optimum')!r}]; {CLI}", (ROOT,))

    return run


@needs_optimum_neuron
def test_with_the_sdk_a_plain_export_is_passed_on(cli, sdk):
    result = cli("export neuron -m model out --instance_type inf2 --batch_size 1")
    assert result.returncode == 0, result.stderr
    assert result.stdout == ("child: -m optimum.exporters.neuron -m model out --instance_type inf2 --batch_size 1\n")


@needs_optimum_neuron
def test_with_the_sdk_options_need_neuronmm(cli, sdk):
    result = cli("export neuron -m model out --neuronmm_alpha 0.3")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: --neuronmm_alpha given without --neuronmm")
    assert "child:" not in result.stdout


@needs_optimum_neuron
def test_with_the_sdk_the_help_has_upstreams_arguments_and_ours(cli, sdk):
    result = cli("export neuron --help")
    assert result.returncode == 0, result.stderr
    for flag in ("--neuronmm", "--neuronmm_compression_ratio", "--neuronmm_layout", "--dynamic-batch-size"):
        assert flag in result.stdout


@needs_optimum_neuron
def test_with_half_an_sdk_compiling_says_what_is_missing(cli, sdk, tmp_path):
    result = cli("export neuron -m model out --neuronmm --instance_type trn1")
    assert result.returncode == 1 and not (tmp_path / "out").exists()
    assert "neuronxcc" in result.stderr.splitlines()[-1] or "neuronx-cc" in result.stderr.splitlines()[-1]
    assert "child:" not in result.stdout, "a shell was asked"


@needs_optimum_neuron
@pytest.mark.parametrize("first", ["register_neuronmm", "register_export"])
def test_with_the_sdk_the_order_of_registration_does_not_matter(cli, sdk, first):
    code = (
        f"import optimum.commands.register.{first}\n"
        "from optimum.commands.register import register_export, register_neuronmm\n"
        "((command, parent),) = register_export.REGISTER_COMMANDS\n"
        "print(command.run.__module__, *[c.__name__ for c in register_neuronmm.REGISTER_COMMANDS])"
    )
    result = cli("", code)
    assert result.stdout.split() == ["optimum_neuronmm.commands.upstream", "NeuronMMCommand"], result.stderr


@needs_optimum_neuron
def test_without_the_sdk_the_help_has_upstreams_arguments_and_ours(cli):
    result = cli("export neuron --help")
    assert result.returncode == 0, result.stderr
    assert "--neuronmm_compression_ratio" in result.stdout
    assert "--dynamic-batch-size" in result.stdout


@needs_optimum_neuron
def test_without_the_sdk_a_plain_export_is_an_error(cli):
    result = cli("export neuron -m model out")
    assert result.returncode == 1
    assert "needs optimum-neuron and the Neuron SDK" in result.stderr.splitlines()[-1]


def test_without_optimum_neuron_the_help_is_complete(without_optimum_neuron):
    result = without_optimum_neuron("export neuron --help")
    assert result.returncode == 0, result.stderr
    for flag in (
        "--model",
        "--torch_dtype",
        "--trust-remote-code",
        "--cache_dir",
        "--batch_size",
        "--sequence_length",
    ):
        assert flag in result.stdout
    for flag in ("--tensor_parallel_size", "--instance_type", "--neuronmm", "--neuronmm_kernel"):
        assert flag in result.stdout
    assert "--dynamic-batch-size" not in result.stdout


@pytest.mark.parametrize(
    "line, reason", [("", "needs optimum-neuron"), ("--neuronmm --neuronmm_target neuron", "SDK")]
)
def test_without_optimum_neuron_compiling_is_an_error(without_optimum_neuron, line, reason):
    result = without_optimum_neuron(f"export neuron -m model out {line}")
    assert result.returncode == 1
    assert reason in result.stderr.splitlines()[-1]


def test_group_without_a_command_prints_its_help(cli):
    result = cli("neuronmm")
    assert result.returncode == 0, result.stderr
    assert "report" in result.stdout
