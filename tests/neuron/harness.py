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
"""Small models, and their logits from optimum-neuron and from transformers, step by step as in generation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.conftest import save_tiny_model


if TYPE_CHECKING:
    import torch

FAMILIES = ("llama", "qwen2", "qwen3", "granite", "phi3", "smollm3")
# 4 ranks get a head each; 203 of the intermediate divides by none of 2, 4, 32; sampling on the device needs 256 tokens
# of the vocabulary on each rank.
OPTIONS = {"vocab_size": 1024, "intermediate_size": 203, "num_hidden_layers": 2, "max_position_embeddings": 128}
STEPS = 8
SHAPES = {"batch_size": 1, "sequence_length": 64, "tensor_parallel_size": 2}
GREEDY = {"do_sample": False, "max_new_tokens": 4, "pad_token_id": 0, "eos_token_id": None}


def save_model(directory: Path, family: str = "llama", *, tied: bool = False, **options) -> Path:
    """Writes a random model that 1, 2 or 4 ranks can share. `options` go to its config, `dtype` to its weights."""
    return save_tiny_model(directory, family, **{**OPTIONS, "tie_word_embeddings": tied, **options})


def tokens(batch_size: int = 1, length: int = 24, seed: int = 0) -> torch.Tensor:
    import torch

    return torch.randint(1, 250, (batch_size, length), generator=torch.Generator().manual_seed(seed))


def neuron_config(
    model: Path,
    *,
    tp: int = 1,
    batch_size: int = 1,
    sequence_length: int = 64,
    dtype: torch.dtype | None = None,
    on_device_sampling: bool = False,
    output_logits: bool | None = None,
    instance_type: str = "trn1",
    **changes,
):
    """The configuration that optimum-neuron makes for a model, changed so that `logits` can have logits.

    Without sampling on the device the model returns them. With it, it returns tokens, and beside them logits if
    `output_logits`, which is the default here; such a model cannot generate, so ask for `output_logits=False` to do so.
    `dtype` is that of config.json unless given.
    """
    from optimum.neuron import NeuronModelForCausalLM

    config = NeuronModelForCausalLM.get_neuron_config(
        str(model),
        instance_type=instance_type,
        batch_size=batch_size,
        sequence_length=sequence_length,
        tensor_parallel_size=tp,
    )
    config.on_device_sampling = on_device_sampling
    config.output_logits = on_device_sampling if output_logits is None else output_logits
    config.torch_dtype = dtype or config.torch_dtype
    if config.output_logits:  # the wrapper that feeds a continuous batch sequence by sequence cannot join such outputs
        config.continuous_batching = False
    for name, value in changes.items():
        if not hasattr(config, name):
            raise AttributeError(f"{type(config).__name__} has no {name}")
        setattr(config, name, value)
    return config


def export(model: Path, config=None, *, load_weights: bool = True, model_class=None, **options):
    """Compiles a model for `config`, or for `neuron_config(model, **options)`."""
    from optimum.neuron import NeuronModelForCausalLM

    config = config or neuron_config(model, **options)
    return (model_class or NeuronModelForCausalLM).export(str(model), neuron_config=config, load_weights=load_weights)


def logits(model, input_ids: torch.Tensor, decode_steps: int = STEPS) -> torch.Tensor:
    """Logits (batch, 1 + steps, vocabulary) of a compiled model: of the prompt's last token, then of each decode step.

    The last `decode_steps` of the tokens are fed one by one; those before are the prompt.
    """
    import torch
    from optimum.neuron.models.inference.backend.modules.generation.sampling import prepare_sampling_params

    batch_size, length = input_ids.shape
    assert length > decode_steps + 1, "no prompt is left"
    prompt = length - decode_steps
    fixed = {
        "seq_ids": torch.arange(batch_size),
        "sampling_params": prepare_sampling_params(batch_size=batch_size, top_k=1, top_p=1.0, temperature=1.0),
    }

    def step(begin, end):
        positions = torch.arange(begin, end).expand(batch_size, -1)
        outputs = model.forward(input_ids=input_ids[:, begin:end], position_ids=positions, **fixed)
        if isinstance(outputs, (list, tuple)):
            outputs = outputs[1]  # beside the sampled tokens
        assert outputs.is_floating_point(), "this model returns tokens: set output_logits"
        return outputs[:, -1:, : model.config.vocab_size].float()

    model.reset()
    steps = [step(0, prompt), *(step(position, position + 1) for position in range(prompt, length))]
    return torch.cat(steps, dim=1)


def torch_logits(torch_model, input_ids: torch.Tensor, decode_steps: int = STEPS) -> torch.Tensor:
    """What `logits` should be, from a transformers model (or the directory of one, in the dtype it was saved in)."""
    import torch

    if isinstance(torch_model, (str, Path)):
        torch_model = load_torch(torch_model)
    with torch.no_grad():
        return torch_model(input_ids).logits[:, -(decode_steps + 1) :].float()


def load_torch(model: Path, dtype: torch.dtype | None = None):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, dtype=dtype or "auto", attn_implementation="eager").eval()


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The relative error, as a norm."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def builder(build, weights: dict[str, torch.Tensor], *inputs: torch.Tensor, tp: int = 1):
    """A ModelBuilder with one graph: the module that `build()` makes, on inputs like these, with whole `weights`."""
    from neuronx_distributed.trace.model_builder import BaseModelInstance, ModelBuilder

    made = ModelBuilder(router=None, tp_degree=tp, checkpoint_loader=lambda: dict(weights))
    return made.add("module", BaseModelInstance(build, {}), [inputs])


def initialize(compiled, shards: list[dict[str, torch.Tensor]]):
    """Gives a compiled model the weights of every rank."""
    import torch

    compiled.nxd_model.initialize(shards, torch.tensor([0], dtype=torch.int32))
    return compiled


def run_module(build, weights: dict[str, torch.Tensor], *inputs: torch.Tensor, tp: int = 1):
    """Compiles a module on its own, shards and loads its weights, and runs it: what the first rank returns.

    `build` makes the module where parallel layers can be made. A module that is to show what other ranks have gathers it.
    """
    made = builder(build, weights, *inputs, tp=tp)
    return initialize(made.trace(initialize_model_weights=False), made.shard_checkpoint())(*inputs)


def same(compiled, checkpoint: Path) -> bool:
    """Whether a compiled model writes what transformers writes with the checkpoint."""
    import torch

    expected = load_torch(checkpoint).generate(tokens(), **GREEDY)
    return torch.equal(compiled.generate(tokens(), **GREEDY), expected)
