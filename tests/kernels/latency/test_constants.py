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
"""The three constants follow from the published timings, and the table has them."""

import dataclasses
import sys

import pytest

from benchmarks import calibrate
from optimum_neuronmm.kernels import get_machine
from optimum_neuronmm.kernels.latency.constants import CALIBRATED, CALIBRATED_ON, constants_of


pytestmark = pytest.mark.simulation


@pytest.fixture(scope="module")
def calibration():
    return calibrate.Calibration()


@pytest.fixture(scope="module")
def solved(calibration):
    return calibration.solve()


def test_the_table_is_what_the_published_timings_say(solved):
    for name in calibrate.RANGES:
        assert getattr(CALIBRATED, name) == pytest.approx(getattr(solved, name), rel=0.01), name
    assert CALIBRATED.saturated == get_machine(CALIBRATED_ON).dma_measured  # the floor of each engine knows it too


@pytest.mark.parametrize("row", calibrate.ROWS, ids=lambda row: row.name)
def test_every_row_is_within_two_percent(calibration, row):
    assert calibrate.WITHIN == 0.02
    assert abs(calibration.residual(row, CALIBRATED)) <= calibrate.WITHIN
    assert calibration.predicted(row, CALIBRATED) == pytest.approx(row.milliseconds, rel=calibrate.WITHIN)


def test_the_published_timings_that_decide():
    """Those of the documents, and no others."""
    assert {row.name: (row.milliseconds, row.constant) for row in calibrate.ROWS} == {
        "X U V, B_M = 128": (31.25, "saturated"),
        "X U V, B_M = 512": (11.02, "matmul_overhead"),
        "X U V, B_M = 1024": (10.99, "matmul_overhead"),
        "tutorial, optimisation 1": (42.96, "short"),
        "tutorial, optimisation 3": (6.97, "matmul_overhead"),
    }


@pytest.mark.parametrize(("name", "row"), [("saturated", 0), ("matmul_overhead", 2), ("short", 3)])
def test_a_wrong_entry_shows_in_the_rows_that_decide_it(calibration, name, row):
    wrong = dataclasses.replace(CALIBRATED, **{name: 1.1 * getattr(CALIBRATED, name)})
    before, after = (calibration.residual(calibrate.ROWS[row], constants) for constants in (CALIBRATED, wrong))
    assert after - before > 0.005 if name == "matmul_overhead" else before - after > 0.02


def test_what_is_solved_does_not_depend_on_the_table(calibration, solved):
    wrong = dataclasses.replace(CALIBRATED, matmul_overhead=20.0, saturated=120e9, short=60e9)
    again = calibration.solve(wrong)
    for name in calibrate.RANGES:
        assert getattr(again, name) == pytest.approx(getattr(solved, name), rel=0.01), name


@pytest.mark.parametrize("wrong", [{}, {"short": 98e9}, {"saturated": 224e9}, {"matmul_overhead": 71.0}])
def test_the_script_fails_where_the_table_is_out_of_date(monkeypatch, capsys, calibration, solved, wrong):
    monkeypatch.setattr(calibrate, "Calibration", lambda: calibration)
    monkeypatch.setattr(calibration, "solve", lambda: solved, raising=False)
    monkeypatch.setattr(calibrate, "CALIBRATED", dataclasses.replace(CALIBRATED, **wrong))
    monkeypatch.setattr(sys, "argv", ["calibrate.py", "--strict"])
    assert calibrate.main() == bool(wrong)
    missed = [line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["MISSED"]]
    assert bool(missed) == bool(wrong)
    for name in wrong:
        assert any(f"{name} of the table" in line for line in missed)


def test_constants_of_the_machine_of_the_timings_have_no_note():
    assert constants_of(get_machine(CALIBRATED_ON)) is CALIBRATED and CALIBRATED.notes == ()


@pytest.mark.parametrize(("target", "scale"), [("inf2", 1.0), ("trn2", 368 / 272), ("trn3", 528 / 272)])
def test_other_machines_are_scaled_and_say_so(target, scale):
    constants = constants_of(get_machine(target))
    assert constants.saturated == pytest.approx(scale * CALIBRATED.saturated)
    assert constants.short == pytest.approx(scale * CALIBRATED.short)
    assert (constants.matmul_overhead, constants.overhead) == (CALIBRATED.matmul_overhead, CALIBRATED.overhead)
    (note,) = constants.notes
    assert note.startswith(f"{target}: no published timing") and f"constants of {CALIBRATED_ON}" in note


def test_the_overhead_that_is_assumed_lies_in_the_documented_range():
    assert 60 <= CALIBRATED.overhead <= 100
