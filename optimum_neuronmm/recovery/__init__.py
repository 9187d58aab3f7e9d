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
"""Recovery: a short training that wins back part of what compression lost, without changing the checkpoint's form.

`recover` trains the factors U and V of a compressed checkpoint, and nothing else. The recipe with U before V is that of
SVD-LLM (arXiv 2403.07378); NeuronMM (arXiv 2510.25977) fine-tunes both factors with LoRA.
"""

from .config import RecoveryConfig
from .run import recover


__all__ = ["RecoveryConfig", "recover"]
