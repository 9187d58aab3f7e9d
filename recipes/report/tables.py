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
"""The tables of a report. A cell without a figure is "–", and a perplexity that is infinite is "not finite"."""

import math
import re

from ..data.tasks import MULTIPLE_CHOICE, PERPLEXITY, TASKS
from .figures import (
    baseline_of,
    finite,
    mean_accuracy_error,
    measured_tasks,
    published_rows,
    speedup,
    title_of,
)


EMPTY = "–"
_SHA256_SHOWN = 12
_PUBLISHED = ("perplexity", "accuracy", "mean_accuracy", "speedup", "gamma")  # of which the first table has columns
_LARGEST_EXPONENT = 700  # of a number that a float can hold


def escaped(text: object) -> str:
    """A name or a note as it is, on one line, whatever it holds: nothing in it is taken for Markdown."""
    return re.sub(r"([\\`*|<>\[\]~&$]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(str(text).split()))


def table(header: list[str], rows: list[list[str]], names: int = 1) -> str:
    """A table whose first `names` columns are left-aligned, the others right. Columns without any figure are left out."""
    kept = [i for i in range(len(header)) if i == 0 or any(row[i] != EMPTY for row in rows)]
    rule = ["---" if i < names else "---:" for i in kept]
    lines = [[header[i] for i in kept], rule, *([row[i] for i in kept] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def results_table(results: dict) -> str:
    """One row for each model, and the published row of a ratio under the last of our models that it goes with."""
    texts, questions = measured_tasks(results, PERPLEXITY), measured_tasks(results, MULTIPLE_CHOICE)
    header = ["model", "requested", "achieved", *(f"{title_of(name)} ↓" for name in texts)]
    header += [*(f"{title_of(name)} ↑" for name in questions), "mean accuracy ↑", "speed-up", "gamma"]
    published, rows = published_rows(results["models"]), []
    baseline = baseline_of(results)
    for index, model in enumerate(results["models"]):
        entries = model["tasks"]
        factor = speedup(model, baseline)
        rows.append(
            [
                escaped(model["name"]) + (" (baseline)" if model is baseline else ""),
                _percent(model["requested_ratio"]),
                _percent(model["achieved_ratio"]),
                *(_perplexity_cell(entries.get(name)) for name in texts),
                *(_accuracy_cell(entries.get(name), "acc") for name in questions),
                _with_error(model["mean_accuracy"], mean_accuracy_error(model)),
                EMPTY if factor is None else f"{factor:.2f} x",
                _percent(model["gamma"]),
            ]
        )
        if any(published.get(index, {}).get(name) for name in _PUBLISHED):
            rows.append(_published_cells(published[index], texts, questions))
    return table(header, rows)


def normalised_table(results: dict) -> str | None:
    """acc_norm of every model, or None where no task has it."""
    names = [
        name
        for name in measured_tasks(results, MULTIPLE_CHOICE)
        if any("acc_norm" in model["tasks"].get(name, {}) for model in results["models"])
    ]
    if not names:
        return None
    rows = [
        [escaped(model["name"]), *(_accuracy_cell(model["tasks"].get(name), "acc_norm") for name in names)]
        for model in results["models"]
    ]
    return table(["model", *(f"{title_of(name)} ↑" for name in names)], rows)


def growth_table(results: dict) -> str | None:
    """What changed against the baseline where both were scored alike, or None where there is nothing to compare."""
    baseline = baseline_of(results)
    others = [model for model in results["models"] if model is not baseline]
    if baseline is None or not others:
        return None
    texts, questions = measured_tasks(results, PERPLEXITY), measured_tasks(results, MULTIPLE_CHOICE)
    header = ["model"]
    for name in texts:
        header += [f"{title_of(name)}, perplexity", f"{title_of(name)}, KL"]
    header += [*(f"{title_of(name)}, points" for name in questions), "mean accuracy, points"]
    rows = []
    for model in others:
        row = [escaped(model["name"])]
        for name in texts:
            entry = model["tasks"].get(name, {})
            row += [_growth_cell(entry.get("change")), _divergence_cell(entry)]
        changes = [model["tasks"].get(name, {}).get("change") for name in questions]
        rows.append([*row, *map(_points_cell, changes), _points_cell(_mean_change(changes))])
    return table(header, rows)


def speed_table(results: dict) -> str | None:
    """Medians and 90th percentiles, with published figures beneath, or None where nothing was timed."""
    baseline, published = baseline_of(results), published_rows(results["models"])
    rows, timed = [], False
    for index, model in enumerate(results["models"]):
        if model["speed"] is not None:
            timed = True
            rows.append(_speed_row(model, baseline))
        if published.get(index, {}).get("speed"):
            rows.append(_published_speed(published[index]))
    header = ["model", "device", "dtype", "latency, s", "throughput, tokens/s", "TTFT, ms", "TPOT, ms", "speed-up"]
    return table(header, rows, names=3) if timed else None


def _speed_row(model: dict, baseline: dict | None) -> list[str]:
    speed, factor = model["speed"], speedup(model, baseline)
    return [
        escaped(model["name"]),
        escaped(speed["device"]),
        escaped(speed["dtype"]),
        _spread(speed["latency_s"]),
        _spread(speed["throughput_tokens_per_s"]),
        _spread(speed["ttft_s"], 1e3),
        _spread(speed["tpot_s"], 1e3),
        EMPTY if factor is None else f"{factor:.2f} x",
    ]


def _published_speed(row: dict) -> list[str]:
    """In italics, with the digits that were published and no more."""
    speed, factor = row["speed"], row.get("speedup")
    cells = [
        f"published, ratio {row['ratio']:g}",
        EMPTY,
        EMPTY,
        _digits(speed.get("latency_s")),
        _digits(speed.get("throughput_tokens_per_s")),
        _digits(_thousandfold(speed.get("ttft_s"))),
        _digits(_thousandfold(speed.get("tpot_s"))),
        EMPTY if factor is None else f"{_digits(factor)} x",
    ]
    return [cell if cell == EMPTY else f"*{cell}*" for cell in cells]


def models_table(results: dict) -> str:
    """Which models these are."""
    rows = [
        [
            escaped(model["name"]),
            model["kind"],
            escaped(model["model"]),
            EMPTY if model["revision"] is None else escaped(model["revision"]),
            _short(model["sha256"]),
            escaped(model["dtype"]),
            escaped(model["device"]),
            EMPTY if model["parameters"] is None else f"{model['parameters']:,}",
            f"{model['seconds']:,.0f}",
            escaped(model.get("made") or EMPTY),
        ]
        for model in results["models"]
    ]
    header = [
        "model",
        "kind",
        "from",
        "revision",
        "sha256 of files",
        "dtype",
        "device",
        "parameters",
        "seconds",
        "made",
    ]
    return table(header, rows, names=7)


def data_table(results: dict) -> str:
    """Where the text of each task comes from and how it was scored. What differs between models is told of each."""
    rows = []
    for name in [*measured_tasks(results, PERPLEXITY), *measured_tasks(results, MULTIPLE_CHOICE)]:
        data = results["data"].get(name)
        entries = [model["tasks"][name] for model in results["models"] if name in model["tasks"]]
        rows.append(
            [
                title_of(name),
                TASKS[name].split if name in TASKS else EMPTY,
                escaped(data["source"]) if data else EMPTY,
                _short(data["sha256"]) if data else EMPTY,
                " / ".join(dict.fromkeys(_scored(entry) for entry in entries)),
                " / ".join(dict.fromkeys(escaped(e["layout"]) for e in entries if "layout" in e)) or EMPTY,
                " / ".join(dict.fromkeys(_bos(entry["bos"]) for entry in entries)),
                "; ".join(map(escaped, data["notes"])) or EMPTY if data else EMPTY,
            ]
        )
    header = ["task", "split", "source", "sha256", "scored", "layout", "BOS token", "notes"]
    return table(header, rows, names=len(header))


def _published_cells(row: dict, texts: list[str], questions: list[str]) -> list[str]:
    """In italics, with the digits that were published and no more."""
    perplexity, accuracy = row.get("perplexity") or {}, row.get("accuracy") or {}
    factor, gamma = row.get("speedup"), row.get("gamma")
    cells = [
        f"published, ratio {row['ratio']:g}",
        f"{_digits(100 * row['ratio'])} %",
        EMPTY,
        *(_digits(perplexity.get(name)) for name in texts),
        *(_digits(_hundredfold(accuracy.get(name))) for name in questions),
        _digits(_hundredfold(row.get("mean_accuracy"))),
        EMPTY if factor is None else f"{_digits(factor)} x",
        EMPTY if gamma is None else f"{_digits(100 * gamma)} %",
    ]
    return [cell if cell == EMPTY else f"*{cell}*" for cell in cells]


def _hundredfold(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _thousandfold(value: float | None) -> float | None:
    return None if value is None else 1000 * value


def _digits(value: float | None) -> str:
    return EMPTY if value is None else f"{value:.7g}"


def _percent(fraction: float | None) -> str:
    return EMPTY if finite(fraction) is None else f"{100 * fraction:.2f} %"


def _number(value: float) -> str:
    """Two decimals, fewer where there are many digits before the point."""
    return f"{value:.2f}" if value < 1e3 else f"{value:,.0f}" if value < 1e7 else f"{value:.3g}"


def _perplexity_cell(entry: dict | None) -> str:
    if entry is None:
        return EMPTY
    value, error = finite(entry["perplexity"]), finite(entry.get("stderr"))
    if value is None:
        return "not finite"
    return _number(value) + ("" if error is None else f" ± {_number(error)}")


def _accuracy_cell(entry: dict | None, key: str) -> str:
    return EMPTY if entry is None else _with_error(entry.get(key), entry.get(f"{key}_stderr"))


def _with_error(value: float | None, error: float | None) -> str:
    """An accuracy and its standard error in percent. An error of 0, of few examples, says that it is not known."""
    if finite(value) is None:
        return EMPTY
    return f"{100 * value:.1f}" + (f" ± {100 * error:.1f}" if finite(error) else "")


def _growth_cell(change: dict | None) -> str:
    """The factor by which perplexity grew: the exponential of the change of the mean loss."""
    if change is None or finite(change["difference"]) is None:
        return EMPTY
    growth = math.exp(min(change["difference"], _LARGEST_EXPONENT))
    error = finite(change["stderr"])
    return f"{_number(growth)} x" if error is None else f"{_number(growth)} x ± {_number(growth * error)}"


def _divergence_cell(entry: dict) -> str:
    divergence, error = finite(entry.get("divergence")), finite(entry.get("divergence_stderr"))
    if divergence is None:
        return EMPTY
    return f"{divergence:.4f}" + (f" ± {error:.4f}" if error else "")


def _points_cell(change: dict | None) -> str:
    if change is None or finite(change["difference"]) is None:
        return EMPTY
    cell, error = f"{100 * change['difference']:+.1f}", finite(change["stderr"])
    return f"{cell} ± {100 * error:.1f}" if error else cell


def _mean_change(changes: list[dict | None]) -> dict | None:
    """Of the mean accuracy, where every task was compared. Tasks are different data, so their errors are independent."""
    if not changes or None in changes:
        return None
    errors = [finite(change["stderr"]) for change in changes]
    error = None if None in errors else math.hypot(*errors) / len(errors)
    return {"difference": sum(change["difference"] for change in changes) / len(changes), "stderr": error}


def _spread(statistics: dict | None, unit: float = 1.0) -> str:
    """Median and 90th percentile, to four digits."""
    figures = [finite((statistics or {}).get(key)) for key in ("p50", "p90")]
    return EMPTY if None in figures else " / ".join(f"{figure * unit:.4g}" for figure in figures)


def _short(sha256: str | None) -> str:
    return EMPTY if sha256 is None else escaped(sha256[:_SHA256_SHOWN])


def _scored(entry: dict) -> str:
    if entry["kind"] == PERPLEXITY:
        windows = "1 window" if entry["windows"] == 1 else f"{entry['windows']:,} windows"
        return f"{windows} of {entry['window']:,}, {entry['tokens']:,} tokens"
    return f"{entry['examples']:,} examples"


def _bos(bos: str | bool) -> str:
    return {True: "yes", False: "no"}[bos] if isinstance(bos, bool) else escaped(bos)
