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
"""LowRankLinear against the reference kernel, its state dict, and putting it into a model and out again."""

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.kernels.reference import low_rank_matmul
from optimum_neuronmm.modeling import LowRankLinear, factor_tensors, replace_projections, restore_dense

from .conftest import TINY


K, N, R = 24, 40, 8
PATH = "model.layers.1.mlp.up_proj"


def factors(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    U, V = torch.randn(K, R, generator=generator), torch.randn(R, N, generator=generator)
    return U.to(dtype), V.to(dtype), torch.randn(N, generator=generator).to(dtype)


def low_rank(bias=True, dtype=torch.float32):
    """A LowRankLinear and the U (K, r), V (r, N) and bias that were put into it."""
    U, V, b = factors(dtype)
    module = LowRankLinear(K, N, R, bias=bias, dtype=dtype)
    state = factor_tensors("p", U, V, b if bias else None, dtype)
    module.load_state_dict({name.removeprefix("p."): tensor for name, tensor in state.items()})
    return module, U, V, b


def tiny(**options):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**TINY, **options)).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(K,), (1, K), (3, 5, K), (0, K)])
def test_forward_is_the_reference(dtype, bias, shape):
    module, U, V, b = low_rank(bias, dtype)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    Y = module(x)
    assert Y.shape == (*shape[:-1], N) and Y.dtype == dtype
    expected = low_rank_matmul(x, U, V) + (b if bias else 0)
    rounding = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(Y, expected, rtol=rounding, atol=rounding * 50)
    exact = x.double() @ U.double() @ V.double() + (b.double() if bias else 0)
    torch.testing.assert_close(Y.double(), exact, rtol=4 * rounding, atol=rounding * 50)


@pytest.mark.parametrize("bias", [True, False])
def test_state_dict(bias):
    module, U, V, b = low_rank(bias)
    state = module.state_dict()
    assert list(state) == ["weight", "u.weight", "v.weight", *(["v.bias"] if bias else [])]
    assert {name: tuple(t.shape) for name, t in state.items()} == {
        "weight": (0,),  # a dense loader stops at it
        "u.weight": (R, K),
        "v.weight": (N, R),
        **({"v.bias": (N,)} if bias else {}),
    }
    assert {name for name, _ in module.named_parameters()} == set(state) - {"weight"}


def test_attributes_that_code_for_linears_reads():
    module, *_ = low_rank()
    assert (module.in_features, module.out_features, module.rank) == (K, N, R)
    assert "in_features=24, out_features=40, rank=8" in repr(module)
    assert isinstance(module.u, nn.Linear) and isinstance(module.v, nn.Linear)
    assert module.half().weight.dtype == torch.float16  # the placeholder follows the factors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_factor_tensors(dtype, bias):
    U, V, b = factors(torch.float64)
    state = factor_tensors("a.b", U, V, b if bias else None, dtype)
    assert set(state) == {f"a.b.{leaf}" for leaf in ["u.weight", "v.weight", "weight", *(["v.bias"] if bias else [])]}
    assert all(tensor.dtype == dtype and tensor.is_contiguous() for tensor in state.values())
    assert torch.equal(state["a.b.u.weight"], U.T.to(dtype)) and torch.equal(state["a.b.v.weight"], V.T.to(dtype))
    assert state["a.b.weight"].shape == (0,)
    assert not bias or torch.equal(state["a.b.v.bias"], b.to(dtype))


def test_a_dense_linear_refuses_the_state_of_factors():
    module, *_ = low_rank()
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        nn.Linear(K, N).load_state_dict(module.state_dict(), strict=False)


@pytest.mark.parametrize("bias", [True, False])
def test_to_linear(bias):
    module, U, V, b = low_rank(bias)
    linear = module.to_linear()
    assert type(linear) is nn.Linear and linear.weight.shape == (N, K)
    assert torch.equal(linear.weight, (U.double() @ V.double()).T.float())
    assert (linear.bias is not None) == bias
    x = torch.ones(2, K)
    torch.testing.assert_close(linear(x), module(x), rtol=1e-5, atol=1e-4)
    # Trainable as a dense weight is, and independent of the factors.
    assert linear.weight.is_leaf and linear.weight.requires_grad
    module.u.weight.data.zero_()
    if bias:
        module.v.bias.data.zero_()
        assert torch.equal(linear.bias, b)
    assert linear.weight.abs().sum() > 0


def test_to_linear_keeps_the_dtype():
    module, U, V, _ = low_rank(dtype=torch.bfloat16)
    linear = module.to_linear()
    assert linear.weight.dtype == linear.bias.dtype == torch.bfloat16
    # One rounding of the exact product, not a product of bfloat16.
    assert torch.equal(linear.weight, (U.double() @ V.double()).T.to(torch.bfloat16))


def test_gradients_reach_both_factors():
    module, U, V, _ = low_rank()
    x = torch.randn(5, K, generator=torch.Generator().manual_seed(2), requires_grad=True)
    module(x).sum().backward()
    ones = torch.ones(5, N)
    torch.testing.assert_close(module.u.weight.grad, (x.T @ ones @ V.T).T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(module.v.weight.grad, ((x @ U).T @ ones).T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(x.grad, ones @ V.T @ U.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_projections_are_replaced_in_place(bias):
    model = tiny(mlp_bias=bias).to(torch.bfloat16)
    replace_projections(model, {PATH: {"rank": R, "storage": "uv"}})
    module = model.get_submodule(PATH)
    assert type(module) is LowRankLinear
    assert (module.in_features, module.out_features, module.rank) == (96, 200, R)
    assert (module.v.bias is not None) == bias and module.u.bias is None
    assert {tensor.dtype for tensor in module.state_dict().values()} == {torch.bfloat16}
    assert [path for path, m in model.named_modules() if isinstance(m, LowRankLinear)] == [PATH]
    assert type(model.get_submodule("model.layers.0.mlp.up_proj")) is nn.Linear


def test_replacing_on_meta_builds_nothing():
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**TINY))
    replace_projections(model, {PATH: {"rank": R, "storage": "uv"}})
    module = model.get_submodule(PATH)
    assert all(parameter.is_meta for parameter in module.parameters())
    assert module.weight.numel() == 0 and not module.weight.is_meta  # without bytes, and real: see LowRankLinear


@pytest.mark.parametrize(
    "path", ["model.layers.9.mlp.up_proj", "model.layers.0.mlp.gate_up_proj", "layers.0.mlp.up_proj"]
)
def test_a_path_that_the_model_lacks(path):
    with pytest.raises(
        NeuronMMError, match=f"'{path}' that LlamaForCausalLM does not have.*damaged, or was written for"
    ):
        replace_projections(tiny(), {path: {"rank": R, "storage": "uv"}})


@pytest.mark.parametrize(("path", "kind"), [("model.norm", "LlamaRMSNorm"), ("model.layers.0.mlp", "LlamaMLP")])
def test_a_path_that_is_no_linear(path, kind):
    with pytest.raises(NeuronMMError, match=f"{path} is a {kind}, expected a Linear"):
        replace_projections(tiny(), {path: {"rank": R, "storage": "uv"}})


def test_replacing_twice_is_refused():
    model, modules = tiny(), {PATH: {"rank": R, "storage": "uv"}}
    replace_projections(model, modules)
    with pytest.raises(NeuronMMError, match="is a LowRankLinear, expected a Linear"):
        replace_projections(model, modules)


def test_restore_dense_gives_the_same_model():
    model = tiny(mlp_bias=True)
    paths = [PATH, "model.layers.0.mlp.down_proj", "model.layers.2.mlp.gate_proj"]
    replace_projections(model, {path: {"rank": R, "storage": "uv"} for path in paths})
    ids = torch.arange(12)[None]
    with torch.no_grad():
        expected = model(ids).logits
        restored = copy.deepcopy(model)
        restore_dense(restored)
        assert not any(isinstance(module, LowRankLinear) for module in restored.modules())
        assert all(type(restored.get_submodule(path)) is nn.Linear for path in paths)
        torch.testing.assert_close(restored(ids).logits, expected, rtol=1e-4, atol=1e-5)
    assert set(restored.state_dict()) == set(tiny(mlp_bias=True).state_dict())


def test_factors_that_the_dtype_cannot_hold_are_refused():
    with pytest.raises(NeuronMMError, match=r"mlp.up_proj.v.weight holds values up to 7e\+04, which float16 cannot"):
        factor_tensors("mlp.up_proj", torch.ones(4, 2), torch.full((2, 3), 7e4), None, torch.float16)
