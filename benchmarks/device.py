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
"""Predicted beside measured: runs the kernels on a NeuronCore, and writes a file that can be sent in.

    python -m benchmarks.device [--json FILE] [--kernels NAME ...] [--rows N ...] [--again [failed]] [--neff DIR] [--dry]

Each case is compiled and timed by `nki.benchmark` (Neuron SDK 2.26) on one core, in bfloat16: the kernels at the shapes of
an MLP of Llama-3.2-1B, the five that the latency model was calibrated on, and ours at the same shapes. A case is written
when it is done, and a rerun does the rest; one that fails is written with its error. The file has shapes, plans,
predictions, percentiles, versions and the instance type, and neither paths nor names of hosts. `--dry` prints cases and
predictions anywhere.
"""

import argparse
import json
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

from optimum_neuronmm.kernels import MACHINES, KernelError, PlanError
from optimum_neuronmm.kernels.latency import Prediction, predict

from .device_cases import Case, cases
from .device_file import RUNNING, Timings, anonymous
from .device_measure import find_benchmark, instance_type, measure, versions
from .kernel_shapes import ROWS


TARGET = "trn1"  # of a dry run


def predicted(prediction: Prediction) -> dict:
    """What the file keeps of a prediction."""
    return {
        "ms": prediction.milliseconds,
        "floor ms": 1e3 * prediction.floor,
        "busy ms": {engine: 1e3 * seconds for engine, seconds in prediction.busy.items()},
        "bound by": prediction.bound_by,
        "GFLOP": prediction.flops / 1e9,
        "HBM MB": prediction.hbm_bytes / 1e6,
        "spills": prediction.spills,
        "notes": list(prediction.notes),
    }


def described(case: Case, plan, prediction: Prediction) -> dict:
    """The record of a case, without what was measured."""
    return {
        "case": case.name,
        "kernel": case.kernel_name,
        "tensors": {name: list(spec.shape) for name, spec in case.tensors.items()},
        "dtype": next(iter(case.tensors.values())).dtype,
        "settings": case.settings,
        "options": case.options,
        "plan": plan and json.loads(json.dumps(asdict(plan))),  # as the file gives it back
        "predicted": predicted(prediction),
    }


class Table:
    """Lines as they come, with the notes of the predictions as footnotes."""

    def __init__(self, target: str, width: int, dry: bool):
        self.width, self.dry, self.notes, self.ratios = width, dry, [], []
        print(f"predicted for one core of {target}; ms\n")
        measured = "" if dry else f"{'measured p50':>14}{'p99':>9}{'measured / predicted':>22}"
        print(f"{'':{width}}{'predicted':>11}{measured}  bound by, notes")

    def line(self, record: dict) -> None:
        prediction = record["predicted"]
        self.notes += [note for note in prediction["notes"] if note not in self.notes]
        numbers = "".join(f" ({1 + self.notes.index(note)})" for note in prediction["notes"])
        columns = "" if self.dry else self._measured(record)
        print(
            f"{record['case']:{self.width}}{prediction['ms']:>11.3f}{columns}  {prediction['bound by']}{numbers}",
            flush=True,
        )
        if "error" in record:
            print(f"    failed: {record['error']}", flush=True)

    def _measured(self, record: dict) -> str:
        if "measured" not in record:
            return f"{'-':>14}{'-':>9}{'-':>22}"
        p50, p99 = (record["measured"]["microseconds"][p] / 1e3 for p in ("50", "99"))
        self.ratios.append(p50 / record["predicted"]["ms"])
        return f"{p50:>14.3f}{p99:>9.3f}{self.ratios[-1]:>22.2f}"

    def end(self) -> None:
        if self.ratios:
            low, middle, high = min(self.ratios), statistics.median(self.ratios), max(self.ratios)
            print(f"\nmeasured / predicted: {low:.2f} to {high:.2f}, median {middle:.2f}, of {len(self.ratios)} cases")
        for number, note in enumerate(self.notes, 1):
            print(f"({number}) {note}")


def run(case: Case, record: dict, plan, timings: Timings, modules, neff: Path | None) -> dict:
    """The record with what was measured, or with the error; it is in the file then."""
    iterations = {name: timings.where[name] for name in ("warmup", "iters")}
    before = timings.records.get(case.name)
    timings.put({**record, "error": RUNNING})
    try:
        microseconds = measure(modules, case, plan, neff=neff and neff / f"{case.file_name}.neff", **iterations)
        record = {**record, "measured": {"microseconds": microseconds}}
    except KeyboardInterrupt:
        timings.put(before) if before else timings.drop(case.name)
        raise
    except (Exception, SystemExit) as error:  # of a compiler and of tools: anything, and the next case may still run
        record = {**record, "error": anonymous(f"{type(error).__name__}: {error}")}
    timings.put(record)
    return record


def kept(record: dict, timings: Timings, again: str | None) -> dict | None:
    """The record with what the file has of it, or None where it is to run: it has nothing, or for another plan."""
    found = timings.records.get(record["case"], {})
    outcome = {name: found[name] for name in ("measured", "error") if name in found}
    if not outcome or found.get("plan") != record["plan"] or again == "all" or (again and "error" in outcome):
        return None
    return record | outcome


def wanted(args, found: list[Case]) -> list[Case]:
    """The cases that were asked for."""
    names = sorted({case.kernel_name for case in found})
    wrong = [name for name in args.kernels or () if name not in names]
    if wrong:
        raise KernelError(f"unknown kernel {', '.join(wrong)}: expected some of {', '.join(names)}")
    chosen = [c for c in found if c.kernel_name in (args.kernels or names) and c.rows in (args.rows or [c.rows])]
    if not chosen:
        raise KernelError(
            f"no case has {args.rows} rows and one of these kernels: rows are {', '.join(map(str, ROWS))}"
        )
    return chosen


def target_of(args) -> tuple[str, str | None]:
    """The machine to predict for, and the instance type if it is known here."""
    instance = instance_type()
    here = next((name for name in MACHINES if instance and instance.startswith(name)), None)
    if args.target and here and not args.dry and args.target != here:
        raise KernelError(f"--target {args.target}, but this is {instance}: leave it out")
    target = args.target or here
    if target is None and not args.dry:
        raise KernelError(f"the instance type is not known here: give --target, one of {', '.join(MACHINES)}")
    return target or TARGET, instance


def compare(args) -> int:
    """Runs the cases, or predicts them only; how many failed."""
    chosen = wanted(args, cases())
    modules = None if args.dry else find_benchmark()
    target, instance = target_of(args)
    timings = None
    if not args.dry:
        where = {"instance_type": instance, "machine": target, "cores": 1, "warmup": args.warmup, "iters": args.iters}
        timings = Timings(args.json, where | {"versions": versions()})
    table = Table(target, 2 + max(len(case.name) for case in chosen), args.dry)
    failed = 0
    for case in chosen:
        try:
            plan = case.plan(target)
        except PlanError as error:
            print(f"{case.name}: no plan: {error}")
            continue
        prediction = predict(case.kernel, **case.tensors, **case.settings, target=target, plan=plan)
        record = described(case, plan, prediction)
        if timings:
            record = kept(record, timings, args.again) or run(case, record, plan, timings, modules, args.neff)
        failed += "error" in record
        table.line(record)
    table.end()
    return failed


def positive(text: str) -> int:
    """A count of the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("device.json"), help="the file; default: %(default)s")
    parser.add_argument("--kernels", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--rows", nargs="+", type=int, metavar="N", help="only cases of so many rows")
    parser.add_argument("--target", choices=list(MACHINES), help="the machine; default: that of this instance")
    parser.add_argument("--again", nargs="?", const="all", choices=["all", "failed"], help="also what the file has")
    parser.add_argument("--warmup", type=positive, default=10, help="iterations before those that count")
    parser.add_argument("--iters", type=positive, default=100, help="iterations that count")
    parser.add_argument("--neff", type=Path, metavar="DIR", help="keep the compiled kernels there, for neuron-profile")
    parser.add_argument("--dry", action="store_true", help="print cases and predictions, and measure nothing")
    args = parser.parse_args(arguments)
    try:
        if args.neff:
            args.neff = args.neff.resolve()
            args.neff.mkdir(parents=True, exist_ok=True)
        failed = compare(args)
    except (KernelError, OSError) as error:
        sys.exit(f"error: {error}")
    if failed:
        sys.exit(f"cases failed: {failed}. `--again failed` tries them again")


if __name__ == "__main__":
    main()
