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
"""The predicted times of the MLPs as a picture."""

from pathlib import Path

from .latency_figures import TARGET


# Column of the table, label, colour (Okabe and Ito) and style.
LINES = (
    ("ours ms", "U V, ours", "#0072B2", "o-"),
    ("pair ms", "U V, the paper's pair", "#D55E00", "s-"),
    ("X W ms", "X W, ours", "#009E73", "^-"),
    ("3 matmul ms", "X W, three products", "#CC79A7", "D-"),
    ("floor ms", "floor of U V", "black", ":"),
    ("X W floor ms", "floor of X W", "#666666", "--"),
)


def draw(rows: list[dict], file: Path) -> None:
    """Draws one panel for each model: predicted milliseconds over rows; points without a time are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator

    models = list(dict.fromkeys(row["model"] for row in rows))
    columns = min(2, len(models))
    high = -(-len(models) // columns)
    figure = Figure(figsize=(5 * columns, 3.6 * high + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"MLP of one layer, bfloat16, {TARGET}, one core: predicted")
    for place, model in enumerate(models, start=1):
        axes = figure.add_subplot(high, columns, place)
        mine = [row for row in rows if row["model"] == model]
        for key, label, colour, style in LINES:
            points = [(row["rows"], row[key]) for row in mine if row[key] is not None]
            axes.plot([x for x, _ in points], [y for _, y in points], style, color=colour, label=label, markersize=4)
        axes.set(xscale="log", yscale="log", xlabel="rows", ylabel="predicted ms", title=f"{model}, r={mine[0]['r']}")
        axes.set_xticks([row["rows"] for row in mine], [str(row["rows"]) for row in mine])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
