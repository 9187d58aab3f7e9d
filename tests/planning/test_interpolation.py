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
"""Which of many MLPs are predicted, and what those between them get."""

from dataclasses import replace

import pytest

from optimum_neuronmm.kernels import Spec, matmul
from optimum_neuronmm.kernels.latency import predict
from optimum_neuronmm.neuron.form import REPLICATED, SHARDED, Form
from optimum_neuronmm.neuron.selection import Candidate
from optimum_neuronmm.planning.interpolation import _COUNTS, FEW, MOST, between, chosen


BASE = replace(predict(matmul, Spec((32, 96)), Spec((96, 32))), notes=())


def form(*ranks) -> Form:
    return Form(96, 200, *ranks)


def candidate(form: Form, kernel: str, fixed: float, slope: float, **options) -> Candidate:
    """That takes, does and moves so much for each parameter, after something fixed."""
    n = fixed + slope * form.parameters
    counts = {name: round(factor * n) for factor, name in enumerate(_COUNTS, start=3)}
    figures = {"seconds": n, "floor": n / 2, **counts, "busy": {"DMA": n / 4}}
    return Candidate(kernel, ("a call",), replace(BASE, **figures, **options))


def test_few_are_all_predicted():
    forms = [form(32 * n, 32, 32) for n in range(1, MOST + 1)]
    assert chosen(forms + forms) == forms


def test_of_many_the_smallest_and_the_largest_of_each_kind_are_predicted():
    whole, part = [form(8 * n, 8, 8) for n in range(1, 100)], [form(8 * n, None, 8) for n in range(1, 4)]
    found = chosen([*reversed(whole), *part, form(None, None, 8)])
    assert [f for f in found if f.up is None and f.gate] == [part[0], part[-1]] and form(None, None, 8) in found
    ends = [f for f in found if f.up]
    assert len(ends) == FEW - 1 and (ends[0], ends[-1]) == (whole[0], whole[-1])
    steps = [b.gate - a.gate for a, b in zip(ends, ends[1:], strict=False)]
    assert max(steps) - min(steps) <= 8


def test_what_is_linear_in_the_parameters_is_exact():
    ends = [form(32, 32, 32), form(64, 64, 32), form(96, 96, 96)]
    predicted = {
        f: [candidate(f, "mlp", 9.0, 2.0), candidate(f, "two", 1e5, 0.5)] for f in [*ends, form(None, None, None)]
    }
    for middle in (form(32, 64, 32), form(80, 40, 64), form(88, 96, 96), *ends):
        found = between(middle, predicted)
        expected = {"mlp": candidate(middle, "mlp", 9.0, 2.0), "two": candidate(middle, "two", 1e5, 0.5)}
        for got in found:
            real = expected[got.kernel].prediction
            assert got.prediction.seconds == pytest.approx(real.seconds)
            assert got.prediction.floor == pytest.approx(real.floor)
            assert got.prediction.busy == pytest.approx(real.busy)
            for count in _COUNTS:
                assert getattr(got.prediction, count) == pytest.approx(getattr(real, count), abs=2)
            assert (got.calls, got.prediction.plans) == ((), ())
        seconds = [got.prediction.seconds for got in found]
        assert seconds == sorted(seconds) and len(seconds) == 2
    kernels = [between(f, predicted)[0].kernel for f in (ends[0], ends[-1])]
    assert kernels == ["mlp", "two"]  # which of them is faster may change in between


def test_only_kernels_of_both_neighbours_and_what_is_wrong_with_either():
    low, high = form(32, 32, 32), form(96, 96, 96)
    predicted = {
        low: [candidate(low, "mlp", 0, 1, notes=("one",)), candidate(low, "two", 0, 1)],
        high: [candidate(high, "mlp", 0, 1, notes=("other", "one"), spills=True)],
    }
    (found,) = between(form(64, 64, 64), predicted)
    assert found.kernel == "mlp" and found.prediction.spills and found.prediction.notes == ("one", "other")
    assert between(form(64, 64, 64), {low: predicted[low], high: []}) == []


def test_outside_of_what_was_predicted_there_is_nothing_to_interpolate():
    low, high = form(64, 64, 64), form(96, 96, 96)
    predicted = {f: [candidate(f, "mlp", 0, 1)] for f in (low, high)}
    assert len(between(form(96, 64, 64), predicted)) == 1
    for other in (form(32, 64, 64), form(128, 96, 96), form(80, 80, None)):
        assert between(other, predicted) == []
    assert between(low, {}) == []


def test_layouts_are_kinds_of_their_own():
    replicated, sharded = (
        [replace(form(n, n, n), tp=2, layout=layout) for n in (32, 64, 96)] for layout in (REPLICATED, SHARDED)
    )
    predicted = {f: [candidate(f, "mlp", 0, 1)] for f in (replicated[0], replicated[2], sharded[0])}
    assert between(replicated[1], predicted) and between(sharded[1], predicted) == []
    many = [replace(form(8 * n, 8, 8), tp=2, layout=layout) for n in range(1, 6) for layout in (REPLICATED, SHARDED)]
    found = chosen(many)
    for ends in ([f for f in many if f.layout == layout] for layout in (REPLICATED, SHARDED)):
        assert {ends[0], ends[-1]} <= set(found)
