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
"""What a step of a decoder takes at least: max(FLOPs / peak, bytes / bandwidth) of each operation.

Counted are the products, the weights, the KV cache and what an MLP reads and writes. Norms, softmax, other activations that go
through HBM, sampling and launches are not, so that this is a bound and no prediction. Exchanges between ranks have a time that
is assumed, whatever their size: they are no bound, and are kept apart.
"""

from dataclasses import dataclass

from ..neuron.form import EXCHANGE_SECONDS, Form
from .deployment import Deployment
from .model import Model


EXCHANGE = "exchange"


@dataclass(frozen=True)
class Operation:
    """A part of a step, over all layers, on one rank.

    Attributes:
        flops, bytes: that it needs at least.
        seconds: that it takes at least; of exchanges, that it is assumed to take.
        bound_by: "compute", "memory" or EXCHANGE.
    """

    name: str
    flops: int
    bytes: int
    seconds: float
    bound_by: str

    @classmethod
    def on(cls, deployment: Deployment, name: str, flops: int, bytes: int) -> "Operation":
        compute, memory = flops / deployment.flops, bytes / deployment.bandwidth
        return cls(name, flops, bytes, max(compute, memory), "compute" if compute > memory else "memory")


def operations(model: Model, deployment: Deployment, prefill: bool) -> list[Operation]:
    """Everything of a step that is not an MLP.

    Args:
        prefill: a step over all positions of all sequences; else one token for each sequence, with a full KV cache.
    """
    batch, length, tp = deployment.batch_size, deployment.sequence_length, deployment.tensor_parallel_size
    tokens, itemsize = batch * (length if prefill else 1), deployment.itemsize
    weights = model.layers * model.attention_parameters(tp)
    heads, keys = -(-model.heads // tp), kv_heads(model, tp) * model.head_size
    seen = [min(length, window or length) for window in model.windows]
    pairs = [length * n - n * (n - 1) // 2 if prefill else n for n in seen]  # of queries and keys, causal
    # Keys and values: written once for every token, and read where they are not of the same step.
    cached = model.layers * tokens if prefill else batch * (sum(seen) + model.layers)
    vocabulary = -(-model.head // model.hidden // tp)  # rows of one rank
    head = vocabulary * model.hidden
    parts = {
        "attention projections": (2 * tokens * weights, weights * itemsize),
        "attention": (4 * batch * sum(pairs) * heads * model.head_size, 2 * cached * keys * itemsize),
        "lm_head": (2 * batch * head, head * itemsize),  # of the last position of each sequence
        "embedding": (0, tokens * model.hidden * itemsize),
    }
    found = [Operation.on(deployment, name, *work) for name, work in parts.items()]
    if tp > 1:  # after each attention, after the embedding and for the logits
        found.append(Operation("exchanges", 0, 0, (model.layers + 2) * EXCHANGE_SECONDS, EXCHANGE))
    return found


def mlp_operation(form: Form, layers: int, rows: int, deployment: Deployment) -> Operation:
    """The MLPs of so many layers, whatever computes them: the products, the weights, and hidden states in and out."""
    flops, values = 2 * rows * form.parameters, form.parameters + 2 * rows * form.H
    return Operation.on(deployment, "MLP", layers * flops, layers * values * deployment.itemsize)


def kv_heads(model: Model, tensor_parallel_size: int) -> int:
    """Heads of keys and values that one rank holds: at least one."""
    return -(-model.kv_heads // tensor_parallel_size)


def kv_cache(model: Model, deployment: Deployment) -> int:
    """Bytes of the KV cache of one rank, where every layer keeps all positions."""
    positions = model.layers * deployment.batch_size * deployment.sequence_length
    size = kv_heads(model, deployment.tensor_parallel_size) * model.head_size
    return 2 * positions * size * deployment.itemsize


def other_weights(model: Model, deployment: Deployment) -> int:
    """Bytes of what one rank holds besides MLPs. Tied embeddings are there twice: optimum-neuron copies them."""
    tp = deployment.tensor_parallel_size
    attention = model.layers * model.attention_parameters(tp)
    vocabulary = sum(-(-n // model.hidden // tp) * model.hidden for n in (model.embedding, model.head))
    return deployment.itemsize * (attention + vocabulary + model.other_parameters)
