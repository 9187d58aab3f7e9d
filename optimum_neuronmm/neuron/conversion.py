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
"""From the tensors of a compressed checkpoint to those of `LowRankMLP`. Nothing is left over, and nothing is made up."""

import torch
import torch.nn.functional as F

from ..errors import NeuronMMError
from ..families import Family
from ..ranks import DENSE
from .form import Form, Matrix


def expected_tensors(form: Form, family: Family) -> dict[str, tuple[int, ...]]:
    """Names below the MLP, and shapes, of what a checkpoint stores for a layer (`checkpoint_format` in the documentation)."""
    expected: dict[str, tuple[int, ...]] = {}
    for attribute, computes in family.projections.items():
        rank = getattr(form, computes[0])
        K, N = (form.I, form.H) if "down" in computes else (form.H, form.I * len(computes))
        if rank is DENSE:
            expected |= {f"{attribute}.weight": (N, K)}
        else:  # the empty `weight` stops loaders that do not know the format
            expected |= {
                f"{attribute}.weight": (0,),
                f"{attribute}.u.weight": (rank, K),
                f"{attribute}.v.weight": (N, rank),
            }
        if form.biased:
            expected[f"{attribute}.bias" if rank is DENSE else f"{attribute}.v.bias"] = (N,)
    return expected


def convert_mlp(
    state_dict: dict[str, torch.Tensor], prefix: str, form: Form, family: Family
) -> dict[str, torch.Tensor]:
    """Takes the tensors of one MLP out of `state_dict`, and returns those of its `LowRankMLP`.

    Args:
        state_dict: of the checkpoint; the entries below `prefix` are removed.
        prefix: of the MLP, with the final dot: `layers.0.mlp.`.

    Raises:
        NeuronMMError: a tensor is missing, has another shape than config.json says, or belongs to no projection.
    """
    given = {name.removeprefix(prefix): state_dict.pop(name) for name in list(state_dict) if name.startswith(prefix)}
    shapes = {name: tuple(tensor.shape) for name, tensor in given.items()}
    expected = expected_tensors(form, family)
    wrong = [name for name in {**expected, **shapes} if shapes.get(name) != expected.get(name)]
    if wrong:
        raise NeuronMMError(
            f"{prefix}{wrong[0]} is {shapes.get(wrong[0], 'missing')} in the checkpoint, expected "
            f"{expected.get(wrong[0], 'none of that name')} by its config.json. Fetch or compress the model again."
        )
    found: dict[str, torch.Tensor] = {}
    for attribute, computes in family.projections.items():
        found |= _projection(given, attribute, computes, form)
    if form.sharded and form.first_factors:
        found["u"] = _joined([found.pop(f"{name}_u") for name in form.first_factors], form.tp)
    return {f"{prefix}{name}.weight": _padded(found[name], matrix) for name, matrix in form.matrices.items()}


def _projection(given: dict, attribute: str, computes: tuple[str, ...], form: Form) -> dict[str, torch.Tensor]:
    """The matrices of one projection as (input, output), by name; what several share is cut into theirs."""
    found, second, suffix = {}, "weight", ""
    if getattr(form, computes[0]) is not DENSE:
        found[f"{computes[0]}_u"] = given[f"{attribute}.u.weight"].T
        second, suffix = "v.weight", "_v"
    parts = given[f"{attribute}.{second}"].chunk(len(computes))
    found |= {f"{name}{suffix}": part.T for name, part in zip(computes, parts, strict=True)}
    if form.biased:
        biases = given[f"{attribute}.{second.replace('weight', 'bias')}"].chunk(len(computes))
        found |= {f"{name}_bias": part for name, part in zip(computes, biases, strict=True)}
    return found


def _joined(factors: list[torch.Tensor], tp: int) -> torch.Tensor:
    """Columns of several matrices side by side, so that every rank's piece holds its columns of each."""
    padded = [F.pad(u, (0, -u.shape[1] % tp)).chunk(tp, dim=1) for u in factors]
    return torch.cat([part for pieces in zip(*padded, strict=True) for part in pieces], dim=1)


def _padded(tensor: torch.Tensor, matrix: Matrix) -> torch.Tensor:
    """With zeros at the ends, up to the size that the ranks share; what they multiply adds nothing."""
    missing = [want - have for have, want in zip(tensor.shape, matrix.shape, strict=True)]
    return F.pad(tensor, [n for want in reversed(missing) for n in (0, want)]).contiguous()
