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
"""Traces written by hand: instructions of stated seconds on tiles of stated bytes, on a machine of round numbers; and calls."""

import dataclasses
from types import SimpleNamespace

import pytest

from optimum_neuronmm.kernels import Spec, get_machine
from optimum_neuronmm.kernels.engines import DMA
from optimum_neuronmm.kernels.latency.constants import Constants
from optimum_neuronmm.kernels.latency.timeline import schedule
from optimum_neuronmm.kernels.simulator.trace import Allocation, Instruction, Loop, Operand, Trace


# So slow that no transfer is under way before its time.
CONSTANTS = Constants(matmul_overhead=0.0, saturated=1.0, short=1.0)


class HandCosts:
    """Every instruction takes the seconds that it states."""

    def __init__(self, machine, saturated: float = 1.0):
        self.machine, self.constants = machine, dataclasses.replace(CONSTANTS, saturated=saturated)

    def seconds(self, instruction: Instruction) -> float:
        return instruction.attributes["seconds"]


class Hand:
    """Makes the parts of a trace, and its timeline."""

    def __init__(self):
        self.count = 0

    def tile(self, size: int = 1, loops: tuple = (), buffer: str = "sbuf", name: str = "", dma: bool = False):
        self.count += 1
        return Allocation(self.count, name, (128, size), "int8", buffer, size, tuple(loops), dma)

    @staticmethod
    def operand(allocation: Allocation) -> Operand:
        return Operand(allocation, allocation.shape, allocation.dtype, allocation.buffer, (0,), allocation.bytes)

    def work(self, engine: str, seconds: float, write: Allocation, *reads: Allocation) -> Instruction:
        reads = tuple(map(self.operand, reads))
        return Instruction("work", engine, reads, self.operand(write), attributes={"seconds": seconds})

    def load(self, seconds: float, write: Allocation, source: Allocation | None = None, descriptors: int = 16):
        """descriptors: each is moved by one of 16 engines."""
        source = source or self.tile(buffer="hbm", name="x")
        write.dma = True
        reads = (self.operand(source),)
        what = {"hbm_read": descriptors, "run": 1, "attributes": {"seconds": seconds}}
        return Instruction("load", DMA, reads, self.operand(write), **what)

    def store(self, seconds: float, read: Allocation, target: Allocation | None = None, descriptors: int = 16):
        target = target or self.tile(buffer="hbm", name="y")
        read.dma = True
        what = {"hbm_written": descriptors, "run": 1, "attributes": {"seconds": seconds}}
        return Instruction("store", DMA, (self.operand(read),), self.operand(target), **what)

    @staticmethod
    def loop(trips: int, kind: str = "affine") -> Loop:
        """Empty, so that tiles can be made in it."""
        return Loop(kind, trips)

    @staticmethod
    def machine(memory: int = 1000, target: str = "trn1", start: float = 0.0, fraction: float = 1.0):
        """`memory`: bytes of SBUF per partition, of which a fraction may be held; start: of a DMA."""
        changes = {"sbuf_partition": memory, "spill_fraction": fraction, "dma_start": start}
        return dataclasses.replace(get_machine(target), **changes)

    def timeline(self, body: list, record: bool = False, whole: bool = False, saturated: float = 1.0, **machine):
        """Of a body, in a kernel of one program unless it has programs of its own; saturated: bytes per second of DMA."""
        programs = all(isinstance(part, Loop) and part.kind == "program" for part in body)
        trace = Trace(body if programs else [Loop("program", 1, body)], [])
        return schedule(trace, HandCosts(self.machine(**machine), saturated), record, whole)

    def seconds(self, body: list, **how) -> float:
        return self.timeline(body, **how).seconds


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest.fixture
def streamed(hand):
    """streamed(trips, ...): a loop that loads a tile and works on it, and what it is made of."""

    def make(trips: int, loading: float = 2.0, working: float = 3.0, size: int = 1):
        loop = hand.loop(trips)
        tile, total = hand.tile(size, [loop]), hand.tile(buffer="psum")
        loop.body = [hand.load(loading, tile), hand.work("TensorE", working, total, tile)]
        return SimpleNamespace(loop=loop, tile=tile, total=total, body=[loop])

    return make


def specs(name: str, M: int, K: int, r: int, N: int, dtype: str = "bfloat16") -> dict:
    """Tensors of a kernel; K is the hidden and N the intermediate size of an MLP, whose projections are dense where r is 0."""
    shapes = {"x": (M, K), "u": (K, r), "v": (r, N)}
    if name in ("matmul_tiled", "matmul_blocked"):
        shapes = {"xT": (K, M), "w": (K, N)}
    elif name == "matmul":
        shapes = {"x": (M, K), "w": (K, N)}
    elif name == "gated_matmul":
        shapes = {"x_gate": (M, K), "gate": (K, N), "x_up": (M, r), "up": (r, N)}
    elif name.startswith("mlp"):
        first = {"gate": (K, r or N), "gate_v": r and (r, N), "up": (K, r or N), "up_v": r and (r, N)}
        down = {} if name == "mlp_up" else {"down": (N, r or K), "down_v": r and (r, K)}
        shapes = {"x": (M, K), **first, **down}
    return {key: Spec(shape, dtype) if shape else None for key, shape in shapes.items()}


@pytest.fixture(scope="session")
def kernel_specs():
    return specs
