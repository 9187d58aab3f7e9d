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
"""optimum-neuron's causal language models, with everything that compressed checkpoints need beside it.

Each class that optimum-neuron registers for text generation is replaced in its registry by a subclass, which behaves as
before for models that are not compressed. The command line, `NeuronModelForCausalLM`, pipelines and the vLLM plugin all look
the class up there.
"""

import copy
import os
import shutil
import textwrap
from functools import wraps
from pathlib import Path
from subprocess import SubprocessError

from optimum.neuron.models import auto_model
from optimum.neuron.models.inference import auto_models  # noqa: F401 - fills the registry
from optimum.neuron.models.inference.backend.modules.decoder.modeling_decoder import NxDModelForCausalLM
from optimum.neuron.utils import system
from transformers import AutoConfig
from transformers.utils import logging

from ..compiled import COMPILED_CONFIG, COMPILED_GRAPHS, find_compiled
from ..configuration import as_config
from ..errors import NeuronMMError
from ..families import family_of
from . import artifact
from .checkpoint import HUB, check_factors, hub_options, local_checkpoint, read_config
from .checks import (
    check_artifact,
    check_shapes,
    check_sizes,
    check_speedup,
    check_target,
    check_tensor_parallel,
    checked_dtype,
)
from .compilation import Compilation, compressed_with, decide_forms, is_compressed, with_sampling
from .conversion import convert_mlp
from .decoder import compressed_decoder
from .selection import check_kernels
from .summary import summarize


logger = logging.get_logger(__name__)


class NeuronMMModel:
    """What compressed models do otherwise; mixed into a model class of optimum-neuron."""

    _source: Path | None = None  # of the weights: a compressed checkpoint, or the directory of a compiled model

    # Building

    @classmethod
    def create_graph_builders(cls, config, neuron_config):
        builders = super().create_graph_builders(config, neuron_config)
        if is_compressed(config):
            for builder in builders.values():
                builder.model_cls = compressed_decoder(builder.model_cls)
        return builders

    @classmethod
    def convert_hf_to_neuron_state_dict(cls, state_dict: dict, config, neuron_config) -> dict:
        if not is_compressed(config):
            return super().convert_hf_to_neuron_state_dict(state_dict, config, neuron_config)
        family, converted, standing_in = family_of(config), {}, []
        for layer, form in enumerate(Compilation.read(config, neuron_config).forms):
            if form is not None:
                prefix = f"layers.{layer}.{family.mlp}."
                converted |= convert_mlp(state_dict, prefix, form, family)
                standing_in.append(prefix)
                # phi3's conversion cuts this one in two, whether or not it is there.
                fused = [name for name, computes in family.projections.items() if len(computes) > 1]
                state_dict.update(
                    {f"{prefix}{name}.weight": next(iter(converted.values())).new_empty(2, 0) for name in fused}
                )
        state_dict = super().convert_hf_to_neuron_state_dict(state_dict, config, neuron_config)
        for name in [name for name in state_dict if name.startswith(tuple(standing_in))]:
            del state_dict[name]
        return state_dict | converted

    # Compiling

    @classmethod
    def _export(cls, model_id, config, neuron_config, neuronmm=None, load_weights=False, **kwargs):
        options = as_config(neuronmm)
        if options is None and (config is None or not is_compressed(config)):
            return super()._export(model_id, config, neuron_config, load_weights=load_weights, **kwargs)
        trust, hub = bool(kwargs.get("trust_remote_code")), hub_options(kwargs)
        config = config or read_config(model_id, trust, **hub)
        cls._check(config, options, neuron_config.tp_degree, neuron_config.target, load_weights)
        neuron_config = with_sampling(neuron_config, options or compressed_with(config))
        check_sizes(config, neuron_config)
        source = local_checkpoint(model_id, options, trust, **hub)
        return cls._export_checkpoint(source, neuron_config, options, load_weights, kwargs)

    @classmethod
    def _export_checkpoint(cls, source: Path, neuron_config, options, load_weights: bool, kwargs: dict):
        """Compiles the compressed checkpoint in `source`, as it is."""
        config = AutoConfig.from_pretrained(source)
        options = options or compressed_with(config)
        forms = decide_forms(config, neuron_config, options)
        check_factors(source, config, forms)
        check_speedup(compressed_with(config), neuron_config)
        artifact.check_companions(source)
        compilation = Compilation.decide(forms, neuron_config, options)
        print(summarize(compilation, neuron_config), flush=True)
        compilation.write_to(config)
        neuron_config = copy.deepcopy(neuron_config)
        # The weights are those of `source`. By an id, optimum-neuron would fetch the dense model's.
        neuron_config.checkpoint_id = neuron_config.checkpoint_revision = None
        try:
            model = super()._export(str(source), config, neuron_config, load_weights=load_weights, **kwargs)
        except (RuntimeError, SubprocessError) as error:
            used = compilation.kernel_names()
            if not used:
                raise
            raise NeuronMMError(
                f"The model could not be compiled ({_brief(error)}). Its MLPs use the kernels {', '.join(used)}. See whether it "
                "compiles without them: kernel='compiler'."
            ) from error
        model._source = source.resolve()
        return model

    @classmethod
    def _compile(cls, model_id, config, options, kwargs: dict, load_weights: bool = True):
        """Compresses where needed and compiles; loads onto the device if `load_weights`."""
        kwargs = {name: value for name, value in kwargs.items() if name != "export"}
        shapes = {name: kwargs.pop(name, None) for name in ("batch_size", "sequence_length", "tensor_parallel_size")}
        instance_type, trust = kwargs.pop("instance_type", None), bool(kwargs.pop("trust_remote_code", False))
        hub = {name: kwargs.pop(name, None) for name in HUB}
        given = [checked_dtype(kwargs.pop(name, None)) for name in ("dtype", "torch_dtype")]
        dtype = next(filter(None, given), options.dtype)
        check_shapes(**shapes)
        ranks = shapes["tensor_parallel_size"] or max(system.get_available_cores(), 1)
        cls._check(config, options, ranks, instance_type, load_weights)
        shapes |= {"tensor_parallel_size": ranks, "instance_type": instance_type}
        check_sizes(config, with_sampling(cls._planned(config, shapes), options))
        source = local_checkpoint(model_id, options, trust, **hub)
        config = AutoConfig.from_pretrained(source)
        config.dtype = dtype or config.dtype
        neuron_config = with_sampling(cls.get_neuron_config(source, config=config, **shapes), options)
        return cls._export_checkpoint(source, neuron_config, options, load_weights, kwargs)

    @staticmethod
    def _check(config, options, ranks: int, instance_type: str | None, on_device: bool) -> None:
        """Refuses what would fail after a compression."""
        family_of(config)
        check_target(instance_type, on_device)
        check_tensor_parallel(config, ranks, on_device)
        check_kernels((options or compressed_with(config)).kernel, None)

    @classmethod
    def _planned(cls, config, shapes: dict):
        """What the neuron_config is going to be, but for its dtype and the place of the weights."""
        config = copy.copy(config)
        config.dtype = "float32"
        return cls.get_neuron_config(os.curdir, config=config, **shapes)  # of a Hub id, it would ask the Hub

    # Loading

    @classmethod
    def _from_pretrained(cls, model_id, config, neuronmm=None, **kwargs):
        options = as_config(neuronmm)
        if options is None and not is_compressed(config):
            return super()._from_pretrained(model_id, config, **kwargs)
        compiled = find_compiled(model_id, **hub_options(kwargs))
        if compiled is not None and is_compressed(config):
            if options is not None:
                logger.warning(f"{model_id} is compressed and compiled already: its own settings apply.")
            return cls._load_compiled(model_id, config, compiled, kwargs)
        if compiled is not None:
            raise NeuronMMError(
                f"{model_id} is compiled from a dense model: pass the model that it was compiled from."
            )
        if options is None:
            raise NeuronMMError(
                f"{model_id} is compressed but not compiled: pass neuronmm=True to compile it, or run `optimum-cli export "
                "neuron -m ... --neuronmm`."
            )
        return cls._compile(model_id, config, options, kwargs)

    @classmethod
    def _load_compiled(cls, model_id, config, compiled: dict, kwargs: dict):
        check_artifact(model_id, compiled, kwargs)
        fetching = (*HUB, "local_files_only", "force_download")
        source = artifact.local_artifact(model_id, compiled, **{name: kwargs.get(name) for name in fetching})
        try:
            model = super()._from_pretrained(str(source), config)
        except RuntimeError as error:
            raise NeuronMMError(
                f"{model_id} could not be loaded ({_brief(error)}). If no other process uses the Neuron cores (neuron-ls), its "
                f"{COMPILED_GRAPHS} may be damaged: fetch or compile it again."
            ) from error
        model._source = source.resolve()
        return model

    # Running

    @wraps(NxDModelForCausalLM.forward)
    def forward(self, input_ids, *args, **kwargs):
        longest = self.neuron_config.max_context_length
        if self._source is not None and input_ids.shape[-1] > longest:  # optimum-neuron cuts the prompt without a word
            raise NeuronMMError(
                f"The model is compiled for prompts of {longest} tokens at most, got {input_ids.shape[-1]}. Pass fewer, or compile "
                "it with a larger sequence_length."
            )
        return super().forward(input_ids, *args, **kwargs)

    # Saving

    def save_pretrained(self, save_directory, **kwargs):
        if self._source is None:
            return super().save_pretrained(save_directory, **kwargs)
        artifact.save(self, Path(save_directory), self._source, super().save_pretrained)

    def save_new(self, directory: Path) -> None:
        """Saves a compressed model where nothing is yet, and refuses a directory that holds anything by then."""
        artifact.save_new(self, directory, self._source, super().save_pretrained)

    def _save_pretrained(self, save_directory, **kwargs):
        if self._source is None:
            return super()._save_pretrained(save_directory, **kwargs)
        is_compiled = (self._source / COMPILED_CONFIG).is_file()
        self.save(save_directory, weight_path=None if is_compiled else str(self._source))
        if is_compiled:
            shutil.copytree(self._source / self.CHECKPOINT_DIR, Path(save_directory) / self.CHECKPOINT_DIR)

    def push_to_hub(
        self, save_directory, repository_id: str, private=None, revision=None, token=True, endpoint=None
    ) -> str:
        if self._source is None:
            return super().push_to_hub(
                save_directory, repository_id, private=private, revision=revision, token=token, endpoint=endpoint
            )
        from ..hub import push_to_hub

        token = token if isinstance(token, str) else None  # None is the stored one, which True means as well
        return push_to_hub(
            save_directory, repository_id, private=private, revision=revision, token=token, endpoint=endpoint
        )


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {textwrap.shorten(str(error), 300)}"


def register() -> None:
    """Puts the subclasses into optimum-neuron's registry. A second call changes nothing."""
    for (model_type, task, mode), base in list(auto_model._REGISTERED_NEURON_MODELS.items()):
        if mode != "inference" or not issubclass(base, NxDModelForCausalLM) or issubclass(base, NeuronMMModel):
            continue
        compressible = type(f"Compressible{base.__name__}", (NeuronMMModel, base), {"__module__": __name__})
        auto_model.register_neuron_model(model_type, task, mode)(compressible)


register()
