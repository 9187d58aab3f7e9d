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

import hashlib
import importlib.metadata
import json
import os
import re
from pathlib import Path

from huggingface_hub.constants import HF_HOME
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from .calibration import check_sources, file_stats
from .compression import compress
from .configuration import NeuronMMConfig
from .errors import NeuronMMError
from .source import open_dense


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

    Not to be instantiated: `from_pretrained` returns a transformers model on a machine without the Neuron SDK.
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
        """Loads a model; with `neuronmm`, compresses it first.

        A compressed model is kept in `~/.cache/huggingface/neuronmm` (`HF_HOME` moves it), so that the same call
        compresses only once.

        Args:
            model_id: Hub id or directory, of a dense model or of a compressed one.
            neuronmm: True for the defaults of `NeuronMMConfig`, or a config, or its options as a dictionary. Without
                it the model is loaded as it is.
            revision, cache_dir, token, trust_remote_code: as in transformers.
            kwargs: for `AutoModelForCausalLM.from_pretrained`. Options of a compilation (`batch_size`,
                `sequence_length`, `tensor_parallel_size`, ...) are left out on a machine without the Neuron SDK.

        Raises:
            NeuronMMError: where something of the model or the options has to be put right.
        """
        config = _as_config(neuronmm)
        if config and resolve_target(config.target) == "neuron":
            raise NeuronMMError(
                "This version does not compile yet. To run on the CPU, use neuronmm=NeuronMMConfig(target='cpu')."
            )
        ignored = sorted(name for name in _COMPILATION if kwargs.pop(name, None) is not None)
        notice = f" ({', '.join(ignored)} matter only to a compilation)" if ignored else ""
        logger.warning(f"Not compiled for a Neuron device: running through PyTorch{notice}.")
        hub = {"revision": revision, "cache_dir": cache_dir, "token": token}
        if config is None or _is_compressed(model_id, hub):
            if config is not None:
                logger.warning(f"{model_id} is compressed already: its own settings apply.")
            return AutoModelForCausalLM.from_pretrained(model_id, trust_remote_code=trust_remote_code, **hub, **kwargs)
        directory = _compressed_once(model_id, config, trust_remote_code, hub)
        return AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=trust_remote_code, **kwargs)


def resolve_target(target: str) -> str:
    """ "cpu" or "neuron": for "auto", neuron where the Neuron SDK is installed."""
    has_sdk = _has_neuron_sdk()
    if target == "neuron" and not has_sdk:
        raise NeuronMMError(
            "Target neuron needs the Neuron SDK (torch_neuronx), which is not installed here. Use target cpu to write the "
            "compressed checkpoint, and compile it on the instance."
        )
    return target if target != "auto" else ("neuron" if has_sdk else "cpu")


def _has_neuron_sdk() -> bool:
    """Whether torch_neuronx is installed, and is not the placeholder of that name."""
    try:
        return importlib.metadata.version("torch-neuronx").split(".")[0] not in ("", "0")
    except importlib.metadata.PackageNotFoundError:
        return False


def _as_config(neuronmm) -> NeuronMMConfig | None:
    if neuronmm is None or neuronmm is False:
        return None
    if neuronmm is True:
        return NeuronMMConfig()
    if isinstance(neuronmm, dict):
        return NeuronMMConfig.from_dict(neuronmm)
    if isinstance(neuronmm, NeuronMMConfig):
        return neuronmm
    raise NeuronMMError(f"neuronmm must be True, a NeuronMMConfig or a dictionary of its options, got {neuronmm!r}.")


def _is_compressed(model_id, hub: dict) -> bool:
    from transformers import PretrainedConfig

    try:
        config, _ = PretrainedConfig.get_config_dict(model_id, **hub)
    except (OSError, ValueError):
        return False  # opening it as a dense model says what is wrong
    return (config.get("quantization_config") or {}).get("quant_method") == "neuronmm"


def _compressed_once(model_id, config: NeuronMMConfig, trust_remote_code: bool, hub: dict) -> Path:
    """The cached directory of `model_id` compressed with `config`; written if it is not there."""
    checkpoint = open_dense(model_id, **hub, trust_remote_code=trust_remote_code)
    check_sources(config)
    content = [checkpoint.fingerprint(), config.deciding_options(), file_stats(config.calibration)]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    name = re.sub(r"[^\w.-]+", "--", str(model_id)).strip("-")[-60:]
    directory = Path(HF_HOME) / "neuronmm" / f"{name}-{key[:16]}"
    if (directory / "config.json").is_file():
        logger.warning(f"Using the compressed model in {directory}.")
    else:
        compress(model_id, directory, config, trust_remote_code=trust_remote_code, **hub)
    return directory
