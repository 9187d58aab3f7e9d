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
"""The report of a compressed directory: what was done to the model and what it cost."""

import json
import math
from pathlib import Path

from .errors import NeuronMMError
from .rank_map import format_map


REPORT_NAME = "neuronmm_report.json"
MAP_NAME = "neuronmm_ranks.png"  # the ranks of all projections, drawn
# A perplexity that grew by more than this factor is worth a warning: the model may have lost what it was used for.
PERPLEXITY_WARNING = 1.5


def load_report(directory: str | Path) -> dict:
    """Reads `neuronmm_report.json` of a compressed directory."""
    path = Path(directory) / REPORT_NAME
    if not path.is_file():
        raise NeuronMMError(
            f"{directory} has no {REPORT_NAME}: expected a directory that was written by a compression."
        )
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        format_report(report)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise NeuronMMError(f"{path} is damaged: {error!r}. Compress the model again, or fetch it again.") from error
    return report


def format_report(report: dict) -> str:
    """The report as text for a terminal. A warning about perplexity is the last line."""
    ratio, parameters, perplexity = report["compression_ratio"], report["parameters"], report["perplexity"]
    sources = ", ".join(
        f"{entry['source']} ({entry['windows']} windows)" for entry in report["calibration"]["sources"]
    )
    lines = [
        f"{report['model']}, compressed by optimum-neuronmm {report['versions']['optimum-neuronmm']}",
        "",
        *_projection_table(report["projections"]),
        "",
        *_map_lines(report["projections"]),
        f"method            {_METHODS.get(report.get('decomposition'), 'low-rank factors')}, "
        f"{_ALLOCATIONS.get(report.get('allocation'), 'uniform ranks')}",
        f"ratio removed     {_requested(report)}achieved {ratio['projections']:.2%} of the chosen "
        f"projections, {ratio['model']:.2%} of the model",
        *_speedup_lines(report),
        f"parameters        {parameters['before']:,} -> {parameters['after']:,} "
        f"(projections {parameters['projections_before']:,} -> {parameters['projections_after']:,})",
        f"perplexity        {perplexity['before']:.2f} -> {perplexity['after']:.2f} on {perplexity['windows']} held-out "
        f"windows of {perplexity['length']} tokens",
        *_loss_lines(report),
        *_recovery_lines(report),
        f"calibration       {sources}, seed {report['calibration']['seed']}",
        f"time              {report['seconds']:.0f} s",
    ]
    warning = perplexity_warning(report)
    return "\n".join([*lines, *([warning] if warning else [])])


def perplexity_warning(report: dict) -> str | None:
    """The warning that a reader must not miss, or None."""
    before, after = report["perplexity"]["before"], report["perplexity"]["after"]
    if after <= PERPLEXITY_WARNING * before:
        return None
    return (
        f"WARNING: perplexity grew by a factor of {after / before:.2f} ({before:.2f} -> {after:.2f}). Check the model on "
        "your task before you use it, or compress less."
    )


def by_kind(projections: list[dict]) -> dict[tuple[str, int, int], list[dict]]:
    """The report's projections, those of one name and shape (K, N) together, in the order of the first layer."""
    kinds: dict[tuple[str, int, int], list[dict]] = {}
    for projection in projections:
        kinds.setdefault((projection["name"].rpartition(".")[2], *projection["shape"]), []).append(projection)
    return kinds


def rank_span(members: list[dict]) -> str:
    """The ranks of projections of one kind: "384", "256-512", "384 +2 dense" or "dense"."""
    ranks = [member["rank"] for member in members if member["rank"] is not None]
    dense = len(members) - len(ranks)
    span = _span(ranks, "d") if ranks else ""
    return span + ((f" +{dense} dense" if ranks else "dense") if dense else "")


_METHODS = {
    "two_sided": "two-sided SVD (activations and gradients)",
    "two_sided_local": "two-sided SVD (activations and gradients within a layer)",
    "whitened": "whitened SVD (activations)",
    "svd": "plain SVD",
}
_ALLOCATIONS = {"by_loss": "ranks by predicted loss", "uniform": "uniform ranks"}
# What the table tells of each kind of projection: heading, key of the entries, whether it adds up over layers.
_COLUMNS = (
    ("predicted loss", "predicted_loss", True),
    ("measured loss", "measured_loss", True),
    ("predicted error", "predicted_error", False),
    ("measured error", "measured_error", False),
)


def _projection_table(projections: list[dict]) -> list[str]:
    """One row for each kind of projection: what the layers share, the range of what they do not, and sums of losses."""
    columns = [column for column in _COLUMNS if any(column[1] in entry for entry in projections)]
    if any("predicted_loss" in entry for entry in projections):
        columns = [column for column in columns if column[1] != "predicted_error"]  # relative to the same loss
    rows = [
        "".join([f"{'projections':<14}{'shape (K, N)':>16}{'rank':>18}", *(f"{name:>17}" for name, _, _ in columns)])
    ]
    for (name, K, N), members in by_kind(projections).items():
        cells = [_cell([member[key] for member in members if key in member], adds_up) for _, key, adds_up in columns]
        rows.append("".join([f"{name:<14}{f'({K}, {N})':>16}{rank_span(members):>18}", *(f"{c:>17}" for c in cells)]))
    return rows


def _map_lines(projections: list[dict]) -> list[str]:
    """The map of the ranks where they differ from layer to layer."""
    ranks = [{member["rank"] for member in members} for members in by_kind(projections).values()]
    return [*format_map(projections).splitlines(), ""] if any(len(found) > 1 for found in ranks) else []


def _loss_lines(report: dict) -> list[str]:
    lines = []
    if "divergence" in report["perplexity"]:
        factored = [entry for entry in report["projections"] if entry["rank"] is not None]
        # Of refined projections neither is the loss: they differ from the dense ones on purpose.
        is_sum = report.get("decomposition") == "two_sided" and not any(
            s["kept"] for s in report.get("refinements", [])
        )
        sums = [
            f"{label} {sum(entry[key] for entry in factored):.4f}"
            for label, key in (("predicted", "predicted_loss"), ("second order", "measured_loss"))
            if is_sum and all(key in entry for entry in factored)
        ]
        told = f" ({', '.join(sums)})" if sums else ""
        lines.append(f"divergence        {report['perplexity']['divergence']:.4f} nats per held-out token{told}")
    for step in report.get("refinements", []):
        verdict = "kept" if step["kept"] else "not kept"
        after = "not finite" if step["after"] is None else f"{step['after']:.4f}"
        lines.append(f"refinement        {step['name']}: divergence {step['before']:.4f} -> {after}, {verdict}")
    return lines


def _requested(report: dict) -> str:
    """A speed-up is no request of a ratio."""
    return "" if "speedup" in report else f"requested {report['compression_ratio']['requested']:.2%}, "


def _speedup_lines(report: dict) -> list[str]:
    """What was predicted of the speed, where it decided the ranks."""
    if "speedup" not in report:
        return []
    speedup = report["speedup"]
    dense, compressed = (speedup["predicted_milliseconds"][name] for name in ("dense", "compressed"))
    times = ", ".join(f"{name.replace('_', ' ')} {dense[name]:.4g} -> {compressed[name]:.4g}" for name in dense)
    return [
        f"speed-up          MLPs predicted to be {speedup['predicted']:.3f} times as fast (target {speedup['target']:g}) on "
        f"{speedup_device(speedup)}, {speedup['dtype']}: {speedup['prompt_length']} tokens of prompt, "
        f"{speedup['output_length']} of output",
        f"                  predicted ms of all MLPs: {times}",
        *(f"                  note: {note}" for note in speedup["notes"]),
    ]


def speedup_device(speedup: dict) -> str:
    """What the speed was predicted for, of the report's entry."""
    cores = speedup["cores"]
    return f"one core{f' of {cores} physical ones' if cores > 1 else ''} of {speedup['instance_type']}"


def _recovery_lines(report: dict) -> list[str]:
    """What training changed, on held-out windows of its own text."""
    if "recovery" not in report:
        return []
    recovery = report["recovery"]
    lines = [f"recovery          {recovery['tokens']:,} tokens, {recovery['options']['objective']}"]
    for source in recovery["held_out"]:
        before, after = (math.exp(min(source[name], 700)) for name in ("before", "after"))
        lines.append(f"                  {source['source']}: perplexity {before:.2f} -> {after:.2f}")
    return lines


def _cell(values: list[float], adds_up: bool) -> str:
    if not values:
        return ""
    return f"{sum(values):.3g}" if adds_up else _span(values, ".3f")


def _span(values: list, form: str) -> str:
    least, most = format(min(values), form), format(max(values), form)
    return least if least == most else f"{least}-{most}"
