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
"""Published figures of kernels on trn1, to compare counts and predictions with. One core, bfloat16.

Sources: the NeuronMM paper (arXiv 2510.25977) and the matrix multiplication tutorial of the AWS Neuron documentation
(SDK 2.26.1, nki/tutorials/matrix_multiplication.rst). Rows that `used` calls "calibration" are the ones that the constants of the
engine model were fitted to; every other row only checks them from outside, and nothing is ever adjusted to it.
"""

from dataclasses import dataclass

from optimum_neuronmm import kernels

from . import calibration_kernels, tutorial_kernels
from .kernel_shapes import SWEEP, low_rank, specs


CALIBRATION, OUTSIDE = "calibration", "checked from outside"
WITHIN = 0.02  # what the constants may leave of a row that they were fitted to, relative to it
MEAN_SPEEDUP, MAX_SPEEDUP = 1.35, 2.22  # of the paper's fused kernel over the matrix product of AWS: its headlines
TRANSPOSE_GFLOP = 22.55  # of its fused kernel, the mean over the rows of its kernel table
# The paper's block-size sweep, at M, K, r, N = SWEEP: FLOP/byte and ms by B_M, where nothing spilled.
SWEEP_INTENSITY = {128: 124.12, 512: 455.10, 1024: 819.17}
SWEEP_MS = {128: 31.25, 512: 11.02, 1024: 10.99}
SWEEP_BLOCKS = (128, 256, 512, 1024, 2048, 4096)
MATMUL = (4096, 8192, 8192)  # M, K, N of the tutorial's timings
NAIVE = (4096, 2048, 1024, 8192)  # M, K, r, N: the paper gives K, N and M r = 4194304
NAIVE_GFLOP = {"low_rank_sequential": 85.90, "low_rank_naive": 343.60}
NAIVE_MB = {"low_rank_sequential": 298.66, "low_rank_naive": 3140.42}  # of HBM traffic


@dataclass(frozen=True)
class Published:
    """A published time of a product of these sizes, and the kernel that stands for what ran.

    Attributes:
        kernel: a name in `optimum_neuronmm.kernels`, `tutorial_kernels` or `calibration_kernels`; for X U V one of X W stands for
            two of them in a row.
        sizes: M, K, N of X W; M, K, r, N of X U V.
        options: of its plan.
        used: for calibration, or as a check from outside.
        within: what a prediction may be off by, relative to it; None where it is only shown.
        megabytes: published HBM traffic.
        remark: what is known of the difference.
    """

    what: str
    kernel: str
    sizes: tuple[int, ...]
    milliseconds: float
    options: tuple[tuple[str, int], ...] = ()
    used: str = OUTSIDE
    within: float | None = None
    megabytes: float | None = None
    remark: str = ""

    @property
    def tensors(self) -> list[kernels.Spec]:
        """What the kernel is given, where it is the whole of what ran."""
        if self.kernel.startswith("low_rank"):
            return low_rank(*self.sizes)
        M, K, N = self.sizes
        return specs((K, M), (K, N))


def kernel_named(name: str):
    found = (getattr(module, name, None) for module in (kernels, tutorial_kernels, calibration_kernels))
    return next(kernel for kernel in found if kernel is not None)


PUBLISHED = (
    *(
        Published(
            f"paper, block sizes: B_M={B_M}",
            "low_rank_fused",
            SWEEP,
            milliseconds,
            (("B_M", B_M),),
            CALIBRATION,
            WITHIN,
        )
        for B_M, milliseconds in SWEEP_MS.items()
    ),
    Published("tutorial: Original Tiled", "tiled_matmul", MATMUL, 51.80, within=0.1),
    Published("tutorial: Optimization 1", "matmul_tiled", MATMUL, 42.96, used=CALIBRATION, within=WITHIN),
    Published("tutorial: Optimization 2", "free_blocked_matmul", MATMUL, 22.07, within=0.1),
    Published("tutorial: Optimization 3", "tutorial_blocked", MATMUL, 6.97, used=CALIBRATION, within=WITHIN),
    *(
        Published(
            "paper: sequential",
            kernel,
            NAIVE,
            1.57,
            megabytes=NAIVE_MB["low_rank_sequential"],
            remark="its M, r and block sizes are not published; ours once as its own kernel, once as two products of AWS's form",
        )
        for kernel in ("low_rank_sequential", "matmul_blocked")
    ),
    Published(
        "paper: naive fusion",
        "low_rank_naive",
        NAIVE,
        18.06,
        (("B_N", 512),),
        megabytes=NAIVE_MB["low_rank_naive"],
        remark="the FLOPs are the published ones, the traffic is not: its blocks read X and U many times more often than ours",
    ),
)
