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
"""The torch module that stands for a factorised projection, and putting it into a model."""

import torch
from torch import nn

from .errors import NeuronMMError


class LowRankLinear(nn.Module):
    """Y = X U V (+ bias) in place of Y = X W (+ bias).

    Two `nn.Linear` children hold the factors, so that everything which knows `nn.Linear` (dtype and device moves,
    PEFT, hooks) works on them: `u.weight` is U^T (r, K) and `v.weight` is V^T (N, r). The bias belongs to `v`.

    The empty buffer `weight` is saved under the name of the dense weight. A loader that does not know this format then
    stops at its size instead of leaving a randomly initialised dense weight in place.

    Args:
        in_features: K.
        out_features: N.
        rank: r.
        bias: whether the dense projection had a bias.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool = False, device=None, dtype=None):
        super().__init__()
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.u = nn.Linear(in_features, rank, bias=False, device=device, dtype=dtype)
        self.v = nn.Linear(rank, out_features, bias=bias, device=device, dtype=dtype)
        # Never on meta: accelerate looks for the value of a buffer there when it offloads the module to disk.
        real = None if str(device) == "meta" else device
        self.register_buffer("weight", torch.zeros(0, device=real, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., K) -> (..., N)."""
        return self.v(self.u(x))

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"

    def to_linear(self) -> nn.Linear:
        """The dense projection U V, for tools that cannot take factors. Larger and no more accurate."""
        weight = (self.v.weight.double() @ self.u.weight.double()).to(self.v.weight.dtype)
        linear = nn.Linear(
            self.in_features, self.out_features, self.v.bias is not None, device=weight.device, dtype=weight.dtype
        )
        with torch.no_grad():
            linear.weight.copy_(weight)
            if self.v.bias is not None:
                linear.bias.copy_(self.v.bias)
        return linear


def factor_tensors(
    path: str, U: torch.Tensor, V: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """The state-dict entries of a `LowRankLinear` at `path`, from U (K, r), V (r, N) and the dense bias (N,)."""
    tensors = {
        f"{path}.u.weight": rounded(f"{path}.u.weight", U.T, dtype).contiguous(),
        f"{path}.v.weight": rounded(f"{path}.v.weight", V.T, dtype).contiguous(),
        f"{path}.weight": torch.zeros(0, dtype=dtype),
    }
    if bias is not None:
        tensors[f"{path}.v.bias"] = rounded(f"{path}.v.bias", bias, dtype)
    return tensors


def rounded(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`tensor` in `dtype`.

    Raises:
        NeuronMMError: naming it, where a value is too large for `dtype`.
    """
    converted = tensor.to(dtype)
    if dtype.is_floating_point and torch.isinf(converted).any() and not torch.isinf(tensor).any():
        raise NeuronMMError(
            f"{name} holds values up to {tensor.abs().max():.3g}, which {str(dtype).removeprefix('torch.')} cannot: the "
            "checkpoint would be damaged. Choose bfloat16 or float32."
        )
    return converted


def replace_projections(model: nn.Module, modules: dict[str, dict]) -> None:
    """Replaces the `nn.Linear` at each path by a `LowRankLinear` of its rank, on the same device, uninitialised.

    Args:
        modules: `{module path: {"rank": r, "storage": "uv"}}` as in `NeuronMMConfig.modules`.
    """
    for path, entry in modules.items():
        try:
            linear = model.get_submodule(path)
        except AttributeError as error:
            raise NeuronMMError(
                f"config.json lists a factorised projection {path!r} that {type(model).__name__} does not have. The "
                "checkpoint is damaged, or was written for another model class."
            ) from error
        if not isinstance(linear, nn.Linear):
            raise NeuronMMError(f"{path} is a {type(linear).__name__}, expected a Linear to replace by its factors.")
        low_rank = LowRankLinear(
            linear.in_features,
            linear.out_features,
            entry["rank"],
            bias=linear.bias is not None,
            device=linear.weight.device,
            dtype=linear.weight.dtype,
        )
        model.set_submodule(path, low_rank)


def restore_dense(model: nn.Module) -> None:
    """Replaces every `LowRankLinear` of `model` by the dense product of its factors."""
    for path, module in list(model.named_modules()):
        if isinstance(module, LowRankLinear):
            model.set_submodule(path, module.to_linear())
