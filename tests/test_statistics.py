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
"""Second moments at both sides of a projection."""

import pytest
import torch
from torch import nn

from optimum_neuronmm.statistics import GradientMoments, InputMoments, MeanSquare, SecondMoment, SecondOrderLoss


CPU = torch.device("cpu")
SHAPES = [(6, 9), (9, 6), (7, 7), (1, 3), (3, 1)]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1000 * seed + sum(shape)))


def linear_of(K, N, bias):
    linear = nn.Linear(K, N, bias=bias)
    with torch.no_grad():
        linear.weight.copy_(random(N, K, seed=1))
        if bias:
            linear.bias.copy_(10 * random(N, seed=2))
    return linear.requires_grad_(False)


def moment(rows):
    rows = rows.double()
    return rows.T @ rows / len(rows)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("K", "N"), SHAPES)
def test_of_inputs_at_the_smaller_side(K, N, bias):
    linear, X = linear_of(K, N, bias), 1 + random(50, K)
    collected = InputMoments(linear)
    for batch in X.split(17):
        collected.add(batch, linear(batch))
    moments = collected.moments()
    expected = moment(X) if K <= N else moment(X.double() @ linear.weight.double().T)  # without the bias
    torch.testing.assert_close(moments.inputs, expected, rtol=1e-4, atol=1e-4)
    assert moments.inputs.dtype == torch.float64 and len(moments.inputs) == min(K, N)
    assert moments.inputs_mean_square == pytest.approx(X.square().mean().item(), rel=1e-6)
    assert moments.gradients is None


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("K", "N"), SHAPES)
def test_of_gradients_at_the_smaller_side(K, N, bias):
    linear, g, X = linear_of(K, N, bias), random(50, N), random(20, K)
    inputs = InputMoments(linear)
    inputs.add(X, linear(X))
    collected = GradientMoments(linear)
    for batch in g.split(17):
        collected.add(batch)
    moments = collected.added_to(inputs.moments())
    expected = moment(g.double() @ linear.weight.double()) if K <= N else moment(g)
    torch.testing.assert_close(moments.gradients, expected, rtol=1e-5, atol=1e-5)
    assert moments.gradients.dtype == torch.float64 and len(moments.gradients) == min(K, N)
    assert moments.gradients_mean_square == pytest.approx(g.square().mean().item(), rel=1e-6)
    assert torch.equal(moments.inputs, inputs.moments().inputs)
    assert moments.inputs_mean_square == inputs.moments().inputs_mean_square


def test_sums_are_in_float64():
    """A thousand small products beside a large one: float32 would lose them."""
    collected, square = SecondMoment(1, CPU), MeanSquare()
    for entry in (collected, square):
        entry.add(torch.tensor([[4096.0]]))
        for _ in range(1000):
            entry.add(torch.full((1, 1), 0.5))
    assert collected.mean().item() == square.mean() == (4096.0**2 + 250) / 1001
    assert collected.mean().dtype == torch.float64


def test_half_precision_is_squared_in_float32():
    rows = torch.tensor([[300.0, 1.0]], dtype=torch.float16)  # 300^2 is beyond float16
    collected, square = SecondMoment(2, CPU), MeanSquare()
    collected.add(rows)
    square.add(rows)
    assert collected.mean().tolist() == [[90000.0, 300.0], [300.0, 1.0]]
    assert square.mean() == 90001 / 2


def test_batches_of_different_sizes_count_by_their_rows():
    rows = random(40, 3)
    whole, parts, square = SecondMoment(3, CPU), SecondMoment(3, CPU), MeanSquare()
    whole.add(rows)
    for batch in (rows[:1], rows[1:30], rows[30:]):
        parts.add(batch)
        square.add(batch)
    torch.testing.assert_close(whole.mean(), parts.mean(), rtol=1e-6, atol=1e-6)
    assert square.mean() == pytest.approx(rows.square().mean().item(), rel=1e-6)


def test_what_is_added_is_not_changed():
    linear, X, g = linear_of(3, 5, True), random(4, 3), random(4, 5)
    kept = [X.clone(), g.clone(), linear.weight.clone(), linear.bias.clone()]
    outputs = linear(X)
    kept_outputs = outputs.clone()
    inputs, gradients = InputMoments(linear), GradientMoments(linear)
    inputs.add(X, outputs)
    gradients.add(g)
    for now, before in zip([X, g, linear.weight, linear.bias, outputs], [*kept, kept_outputs], strict=True):
        assert torch.equal(now, before)


def test_the_second_order_loss_is_of_pairs():
    """Of the inputs and gradients of the same token, half the mean square of what the error of the output adds."""
    linear, X, g = linear_of(6, 9, True), random(50, 6), random(50, 9, seed=3)
    U, V = random(6, 2, seed=4).double(), random(2, 9, seed=5).double()
    loss = SecondOrderLoss(linear, U, V)
    for rows in (slice(0, 30), slice(30, 50)):
        loss.add(X[rows], g[rows])
    errors = X.double() @ (linear.weight.T.double() - U @ V)  # the bias is in both
    expected = 0.5 * sum((errors[t] @ g[t].double()).item() ** 2 for t in range(50)) / 50
    assert loss.mean() == pytest.approx(expected, rel=1e-5)
    exact = SecondOrderLoss(linear, torch.eye(6), linear.weight.T)
    exact.add(X, g)
    assert exact.mean() == pytest.approx(0, abs=1e-9)
