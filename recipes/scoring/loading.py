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
"""Loads any causal LM for scoring: dense, compressed, or compiled for a Neuron device."""

from functools import cached_property

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from optimum_neuronmm.compiled import find_compiled
from optimum_neuronmm.errors import NeuronMMError

from .identity import Identity
from .likelihood import ScoringModel


_DEFAULT_LENGTH = 2048  # of a model that says nothing
_NO_LIMIT = 10**9  # transformers writes a very large number where a tokenizer has no limit


class LoadedModel:
    """A model for scoring, whose weights are read when they are first needed.

    Attributes:
        identity: which model it is.
        dtype: to compute in, a torch dtype's name; of a compiled model the one that it has.
        device: "cpu", "cuda" or "neuron".
    """

    def __init__(self, identity: Identity, dtype: str, device: str | None = None, trust_remote_code: bool = False):
        self.identity, self._trust = identity, trust_remote_code
        self.is_compiled = identity.kind == "compiled"
        self.device = "neuron" if self.is_compiled else device or ("cuda" if torch.cuda.is_available() else "cpu")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise NeuronMMError("Device cuda needs an NVIDIA GPU and a PyTorch with CUDA, which is not here. Use cpu.")
        self.dtype = (
            str(find_compiled(identity.directory)["torch_dtype"]).removeprefix("torch.") if self.is_compiled else dtype
        )

    @cached_property
    def tokenizer(self):
        try:
            return AutoTokenizer.from_pretrained(self.identity.directory, trust_remote_code=self._trust)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise NeuronMMError(
                f"{self.identity.name} has no tokenizer that can be loaded ({type(error).__name__}: {error}). Put the files of "
                "its tokenizer beside its weights."
            ) from error

    @cached_property
    def max_length(self) -> int:
        """Most tokens that the model takes as input."""
        if self.is_compiled:
            return self.scoring.max_length
        try:
            config = AutoConfig.from_pretrained(
                self.identity.directory, trust_remote_code=self._trust
            ).get_text_config()
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise NeuronMMError(
                f"{self.identity.name} has no configuration that can be read ({type(error).__name__}: {error})."
            ) from error
        for name in ("max_position_embeddings", "n_positions", "n_ctx"):
            if isinstance(getattr(config, name, None), int):
                return getattr(config, name)
        limit = self.tokenizer.model_max_length
        return limit if limit < _NO_LIMIT else _DEFAULT_LENGTH

    @cached_property
    def model(self):
        """The model itself, which can generate."""
        if self.is_compiled:
            from optimum_neuronmm import NeuronModelForCausalLM

            return NeuronModelForCausalLM.from_pretrained(self.identity.directory)
        try:
            model, found = AutoModelForCausalLM.from_pretrained(
                self.identity.directory,
                dtype=getattr(torch, self.dtype),
                trust_remote_code=self._trust,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            if isinstance(error, NeuronMMError):
                raise
            raise NeuronMMError(
                f"{self.identity.name} could not be loaded ({type(error).__name__}: {error})."
            ) from error
        if found["missing_keys"]:  # transformers has made them up
            missing = sorted(found["missing_keys"])
            raise NeuronMMError(
                f"{self.identity.name} lacks {len(missing)} weights that the model has, such as {missing[0]}. Fetch or write it "
                "again."
            )
        return model.to(self.device)

    @cached_property
    def scoring(self) -> ScoringModel:
        if self.is_compiled:
            from .compiled_model import CompiledModel

            return CompiledModel(self.model, self.identity.name)
        from .torch_model import TorchModel

        return TorchModel(self.model, self.identity.name, self.max_length)

    def release(self) -> None:
        """Gives the memory of the weights back; they are read again where they are needed again."""
        for name in ("scoring", "model"):
            self.__dict__.pop(name, None)
        if self.device == "cuda":
            torch.cuda.empty_cache()
