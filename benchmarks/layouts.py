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
"""What one rank of tensor parallelism holds of a compressed MLP, in both layouts, beside dense, and which is chosen for
bfloat16 on trn1. Arithmetic, no model needed.

python benchmarks/layouts.py [--json FILE]
"""

import argparse
import json
from pathlib import Path

from optimum_neuronmm.kernels import get_machine
from optimum_neuronmm.neuron.form import REPLICATED, SHARDED, Form
from optimum_neuronmm.ranks import Shape, uniform_rank


# Hidden and intermediate size, from each model's config.json.
MODELS = {
    "Llama-3.2-1B": (2048, 8192),
    "Llama-3.2-3B": (3072, 8192),
    "Qwen3-1.7B": (2048, 6144),
    "Qwen3-4B": (2560, 9728),
}
RATIOS = (0.1, 0.2)
RANKS = (1, 2, 4, 8)


def rows(block_size: int = 128, alpha: float = 0.5) -> list[dict]:
    """One row for each model, ratio and number of ranks."""
    found = []
    for model, (H, I) in MODELS.items():  # noqa: E741
        for ratio in RATIOS:
            r = uniform_rank(Shape(H, I), ratio, block_size, alpha)
            for tp in RANKS:
                forms = {layout: Form(H, I, r, r, r, tp=tp, layout=layout) for layout in (REPLICATED, SHARDED)}
                bandwidth = get_machine("trn1").bandwidth / 2
                chosen = min(forms, key=lambda layout, forms=forms: forms[layout].decoding_seconds(bandwidth))
                chosen = SHARDED if tp > 1 and forms[REPLICATED].larger_than_dense else chosen
                should = forms[chosen].decoding_seconds(bandwidth) < forms[chosen].dense_decoding_seconds(bandwidth)
                found.append(
                    {
                        "model": model,
                        "ratio": ratio,
                        "rank": r,
                        "tp": tp,
                        **{layout: form.parameters / form.dense_parameters for layout, form in forms.items()},
                        "chosen": (chosen if should else "stay dense") if tp > 1 else "nothing is cut",
                        "exchanges": forms[chosen].collectives,
                    }
                )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="Write the rows to this file.")
    args = parser.parse_args()
    table = rows()
    print("MLP weights of one rank, as a fraction of the dense model's\n")
    print(
        f"{'model':<14}{'ratio':>6}{'rank':>6}{'TP':>4}{'replicated':>12}{'sharded':>9}{'chosen':>16}{'exchanges':>11}"
    )
    for row in table:
        print(
            f"{row['model']:<14}{row['ratio']:>6}{row['rank']:>6}{row['tp']:>4}{row[REPLICATED]:>12.2f}"
            f"{row[SHARDED]:>9.2f}{row['chosen']:>16}{row['exchanges']:>11}"
        )
    if args.json:
        args.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
