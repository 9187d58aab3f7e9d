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
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from optimum_neuronmm.kernels.reference import low_rank_matmul, low_rank_mlp


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) + seed)).to(dtype)


@pytest.mark.parametrize(("M", "K", "r", "N"), [(4, 32, 8, 48), (1, 33, 7, 5), (130, 17, 1, 129), (3, 8, 8, 8)])
def test_low_rank_matmul_is_the_product(M, K, r, N):
    X, U, V = random(M, K), random(K, r), random(r, N)
    expected = X.double() @ (U.double() @ V.double())
    actual = low_rank_matmul(X, U, V)
    assert actual.shape == (M, N) and actual.dtype == X.dtype
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-4)


def test_the_smaller_product_comes_first():
    M, K, r, N = 2, 64, 4, 96
    with FlopCounterMode(display=False) as counter:
        low_rank_matmul(random(M, K), random(K, r), random(r, N))
    assert counter.get_total_flops() == 2 * M * r * (K + N)  # U V first would take 2 r K N and more


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_rank_mlp_is_the_mlp_of_llama(dtype):
    H, I, r = 24, 40, 8  # noqa: E741
    mlp = LlamaMLP(LlamaConfig(hidden_size=H, intermediate_size=I)).to(dtype)
    factors = {}
    with torch.no_grad():
        for name, K, N in (("gate_proj", H, I), ("up_proj", H, I), ("down_proj", I, H)):
            U, V = random(K, r, dtype=dtype, seed=len(factors)) / K**0.5, random(r, N, dtype=dtype, seed=9) / r**0.5
            factors[name] = U, V
            getattr(mlp, name).weight.copy_((U @ V).T)
        X = random(5, H, dtype=dtype)
        actual, expected = low_rank_mlp(X, *factors.values()), mlp(X)
    tolerance = 1e-5 if dtype == torch.float32 else 4e-2
    assert actual.shape == (5, H) and actual.dtype == dtype
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


def test_the_activation_is_applied_to_the_gate_alone():
    X, identity = random(3, 4), torch.eye(4)
    gate, up, down = (identity, 2 * identity), (identity, 3 * identity), (identity, 5 * identity)
    torch.testing.assert_close(low_rank_mlp(X, gate, up, down, torch.relu), torch.relu(2 * X) * 3 * X * 5)
    silu = torch.nn.functional.silu(2 * X)  # the default
    torch.testing.assert_close(low_rank_mlp(X, gate, up, down), silu * 3 * X * 5)
