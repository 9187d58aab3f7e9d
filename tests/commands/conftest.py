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
"""What the tests of the command line share: parsers as each situation has them, and a compression that only records."""

import argparse
import sys
from types import SimpleNamespace

import pytest

from optimum_neuronmm.commands.export import extend_parser


def upstream_like_arguments(parser: argparse.ArgumentParser) -> None:
    """The shape of optimum-neuron's arguments on a machine without a device, as far as this package looks at them."""
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("output")
    parser.add_argument("--task", default="auto")
    parser.add_argument("--instance_type", choices=["trn1", "inf2", "trn1n", "trn2"], required=True)
    parser.add_argument("--subfolder", default="")
    parser.add_argument("--cache_dir")
    parser.add_argument("--trust-remote-code", action="store_true")
    parser.add_argument("--torch_dtype", default="float32", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--tensor_parallel_size", type=int, default=1)
    parser.add_argument("--num_cores", type=int, dest="tensor_parallel_size", help=argparse.SUPPRESS)
    parser.add_argument("--batch_size", type=int)
    parser.add_argument("--sequence_length", type=int)
    parser.add_argument("--lora_scales", nargs="*", type=float)
    parser.add_argument("-O1", action="store_true")


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    """A parser with optimum-neuron's arguments and ours."""
    parser = argparse.ArgumentParser("optimum-cli export neuron")
    upstream_like_arguments(parser)
    extend_parser(parser)
    return parser


@pytest.fixture
def compress(monkeypatch):
    """Stands in for `optimum_neuronmm.compression`; `compress.calls` holds the arguments, `compress.error` is raised."""

    def compress(*args, **kwargs):
        compress.calls.append((args, kwargs))
        if compress.error is not None:
            raise compress.error
        print("the report")

    compress.calls = []
    compress.error = None
    monkeypatch.setitem(sys.modules, "optimum_neuronmm.compression", SimpleNamespace(compress=compress))
    return compress


@pytest.fixture
def compilations(monkeypatch):
    """Stands in for the child process that compiles; `compilations` holds what it would have been asked for."""
    from optimum_neuronmm.commands import compilation

    calls = []
    monkeypatch.setattr(compilation, "compile_in_child", lambda *args, **options: calls.append((args, options)))
    return calls
