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
"""

from collections.abc import Callable

import torch


def low_rank_matmul(X: torch.Tensor, U: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    """Y (M, N) = X U V of X (M, K), U (K, r) and V (r, N), the smaller product first."""
    return (X @ U) @ V


def low_rank_mlp(
    X: torch.Tensor,
    gate: tuple[torch.Tensor, torch.Tensor],
    up: tuple[torch.Tensor, torch.Tensor],
    down: tuple[torch.Tensor, torch.Tensor],
    activation: Callable[[torch.Tensor], torch.Tensor] = torch.nn.functional.silu,
) -> torch.Tensor:
    """Y (M, H) = (activation(X Ug Vg) * (X Uu Vu)) Ud Vd: a gated MLP with all three projections in factors.

    NeuronMM (arXiv 2510.25977), Algorithm 3. Each pair is U (K, r), V (r, N).
    """
    h = activation(low_rank_matmul(X, *gate)) * low_rank_matmul(X, *up)  # (M, I)
    return low_rank_matmul(h, *down)
