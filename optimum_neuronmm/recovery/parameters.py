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
"""What is trained: adapters on the factors, or the factors themselves; and what becomes of them."""

import torch
from torch import nn

from ..errors import NeuronMMError
from ..modeling import LowRankLinear
from .config import RecoveryConfig


_ADAPTER = "default"


class TrainedFactors:
    """The factors of a model, made trainable in float32. Everything else of the model is frozen.

    Args:
        model: with `LowRankLinear` modules; changed in place.
        stored: the factors as the checkpoint stores them, `{"PATH.u.weight": (r, K), "PATH.v.weight": (N, r)}`. What is
            trained is added to these, not to what the dtype of the computation leaves of them.

    Attributes:
        parameters: `{name: float32 parameter}` of both factors.
    """

    def __init__(self, model: nn.Module, stored: dict[str, torch.Tensor], config: RecoveryConfig):
        self._model, self._stored, self._lora = model, stored, config.parameters == "lora"
        self._paths = [name for name, module in model.named_modules() if isinstance(module, LowRankLinear)]
        model.requires_grad_(False)
        if self._lora:
            self._add_adapters(config)
        else:
            for name in self._names():
                factor = model.get_submodule(name)
                master = stored[f"{name}.weight"].to(factor.weight.device, torch.float32, copy=True)
                factor.weight = nn.Parameter(master)
        self.parameters = {name: value for name, value in model.named_parameters() if self._is_trained(name)}

    def choose(self, factors: tuple[str, ...]) -> dict[str, nn.Parameter]:
        """Makes the parameters of some factors trainable, "u", "v" or both, and no others. Returns them by name."""
        endings = {f"{path}.{factor}." for path in self._paths for factor in factors}
        chosen = {}
        for name, parameter in self.parameters.items():
            is_chosen = any(name.startswith(ending) for ending in endings)
            parameter.requires_grad_(is_chosen)
            if is_chosen:
                chosen[name] = parameter
        return chosen

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of what is trained, on the CPU."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Sets what is trained to a copy that `state` made."""
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name])

    @torch.no_grad()
    def merged(self) -> dict[str, torch.Tensor]:
        """The factors with what was trained, under the names of `stored`, float32 on the CPU."""
        result = {}
        for name in self._names():
            factor, key = self._model.get_submodule(name), f"{name}.weight"
            if self._lora:
                change = factor.get_delta_weight(_ADAPTER)  # scaled by lora_alpha / lora_rank
                result[key] = self._stored[key].float() + change.float().cpu()
            else:
                result[key] = factor.weight.detach().float().cpu().clone()
        return result

    @torch.no_grad()
    def replace(self, factors: dict[str, torch.Tensor]) -> None:
        """Ends the training: the model holds `factors`, plain and in the dtype of its other weights."""
        for name in self._names():
            path, _, leaf = name.rpartition(".")
            factor = self._model.get_submodule(name)
            factor = factor.base_layer if self._lora else factor
            dtype = factor.weight.dtype if self._lora else self._model.get_input_embeddings().weight.dtype
            value = factors[f"{name}.weight"].to(factor.weight.device, dtype)
            factor.weight = nn.Parameter(value, requires_grad=False)
            setattr(self._model.get_submodule(path), leaf, factor)

    def _names(self) -> list[str]:
        return [f"{path}.{factor}" for path in self._paths for factor in ("u", "v")]

    def _is_trained(self, name: str) -> bool:
        return ".lora_" in name if self._lora else name in self._stored

    def _add_adapters(self, config: RecoveryConfig) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        options = LoraConfig(
            r=config.lora_rank, lora_alpha=config.lora_alpha, lora_dropout=0.0, target_modules=self._names()
        )
        inject_adapter_in_model(options, self._model, adapter_name=_ADAPTER)
        for name in self._names():
            factor = self._model.get_submodule(name)
            if not hasattr(factor, "lora_A"):
                raise NeuronMMError(f"PEFT put no adapter on {name}. Use parameters 'factors'.")
            factor.lora_A.float()
            factor.lora_B.float()
