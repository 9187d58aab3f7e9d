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
"""Where each model family keeps its MLP projections. The one place that knows families apart."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from .errors import NeuronMMError


@dataclass(frozen=True)
class Family:
    """Layout of a decoder-only family of transformers.

    Attributes:
        layers: path of the `ModuleList` of decoder layers.
        mlp: path of the MLP within a layer.
        layer_returns_tuple: whether a layer returns (hidden states, ...) and not the hidden states alone.
        projections: attribute of the MLP -> which of gate, up and down it computes. A fused matrix computes several.
        adds_down: whether the output of down is added to the residual stream as it is, or times a constant of the config.
    """

    layers: str = "model.layers"
    mlp: str = "mlp"
    layer_returns_tuple: bool = False
    projections: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {"gate_proj": ("gate",), "up_proj": ("up",), "down_proj": ("down",)}
    )
    adds_down: bool = True

    @property
    def down(self) -> str:
        """The attribute of the MLP that computes down."""
        return next(name for name, computes in self.projections.items() if "down" in computes)

    def layer_path(self, layer: int) -> str:
        return f"{self.layers}.{layer}"

    def projection_path(self, layer: int, attribute: str) -> str:
        """The module path of a projection, by its attribute of the MLP."""
        return f"{self.layer_path(layer)}.{self.mlp}.{attribute}"

    def input_groups(self, attributes: Iterable[str]) -> list[list[str]]:
        """Groups attributes of the MLP that read the same input: gate and up read X, down reads what they produce."""
        groups: dict[bool, list[str]] = {}
        for attribute in attributes:
            groups.setdefault("down" in self.projections[attribute], []).append(attribute)
        return list(groups.values())

    def selected(self, names: Iterable[str]) -> list[str]:
        """Attributes of the MLP, in the order of the table, that compute the projections called `names`."""
        names = set(names)
        chosen = []
        for attribute, computes in self.projections.items():
            if names.issuperset(computes):
                chosen.append(attribute)
            elif names.intersection(computes):
                raise NeuronMMError(
                    f"This family fuses {' and '.join(computes)} into one matrix, {attribute}: choose both or neither, "
                    f"got projections {', '.join(sorted(names))}."
                )
        return chosen


_LLAMA_LIKE = Family()

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE,
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "smollm3": _LLAMA_LIKE,
    "granite": Family(layer_returns_tuple=True),
    "gemma3_text": Family(layer_returns_tuple=True, adds_down=False),  # through a norm
    "phi3": Family(projections={"gate_up_proj": ("gate", "up"), "down_proj": ("down",)}),
}

_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def family_of(config) -> Family:
    """The family of a transformers config.

    Raises:
        NeuronMMError: for an unsupported type (the supported ones are listed), for mixtures of experts (by name), and for a
            number of experts that is no integer.
    """
    model_type = config.model_type
    counts = {name: getattr(config, name, None) for name in _EXPERT_COUNTS}
    experts = next((name for name, count in counts.items() if type(count) is int and count > 1), None)
    if experts or "moe" in model_type:
        count = f" ({experts} = {counts[experts]})" if experts else ""
        raise NeuronMMError(
            f"{model_type} is a mixture of experts{count}: its expert weights are not compressed by this package. Dense "
            f"models are supported: {', '.join(sorted(FAMILIES))}."
        )
    if model_type not in FAMILIES:
        hint = " For Gemma 3, use a text-only checkpoint (gemma3_text)." if model_type == "gemma3" else ""
        raise NeuronMMError(
            f"Model type {model_type!r} is not supported: choose one of {', '.join(sorted(FAMILIES))}.{hint} "
            "CONTRIBUTING.md says how to add a family."
        )
    for name, count in counts.items():
        if count is not None and type(count) is not int:
            raise NeuronMMError(
                f"The config says {name} = {count!r}: expected an integer, or nothing in a dense model. Repair it, or fetch "
                "the model again."
            )
    return FAMILIES[model_type]
