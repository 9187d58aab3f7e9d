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
"""The reference twins against plain matrix products and the modules of transformers."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Gemma2Config, LlamaConfig, Phi3Config
from transformers.models.gemma2.modeling_gemma2 import Gemma2MLP
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.phi3.modeling_phi3 import Phi3MLP

from optimum_neuronmm.kernels.reference import (
    gated_matmul_reference,
    low_rank_matmul,
    matmul_reference,
    matmul_transposed_reference,
    mlp_reference,
    mlp_up_reference,
)


SIDES = ("gate", "up", "down")
H, I, R = 24, 40, 8  # noqa: E741


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) + seed)).to(dtype)


def module(activation: str, dtype=torch.float32, bias=False):
    """A gated MLP of transformers with random parameters."""
    sizes = {"hidden_size": H, "intermediate_size": I}
    if activation == "gelu_tanh":
        assert not bias
        mlp = Gemma2MLP(Gemma2Config(**sizes, hidden_activation="gelu_pytorch_tanh"))
    else:
        mlp = LlamaMLP(LlamaConfig(**sizes, mlp_bias=bias))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.copy_(torch.randn(parameter.shape) / (parameter.shape[-1] ** 0.5 if parameter.ndim == 2 else 1))
    return mlp.to(dtype)


def arguments(mlp, factored: str, dtype=torch.float32) -> dict:
    """Tensors of the twin, dense (d) or in factors (f) for gate, up and down; factored weights of `mlp` become U V."""
    tensors = {}
    for side, how in zip(SIDES, factored, strict=True):
        linear = getattr(mlp, f"{side}_proj")
        K, N = linear.in_features, linear.out_features
        if how == "f":
            U, V = random(K, R, dtype=dtype, seed=len(side)) / K**0.5, random(R, N, dtype=dtype, seed=9) / R**0.5
            with torch.no_grad():
                linear.weight.copy_((U @ V).T)
        else:
            U, V = linear.weight.detach().T, None
        tensors |= {side: U, f"{side}_v": V}
        if linear.bias is not None:
            tensors[f"{side}_bias"] = linear.bias.detach()
    return tensors


def assert_close(actual, expected, dtype=torch.float32):
    tolerance = 1e-5 if dtype == torch.float32 else 4e-2
    assert actual.shape == expected.shape and actual.dtype == dtype
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


@pytest.mark.parametrize(("M", "K", "r", "N"), [(4, 32, 8, 48), (1, 33, 7, 5), (130, 17, 1, 129), (3, 8, 8, 8)])
def test_low_rank_matmul_is_the_product(M, K, r, N):
    X, U, V, b = random(M, K), random(K, r), random(r, N), random(N)
    expected = X.double() @ (U.double() @ V.double())
    actual = low_rank_matmul(X, U, V)
    assert actual.shape == (M, N) and actual.dtype == X.dtype
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(low_rank_matmul(X, U, V, b), actual + b)
    torch.testing.assert_close(low_rank_matmul(X.T, U, V, b, x_transposed=True), actual + b)


@pytest.mark.parametrize(("M", "K", "N"), [(4, 32, 48), (1, 33, 5), (130, 17, 129)])
def test_dense_products_are_linear_layers(M, K, N):
    X, W, b = random(M, K), random(K, N), random(N)
    torch.testing.assert_close(matmul_reference(X, W), torch.nn.functional.linear(X, W.T))
    torch.testing.assert_close(matmul_reference(X, W, b), torch.nn.functional.linear(X, W.T, b))
    torch.testing.assert_close(matmul_reference(X.T, W, b, x_transposed=True), torch.nn.functional.linear(X, W.T, b))
    torch.testing.assert_close(matmul_transposed_reference(X.T, W), torch.nn.functional.linear(X, W.T))


def test_the_smaller_product_comes_first():
    M, K, r, N = 2, 64, 4, 96
    with FlopCounterMode(display=False) as counter:
        low_rank_matmul(random(M, K), random(K, r), random(r, N))
    assert counter.get_total_flops() == 2 * M * r * (K + N)  # U V first would take 2 r K N and more


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("factored", ["fff", "ffd", "fdf", "fdd", "dff", "dfd", "ddf", "ddd"])
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_mlp_is_that_of_llama_and_of_gemma(activation, factored, dtype):
    mlp, X = module(activation, dtype), random(5, H, dtype=dtype)
    tensors = arguments(mlp, factored, dtype)
    with torch.no_grad():
        expected = mlp(X)
    assert_close(mlp_reference(X, **tensors, activation=activation), expected, dtype)
    assert_close(mlp_reference(X.T, **tensors, activation=activation, x_transposed=True), expected, dtype)


@pytest.mark.parametrize("factored", ["fff", "fdf", "ddd"])
def test_biases_are_those_of_llama(factored):
    mlp, X = module("silu", bias=True), random(5, H)
    tensors = arguments(mlp, factored)
    assert {f"{side}_bias" for side in SIDES} < set(tensors)
    with torch.no_grad():
        assert_close(mlp_reference(X, **tensors), mlp(X))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("factored", ["ff", "fd", "df", "dd"])
def test_the_first_half_is_what_the_down_projection_gets(factored, bias):
    mlp, X = module("silu", bias=bias), random(5, H)
    tensors = {key: value for key, value in arguments(mlp, factored + "d").items() if not key.startswith("down")}
    with torch.no_grad():
        expected = mlp.act_fn(mlp.gate_proj(X)) * mlp.up_proj(X)
    for x, across in ((X, False), (X.T, True)):
        hT = mlp_up_reference(x, **tensors, x_transposed=across)
        assert hT.shape == (I, 5)
        assert_close(hT.T, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_shared_u_is_the_fused_projection_of_phi3(dtype):
    mlp, X = Phi3MLP(Phi3Config(hidden_size=H, intermediate_size=I)), random(5, H, dtype=dtype)
    U, V = random(H, R) / H**0.5, random(R, 2 * I) / R**0.5
    with torch.no_grad():
        mlp.gate_up_proj.weight.copy_((U @ V).T)
        expected = mlp.to(dtype)(X)
    gate_v, up_v = V.to(dtype).chunk(2, dim=1)
    down = mlp.down_proj.weight.detach().T
    with torch.no_grad():
        for x, across in ((X, False), (X.T, True)):
            actual = mlp_reference(x, U.to(dtype), gate_v, None, up_v, down, None, x_transposed=across)
            assert_close(actual, expected, dtype)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_the_gated_product_is_the_first_half_from_the_ranks_on(activation):
    X, gate, up = random(5, H), (random(H, R), random(R, I)), (random(H, R + 1), random(R + 1, I))
    biases = random(I), random(I, seed=1)
    expected = mlp_up_reference(X, *gate, *up, *biases, activation=activation)
    inputs = X @ gate[0], X @ up[0]
    torch.testing.assert_close(
        gated_matmul_reference(inputs[0], gate[1], inputs[1], up[1], *biases, activation=activation), expected
    )
    across = {"activation": activation, "x_transposed": True}
    torch.testing.assert_close(
        gated_matmul_reference(inputs[0].T, gate[1], inputs[1].T, up[1], *biases, **across), expected
    )


def test_the_activation_is_applied_to_the_gate_alone():
    X, identity = random(3, 4), torch.eye(4)
    call = (X, identity, 2 * identity, identity, 3 * identity, identity, 5 * identity)
    silu = torch.nn.functional.silu(2 * X)  # the default
    torch.testing.assert_close(mlp_reference(*call), silu * 3 * X * 5)
    torch.testing.assert_close(mlp_reference(*call, activation="silu"), silu * 3 * X * 5)
    gelu = torch.nn.functional.gelu(2 * X, approximate="tanh")
    torch.testing.assert_close(mlp_reference(*call, activation="gelu_tanh"), gelu * 3 * X * 5)
