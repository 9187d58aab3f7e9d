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
"""The maps of ranks: what the text says, and what is in the picture."""

import numpy as np
import pytest

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.rank_map import draw_map, format_map


def entries(layers: int, **ranks) -> list[dict]:
    """Projections of a report. `ranks` gives each kind a rank, or a function of the layer."""
    return [
        {
            "name": f"model.layers.{layer}.mlp.{kind}",
            "shape": [400, 100] if kind == "down_proj" else [100, 400],
            "rank": rank(layer) if callable(rank) else rank,
        }
        for layer in range(layers)
        for kind, rank in ranks.items()
    ]


def test_the_cells_of_the_text():
    # Dense is 40 000 parameters, a rank costs 500: 8 of them are a tenth.
    gate = (1, 7, 8, 40, 56, 72, 79, None)
    text = format_map(entries(8, gate_proj=gate.__getitem__, up_proj=32, down_proj=None))
    assert text.splitlines() == [
        "Tenths of the parameters kept, rounded down; # is dense.",
        "",
        "layer      0",
        "gate_proj  0015799#",
        "up_proj    44444444",
        "down_proj  ########",
    ]


def test_one_layer_of_one_projection():
    assert format_map(entries(1, gate_up_proj=32)).splitlines()[2:] == ["layer         0", "gate_up_proj  4"]


def test_a_wide_map_is_wrapped():
    lines = format_map(entries(126, gate_proj=lambda layer: 8 * (layer % 10), down_proj=None)).splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) == 1 + 2 * 4
    numbers, gate, down = lines[2:5]
    assert gate == "gate_proj  " + "0123456789" * 8 and down == "down_proj  " + "#" * 80
    assert [numbers.index(str(layer)) - 11 for layer in (10, 40, 70)] == [10, 40, 70]
    numbers, gate, down = lines[6:]
    assert gate == "gate_proj  " + "0123456789" * 4 + "012345" and down == "down_proj  " + "#" * 46
    assert [numbers.index(str(layer)) - 11 for layer in (80, 120)] == [0, 40]


def test_layers_without_a_projection_are_blank():
    projections = [*entries(1, gate_proj=16, up_proj=16), *entries(3, gate_proj=40)[1:]]
    projections += [{**entries(3, up_proj=40)[2]}]
    assert format_map(projections).splitlines()[3:] == ["gate_proj  255", "up_proj    2 5"]


@pytest.mark.parametrize(
    ("projections", "message"),
    [
        ([], "no projections"),
        ([{"name": "mlp.gate_proj", "shape": [2, 2], "rank": 1}], "'mlp.gate_proj' has no number"),
    ],
)
def test_nothing_to_map(projections, message, tmp_path):
    with pytest.raises(NeuronMMError, match=message):
        format_map(projections)
    with pytest.raises(NeuronMMError, match=message):
        draw_map(projections, tmp_path / "map.png")


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draws a map; returns the pixels and the figure that they come from."""
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    def draw(projections):
        figures = []
        save = Figure.savefig

        def remember(figure, *args, **kwargs):
            figures.append(figure)
            save(figure, *args, **kwargs)

        monkeypatch.setattr(Figure, "savefig", remember)
        path = tmp_path / "map.part"  # the name that a file has until it is whole
        draw_map(projections, path)
        monkeypatch.undo()
        return imread(path, format="png"), figures[0]

    return draw


def cell(pixels, figure, row: int, layer: int) -> np.ndarray:
    """The colour of a cell near its corner, where no text is."""
    axes = figure.axes[0]
    x, y = axes.transData.transform((layer - 0.4, row - 0.4))
    return pixels[pixels.shape[0] - 1 - int(y), int(x), :3]


def test_the_colours_of_the_picture(drawn):
    from matplotlib import colormaps

    ranks = (8, 32, 40, 72)
    pixels, figure = drawn(entries(4, gate_proj=ranks.__getitem__, down_proj=lambda layer: ranks[3 - layer]))
    for layer, rank in enumerate(ranks):
        expected = colormaps["viridis"](rank / 80)[:3]
        np.testing.assert_allclose(cell(pixels, figure, 0, layer), expected, atol=0.01)
        np.testing.assert_allclose(cell(pixels, figure, 1, 3 - layer), expected, atol=0.01)


def test_the_text_of_the_picture(drawn):
    gate = (8, None, 72)
    pixels, figure = drawn(entries(3, gate_proj=gate.__getitem__, down_proj=40))
    axes, bar = figure.axes
    found = {text.get_position(): text.get_text() for text in axes.texts}
    assert found == {(0, 0): "8", (2, 0): "72", (0, 1): "40", (1, 1): "40", (2, 1): "40"}
    # Dense is 40 000 parameters: (72 + 0 + 8 + 3 * 40) * 500 are removed of 6 of them.
    assert axes.get_title().startswith("41.67% of the parameters removed")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["gate_proj", "down_proj"]
    assert bar.get_ylabel() == "parameters kept"
    [hatched] = axes.patches
    assert hatched.get_hatch() and hatched.get_xy() == (0.5, -0.5)
    inside = hatched.get_window_extent()
    rows = slice(pixels.shape[0] - int(inside.y1) + 2, pixels.shape[0] - int(inside.y0) - 2)
    part = pixels[rows, int(inside.x0) + 2 : int(inside.x1) - 2, :3]
    assert len(np.unique(part.reshape(-1, 3), axis=0)) > 1  # the hatch is there to see


@pytest.mark.parametrize(("layers", "numbered"), [(1, True), (66, True), (126, True), (300, False)])
def test_any_number_of_layers(drawn, layers, numbered):
    wide = [
        {**entry, "shape": [8192, 28672]} for entry in entries(layers, gate_proj=1280, up_proj=None, down_proj=6272)
    ]
    pixels, figure = drawn(wide)
    assert pixels.shape[1] <= 2700 and pixels.shape[0] >= 300
    texts = figure.axes[0].texts
    assert len(texts) == (2 * layers if numbered else 0)
    if texts:
        box, cell_width = (
            texts[0].get_window_extent(),
            np.diff(figure.axes[0].transData.transform([(0, 0), (1, 0)])[:, 0]),
        )
        assert box.width <= cell_width[0]


def test_the_same_map_gives_the_same_bytes(tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("one", "two"):
        draw_map(entries(5, gate_proj=40, down_proj=None), tmp_path / name)
    data = (tmp_path / "one").read_bytes()
    assert data == (tmp_path / "two").read_bytes()
    assert b"tEXt" not in data and b"tIME" not in data


def test_other_figures_are_left_alone(tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before = pyplot.get_fignums()
    draw_map(entries(2, gate_proj=40), tmp_path / "map.png")
    assert pyplot.get_fignums() == before


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(NeuronMMError, match="pip install matplotlib"):
        draw_map(entries(2, gate_proj=40), tmp_path / "map.png")
