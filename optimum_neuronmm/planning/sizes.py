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
"""The sizes and the activation that a config.json has to give, before and after transformers reads it."""

from transformers import PretrainedConfig
from transformers.activations import ACT2FN

from ..errors import NeuronMMError


# Far above any model: a config that says more is damaged, and would keep the program busy.
MOST_LAYERS, MOST_FEATURES, MOST = 1000, 2**20, 2**31
_NEEDED = {
    "hidden_size": MOST_FEATURES,
    "intermediate_size": MOST_FEATURES,
    "num_hidden_layers": MOST_LAYERS,
    "num_attention_heads": MOST_FEATURES,
    "vocab_size": MOST,
}
_ACTIVATIONS = ("hidden_act", "hidden_activation")  # a family has one of them
# null, or not there, where the family has no use for it.
_OPTIONAL = dict.fromkeys(("num_key_value_heads", "head_dim", "sliding_window", "max_position_embeddings"), MOST)


def check_sizes(raw: dict, name: str) -> None:
    """Checks what a config.json says of sizes.

    Args:
        raw: its content. name: of the model.

    Raises:
        NeuronMMError: a size is missing or no positive integer, or two of them do not go together.
    """
    missing = [size for size in _NEEDED if size not in raw]
    if missing:
        raise NeuronMMError(
            f"config.json of {name} does not say {', '.join(missing)}: expected all sizes of the model, because those that "
            "transformers would assume are of another one."
        )
    given = {size: raw[size] for size in _OPTIONAL if raw.get(size) is not None}
    for size, value in [*((size, raw[size]) for size in _NEEDED), *given.items()]:
        most = (_NEEDED | _OPTIONAL)[size]
        if type(value) is not int or not 1 <= value <= most:
            raise NeuronMMError(f"config.json of {name}: {size} must be an integer of 1 to {most}, got {value!r}.")
    heads, kv_heads = raw["num_attention_heads"], given.get("num_key_value_heads", 1)
    if heads % kv_heads:
        raise NeuronMMError(
            f"config.json of {name}: num_attention_heads must be a multiple of num_key_value_heads, got {heads} and {kv_heads}."
        )
    kinds = raw.get("layer_types")
    if kinds is not None:
        count = raw["num_hidden_layers"]
        if not isinstance(kinds, list) or len(kinds) != count or not all(isinstance(kind, str) for kind in kinds):
            told = f"{len(kinds)} entries" if isinstance(kinds, list) else repr(kinds)
            raise NeuronMMError(
                f"config.json of {name}: layer_types must be a list of {count} names, one for each layer, got {told}."
            )


def check_defaults(raw: dict, config: PretrainedConfig, name: str) -> None:
    """Checks that a config did not take heads from the default model of its family.

    Args:
        raw: config.json. config: what transformers made of it.

    Raises:
        NeuronMMError: a size is not in the file, and does not follow from the others.
    """
    heads = config.num_attention_heads
    for size, follows in (("num_key_value_heads", heads), ("head_dim", config.hidden_size // heads)):
        if raw.get(size) is None and getattr(config, size, None) not in (None, follows):
            raise NeuronMMError(
                f"config.json of {name} does not say {size}, which a {raw['model_type']} needs: transformers would assume "
                f"{getattr(config, size)}."
            )


def check_activation(raw: dict, config: PretrainedConfig, name: str) -> None:
    """Checks that the activation of the MLP is one that transformers has, which itself would not say what is wrong.

    Args:
        raw: config.json. config: what transformers made of it.

    Raises:
        NeuronMMError: it is not.
    """
    for field in _ACTIVATIONS:
        value = raw.get(field)
        # null is nothing where the family has the other one.
        none = field in raw and value is None and not any(getattr(config, other, None) for other in _ACTIVATIONS)
        if none or value is not None and not (isinstance(value, str) and value in ACT2FN):
            raise NeuronMMError(
                f"config.json of {name}: {field} must be the name of an activation of transformers, such as 'silu', got "
                f"{value!r}. Repair it, or fetch the model again."
            )
