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
"""Perplexity of a model and of its compressed forms, beside references: the table of docs/source/concepts/accuracy.mdx.

    python -m benchmarks.accuracy --model MODEL --calibration WIKI.train.txt.gz C4.train.jsonl.gz \\
        --evaluation WIKI.test.txt.gz C4.validation.jsonl.gz --work DIRECTORY --json FILE

The protocol: calibration on 64 windows of 512 tokens; evaluation on the first windows of 1024 tokens of each file, 12 of
the first and 4 of the others, as it is, without BOS, in bfloat16. A row is written to the JSON file when it is measured,
and not measured again by the same command. Statistics are shared by all rows that they fit, and kept in the work directory;
remove both when the code that makes them has changed.
"""

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path

import torch
import transformers

from .accuracy_cases import SECTIONS, Case, cases
from .accuracy_goals import best_calibration, goals, perplexity_goal
from .accuracy_measure import Measurement, Protocol


def main() -> None:
    args = _arguments()
    counts = [*args.windows, *[args.windows[-1]] * len(args.evaluation)]
    protocol = Protocol(
        model=args.model,
        evaluation=tuple(zip(args.evaluation, counts, strict=False)),
        length=args.length,
        samples=args.calibration_samples,
        calibration_length=args.calibration_length,
        dtype=args.dtype,
    )
    wanted = [case for case in cases(args.calibration) if case.section in ("dense", *args.rows)]
    with tempfile.TemporaryDirectory(prefix="neuronmm-accuracy-") as temporary:
        measurement = Measurement(protocol, args.work or Path(temporary))
        try:
            rows = measure(measurement, protocol, wanted, args.json)
        finally:
            measurement.close()
    compared = best_calibration(rows)
    if compared:
        print("\nworst growth over the texts by calibration, the best first:", *compared, sep="\n  ")
    if args.markdown:
        args.markdown.write_text(markdown(rows), encoding="utf-8")
    print("\ngoals (for SmolLM2-135M-Instruct):")
    for entry in goals(rows):
        print(f"  {'met   ' if entry['met'] else 'MISSED'}  {entry['goal']}: {entry['measured']}")


def measure(measurement: Measurement, protocol: Protocol, wanted: list[Case], file: Path | None) -> dict[Case, dict]:
    """The wanted rows, those that `file` has not from measuring. Prints each, and writes it to `file`."""
    known = json.loads(file.read_text(encoding="utf-8"))["rows"] if file and file.is_file() else []
    rows: dict[Case, dict] = {}
    section = None
    for case in wanted:
        settings = protocol.settings(case)
        row = next((row for row in known if row["settings"] == settings), None)
        if row is None:
            row = {"settings": settings, **measurement.row(case)}
            known.append(row)
        rows[case] = row
        if file:
            _write(file, {"machine": _machine(), "rows": known, "goals": goals(rows)})
        if section is None:
            print(_header(list(row["perplexity"])))
        if section != case.section:
            print(f"{case.section}: {SECTIONS[case.section]}")
        section = case.section
        print(_line(case, row, rows[wanted[0]]["perplexity"]), flush=True)
    return rows


def markdown(rows: dict[Case, dict]) -> str:
    """The rows as the table of the documentation."""
    texts = [name.split(".txt")[0].split(".jsonl")[0] for name in next(iter(rows.values()))["perplexity"]]
    lines = [
        f"| method | calibrated on | ratio | removed | left dense | {' | '.join(texts)} |",
        "|---" * (5 + len(texts)) + "|",
    ]
    for case, row in rows.items():
        numbers = " | ".join(f"{value:.2f}" for value in row["perplexity"].values())
        if case.method == "dense":
            lines.append(f"| dense | | | | | {numbers} |")
            continue
        lines.append(
            f"| {case.label} | {case.text} | {case.ratio:g} | {row['achieved']:.2%} | {row['left_dense']} | {numbers} |"
        )
    return "\n".join(lines) + "\n"


def _header(texts: list[str]) -> str:
    names = "  ".join(f"{name.split('.txt')[0].split('.jsonl')[0][:20]:>20}" for name in texts)
    return f"  {'method':<38} {'calibrated on':<28} {'ratio':>5} {'achieved':>8} {'dense':>5}  {names}  {'goal':>13}  seconds"


def _line(case: Case, row: dict, dense: dict[str, float]) -> str:
    numbers = "  ".join(
        f"{f'{value:.2f} ({value / dense[name]:.3f}x)':>20}" for name, value in row["perplexity"].items()
    )
    limit, first = perplexity_goal(case), next(iter(row["perplexity"].values()))
    goal = "" if limit is None else f"{limit:g} {'met' if first <= limit else 'MISSED'}"
    ratio = f"{case.ratio:g}" if case.ratio else ""
    return (
        f"  {case.label:<38} {case.text:<28} {ratio:>5} {row['achieved']:>8.2%} {row['left_dense']:>5}  {numbers}  "
        f"{goal:>13}  {row['seconds']:.0f}"
    )


def _write(file: Path, content: dict) -> None:
    partial = file.with_name(file.name + ".part")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, file)


def _machine() -> dict:
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="directory or Hub id")
    parser.add_argument("--calibration", nargs="+", required=True, help="sources; the first is the standard one")
    parser.add_argument("--evaluation", nargs="+", required=True, help=".txt or .jsonl files, gzipped or not")
    parser.add_argument(
        "--windows", nargs="+", type=int, default=[12, 4], help="of each text; the last for all others"
    )
    parser.add_argument("--length", type=int, default=1024, help="tokens in an evaluation window")
    parser.add_argument("--calibration-samples", type=int, default=64)
    parser.add_argument("--calibration-length", type=int, default=512)
    parser.add_argument("--dtype", default="bfloat16", help="to evaluate in")
    parser.add_argument(
        "--rows", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), help="sections; default all"
    )
    parser.add_argument("--work", type=Path, help="directory where the statistics are kept; default a temporary one")
    parser.add_argument("--json", type=Path, help="file that rows are written to, and taken from where it has them")
    parser.add_argument("--markdown", type=Path, help="file to write the rows to as a table in Markdown")
    return parser.parse_args()


if __name__ == "__main__":
    main()
