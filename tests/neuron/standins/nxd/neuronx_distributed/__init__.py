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
"""Stand-in for neuronx_distributed 0.15 in plain torch: what the decoders of optimum-neuron need for inference.

Sharding and the arithmetic of the parallel layers are complete; collectives and graphs come from `torch_neuronx.standin`.
"""

__version__ = "0.15.22404+standin"

from torch_neuronx.standin import machine

from . import parallel_layers, trace, utils  # noqa: F401
from .placeholders import install


install()
machine.answer_for_optimum_neuron()
