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
"""Activation-aware low-rank factors of one weight matrix. Pure linear algebra, in float64.

Notation, as in the NeuronMM paper (arXiv 2510.25977): a projection computes Y = X W with X (M, K) and W (K, N), the
transpose of `nn.Linear.weight`. W is replaced by U V with U (K, r) and V (r, N).

With G = E[x x^T] = S S^T of the inputs, the expected squared error of the output is ||S^T (W - U V)||_F^2 (whitening,
SVD-LLM, arXiv 2403.07378). With B = E[g g^T] = L L^T of the gradients g of the model's loss at the output, under labels
that the model itself draws, half of ||S^T (W - U V) L||_F^2 is the second-order change of the loss, in nats per token:
the Fisher information of the weight in Kronecker form (K-FAC, arXiv 1503.05671). Either way the best U V comes from the
truncated SVD of M = S^T W L, and its singular values are the predicted loss of every rank at once. Three observations
make this cheaper than that SVD:

- The left or right singular vectors alone suffice, and they are the eigenvectors of the smaller of M M^T and M^T M.
- The larger side's matrix then never occurs but between weights: for K <= N, L only as W B W^T, which is the second
  moment of z = g W^T (K features), and for K > N, S only as W^T G W, that of the output y = x W (N features).
- Its factor cancels from U V as well.

So everything is (n, n) with n = min(K, N): for the projections of an MLP, the hidden size and never the intermediate.
"""

from dataclasses import dataclass

import torch

from .errors import NeuronMMError


_RIDGE = 1e-6
_LARGEST_RIDGE = 1e-2
# Of the gradients. Few windows leave most of their directions unseen, and those are not free to change.
_GRADIENT_DAMPING = 1e-3


@dataclass(frozen=True)
class Moments:
    """Second moments of what enters a projection and of the gradients at its output, at its side of n = min(K, N).

    Attributes:
        inputs: (n, n) float64. E[x x^T] where K <= N, else E[y y^T] of y = x W, without bias.
        inputs_mean_square: mean square of an entry of x.
        gradients: (n, n) float64. E[z z^T] of z = g W^T where K <= N, else E[g g^T]; None weighs all outputs alike.
        gradients_mean_square: mean square of an entry of g.
    """

    inputs: torch.Tensor
    inputs_mean_square: float
    gradients: torch.Tensor | None = None
    gradients_mean_square: float = 0.0


@dataclass(frozen=True)
class Decomposition:
    """All ranks of one weight at once.

    Attributes:
        losses: (min(K, N) + 1,) float64. `losses[r]` is the predicted loss at rank r: the squared error of the output
            per row of X, or with gradients the increase of the model's loss in nats per token. `losses[0]` is that of
            leaving the projection out.
        ridge: relative damping of the inputs' moments, larger where they could not be factorised; 0 without moments.
    """

    losses: torch.Tensor
    ridge: float
    _weight: torch.Tensor  # W (K, N)
    _vectors: torch.Tensor  # eigenvectors of the smaller Gram matrix of M, by descending eigenvalue
    _factor: torch.Tensor | None  # S where K <= N, else L; None where it is the identity

    def relative_error(self, rank: int) -> float:
        """Square root of the predicted loss at `rank`, relative to that of rank 0: ||S^T (W - U V) L|| / ||S^T W L||."""
        energy = self.losses[0].item()
        return (self.losses[rank].item() / energy) ** 0.5 if energy > 0 else 0.0

    def factors(self, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """U (K, r) and V (r, N), float64, with columns of U as long as rows of V and a sign that is deterministic.

        The first columns of U and rows of V are the factors of a smaller rank.
        """
        if not 0 < rank < len(self.losses):
            raise NeuronMMError(f"Rank must lie between 1 and min(K, N) = {len(self.losses) - 1}, got {rank}.")
        W, Q = self._weight, self._vectors[:, :rank]
        K, N = W.shape
        if self._factor is None:
            U, V = (W @ Q, Q.T) if K > N else (Q, Q.T @ W)
        elif K > N:
            # M Q Q^T = S^T (W L Q) Q^T, and L^-1 is undone on the right.
            U = W @ (self._factor @ Q)
            V = torch.linalg.solve_triangular(self._factor.T, Q, upper=True).T
        else:
            # Q^T M = (S Q)^T W L, and S^-T is undone on the left.
            U = torch.linalg.solve_triangular(self._factor.T, Q, upper=True)
            V = (self._factor @ Q).T @ W
        return _balanced(U, V)


def decompose(weight: torch.Tensor, moments: Moments | None = None, name: str = "weight") -> Decomposition:
    """Decomposes a weight under the statistics of its inputs, and of the gradients at its outputs.

    Args:
        weight: W (K, N), any floating dtype.
        moments: None decomposes W itself (plain SVD).
        name: of the projection, for messages.

    Raises:
        NeuronMMError: where the weight or the statistics are not finite.
    """
    W = weight.to(torch.float64)
    if not torch.isfinite(W).all():
        raise NeuronMMError(f"{name}: the weight holds values that are not finite. The checkpoint is damaged.")
    if moments is not None:
        _check_finite(moments, name)
    K, N = W.shape
    # The smaller Gram matrix of W, damped by what the larger side would be damped by, between factors of the other.
    factor, ridge = None, 0.0
    if K > N:
        inner = _outputs_moment(W, moments)
        if moments is not None:
            ridge = _RIDGE if moments.inputs_mean_square > 0 else 1.0
            if moments.gradients is not None:
                factor, _ = covariance_factor(moments.gradients, _GRADIENT_DAMPING)
    else:
        inner = _input_gradients_moment(W, moments)
        if moments is not None:
            factor, ridge = covariance_factor(moments.inputs)
    smaller = inner if factor is None else _symmetric_product(factor.T, inner @ factor)
    values, vectors = torch.linalg.eigh(smaller, UPLO="L")
    values = values.flip(0).clamp_min(0)
    losses = torch.zeros(len(values) + 1, dtype=torch.float64, device=W.device)
    losses[:-1] = values.flip(0).cumsum(0).flip(0)
    if moments is not None and moments.gradients is not None:
        # Where nothing ever enters, or nothing depends on what leaves, no change has a loss.
        losses *= 0.5 if moments.inputs_mean_square > 0 and moments.gradients_mean_square > 0 else 0.0
    return Decomposition(losses, ridge, W, vectors.flip(1), factor)


def covariance_factor(matrix: torch.Tensor, ridge: float = _RIDGE) -> tuple[torch.Tensor, float]:
    """Lower triangular S with S S^T = A + ridge * mean(diag A) * I, and the relative ridge that was needed.

    Rank-deficient statistics (dead channels, fewer tokens than features) are damped, ten times more on each failure.
    Where that is not enough, S comes from the eigendecomposition of A with its negative eigenvalues removed.
    """
    scale = matrix.diagonal().mean()
    if scale <= 0:  # nothing ever: every factorisation is as good as another
        return torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device), 1.0
    while ridge <= _LARGEST_RIDGE * (1 + 1e-9):
        damped = matrix.clone()
        damped.diagonal().add_(ridge * scale)
        factor, info = torch.linalg.cholesky_ex(damped)
        if info == 0:
            return factor, ridge
        ridge *= 10
    values, vectors = torch.linalg.eigh(matrix)
    root = vectors * values.clamp_min(_LARGEST_RIDGE * scale).sqrt()  # root root^T = A, damped from below
    R = torch.linalg.qr(root.T, mode="r").R
    return R.T * R.diagonal().sign(), _LARGEST_RIDGE


def output_error(X: torch.Tensor, W: torch.Tensor, U: torch.Tensor, V: torch.Tensor) -> float:
    """Measured ||X (W - U V)||_F / ||X W||_F of inputs X (M, K), in the dtype of X."""
    Y = X @ W.to(X.dtype)
    energy = Y.norm()
    return ((Y - X @ U.to(X.dtype) @ V.to(X.dtype)).norm() / energy).item() if energy > 0 else 0.0


def _check_finite(moments: Moments, name: str) -> None:
    for kind, matrix in (("inputs", moments.inputs), ("gradients", moments.gradients)):
        if matrix is not None and not torch.isfinite(matrix).all():
            raise NeuronMMError(
                f"{name}: the statistics of its {kind} are not finite, so some activations overflowed. Load the model "
                "in float32 or bfloat16 (not float16), or check the layers before it."
            )


def _outputs_moment(W: torch.Tensor, moments: Moments | None) -> torch.Tensor:
    """W^T G W (N, N) with G damped; directions that no input took are otherwise in no order at all."""
    square = _symmetric_product(W.T, W)
    if moments is None:
        return _mirrored(square)
    scale = moments.inputs_mean_square
    return _mirrored(moments.inputs.to(torch.float64) + (_RIDGE * scale if scale > 0 else 1.0) * square)


def _input_gradients_moment(W: torch.Tensor, moments: Moments | None) -> torch.Tensor:
    """W B W^T (K, K) with B damped; W W^T where B is the identity."""
    square = _symmetric_product(W, W.T)
    if moments is None or moments.gradients is None:
        return _mirrored(square)
    scale = moments.gradients_mean_square
    if scale <= 0:  # no gradient ever
        return _mirrored(square)
    return _mirrored(moments.gradients.to(torch.float64) + _GRADIENT_DAMPING * scale * square)


def _symmetric_product(A: torch.Tensor, B: torch.Tensor, blocks: int = 8) -> torch.Tensor:
    """The lower triangle of A B (n, n), which the caller knows to be symmetric, at little more than half the work.

    What lies above the diagonal blocks is left zero: `torch.linalg.eigh` does not read it.
    """
    product = torch.zeros(len(A), len(A), dtype=A.dtype, device=A.device)
    size = -(-len(A) // blocks)
    for start in range(0, len(A), size):
        end = min(start + size, len(A))
        product[start:end, :end] = A[start:end] @ B[:, :end]
    return product


def _mirrored(lower: torch.Tensor) -> torch.Tensor:
    """The symmetric matrix with this lower triangle."""
    return lower.tril() + lower.tril(-1).T


def _balanced(U: torch.Tensor, V: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales each rank-one term so that both factors fit half precision, and fixes its sign."""
    lengths_u, lengths_v = U.norm(dim=0), V.norm(dim=1)
    scale = torch.where((lengths_u > 0) & (lengths_v > 0), (lengths_v / lengths_u).sqrt(), torch.ones_like(lengths_u))
    largest = V.gather(1, V.abs().argmax(1, keepdim=True)).squeeze(1)
    scale = torch.where(largest < 0, -scale, scale)
    return U * scale, V / scale[:, None]
