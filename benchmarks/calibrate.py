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
"""Computes the three constants of the engine model from published timings on trn1, and prints what they leave unexplained.

    python benchmarks/calibrate.py [--json FILE] [--strict]

The rows that decide: the fused X U V of the NeuronMM paper (arXiv 2510.25977, block-size sweep) at B_M 128, 512 and 1024, and
the first and third optimisation of the matrix multiplication tutorial of the Neuron documentation. Nothing else does. The
saturated bandwidth follows from the row that is bound by transfers of many tiles, the one of short transfers from the row
that loads tile by tile, and the overhead of a matrix product from the three rows that are bound by the tensor engine: it
makes their largest relative residual least. Each constant is solved for with the others held, in turns, until none moves.

`kernels/latency/constants.py` holds the result; a test compares. With --strict the exit status is 1 if a residual exceeds
2 % or the table is out of date.
"""

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from optimum_neuronmm.kernels import simulate
from optimum_neuronmm.kernels.latency import predict_trace
from optimum_neuronmm.kernels.latency.constants import CALIBRATED, CALIBRATED_ON, Constants


if not __package__:  # run as a script
    sys.path[0], __package__ = str(Path(__file__).resolve().parent.parent), "benchmarks"
from .published import CALIBRATION, PUBLISHED, WITHIN, Published, kernel_named
from .results import Results


# The published rows that decide, in their order: what they are called here, and the constant that each is solved for.
DECIDES = {
    "X U V, B_M = 128": "saturated",
    "X U V, B_M = 512": "matmul_overhead",
    "X U V, B_M = 1024": "matmul_overhead",
    "tutorial, optimisation 1": "short",
    "tutorial, optimisation 3": "matmul_overhead",
}
ROUNDED = {"matmul_overhead": 0, "saturated": -9, "short": -9}  # decimal places of the table


@dataclass(frozen=True)
class Row:
    """A published timing, and the constant that is solved for by it."""

    name: str
    published: Published
    constant: str

    @property
    def milliseconds(self) -> float:
        return self.published.milliseconds

    def trace(self):
        kernel, tensors, options = kernel_named(self.published.kernel), self.published.tensors, self.published.options
        plan = kernel.plan(*tensors, target=CALIBRATED_ON, options=dict(options)) if options else None
        return simulate(kernel, *tensors, target=CALIBRATED_ON, plan=plan, dry=True).trace


ROWS = tuple(
    Row(name, row, constant)
    for (name, constant), row in zip(
        DECIDES.items(), [row for row in PUBLISHED if row.used == CALIBRATION], strict=True
    )
)
RANGES = {"matmul_overhead": (0.0, 200.0), "saturated": (100e9, 272e9), "short": (50e9, 222e9)}


class Calibration:
    """The rows' traces, and predictions of them by any constants."""

    def __init__(self, rows: tuple[Row, ...] = ROWS):
        self.rows = rows
        self.traces = {row.name: row.trace() for row in rows}

    def predicted(self, row: Row, constants: Constants) -> float:
        """Milliseconds."""
        return predict_trace(self.traces[row.name], CALIBRATED_ON, constants=constants).milliseconds

    def residual(self, row: Row, constants: Constants) -> float:
        return self.predicted(row, constants) / row.milliseconds - 1

    def _off(self, constant: str, constants: Constants) -> float:
        """The middle of the residuals of a constant's rows: their largest is least where it is 0."""
        residuals = [self.residual(row, constants) for row in self.rows if row.constant == constant]
        return (max(residuals) + min(residuals)) / 2

    def solve(self, start: Constants = CALIBRATED) -> Constants:
        """The constants, rounded as in the table."""
        constants = start
        for _ in range(4):
            before = constants
            for name, (low, high) in RANGES.items():
                # Predictions never fall with the overhead, and never rise with a bandwidth.
                sign = 1 if name == "matmul_overhead" else -1
                for _ in range(24):
                    middle = (low + high) / 2
                    if sign * self._off(name, replace(constants, **{name: middle})) > 0:
                        high = middle
                    else:
                        low = middle
                constants = replace(constants, **{name: (low + high) / 2})
            if all(abs(getattr(constants, name) / getattr(before, name) - 1) < 1e-4 for name in RANGES):
                break
        return replace(
            constants, **{name: round(getattr(constants, name), places) for name, places in ROUNDED.items()}
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write tables and goals to a file")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a goal is missed")
    arguments = parser.parse_args()
    calibration, results = Calibration(), Results()
    solved = calibration.solve()
    results.begin("constants", f"Constants of the engine model, from published timings on {CALIBRATED_ON}")
    units = {"matmul_overhead": ("cycles", 1.0), "saturated": ("GB/s", 1e9), "short": ("GB/s", 1e9)}
    results.table(
        "constants",
        [
            {
                "constant": name,
                "unit": unit,
                "solved": getattr(solved, name) / scale,
                "in the table": getattr(CALIBRATED, name) / scale,
            }
            for name, (unit, scale) in units.items()
        ],
    )
    for name, (_, scale) in units.items():
        results.goal(
            f"{name} of the table", getattr(CALIBRATED, name) / scale, "=", getattr(solved, name) / scale, 0.01
        )
    results.begin("rows", "The rows that decide, by the constants of the table")
    table = []
    for row in ROWS:
        residual = calibration.residual(row, CALIBRATED)
        table.append(
            {
                "row": row.name,
                "decides": row.constant,
                "published ms": row.milliseconds,
                "predicted ms": calibration.predicted(row, CALIBRATED),
                "residual %": 100 * residual,
            }
        )
    results.table("rows", table)
    for row in table:
        results.goal(f"residual of {row['row']}, %", abs(row["residual %"]), "<=", 100 * WITHIN)
    results.end(arguments.json)
    return 1 if arguments.strict and results.missed else 0


if __name__ == "__main__":
    sys.exit(main())
