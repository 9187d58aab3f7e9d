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
"""Text that a model writes itself, as calibration data that nobody has to download."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from tqdm.auto import tqdm
from transformers import AttentionInterface, AutoModelForCausalLM, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from .calibration import check_vocabulary, document_start
from .errors import NeuronMMError
from .source import DenseCheckpoint


_BATCH = 36
_ATTENTION = "neuronmm_decode"


def sampler(
    checkpoint: DenseCheckpoint,
    tokenizer,
    seed: int,
    cached: Callable[[str, Callable[[], torch.Tensor]], torch.Tensor],
    device: torch.device,
    scratch: Path | None = None,
) -> Callable[[int, int], torch.Tensor]:
    """A function `(count, length) -> (count, length)` token ids, sampled at temperature 1 from the whole distribution.

    Every window begins with the token that begins a document and goes on past the end of one. The model is loaded
    whole for this, onto disk where it does not fit into memory (slow: prefer a file for such models).

    Args:
        cached: `cached(name, compute)` returns what an earlier run stored under `name`, or computes and stores it.
        device: to run the model on, if it fits there.
        scratch: directory on a disk with room for a model that does not fit into memory.
    """

    def sample(count: int, length: int) -> torch.Tensor:
        start, model = document_start(tokenizer), None
        check_vocabulary(start, checkpoint.config.vocab_size)
        batches = []
        with tqdm(total=count * length, desc="Sampling calibration text", unit="tok") as progress:
            for index, first in enumerate(range(0, count, _BATCH)):
                size = min(_BATCH, count - first)

                def compute(index=index, size=size):
                    nonlocal model
                    model = model or _load(checkpoint, device, scratch)
                    generator = torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**63)
                    return sample_tokens(model, start, size, length, generator, progress.update)

                batches.append(cached(f"self-{length}-{index}-{size}", compute))
                progress.update(size * length - (progress.n - first * length))
        return torch.cat(batches)

    return sample


@torch.no_grad()
def sample_tokens(
    model, start: int, count: int, length: int, generator: torch.Generator, advance: Callable[[int], object]
) -> torch.Tensor:
    """(count, length) token ids, the first of each `start`, the others drawn from the model's distribution.

    Raises:
        NeuronMMError: naming the layer, where the model's activations are not finite.
    """
    tokens = torch.full((count, length), start)
    cache = DynamicCache(config=model.config)
    for position in range(1, length):
        last = tokens[:, position - 1 : position].to(model.device)
        logits = model(input_ids=last, past_key_values=cache, use_cache=True).logits[:, -1]
        if not torch.isfinite(logits).all():
            raise _not_finite(model, tokens[:, :position])
        probabilities = logits.float().softmax(-1).cpu()
        tokens[:, position] = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        advance(count)
    return tokens


def _decode_attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Attention of one new token to the cache; torch's own for anything else.

    Queries that share a key head are rows of one product, so nothing is expanded. torch's fused attention takes four
    times as long here for bfloat16 on a CPU, and sampling is most of the work of calibrating on `self`.

    Shapes: query (n, heads, 1, d), key and value (n, key heads, t, d); returns (n, 1, heads, d) and no weights.
    """
    if query.shape[2] != 1 or query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    n, heads, _, d = query.shape
    grouped = (query * (d**-0.5 if scaling is None else scaling)).view(n, key.shape[1], -1, d)
    scores = grouped @ key.transpose(2, 3)  # (n, key heads, queries of a head, t)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.float().softmax(-1).to(value.dtype)
    return (weights @ value).view(n, 1, heads, d), None


AttentionInterface.register(_ATTENTION, _decode_attention)


def _not_finite(model, tokens: torch.Tensor) -> NeuronMMError:
    """The error that names the first layer whose output for `tokens` is not finite."""
    states = model(input_ids=tokens.to(model.device), use_cache=False, output_hidden_states=True).hidden_states
    finite = [torch.isfinite(state).all().item() for state in states]
    first = finite.index(False) if False in finite else len(finite)
    places = ["the embeddings", *(f"layer {index}" for index in range(len(states) - 1)), "the head"]
    return NeuronMMError(
        f"The activations of {places[first]} are not finite, so no text can be sampled from the model. Its weights are "
        "damaged, or overflow in this dtype: check that the dense model generates text."
    )


def _load(checkpoint: DenseCheckpoint, device: torch.device, scratch: Path | None):
    placement, folder = {"device_map": {"": device}}, None
    on_cpu = device.type == "cpu"
    free = int(0.7 * (psutil.virtual_memory().available if on_cpu else torch.cuda.mem_get_info(device)[0]))
    if checkpoint.nbytes > free:
        folder = tempfile.TemporaryDirectory(prefix="neuronmm-offload-", dir=scratch)
        placement = {"device_map": "auto", "offload_folder": folder.name}
        if on_cpu:
            placement["max_memory"] = {"cpu": free}
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint.directory,
        dtype="auto",
        attn_implementation=None if checkpoint.trust_remote_code else _ATTENTION,
        trust_remote_code=checkpoint.trust_remote_code,
        **placement,
    )
    model.offload_folder = folder  # removed with the model
    return model.eval()
