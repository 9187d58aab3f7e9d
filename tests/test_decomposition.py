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
"""The factors against a full SVD of the whitened matrix, and what can be wrong with a weight or its statistics."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_neuronmm.decomposition import decompose, gram_factor, output_error
from optimum_neuronmm.errors import NeuronMMError


RIDGE = 1e-6  # of the diagonal's mean, where Cholesky succeeds at once
SHAPES = [(24, 40), (40, 24), (32, 32), (1, 5), (5, 1), (1, 1)]


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1000 * seed + sum(shape)))


def correlated_inputs(M, K, seed=1):
    """X (M, K) whose channels differ in size and depend on one another, as activations do."""
    return random(M, K, seed=seed) @ random(K, K, seed=2) * torch.logspace(1, -1, K, dtype=torch.float64)


def statistics(X):
    return X.T @ X / len(X)


def damped(gram, ridge=RIDGE):
    return gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)


def loss(gram, W, U, V):
    """E ||x (W - U V)||^2 for inputs with this Gram matrix."""
    E = W - U @ V
    return (E * (gram @ E)).sum().item()


def singular_values(gram, W):
    """Of the whitened matrix S^T W with S S^T = gram, from an SVD and a square root that are not the module's."""
    values, vectors = torch.linalg.eigh(gram)
    return torch.linalg.svdvals((vectors * values.clamp_min(0).sqrt()).T @ W)


@pytest.mark.parametrize(("K", "N"), SHAPES)
def test_losses_are_the_tails_of_the_whitened_spectrum(K, N):
    W, gram = random(K, N), statistics(correlated_inputs(3 * K + 5, K))
    squares = singular_values(damped(gram), W).square()
    tails = torch.stack([squares[r:].sum() for r in range(len(squares) + 1)])
    losses = decompose(W, gram).losses
    assert losses.shape == (min(K, N) + 1,) and losses.dtype == torch.float64
    torch.testing.assert_close(losses, tails, rtol=1e-9, atol=1e-9 * tails[0].item())
    assert losses[-1] == 0


@pytest.mark.parametrize(("K", "N"), SHAPES)
def test_factors_reach_the_error_of_the_truncated_svd(K, N):
    W, gram = random(K, N), statistics(correlated_inputs(3 * K + 5, K))
    target = damped(gram)
    squares = singular_values(target, W).square()
    decomposition = decompose(W, gram)
    for rank in range(1, min(K, N) + 1):
        U, V = decomposition.factors(rank)
        assert U.shape == (K, rank) and V.shape == (rank, N)
        best = squares[rank:].sum().item()
        assert loss(target, W, U, V) == pytest.approx(best, rel=1e-5, abs=1e-10 * squares.sum().item())


@pytest.mark.parametrize(("K", "N"), SHAPES)
def test_plain_svd_is_eckart_young(K, N):
    W = random(K, N)
    values = torch.linalg.svdvals(W)
    decomposition = decompose(W)
    assert decomposition.ridge == 0
    for rank in range(1, min(K, N) + 1):
        U, V = decomposition.factors(rank)
        tail = values[rank:].square().sum().item()
        assert decomposition.losses[rank].item() == pytest.approx(tail, rel=1e-9, abs=1e-10)
        assert (W - U @ V).square().sum().item() == pytest.approx(tail, rel=1e-9, abs=1e-10)


@pytest.mark.parametrize(("K", "N"), [(24, 40), (40, 24)])
def test_plain_svd_is_the_statistics_of_white_noise(K, N):
    W, rank = random(K, N), 7
    plain, whitened = decompose(W), decompose(W, 5 * torch.eye(K, dtype=torch.float64))
    torch.testing.assert_close(5 * plain.losses, whitened.losses, rtol=1e-5, atol=1e-9)
    for one, other in zip(plain.factors(rank), whitened.factors(rank), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("K", "N"), [(24, 40), (40, 24), (32, 32)])
def test_no_other_factors_of_that_rank_are_better(K, N):
    W, gram, rank = random(K, N), statistics(correlated_inputs(200, K)), 6
    target = damped(gram)
    U, V = decompose(W, gram).factors(rank)
    best = loss(target, W, U, V)
    for seed in range(10):
        A, B = random(K, rank, seed=10 + seed), random(rank, N, seed=30 + seed)
        # Random ones, each completed by the best partner it can have, and small steps away from ours.
        assert loss(target, W, A, torch.linalg.solve(A.T @ target @ A, A.T @ target @ W)) > best
        assert loss(target, W, W @ B.T @ torch.linalg.inv(B @ B.T), B) > best
        assert loss(target, W, U + 1e-3 * A, V) > best
        assert loss(target, W, U, V + 1e-3 * B) > best
    plain = decompose(W).factors(rank)
    assert loss(target, W, *plain) > 1.05 * best  # whitening is worth something on such inputs


@pytest.mark.parametrize(("K", "N"), [(24, 40), (40, 24)])
def test_the_predicted_error_is_that_of_the_inputs(K, N):
    X, W = correlated_inputs(300, K), random(K, N)
    decomposition = decompose(W, statistics(X))
    for rank in (1, 5, 20):
        U, V = decomposition.factors(rank)
        expected = ((X @ (W - U @ V)).norm() / (X @ W).norm()).item()
        assert decomposition.relative_error(rank) == pytest.approx(expected, rel=1e-2)  # predicted with the ridge
        assert output_error(X, W, U, V) == pytest.approx(expected, rel=1e-12)
    assert decomposition.relative_error(0) == 1
    assert decomposition.relative_error(24) == 0


def test_the_statistics_matter_not_their_size():
    W, gram = random(16, 24), statistics(correlated_inputs(100, 16))
    for scale in (1e-12, 1e12):
        for one, other in zip(decompose(W, gram).factors(5), decompose(W, scale * gram).factors(5), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("K", "N"), [(24, 40), (40, 24), (32, 32)])
@pytest.mark.parametrize("rank", [1, 10])
@pytest.mark.parametrize("whitened", [True, False])
def test_factors_are_balanced_with_a_fixed_sign(K, N, rank, whitened):
    gram = statistics(correlated_inputs(200, K)) if whitened else None
    U, V = decompose(0.02 * random(K, N), gram).factors(rank)
    assert U.dtype == V.dtype == torch.float64
    torch.testing.assert_close(U.norm(dim=0), V.norm(dim=1), rtol=1e-9, atol=0)
    peaks = V.gather(1, V.abs().argmax(1, keepdim=True))
    assert (peaks > 0).all()


@pytest.mark.parametrize(("K", "N"), [(48, 96), (96, 48)])
@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_factors_fit_half_precision(K, N, size, dtype):
    # Channels that differ by four orders of magnitude, and weights of a model: unbalanced factors would overflow
    # or vanish in float16, whose smallest normal number is 6e-5.
    gram = statistics(correlated_inputs(400, K) * torch.logspace(2, -2, K, dtype=torch.float64))
    W = size * random(K, N)
    decomposition = decompose(W, gram)
    U, V = decomposition.factors(16)
    for factor in (U, V):
        assert factor.abs().max() < 60 * size**0.5
    exact, rounded = U @ V, U.to(dtype).double() @ V.to(dtype).double()
    assert torch.isfinite(rounded).all()
    assert (rounded - exact).norm() / exact.norm() < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize(("K", "N"), [(24, 40), (40, 24), (32, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes_are_computed_in_float64(K, N, dtype):
    W, gram = random(K, N).to(dtype), statistics(correlated_inputs(200, K)).float()
    given_dtype, given_double = decompose(W, gram), decompose(W.double(), gram.double())
    assert torch.equal(given_dtype.losses, given_double.losses)
    U, V = given_dtype.factors(4)
    assert U.dtype == V.dtype == torch.float64
    assert torch.equal(U @ V, torch.matmul(*given_double.factors(4)))


@pytest.mark.parametrize("K", [24, 40])
def test_a_transposed_view_of_a_linear_weight(K):
    # What the walk over the layers passes: a view of float32, not contiguous. It must not be changed.
    linear = torch.nn.Linear(K, 32)
    weight, gram = linear.weight.detach(), statistics(correlated_inputs(100, K)).float()
    kept, kept_gram = weight.clone(), gram.clone()
    U, V = decompose(weight.T, gram).factors(8)
    assert U.shape == (K, 8) and V.shape == (8, 32)
    assert torch.equal(weight, kept) and torch.equal(gram, kept_gram)
    torch.testing.assert_close(U @ V, torch.matmul(*decompose(weight.T.contiguous(), gram).factors(8)))


@pytest.mark.parametrize(("K", "N"), [(40, 64), (64, 40), (40, 40)])
@pytest.mark.parametrize("M", [1, 12])
def test_fewer_tokens_than_channels(K, N, M):
    X, W = correlated_inputs(M, K), random(K, N)  # a Gram matrix of rank M
    gram = statistics(X)
    decomposition = decompose(W, gram)
    assert decomposition.ridge == RIDGE
    U, V = decomposition.factors(M)  # as many terms as there were inputs reproduce every output seen
    assert torch.isfinite(U).all() and torch.isfinite(V).all()
    assert output_error(X, W, U, V) < 1e-2
    assert decomposition.relative_error(M) < 1e-2
    U, V = decomposition.factors(min(K, N))  # and the whole rank reproduces the weight
    assert output_error(X, W, U, V) < 1e-7


@pytest.mark.parametrize(("K", "N"), [(40, 64), (64, 40), (40, 40)])
def test_what_no_input_showed_is_approximated_as_without_statistics(K, N):
    # 12 inputs leave a rank of 30 with terms that they say nothing about: those are the best for the weight itself.
    X, W, rank = correlated_inputs(12, K), random(K, N) * torch.logspace(0, -2, N, dtype=torch.float64), 30
    U, V = decompose(W, statistics(X)).factors(rank)
    assert output_error(X, W, U, V) < 1e-3
    white = torch.eye(K, dtype=torch.float64)
    plain = output_error(white, W, *decompose(W).factors(rank - 12))
    assert output_error(white, W, U, V) < 1.1 * plain


@pytest.mark.parametrize(("K", "N"), [(16, 24), (24, 16)])
def test_dead_channels(K, N):
    X, W = correlated_inputs(100, K), random(K, N)
    X[:, [0, 3, K - 1]] = 0
    decomposition = decompose(W, statistics(X))
    U, V = decomposition.factors(12)
    assert torch.isfinite(U).all() and torch.isfinite(V).all()
    assert output_error(X, W, U, V) == pytest.approx(decomposition.relative_error(12), rel=1e-2, abs=1e-4)


@pytest.mark.parametrize(("K", "N"), [(6, 9), (9, 6)])
def test_no_activation_ever(K, N):
    W = random(K, N)
    decomposition = decompose(W, torch.zeros(K, K))
    U, V = decomposition.factors(4)
    assert torch.isfinite(U).all() and torch.isfinite(V).all()
    assert output_error(torch.zeros(3, K), W, U, V) == 0
    torch.testing.assert_close(U @ V, torch.matmul(*decompose(W).factors(4)))  # plain SVD
    assert decomposition.ridge == 1


@pytest.mark.parametrize(("K", "N"), [(6, 9), (9, 6)])
@pytest.mark.parametrize("whitened", [True, False])
def test_a_weight_of_zeros(K, N, whitened):
    decomposition = decompose(torch.zeros(K, N), statistics(correlated_inputs(50, K)) if whitened else None)
    U, V = decomposition.factors(3)
    assert torch.isfinite(U).all() and torch.isfinite(V).all()
    assert (U @ V == 0).all()
    assert decomposition.relative_error(3) == 0 and (decomposition.losses == 0).all()


@pytest.mark.parametrize(("K", "N"), [(16, 24), (24, 16), (16, 16)])
def test_more_terms_than_the_weight_has(K, N):
    W = random(K, 3) @ random(3, N)
    decomposition = decompose(W, statistics(correlated_inputs(100, K)))
    U, V = decomposition.factors(8)
    assert torch.isfinite(U).all() and torch.isfinite(V).all()
    torch.testing.assert_close(U @ V, W, rtol=1e-6, atol=1e-7)
    assert (decomposition.losses >= 0).all()
    assert decomposition.relative_error(3) < 1e-6


def symmetric(values, seed=5):
    basis = torch.linalg.qr(random(len(values), len(values), seed=seed)).Q
    return basis * torch.tensor(values, dtype=torch.float64) @ basis.T


def test_the_factor_of_a_definite_matrix():
    gram = statistics(correlated_inputs(100, 12))
    factor, ridge = gram_factor(gram)
    assert ridge == RIDGE
    assert torch.equal(factor, factor.tril()) and (factor.diagonal() > 0).all()
    torch.testing.assert_close(factor @ factor.T, damped(gram), rtol=1e-10, atol=0)


@pytest.mark.parametrize(("negative", "ridge"), [(-5e-6, 1e-5), (-5e-5, 1e-4), (-5e-4, 1e-3), (-5e-3, 1e-2)])
def test_the_ridge_grows_until_the_factorisation_succeeds(negative, ridge):
    # Rounding can leave a Gram matrix slightly indefinite. The mean of the diagonal is the mean of the eigenvalues.
    values = [2.0, 1.0, 1.0, negative]
    gram = symmetric([value / (sum(values) / 4) for value in values])
    factor, needed = gram_factor(gram)
    assert needed == pytest.approx(ridge, rel=1e-9)
    torch.testing.assert_close(factor @ factor.T, damped(gram, needed), rtol=1e-9, atol=1e-12)
    assert decompose(random(4, 6), gram).ridge == needed


def test_the_eigendecomposition_takes_over_where_no_ridge_suffices():
    values = [3.0, 1.0, 0.4, 1e-9, -0.1, -0.3]
    gram = symmetric(values)
    factor, ridge = gram_factor(gram)
    scale = sum(values) / 6
    assert ridge == 1e-2
    assert torch.equal(factor, factor.tril()) and (factor.diagonal() > 0).all()
    expected = symmetric([max(value, 1e-2 * scale) for value in values])
    torch.testing.assert_close(factor @ factor.T, expected, rtol=1e-9, atol=1e-12)
    U, V = decompose(random(6, 8), gram).factors(2)
    assert torch.isfinite(U).all() and torch.isfinite(V).all()
    assert loss(expected, random(6, 8), U, V) == pytest.approx(
        decompose(random(6, 8), gram).losses[2].item(), rel=1e-9
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("K", "N"), [(8, 12), (12, 8)])
def test_values_that_are_not_finite_name_the_projection(bad, K, N):
    W, gram = random(K, N), statistics(correlated_inputs(50, K))
    name = "model.layers.3.mlp.up_proj"
    broken = W.clone()
    broken[2, 5] = bad
    with pytest.raises(NeuronMMError, match=f"{name}: the weight holds values that are not finite.*damaged"):
        decompose(broken, gram, name)
    broken = gram.clone()
    broken[1, 2] = broken[2, 1] = bad
    with pytest.raises(NeuronMMError, match=f"{name}: the statistics.*not finite.*float32 or bfloat16"):
        decompose(W, broken, name)


@pytest.mark.parametrize("rank", [0, -1, 9, 100])
def test_a_rank_that_does_not_exist(rank):
    decomposition = decompose(random(8, 12))
    with pytest.raises(NeuronMMError, match=f"between 1 and min\\(K, N\\) = 8, got {rank}"):
        decomposition.factors(rank)


@pytest.mark.parametrize(("K", "N"), [(64, 96), (96, 64)])
def test_the_same_inputs_give_the_same_factors(K, N):
    W, gram = random(K, N).float(), statistics(correlated_inputs(300, K))
    first, second = decompose(W, gram), decompose(W.clone(), gram.clone())
    assert torch.equal(first.losses, second.losses)
    for one, other in zip(first.factors(16), second.factors(16), strict=True):
        assert torch.equal(one, other)
    # Factors of a smaller rank are the first terms of a larger one.
    for one, other in zip(first.factors(16), first.factors(5), strict=True):
        short = one[:, :5] if one.shape[0] == K else one[:5]
        torch.testing.assert_close(short, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("K", "N"), [(192, 256), (256, 192)])
def test_the_number_of_threads_changes_rounding_alone(K, N):
    # The tolerance that the design asks for: 1e-8 of the largest entry, far below any dtype that is stored.
    W, gram = random(K, N), statistics(correlated_inputs(600, K))
    threads = torch.get_num_threads()
    factors = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            factors.append(decompose(W, gram).factors(32))
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*factors, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-8 * one.abs().max().item())


def test_output_error_of_no_output_and_in_the_dtype_of_the_inputs():
    X, W = random(5, 4).float(), random(4, 6)
    U, V = random(4, 2), random(2, 6)
    expected = ((X.double() @ (W - U @ V)).norm() / (X.double() @ W).norm()).item()
    assert output_error(X, W, U, V) == pytest.approx(expected, rel=1e-5)
    assert output_error(torch.zeros(5, 4), W, U, V) == 0
    assert output_error(X, W, torch.zeros(4, 1), torch.zeros(1, 6)) == pytest.approx(1)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    K=st.integers(1, 20),
    N=st.integers(1, 20),
    M=st.integers(1, 40),
    part=st.floats(0, 1),
    seed=st.integers(0, 10**6),
)
def test_any_shape_and_any_number_of_tokens(K, N, M, part, seed):
    W, X = random(K, N, seed=seed), correlated_inputs(M, K, seed=seed + 1)
    gram = statistics(X)
    rank = 1 + round(part * (min(K, N) - 1))
    decomposition = decompose(W, gram)
    U, V = decomposition.factors(rank)
    assert U.shape == (K, rank) and V.shape == (rank, N)
    assert (decomposition.losses.diff() <= 0).all() and (decomposition.losses >= 0).all()
    energy = decomposition.losses[0].item()
    target = damped(gram)
    assert loss(target, W, U, V) == pytest.approx(decomposition.losses[rank].item(), rel=1e-5, abs=1e-8 * energy)
    torch.testing.assert_close(U.norm(dim=0), V.norm(dim=1), rtol=1e-6, atol=1e-6)
