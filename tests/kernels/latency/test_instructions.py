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
"""Seconds of single instructions by hand, and their sums by engine."""

import pytest

from optimum_neuronmm.kernels import Spec, get_machine, low_rank_fused, mlp_decode, simulate
from optimum_neuronmm.kernels.cost import padding
from optimum_neuronmm.kernels.engines import DMA, GPSIMD, SCALAR, TENSOR, VECTOR
from optimum_neuronmm.kernels.latency.constants import Constants
from optimum_neuronmm.kernels.latency.dma import CALIBRATED, FLAT, STEP
from optimum_neuronmm.kernels.latency.instructions import Costs, documented
from optimum_neuronmm.kernels.simulator.trace import Allocation, Instruction, Loop, Operand, Trace


CONSTANTS = Constants(matmul_overhead=70.0, saturated=200e9, short=100e9, overhead=80.0)


@pytest.fixture(params=["trn1", "trn2"])
def machine(request):
    return get_machine(request.param)


def operand(*shape, dtype="bfloat16", buffer="sbuf") -> Operand:
    whole = Operand(Allocation(0, "", shape, dtype, buffer, 0, ()), shape, dtype, buffer, (0,), 0)
    return Operand(whole.allocation, shape, dtype, buffer, (0,), whole.elements)


def product(moving: int, dtype: str = "bfloat16") -> Instruction:
    return Instruction("nc_matmul", TENSOR, (operand(128, 128, dtype=dtype), operand(128, moving, dtype=dtype)))


def load(partitions: int, each: int, run: int) -> Instruction:
    source, target = operand(1, 1, buffer="hbm"), operand(partitions, each // 2)
    return Instruction("load", DMA, (source,), target, hbm_read=partitions * each, run=run)


def store(partitions: int, each: int, run: int) -> Instruction:
    source, target = operand(partitions, each // 2), operand(1, 1, buffer="hbm")
    return Instruction("store", DMA, (source,), target, hbm_written=partitions * each, run=run)


@pytest.mark.parametrize(
    ("moving", "dtype", "cycles"),
    [(512, "bfloat16", 512), (1, "bfloat16", 64), (512, "float32", 4 * 512), (128, "float32", 4 * 128)],
)
def test_a_product_takes_its_columns_and_the_overhead_once(machine, moving, dtype, cycles):
    took = Costs(machine, CONSTANTS, CALIBRATED).seconds(product(moving, dtype))
    assert took == pytest.approx((cycles + 70) / machine.tensor_clock)


@pytest.mark.parametrize("engine", [VECTOR, SCALAR, GPSIMD])
def test_the_other_engines_have_a_clock_of_their_own_and_another_overhead(machine, engine):
    clock = {VECTOR: machine.vector_clock, SCALAR: machine.scalar_clock, GPSIMD: machine.gpsimd_clock}[engine]
    copy = Instruction("tensor_copy", engine, (operand(128, 4, 500),), operand(128, 4, 500))
    assert Costs(machine, CONSTANTS, CALIBRATED).seconds(copy) == pytest.approx((2000 + 80) / clock)


@pytest.mark.parametrize("transfer", [load, store])
def test_a_transfer_is_judged_by_what_it_moves_into_a_partition(machine, transfer):
    costs = Costs(machine, CONSTANTS, CALIBRATED)
    assert costs.seconds(transfer(128, 4096, 512)) == pytest.approx(128 * 4096 / 200e9)
    assert costs.seconds(transfer(128, 1024, 1024)) == pytest.approx(128 * 1024 / 100e9)
    # As much in each of few partitions.
    assert costs.seconds(transfer(32, 4096, 512)) == pytest.approx(32 * 4096 / 200e9)
    assert costs.seconds(transfer(1, 1024, 1024)) == pytest.approx(1024 / 100e9)


def test_the_curve_can_be_chosen(machine):
    short = load(128, 4096, 512)
    assert Costs(machine, CONSTANTS, FLAT).seconds(short) == pytest.approx(128 * 4096 / 200e9)
    assert Costs(machine, CONSTANTS, STEP).seconds(short) == pytest.approx(128 * 4096 / 100e9)


def test_busy_by_hand(machine):
    copy = Instruction("tensor_copy", SCALAR, (operand(128, 500),), operand(128, 500))
    loops = Loop("affine", 10, [load(128, 4096, 4096), Loop("affine", 7, [product(512)]), copy])
    # Two kernels in a row, the second on four cores.
    trace = Trace([Loop("program", 1, [loops]), Loop("program", 4, [copy, store(128, 4096, 4096)])], [])
    busy = Costs(machine, CONSTANTS, CALIBRATED).busy(trace)
    assert busy[TENSOR] == pytest.approx(70 * (512 + 70) / machine.tensor_clock)
    assert busy[SCALAR] == pytest.approx(11 * (500 + 80) / machine.scalar_clock)
    assert busy[DMA] == pytest.approx(11 * 128 * 4096 / 200e9)
    assert busy[VECTOR] == busy[GPSIMD] == 0


@pytest.mark.parametrize("kernel", [low_rank_fused, mlp_decode])
def test_busy_is_the_sum_over_the_trace(kernel):
    shapes = {"x": (100, 300), "u": (300, 130), "v": (130, 600)}
    if kernel is mlp_decode:
        shapes = {"x": (3, 256), "gate": (256, 300), "up": (256, 300), "down": (300, 256)}
        shapes |= {"gate_v": None, "up_v": None, "down_v": None}
    tensors = {name: shape and Spec(shape) for name, shape in shapes.items()}
    result = simulate(kernel, **tensors, dry=True)
    costs = Costs(result.machine, CONSTANTS, CALIBRATED)
    by_hand = dict.fromkeys((TENSOR, VECTOR, SCALAR, GPSIMD, DMA), 0.0)
    for instruction, times in result.trace.instructions():
        by_hand[instruction.engine] += times * costs.seconds(instruction)
    assert costs.busy(result.trace) == pytest.approx(by_hand)
    assert all(by_hand[engine] > 0 for engine in (TENSOR, SCALAR, VECTOR, DMA))


def test_documented_costs_have_no_overhead_and_no_curve(machine):
    costs = documented(machine)
    copy = Instruction("tensor_copy", SCALAR, (operand(128, 140),), operand(128, 140))
    assert costs.seconds(product(512)) == pytest.approx(512 / machine.tensor_clock)
    assert costs.seconds(copy) == pytest.approx(140 / machine.scalar_clock)
    for transfer in (load(128, 4096, 4096), load(128, 64, 64), store(1, 2, 2)):
        assert costs.seconds(transfer) == pytest.approx(transfer.hbm_bytes / machine.bandwidth)


def test_documented_the_tensor_engine_of_a_fused_product_takes_its_flops_and_its_transposes():
    result = simulate(low_rank_fused, Spec((512, 256)), Spec((256, 128)), Spec((128, 512)), dry=True)
    transposes = (512 // 128) * (256 // 128) * 128 / 2.8e9
    assert padding(result.trace) == 0  # whole tiles
    busy = documented(result.machine).busy(result.trace)
    assert busy[TENSOR] == pytest.approx(result.flops / result.machine.flops + transposes)
