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
"""The compressed checkpoint that a compilation starts from, on this disk."""

import os
import textwrap
from pathlib import Path

from transformers import AutoConfig
from transformers.utils import logging

from ..cache import compressed_once, is_compressed
from ..configuration import NeuronMMConfig
from ..errors import NeuronMMError
from ..families import family_of
from ..source import TensorInfo, download, list_shards
from .conversion import expected_tensors
from .form import Form


logger = logging.get_logger(__name__)

HUB = ("revision", "cache_dir", "token")  # arguments that say where on the Hub, and as whom
_FACTORS = (".u.weight", ".v.weight")


def hub_options(arguments: dict) -> dict:
    """Those of `HUB` among the arguments of a call, None for what was not given."""
    return {name: arguments.get(name) for name in HUB}


def read_config(model_id, trust_remote_code: bool = False, **hub):
    """The transformers config of a directory or Hub id.

    hub: `revision`, `cache_dir`, `token`.

    Raises:
        NeuronMMError: there is none, or it is not that of a transformers model.
    """
    if os.path.exists(model_id) and not os.path.isfile(Path(model_id) / "config.json"):
        reason = "it has no config.json"
        if os.path.isfile(Path(model_id) / "model_index.json"):
            reason = "it is a diffusion pipeline (model_index.json)"
    else:
        try:
            return AutoConfig.from_pretrained(model_id, trust_remote_code=trust_remote_code, **hub)
        except Exception as error:  # of the Hub, of JSON, of code of each family and of the model itself
            raise _not_a_model(model_id, str(error).strip() or type(error).__name__) from error
    raise _not_a_model(model_id, reason)


def _not_a_model(model_id, reason: str) -> NeuronMMError:
    advice = " Check the spelling, the connection and, for gated models, that you are logged in (hf auth login)."
    return NeuronMMError(
        f"{model_id} cannot be used: {textwrap.shorten(reason, 500).rstrip('.')}. Expected the directory or Hub id of a decoder "
        f"model.{'' if os.path.isdir(model_id) else advice}"
    )


def local_checkpoint(model_id, options: NeuronMMConfig | None, trust_remote_code: bool = False, **hub) -> Path:
    """The directory of a compressed checkpoint: `model_id` itself, its snapshot, or what compressing it gave.

    Args:
        options: how to compress a model that is dense.
        hub: `revision`, `cache_dir`, `token`.

    Raises:
        NeuronMMError: the model cannot be found or compressed.
    """
    if options is None or is_compressed(model_id, **hub):
        if options is not None:
            logger.warning(
                f"{model_id} is compressed already, and compiled as it is: of the options, kernel, layout, sampling and "
                "dtype count."
            )
        return Path(model_id) if os.path.isdir(model_id) else download(str(model_id), **hub)
    return compressed_once(model_id, options, trust_remote_code, **hub)


def check_factors(directory: Path, config, forms: tuple[Form | None, ...]) -> None:
    """Compares the weights that a checkpoint stores with its config.json, before anything is compiled.

    Raises:
        NeuronMMError: a tensor is missing or has another shape.
    """
    family = family_of(config)
    stored: dict[str, TensorInfo] = {}
    for tensors in list_shards(directory, str(directory)).values():
        stored |= tensors
    for layer, form in enumerate(forms):
        prefix = f"{family.layer_path(layer)}.{family.mlp}."
        found = {name.removeprefix(prefix): info.shape for name, info in stored.items() if name.startswith(prefix)}
        if form is None:  # the shapes of what is dense are optimum-neuron's to check
            found = {name: shape for name, shape in found.items() if name.endswith(_FACTORS)}
        expected = {} if form is None else expected_tensors(form, family)
        for name in {**expected, **found}:
            if found.get(name) != expected.get(name):
                raise NeuronMMError(
                    f"{prefix}{name} of {directory} is {found.get(name, 'missing')}, expected "
                    f"{expected.get(name, 'none of that name')} by its config.json. Fetch or compress the model again."
                )
