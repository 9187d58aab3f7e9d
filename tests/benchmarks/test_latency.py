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
"""Predicted latencies as tables: what counts as a time, the floors, the published rows, and the command."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import latency, latency_figures, latency_mlp, latency_products, tutorial_kernels
from benchmarks.kernel_shapes import specs
from benchmarks.latency_figures import each, fastest, figures, in_a_row, milliseconds, overlapped, predicted, ratio
from benchmarks.latency_mlp import MODELS, RATIO, ROWS, Case, contest
from benchmarks.published import CALIBRATION, OUTSIDE, PUBLISHED, Published, kernel_named
from benchmarks.results import Results
from optimum_neuronmm.kernels import get_machine, matmul, matmul_tiled, mlp_decode
from optimum_neuronmm.kernels.latency.dma import CURVES, FLAT, STEP


ROOT = Path(__file__).resolve().parents[2]
SMALL = {"Llama-3.2-1B": (256, 640)}  # sizes that take no time


@pytest.fixture(scope="module")
def fits():
    return predicted(matmul, *specs((128, 256), (256, 512)))


@pytest.fixture(scope="module")
def spilled(fits):
    return replace(fits, spills=True, seconds=fits.seconds / 2)


def test_a_spill_has_a_flag_and_no_time(spilled):
    row = figures(spilled)
    assert row["spill"] is True
    assert {key for key, value in row.items() if value is None} == {"predicted ms", "TensorE active %", "MFU %"}


def test_a_spill_wins_no_comparison(fits, spilled):
    assert milliseconds(spilled) is None
    assert fastest([spilled, fits, None]) is fits
    assert ratio(spilled, fits) is None and ratio(fits, spilled) is None
    assert fastest([]) is None


def test_figures(fits):
    row = figures(fits)
    assert row["predicted ms"] == 1e3 * fits.seconds
    assert row["MFU %"] == pytest.approx(100 * 2 * 128 * 256 * 512 / fits.machine.flops / fits.seconds)
    assert row["HBM GB"] == 2 * (128 * 256 + 256 * 512 + 128 * 512) / 1e9
    assert 0 < row["TensorE active %"] <= 100 and row["spill"] is False


def test_ratio_is_above_one_where_the_second_is_faster(fits):
    assert ratio(replace(fits, seconds=3 * fits.seconds), fits) == pytest.approx(3)


def test_what_does_not_fit_is_said(capsys):
    run = predicted(mlp_decode, *specs((512, 256), (256, 512), None, (256, 512), None, (512, 256), None))
    assert run is None and figures(run)["spill"] == "does not fit"
    assert "no prediction: MLP decode: at most 128 rows, got 512" in capsys.readouterr().out


def test_kernels_in_a_row_add_up(fits):
    call = (matmul, ((128, 256), (256, 512)))
    assert in_a_row([call, call]).seconds == pytest.approx(2 * fits.seconds)
    assert in_a_row([call, (mlp_decode, ((512, 256), (256, 512), None, (256, 512), None, (512, 256), None))]) is None


def test_overlapped_engines_take_as_long_as_the_busiest_of_each_kernel(fits, spilled):
    one, other = (replace(fits, busy={"TensorE": t, "DMA": d}) for t, d in ((2.0, 1.0), (1.0, 4.0)))
    assert overlapped([one, other]) == 6.0
    assert overlapped([one, spilled]) is None and overlapped(None) is None


def test_each_kernel_by_itself(fits):
    call = (matmul, ((128, 256), (256, 512)))
    assert [part.seconds for part in each([call, call])] == [fits.seconds, fits.seconds]


def test_the_paper_s_models_and_rows():
    assert MODELS == {
        "Llama-3.2-1B": (2048, 8192),
        "Llama-3.2-3B": (3072, 8192),
        "Qwen3-1.7B": (2048, 6144),
        "Qwen3-4B": (2560, 9728),
    }
    assert (RATIO, ROWS) == (0.2, (1, 16, 128, 512, 1024, 4096))


def test_floor_of_a_case():
    one, many = Case("Llama-3.2-1B", 2048, 8192, 1), Case("Llama-3.2-1B", 2048, 8192, 4096)
    assert one.r == 1280
    # Bound by bytes: the factors, and x and y. Bound by FLOPs: 2.8 GHz x 128 x 128 multiply-adds.
    assert one.floor(1280) == pytest.approx((3 * 1280 * 10240 + 2 * 2048) * 2 / get_machine("trn1").bandwidth)
    assert many.floor(1280) == pytest.approx(4096 * 3 * 1280 * 10240 / (128 * 128 * 2.8e9))
    assert many.floor(None) == pytest.approx(4096 * 3 * 2048 * 8192 / (128 * 128 * 2.8e9))


def test_the_fastest_of_ours_is_taken(monkeypatch):
    case = Case("small", 256, 640, 128)
    runs = {}

    def recorded(kernel, *tensors, **settings):
        runs[kernel.name] = predicted(kernel, *tensors, **settings)
        return runs[kernel.name]

    monkeypatch.setattr(latency_mlp, "predicted", recorded)
    best = latency_mlp.whole(case, case.r)
    assert set(runs) == {"mlp", "mlp_decode", "mlp_two_kernels"}
    assert best.seconds == min(run.seconds for run in runs.values())
    runs.clear()
    latency_mlp.whole(Case("small", 256, 640, 129), None)
    assert set(runs) == {"mlp", "mlp_two_kernels"}  # mlp_decode takes 128 rows at most


def test_row_of_a_contest():
    found = contest(Case("small", 256, 640, 16))
    row = latency_mlp.row(found)
    assert row["ours ms"] == milliseconds(found.ours) and row["pair ms"] == milliseconds(found.pair)
    assert row["pair / ours"] == pytest.approx(row["pair ms"] / row["ours ms"])
    assert row["spared / ours"] == pytest.approx(found.spared.seconds / found.ours.seconds)
    assert 0 < row["at best ms"] <= milliseconds(found.spared) <= row["pair ms"]
    assert row["X W / ours"] == pytest.approx(row["X W ms"] / row["ours ms"])
    assert row["3 matmul / ours"] == pytest.approx(row["3 matmul ms"] / row["ours ms"])
    assert row["floor / ours %"] == pytest.approx(100 * row["floor ms"] / row["ours ms"])
    assert row["spills"] is False
    assert found.products.flops == found.dense.flops == 2 * 16 * 3 * 256 * 640
    assert found.ours.flops == 2 * 16 * 3 * found.case.r * (256 + 640)


def test_a_spill_in_a_contest_is_named(spilled):
    found = replace(contest(Case("small", 256, 640, 16)), pair=spilled)
    row = latency_mlp.row(found)
    assert row["spills"] == "pair" and row["pair ms"] is None and row["pair / ours"] is None


def test_mlp_section_judges_and_notes(capsys):
    results = Results()
    latency_mlp.mlp_section(results, SMALL, rows=(1, 512))
    results.end(None)
    assert [row["rows"] for row in results.tables["mlp"]] == [1, 512]
    asked = [(goal["what"].split(",")[0], goal["compare"], goal["goal"]) for goal in results.goals]
    assert asked == [
        ("times faster than the spared pair", ">", 1.0),
        ("share of the DMA bandwidth bound", ">=", 0.85),
        ("times faster than the spared pair", ">", 1.0),
        ("share of peak FLOP/s", ">=", 0.80),
        ("times faster than the spared pair", ">=", 1.15),
    ]
    printed = capsys.readouterr().out
    assert "predicted" in printed and "trn1" in printed
    assert "note on Llama-3.2-1B, rows=1" in printed  # no published timing of decode shapes


def test_curves_section_says_what_it_depends_on(capsys):
    results = Results()
    latency_mlp.curves_section(results, SMALL)
    assert [row["DMA curve"] for row in results.tables["curves"]] == list(CURVES)
    assert {"calibrated", "step", "flat"} <= set(CURVES)
    assert [(goal["compare"], goal["goal"]) for goal in results.goals] == [(">=", 1.2), (">=", 1.0)]
    assert all("depending on the DMA curve" in goal["what"] for goal in results.goals)
    assert "depend on the DMA curve" in capsys.readouterr().out


def test_the_curve_reaches_the_prediction():
    case = Case("small", 256, 640, 1)  # the pair's runs of 256 bytes cost more by a curve that penalises them
    assert contest(case, dma=FLAT).pair.seconds < contest(case, dma=STEP).pair.seconds


def test_what_was_used_for_calibration():
    used = {(row.what, row.milliseconds) for row in PUBLISHED if row.used == CALIBRATION}
    assert used == {
        ("paper, block sizes: B_M=128", 31.25),
        ("paper, block sizes: B_M=512", 11.02),
        ("paper, block sizes: B_M=1024", 10.99),
        ("tutorial: Optimization 1", 42.96),
        ("tutorial: Optimization 3", 6.97),
    }
    assert all(row.within == 0.02 for row in PUBLISHED if row.used == CALIBRATION)
    assert {row.within for row in PUBLISHED if row.used == OUTSIDE} == {0.1, None}


def test_two_products_fit_each_other():
    calls = []

    def product(xT, w):
        calls.append((xT.shape, w.shape))
        return tutorial_kernels.tiled_matmul(xT, w)

    latency_products.twice(product, 256, 384, 128, 512)
    (first, second) = calls  # Y (M, N) of X^T (K, M) and W (K, N)
    assert (first[0][1], first[1][1]) == second[0] == (128, 256)
    assert second[1] == (128, 512)


@pytest.mark.parametrize("kernel", sorted({row.kernel for row in PUBLISHED}))
def test_kernels_of_published_rows_are_found(kernel):
    found = kernel_named(kernel)
    assert getattr(found, "name", None) == kernel or found.__name__ == kernel


def test_published_section_prints_residuals(capsys):
    rows = (
        Published("a", "matmul_tiled", (256, 128, 512), 1.0, within=0.1),
        Published("b", "low_rank_fused", (256, 384, 128, 512), 0.01, (("B_M", 128),), remark="known"),
        Published("c", "matmul_blocked", (256, 384, 128, 512), 0.01, remark="known"),
        Published("d", "free_blocked_matmul", (256, 128, 512), 0.01),
    )
    results = Results()
    latency_products.published_section(results, rows)
    table = results.tables["published"]
    expected = predicted(matmul_tiled, *specs((128, 256), (128, 512))).milliseconds
    assert table[0]["predicted ms"] == expected and table[0]["residual %"] == pytest.approx(100 * (expected - 1))
    assert table[1]["MB"] == pytest.approx(2 * (256 * (384 + 512) + 2 * 128 * (384 + 512)) / 1e6)  # two strips
    assert table[2]["kernel"] == "matmul_blocked + matmul_blocked"
    assert [(goal["compare"], goal["goal"]) for goal in results.goals] == [("=", 1.0)]
    printed = capsys.readouterr().out
    assert "b: known" in printed and "checked from outside" in printed


def test_kernel_table_and_sweep_are_complete(monkeypatch):
    monkeypatch.setattr(latency_products, "SWEEP", (256, 384, 128, 640))
    results = Results()
    latency_products.table_section(results, rows=(256,))
    latency_products.sweep_section(results, blocks=(128, 256))
    rows = results.tables["kernel table"]
    assert [row["kernel"] for row in rows] == [
        "matmul_tiled",
        "matmul_blocked",
        "matmul",
        "matmul_blocked twice",
        "low_rank_naive",
        "low_rank_sequential",
        "low_rank_fused",
    ]
    assert {
        *("predicted ms", "HBM GB", "TensorE active %", "MFU %"),
        *("GFLOP", "transpose GFLOP", "SBUF %", "spill"),
    } <= set(rows[0])
    assert rows[-1]["fused is faster by"] == 1
    assert rows[1]["fused is faster by"] == pytest.approx(rows[1]["predicted ms"] / rows[-1]["predicted ms"])
    *over, headline = results.tables["speed-up"]
    assert [line["mean"] for line in over] == [rows[i]["fused is faster by"] for i in (1, 3, 5)]
    assert all(line["mean"] == line["maximum"] for line in over)
    assert (headline["mean"], headline["maximum"]) == (1.35, 2.22)
    assert [row["B_M"] for row in results.tables["sweep"]] == [128, 256]
    assert results.tables["sweep"][0]["published ms"] == 31.25
    assert results.tables["sweep"][0]["FLOP/byte"] < results.tables["sweep"][1]["FLOP/byte"]


@pytest.fixture
def short(monkeypatch):
    """The command with one small section, whose goals are `met` or not."""

    def run(arguments: list[str], met: bool) -> None:
        def section(results):
            latency_mlp.mlp_section(results, SMALL, rows=(1, 16))
            results.goals = []
            results.goal("a goal", 1.0, ">=", 0.5 if met else 2.0)

        for name in ("published_section", "table_section", "sweep_section", "curves_section"):
            monkeypatch.setattr(latency, name, lambda results: None)
        monkeypatch.setattr(latency, "mlp_section", section)
        monkeypatch.setattr(sys, "argv", ["latency.py", *arguments])
        latency.main()

    return run


def test_command_writes_figures_and_a_picture(short, tmp_path, capsys):
    short(["--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.png"), "--strict"], met=True)
    content = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert content["target"] == latency_figures.TARGET and "predicted" in content["source"]
    assert len(content["tables"]["mlp"]) == 2 and content["goals"][0]["met"] and content["notes"]["mlp"]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "1 of 1 goals met" in capsys.readouterr().out


def test_strict_fails_where_a_goal_is_missed(short):
    short([], met=False)
    with pytest.raises(SystemExit) as stopped:
        short(["--strict"], met=False)
    assert stopped.value.code == 1


@pytest.mark.parametrize("script", ["latency.py", "kernels.py"])
def test_runs_as_a_file_from_anywhere(script, tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--help"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--strict" in done.stdout
