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
"""Second moments of activations and gradients, accumulated over batches."""

from dataclasses import replace

import torch
from torch import nn

from .decomposition import Moments


class SecondMoment:
    """E[v v^T] (n, n) of rows v: a batch's product in float32, their sum in float64."""

    def __init__(self, n: int, device: torch.device):
        self._sum = torch.zeros(n, n, dtype=torch.float64, device=device)
        self._rows = 0

    def add(self, rows: torch.Tensor) -> None:
        """Adds rows (M, n)."""
        rows = rows.float()
        self._sum += rows.T @ rows
        self._rows += len(rows)

    def mean(self) -> torch.Tensor:
        return self._sum / self._rows


class MeanSquare:
    """Mean square of the entries of what is added."""

    def __init__(self):
        self._sum, self._entries = 0.0, 0

    def add(self, rows: torch.Tensor) -> None:
        self._sum += rows.float().square().sum(dtype=torch.float64).item()
        self._entries += rows.numel()

    def mean(self) -> float:
        return self._sum / self._entries


class InputMoments:
    """What `Moments` says of a projection's inputs."""

    def __init__(self, linear: nn.Linear):
        self._at_inputs = linear.in_features <= linear.out_features
        self._bias = linear.bias
        n = min(linear.in_features, linear.out_features)
        self._moment, self._square = SecondMoment(n, linear.weight.device), MeanSquare()

    def add(self, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        """Adds inputs (M, K) and the outputs (M, N) that the projection gave for them, bias included."""
        self._square.add(inputs)
        if self._at_inputs:
            self._moment.add(inputs)
        else:
            self._moment.add(outputs if self._bias is None else outputs - self._bias)

    def moments(self) -> Moments:
        return Moments(self._moment.mean(), self._square.mean())


class GradientMoments:
    """What `Moments` says of the gradients at a projection's output."""

    def __init__(self, linear: nn.Linear):
        self._at_inputs = linear.in_features <= linear.out_features
        self._weight = linear.weight
        n = min(linear.in_features, linear.out_features)
        self._moment, self._square = SecondMoment(n, linear.weight.device), MeanSquare()

    def add(self, gradients: torch.Tensor) -> None:
        """Adds gradients (M, N) of the loss at the projection's output."""
        self._square.add(gradients)
        # nn.Linear's weight is W^T, so this is z = g W^T.
        self._moment.add(gradients @ self._weight if self._at_inputs else gradients)

    def added_to(self, moments: Moments) -> Moments:
        return replace(moments, gradients=self._moment.mean(), gradients_mean_square=self._square.mean())


class SecondOrderLoss:
    """Half the mean over tokens of (g . dy)^2: what an error dy of a projection's output adds to the loss, to second order.

    Unlike the predicted loss of a `Decomposition`, it does not take inputs and gradients of a token as independent.

    Args:
        linear: the dense projection.
        U, V: (K, r) and (r, N), the factors that would take its place.
    """

    def __init__(self, linear: nn.Linear, U: torch.Tensor, V: torch.Tensor):
        self._weight = linear.weight.detach()
        self._u, self._v = U.to(self._weight), V.to(self._weight)
        self._sum, self._tokens = 0.0, 0

    def add(self, inputs: torch.Tensor, gradients: torch.Tensor) -> None:
        """Adds inputs (M, K) and the gradients (M, N) of the loss at the outputs."""
        errors = inputs @ self._weight.T - inputs @ self._u @ self._v
        self._sum += (gradients * errors).float().sum(-1).square().sum(dtype=torch.float64).item()
        self._tokens += len(inputs)

    def mean(self) -> float:
        return self._sum / (2 * self._tokens)
