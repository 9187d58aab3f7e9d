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
"""How near a prediction lies to what the model was checked on."""

from ..machine import Machine
from ..simulator.trace import Trace
from ..tiling import P
from .constants import CALIBRATED_ON, Constants


# Assumed: within these, nothing was checked but what `CHECKED` names.
FEWEST_ROWS = 1024  # a quarter of the rows of every published timing
SIZES = (1024, 36864)  # of weights: a quarter of the smallest to twice the largest of the published timings
CHECKED = (
    f"The engine model was checked on published timings of one core of {CALIBRATED_ON} in bfloat16: X U V of 4096 rows (K 7168, r"
    " 4096, N 18432, strips of 128 to 1024 rows), and X W of 4096 rows (K 8192, N 8192)."
    f" What is near is taken to be as good: {FEWEST_ROWS} rows and more, and weights with sides of {SIZES[0]} to {SIZES[1]}."
)
INPUTS = {"x", "xT", "x_gate", "x_up"}
SHORT, MANY = 1024, 0.2  # bytes of a run, and the part of the bytes in shorter ones that is worth a note


def notes(trace: Trace, machine: Machine, constants: Constants, spills: bool, plans: tuple = ()) -> tuple[str, ...]:
    """Why a prediction is void, or far from what was checked; nothing where it is near."""
    found = list(constants.notes)
    if spills:
        found.append(
            f"more than {machine.spill_fraction:.0%} of SBUF is live: the compiler is expected to spill, and the prediction is void"
        )
    products = [i for i, _ in trace.instructions() if i.name == "nc_matmul"]
    if any(i.reads[0].dtype == "float32" for i in products):
        found.append("float32: there is no published timing of it")
    # Without a plan: activations are one operand of every product, with a row in each column.
    few = bool(products) and all(min(operand.elements for operand in i.reads) < P for i in products)
    rows = min((plan.M for plan in plans if getattr(plan, "M", 0)), default=1 if few else FEWEST_ROWS)
    if rows < P:
        found.append(f"less than {P} rows: there is no published timing of decoding")
    elif rows < FEWEST_ROWS:
        found.append(f"less than {FEWEST_ROWS} rows: the published timings are of 4096")
    if any(i.name == "activation" for i, _ in trace.instructions()):
        found.append("a gated MLP: the published timings are of X W and X U V")
    sizes = [n for plan in plans for name, shape in getattr(plan, "shapes", ()) for n in shape if name not in INPUTS]
    if any(not SIZES[0] <= n <= SIZES[1] for n in sizes):
        found.append(
            f"weights with a side outside of {SIZES[0]} to {SIZES[1]}: those of the published timings are 4096 to 18432"
        )
    if 1 - trace.bytes_in_runs_of(SHORT) > MANY:
        found.append(
            f"more than {MANY:.0%} of the bytes move in runs of less than {SHORT}: what these cost is least known"
        )
    if any(getattr(part, "trips", 1) > 1 for part in trace.body):
        found.append("several cores: the published timings are of one, and what they share of HBM is not modelled")
    return tuple(found)
