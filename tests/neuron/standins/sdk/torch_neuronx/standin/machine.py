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
"""What optimum-neuron asks of the instance it runs on, answered for one that does not exist.

`NEURON_STANDIN_MACHINE=trn1:32` is a trn1 with 32 cores; without the variable the real machine is asked. It is read
with every question, so that a test can be on another machine, and child processes are on the same one.
"""

import functools
import importlib
import os


VARIABLE = "NEURON_STANDIN_MACHINE"
QUESTIONS = {
    "instance.current_instance_type": lambda instance, cores: instance,
    "system.get_available_cores": lambda instance, cores: int(cores),
    "neuron_device_memory.get_neuron_device_memory": lambda instance, cores: "no Neuron device",
}


def _answering(function, answer):
    @functools.wraps(function)
    def ask():
        machine = os.environ.get(VARIABLE)
        return answer(*machine.split(":")) if machine else function()

    return ask


def answer_for_optimum_neuron():
    """Replaces the questions where they are defined: inference loads neuronx_distributed before it takes them."""
    try:
        import optimum.neuron.utils  # noqa: F401
    except ImportError:
        return
    for question, answer in QUESTIONS.items():
        module_name, name = question.split(".")
        module = importlib.import_module(f"optimum.neuron.utils.{module_name}")
        setattr(module, name, _answering(getattr(module, name), answer))
