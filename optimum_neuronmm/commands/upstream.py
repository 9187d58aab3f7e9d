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
"""Adds `--neuronmm` to optimum-neuron's own export command, where the Neuron SDK is installed.

A second `neuron` command would clash with it, so its class is extended in place. Without `--neuronmm` everything goes to
the original methods.
"""

from .export import extend_parser, run_neuronmm, wants_neuronmm


def extend(command: type) -> None:
    """Wraps `parse_args` and `run` of optimum-neuron's command class. A second call changes nothing."""
    if getattr(command, "_extended_by_neuronmm", False):
        return
    parse_args, run = command.parse_args, command.run

    def parse_args_with_neuronmm(parser) -> None:
        parse_args(parser)
        extend_parser(parser)

    def run_with_neuronmm(self) -> None:
        if wants_neuronmm(self.args):
            run_neuronmm(self.args, self.parser, sdk_installed=True)
        else:
            run(self)

    command.parse_args = staticmethod(parse_args_with_neuronmm)
    command.run = run_with_neuronmm
    command._extended_by_neuronmm = True
