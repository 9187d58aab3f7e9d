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
"""Costs of instructions against numbers worked out by hand."""

import pytest

from optimum_neuronmm.kernels.cost import cycles, padding
from optimum_neuronmm.kernels.engines import GPSIMD, SCALAR, TENSOR, VECTOR
from optimum_neuronmm.kernels.simulator.trace import Allocation, Instruction, Loop, Operand, Trace


def operand(*shape, dtype="bfloat16", buffer="sbuf", contiguous=None) -> Operand:
    allocation = Allocation(0, "", shape, dtype, buffer, 0, ())
    whole = Operand(allocation, shape, dtype, buffer, (0,), 0)
    return Operand(allocation, shape, dtype, buffer, (0,), whole.elements if contiguous is None else contiguous)


def product(K: int, S: int, N: int, dtype="bfloat16") -> Instruction:
    reads = operand(K, S, dtype=dtype), operand(K, N, dtype=dtype)
    return Instruction("nc_matmul", TENSOR, reads, flops=2 * K * S * N)


def elementwise(*reads: Operand, op: str = "add", dtype="bfloat16") -> Instruction:
    return Instruction("tensor_tensor", VECTOR, reads, operand(128, 8, dtype=dtype), attributes={"op": op})


@pytest.mark.parametrize(
    ("stationary", "moving", "dtype", "expected"),
    [
        (128, 512, "bfloat16", 512),
        (128, 1, "bfloat16", 64),  # a matvec with the matrix stationary
        (1, 128, "bfloat16", 128),  # and with it moving
        (40, 10, "bfloat16", 40),
        (128, 512, "float32", 2048),
        (128, 1, "float32", 256),
    ],
)
def test_cycles_of_a_matrix_product(stationary, moving, dtype, expected):
    assert cycles(product(128, stationary, moving, dtype)) == expected


@pytest.mark.parametrize(
    ("engine", "shape", "expected"),
    [(TENSOR, (128, 128), 128), (TENSOR, (16, 128), 64), (TENSOR, (16, 20), 20), (VECTOR, (32, 32), 64)],
)
def test_cycles_of_a_transpose(engine, shape, expected):
    assert cycles(Instruction("nc_transpose", engine, (operand(*shape),))) == expected


@pytest.mark.parametrize("name", ["activation", "tensor_copy"])
@pytest.mark.parametrize("engine", [VECTOR, SCALAR, GPSIMD])
def test_cycles_of_a_copy_or_an_activation(name, engine):
    assert cycles(Instruction(name, engine, (operand(128, 4, 512),))) == 2048
    assert cycles(Instruction(name, engine, (operand(128, 1),))) == 64


def test_cycles_of_an_elementwise_operation():
    bf16, fp32 = operand(128, 100), operand(128, 100, dtype="float32")
    psum = operand(128, 100, dtype="float32", buffer="psum")
    strided = operand(128, 10, 10, contiguous=10)
    for op in ("add", "multiply", "subtract"):
        assert cycles(elementwise(bf16, bf16, op=op)) == 100
    assert cycles(elementwise(bf16, bf16, op="maximum")) == 200
    assert cycles(elementwise(bf16, bf16, dtype="float32")) == 200  # the output counts too
    assert cycles(elementwise(fp32, psum)) == cycles(elementwise(psum, bf16, op="maximum")) == 100
    assert cycles(elementwise(psum, psum)) == 200  # exactly one input in PSUM
    assert cycles(elementwise(fp32, fp32)) == 200
    assert cycles(elementwise(bf16, fp32)) == 200
    assert cycles(elementwise(bf16, strided)) == 200
    few = operand(128, 40)  # no instruction takes less than 64 cycles
    assert cycles(elementwise(few, few)) == 64
    assert cycles(elementwise(few, few, op="maximum")) == 80
    assert cycles(elementwise(operand(128, 1), operand(128, 1, dtype="float32"))) == 64


def test_cycles_of_a_memset():
    def memset(dtype, size=300, **attributes):
        return Instruction("memset", VECTOR, (), operand(128, size, dtype=dtype), attributes=attributes)

    assert cycles(memset("float32", value=0)) == 300
    assert cycles(memset("bfloat16", value=0)) == cycles(memset("float16", value=0)) == 150
    assert cycles(memset("bfloat16", 100, value=0)) == cycles(memset("float32", 1, value=1)) == 64
    assert cycles(memset("bfloat16", value=1)) == cycles(memset("bfloat16")) == 300


def test_an_unknown_instruction_is_refused():
    with pytest.raises(ValueError, match="no cost is known for the instruction range_select"):
        cycles(Instruction("range_select", VECTOR, (operand(128, 8),)))


def test_padding():
    assert padding(Trace([product(128, 128, 512), product(128, 128, 64)], [])) == 0
    assert padding(Trace([product(64, 128, 512)], [])) == pytest.approx(1 / 2)  # half of the partitions
    assert padding(Trace([product(128, 32, 512)], [])) == pytest.approx(3 / 4)  # a quarter of the stationary columns
    assert padding(Trace([product(128, 128, 1)], [])) == pytest.approx(63 / 64)  # 64 cycles for one column
    assert padding(Trace([product(64, 128, 512, "float32")], [])) == pytest.approx(1 / 2)  # whatever the data type
    # 512 columns of 2^14 multiply-adds twice over, of which 3/4 are used; the transpose does not count.
    transpose = Instruction("nc_transpose", TENSOR, (operand(8, 8),), transpose=True)
    mixed = Trace([Loop("affine", 3, [product(128, 128, 512), product(64, 128, 512), transpose])], [])
    assert padding(mixed) == pytest.approx(1 / 4)
    assert padding(Trace([], [])) == 0
