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
"""What the kernels compute, in torch: the twins that every implementation is compared with.

Dimensions: M rows (tokens), H hidden size, I intermediate size, r rank; K and N the sides of a projection.
A projection is two tensors: U (K, r) and V (r, N), or the dense W (K, N) and None. Those of up may also be None and V:
gate's U serves both.
"""

import torch


ACTIVATIONS = {
    "silu": torch.nn.functional.silu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
}


def _rows(x: torch.Tensor, x_transposed: bool) -> torch.Tensor:
    return x.T if x_transposed else x


def _plus(y: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return y if bias is None else y + bias


def _project(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
    return matmul_reference(x, w, bias) if v is None else low_rank_matmul(x, w, v, bias)


def matmul_reference(x, w, bias=None, *, x_transposed: bool = False) -> torch.Tensor:
    """Y (M, N) = X W + bias of X (M, K), or (K, M) if `x_transposed`, and W (K, N)."""
    return _plus(_rows(x, x_transposed) @ w, bias)


def matmul_transposed_reference(xT, w) -> torch.Tensor:
    """Y (M, N) = X W of X^T (K, M) and W (K, N)."""
    return xT.T @ w


def low_rank_matmul(x, u, v, bias=None, *, x_transposed: bool = False) -> torch.Tensor:
    """Y (M, N) = X U V + bias of X (M, K), U (K, r) and V (r, N), the smaller product first."""
    return _plus((_rows(x, x_transposed) @ u) @ v, bias)


def _gated(gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
    return (ACTIVATIONS[activation](gate) * up).T


def gated_matmul_reference(
    x_gate, gate, x_up, up, gate_bias=None, up_bias=None, *, activation: str = "silu", x_transposed: bool = False
) -> torch.Tensor:
    """h^T (N, M) = (activation(Xg G) * (Xu W))^T of Xg (M, Kg), G (Kg, N), Xu (M, Ku) and W (Ku, N)."""
    sides = (x_gate, gate, gate_bias), (x_up, up, up_bias)
    return _gated(*(matmul_reference(*side, x_transposed=x_transposed) for side in sides), activation)


def mlp_up_reference(
    x, gate, gate_v, up, up_v, gate_bias=None, up_bias=None, *, activation: str = "silu", x_transposed: bool = False
) -> torch.Tensor:
    """h^T (I, M) = (activation(X gate) * (X up))^T. NeuronMM (arXiv 2510.25977), Algorithm 2."""
    x = _rows(x, x_transposed)
    if up is None and up_v is not None:
        up = gate
    return _gated(_project(x, gate, gate_v, gate_bias), _project(x, up, up_v, up_bias), activation)


def mlp_reference(
    x, gate, gate_v, up, up_v, down, down_v, gate_bias=None, up_bias=None, down_bias=None, *,
    activation: str = "silu", x_transposed: bool = False,
) -> torch.Tensor:  # fmt: skip
    """Y (M, H) = (activation(X gate) * (X up)) down: a gated MLP. NeuronMM (arXiv 2510.25977), Algorithm 3."""
    settings = {"activation": activation, "x_transposed": x_transposed}
    hT = mlp_up_reference(x, gate, gate_v, up, up_v, gate_bias, up_bias, **settings)  # (I, M)
    return _project(hT.T, down, down_v, down_bias)
