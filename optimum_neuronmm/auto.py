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
"""NeuronModelForCausalLM: one door, whatever machine it is opened on."""

import importlib.metadata
import os

from transformers import AutoModelForCausalLM
from transformers.utils import logging

from .cache import compressed_once, is_compressed
from .compiled import find_compiled
from .configuration import NeuronMMConfig, as_config
from .errors import NeuronMMError


logger = logging.get_logger(__name__)

# Options of a compilation. On a machine that cannot compile they have no meaning.
_COMPILATION = (
    "batch_size",
    "sequence_length",
    "tensor_parallel_size",
    "instance_type",
    "auto_cast",
    "auto_cast_type",
    "export",
)


class NeuronModelForCausalLM:
    """Loads, and where asked compresses, a causal language model for the machine at hand.

    Not to be instantiated: `from_pretrained` returns a model of optimum-neuron where one is compiled, and a transformers model
    on a machine without the Neuron SDK.
    """

    def __init__(self):
        raise TypeError("Use NeuronModelForCausalLM.from_pretrained(model, neuronmm=True).")

    @classmethod
    def from_pretrained(
        cls,
        model_id: str | os.PathLike,
        *,
        neuronmm: "bool | dict | NeuronMMConfig | None" = None,
        revision: str | None = None,
        cache_dir: str | None = None,
        token: str | None = None,
        trust_remote_code: bool = False,
        **kwargs,
    ):
        """Loads a model; with `neuronmm`, compresses it first, and compiles it where the Neuron SDK is installed.

        A compressed model is kept in `~/.cache/huggingface/neuronmm` (`HF_HOME` moves it), so that the same call
        compresses only once.

        Args:
            model_id: Hub id or directory, of a dense model, a compressed one or a compiled one.
            neuronmm: True for the defaults of `NeuronMMConfig`, or a config, or its options as a dictionary. Without
                it the model is loaded as it is.
            revision, cache_dir, token, trust_remote_code: as in transformers.
            kwargs: for a compilation: `batch_size`, `sequence_length`, `tensor_parallel_size`, `instance_type`, `dtype`. Where
                nothing is compiled they are left out, and the others are those of `AutoModelForCausalLM.from_pretrained`.

        Raises:
            NeuronMMError: where something of the model or the options has to be put right.
        """
        config = as_config(neuronmm)
        hub = {"revision": revision, "cache_dir": cache_dir, "token": token}
        compiled = find_compiled(model_id, **hub) is not None
        if compiled and not has_neuron_sdk():
            raise NeuronMMError(
                f"{model_id} is a compiled model, which needs the Neuron SDK (torch_neuronx), and that is not installed here. Load "
                "the checkpoint that it was compiled from."
            )
        if compiled or (config and resolve_target(config.target) == "neuron"):
            from .neuron.loading import load

            given = {name: value for name, value in hub.items() if value is not None}
            return load(model_id, config, trust_remote_code=trust_remote_code, **given, **kwargs)
        ignored = sorted(name for name in _COMPILATION if kwargs.pop(name, None) is not None)
        notice = f" ({', '.join(ignored)} matter only to a compilation)" if ignored else ""
        logger.warning(f"Not compiled for a Neuron device: running through PyTorch{notice}.")
        if config is None or is_compressed(model_id, **hub):
            if config is not None:
                logger.warning(f"{model_id} is compressed already: its own settings apply.")
            return AutoModelForCausalLM.from_pretrained(model_id, trust_remote_code=trust_remote_code, **hub, **kwargs)
        directory = compressed_once(model_id, config, trust_remote_code, **hub)
        return AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=trust_remote_code, **kwargs)


def resolve_target(target: str) -> str:
    """ "cpu" or "neuron": for "auto", neuron where the Neuron SDK is installed."""
    has_sdk = has_neuron_sdk()
    if target == "neuron" and not has_sdk:
        raise NeuronMMError(
            "Target neuron needs the Neuron SDK (torch_neuronx), which is not installed here. Use target cpu to write the "
            "compressed checkpoint, and compile it on the instance."
        )
    return target if target != "auto" else ("neuron" if has_sdk else "cpu")


def has_neuron_sdk() -> bool:
    """Whether torch_neuronx is installed, and is not the placeholder of that name."""
    try:
        return importlib.metadata.version("torch-neuronx").split(".")[0] not in ("", "0")
    except importlib.metadata.PackageNotFoundError:
        return False
