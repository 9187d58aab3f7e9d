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
"""Questions a second: this evaluation beside lm-eval's backend for transformers, measured in one run.

    python -m benchmarks.evaluate --model DIR --data DIR [--tasks TASK ...] [--examples N] [--json FILE]

Both sides get the same model object, rows, dtype and threads, and take turns. Where their accuracies differ, a line says
so. The time of each runs from rows on disk (ours) or in memory (lm-eval's) to the accuracies: prompts, tokens, forward
passes, metrics, and for ours the file that keeps the scores. Not in it: imports, loading the model, building lm-eval's
task. lm-eval runs with the batch size that is fastest for it, of those given, on each task; ours with its default.
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from optimum_neuronmm.recipes.data.local_files import decoded, find_file, json_lines, read_bytes
from optimum_neuronmm.recipes.data.sources import load_data
from optimum_neuronmm.recipes.data.tasks import MULTIPLE_CHOICE, TASKS
from optimum_neuronmm.recipes.description.task_options import QuestionOptions
from optimum_neuronmm.recipes.metrics.by_name import metric
from optimum_neuronmm.recipes.provenance import machine, versions
from optimum_neuronmm.recipes.scoring.evaluation import evaluate
from optimum_neuronmm.recipes.scoring.examples import Scores
from optimum_neuronmm.recipes.scoring.identity import identify
from optimum_neuronmm.recipes.scoring.loading import LoadedModel
from tests.recipes.lm_eval_tasks import build_model, build_task, judge


QUESTIONS = [name for name, task in TASKS.items() if task.kind == MULTIPLE_CHOICE]
GOAL, AIM = 0.9, 1.5  # times the questions a second of lm-eval


class Contest:
    """A task on which both sides run.

    Args:
        data: directory of local data, see `recipes.sources`.
        examples: the first of them are taken.
        directory: for copies of the rows, caches and scores.
    """

    def __init__(self, loaded: LoadedModel, name: str, data: Path, examples: int, directory: Path):
        self.name, self._loaded, self._directory = name, loaded, directory
        directory.mkdir()
        path = find_file(TASKS[name], data)
        rows = [row for _, row in json_lines(decoded(read_bytes(path), path), path, examples)]
        self.examples = len(rows)
        self._file = directory / f"{TASKS[name].file}.jsonl"
        self._file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        self._theirs = build_task(name, rows, directory / "lm-eval")

    def ours(self) -> dict[str, float]:
        data = load_data(TASKS[self.name], data={self.name: self._file})
        with tempfile.TemporaryDirectory(dir=self._directory) as scores:  # nothing is known from the last run
            entry = evaluate(self._loaded, TASKS[self.name], QuestionOptions(), data, Scores(Path(scores))).entry
        return {name: entry[name] for name in TASKS[self.name].metrics}

    def theirs(self, batch_size: int) -> dict[str, float]:
        model = build_model(self._loaded.model, self._loaded.tokenizer, batch_size)
        found = judge(model, self._theirs).metrics
        return {name: found[name] for name in TASKS[self.name].metrics}


def timed(function: Callable, *arguments) -> tuple[dict, float]:
    started = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - started


def run(contest: Contest, batch_sizes: list[int], repeats: int) -> dict:
    """Both sides in turns, lm-eval with the best of the batch sizes."""
    found = {size: timed(contest.theirs, size)[1] for size in batch_sizes}
    best = min(found, key=found.get)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(repeats):
        ours, took = timed(contest.ours)
        seconds["ours"].append(took)
        theirs, took = timed(contest.theirs, best)
        seconds["theirs"].append(took)
    rates = {
        side: {"best": contest.examples / min(times), "median": contest.examples / statistics.median(times)}
        for side, times in seconds.items()
    }
    return {
        "task": contest.name,
        "examples": contest.examples,
        "batch_size": best,
        "seconds_by_batch_size": found,
        "seconds": seconds,
        "examples_per_second": rates,
        "ratio": {kind: rates["ours"][kind] / rates["theirs"][kind] for kind in ("best", "median")},
        "metrics": {"ours": ours, "theirs": theirs},
    }


def warm_up(loaded: LoadedModel, data: Path, directory: Path) -> None:
    """What happens once: imports, loading, the check of packing."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    metric("multiple_choice")
    contest = Contest(loaded, QUESTIONS[0], data, 2, directory / "warm-up")
    contest.ours(), contest.theirs(1)


def show(row: dict) -> None:
    ours, theirs = (row["examples_per_second"][side] for side in ("ours", "theirs"))
    print(
        f"{row['task']:>14} {row['examples']:>5} {row['batch_size']:>6} | {ours['best']:>6.2f} {theirs['best']:>7.2f} "
        f"{row['ratio']['best']:>6.2f}x | {ours['median']:>6.2f} {theirs['median']:>7.2f} {row['ratio']['median']:>6.2f}x",
        flush=True,
    )
    if row["metrics"]["ours"] != row["metrics"]["theirs"]:
        print(f"{'':>14} DIFFERENT accuracies: {row['metrics']}", flush=True)


def overall(rows: list[dict], reduce: Callable[[list[float]], float]) -> float:
    """The ratio over all tasks together, each as long as it takes."""
    return sum(reduce(row["seconds"]["theirs"]) for row in rows) / sum(reduce(row["seconds"]["ours"]) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="directory or Hub id of a causal LM")
    parser.add_argument("--data", required=True, type=Path, help="directory of local data")
    parser.add_argument("--tasks", nargs="+", choices=QUESTIONS, default=QUESTIONS)
    parser.add_argument("--examples", type=int, default=50, help="of each task, from the first")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side")
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 4, 16], help="that lm-eval may choose from")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: CUDA where there is one")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()

    loaded = LoadedModel(identify(args.model), args.dtype, args.device)
    setting = {"model": loaded.identity.name, "dtype": args.dtype, "device": loaded.device}
    threads = torch.get_num_threads()
    rows = []
    with tempfile.TemporaryDirectory(prefix="neuronmm-evaluate-") as directory:
        warm_up(loaded, args.data, Path(directory))
        print(f"{setting['model']}, {args.dtype}, {loaded.device}, {threads} threads; questions a second")
        print(f"{'':>27} | {'best of ' + str(args.repeats):^22} | {'median':^22}")
        columns = f"{'ours':>6} {'lm-eval':>7} {'ratio':>7}"
        print(f"{'task':>14} {'n':>5} {'batch':>6} | {columns} | {columns}")
        for name in args.tasks:
            contest = Contest(loaded, name, args.data, args.examples, Path(directory) / name)
            rows.append(run(contest, args.batch_sizes, args.repeats))
            show(rows[-1])
    ratios = {"best": overall(rows, min), "median": overall(rows, statistics.median)}
    met = "met" if ratios["median"] >= GOAL else "MISSED"
    print(f"all tasks: {ratios['best']:.2f}x (best), {ratios['median']:.2f}x (median); goal {GOAL}x {met}, aim {AIM}x")
    if args.json:
        figures = {**setting, "goal": GOAL, "aim": AIM, "ratio": ratios, "tasks": rows}
        figures |= {"threads": threads, "versions": versions(), "machine": machine()}
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
