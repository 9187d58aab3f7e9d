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
"""What the rows of accuracy.py are to reach, and whether they do.

The numbers are for SmolLM2-135M-Instruct, the first evaluation text WikiText-2 and the second C4, calibrated on the first.
"""

from .accuracy_cases import Case


# Perplexity of the first text, by ratio and block, for the standard case.
PERPLEXITY = {(0.05, 32): 28.5, (0.1, 32): 32.0, (0.2, 32): 44.0, (0.3, 32): 68.0, (0.2, 128): 46.0}
MIXED = (48.0, 56.0)  # of the two texts at ratio 0.2, calibrated on both
SEED = 0.03  # change of perplexity
SECONDS = 600.0  # of statistics, factors and allocation


def perplexity_goal(case: Case) -> float | None:
    """Of the first text."""
    if case.section == "calibration" and len(case.calibration) > 1 and case.ratio == 0.2:
        return MIXED[0]
    return PERPLEXITY.get((case.ratio, case.block)) if case.section == "by_loss" else None


def goals(rows: dict[Case, dict]) -> list[dict]:
    """`{"goal", "measured", "met"}` of every goal whose rows were measured."""
    found = []
    for check in (_perplexities, _no_worse_than_uniform, _mixed, _seeds, _time):
        found += check(rows)
    return found


def best_calibration(rows: dict[Case, dict]) -> list[str]:
    """For each ratio, the worst growth over the texts by what it was calibrated on, the best first."""
    dense = next(list(row["perplexity"].values()) for case, row in rows.items() if case.method == "dense")
    lines = []
    compared = {
        case: row for case, row in rows.items() if case.section in ("by_loss", "calibration") and case.block == 32
    }
    for ratio in sorted({case.ratio for case in compared if case.section == "calibration"}):
        worst = {
            case.text: max(after / before for after, before in zip(row["perplexity"].values(), dense, strict=True))
            for case, row in compared.items()
            if case.ratio == ratio
        }
        ordered = sorted(worst.items(), key=lambda entry: entry[1])
        lines.append(f"ratio {ratio}: " + ", ".join(f"{text} {growth:.3f}x" for text, growth in ordered))
    return lines


def _perplexities(rows: dict[Case, dict]) -> list[dict]:
    found = []
    for case, row in rows.items():
        limit = perplexity_goal(case) if case.section == "by_loss" else None
        if limit is not None:
            name, value = next(iter(row["perplexity"].items()))
            found.append(_below(f"{name} at {case.ratio}, block {case.block}", value, limit))
    return found


def _no_worse_than_uniform(rows: dict[Case, dict]) -> list[dict]:
    found = []
    for case, row in _section(rows, "whitened"):
        ours = _standard(rows, case.ratio)
        for name, value in row["perplexity"].items() if ours else ():
            goal = f"{name} at {case.ratio}: no worse than uniform whitening"
            found.append(_below(goal, ours["perplexity"][name], value))
    return found


def _mixed(rows: dict[Case, dict]) -> list[dict]:
    return [
        _below(f"{name} at 0.2, calibrated on {case.text}", value, limit)
        for case, row in _section(rows, "calibration")
        if perplexity_goal(case) is not None
        for (name, value), limit in zip(row["perplexity"].items(), MIXED, strict=False)
    ]


def _seeds(rows: dict[Case, dict]) -> list[dict]:
    found = []
    for case, row in _section(rows, "seed"):
        standard = _standard(rows, case.ratio)
        for name, value in row["perplexity"].items() if standard else ():
            change = value / standard["perplexity"][name] - 1
            goal = f"{name} at {case.ratio}: another seed changes it by less than {SEED:.0%}"
            found.append({"goal": goal, "measured": f"{change:+.2%}", "met": abs(change) < SEED})
    return found


def _time(rows: dict[Case, dict]) -> list[dict]:
    row = _standard(rows, 0.2)
    if row is None:
        return []
    statistics = row["statistics"]
    seconds, threads = statistics["seconds"] + row["choice_seconds"], statistics["threads"]
    goal = f"statistics, factors and allocation in less than {SECONDS:.0f} s"
    load = ", ".join(f"{value:.1f}" for value in statistics["load"])
    measured = (
        f"{seconds:.0f} s with {threads} threads ({statistics['cpu_seconds']:.0f} s of CPU time), load average {load}"
    )
    if statistics["load"][1] > threads + 0.75:
        measured += " (the machine was busy with other work)"
    return [{"goal": goal, "measured": measured, "met": seconds < SECONDS}]


def _below(goal: str, value: float, limit: float) -> dict:
    return {"goal": f"{goal} <= {limit:.2f}", "measured": f"{value:.2f}", "met": value <= limit}


def _section(rows: dict[Case, dict], section: str) -> list[tuple[Case, dict]]:
    return [(case, row) for case, row in rows.items() if case.section == section]


def _standard(rows: dict[Case, dict], ratio: float) -> dict | None:
    """The row of the default options at a ratio, block 32."""
    return next((row for case, row in _section(rows, "by_loss") if (case.ratio, case.block) == (ratio, 32)), None)
