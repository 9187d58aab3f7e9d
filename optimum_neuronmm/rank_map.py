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
"""Maps of the ranks of a model, layers by projections: as text for a terminal and as a picture."""

import re
from os import PathLike

from .errors import NeuronMMError
from .ranks import DENSE, Shape, removed_fraction


LAYERS_PER_LINE = 80
DENSE_MARK = "#"

# Inches of a picture.
_CELL_WIDTH = 0.42  # of one layer, as long as all of them fit into _WIDEST
_WIDEST = 24.0
_UPRIGHT_BELOW = 0.36  # the width of a cell into which four digits fit only upright
_NO_TEXT_BELOW = 0.11  # and not even so


def format_map(projections: list[dict]) -> str:
    """A text of one character for each projection: the tenths of its parameters that are kept, or the mark of dense ones.

    One row for each kind of projection and one column for each layer, at most LAYERS_PER_LINE of them side by side.

    Args:
        projections: of a report: `{"name": "model.layers.3.mlp.gate_proj", "shape": [K, N], "rank": r or None}`.

    Raises:
        NeuronMMError: there are none, or a name has no number of a layer.
    """
    kinds, layers = _by_kind_and_layer(projections)
    width = max(len("layer"), *map(len, kinds)) + 2
    lines = [f"Tenths of the parameters kept, rounded down; {DENSE_MARK} is dense."]
    for start in range(0, layers, LAYERS_PER_LINE):
        shown = range(start, min(start + LAYERS_PER_LINE, layers))
        numbers = "".join(f"{layer:<10}" for layer in shown[::10])
        lines += ["", f"{'layer':<{width}}{numbers}".rstrip()]
        for kind, members in kinds.items():
            cells = "".join(_mark(members[layer]) if layer in members else " " for layer in shown)
            lines.append(f"{kind:<{width}}{cells}".rstrip())
    return "\n".join(lines)


def draw_map(projections: list[dict], path: str | PathLike) -> None:
    """Writes a PNG file: the fraction of the parameters kept as colour, layers from left to right, projections downwards.

    Dense cells are hatched, the others say their rank where there is room. The file depends on nothing but the
    projections, the version of matplotlib and its settings.

    Args:
        projections: as of `format_map`.
        path: of the file, whatever its suffix.

    Raises:
        NeuronMMError: as `format_map`, or matplotlib is missing.
    """
    kinds, layers = _by_kind_and_layer(projections)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise NeuronMMError("Drawing a map of the ranks needs matplotlib: pip install matplotlib.") from error

    cell = min(_CELL_WIDTH, _WIDEST / layers)
    # The margins hold the names and the colour bar, and the title needs some width however few the layers.
    figure = Figure(figsize=(max(cell * layers, 4.0) + 2.4, 0.6 * len(kinds) + 1.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    kept = [[_kept(m[i]) if i in m else float("nan") for i in range(layers)] for m in kinds.values()]
    image = axes.imshow(kept, vmin=0, vmax=1, cmap="viridis", aspect="auto", interpolation="nearest")
    for row, members in enumerate(kinds.values()):
        for layer, member in members.items():
            if member["rank"] is DENSE:
                corner = (layer - 0.5, row - 0.5)
                axes.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="////", edgecolor="grey", linewidth=0))
            elif cell >= _NO_TEXT_BELOW:
                axes.text(
                    layer,
                    row,
                    str(member["rank"]),
                    ha="center",
                    va="center",
                    fontsize=8 if cell >= _UPRIGHT_BELOW else 6,
                    rotation=0 if cell >= _UPRIGHT_BELOW else 90,
                    color="white" if _kept(member) < 0.6 else "black",  # viridis is dark at its lower end
                )
    axes.set_yticks(range(len(kinds)), list(kinds))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=30, integer=True, min_n_ticks=1))
    axes.set_xlim(-0.5, layers - 0.5)
    axes.set_xlabel("layer")
    figure.colorbar(image, ax=axes, label="parameters kept", pad=0.02)
    axes.set_title(
        f"{_removed(projections):.2%} of the parameters removed; numbers are ranks, hatched is dense", fontsize=9
    )
    figure.savefig(path, format="png", metadata={"Software": None})


def _by_kind_and_layer(projections: list[dict]) -> tuple[dict[str, dict[int, dict]], int]:
    """`{name of the projection: {layer: entry}}` in the order of the first layer, and the number of layers."""
    kinds: dict[str, dict[int, dict]] = {}
    for projection in projections:
        number = re.search(r"\.(\d+)\.", projection["name"])
        if number is None:
            raise NeuronMMError(f"The name of projection {projection['name']!r} has no number of a layer.")
        kinds.setdefault(projection["name"].rpartition(".")[2], {})[int(number[1])] = projection
    if not kinds:
        raise NeuronMMError("There are no projections to show a map of.")
    return kinds, 1 + max(layer for members in kinds.values() for layer in members)


def _kept(projection: dict) -> float:
    """The fraction of the dense parameters that a projection keeps."""
    shape = Shape(*projection["shape"])
    return shape.parameters(projection["rank"]) / shape.dense_parameters


def _mark(projection: dict) -> str:
    if projection["rank"] is DENSE:
        return DENSE_MARK
    shape = Shape(*projection["shape"])
    return str(min(10 * shape.parameters(projection["rank"]) // shape.dense_parameters, 9))


def _removed(projections: list[dict]) -> float:
    shapes = {projection["name"]: Shape(*projection["shape"]) for projection in projections}
    return removed_fraction(shapes, {projection["name"]: projection["rank"] for projection in projections})
