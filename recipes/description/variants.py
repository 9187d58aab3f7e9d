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
"""The models that a recipe compares: the dense one and compressed ones, each with its configs."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from optimum_neuronmm.errors import NeuronMMError

from .schema import Place, file_name, mapping, number


if TYPE_CHECKING:
    from optimum_neuronmm.configuration import NeuronMMConfig
    from optimum_neuronmm.recovery.config import RecoveryConfig

_KEYS = ("name", "ratio", "compression", "recovery")
# Fields of NeuronMMConfig that a recipe says elsewhere, or that are no choices.
_ELSEWHERE = {
    "compression_ratio": "the `ratio` of each variant says it",
    "max_perplexity_increase": "it takes the place of a ratio, and every variant has one",
    "target_speedup": "it takes the place of a ratio, and every variant has one",
    "target_instance_type": "it belongs to target_speedup, which takes the place of a ratio",
    "target_prompt_length": "it belongs to target_speedup, which takes the place of a ratio",
    "target_output_length": "it belongs to target_speedup, which takes the place of a ratio",
    "recovery": "the recipe's own `recovery` says it",
    "recovery_data": "`data` in the recipe's own `recovery` says it",
    "recovery_tokens": "`tokens` in the recipe's own `recovery` says it",
}
_SET_BY_COMPRESSION = ("modules", "compilation", "format_version", "neuronmm_version", "quant_method")


@dataclass(frozen=True)
class Variant:
    """One model of a recipe.

    Attributes:
        name: unique in the recipe, fit for a file's name.
        ratio: the fraction of the MLP's parameters that compression is asked to remove; 0 is the dense model.
        compression: how to compress; None for the dense model.
        recovery: how to train the factors afterwards; None where they stay as they are.
    """

    name: str
    ratio: float
    compression: "NeuronMMConfig | None" = None
    recovery: "RecoveryConfig | None" = None

    @property
    def is_dense(self) -> bool:
        return self.compression is None

    def to_dict(self) -> dict[str, Any]:
        """Every option with its value, so that a release with other defaults reads the same variant."""
        content: dict[str, Any] = {"name": self.name, "ratio": self.ratio}
        if self.compression is not None:
            options = self.compression.to_dict()
            content["compression"] = {name: options[name] for name in compression_options()}
            content["recovery"] = None if self.recovery is None else self.recovery.to_dict()
        return content


def compression_options() -> list[str]:
    """The fields of NeuronMMConfig that a recipe may set."""
    from optimum_neuronmm.configuration import NeuronMMConfig

    refused = (*_ELSEWHERE, *_SET_BY_COMPRESSION)
    return [field.name for field in fields(NeuronMMConfig) if field.name not in refused]


def recovery_options() -> list[str]:
    from optimum_neuronmm.recovery.config import RecoveryConfig

    return [field.name for field in fields(RecoveryConfig)]


def read_variants(content: dict[str, Any], place: Place, seed: int) -> tuple[Variant, ...]:
    """The variants of a recipe.

    Args:
        content: of the whole recipe: what stands under `compression` and `recovery` holds for every compressed variant.
        seed: for whatever sets none itself.

    Raises:
        NeuronMMError: naming the place of what is wrong.
    """
    compression = _compression(content.get("compression"), place / "compression") or {}
    recovery = _recovery(content.get("recovery"), place / "recovery")
    listed, place = content["variants"], place / "variants"
    if not isinstance(listed, list) or not listed:
        raise place.wrong("a list with at least one variant", listed, "{ratio: 0} is the dense model.")
    variants: list[Variant] = []
    for index, entry in enumerate(listed):
        variant = _variant(entry, place / index, compression, recovery, seed)
        _check_unique(variant, variants, place / index)
        variants.append(variant)
    return tuple(variants)


def _variant(content: Any, place: Place, compression: dict, recovery: dict | None, seed: int) -> Variant:
    from optimum_neuronmm.configuration import NeuronMMConfig
    from optimum_neuronmm.recovery.config import RecoveryConfig

    content = mapping(content, place, _KEYS, required=("ratio",))
    ratio = number(content["ratio"], place / "ratio", "a number in [0, 1)", 0, 1, (1,))
    own_compression = _compression(content.get("compression"), place / "compression")
    own_recovery = _recovery(content.get("recovery"), place / "recovery")
    for key, options in {"compression": own_compression, "recovery": own_recovery}.items():
        if ratio == 0 and options is not None:
            raise (place / key).error(f"a ratio of 0 is the dense model, which has no {key}. Leave it out.")
    if "recovery" in content:  # null takes away what holds for the others
        recovery = None if own_recovery is None else {**(recovery or {}), **own_recovery}
    name = content.get("name")
    name = _default_name(ratio, recovery is not None) if name is None else file_name(name, place / "name")
    if ratio == 0:
        return Variant(name, ratio)
    compression = {"seed": seed, **compression, **(own_compression or {}), "compression_ratio": ratio}
    return Variant(
        name,
        ratio,
        _built(NeuronMMConfig, compression, place, "compression"),
        None if recovery is None else _built(RecoveryConfig, {"seed": seed, **recovery}, place, "recovery"),
    )


def _default_name(ratio: float, recovered: bool) -> str:
    return "dense" if ratio == 0 else f"ratio-{ratio!r}{'-recovered' if recovered else ''}"


def _check_unique(variant: Variant, others: list[Variant], place: Place) -> None:
    for other in others:
        if variant.is_dense and other.is_dense:
            raise place.error(f"a second dense model (ratio 0) beside {other.name}. Leave one of them out.")
        if variant.name.lower() == other.name.lower():  # some file systems take them for one
            raise (place / "name").error(
                f"there is already a variant of the name {other.name}. Give each a `name` of its own."
            )


def _compression(content: Any, place: Place) -> dict[str, Any] | None:
    for key in content if isinstance(content, dict) else ():
        if key in _ELSEWHERE:
            raise (place / key).error(f"not allowed here: {_ELSEWHERE[key]}.")
    return None if content is None else mapping(content, place, compression_options())


def _recovery(content: Any, place: Place) -> dict[str, Any] | None:
    return None if content is None else mapping(content, place, recovery_options())


def _built(config: Callable, options: dict[str, Any], place: Place, key: str) -> Any:
    """The config, which checks itself; its errors name the option, and here get the place."""
    try:
        return config(**options)
    except NeuronMMError as error:
        raise (place / key).error(f"(with what holds for every variant) {error}") from error
