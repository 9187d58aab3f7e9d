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
"""The machines that the kernels are planned for, as data.

Every number is printed in the AWS Neuron documentation: the architecture guides of Trainium/Inferentia2, Trainium2 and
Trainium3 (`nki/guides/architecture/`), and the docstrings of `nki.isa` for the limits of an instruction. `dma_measured`
alone is derived from published timings, and exists for NeuronCore-v2 only.
"""

from dataclasses import dataclass

from .errors import KernelError


KIB, MIB = 2**10, 2**20


@dataclass(frozen=True)
class Machine:
    """One physical NeuronCore and its share of the chip.

    Sizes are in bytes, clocks in Hz, bandwidths in bytes per second. `lnc` is how many physical cores one logical core
    can join: logical cores exist from Trainium2 on, of at most two physical ones.
    """

    name: str
    core: str
    tensor_clock: float
    vector_clock: float
    scalar_clock: float
    gpsimd_clock: float
    sbuf_partition: int
    hbm_bandwidth: float  # of the chip
    cores: int  # that share it
    dma_bandwidth: float  # of the 16 engines of one core
    dma_measured: float | None = None  # saturated, from published kernel timings
    partitions: int = 128
    psum_banks: int = 8
    psum_bank: int = 2 * KIB  # per partition
    lnc: int = 1  # physical cores that one logical core can join: 2 from Trainium2 on
    stationary_max: int = 128  # free size of the stationary operand of nc_matmul
    moving_max: int = 512  # free size of its moving operand
    spill_fraction: float = (
        0.9  # of SBUF that may be live before the compiler is expected to spill (observed, not documented)
    )

    @property
    def sbuf(self) -> int:
        return self.partitions * self.sbuf_partition

    @property
    def psum_partition(self) -> int:
        return self.psum_banks * self.psum_bank

    @property
    def psum(self) -> int:
        return self.partitions * self.psum_partition

    @property
    def sbuf_budget(self) -> int:
        """Bytes per partition that a plan may hold without risking a spill."""
        return int(self.spill_fraction * self.sbuf_partition)

    @property
    def flops(self) -> float:
        """Peak FLOP/s of the tensor engine in bfloat16: one column of 128 x 128 multiply-adds per cycle."""
        return 2 * self.partitions * self.stationary_max * self.tensor_clock

    @property
    def bandwidth(self) -> float:
        """Bytes per second that one core can expect of HBM: its DMA engines' limit, or its share of the chip's."""
        return self.dma_measured or min(self.dma_bandwidth, self.hbm_bandwidth / self.cores)


_V2 = dict(
    core="NeuronCore-v2",
    tensor_clock=2.8e9,
    vector_clock=1.12e9,
    scalar_clock=1.4e9,
    gpsimd_clock=1.4e9,
    sbuf_partition=192 * KIB,
    hbm_bandwidth=820e9,
    cores=2,
    dma_bandwidth=272e9,
    dma_measured=222e9,
)

MACHINES = {
    machine.name: machine
    for machine in (
        Machine(name="trn1", **_V2),
        Machine(name="inf2", **_V2),
        Machine(
            name="trn2",
            core="NeuronCore-v3",
            tensor_clock=2.4e9,
            vector_clock=0.96e9,
            scalar_clock=1.2e9,
            gpsimd_clock=1.2e9,
            sbuf_partition=224 * KIB,
            hbm_bandwidth=2.9e12,
            cores=8,
            dma_bandwidth=368e9,
            lnc=2,
        ),
        Machine(
            name="trn3",
            core="NeuronCore-v4",
            tensor_clock=2.4e9,
            vector_clock=1.2e9,
            scalar_clock=1.2e9,
            gpsimd_clock=1.2e9,
            sbuf_partition=256 * KIB,
            hbm_bandwidth=4.7e12,
            cores=8,
            dma_bandwidth=528e9,
            lnc=2,
        ),
    )
}


def get_machine(target: "str | Machine") -> Machine:
    """The machine of a name (`trn1`, `inf2`, `trn2`, `trn3`); a `Machine` is returned as it is."""
    if isinstance(target, Machine):
        return target
    if not isinstance(target, str) or target not in MACHINES:
        raise KernelError(f"unknown target {target!r}: expected one of {', '.join(MACHINES)}, or a Machine")
    return MACHINES[target]
