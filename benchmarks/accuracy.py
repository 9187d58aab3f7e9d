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
"""Perplexity of a model and of its compressed forms on one text: the table of docs/source/concepts/accuracy.mdx.

    python benchmarks/accuracy.py --model MODEL --calibration TRAIN.txt.gz --evaluation TEST.txt.gz

The protocol: calibration on 64 windows of 512 tokens; evaluation on the first 12 windows of 1024 tokens of the file as
it is, without BOS, in bfloat16.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_neuronmm import NeuronMMConfig, compress
from optimum_neuronmm.calibration import read_documents
from optimum_neuronmm.perplexity import perplexity


# ratio, block size: at SmolLM2's shapes (576 x 1536), uniform ranks of 384 and 320.
CASES = ((0.1, 128), (0.2, 64))


def evaluation_windows(tokenizer, text: str, count: int, length: int) -> torch.Tensor:
    """The first `count` disjoint windows (count, length) of a text."""
    tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt", verbose=False).input_ids[0]
    return tokens[: count * length].view(count, length)


def measure(directory: str | Path, windows: torch.Tensor) -> float:
    return perplexity(AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).eval(), windows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--calibration", action="append", required=True, help="source; repeat to mix several")
    parser.add_argument("--evaluation", action="append", required=True, help=".txt or .jsonl file, gzipped or not")
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decomposition", default="whitened")
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    windows = {}
    for file in args.evaluation:
        joiner = "\n\n" if ".jsonl" in file else ""
        windows[Path(file).name] = evaluation_windows(
            tokenizer, joiner.join(read_documents(file)), args.windows, args.length
        )
    dense = {name: measure(args.model, w) for name, w in windows.items()}
    rows = [{"ratio": 0.0, "achieved": 0.0, "block": None, "rank": "dense", "perplexity": dense, "growth": 1.0}]
    for ratio, block in CASES:
        config = NeuronMMConfig(
            compression_ratio=ratio,
            block_size=block,
            calibration=args.calibration,
            seed=args.seed,
            decomposition=args.decomposition,
        )
        with tempfile.TemporaryDirectory() as temporary:
            report = compress(args.model, Path(temporary) / "out", config)
            measured = {name: measure(Path(temporary) / "out", w) for name, w in windows.items()}
        first = next(iter(windows))
        rows.append(
            {
                "ratio": ratio,
                "achieved": report["compression_ratio"]["projections"],
                "block": block,
                "rank": report["projections"][0]["rank"],
                "perplexity": measured,
                "growth": measured[first] / dense[first],
            }
        )
    print(f"\n{'requested':>9} {'achieved':>9} {'block':>6} {'rank':>6}  " + "  ".join(f"{n:>24}" for n in windows))
    for row in rows:
        numbers = "  ".join(f"{value:>24.2f}" for value in row["perplexity"].values())
        print(f"{row['ratio']:>9.2%} {row['achieved']:>9.2%} {row['block'] or '':>6} {row['rank']:>6}  {numbers}")
    if args.json:
        args.json.write_text(json.dumps({"arguments": {**vars(args), "json": None}, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
