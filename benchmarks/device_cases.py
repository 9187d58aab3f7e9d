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
"""What `device.py` measures: kernels at the shapes of a compressed MLP, and at those that the latency model was calibrated on."""

import re
from dataclasses import dataclass, field

from optimum_neuronmm.kernels import (
    Kernel,
    Spec,
    low_rank_fused,
    matmul,
    matmul_blocked,
    matmul_tiled,
    mlp,
    mlp_decode,
    mlp_two_kernels,
)


ROWS = (1, 16, 128, 512, 1024, 4096)
DECODE_ROWS = 128  # at most, for mlp_decode
MODEL, HIDDEN, INTERMEDIATE = "Llama-3.2-1B", 2048, 8192
RATIO, RANK = 0.2, 1280
PAPER = (4096, 7168, 4096, 18432)  # M, K, r, N of the paper's sweep over B_M (NeuronMM, arXiv 2510.25977)
PAPER_BLOCKS = (128, 512, 1024)
TUTORIAL = (4096, 8192, 8192)  # M, K, N of the matrix multiplication tutorial of the Neuron documentation


@dataclass(frozen=True)
class Case:
    """A kernel, the tensors that it is given, and how its plan is restricted.

    Attributes:
        group: what the shapes are from.
        rows: M.
        within: the pipeline that the kernel is a part of, or "".
    """

    group: str
    kernel: Kernel
    tensors: dict[str, Spec]
    rows: int
    settings: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    within: str = ""

    @property
    def kernel_name(self) -> str:
        return f"{self.within}/{self.kernel.name}" if self.within else self.kernel.name

    @property
    def name(self) -> str:
        """Kernel, group, rows and options: one for each case."""
        options = "".join(f" {name}={value}" for name, value in self.options.items())
        return f"{self.kernel_name} {self.group} M={self.rows}{options}"

    @property
    def file_name(self) -> str:
        return re.sub(r"[^\w.=]+", "-", self.name)

    def plan(self, target):
        return self.kernel.plan(**self.tensors, **self.settings, target=target, options=self.options)


def _specs(**shapes: tuple[int, int]) -> dict[str, Spec]:
    return {name: Spec(shape) for name, shape in shapes.items()}


def _halves(group: str, rows: int, tensors: dict[str, Spec]) -> list[Case]:
    """The kernels that `mlp_two_kernels` launches."""
    found = []

    def launch(kernel, **call):
        specs = {name: call.pop(name) for name in kernel.tensors if name in call}
        present = {name: spec for name, spec in specs.items() if spec is not None}
        found.append(Case(group, kernel, present, rows, settings=call, within=mlp_two_kernels.name))
        return Spec((tensors["gate_v"].shape[1], rows))  # h^T, of the first

    mlp_two_kernels.run(launch, **tensors)
    return found


def cases() -> list[Case]:
    """All cases, in the order in which they run: few rows first, calibration last."""
    H, I, r = HIDDEN, INTERMEDIATE, RANK  # noqa: E741
    group = f"{MODEL} at {RATIO}"
    found = []
    for M in ROWS:
        factors = _specs(
            x=(M, H), gate=(H, r), gate_v=(r, I), up=(H, r), up_v=(r, I), down=(I, r), down_v=(r, H)
        )  # fmt: skip
        if M <= DECODE_ROWS:
            found.append(Case(group, mlp_decode, factors, M))
        found.append(Case(group, mlp, factors, M))
        found += _halves(group, M, factors)
        found.append(Case(f"{group} gate", low_rank_fused, _specs(x=(M, H), u=(H, r), v=(r, I)), M))
        found.append(Case(f"{MODEL} gate", matmul, _specs(x=(M, H), w=(H, I)), M))
    M, K, N = TUTORIAL
    for kernel in (matmul_blocked, matmul_tiled):
        found.append(Case("tutorial", kernel, _specs(xT=(K, M), w=(K, N)), M))
    M, K, r, N = PAPER
    for block in PAPER_BLOCKS:
        sweep = _specs(x=(M, K), u=(K, r), v=(r, N))
        found.append(Case("paper", low_rank_fused, sweep, M, options={"B_M": block}))
    found.append(Case("paper", matmul, _specs(x=(M, K), w=(K, N)), M))
    return found
