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
"""The pictures of a report: perplexity against the share of parameters removed, and accuracy of every task."""

import io
from typing import TYPE_CHECKING

from optimum_neuronmm.errors import NeuronMMError

from ..data.tasks import MULTIPLE_CHOICE, PERPLEXITY
from .figures import baseline_of, finite, measured_tasks, published_rows, title_of


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


PICTURES = {
    "perplexity.png": "Perplexity against the share of the MLP parameters removed",
    "accuracy.png": "Accuracy of every model on every task",
}
"""Names of the files and what they show."""

# Share of right answers of a model that guesses: one over the number of choices. Tasks that are not here have no mark.
CHANCE = {
    "openbookqa": 1 / 4,
    "arc_easy": 1 / 4,
    "arc_challenge": 1 / 4,
    "winogrande": 1 / 2,
    "hellaswag": 1 / 4,
    "mathqa": 1 / 5,
}
LOGARITHMIC_ABOVE = 5  # times the smallest perplexity of a panel

_WIDTH, _DPI = 10.0, 150  # inches; letters of 9 points are legible where the picture is shown 1000 pixels wide
_BASELINE_COLOUR = "black"
# Distinguishable with any colour vision (Okabe and Ito), without black and without yellow, which fades on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_MARKERS = "osD^vP*X"  # change with the colour, and go on where the colours begin again
_MARKER_SIZE = 7  # points; less where there is no room
_PUBLISHED = {
    "marker": "h",
    "markersize": _MARKER_SIZE + 3,
    "markerfacecolor": "none",
    "color": "#666666",
    "linestyle": "none",
    "zorder": 4,
}
# In legends, beside ("model", its name).
_PUBLISHED_KEY, _CHANCE_KEY = ("", "published"), ("", "chance")
_LEAST_WIDTH = 5  # percent that a panel shows where only the dense model was measured
_NAME_LENGTH = 45  # longer names are shortened in legends


def draw_pictures(results: dict) -> dict[str, bytes]:
    """The PNG files of a report by name: those of `PICTURES` that there are data for.

    They depend on nothing but the results, the version of matplotlib and its settings.

    Raises:
        NeuronMMError: matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise NeuronMMError("Drawing the pictures of a report needs matplotlib: pip install matplotlib.") from error

    pictures = {}
    for name, figure in zip(PICTURES, (perplexity_figure(results), accuracy_figure(results)), strict=True):
        if figure is not None:
            FigureCanvasAgg(figure)
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
            pictures[name] = file.getvalue()
    return pictures


def perplexity_figure(results: dict) -> "Figure | None":
    """One panel for each text: perplexity over the achieved ratio in percent, and the baseline as a line.

    Published figures are hollow, at the ratio that was published. None where no model has a finite perplexity.
    """
    from matplotlib.figure import Figure

    models, styles = results["models"], _styles(results)
    tasks = [
        name
        for name in measured_tasks(results, PERPLEXITY)
        if any(finite(model["tasks"].get(name, {}).get("perplexity")) is not None for model in models)
    ]
    if not tasks:
        return None
    columns = min(len(tasks), 3)
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(_WIDTH, 3.4 * rows + 0.3 * _legend_rows(styles)), layout="constrained")
    drawn = {}
    for place, name in enumerate(tasks, start=1):
        axes = figure.add_subplot(rows, columns, place)
        drawn |= _perplexity_panel(axes, name, results, styles)
    _legend(figure, drawn, styles)
    return figure


def accuracy_figure(results: dict) -> "Figure | None":
    """Every task side by side: accuracy (acc) in percent of each model with its standard error, and what guessing gives.

    Published figures are hollow, beside the model that they go with. None where no model has an accuracy.
    """
    from matplotlib.figure import Figure

    models, styles = results["models"], _styles(results)
    tasks = [
        name
        for name in measured_tasks(results, MULTIPLE_CHOICE)
        if any(finite(model["tasks"].get(name, {}).get("acc")) is not None for model in models)
    ]
    if not tasks:
        return None
    figure = Figure(figsize=(_WIDTH, 4.2 + 0.3 * _legend_rows(styles)), layout="constrained")
    axes = figure.add_subplot()
    # Published figures have a place of their own, right of the model that they go with.
    published, drawn = published_rows(models), {}
    places = [place for i in range(len(models)) for place in [(i, False), *([(i, True)] if i in published else [])]]
    step = 0.84 / max(len(places), 2)
    size = {"markersize": min(_MARKER_SIZE, 0.9 * step * 72 * _WIDTH / len(tasks))}  # points, of 72 an inch
    for number, name in enumerate(tasks):
        if number % 2:
            axes.axvspan(number - 0.5, number + 0.5, color="#f2f2f2", linewidth=0, zorder=0)
        for place, (index, is_published) in enumerate(places):
            x, model = number + step * (place - (len(places) - 1) / 2), models[index]
            entry = model["tasks"].get(name, {})
            value, error = finite(entry.get("acc")), finite(entry.get("acc_stderr"))
            figures = published[index].get("accuracy") or {} if is_published else {}
            if name in figures:
                (drawn[_PUBLISHED_KEY],) = axes.plot(x, 100 * figures[name], **_PUBLISHED | size)
            elif not is_published and value is not None:
                drawn["model", model["name"]] = axes.errorbar(
                    x,
                    100 * value,
                    yerr=None if error is None else 100 * error,
                    capsize=2,
                    **styles[model["name"]] | size,
                )
        if name in CHANCE:
            drawn[_CHANCE_KEY] = axes.hlines(
                100 * CHANCE[name], number - 0.44, number + 0.44, "black", "dotted", zorder=1
            )
    axes.set_xticks(range(len(tasks)), [title_of(name) for name in tasks])
    axes.set_xlim(-0.5, len(tasks) - 0.5)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_ylabel("accuracy, %; bars: ± 1 standard error")
    _legend(figure, drawn, styles)
    return figure


def _perplexity_panel(axes: "Axes", name: str, results: dict, styles: dict) -> dict:
    """Draws it, and returns what the legend has to name."""
    baseline, drawn, points, lost = baseline_of(results), {}, [], []
    for model in results["models"]:
        if name not in model["tasks"]:
            continue
        value = finite(model["tasks"][name]["perplexity"])
        if value is None:
            lost.append(_shortened(model["name"]))
            continue
        points.append((100 * model["achieved_ratio"], value))
        if model is baseline:
            axes.axhline(value, color=_BASELINE_COLOUR, linestyle="dashed", linewidth=1, zorder=1)
        (drawn["model", model["name"]],) = axes.plot(*points[-1], **styles[model["name"]])
    for row in published_rows(results["models"]).values():
        value = (row.get("perplexity") or {}).get(name)
        if value is not None:
            points.append((100 * row["ratio"], value))
            (drawn[_PUBLISHED_KEY],) = axes.plot(*points[-1], **_PUBLISHED)
    axes.set_title("\n".join([title_of(name), *(f"not finite: {model}" for model in lost)]), fontsize=10)
    axes.set_xlabel("MLP parameters removed, %")
    axes.set_ylabel("perplexity")
    axes.margins(y=0.08)
    width = max(_LEAST_WIDTH, *(ratio for ratio, _ in points))
    axes.set_xlim(-0.07 * width, 1.07 * width)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    values = [value for _, value in points]
    if max(values) > LOGARITHMIC_ABOVE * min(values):
        _make_logarithmic(axes)
    return drawn


def _make_logarithmic(axes: "Axes") -> None:
    """With numbers that are written out at 1, 2 and 5 of every decade, or of every second one and so on."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 1e3 else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.7g}" if value < 1e6 else f"{value:.0e}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _styles(results: dict) -> dict[str, dict]:
    """How each model is drawn, in both pictures: the baseline black, each other one in a colour and with a marker."""
    styles, count = {}, 0
    for model in results["models"]:
        style = {"linestyle": "none", "markersize": _MARKER_SIZE, "zorder": 3}
        if model is baseline_of(results):
            styles[model["name"]] = style | {"color": _BASELINE_COLOUR, "marker": "o"}
            continue
        styles[model["name"]] = style | {
            "color": _COLOURS[count % len(_COLOURS)],
            "marker": _MARKERS[(count + 1) % len(_MARKERS)],
        }
        count += 1
    return styles


def _legend_rows(styles: dict) -> int:
    return -(-(len(styles) + 2) // _legend_columns(styles))


def _legend_columns(styles: dict) -> int:
    return max(1, min(4, 110 // (max(len(_shortened(name)) for name in styles) + 8)))


def _legend(figure: "Figure", drawn: dict, styles: dict) -> None:
    """Below the panels. Names are shown as they are: `$` begins no formula, and one with `_` in front is not left out."""
    order = [key for key in (*(("model", name) for name in styles), _PUBLISHED_KEY, _CHANCE_KEY) if key in drawn]
    labels = [_shortened(name).replace("$", r"\$") for _, name in order]
    labels = [f" {label}" if label.startswith("_") else label for label in labels]
    handles = [drawn[key] for key in order]
    figure.legend(
        handles, labels, loc="outside lower center", ncols=_legend_columns(styles), fontsize=9, frameon=False
    )


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"
