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
"""What a byte of a transfer costs by how long the transfer, or its runs, are."""

import pytest

from optimum_neuronmm.kernels.latency.constants import CALIBRATED as CONSTANTS
from optimum_neuronmm.kernels.latency.dma import CALIBRATED, CURVES, FLAT, PICTURE, SEVERE, STEP, parallel


SIZE = 2**20
LENGTHS = [1, 2, 64, 128, 255, 256, 257, 512, 1000, 1024, 1500, 2047, 2048, 2400, 3000, 4095, 4096, 8192, 2**16]
LEAST, MOST = SIZE / CONSTANTS.saturated, SIZE / CONSTANTS.short


def seconds(curve, run: int = 4096, each: int = 4096, size: int = SIZE) -> float:
    return curve.seconds(size, run, each, CONSTANTS)


@pytest.mark.parametrize("curve", CURVES.values(), ids=lambda curve: curve.name)
def test_longer_transfers_and_runs_never_cost_more(curve):
    for known in LENGTHS:
        by_run = [seconds(curve, run=length, each=known) for length in LENGTHS]
        by_transfer = [seconds(curve, run=known, each=length) for length in LENGTHS]
        assert by_run == sorted(by_run, reverse=True) and by_transfer == sorted(by_transfer, reverse=True)
        assert min(by_run + by_transfer) >= LEAST * (1 - 1e-12)


@pytest.mark.parametrize("curve", CURVES.values(), ids=lambda curve: curve.name)
def test_seconds_are_in_proportion_to_the_bytes(curve):
    assert curve.seconds(3 * SIZE, 512, 1024, CONSTANTS) == pytest.approx(3 * seconds(curve, 512, 1024))
    assert curve.seconds(0, 512, 1024, CONSTANTS) == 0


def test_the_calibrated_curve_by_hand():
    assert CALIBRATED.by == "transfer"
    for each in (256, 1023, 1024):
        assert seconds(CALIBRATED, run=256, each=each) == pytest.approx(MOST)
    for each in (4096, 2**16):
        assert seconds(CALIBRATED, run=256, each=each) == pytest.approx(LEAST)
    assert seconds(CALIBRATED, each=2048) == pytest.approx((LEAST + MOST) / 2)  # half of the way in log2
    assert seconds(CALIBRATED, each=1448) == pytest.approx(LEAST / 4 + MOST * 3 / 4, rel=1e-3)


@pytest.mark.parametrize("curve", [CALIBRATED, STEP])
def test_runs_below_the_severe_length_cost_a_descriptor_of_it_each(curve):
    for run in (1, 2, 64, 128):
        assert seconds(curve, run=run) == pytest.approx(seconds(curve, run=SEVERE) * SEVERE / run)
    assert seconds(curve, run=SEVERE + 1) == pytest.approx(seconds(curve, run=SEVERE))


def test_the_step_goes_by_the_run_alone():
    assert seconds(STEP, run=2048, each=2048) == pytest.approx(LEAST)
    assert seconds(STEP, run=2047, each=2**16) == pytest.approx(MOST)
    assert seconds(STEP, run=2**16, each=1) == pytest.approx(LEAST)
    assert seconds(STEP, run=256, each=2**16) == pytest.approx(MOST)


def test_the_flat_curve_knows_bytes_only():
    for run in LENGTHS:
        for each in LENGTHS:
            assert seconds(FLAT, run, each) == pytest.approx(LEAST)


def test_the_curve_of_the_picture_charges_a_descriptor():
    """2480 bytes are read from the picture: up to that a descriptor takes the same time."""
    assert seconds(PICTURE, run=2480, each=1) == seconds(PICTURE, run=2**16, each=1) == pytest.approx(LEAST)
    assert seconds(PICTURE, run=1240) == pytest.approx(2 * LEAST)
    assert seconds(PICTURE, run=1) == pytest.approx(2480 * LEAST)


def test_curves_are_found_by_their_names():
    assert CURVES == {"calibrated": CALIBRATED, "step": STEP, "flat": FLAT, "picture": PICTURE}


@pytest.mark.parametrize(
    ("size", "run", "part"),
    [(16 * 512, 512, 1.0), (2**20, 512, 1.0), (8 * 512, 512, 0.5), (512, 512, 1 / 16), (100, 512, 1 / 16)],
)
def test_a_descriptor_is_moved_by_one_engine(size, run, part):
    assert parallel(size, run, 16) == part
