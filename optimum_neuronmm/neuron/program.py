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
"""What one rank computes of a compressed MLP, over whatever multiplies and whatever connects the ranks.

The same code runs inside the model, with NKI kernels or with plain products, and on tensors without data, to learn which
kernels at which shapes a graph will need.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from transformers.activations import ACT2FN

from ..kernels import gated_matmul, matmul, mlp, mlp_decode, mlp_two_kernels, mlp_up
from ..ranks import DENSE
from .form import Form


# By name, the most fused first, which takes few rows only.
FUSED = {kernel.name: kernel for kernel in (mlp_decode, mlp, mlp_two_kernels)}
SEPARATE = "matmul"  # one kernel for each product between two exchanges
FEW_ROWS = 128
# Names of activations in transformers -> in the kernels.
KERNEL_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}

Launch = Callable[..., torch.Tensor]  # (kernel, **tensors and settings)


class Exchange(Protocol):
    """Collectives among the ranks of tensor parallelism; each calls them in the same order."""

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """(M, n) of every rank -> (tp, M, n)."""

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """The sum over the ranks."""

    def sum_and_scatter(self, x: torch.Tensor) -> torch.Tensor:
        """(M, tp n) -> this rank's (M, n) columns of the sum over the ranks."""


def compressed_mlp(
    x: torch.Tensor, w: Mapping[str, torch.Tensor], form: Form, kernel: str | None, launch: Launch, exchange: Exchange
) -> torch.Tensor:
    """Y (M, H) of X (M, H).

    Args:
        w: this rank's part of `form.matrices`.
        kernel: one of `kernels_for(form)`, or None for plain products.
        launch: runs a kernel.
    """
    if kernel in FUSED:
        y = launch(FUSED[kernel], x=x, **_fused_arguments(w, form))
        y = exchange.sum(y) if form.tp > 1 else y
        return y + w["down_bias"] if form.biased and form.tp > 1 else y
    products = _Plain(form) if kernel is None else _Kernels(form, launch, x.shape[0])
    inputs = _first_products(x, w, form, products, exchange)
    second = {name: w[name] if getattr(form, name) is DENSE else w[f"{name}_v"] for name in ("gate", "up")}
    h = products.gated(inputs, second, w.get("gate_bias"), w.get("up_bias"))
    if form.down is DENSE:
        y = exchange.sum(products.contract(h, w["down"]))
    elif form.sharded:
        y = exchange.sum(products.multiply(exchange.sum_and_scatter(products.contract(h, w["down_u"])), w["down_v"]))
    else:
        y = products.multiply(exchange.sum(products.contract(h, w["down_u"])), w["down_v"])
    return y + w["down_bias"] if form.biased else y


def kernels_for(form: Form) -> tuple[str, ...]:
    """The ways to compute `form` with kernels, the most fused first."""
    if form.activation not in KERNEL_ACTIVATIONS:
        return ()
    return (SEPARATE,) if form.sharded else (*FUSED, SEPARATE)


def _fused_arguments(w: Mapping, form: Form) -> dict:
    """The arguments of a whole-MLP kernel but x."""
    arguments = {}
    for name in ("gate", "up", "down"):
        factored = getattr(form, name) is not DENSE
        arguments[name] = w.get(f"{name}_u") if factored else w[name]  # no U of up where it shares gate's
        arguments[f"{name}_v"] = w[f"{name}_v"] if factored else None
    # Added to the sum of the ranks, so that it counts once.
    biases = {
        f"{name}_bias": w.get(f"{name}_bias") for name in ("gate", "up", "down") if name != "down" or form.tp == 1
    }
    return arguments | biases | {"activation": KERNEL_ACTIVATIONS[form.activation]}


def _first_products(x, w: Mapping, form: Form, products, exchange: Exchange) -> dict[str, torch.Tensor]:
    """What the second matrices of gate and up read: X U, or X where there is one matrix only."""
    inputs = {"gate": x, "up": x}
    if form.sharded and form.first_factors:
        joint = exchange.gather(products.multiply(x, w["u"]))  # (tp, M, parts of gate and of up)
        widths = [form.padded(getattr(form, name)) // form.tp for name in form.first_factors]
        for name, part in zip(form.first_factors, joint.split(widths, dim=-1), strict=True):
            inputs[name] = part.transpose(0, 1).reshape(x.shape[0], -1)
    else:
        inputs |= {name: products.multiply(x, w[f"{name}_u"]) for name in form.first_factors}
    return {"gate": inputs["gate"], "up": inputs["gate"]} if form.shared else inputs


class _Plain:
    """Products that the compiler lowers."""

    def __init__(self, form: Form):
        self.activation = ACT2FN[form.activation]

    def multiply(self, x, w):
        return x @ w

    def gated(self, x: Mapping, w: Mapping, gate_bias, up_bias):
        gate, up = x["gate"] @ w["gate"], x["up"] @ w["up"]
        gate, up = (gate, up) if gate_bias is None else (gate + gate_bias, up + up_bias)
        return self.activation(gate) * up

    def contract(self, h, w):
        return h @ w


class _Kernels:
    """Products by kernels. With many rows h stays transposed between them, as the kernels pass it on."""

    def __init__(self, form: Form, launch: Launch, rows: int):
        self.activation, self.launch, self.plain = KERNEL_ACTIVATIONS[form.activation], launch, ACT2FN[form.activation]
        # h^T of few rows would travel in descriptors of a few bytes each.
        self.transposes = rows > FEW_ROWS

    def multiply(self, x, w, bias=None):
        return self.launch(matmul, x=x, w=w, bias=bias)

    def gated(self, x: Mapping, w: Mapping, gate_bias, up_bias):
        if not self.transposes:
            gate = self.multiply(x["gate"], w["gate"], gate_bias)
            return self.plain(gate) * self.multiply(x["up"], w["up"], up_bias)
        common = {"gate_bias": gate_bias, "up_bias": up_bias, "activation": self.activation}
        if x["gate"] is x["up"]:
            dense = {"gate": w["gate"], "gate_v": None, "up": w["up"], "up_v": None}
            return self.launch(mlp_up, x=x["gate"], **dense, **common)
        return self.launch(gated_matmul, x_gate=x["gate"], gate=w["gate"], x_up=x["up"], up=w["up"], **common)

    def contract(self, h, w):
        return self.launch(matmul, x=h, w=w, x_transposed=self.transposes)
