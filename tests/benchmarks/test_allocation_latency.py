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
"""`benchmarks.allocation_latency` on a small model: what it prints, and that its comparison is fair."""

import json

import pytest

from benchmarks import allocation_latency as module
from optimum_neuronmm.allocation import predicted_loss
from optimum_neuronmm.latency_cost import MLPLatency, Ranks, Request
from optimum_neuronmm.neuron.form import Form
from optimum_neuronmm.speedup import SpeedupSearch


SMALL = {"small": (128, 256, 2, 32, (32, 32, 64))}


@pytest.fixture(scope="module")
def latency():
    return MLPLatency(Form(128, 256, *Ranks()), Request("trn1", 0, 1))


def test_tables_and_json(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(module, "MODELS", SMALL)
    monkeypatch.setattr(module, "ROWS", (1,))
    monkeypatch.setattr(module, "REQUESTS", {"decode": (0, 128)})
    monkeypatch.setattr(module, "TARGETS", (1.02,))
    monkeypatch.setattr("sys.argv", ["allocation_latency.py", "--json", str(tmp_path / "rows.json")])
    module.main()
    out = capsys.readouterr().out
    assert "Predicted for one logical core of trn1, bfloat16; nothing is measured." in out
    written = json.loads((tmp_path / "rows.json").read_text())
    dense, *others = written["residuals"]
    assert dense["ranks"] == [None] * 3 and dense["shares"] == pytest.approx(0) and len(others) == 7
    assert all(f"{row['alone']:.1%}" in out and f"{row['shares']:.1%}" in out for row in others)
    (row,) = written["speedups"]
    assert row["predicted"] >= row["target"] == 1.02
    assert all(note in out for found in written["residuals"] for note in found["notes"])


def test_ranks_by_parameters_are_as_fast_and_no_slower_ones_are_left_out(latency):
    projections, losses = module.made_up(128, 256, 6)
    search = SpeedupSearch(projections, 32, 1.02, latency)
    found = search.allocate(losses)
    limit = search.seconds(found)
    other = module.by_parameters(search, projections, losses, 32, limit)
    assert search.seconds(other) <= limit
    assert predicted_loss(found, losses) <= predicted_loss(other, losses)
    assert module.by_parameters(search, projections, losses, 32, 0.0) is None
    assert all(losses[path][0] > losses[path][32] > losses[path][-1] == 0 for path in projections.shapes)
