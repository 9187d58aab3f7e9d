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
"""The tables of a report: every figure in its row and column."""

import copy
import math

import pytest

from optimum_neuronmm.recipes.report.figures import speedup
from optimum_neuronmm.recipes.report.markdown import markdown
from optimum_neuronmm.recipes.report.tables import EMPTY, escaped

from .fabricated import full_results, model, published_row, question_entry, results, speed_entry, text_entry
from .reading import CHANGE, DATA, MODELS, NORMALISED, RESULTS, SPEED, read_tables, tables_of


def test_every_cell_of_the_results():
    rows = read_tables(markdown(full_results()))[RESULTS]
    assert list(rows[0]) == [
        *("model", "requested", "achieved", "WikiText-2 ↓", "PTB ↓", "C4 ↓", "OpenBookQA ↑", "ARC-easy ↑"),
        *("ARC-challenge ↑", "WinoGrande ↑", "HellaSwag ↑", "MathQA ↑", "mean accuracy ↑", "speed-up", "gamma"),
    ]
    assert [row["model"] for row in rows] == [
        "dense (baseline)",
        "*published, ratio 0*",
        "uniform-0.1",
        "*published, ratio 0.1*",
        "uniform-0.2",
        "*published, ratio 0.2*",
    ]
    # Growth 2, drop 0.08; standard errors of 1000 questions; the mean's is the root of the summed squares over 6.
    assert list(rows[4].values()) == [
        *("uniform-0.2", "20.00 %", "21.23 %", "19.50 ± 0.98", "30.80 ± 1.54", "27.66 ± 1.38"),
        *("18.0 ± 1.2", "58.0 ± 1.6", "23.0 ± 1.3", "53.0 ± 1.6", "40.0 ± 1.5", "21.0 ± 1.3"),
        *("35.5 ± 0.6", "2.00 x", "8.00 %"),
    ]
    assert list(rows[5].values()) == [
        *("*published, ratio 0.2*", "*20 %*", EMPTY, "*18.91*", "*29.88*", "*26.83*"),
        *("*19*", "*59*", "*24*", "*54*", "*41*", "*22*", "*36*", "*1.63 x*", "*11.24 %*"),
    ]
    assert [row["gamma"] for row in rows[:4]] == [EMPTY, EMPTY, "16.00 %", "*25.27 %*"]
    assert [row["speed-up"] for row in rows[:4]] == ["1.00 x", "*1 x*", "1.25 x", "*1.21 x*"]


def test_measured_rows_are_never_in_italics_and_published_ones_are_everywhere():
    for row in read_tables(markdown(full_results()))[RESULTS]:
        marked = {cell.startswith("*") and cell.endswith("*") for cell in row.values() if cell != EMPTY}
        assert marked == {"published" in row["model"]}


def test_a_published_row_that_several_models_share_stands_once_under_the_last():
    row, other = published_row(0.1, 1.6, 0.05), published_row(0.2, 1.9, 0.07)
    models = [
        model("dense"),
        model("a", 0.1, 1.5, published=row),
        model("b", 0.2, 1.9, published=other),
        model("c", 0.1, 1.2, published=copy.deepcopy(row)),
    ]
    names = [row["model"] for row in tables_of(*models)[RESULTS]]
    assert names == ["dense (baseline)", "a", "b", "*published, ratio 0.2*", "c", "*published, ratio 0.1*"]


def test_published_figures_have_the_digits_that_were_published():
    row = published_row(
        0.1, 1, 0, perplexity={"c4": 20.8}, accuracy={"arc_easy": 0.29}, mean_accuracy=0.57, gamma=0.072
    )
    found = tables_of(model("a", 0.1, published=row))[RESULTS][1]
    assert [found[key] for key in ("C4 ↓", "ARC-easy ↑", "mean accuracy ↑", "gamma")] == [
        "*20.8*",
        "*29*",
        "*57*",
        "*7.2 %*",
    ]


def test_accuracy_by_length():
    rows = read_tables(markdown(full_results()))[NORMALISED]
    assert [row["model"] for row in rows] == ["dense", "uniform-0.1", "uniform-0.2"]
    assert list(rows[1]) == [
        "model",
        *(f"{t} ↑" for t in ("OpenBookQA", "ARC-easy", "ARC-challenge", "HellaSwag", "MathQA")),
    ]
    assert list(rows[1].values())[1:] == ["23.0 ± 1.3", "63.0 ± 1.5", "28.0 ± 1.4", "45.0 ± 1.6", "26.0 ± 1.4"]
    row = tables_of(model("a", tasks={"mathqa": question_entry(0.5, 0.6, acc_stderr=0.01, acc_norm_stderr=0.02)}))
    assert (row[RESULTS][0]["MathQA ↑"], row[NORMALISED][0]["MathQA ↑"]) == ("50.0 ± 1.0", "60.0 ± 2.0")
    only_winogrande = model("a", tasks={"winogrande": question_entry(0.6)})
    assert NORMALISED not in tables_of(only_winogrande)


def test_the_change_against_the_baseline():
    text = markdown(full_results())
    rows = read_tables(text)[CHANGE]
    assert [row["model"] for row in rows] == ["uniform-0.1", "uniform-0.2"]
    row = rows[1]
    texts = [row["WikiText-2, perplexity"], row["WikiText-2, KL"], row["C4, KL"]]
    assert texts == ["2.00 x ± 0.06", "1.0000 ± 0.0200", "1.0000 ± 0.0200"]  # 2 times the error of the mean loss
    # The mean's error is the root of six times 0.02 squared, over 6.
    assert [row["WinoGrande, points"], row["mean accuracy, points"]] == ["-8.0 ± 2.0", "-8.0 ± 0.8"]
    assert rows[0]["MathQA, points"] == "-4.0 ± 2.0" and rows[0]["PTB, perplexity"] == "1.50 x ± 0.04"
    assert "one standard error of the change, taken example by example" in text


def test_the_change_is_that_of_the_examples_and_not_of_the_figures():
    told = full_results()
    entries = told["models"][1]["tasks"]
    entries["c4"] |= {"change": {"difference": math.log(3), "stderr": None}}
    entries["mathqa"] |= {"change": {"difference": 0.123, "stderr": 0.011}}
    row = read_tables(markdown(told))[CHANGE][0]
    assert [row["C4, perplexity"], row["MathQA, points"]] == ["3.00 x", "+12.3 ± 1.1"]
    # (0.123 - 5 * 0.04) / 6, and the root of 5 * 0.02 ** 2 + 0.011 ** 2, over 6.
    assert row["mean accuracy, points"] == "-1.3 ± 0.8"
    entries["mathqa"]["change"]["stderr"] = None
    row = read_tables(markdown(told))[CHANGE][0]
    assert [row["MathQA, points"], row["mean accuracy, points"]] == ["+12.3", "-1.3"]


def test_a_growth_beyond_all_numbers():
    small = model("a", 0.1)
    small["tasks"]["c4"]["change"] = {"difference": 5000.0, "stderr": None}
    assert tables_of(model("dense"), small)[CHANGE][0]["C4, perplexity"] == "1.01e+304 x"


def test_a_model_that_gains_has_a_plus():
    dense, better = model("dense"), model("better", 0.1, 0.8, -0.02)
    [row] = tables_of(dense, better)[CHANGE]
    assert row["PTB, perplexity"] == "0.80 x ± 0.02" and row["ARC-easy, points"] == "+2.0 ± 2.0"


def test_the_baseline_need_not_come_first():
    rows = tables_of(model("a", 0.1, 1.5, 0.04), model("dense"))
    assert [row["model"] for row in rows[RESULTS]] == ["a", "dense (baseline)"]
    assert [(row["model"], row["PTB, perplexity"]) for row in rows[CHANGE]] == [("a", "1.50 x ± 0.04")]


@pytest.mark.parametrize("task", ["wikitext2", "arc_easy"])
def test_what_was_scored_otherwise_is_not_compared(task):
    dense, small = model("dense"), model("a", 0.1, 1.5, 0.04)
    del small["tasks"][task]["change"]
    [row] = tables_of(dense, small)[CHANGE]
    wiki, arc, mean = row.get("WikiText-2, perplexity"), row.get("ARC-easy, points"), row.get("mean accuracy, points")
    if task == "wikitext2":
        assert (wiki, row["PTB, perplexity"], mean) == (None, "1.50 x ± 0.04", "-4.0 ± 0.8")
        assert row["WikiText-2, KL"] == "0.5000 ± 0.0100"  # is measured on one's own windows
    else:
        assert (wiki, arc, mean, row["MathQA, points"]) == ("1.50 x ± 0.04", None, None, "-4.0 ± 2.0")


def test_tasks_that_some_models_lack():
    dense, small = model("dense"), model("a", 0.1, 1.5, 0.04)
    for name in ("ptb", "arc_easy"):
        del small["tasks"][name]
    del dense["tasks"]["mathqa"], small["tasks"]["mathqa"]["change"]
    text = markdown(results(dense, small))
    tables = read_tables(text)
    first, second = tables[RESULTS]
    assert [second["PTB ↓"], second["ARC-easy ↑"], first["MathQA ↑"]] == [EMPTY] * 3
    assert [first["PTB ↓"], first["ARC-easy ↑"], second["MathQA ↑"]] == ["15.40 ± 0.77", "66.0 ± 1.5", "25.0 ± 1.4"]
    [change] = tables[CHANGE]
    assert not {"PTB, perplexity", "PTB, KL", "ARC-easy, points", "MathQA, points", "mean accuracy, points"} & set(
        change
    )
    assert change["C4, perplexity"] == "1.50 x ± 0.04"
    note = next(line for line in text.splitlines() if line.startswith("Mean accuracies are over different tasks"))
    of_dense, of_small = note.split("comparable. ")[1].split("; ")
    assert of_dense.startswith("dense: OpenBookQA, ARC-easy,") and "MathQA" not in of_dense
    assert of_small.startswith("a: OpenBookQA, ARC-challenge,") and "MathQA" in of_small
    assert "over different tasks" not in markdown(full_results())


@pytest.mark.parametrize("value", [None, math.inf, math.nan])
def test_figures_that_are_not_finite(value):
    dense, small = model("dense"), model("a", 0.1, 1.5)
    small["tasks"]["c4"] |= {"perplexity": value, "stderr": value, "divergence": value}
    small["tasks"]["arc_easy"] |= {"acc": value, "acc_stderr": value, "acc_norm": value, "acc_norm_stderr": value}
    small["tasks"]["mathqa"]["acc_stderr"] = value
    for name in ("c4", "arc_easy"):
        small["tasks"][name]["change"] = {"difference": 0.0 if value is None else value, "stderr": value}
    small["tasks"]["mathqa"]["change"]["stderr"] = value
    small |= {"gamma": value, "mean_accuracy": value}
    tables = tables_of(dense, small)
    row, change, normalised = tables[RESULTS][1], tables[CHANGE][0], tables[NORMALISED][1]
    assert [row["C4 ↓"], row["ARC-easy ↑"], row["mean accuracy ↑"]] == ["not finite", EMPTY, EMPTY]
    assert [row["MathQA ↑"], change["MathQA, points"]] == ["29.0", "+0.0"]
    assert "C4, KL" not in change and normalised["ARC-easy ↑"] == EMPTY
    if value is None:
        assert [change["C4, perplexity"], change["ARC-easy, points"]] == ["1.00 x", "+0.0"]
        assert change["mean accuracy, points"] == "+0.0"
    else:
        assert not {"C4, perplexity", "ARC-easy, points", "mean accuracy, points"} & set(change)


@pytest.mark.parametrize(
    ("perplexity", "shown"),
    [(999.994, "999.99"), (1234.5678, "1,235"), (420_000.4, "420,000"), (2.5e9, "2.5e+09"), (1.0, "1.00")],
)
def test_large_perplexities(perplexity, shown):
    entry = text_entry(perplexity, stderr=None)
    assert tables_of(model("a", tasks={"ptb": entry}))[RESULTS][0]["PTB ↓"] == shown


def test_speed():
    rows = read_tables(markdown(full_results()))[SPEED]
    assert rows[1] == {
        "model": "uniform-0.1",
        "device": "cpu",
        "dtype": "float32",
        "latency, s": "8 / 12",
        "throughput, tokens/s": "16 / 24",
        "TTFT, ms": "1000 / 1500",
        "TPOT, ms": "31.25 / 46.88",
        "speed-up": "1.25 x",
    }
    text = markdown(full_results())
    assert "1,024 prompt tokens, 128 new tokens, batch size 1, 5 timed runs after 1 to warm up." in text
    assert "Times on a CPU say little" in text


def test_speed_of_some_models_and_without_some_figures():
    timed = speed_entry(8.0, "neuron trn1") | {"tpot_s": None}
    timed["ttft_s"] = {**timed["ttft_s"], "p90": None}
    text = markdown(results(model("dense"), model("a", 0.1, speed=timed)))
    [row] = read_tables(text)[SPEED]
    assert set(row) == {"model", "device", "dtype", "latency, s", "throughput, tokens/s"} and row["model"] == "a"
    assert row["device"] == "neuron trn1" and "CPU" not in text
    assert SPEED not in tables_of(model("dense"))


def test_a_speed_up_is_of_medians_timed_alike():
    dense, small = model("dense", speed=speed_entry(9.0)), model("a", 0.1, speed=speed_entry(6.0))
    small["speed"]["latency_s"]["mean"] = 100.0
    assert speedup(small, dense) == pytest.approx(1.5)
    for key, other in (("device", "cuda"), ("dtype", "bfloat16"), ("settings", {})):
        changed = {**small, "speed": {**small["speed"], key: other}}
        assert speedup(changed, dense) is None
    assert (
        speedup(model("b"), dense) is None and speedup(small, model("dense")) is None and speedup(small, None) is None
    )


def test_what_the_models_are():
    dense = model("dense", model="org/dense", revision="abc123", seconds=12.4)
    compiled = model("c", 0.1, kind="compiled", parameters=None, sha256="f" * 64, dtype="bfloat16", device="neuron")
    rows = tables_of(dense, compiled)[MODELS]
    assert list(rows[0].values()) == [
        *("dense", "dense", "org/dense", "abc123", "0123456789ab", "float32", "cpu", "1,235,814,400", "12", EMPTY)
    ]
    assert list(rows[1].values()) == [
        *("c", "compiled", "org/model", EMPTY, "ffffffffffff", "bfloat16", "neuron", EMPTY, "1,234"),
        r"decomposition two_sided, calibrated on text",
    ]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a|b", r"a\|b"),
        ("a\\|b", r"a\\\|b"),
        ("a\n| b", r"a \| b"),
        ("two_sided-0.1", "two_sided-0.1"),
        ("_a_b_", r"\_a_b\_"),
        ("*a* `b` <c> [d] ~e~ &f; $g$", r"\*a\* \`b\` \<c\> \[d\] \~e\~ \&f; \$g\$"),
    ],
)
def test_names_are_shown_as_they_are(name, shown):
    assert escaped(name) == shown
    told = results(model(name, speed=speed_entry(1.0)), model("x" + name, 0.1, model=name, speed=speed_entry(1.0)))
    told["recipe"]["name"] = name
    text = markdown(told)
    assert text.startswith(f"# Accuracy by recipe {shown}\n")
    for heading, rows in read_tables(text).items():
        names = [escaped(name), escaped("x" + name)]
        if heading == RESULTS:
            names[0] += " (baseline)"
        if heading == CHANGE:
            del names[0]
        if heading != DATA:
            assert [row["model"] for row in rows] == names
    assert read_tables(text)[MODELS][1]["from"] == shown


def test_published_times_stand_beneath_ours():
    row = {"ratio": 0.1, "speedup": None, "speed": {"latency_s": 30.45, "ttft_s": 0.07141, "tpot_s": 0.02915}}
    told = results(model("dense", speed=speed_entry(2.0)), model("a", 0.1, speed=speed_entry(1.0), published=row))
    [_, ours, published] = read_tables(markdown(told))[SPEED]
    assert ours["model"] == "a" and published["model"] == "*published, ratio 0.1*"
    figures = [published[name] for name in ("latency, s", "TTFT, ms", "TPOT, ms", "device", "speed-up")]
    assert figures == ["*30.45*", "*71.41*", "*29.15*", "–", "–"]
    assert [entry["model"] for entry in read_tables(markdown(told))[RESULTS]] == ["dense (baseline)", "a"], (
        "there is no published accuracy"
    )
    text = markdown(told)
    assert "Rows in italics are published figures" in text and "picture of perplexity" not in text


def test_an_error_of_nothing_is_not_shown():
    """Few questions, all right or all wrong, say nothing of the error."""
    dense, small = model("dense"), model("a", 0.1)
    small["tasks"]["arc_easy"] |= {"acc": 0.0, "acc_stderr": 0.0, "change": {"difference": -0.5, "stderr": 0.0}}
    tables = tables_of(dense, small)
    assert tables[RESULTS][1]["ARC-easy ↑"] == "0.0" and tables[CHANGE][0]["ARC-easy, points"] == "-50.0"
