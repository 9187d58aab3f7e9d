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
"""The entry point of vLLM's general plugins: compiled models served by optimum-neuron's vLLM platform.

vLLM calls it in every process. Importing this package there makes optimum-neuron's loader find our classes; the rest is that
vLLM refuses a config.json with a `quant_method` it does not know.
"""

from ..configuration import QUANT_METHOD
from ..errors import NeuronMMError


def register() -> None:
    """Tells vLLM of the checkpoint format. A second call changes nothing."""
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS, register_quantization_config

    if QUANT_METHOD not in QUANTIZATION_METHODS:
        register_quantization_config(QUANT_METHOD)(_vllm_config())


def _vllm_config() -> type:
    import torch
    from vllm.model_executor.layers.quantization.base_config import QuantizationConfig

    class NeuronMMVllmConfig(QuantizationConfig):
        """Lets the format pass. optimum-neuron loads the compiled graphs; layers of vLLM are never built."""

        def get_name(self) -> str:
            return QUANT_METHOD

        def get_supported_act_dtypes(self) -> list:
            return [torch.bfloat16, torch.float16, torch.float32]

        @classmethod
        def get_min_capability(cls) -> int:
            return 0

        @staticmethod
        def get_config_filenames() -> list[str]:
            return []

        @classmethod
        def from_config(cls, config: dict) -> "NeuronMMVllmConfig":
            return cls()

        def get_quant_method(self, layer, prefix: str):
            raise NeuronMMError(
                f"vLLM's own layers cannot compute the factors of {prefix or 'this model'}: serve a compiled model on a Neuron "
                "instance, with optimum-neuron's vLLM platform."
            )

    return NeuronMMVllmConfig
