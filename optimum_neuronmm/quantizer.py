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
"""Loads and saves compressed checkpoints through transformers' quantizer interface.

transformers calls it a quantizer; nothing is quantized. It is the hook that lets a checkpoint's config.json replace
modules before the weights are read, so the dense weight of a factorised projection is never built.
"""

from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer

from .configuration import QUANT_METHOD, NeuronMMConfig
from .errors import NeuronMMError
from .modeling import replace_projections, restore_dense


class NeuronMMHfQuantizer(HfQuantizer):
    """Puts `LowRankLinear` modules where config.json lists them."""

    requires_calibration = True

    def __init__(self, quantization_config: NeuronMMConfig, **kwargs):
        if not kwargs.get("pre_quantized", True):
            raise NeuronMMError(
                "AutoModelForCausalLM.from_pretrained only loads checkpoints that are compressed already. To compress, "
                "use optimum_neuronmm.NeuronModelForCausalLM.from_pretrained(model, neuronmm=config) or "
                "optimum_neuronmm.compress(model, output_dir, config)."
            )
        super().__init__(quantization_config, **kwargs)

    def _process_model_before_weight_loading(self, model, **kwargs):
        replace_projections(model, self.quantization_config.modules)
        return model

    def update_missing_keys(self, model, missing_keys: list[str], prefix: str) -> list[str]:
        modules = self.quantization_config.modules
        missing = [key for key in missing_keys if key.rpartition(".")[0].rpartition(".")[0] in modules]
        if missing:
            raise NeuronMMError(
                f"The checkpoint lacks {missing[0]}, a factor that config.json lists. transformers would fill it at random: "
                "fetch or compress the model again."
            )
        # The empty `weight` of a LowRankLinear holds nothing that could be missed.
        return [key for key in missing_keys if key.rpartition(".")[0] not in modules]

    def _process_model_after_weight_loading(self, model, **kwargs):
        # The weights are ordinary floating-point tensors: .half(), .float() and Trainer may treat them as such.
        model.is_quantized = False
        return model

    def _dequantize(self, model):
        restore_dense(model)
        model.config._pre_quantization_dtype = model.dtype  # HfQuantizer.dequantize deletes it unconditionally
        return model

    def is_serializable(self, safe_serialization=None) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True

    @property
    def is_qat_trainable(self) -> bool:
        return True

    @property
    def is_compileable(self) -> bool:
        return True


def register() -> None:
    """Makes transformers know the format. Does nothing the second time, which transformers would refuse."""
    if QUANT_METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(QUANT_METHOD)(NeuronMMConfig)
    if QUANT_METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantizer(QUANT_METHOD)(NeuronMMHfQuantizer)


register()
