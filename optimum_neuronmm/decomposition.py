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

With the Gram matrix G = E[x x^T] of the inputs and any S with G = S S^T, the expected squared error of the output is
||S^T (W - U V)||_F^2, so the best U V comes from the truncated SVD of M = S^T W, and the singular values of M are the
predicted loss of every rank at once. Two observations make this cheaper than that SVD:

- The left or right singular vectors alone suffice, and they are the eigenvectors of the smaller of M M^T and M^T M.
- If that is M^T M = W^T G W (K > N, a down projection), S cancels: no Cholesky factor of G is ever needed.
"""

from dataclasses import dataclass

import torch

from .errors import NeuronMMError


_RIDGE = 1e-6
_LARGEST_RIDGE = 1e-2


@dataclass(frozen=True)
class Decomposition:
    """All ranks of one weight at once.

    Attributes:
        losses: (min(K, N) + 1,) float64. `losses[r]` is the predicted ||X (W - U V)||_F^2 per row of X at rank r;
            `losses[0]` is the energy of the output itself.
        ridge: relative damping of the Gram matrix, larger where it could not be factorised; 0 where there is none.
    """

    losses: torch.Tensor
    ridge: float
    _weight: torch.Tensor  # W (K, N)
    _vectors: torch.Tensor  # eigenvectors of the smaller Gram matrix of M, by descending eigenvalue
    _factor: torch.Tensor | None  # S (K, K) where K <= N and the decomposition is whitened

    def relative_error(self, rank: int) -> float:
        """Predicted ||X (W - U V)||_F / ||X W||_F at `rank`."""
        energy = self.losses[0].item()
        return (self.losses[rank].item() / energy) ** 0.5 if energy > 0 else 0.0

    def factors(self, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """U (K, r) and V (r, N), float64, with columns of U as long as rows of V and a sign that is deterministic."""
        if not 0 < rank < len(self.losses):
            raise NeuronMMError(f"Rank must lie between 1 and min(K, N) = {len(self.losses) - 1}, got {rank}.")
        W, Q = self._weight, self._vectors[:, :rank]
        K, N = W.shape
        if K > N:
            U, V = W @ Q, Q.T  # M Q Q^T, with S^-T M = W
        elif self._factor is None:
            U, V = Q, Q.T @ W
        else:
            # Q^T M = (S Q)^T W saves forming M again; S^-T Q by a triangular solve.
            U = torch.linalg.solve_triangular(self._factor.T, Q, upper=True)
            V = (self._factor @ Q).T @ W
        return _balanced(U, V)


def decompose(weight: torch.Tensor, gram: torch.Tensor | None = None, name: str = "weight") -> Decomposition:
    """Decomposes a weight under the statistics of its inputs.

    Args:
        weight: W (K, N), any floating dtype.
        gram: G (K, K) = E[x x^T], symmetric; None decomposes W itself (plain SVD).
        name: of the projection, for messages.

    Raises:
        NeuronMMError: where the weight or the statistics are not finite.
    """
    W = weight.to(torch.float64)
    if not torch.isfinite(W).all():
        raise NeuronMMError(f"{name}: the weight holds values that are not finite. The checkpoint is damaged.")
    if gram is not None:
        gram = gram.to(torch.float64)
        if not torch.isfinite(gram).all():
            raise NeuronMMError(
                f"{name}: the statistics of its inputs are not finite, so some activations overflowed. Load the model "
                "in float32 or bfloat16 (not float16), or check the layers before it."
            )
    K, N = W.shape
    factor, ridge = None, 0.0
    if K > N and gram is not None:
        # Damped like a matrix to be factorised: directions that no input took are otherwise in no order at all.
        scale = gram.diagonal().mean()
        ridge, damping = (_RIDGE, _RIDGE * scale) if scale > 0 else (1.0, 1.0)
        smaller = _symmetric_product(W.T, gram @ W + damping * W)
    elif K > N:
        smaller = _symmetric_product(W.T, W)
    elif gram is None:
        smaller = _symmetric_product(W, W.T)
    else:
        factor, ridge = gram_factor(gram)
        M = factor.T @ W
        smaller = _symmetric_product(M, M.T)
    values, vectors = torch.linalg.eigh(smaller, UPLO="L")
    values = values.flip(0).clamp_min(0)
    losses = torch.zeros(len(values) + 1, dtype=torch.float64, device=W.device)
    losses[:-1] = values.flip(0).cumsum(0).flip(0)
    return Decomposition(losses, ridge, W, vectors.flip(1), factor)


def gram_factor(gram: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Lower triangular S with S S^T = G + ridge * mean(diag G) * I, and the relative ridge that was needed.

    Rank-deficient statistics (dead channels, fewer tokens than features) are damped, ten times more on each failure.
    Where that is not enough, S comes from the eigendecomposition of G with its negative eigenvalues removed.
    """
    scale = gram.diagonal().mean()
    if scale <= 0:  # no activation ever: every factorisation is as good as another
        return torch.eye(len(gram), dtype=gram.dtype, device=gram.device), 1.0
    ridge = _RIDGE
    while ridge <= _LARGEST_RIDGE * (1 + 1e-9):
        damped = gram.clone()
        damped.diagonal().add_(ridge * scale)
        factor, info = torch.linalg.cholesky_ex(damped)
        if info == 0:
            return factor, ridge
        ridge *= 10
    values, vectors = torch.linalg.eigh(gram)
    root = vectors * values.clamp_min(_LARGEST_RIDGE * scale).sqrt()  # root root^T = G, damped from below
    R = torch.linalg.qr(root.T, mode="r").R
    return R.T * R.diagonal().sign(), _LARGEST_RIDGE


def output_error(X: torch.Tensor, W: torch.Tensor, U: torch.Tensor, V: torch.Tensor) -> float:
    """Measured ||X (W - U V)||_F / ||X W||_F of inputs X (M, K), in the dtype of X."""
    Y = X @ W.to(X.dtype)
    energy = Y.norm()
    return ((Y - X @ U.to(X.dtype) @ V.to(X.dtype)).norm() / energy).item() if energy > 0 else 0.0


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


def _balanced(U: torch.Tensor, V: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales each rank-one term so that both factors fit half precision, and fixes its sign."""
    lengths_u, lengths_v = U.norm(dim=0), V.norm(dim=1)
    scale = torch.where((lengths_u > 0) & (lengths_v > 0), (lengths_v / lengths_u).sqrt(), torch.ones_like(lengths_u))
    largest = V.gather(1, V.abs().argmax(1, keepdim=True)).squeeze(1)
    scale = torch.where(largest < 0, -scale, scale)
    return U * scale, V / scale[:, None]
