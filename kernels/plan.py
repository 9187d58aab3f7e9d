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
"""Block sizes: what of each operand is on chip at once, computed from shapes and a machine.

A plan is plain arithmetic and holds no NKI. It says how many bytes its kernel will hold, in SBUF (once, and with the second
buffers that let transfers overlap with work) and in PSUM, and there is none where nothing fits.
"""

from dataclasses import dataclass, field

from .errors import PlanError
from .tiling import Blocks, P


ACTIVATIONS = ("silu", "gelu_tanh")


@dataclass(frozen=True)
class Plan:
    """Block sizes of a kernel.

    Attributes:
        machine, dtype, M: what it was made for; M rows of all cores.
        cores, split: cores that share the work, and the dimension that they divide ("M" or "N").
        B_M: rows of a strip.
        chunk: features of X in one transfer.
        part: features of X on chip at once, where not all are: float32 sums are then kept in SBUF. 0: a strip is resident.
        stages: how each weight is streamed.
        interleave_x, interleave_h: how many rows of a weight that meets X, or the intermediate, share a descriptor.
        sbuf, sbuf_buffered: bytes of SBUF held, without and with second buffers.
        psum_banks: banks of PSUM held.
        kernel, shapes, x_transposed: the call that it was made for.
    """

    machine: str
    dtype: str
    M: int
    cores: int
    split: str
    B_M: int
    chunk: int = 0
    part: int = 0
    stages: dict[str, Blocks] = field(default_factory=dict, hash=False)
    interleave_x: int = 1
    interleave_h: int = 1
    sbuf: int = 0
    sbuf_buffered: int = 0
    psum_banks: int = 0
    kernel: str = ""
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    x_transposed: bool = False

    def __post_init__(self):
        least = {"M": 1, "cores": 1, "B_M": 1, "chunk": 0, "part": 0}
        for name, value in least.items():
            _at_least(name, getattr(self, name), value)
        for name in ("interleave_x", "interleave_h"):
            if getattr(self, name) not in (1, 2, 4):
                raise PlanError(f"plan: {name} must be 1, 2 or 4, got {getattr(self, name)!r}")
        if self.split not in ("M", "N"):
            raise PlanError(f"plan: split must be 'M' or 'N', got {self.split!r}")
        if not isinstance(self.stages, dict) or not all(isinstance(b, Blocks) for b in self.stages.values()):
            raise PlanError(f"plan: stages must be a dict of Blocks by stage, got {self.stages!r}")

    @property
    def key(self) -> tuple:
        """What the kernel does differently from one plan to another."""
        blocks = tuple(sorted(self.stages.items(), key=lambda item: item[0]))
        return self.B_M, self.chunk, self.part, blocks, self.interleave_x, self.interleave_h

    def stage(self, name: str) -> Blocks:
        """The blocks of a stage."""
        if name not in self.stages:
            raise PlanError(
                f"plan: no stage {name!r}, it has {', '.join(self.stages) or 'none'}: plan this kernel anew"
            )
        return self.stages[name]


@dataclass(frozen=True)
class MatmulPlan(Plan):
    """Blocks of the baselines: `rows` whose float32 sums are kept, and B_M, B_K, B_N."""

    rows: int = 1
    B_K: int = 1
    B_N: int = 1

    def __post_init__(self):
        super().__post_init__()
        for name in ("rows", "B_K", "B_N"):
            _at_least(name, getattr(self, name), 1)
        if self.B_M % P and self.B_M < self.rows:
            raise PlanError(f"plan: B_M must be a multiple of {P}, or all {self.rows} rows, got {self.B_M}")


def _at_least(name: str, value, least: int) -> None:
    if type(value) is not int or value < least:
        raise PlanError(f"plan: {name} must be an integer of at least {least}, got {value!r}")


def paper_footprint(B_M: int, r: int, B_r: int, B_K: int, B_N: int, itemsize: int) -> int:
    """Bytes that the paper's fused kernel holds on chip (NeuronMM, arXiv 2510.25977): a bound from below for any such plan."""
    return (B_M * r + (B_M + B_r) * max(B_K, B_N)) * itemsize


def shares(nk, M: int, N: int, plan: Plan):
    """The blocks of rows and of columns of the program that is running."""
    program = nk.program(plan.cores)
    if plan.split == "M":
        return nk.block(program * (M // plan.cores), M // plan.cores), nk.block(0, N)
    return nk.block(0, M), nk.block(program * (N // plan.cores), N // plan.cores)
