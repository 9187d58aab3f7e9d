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
"""What the kernels are predicted to take: beside published timings, the paper's kernels, and dense weights.

    python benchmarks/latency.py [--json FILE] [--plot PNG] [--strict]

Nothing here runs on a device. Times come from the engine model of `optimum_neuronmm.kernels.latency`, whose constants were
calibrated on five published timings; rows that were not used for that are marked "checked from outside". Where a kernel would
spill there is a flag and no time. Each goal is printed beside the value that it is for.
"""

import argparse
import sys
from pathlib import Path


if not __package__:  # run as a file
    sys.path[0], __package__ = str(Path(__file__).resolve().parent.parent), "benchmarks"
from .latency_figures import TARGET
from .latency_mlp import curves_section, mlp_section
from .latency_plot import draw
from .latency_products import published_section, sweep_section, table_section
from .results import Results


SOURCE = "predicted by an engine model, nothing was run on a device"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw the predicted times of the MLPs")
    parser.add_argument("--strict", action="store_true", help="exit with status 1 where a goal is missed")
    args = parser.parse_args()
    results = Results()
    print(f"for {TARGET}, one core: {SOURCE}")
    for section in (published_section, table_section, sweep_section, mlp_section, curves_section):
        section(results)
    results.end(args.json, target=TARGET, source=SOURCE)
    if args.plot:
        draw(results.tables["mlp"], args.plot)
    if args.strict and results.missed:
        sys.exit(1)


if __name__ == "__main__":
    main()
