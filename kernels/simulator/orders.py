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
"""Runs a kernel with its loops in several orders: an affine loop promises the compiler that the order does not matter."""

import numpy as np

from ..errors import SimulationError
from .run import Simulation, simulate


RUNS = (("reversed", 0), ("shuffled", 0), ("shuffled", 1))
# Of the largest magnitude of an output. Reordering n float32 additions changes a sum by at most 2 n 2^-24 of the sum of the
# magnitudes, some 1e-6 of it for the sizes that are simulated; a sum that lands on the other side of a rounding boundary then
# moves by one unit, 2^-8 in bfloat16 and 2^-11 in float16, in an intermediate and once more in the output.
TOLERANCE = {"float32": 1e-5, "float16": 2 * 2**-11, "bfloat16": 2 * 2**-8}


def check_orders(kernel, *args, **kwargs) -> Simulation:
    """Runs a kernel forward, reversed and shuffled (twice), and compares outputs and traces.

    Outputs must be the same bit by bit, unless the kernel adds up matrix products over a loop: then its float32 sums round
    differently in another order, and an element may differ by `TOLERANCE` of the largest magnitude of its tensor.

    Args: those of `simulate`, without `order`, `seed` and `dry`.
    Returns: the forward run.

    Raises:
        SimulationError: names the order and the first element, or the count of the trace, that differs.
    """
    fixed = sorted({"order", "seed", "dry"} & set(kwargs))
    if fixed:
        raise SimulationError(f"check_orders runs all orders on data, it takes no {', '.join(fixed)}")
    first = simulate(kernel, *args, **kwargs)
    sums = any(instruction.accumulate and times > 1 for instruction, times in first.trace.instructions())
    for order, seed in RUNS:
        try:
            run = simulate(kernel, *args, order=order, seed=seed, **kwargs)
        except SimulationError as error:
            raise SimulationError(f"with the loops {order}: {error}") from error
        for number, (expected, actual) in enumerate(zip(first.outputs, run.outputs, strict=True)):
            _compare(expected, actual, sums, f"with the loops {order}, output {number}")
        for name, expected in totals(first).items():
            actual = totals(run)[name]
            if actual != expected:
                raise SimulationError(
                    f"with the loops {order}, {name} of the trace is {actual}, and {expected} forward"
                )
    return first


def totals(run: Simulation) -> dict:
    """What a trace adds up to."""
    trace = run.trace
    return {
        "counts": trace.counts,
        "runs": trace.runs,
        "hbm_read": trace.total("hbm_read"),
        "hbm_written": trace.total("hbm_written"),
        "flops": trace.flops,
        "transpose_flops": trace.transpose_flops,
        "sbuf_peak": run.sbuf_peak,
        "psum_peak": run.psum_peak,
    }


def _compare(expected: np.ndarray, actual: np.ndarray, sums: bool, where: str) -> None:
    a, b = expected.astype(np.float64), actual.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if sums:
        largest = np.abs(a[np.isfinite(a)]).max(initial=0)
        with np.errstate(invalid="ignore"):
            same |= np.abs(a - b) <= TOLERANCE[expected.dtype.name] * largest
    if not same.all():
        at = tuple(int(i) for i in np.argwhere(~same)[0])
        raise SimulationError(
            f"{where}: element {at} is {b[at]:g}, and {a[at]:g} forward: an iteration of an affine loop needs what another"
            " one wrote, use nl.sequential_range"
        )
