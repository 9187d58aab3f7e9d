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
"""optimum-neuron's decoders with compressed MLPs in the layers that have one.

The decoder is built as it is, with placeholders for the MLPs, which are then filled in: a dense MLP that is going to be
replaced is never allocated.
"""

import threading
from contextlib import contextmanager
from functools import cache

from optimum.neuron.models.inference.llama.modeling_llama import NeuronLlamaMLP
from torch import nn

from ..errors import NeuronMMError
from .compilation import Compilation
from .mlp import LowRankMLP


_building = threading.Lock()


@cache
def compressed_decoder(decoder: type[nn.Module]) -> type[nn.Module]:
    """The subclass of an optimum-neuron decoder (a model's `_model_cls`) whose MLPs are those that config.json describes."""

    class CompressedDecoder(decoder):
        def __init__(self, config, neuron_config):
            compilation = Compilation.read(config, neuron_config)
            with _placeholders():
                super().__init__(config, neuron_config)
            for index, layer in enumerate(self.layers):
                placeholder = getattr(layer, "mlp", None)
                if not isinstance(placeholder, NeuronLlamaMLP):
                    raise NeuronMMError(
                        f"{decoder.__name__} of this optimum-neuron builds its MLP as {type(placeholder).__name__}, expected "
                        "NeuronLlamaMLP. Install optimum-neuron 0.4.5."
                    )
                form = compilation.forms[index]
                layer.mlp = (
                    NeuronLlamaMLP(config, neuron_config)
                    if form is None
                    else LowRankMLP(
                        form,
                        compilation.kernels_of(index),
                        neuron_config.torch_dtype,
                        neuron_config.target,
                        neuron_config.logical_nc_config,
                    )
                )

    CompressedDecoder.__name__ = CompressedDecoder.__qualname__ = f"Compressed{decoder.__name__}"
    return CompressedDecoder


@contextmanager
def _placeholders():
    """Has `NeuronLlamaMLP` build nothing in this thread. qwen2 makes two for every layer, so counting cannot tell them apart."""
    mine = threading.get_ident()

    def build_nothing(self, *args, **kwargs):
        if threading.get_ident() == mine:
            nn.Module.__init__(self)
        else:
            build(self, *args, **kwargs)

    with _building:
        build = NeuronLlamaMLP.__init__
        NeuronLlamaMLP.__init__ = build_nothing
        try:
            yield
        finally:
            NeuronLlamaMLP.__init__ = build
