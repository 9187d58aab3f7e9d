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
"""What all planners share: the checks of a call's shapes, and the walk through the block sizes that fit."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from .errors import PlanError
from .latency.work import rates_of
from .machine import Machine
from .plan import Plan
from .search import Search, strips
from .tiling import F, P


BEYOND = 1.25  # times the best estimate: what is worse is not tried
FINALISTS, SIZES = 5, 3  # plans that are compared by the engine model, at most; of them, of different strips


@dataclass(frozen=True)
class Task:
    """What every planner knows: the kernel's name, its shapes, and who shares the work."""

    name: str
    shapes: dict
    dtype: str
    machine: Machine
    cores: int
    transposed: bool = False

    @property
    def itemsize(self) -> int:
        return {"bfloat16": 2, "float32": 4}[self.dtype]

    @property
    def listed(self) -> str:
        return ", ".join(f"{key} {list(shape)}" for key, shape in self.shapes.items())

    def agree(self, **pairs: tuple[int, int]) -> None:
        """Dimensions that must be equal, by what they are."""
        for what, (a, b) in pairs.items():
            if a != b:
                raise PlanError(f"{self.name}: {what.replace('_', ' ')} must agree, got {a} and {b} in {self.listed}")

    def biased(self, bias: str, size: int) -> bool:
        if bias in self.shapes:
            if len(self.shapes[bias]) != 1:
                raise PlanError(f"{self.name}: {bias} must be a vector, got {list(self.shapes[bias])}")
            self.agree(**{f"{bias}_and_columns": (self.shapes[bias][0], size)})
        return bias in self.shapes

    def rows(self, x: str = "x") -> tuple[int, int]:
        """(M, K); checks that everything but a bias is a matrix."""
        for key, shape in self.shapes.items():
            if len(shape) != 2 and not key.endswith("bias"):
                raise PlanError(
                    f"{self.name}: {key} must be a matrix, got {list(shape)}: flatten batch and sequence into rows"
                )
            if any(n < 1 for n in shape):
                raise PlanError(f"{self.name}: dimensions must be positive, got {self.listed}")
        return tuple(self.shapes[x][::-1] if self.transposed else self.shapes[x])

    def split(self, M: int, N: int, dimensions: str = "MN") -> str:
        """The dimension that the cores divide."""
        if self.cores < 1:
            raise PlanError(f"{self.name}: cores must be at least 1, got {self.cores}")
        by_M, by_N = ("M" in dimensions and M % self.cores == 0), ("N" in dimensions and N % self.cores == 0)
        if self.cores == 1 or by_M and (M // self.cores >= P or not by_N):
            return "M"
        if by_N:
            return "N"
        shared = " or ".join({"M": f"M = {M}", "N": f"N = {N}"}[d] for d in dimensions)
        why = (
            f"{self.cores} cores cannot share {shared} evenly" if shared else f"runs on one core, not on {self.cores}"
        )
        raise PlanError(
            f"{self.name}: {why}: run it on one core, or compose the layer of low_rank_fused and matmul, which split N"
        )

    def best(self, M: int, split: str, sizes: list[int], parts: list[int], build: Callable) -> list[Plan]:
        """Plans for M rows over strips of `sizes` rows and X in `parts`: the few that may be the quickest, best estimate first.

        `build(search, part)` goes through the phases. X comes in parts only where all of it does not fit.
        """
        rates, rows = rates_of(self.machine, self.itemsize), M // self.cores if split == "M" else M
        found: list[tuple[float, Plan]] = []
        missing: list[tuple[int, str]] = []
        for size in sizes:
            least = None
            for part in parts:
                for hasty, interleave in product((True, False), repeat=2):
                    search = Search(rates, size, hasty, interleave)
                    build(search, part)
                    if search.fits:
                        least = min(least or search.bound(rows), search.bound(rows))
                        found.append((search.estimate(rows), self._plan(search, M, split, part)))
                    elif search.missing:
                        missing.append(search.missing[::-1])
                if least is not None:
                    break
            # Smaller strips read the weights more often: once that alone takes longer, so does whatever follows.
            if least is not None and least > BEYOND * min(estimate for estimate, _ in found):
                break
        if not found:
            raise self.nothing_fits(min(missing, default=None))
        return _finalists(found)

    def _plan(self, search: Search, M: int, split: str, part: int) -> Plan:
        return Plan(
            machine=self.machine.name,
            dtype=self.dtype,
            M=M,
            cores=self.cores,
            split=split,
            B_M=search.M,
            chunk=search.chunk,
            part=part,
            stages=search.stages,
            interleave_x=search.interleave_x,
            interleave_h=search.interleave_h,
            sbuf=search.single * P,
            sbuf_buffered=search.buffered * P,
            psum_banks=search.banks,
        )

    def nothing_fits(self, lacking: tuple[int, str] | None = None) -> PlanError:
        at_best = f"; at best, {lacking[1]} are {lacking[0]} bytes per partition too large" if lacking else ""
        return PlanError(
            f"{self.name}: no block sizes fit {self.listed} ({self.dtype}) into {self.machine.sbuf_budget} bytes per partition"
            f" of SBUF and {self.machine.psum_banks} banks of PSUM of {self.machine.name}{at_best}: leave the layer to the"
            " compiler",
            lacking,
        )


def _finalists(found: list[tuple[float, Plan]]) -> list[Plan]:
    """Of (estimate, plan)s the best of a few sizes of a strip, and the best of the others; of equal ones the largest strips."""
    found = sorted(found, key=lambda pair: (float(f"{pair[0]:.9g}"), -pair[1].B_M))
    close = {}
    for estimate, plan in found:
        if estimate <= BEYOND * found[0][0]:
            close.setdefault(plan.key, plan)
    first, others = {}, []
    for plan in close.values():
        if plan.B_M in first:
            others.append(plan)
        else:
            first[plan.B_M] = plan
    sizes = list(first.values())[:SIZES]
    chosen = [*sizes, *others[: FINALISTS - len(sizes)]]
    return [plan for plan in close.values() if plan in chosen]


def parts_of(K: int) -> list[int]:
    """Features of X on chip at once: all (0), then ever fewer."""
    return [0, *(part for part in (4096, 2048, 1024, F) if part < K)]


def sizes_of(M: int, B_M: int | None) -> list[int]:
    return [min(B_M, M)] if B_M else strips(M)
