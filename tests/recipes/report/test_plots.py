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
"""The pictures: what is drawn where, read back from the figures."""

import io
import math
import warnings

import pytest

from optimum_neuronmm.recipes.data.tasks import MULTIPLE_CHOICE, TASKS
from optimum_neuronmm.recipes.report.plots import CHANCE, PICTURES, accuracy_figure, draw_pictures, perplexity_figure

from .fabricated import (
    DENSE_ACCURACY,
    DENSE_PERPLEXITY,
    full_results,
    model,
    published_row,
    question_entry,
    results,
    text_entry,
)


pytest.importorskip("matplotlib")


def points(axes) -> list[tuple[float, float, str, bool]]:
    """x, y, colour and whether it is filled of every single point."""
    return [
        (*line.get_xydata()[0].tolist(), line.get_color(), line.get_markerfacecolor() != "none")
        for line in axes.lines
        if len(line.get_xdata()) == 1 and line.get_marker() not in ("_", "None", None)
    ]


def legend_of(figure) -> dict:
    """`{label: handle}`."""
    [legend] = figure.legends
    return dict(zip([text.get_text() for text in legend.get_texts()], legend.legend_handles, strict=True))


def colour_of(handle) -> str:
    """Of a point, or of a point with its error bar."""
    from matplotlib.colors import to_hex

    colour = handle.get_color()
    return to_hex(colour if isinstance(colour, str) else colour[0])


def references(axes) -> list[float]:
    """Heights of the lines that go through the whole panel."""
    return [line.get_ydata()[0] for line in axes.lines if len(line.get_xdata()) == 2]


def test_perplexity_of_every_text_over_the_achieved_ratio():
    figure = perplexity_figure(full_results())
    assert [axes.get_title() for axes in figure.axes] == ["WikiText-2", "PTB", "C4"]
    for axes, name in zip(figure.axes, DENSE_PERPLEXITY, strict=True):
        dense = DENSE_PERPLEXITY[name]
        own = [(x, y) for x, y, _, filled in points(axes) if filled]
        assert own == [
            (0, dense),
            pytest.approx((11.23, 1.5 * dense)),
            pytest.approx((21.23, 2 * dense)),
        ]
        published = [(x, y) for x, y, _, filled in points(axes) if not filled]
        assert published == [(0, dense), (10, round(1.6 * dense, 2)), (20, round(1.94 * dense, 2))]
        assert references(axes) == [dense]
        assert axes.get_yscale() == "linear"
        assert axes.get_xlabel() == "MLP parameters removed, %" and axes.get_ylabel() == "perplexity"
    assert list(legend_of(figure)) == ["dense", "uniform-0.1", "uniform-0.2", "published"]


def test_colours_in_the_legend_are_those_of_the_points_in_both_pictures():
    from matplotlib.colors import to_hex

    told = full_results()
    for figure in (perplexity_figure(told), accuracy_figure(told)):
        handles = legend_of(figure)
        seen = list(dict.fromkeys(to_hex(colour) for *_, colour, filled in points(figure.axes[0]) if filled))
        assert [colour_of(handles[entry["name"]]) for entry in told["models"]] == seen
        assert seen[0] == "#000000" and len(set(seen)) == 3


def test_many_models_are_told_apart():
    told = results(model("dense"), *(model(f"m{i}", i / 20, 1 + i / 10) for i in range(1, 15)))
    lines = [line for line in perplexity_figure(told).axes[0].lines if len(line.get_xdata()) == 1]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(lines) == 15


@pytest.mark.parametrize(("growth", "scale"), [(4.99, "linear"), (5.01, "log"), (4e4, "log")])
def test_the_axis_is_logarithmic_where_the_spread_is_large(growth, scale):
    told = results(model("dense"), model("a", 0.1, growth))
    told["models"][1]["tasks"]["ptb"]["perplexity"] = DENSE_PERPLEXITY["ptb"]
    figure = perplexity_figure(told)
    assert [axes.get_yscale() for axes in figure.axes] == [scale, "linear", scale]
    figure.draw_without_rendering()
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 2
        assert all(low < y < high for _, y, *_ in points(axes))


def test_labels_of_a_logarithmic_axis_are_plain_numbers():
    figure = perplexity_figure(results(model("dense"), model("a", 0.1, 200)))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    shown = {label.get_text() for label in axes.get_yticklabels() if axes.get_ylim()[0] < label.get_position()[1]}
    assert {"10", "100", "1,000", "2,000"} <= shown


def test_published_figures_count_for_the_spread():
    told = results(model("dense", published=published_row(0, 6.0, 0)))
    assert perplexity_figure(told).axes[0].get_yscale() == "log"


def test_what_is_not_finite_is_named_and_not_drawn():
    told = full_results()
    told["models"][2]["tasks"]["c4"]["perplexity"] = math.inf
    told["models"][1]["tasks"]["c4"]["perplexity"] = None
    told["models"][0]["tasks"]["ptb"]["perplexity"] = math.nan
    wiki, ptb, c4 = perplexity_figure(told).axes
    assert [wiki.get_title(), c4.get_title()] == ["WikiText-2", "C4\nnot finite: uniform-0.1\nnot finite: uniform-0.2"]
    assert [len([point for point in points(axes) if point[3]]) for axes in (wiki, ptb, c4)] == [3, 2, 1]
    assert references(ptb) == [] and ptb.get_title() == "PTB\nnot finite: dense"


def test_no_perplexity_no_picture():
    assert perplexity_figure(results(model("a", tasks={"arc_easy": question_entry(0.5)}))) is None
    assert perplexity_figure(results(model("a", tasks={"c4": text_entry(math.inf)}))) is None
    one = perplexity_figure(results(model("a", tasks={"c4": text_entry(math.inf), "ptb": text_entry(3.0)})))
    assert [axes.get_title() for axes in one.axes] == ["PTB"]


def test_the_dense_model_alone():
    axes = perplexity_figure(results(model("dense"))).axes[0]
    assert [(x, y) for x, y, *_ in points(axes)] == [(0, 9.75)]
    assert axes.get_xlim() == pytest.approx((-0.35, 5.35))


def test_without_a_baseline_there_is_no_line_and_no_black():
    told = results(model("a", 0.1), model("b", 0.2))
    figure = perplexity_figure(told)
    assert not references(figure.axes[0])
    assert "black" not in {colour for *_, colour, _ in points(figure.axes[0])}


def bars(axes) -> dict[float, tuple[float, float]]:
    """`{x: (low, high)}` of the error bars."""
    found = {}
    for container in axes.containers:
        for collection in container.lines[2]:
            for (x, low), (_, high) in (segment.tolist() for segment in collection.get_segments()):
                found[round(x, 6)] = (low, high)
    return found


def test_accuracy_of_every_task_with_its_error():
    told = full_results()
    [axes] = accuracy_figure(told).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [TASKS[name].title for name in DENSE_ACCURACY]
    found, errors = points(axes), bars(axes)
    for number, name in enumerate(DENSE_ACCURACY):
        group = sorted(point for point in found if abs(point[0] - number) < 0.5)
        # Each published figure is right of the model that it goes with.
        acc = 100 * DENSE_ACCURACY[name]
        assert [y for _, y, *_ in group] == pytest.approx([acc, acc, acc - 4, acc - 5, acc - 8, acc - 7])
        assert [filled for *_, filled in group] == [True, False] * 3
        assert sum(x for x, *_ in group) / 6 == pytest.approx(number)
        for (x, y, *_), entry in zip(group[::2], told["models"], strict=True):
            error = 100 * entry["tasks"][name]["acc_stderr"]
            assert errors[round(x, 6)] == pytest.approx((y - error, y + error))
    assert len(found) == 36 and len(errors) == 18
    low, high = axes.get_ylim()
    assert all(low < y < high for _, y, *_ in found)


def test_chance_of_every_task():
    assert set(CHANCE) == {name for name, task in TASKS.items() if task.kind == MULTIPLE_CHOICE}
    figure = accuracy_figure(full_results())
    marks = [
        segment.tolist()
        for collection in figure.axes[0].collections
        if collection.get_linestyle()[0][1] is not None
        for segment in collection.get_segments()
    ]
    assert [mark[0][1] for mark in marks] == [25, 25, 25, 50, 25, 20]
    assert [(mark[0][0] + mark[1][0]) / 2 for mark in marks] == pytest.approx(list(range(6)))
    assert list(legend_of(figure)) == ["dense", "uniform-0.1", "uniform-0.2", "published", "chance"]


def test_a_task_without_a_known_chance_has_no_mark():
    figure = accuracy_figure(results(model("a", tasks={"boolq": question_entry(0.7)})))
    assert list(legend_of(figure)) == ["a"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["boolq"]


def test_accuracies_that_are_missing():
    told = results(model("dense"), model("a", 0.1, 1, 0.01))
    del told["models"][0]["tasks"]["arc_easy"]
    told["models"][1]["tasks"]["openbookqa"]["acc"] = None
    told["models"][1]["tasks"]["mathqa"]["acc_stderr"] = None
    for entry in told["models"]:
        entry["tasks"]["hellaswag"]["acc"] = math.nan
    [axes] = accuracy_figure(told).axes
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["OpenBookQA", "ARC-easy", "ARC-challenge", "WinoGrande", "MathQA"]
    groups = [sorted((x, round(y, 6)) for x, y, *_ in points(axes) if abs(x - i) < 0.5) for i in range(5)]
    assert [[y for _, y in group] for group in groups] == [[26], [65], [31, 30], [61, 60], [29, 28]]
    assert groups[0][0][0] < 0 and groups[1][0][0] > 1  # each model keeps its side
    assert len(bars(axes)) == 7


def test_no_accuracy_no_picture():
    assert accuracy_figure(results(model("a", tasks={"c4": text_entry(3.0)}))) is None
    assert accuracy_figure(results(model("a", tasks={"mathqa": question_entry(0.5) | {"acc": None}}))) is None


def test_the_files():
    from matplotlib.image import imread

    pictures = draw_pictures(full_results())
    assert list(pictures) == list(PICTURES)
    for content in pictures.values():
        height, width, _ = imread(io.BytesIO(content), format="png").shape
        assert width == 1500 and 500 < height < 900
    assert draw_pictures(results(model("a", tasks={}))) == {}


def test_the_files_depend_on_the_results_alone():
    told = results(model("a", tasks={"ptb": text_entry(9.0)}))
    assert draw_pictures(told) == draw_pictures(told)


@pytest.mark.parametrize("name", ["_hidden", "$x$ and $", "published", "chance", "a_b^c", "m" * 200])
def test_names_in_the_legend_are_shown_as_they_are(name):
    told = results(model(name, published=published_row(0, 1, 0)), model("b", 0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure, others in (
            (perplexity_figure(told), ["published"]),
            (accuracy_figure(told), ["published", "chance"]),
        ):
            shown = [text.get_text() for text in figure.legends[0].get_texts()]
            # Escaped for the renderer, and for versions of matplotlib that leave such a label out.
            label = {"$x$ and $": r"\$x\$ and \$", "_hidden": " _hidden", "m" * 200: "m" * 44 + "…"}.get(name, name)
            assert shown == [label, "b", *others]
            figure.draw_without_rendering()


@pytest.mark.parametrize("count", [1, 4, 7, 12])
def test_nothing_is_cut_off_and_the_legend_covers_no_data(count):
    name = "meta-llama/Llama-3.2-1B-two_sided-0.{}"
    models = [
        model(name.format(i), i / 50, 1 + i, 0.01 * i, published=published_row(i / 50, 1, 0)) for i in range(count)
    ]
    for figure in (perplexity_figure(results(*models)), accuracy_figure(results(*models))):
        figure.draw_without_rendering()
        width, height = figure.bbox.width, figure.bbox.height
        legend = figure.legends[0].get_window_extent()
        for box in (legend, *(axes.get_tightbbox() for axes in figure.axes)):
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        for axes in figure.axes:
            assert axes.get_tightbbox().y0 >= legend.y1
            assert axes.get_window_extent().height > 200  # pixels, of 100 an inch
        boxes = [axes.get_tightbbox() for axes in figure.axes]
        assert all(left.x1 <= right.x0 for left, right in zip(boxes, boxes[1:], strict=False))


@pytest.mark.parametrize("count", [1, 5, 12])
def test_points_of_a_task_do_not_cover_each_other(count):
    models = [model(f"m{i}", i / 50, 1, 0, published=published_row(i / 50, 1, 0)) for i in range(count)]
    figure = accuracy_figure(results(*models))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    lines = [line for line in axes.lines if len(line.get_xdata()) == 1 and line.get_marker() != "_"]
    places = sorted((axes.transData.transform((line.get_xdata()[0], 0))[0], line.get_markersize()) for line in lines)
    assert len(places) == 12 * count
    for (left, size), (right, _) in zip(places, places[1:], strict=False):
        assert right - left >= size * figure.dpi / 72 * 0.95
