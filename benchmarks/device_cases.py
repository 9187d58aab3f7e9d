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
"""What `device.py` measures: kernels at the shapes of a compressed MLP, and the five that the latency model was calibrated on."""

import re
from collections.abc import Callable
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

from .calibration_kernels import tutorial_blocked
from .kernel_shapes import DECODE_ROWS, JUDGED, MODELS, RATIO, ROWS, SWEEP, rank
from .published import MATMUL, SWEEP_MS


@dataclass(frozen=True)
class Case:
    """A kernel, the tensors that it is given, and how its plan is restricted.

    Attributes:
        group: what the shapes are from.
        kernel: a plain function has its blocks in it, and no plan.
        tensors: in the order of the kernel's arguments.
        rows: M.
        within: the pipeline that the kernel is a part of, or "".
    """

    group: str
    kernel: Kernel | Callable
    tensors: dict[str, Spec]
    rows: int
    settings: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    within: str = ""

    @property
    def kernel_name(self) -> str:
        name = self.kernel.name if isinstance(self.kernel, Kernel) else self.kernel.__name__
        return f"{self.within}/{name}" if self.within else name

    @property
    def name(self) -> str:
        """Kernel, group, rows and options: one for each case."""
        options = "".join(f" {name}={value}" for name, value in self.options.items())
        return f"{self.kernel_name} {self.group} M={self.rows}{options}"

    @property
    def file_name(self) -> str:
        return re.sub(r"[^\w.=]+", "-", self.name)

    def plan(self, target):
        """Its block sizes on a machine; None of a plain function."""
        if not isinstance(self.kernel, Kernel):
            return None
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
    H, I = MODELS[JUDGED]  # noqa: E741
    r = rank(H, I, RATIO)
    group = f"{JUDGED} at {RATIO}"
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
        found.append(Case(f"{JUDGED} gate", matmul, _specs(x=(M, H), w=(H, I)), M))
    M, K, N = MATMUL
    for kernel in (matmul_blocked, matmul_tiled, tutorial_blocked):
        found.append(Case("tutorial", kernel, _specs(xT=(K, M), w=(K, N)), M))
    M, K, r, N = SWEEP
    for block in SWEEP_MS:
        sweep = _specs(x=(M, K), u=(K, r), v=(r, N))
        found.append(Case("paper", low_rank_fused, sweep, M, options={"B_M": block}))
    found.append(Case("paper", matmul, _specs(x=(M, K), w=(K, N)), M))
    return found
