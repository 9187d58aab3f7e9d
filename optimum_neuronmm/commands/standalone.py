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
"""`optimum-cli export neuron` for machines without the Neuron SDK, where optimum-neuron registers no such command.

It takes the same arguments, so that a command line can be prepared on a laptop. Without `--neuronmm` there is nothing it
could do.
"""

from argparse import ArgumentParser
from importlib.util import find_spec
from pathlib import Path

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

from ..errors import NeuronMMError
from .errors import reported_errors
from .export import extend_parser, run_neuronmm, wants_neuronmm


class StandaloneExportCommand(BaseOptimumCLICommand):
    COMMAND = CommandInfo(name="neuron", help="Compress PyTorch models with NeuronMM for AWS Neuron devices.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        if find_spec("optimum.commands.export.neuronx") is None:
            _add_minimal_arguments(parser)
        else:
            from optimum.commands.export.neuronx import parse_args_neuronx

            parse_args_neuronx(parser)
        extend_parser(parser)
        for action in parser._actions:
            if action.dest == "instance_type":
                action.required = False

    def run(self) -> None:
        if wants_neuronmm(self.args):
            run_neuronmm(self.args, self.parser, sdk_installed=False)
        else:
            with reported_errors():
                raise NeuronMMError(
                    "a plain export compiles the model, which needs optimum-neuron and the Neuron SDK, and at least one "
                    "of them is not installed here. Run it on a Trainium or Inferentia instance (pip install "
                    "'optimum-neuronmm[neuronx]'), or pass --neuronmm to compress the model on this machine."
                )


def _add_minimal_arguments(parser: ArgumentParser) -> None:
    """The arguments of optimum-neuron's parser that mean something here, for a Python that has no optimum-neuron."""
    required = parser.add_argument_group("Required arguments")
    required.add_argument(
        "-m", "--model", type=str, required=True, help="Model ID on the Hugging Face Hub, or path of a local model."
    )
    required.add_argument("output", type=Path, help="Directory to write the model to.")

    optional = parser.add_argument_group("Optional arguments")
    optional.add_argument(
        "--torch_dtype",
        choices=["bfloat16", "float16", "float32"],
        help="Load the model in this dtype. Default: the checkpoint's own.",
    )
    optional.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="Run modeling code that the model's repository holds. Only for repositories whose code you have read.",
    )
    optional.add_argument("--cache_dir", help="Directory in which downloaded models are cached.")
    optional.add_argument(
        "--instance_type", choices=["trn1", "inf2", "trn1n", "trn2"], help="Instance to compile for."
    )
    optional.add_argument("--tensor_parallel_size", type=int, default=1, help="Number of cores to shard the model on.")

    shapes = parser.add_argument_group("Input shapes")
    shapes.add_argument("--batch_size", type=int, help="Batch size of the compiled model.")
    shapes.add_argument("--sequence_length", type=int, help="Sequence length of the compiled model.")
