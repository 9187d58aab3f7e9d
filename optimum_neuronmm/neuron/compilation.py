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
"""What was decided for the compilation of a compressed model, and how it travels in config.json.

`quantization_config["compilation"]` holds the number of ranks, the layout of every layer's MLP and the kernel that each
graph uses for it. A model that is loaded again is rebuilt from it, whatever a later version would decide.
"""

import copy
from dataclasses import dataclass

from ..configuration import QUANT_METHOD, NeuronMMConfig
from ..errors import NeuronMMError
from ..kernels import get_machine
from ..kernels.latency.constants import constants_of
from .form import Form, forms_of
from .program import kernels_for
from .selection import Table, choose_kernels


@dataclass(frozen=True)
class Compilation:
    """Forms of the MLPs, None where one is dense, and the kernels of every graph."""

    forms: tuple[Form | None, ...]
    kernels: Table

    @classmethod
    def decide(cls, forms: tuple[Form | None, ...], neuron_config, options: NeuronMMConfig) -> "Compilation":
        """Chooses the kernels for MLPs of these forms. With the SDK, they are tried out here, which takes minutes.

        Args:
            neuron_config: optimum-neuron's. options: `kernel` counts.

        Raises:
            NeuronMMError: kernels are insisted on, and one cannot be used.
        """
        dtype, target = neuron_config.torch_dtype, neuron_config.target
        cores, rows = neuron_config.logical_nc_config, graph_rows(neuron_config)
        return cls(forms, choose_kernels(list(forms), rows, dtype, target, cores, options.kernel))

    @classmethod
    def read(cls, config, neuron_config) -> "Compilation":
        """What `write_to` wrote.

        Raises:
            NeuronMMError: it is not there, or for another number of ranks.
        """
        written = _quantization_dict(config).get("compilation") or {}
        try:
            tp, layouts, kernels = written["tensor_parallel_size"], written["layouts"], written["kernels"]
            forms = forms_of(config, compressed_with(config).modules, tp, layouts)
            found = cls(tuple(forms), kernels)
            found._check()
        except NeuronMMError:
            raise
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise NeuronMMError(
                f"config.json does not say how the model was compiled ({error!r}): compile it again."
            ) from error
        if tp != neuron_config.tp_degree:
            raise NeuronMMError(
                f"config.json is for {tp} ranks and neuron_config.json for {neuron_config.tp_degree}: compile the model again."
            )
        return found

    def _check(self) -> None:
        for layer, form in enumerate(self.forms):
            known = {None, *(kernels_for(form) if form else ())}
            if unknown := set(self.kernels_of(layer).values()) - known:
                raise ValueError(f"no kernel {unknown.pop()!r} for layer {layer}")

    def write_to(self, config) -> None:
        """Puts it into a config that is going to be saved."""
        written = {
            "tensor_parallel_size": next(form.tp for form in self.forms if form is not None),
            "layouts": [form and form.layout for form in self.forms],
            "kernels": self.kernels,
        }
        config.quantization_config = {**_quantization_dict(config), "compilation": written}

    def kernel_names(self) -> list[str]:
        """Every kernel that a layer of some graph uses."""
        return sorted({name for names in self.kernels.values() for name in names if name is not None})

    def kernels_of(self, layer: int) -> dict[int, str | None]:
        """Rows of a graph -> the kernel of a layer."""
        return {int(rows): names[layer] for rows, names in self.kernels.items()}


def decide_forms(config, neuron_config, options: NeuronMMConfig) -> tuple[Form | None, ...]:
    """How the MLPs of a compressed model are laid out over the ranks; None where one is dense.

    Args:
        config: of the compressed model. neuron_config: optimum-neuron's. options: `layout` counts.

    Raises:
        NeuronMMError: the checkpoint's config is damaged.
    """
    modules = compressed_with(config).modules
    if not modules:
        raise NeuronMMError("config.json lists no factorised projection: compress the model again.")
    return tuple(forms_of(config, modules, neuron_config.tp_degree, options.layout, bandwidth_of(neuron_config)))


def with_sampling(neuron_config, options: NeuronMMConfig):
    """A copy of an optimum-neuron configuration, with what `options.sampling` says."""
    neuron_config = copy.deepcopy(neuron_config)
    if options.sampling == "host":  # "device" leaves it to optimum-neuron, which knows where that fails
        neuron_config.on_device_sampling = False
        neuron_config.output_logits = False  # would return them a second time
    return neuron_config


def bandwidth_of(neuron_config) -> float:
    """Parameters per second that one rank can expect to read of HBM."""
    cores, itemsize = neuron_config.logical_nc_config, neuron_config.torch_dtype.itemsize
    return constants_of(get_machine(neuron_config.target)).saturated * cores / itemsize


def graph_rows(neuron_config) -> list[int]:
    """Rows of hidden states in each graph: prefill, decode, and speculation where there is one."""
    rows = [neuron_config.ctx_batch_size * neuron_config.max_context_length, neuron_config.tkg_batch_size]
    if neuron_config.speculation_length > 0:
        rows.append(neuron_config.tkg_batch_size * neuron_config.speculation_length)
    return list(dict.fromkeys(rows))


def is_compressed(config) -> bool:
    """Whether a transformers config is that of a compressed checkpoint."""
    return _quantization_dict(config).get("quant_method") == QUANT_METHOD


def compressed_with(config) -> NeuronMMConfig:
    """The `NeuronMMConfig` of a compressed checkpoint."""
    return NeuronMMConfig.from_dict(_quantization_dict(config))


def _quantization_dict(config) -> dict:
    written = getattr(config, "quantization_config", None) or {}
    return written if isinstance(written, dict) else written.to_dict()
