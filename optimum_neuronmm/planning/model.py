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
"""The sizes of a model, from its config.json. No weight is read, and none is made."""

import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from ..configuration import QUANT_METHOD
from ..errors import NeuronMMError
from ..families import Family, family_of
from ..ranks import Shape
from ..source import read_config_json
from .sizes import check_activation, check_defaults, check_sizes


@dataclass(frozen=True)
class Model:
    """What decides the latency of a decoder.

    Attributes:
        name: what the user called it: a Hub id or a directory.
        config: of transformers. family: where its MLPs are.
        parameters: of the dense model, tied ones counted once.
        embedding: parameters of the embedding of tokens. head: of the projection to logits, tied or not.
        tied: the two are one.
        modules: the factorised projections of a model that is compressed already, as `NeuronMMConfig.modules`.
    """

    name: str
    config: PretrainedConfig
    family: Family
    parameters: int
    embedding: int
    head: int
    tied: bool
    modules: dict[str, dict]

    @property
    def layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def hidden(self) -> int:
        return self.config.hidden_size

    @property
    def heads(self) -> int:
        return self.config.num_attention_heads

    @property
    def kv_heads(self) -> int:
        return getattr(self.config, "num_key_value_heads", None) or self.heads

    @property
    def head_size(self) -> int:
        return getattr(self.config, "head_dim", None) or self.hidden // self.heads

    @property
    def windows(self) -> list[int | None]:
        """Of every layer: the keys that a query sees at most, None where all."""
        window = getattr(self.config, "sliding_window", None)
        kinds = getattr(self.config, "layer_types", None) or ["sliding_attention"] * self.layers
        return [window if kind == "sliding_attention" else None for kind in kinds]

    @property
    def projections(self) -> dict[str, Shape]:
        """The projections of one MLP, by attribute. A matrix that computes gate and up has the columns of both."""
        H, I = self.hidden, self.config.intermediate_size  # noqa: E741
        return {
            attribute: Shape(I, H) if "down" in computes else Shape(H, I * len(computes))
            for attribute, computes in self.family.projections.items()
        }

    @property
    def paths(self) -> dict[str, Shape]:
        """The projections of all MLPs, by path."""
        return {
            self.family.projection_path(layer, attribute): shape
            for layer in range(self.layers)
            for attribute, shape in self.projections.items()
        }

    @property
    def mlp_parameters(self) -> int:
        """Of all dense MLPs, biases not."""
        return self.layers * sum(shape.dense_parameters for shape in self.projections.values())

    def attention_parameters(self, tensor_parallel_size: int = 1) -> int:
        """Of the projections of one layer's attention that one rank holds: whole heads, and of keys and values at least one."""
        heads, kv_heads = (-(-n // tensor_parallel_size) for n in (self.heads, self.kv_heads))
        return self.hidden * self.head_size * (2 * heads + 2 * kv_heads)

    @property
    def other_parameters(self) -> int:
        """Norms and biases."""
        head = 0 if self.tied else self.head
        counted = self.mlp_parameters + self.layers * self.attention_parameters() + self.embedding + head
        return self.parameters - counted


def read_model(model: str | Path, revision: str | None = None, cache_dir: str | None = None) -> Model:
    """The model of a directory or a Hub id; of the Hub, config.json alone is fetched.

    Code that a model brings along is never run: families are those of transformers.

    Raises:
        NeuronMMError: there is no config.json, it is damaged or lacks a size, or its family is not supported; or a directory
            was given a revision.
    """
    name = str(model)
    if not name.strip():
        raise NeuronMMError(f"expected a model: a directory with config.json, or a Hub id, got {name!r}.")
    if revision is not None and os.path.isdir(model):
        raise NeuronMMError(
            f"{name} is a directory, which has no revisions, got {revision!r}: leave it out, or give a Hub id."
        )
    folder = Path(model) if os.path.isdir(model) else _fetch(name, revision, cache_dir)
    raw = read_config_json(folder, name)
    if not isinstance(raw.get("model_type"), str):
        raise NeuronMMError(f"config.json of {name} has no model_type. Expected that of a Hugging Face model.")
    family_of(SimpleNamespace(**raw))  # before transformers reads it, which does not know every type
    modules = _factorised(raw, name)
    check_sizes(raw, name)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        check_defaults(raw, config, name)
        check_activation(raw, config, name)
        found = measure(config, name, modules)
        _check_ranks(found)
        return found
    except NeuronMMError:
        raise
    except Exception as error:  # its fields reach code of each family
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NeuronMMError(
            f"transformers could not build a {raw['model_type']} from the config.json of {name}: {reason}"
        ) from error


def measure(config: PretrainedConfig, name: str, modules: dict[str, dict] | None = None) -> Model:
    """The model of a config.

    Args:
        modules: of a compressed one.
    """
    family = family_of(config)
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    embedding, head = skeleton.get_input_embeddings().weight, skeleton.get_output_embeddings().weight
    parameters = sum(parameter.numel() for parameter in skeleton.parameters())
    return Model(
        name, config, family, parameters, embedding.numel(), head.numel(), head is embedding, modules or {}
    )  # fmt: skip


def _fetch(name: str, revision: str | None, cache_dir: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    if os.path.exists(name):
        raise NeuronMMError(f"{name} is a file. Expected a directory with config.json, or a Hub id.")
    try:
        return Path(hf_hub_download(name, "config.json", revision=revision, cache_dir=cache_dir)).parent
    except (HFValidationError, OSError, EntryNotFoundError) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise NeuronMMError(
                f"{name} has no config.json. Expected the repository of a Hugging Face model."
            ) from error
        raise NeuronMMError(
            f"{name} is neither a directory nor a Hub model that could be fetched ({type(error).__name__}). Check the "
            "spelling, the connection and, for gated models, that you are logged in (hf auth login)."
        ) from error


def _factorised(raw: dict, name: str) -> dict[str, dict]:
    """The factorised projections that a config lists."""
    quantization = raw.get("quantization_config")
    if quantization is None:
        return {}
    method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
    if method != QUANT_METHOD:
        raise NeuronMMError(f"{name} is quantised ({method}), which is not predicted: plan the original model.")
    modules = quantization.get("modules")
    ranks = (
        [entry.get("rank") if isinstance(entry, dict) else None for entry in (modules or {}).values()]
        if isinstance(modules, dict)
        else []
    )
    if not ranks or not all(type(rank) is int and rank > 0 for rank in ranks):
        raise NeuronMMError(
            f"config.json of {name} lists no factorised projections with ranks: compress the model again."
        )
    return modules


def _check_ranks(model: Model) -> None:
    """Checks that the factorised projections are those of the model, with ranks that their matrices can have."""
    paths = model.paths
    for path, entry in model.modules.items():
        shape, rank = paths.get(path), entry["rank"]
        if shape is None:
            raise NeuronMMError(
                f"config.json of {model.name} lists a factorised projection {path!r}, and a {model.config.model_type} of "
                f"{model.layers} layers has none of that name: fetch or compress the model again."
            )
        most = min(shape.K, shape.N)
        if rank > most:
            raise NeuronMMError(
                f"config.json of {model.name}: the rank of {path} must be an integer of 1 to {most}, as its matrix is "
                f"{shape.K} x {shape.N}, got {rank}. Fetch or compress the model again."
            )
