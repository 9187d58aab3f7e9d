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
"""What `optimum-cli` gets from this package, in each of the three situations in which it can be installed.

Decided by what optimum-neuron itself registers, so that the two can never disagree on whether there is an SDK, and
without depending on which of the two is imported first: commands are only instantiated after all have been imported.
"""

from importlib.util import find_spec

from optimum.commands.export.base import ExportCommand

from .neuronmm import NeuronMMCommand


def commands_to_register() -> list:
    """The value of `REGISTER_COMMANDS`: command classes, with their parent where that is not the root."""
    export_command = _upstream_export_command()
    if export_command is None:
        from .standalone import StandaloneExportCommand

        return [NeuronMMCommand, (StandaloneExportCommand, ExportCommand)]

    from .upstream import extend

    extend(export_command)
    return [NeuronMMCommand]


def _upstream_export_command() -> type | None:
    """The class that optimum-neuron registers as `optimum-cli export neuron`; None without it or without an SDK."""
    if find_spec("optimum.commands.register.register_export") is None:
        return None
    from optimum.commands.register.register_export import REGISTER_COMMANDS

    commands = [entry[0] for entry in REGISTER_COMMANDS if isinstance(entry, tuple) and entry[1] is ExportCommand]
    return next((command for command in commands if command.COMMAND.name == "neuron"), None)
