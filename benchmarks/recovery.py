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
"""What a training of the factors wins back on text that it never saw: the table of docs/source/guides/recover.mdx.

    python -m benchmarks.recovery --model MODEL --compressed DIR --recovered DIR ... \\
        --evaluation WIKI.test.txt.gz C4.validation.jsonl.gz --json FILE

The compressed and recovered directories are made with `optimum-cli`. Texts, windows and dtype are those of accuracy.py. The
share won back is of the log-likelihood that the compression lost: (before - after) / (before - dense), in nats per token.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_neuronmm import load_report
from optimum_neuronmm.perplexity import perplexity

from .accuracy_measure import evaluation_windows


def measure(directory: str, windows: dict[str, torch.Tensor]) -> dict[str, float]:
    """Perplexity of each text, in bfloat16."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).eval()
    return {name: perplexity(model, tokens) for name, tokens in windows.items()}


def won_back(dense: float, before: float, after: float) -> float:
    """The share of the lost log-likelihood, from perplexities."""
    return math.log(before / after) / math.log(before / dense)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the dense model")
    parser.add_argument("--compressed", required=True, help="what was compressed from it")
    parser.add_argument("--recovered", nargs="+", required=True, help="what was trained from that, or refined")
    parser.add_argument("--evaluation", nargs="+", required=True, help=".txt or .jsonl files, gzipped or not")
    parser.add_argument("--windows", nargs="+", type=int, default=[12, 4], help="of each text")
    parser.add_argument("--length", type=int, default=1024, help="tokens in an evaluation window")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    counts = [*args.windows, *[args.windows[-1]] * len(args.evaluation)]
    texts = dict(zip(args.evaluation, counts, strict=False))
    windows = {Path(f).name: evaluation_windows(tokenizer, f, count, args.length) for f, count in texts.items()}
    dense, before = measure(args.model, windows), measure(args.compressed, windows)
    rows = [{"name": "dense", "perplexity": dense}, {"name": "compressed", "perplexity": before}]
    for directory in args.recovered:
        after, recovery = measure(directory, windows), load_report(directory).get("recovery", {})
        rows.append(
            {
                "name": Path(directory).name,
                **{key: recovery[key] for key in ("tokens", "seconds", "options") if key in recovery},
                "perplexity": after,
                "won_back": {name: won_back(dense[name], before[name], after[name]) for name in windows},
            }
        )
    print(f"{'':<28}{'tokens':>10}{'seconds':>9}" + "".join(f"{name.split('.')[0]:>24}" for name in windows))
    for row in rows:
        shares = row.get("won_back", {})
        cells = [
            f"{value:.2f}" + (f" ({shares[name]:+.1%})" if shares else "") for name, value in row["perplexity"].items()
        ]
        tokens, seconds = (f"{row[key]:,.0f}" if key in row else "" for key in ("tokens", "seconds"))
        print(f"{row['name']:<28}{tokens:>10}{seconds:>9}" + "".join(f"{cell:>24}" for cell in cells))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
