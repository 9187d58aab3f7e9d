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
"""Compressed checkpoints of tiny models, without calibration: any rank, or none, for any projection of any layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import torch

    from optimum_neuronmm.families import Family
    from optimum_neuronmm.neuron.form import Form


def save_compressed(dense: Path, directory: Path, ranks: dict[str, int | None] | None = None, **layers) -> Path:
    """Writes the dense model at `dense` with factors in its MLPs.

    Args:
        ranks: attribute of the MLP -> rank, in every layer; 32 for all by default. None leaves one dense.
        layers: `layer_0={...}` replaces `ranks` in one layer.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from optimum_neuronmm import NeuronMMConfig
    from optimum_neuronmm.families import family_of
    from optimum_neuronmm.modeling import replace_projections

    model = AutoModelForCausalLM.from_pretrained(dense, dtype="auto")
    family = family_of(model.config)
    ranks = dict.fromkeys(family.projections, 32) if ranks is None else ranks
    modules, factors = {}, {}
    for layer in range(model.config.num_hidden_layers):
        for attribute, rank in layers.get(f"layer_{layer}", ranks).items():
            if rank is None:
                continue
            path = family.projection_path(layer, attribute)
            modules[path] = {"rank": rank, "storage": "uv"}
            left, values, right = torch.linalg.svd(model.get_submodule(path).weight.float(), full_matrices=False)
            # More singular vectors than there are stand for a rank that is larger: zeros would hide what is dropped.
            extra = max(0, rank - len(values))
            v = torch.cat([left[:, :rank] * values[:rank], torch.randn(left.shape[0], extra)], dim=1)
            u = torch.cat([right[:rank], torch.randn(extra, right.shape[1]) / right.shape[1] ** 0.5])
            bias = model.get_submodule(path).bias
            factors[path] = (u, v, None if bias is None else bias.detach().clone())
    config = NeuronMMConfig(modules=modules, block_size=32)
    replace_projections(model, modules)
    with torch.no_grad():
        for path, (u, v, bias) in factors.items():
            module = model.get_submodule(path)
            module.u.weight.copy_(u)
            module.v.weight.copy_(v)
            if bias is not None:
                module.v.bias.copy_(bias)
    model.config.quantization_config = config.to_dict()
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(dense).save_pretrained(directory)
    return directory


def export(checkpoint: Path, *, layout: str = "auto", kernel: str = "compiler", load_weights: bool = True, **options):
    """Compiles a compressed checkpoint; `options` are those of `harness.neuron_config`."""
    from optimum.neuron import NeuronModelForCausalLM

    import optimum_neuronmm.neuron.models  # noqa: F401 - puts the classes into the registry
    from tests.neuron import harness

    return NeuronModelForCausalLM.export(
        str(checkpoint),
        neuron_config=harness.neuron_config(checkpoint, **options),
        load_weights=load_weights,
        neuronmm={"layout": layout, "kernel": kernel},
    )


def checkpoint_tensors(form: Form, family: Family, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Random tensors of one MLP in float64, by the names and shapes that docs/source/concepts/checkpoint_format.mdx gives."""
    import torch

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64) / shape[-1] ** 0.5

    tensors = {}
    for attribute, computes in family.projections.items():
        rank = getattr(form, computes[0])
        K, N = (form.I, form.H) if computes == ("down",) else (form.H, len(computes) * form.I)
        if rank is None:
            tensors[f"{attribute}.weight"] = draw(N, K)
        else:
            tensors |= {f"{attribute}.u.weight": draw(rank, K), f"{attribute}.v.weight": draw(N, rank)}
            tensors[f"{attribute}.weight"] = torch.zeros(0, dtype=torch.float64)
        if form.biased:
            tensors[f"{attribute}.bias" if rank is None else f"{attribute}.v.bias"] = draw(N)
    return tensors
