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
"""How the times of a step add up, of steps made by hand."""

from dataclasses import replace

import pytest

from optimum_neuronmm.kernels import Spec, matmul
from optimum_neuronmm.kernels.latency import predict
from optimum_neuronmm.neuron.form import EXCHANGE_SECONDS, SHARDED, Form
from optimum_neuronmm.neuron.selection import Candidate
from optimum_neuronmm.planning.roofline import EXCHANGE, Operation
from optimum_neuronmm.planning.step import DECODE, Mlps, Phase


BASE = predict(matmul, Spec((32, 96)), Spec((96, 32)))


def mlps(rank: int, count: int, busy: dict, interpolated: bool = False, bound: float = 0.5, **form) -> Mlps:
    found = Candidate("mlp", () if interpolated else ("a call",), replace(BASE, seconds=2.0, busy=busy))
    return Mlps(
        Form(96, 200, rank, rank, rank, **form),
        count,
        Operation("MLP", 10, 20, bound, "memory"),
        (found,),
        {},
        interpolated,
    )


def phase(*found: Mlps, operations: tuple = ()) -> Phase:
    return Phase(DECODE, 1, found, operations)


def test_the_engine_that_works_longest_is_that_of_all_layers():
    few, many = mlps(32, 1, {"TensorE": 5.0, "DMA": 1.0}), mlps(64, 9, {"TensorE": 1.0, "DMA": 2.0})
    assert phase(few).mlp_bound_by == "TensorE" and phase(few, many).mlp_bound_by == "DMA"
    assert phase(few, replace(many, count=3)).mlp_bound_by == "TensorE"


def test_the_most_common_are_predicted_themselves():
    first = mlps(32, 7, {"DMA": 1.0}, interpolated=True)
    second, third = mlps(64, 1, {"DMA": 1.0}), mlps(96, 5, {"DMA": 1.0})
    assert phase(first, second, third).most_common is third


def test_floors_have_no_exchanges_and_estimates_have():
    """What is assumed is no bound."""
    sharded = mlps(32, 4, {"DMA": 1.0}, bound=3.0, tp=2, layout=SHARDED)
    rest = Operation("lm_head", 1, 1, 7.0, "memory")
    found = phase(sharded, operations=(rest, Operation("exchanges", 0, 0, 0.25, EXCHANGE)))
    assert found.mlp_seconds == pytest.approx(4 * (2.0 + 3 * EXCHANGE_SECONDS))
    assert found.mlp_floor == 3.0  # of all layers
    assert found.floor == 10.0
    assert found.seconds == pytest.approx(found.mlp_seconds + 7.25)
