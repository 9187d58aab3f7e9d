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
"""`python -m optimum_neuronmm.commands.child REQUEST`: the process in which `compilation.compile_in_child` compiles."""

import json
import signal
import sys

from .errors import reported_errors


def main(request: str) -> None:
    """Compiles what a request says: the arguments of `neuron.export.export` as a JSON object."""
    # A shell starts background jobs deaf to interrupts. Those that come here are the parent's, who was asked to end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with reported_errors(interrupted="interrupted: run the same command again, what was compressed is kept"):
        from ..configuration import NeuronMMConfig
        from ..neuron.export import export

        arguments = json.loads(request)
        export(options=NeuronMMConfig(**arguments.pop("options")), **arguments)


if __name__ == "__main__":
    main(sys.argv[1])
