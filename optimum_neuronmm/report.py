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
from pathlib import Path

from .errors import NeuronMMError


REPORT_NAME = "neuronmm_report.json"
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
        f"{'projections':<14}{'shape (K, N)':>16}{'rank':>12}{'predicted error':>18}{'measured error':>17}",
        *_projection_rows(report["projections"]),
        "",
        f"ratio removed     requested {ratio['requested']:.2%}, achieved {ratio['projections']:.2%} of the chosen "
        f"projections, {ratio['model']:.2%} of the model",
        f"parameters        {parameters['before']:,} -> {parameters['after']:,} "
        f"(projections {parameters['projections_before']:,} -> {parameters['projections_after']:,})",
        f"perplexity        {perplexity['before']:.2f} -> {perplexity['after']:.2f} on {perplexity['windows']} held-out "
        f"windows of {perplexity['length']} tokens",
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


def _projection_rows(projections: list[dict]) -> list[str]:
    """One row for each kind of projection: what the layers share, and the range of what they do not."""
    rows = []
    for (name, K, N), members in by_kind(projections).items():
        factored = [member for member in members if member["rank"] is not None]
        errors = [_span([m[key] for m in factored], ".3f") if factored else "" for key in _ERRORS]
        rows.append(f"{name:<14}{f'({K}, {N})':>16}{rank_span(members):>12}{errors[0]:>18}{errors[1]:>17}")
    return rows


_ERRORS = ("predicted_error", "measured_error")


def _span(values: list, form: str) -> str:
    least, most = format(min(values), form), format(max(values), form)
    return least if least == most else f"{least}-{most}"
