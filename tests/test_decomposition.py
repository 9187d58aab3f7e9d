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
"""The factors against a full SVD of the weighted matrix, and what can be wrong with a weight or its statistics."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_neuronmm.decomposition import Moments, covariance_factor, decompose, output_error
from optimum_neuronmm.errors import NeuronMMError


RIDGE = 1e-6  # of the diagonal's mean, where Cholesky succeeds at once
GRADIENT_RIDGE = 1e-3
SHAPES = [(24, 40), (40, 24), (32, 32), (1, 5), (5, 1), (1, 1)]


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1000 * seed + sum(shape)))


def correlated_inputs(M, K, seed=1):
    """X (M, K) whose channels differ in size and depend on one another, as activations do."""
    return random(M, K, seed=seed) @ random(K, K, seed=2) * torch.logspace(1, -1, K, dtype=torch.float64)


def statistics(X):
    return X.T @ X / len(X)


def of_inputs(W, gram):
    """`Moments` of a projection with this weight, whose inputs have this Gram matrix."""
    W, gram = W.detach().double(), gram.double()
    K, N = W.shape
    return Moments(gram if K <= N else W.T @ gram @ W, gram.diagonal().mean().item())


def of_both(W, gram, gradients):
    """The same, and the gradients at whose outputs have the Gram matrix `gradients` (N, N)."""
    K, N = W.shape
    moments = of_inputs(W, gram)
    kept = W @ gradients @ W.T if K <= N else gradients
    return Moments(moments.inputs, moments.inputs_mean_square, kept, gradients.diagonal().mean().item())


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
    losses = decompose(W, of_inputs(W, gram)).losses
    assert losses.shape == (min(K, N) + 1,) and losses.dtype == torch.float64
    torch.testing.assert_close(losses, tails, rtol=1e-9, atol=1e-9 * tails[0].item())
    assert losses[-1] == 0


@pytest.mark.parametrize(("K", "N"), SHAPES)
def test_factors_reach_the_error_of_the_truncated_svd(K, N):
    W, gram = random(K, N), statistics(correlated_inputs(3 * K + 5, K))
    target = damped(gram)
    squares = singular_values(target, W).square()
    decomposition = decompose(W, of_inputs(W, gram))
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
    plain, whitened = decompose(W), decompose(W, of_inputs(W, 5 * torch.eye(K, dtype=torch.float64)))
    torch.testing.assert_close(5 * plain.losses, whitened.losses, rtol=1e-5, atol=1e-9)
    for one, other in zip(plain.factors(rank), whitened.factors(rank), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("K", "N"), [(24, 40), (40, 24), (32, 32)])
def test_no_other_factors_of_that_rank_are_better(K, N):
    W, gram, rank = random(K, N), statistics(correlated_inputs(200, K)), 6
    target = damped(gram)
    U, V = decompose(W, of_inputs(W, gram)).factors(rank)
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
    decomposition = decompose(W, of_inputs(W, statistics(X)))
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
        scaled = decompose(W, of_inputs(W, scale * gram)).factors(5)
        for one, other in zip(decompose(W, of_inputs(W, gram)).factors(5), scaled, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("K", "N"), [(24, 40), (40, 24), (32, 32)])
@pytest.mark.parametrize("rank", [1, 10])
@pytest.mark.parametrize("whitened", [True, False])
def test_factors_are_balanced_with_a_fixed_sign(K, N, rank, whitened):
    W = 0.02 * random(K, N)
    moments = of_inputs(W, statistics(correlated_inputs(200, K))) if whitened else None
    U, V = decompose(W, moments).factors(rank)
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
    decomposition = decompose(W, of_inputs(W, gram))
    U, V = decomposition.factors(16)
    for factor in (U, V):
        assert factor.abs().max() < 60 * size**0.5
    exact, rounded = U @ V, U.to(dtype).double() @ V.to(dtype).double()
    assert torch.isfinite(rounded).all()
    assert (rounded - exact).norm() / exact.norm() < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize(("K", "N"), [(24, 40), (40, 24), (32, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes_are_computed_in_float64(K, N, dtype):
    W = random(K, N).to(dtype)
    moments = of_both(W.double(), statistics(correlated_inputs(200, K)), statistics(correlated_inputs(200, N)))
    given_dtype, given_double = decompose(W, moments), decompose(W.double(), moments)
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
    U, V = decompose(weight.T, of_inputs(weight.T, gram)).factors(8)
    assert U.shape == (K, 8) and V.shape == (8, 32)
    assert torch.equal(weight, kept) and torch.equal(gram, kept_gram)
    copied = decompose(weight.T.contiguous(), of_inputs(weight.T, gram))
    torch.testing.assert_close(U @ V, torch.matmul(*copied.factors(8)))


@pytest.mark.parametrize(("K", "N"), [(40, 64), (64, 40), (40, 40)])
@pytest.mark.parametrize("M", [1, 12])
def test_fewer_tokens_than_channels(K, N, M):
    X, W = correlated_inputs(M, K), random(K, N)  # a Gram matrix of rank M
    gram = statistics(X)
    decomposition = decompose(W, of_inputs(W, gram))
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
    U, V = decompose(W, of_inputs(W, statistics(X))).factors(rank)
    assert output_error(X, W, U, V) < 1e-3
    white = torch.eye(K, dtype=torch.float64)
    plain = output_error(white, W, *decompose(W).factors(rank - 12))
    assert output_error(white, W, U, V) < 1.1 * plain


@pytest.mark.parametrize(("K", "N"), [(16, 24), (24, 16)])
def test_dead_channels(K, N):
    X, W = correlated_inputs(100, K), random(K, N)
    X[:, [0, 3, K - 1]] = 0
    decomposition = decompose(W, of_inputs(W, statistics(X)))
    U, V = decomposition.factors(12)
    assert torch.isfinite(U).all() and torch.isfinite(V).all()
    assert output_error(X, W, U, V) == pytest.approx(decomposition.relative_error(12), rel=1e-2, abs=1e-4)


@pytest.mark.parametrize(("K", "N"), [(6, 9), (9, 6)])
def test_no_activation_ever(K, N):
    W = random(K, N)
    decomposition = decompose(W, of_inputs(W, torch.zeros(K, K)))
    U, V = decomposition.factors(4)
    assert torch.isfinite(U).all() and torch.isfinite(V).all()
    assert output_error(torch.zeros(3, K), W, U, V) == 0
    torch.testing.assert_close(U @ V, torch.matmul(*decompose(W).factors(4)))  # plain SVD
    assert decomposition.ridge == 1


@pytest.mark.parametrize(("K", "N"), [(6, 9), (9, 6)])
@pytest.mark.parametrize("whitened", [True, False])
def test_a_weight_of_zeros(K, N, whitened):
    W = torch.zeros(K, N)
    decomposition = decompose(W, of_inputs(W, statistics(correlated_inputs(50, K))) if whitened else None)
    U, V = decomposition.factors(3)
    assert torch.isfinite(U).all() and torch.isfinite(V).all()
    assert (U @ V == 0).all()
    assert decomposition.relative_error(3) == 0 and (decomposition.losses == 0).all()


@pytest.mark.parametrize(("K", "N"), [(16, 24), (24, 16), (16, 16)])
def test_more_terms_than_the_weight_has(K, N):
    W = random(K, 3) @ random(3, N)
    decomposition = decompose(W, of_inputs(W, statistics(correlated_inputs(100, K))))
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
    factor, ridge = covariance_factor(gram)
    assert ridge == RIDGE
    assert torch.equal(factor, factor.tril()) and (factor.diagonal() > 0).all()
    torch.testing.assert_close(factor @ factor.T, damped(gram), rtol=1e-10, atol=0)


@pytest.mark.parametrize(("negative", "ridge"), [(-5e-6, 1e-5), (-5e-5, 1e-4), (-5e-4, 1e-3), (-5e-3, 1e-2)])
def test_the_ridge_grows_until_the_factorisation_succeeds(negative, ridge):
    # Rounding can leave a Gram matrix slightly indefinite. The mean of the diagonal is the mean of the eigenvalues.
    values = [2.0, 1.0, 1.0, negative]
    gram = symmetric([value / (sum(values) / 4) for value in values])
    factor, needed = covariance_factor(gram)
    assert needed == pytest.approx(ridge, rel=1e-9)
    torch.testing.assert_close(factor @ factor.T, damped(gram, needed), rtol=1e-9, atol=1e-12)
    W = random(4, 6)
    assert decompose(W, of_inputs(W, gram)).ridge == needed


def test_the_eigendecomposition_takes_over_where_no_ridge_suffices():
    values = [3.0, 1.0, 0.4, 1e-9, -0.1, -0.3]
    gram = symmetric(values)
    factor, ridge = covariance_factor(gram)
    scale = sum(values) / 6
    assert ridge == 1e-2
    assert torch.equal(factor, factor.tril()) and (factor.diagonal() > 0).all()
    expected = symmetric([max(value, 1e-2 * scale) for value in values])
    torch.testing.assert_close(factor @ factor.T, expected, rtol=1e-9, atol=1e-12)
    W = random(6, 8)
    decomposition = decompose(W, of_inputs(W, gram))
    U, V = decomposition.factors(2)
    assert torch.isfinite(U).all() and torch.isfinite(V).all()
    assert loss(expected, W, U, V) == pytest.approx(decomposition.losses[2].item(), rel=1e-9)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("K", "N"), [(8, 12), (12, 8)])
def test_values_that_are_not_finite_name_the_projection(bad, K, N):
    W, gram = random(K, N), statistics(correlated_inputs(50, K))
    name = "model.layers.3.mlp.up_proj"
    broken = W.clone()
    broken[2, 5] = bad
    with pytest.raises(NeuronMMError, match=f"{name}: the weight holds values that are not finite.*damaged"):
        decompose(broken, of_inputs(W, gram), name)
    moments = of_both(W, gram, statistics(correlated_inputs(50, N)))
    for kind in ("inputs", "gradients"):
        broken = getattr(moments, kind).clone()
        broken[1, 2] = broken[2, 1] = bad
        with pytest.raises(NeuronMMError, match=f"{name}: the statistics of its {kind} .*not finite.*float32 or bf"):
            decompose(W, replace(moments, **{kind: broken}), name)


@pytest.mark.parametrize("rank", [0, -1, 9, 100])
def test_a_rank_that_does_not_exist(rank):
    decomposition = decompose(random(8, 12))
    with pytest.raises(NeuronMMError, match=f"between 1 and min\\(K, N\\) = 8, got {rank}"):
        decomposition.factors(rank)


@pytest.mark.parametrize(("K", "N"), [(64, 96), (96, 64)])
def test_the_same_inputs_give_the_same_factors(K, N):
    W, gram = random(K, N).float(), statistics(correlated_inputs(300, K))
    moments = of_both(W.double(), gram, statistics(correlated_inputs(300, N)))
    again = replace(moments, inputs=moments.inputs.clone(), gradients=moments.gradients.clone())
    first, second = decompose(W, moments), decompose(W.clone(), again)
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
    W = random(K, N)
    moments = of_both(W, statistics(correlated_inputs(600, K)), statistics(correlated_inputs(600, N)))
    threads = torch.get_num_threads()
    factors = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            factors.append(decompose(W, moments).factors(32))
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


class TestTwoSided:
    """With gradients: against M = S^T W L with factors S and L that are not the module's."""

    @staticmethod
    def problem(K, N, tokens=200, seed=0):
        """W, the Gram matrices of inputs and gradients, and both as they are damped."""
        W = random(K, N, seed=seed)
        G, B = statistics(correlated_inputs(tokens, K)), 1e-3 * statistics(correlated_inputs(tokens, N, seed=3))
        return W, G, B, damped(G), damped(B, GRADIENT_RIDGE)

    @staticmethod
    def weighted(W, G, B):
        """M with M^T M and M M^T as they must be, by square roots from eigendecompositions."""
        roots = []
        for matrix in (G, B):
            values, vectors = torch.linalg.eigh(matrix)
            roots.append(vectors * values.clamp_min(0).sqrt())
        return roots[0].T @ W @ roots[1]

    @staticmethod
    def loss(W, G, B, U, V):
        """1/2 E[(g . dy)^2] of independent inputs and gradients with these Gram matrices."""
        E = W - U @ V
        return 0.5 * ((E.T @ G @ E) * B).sum().item()

    @pytest.mark.parametrize(("K", "N"), SHAPES)
    def test_losses_are_half_the_tails_of_the_spectrum_and_the_factors_reach_them(self, K, N):
        W, G, B, Gd, Bd = self.problem(K, N)
        squares = torch.linalg.svdvals(self.weighted(W, Gd, Bd)).square()
        tails = torch.stack([squares[r:].sum() for r in range(len(squares) + 1)]) / 2
        decomposition = decompose(W, of_both(W, G, B))
        assert decomposition.losses.shape == (min(K, N) + 1,)
        torch.testing.assert_close(decomposition.losses, tails, rtol=1e-8, atol=1e-9 * tails[0].item())
        for rank in range(1, min(K, N) + 1):
            U, V = decomposition.factors(rank)
            assert U.shape == (K, rank) and V.shape == (rank, N)
            expected = pytest.approx(tails[rank].item(), rel=1e-5, abs=1e-9 * tails[0].item())
            assert self.loss(W, Gd, Bd, U, V) == expected
            relative = (tails[rank] / tails[0]).clamp_min(0).sqrt().item()
            assert decomposition.relative_error(rank) == pytest.approx(relative, rel=1e-5, abs=1e-4)

    @pytest.mark.parametrize(("K", "N"), [(24, 40), (40, 24), (32, 32)])
    def test_no_other_factors_of_that_rank_are_better(self, K, N):
        W, G, B, Gd, Bd = self.problem(K, N)
        rank = 6
        U, V = decompose(W, of_both(W, G, B)).factors(rank)
        best = self.loss(W, Gd, Bd, U, V)
        for seed in range(5):
            A, C = random(K, rank, seed=10 + seed), random(rank, N, seed=30 + seed)
            assert self.loss(W, Gd, Bd, U + 1e-3 * A, V) > best
            assert self.loss(W, Gd, Bd, U, V + 1e-3 * C) > best
            # Alternating least squares from anywhere comes near, and no further.
            for _ in range(60):
                A = W @ Bd @ C.T @ torch.linalg.inv(C @ Bd @ C.T)
                C = torch.linalg.solve(A.T @ Gd @ A, A.T @ Gd @ W)
            assert best * (1 - 1e-9) <= self.loss(W, Gd, Bd, A, C) < 1.2 * best
        # Both sides are worth something here.
        assert self.loss(W, Gd, Bd, *decompose(W, of_inputs(W, G)).factors(rank)) > 1.05 * best
        assert self.loss(W, Gd, Bd, *decompose(W).factors(rank)) > 1.05 * best

    @pytest.mark.parametrize(("K", "N"), [(24, 40), (32, 32), (12, 13)])
    def test_the_transposed_problem_has_the_transposed_solution(self, K, N):
        """Inputs and gradients change places, and with them the two ways in which the module works."""

        def undamped(matrix, ridge):  # what becomes `matrix` when it is damped
            return matrix - ridge / (1 + ridge) * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)

        W, _, _, G, B = self.problem(K, N)
        G = damped(G, GRADIENT_RIDGE)  # so that enough is left where less is added
        one = decompose(W, of_both(W, undamped(G, RIDGE), undamped(B, GRADIENT_RIDGE)))
        other = decompose(W.T, of_both(W.T, undamped(B, RIDGE), undamped(G, GRADIENT_RIDGE)))
        torch.testing.assert_close(one.losses, other.losses, rtol=1e-6, atol=1e-9 * one.losses[0].item())
        for rank in (1, 5, 11):
            product = torch.matmul(*one.factors(rank))
            torch.testing.assert_close(
                product, torch.matmul(*other.factors(rank)).T, rtol=0, atol=1e-5 * product.abs().max().item()
            )

    @pytest.mark.parametrize(("K", "N"), [(24, 40), (40, 24)])
    def test_the_predicted_loss_is_that_of_independent_inputs_and_gradients(self, K, N):
        """Over all pairs of an input and a gradient, so that they are independent to the last digit."""
        X, g, W = correlated_inputs(90, K), random(80, N, seed=4) @ random(N, N, seed=5), random(K, N)
        decomposition = decompose(W, of_both(W, statistics(X), statistics(g)))
        for rank in (1, 5, 15):
            U, V = decomposition.factors(rank)
            pairs = (X @ (W - U @ V)) @ g.T
            measured = 0.5 * pairs.square().mean().item()
            assert decomposition.losses[rank].item() == pytest.approx(measured, rel=3e-2)  # with the ridges
            assert decomposition.losses[rank].item() > measured

    @pytest.mark.parametrize(("K", "N"), [(24, 40), (40, 24), (32, 32)])
    def test_factors_of_a_smaller_rank_are_the_first_of_a_larger_one(self, K, N):
        W, G, B, *_ = self.problem(K, N)
        decomposition = decompose(W, of_both(W, G, B))
        U, V = decomposition.factors(20)
        for rank in (1, 7, 19):
            less_u, less_v = decomposition.factors(rank)
            torch.testing.assert_close(U[:, :rank], less_u, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(V[:rank], less_v, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(U.norm(dim=0), V.norm(dim=1), rtol=1e-9, atol=0)
        assert (V.gather(1, V.abs().argmax(1, keepdim=True)) > 0).all()

    @pytest.mark.parametrize(("K", "N"), [(24, 40), (40, 24), (32, 32)])
    def test_gradients_in_all_directions_alike_are_no_weight(self, K, N):
        W, G, *_ = self.problem(K, N)
        whitened, both = decompose(W, of_inputs(W, G)), decompose(W, of_both(W, G, 4 * torch.eye(N).double()))
        torch.testing.assert_close(both.losses, 2 * (1 + GRADIENT_RIDGE) * whitened.losses, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(
            torch.matmul(*both.factors(7)), torch.matmul(*whitened.factors(7)), rtol=1e-6, atol=1e-8
        )
        assert both.ridge == whitened.ridge == RIDGE

    @pytest.mark.parametrize(("K", "N"), [(40, 64), (64, 40), (40, 40)])
    @pytest.mark.parametrize("M", [1, 6])
    def test_fewer_gradients_than_outputs(self, K, N, M):
        W, G, *_ = self.problem(K, N)
        g = correlated_inputs(M, N, seed=4)
        decomposition = decompose(W, of_both(W, G, statistics(g)))
        U, V = decomposition.factors(M)
        assert torch.isfinite(U).all() and torch.isfinite(V).all()
        # What the gradients saw is kept, and what they did not is not free to change.
        assert ((W - U @ V) @ g.T).norm() < 0.2 * (W @ g.T).norm()
        U, V = decomposition.factors(min(K, N))
        torch.testing.assert_close(U @ V, W, rtol=1e-5, atol=1e-6)
        assert decomposition.losses[M] > 0

    @pytest.mark.parametrize(("K", "N"), [(6, 9), (9, 6), (7, 7)])
    def test_no_gradient_ever(self, K, N):
        """As of gate and up where down is zero. Any change of the weight is free, and it is whitened nevertheless."""
        W, G, B, *_ = self.problem(K, N)
        decomposition, whitened = decompose(W, of_both(W, G, 0 * B)), decompose(W, of_inputs(W, G))
        torch.testing.assert_close(
            torch.matmul(*decomposition.factors(4)), torch.matmul(*whitened.factors(4)), rtol=1e-6, atol=1e-9
        )
        assert (decomposition.losses == 0).all() and decomposition.relative_error(3) == 0

    @pytest.mark.parametrize(("K", "N"), [(6, 9), (9, 6), (7, 7)])
    def test_no_activation_ever(self, K, N):
        W, G, B, *_ = self.problem(K, N)
        decomposition = decompose(W, of_both(W, 0 * G, B))
        U, V = decomposition.factors(4)
        assert torch.isfinite(U).all() and torch.isfinite(V).all() and decomposition.ridge == 1
        assert (decomposition.losses == 0).all()

    @pytest.mark.parametrize(("K", "N"), [(24, 40), (40, 24)])
    def test_sizes_of_gradients_scale_the_loss_alone(self, K, N):
        W, G, B, *_ = self.problem(K, N)
        one = decompose(W, of_both(W, G, B))
        for scale in (1e-12, 1e12):
            other = decompose(W, of_both(W, G, scale * B))
            torch.testing.assert_close(scale * one.losses, other.losses, rtol=1e-6, atol=0)
            torch.testing.assert_close(
                torch.matmul(*one.factors(5)), torch.matmul(*other.factors(5)), rtol=1e-7, atol=1e-9
            )


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
    decomposition = decompose(W, of_inputs(W, gram))
    U, V = decomposition.factors(rank)
    assert U.shape == (K, rank) and V.shape == (rank, N)
    assert (decomposition.losses.diff() <= 0).all() and (decomposition.losses >= 0).all()
    energy = decomposition.losses[0].item()
    target = damped(gram)
    assert loss(target, W, U, V) == pytest.approx(decomposition.losses[rank].item(), rel=1e-5, abs=1e-8 * energy)
    torch.testing.assert_close(U.norm(dim=0), V.norm(dim=1), rtol=1e-6, atol=1e-6)
