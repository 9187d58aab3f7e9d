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
"""The doors to compiled models, for the rest of the package."""

from ..compiled import find_compiled
from ..configuration import NeuronMMConfig
from ..errors import NeuronMMError
from ..families import family_of
from .checkpoint import hub_options, read_config
from .sdk import require_sdk


def load(model_id, neuronmm: NeuronMMConfig | None, **kwargs):
    """Loads a compiled model onto the device; with `neuronmm`, compresses and compiles it first.

    kwargs: for optimum-neuron's `NeuronModelForCausalLM.from_pretrained`.

    Raises:
        NeuronMMError: where something of the model, the options or the machine has to be put right.
    """
    require_sdk()
    from optimum.neuron import NeuronModelForCausalLM

    config = _read_config(model_id, kwargs)
    if neuronmm is not None:
        compressible_class(config)
    if not kwargs.get("trust_remote_code"):  # optimum-neuron warns of it
        kwargs.pop("trust_remote_code", None)
    return NeuronModelForCausalLM.from_pretrained(model_id, neuronmm=neuronmm, **kwargs)


def compile_model(model_id, options: NeuronMMConfig, **kwargs):
    """Compresses where needed and compiles, for which no device is needed.

    Raises:
        NeuronMMError: the model cannot be compressed, optimum-neuron cannot compile it, or it is compiled already.
    """
    config = _read_config(model_id, kwargs)
    if find_compiled(model_id, **hub_options(kwargs)) is not None:
        raise NeuronMMError(f"{model_id} is compiled already: pass the model that it was compiled from.")
    return compressible_class(config)._compile(model_id, config, options, kwargs, load_weights=False)


def _read_config(model_id, kwargs: dict):
    return read_config(model_id, bool(kwargs.get("trust_remote_code")), **hub_options(kwargs))


def compressible_class(config) -> type:
    """The model class for a transformers config.

    Raises:
        NeuronMMError: its MLPs cannot be compressed, or optimum-neuron has no class for it.
    """
    family_of(config)
    from optimum.neuron.models.auto_model import get_neuron_model_class

    from . import models  # noqa: F401 - puts the classes into the registry

    try:
        return get_neuron_model_class(config.model_type, "text-generation", "inference")
    except ValueError as error:
        raise NeuronMMError(
            f"optimum-neuron cannot compile a {config.model_type}, although its MLPs can be compressed (target cpu): {error}"
        ) from error
