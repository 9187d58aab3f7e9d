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
"""The machines that the kernels are planned for, and the instances that have them, as data.

`sources` of a machine or an instance says for each of its fields where the number is written: a page of the AWS Neuron
documentation (a path in the repository aws-neuron/aws-neuron-sdk at v2.32.0, or at another tag that is named), what it
is derived from, or that it is assumed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import KernelError


KIB, MIB, GIB = 2**10, 2**20, 2**30


@dataclass(frozen=True)
class Machine:
    """One physical NeuronCore and its share of the chip.

    Sizes are in bytes, clocks in Hz, times in seconds, bandwidths in bytes and peaks in FLOPs per second.
    """

    name: str
    core: str
    tensor_clock: float
    vector_clock: float
    scalar_clock: float
    gpsimd_clock: float
    float32_flops: float  # peak of the tensor engine in float32
    float8_flops: float  # and in its fastest dense 8-bit format: cFP8, FP8, MXFP8
    sbuf_partition: int
    hbm_capacity: int  # of the chip
    hbm_bandwidth: float  # of the chip
    cores: int  # physical ones, that share the chip
    dma_bandwidth: float  # of the 16 engines of one core
    dma_measured: float | None = None  # saturated, from published kernel timings
    dma_engines: int = 16  # of one core
    dma_start: float = 1.3e-6  # from a semaphore to the start of a transfer
    access_cycles: int = 60  # until an engine's first element comes from SBUF or PSUM
    partitions: int = 128
    psum_banks: int = 8
    psum_bank: int = 2 * KIB  # per partition
    shared_ports: tuple[tuple[str, str, str], ...] = ()  # (buffer, two engines that cannot access it at once)
    lnc: int = 1  # physical cores that one logical core can join
    stationary_max: int = 128  # free size of the stationary operand of nc_matmul
    moving_max: int = 512  # free size of its moving operand
    spill_fraction: float = 0.9  # of SBUF that may be live before the compiler is expected to spill
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def sbuf(self) -> int:
        return self.partitions * self.sbuf_partition

    @property
    def psum_partition(self) -> int:
        return self.psum_banks * self.psum_bank

    @property
    def sbuf_budget(self) -> int:
        """Bytes per partition that a plan may hold without risking a spill."""
        return int(self.spill_fraction * self.sbuf_partition)

    @property
    def hbm_capacity_per_core(self) -> int:
        """Bytes of HBM for each physical core, where all cores of the chip work: an even share."""
        return self.hbm_capacity // self.cores

    @property
    def flops(self) -> float:
        """Peak FLOP/s of the tensor engine in bfloat16: one column of 128 x 128 multiply-adds per cycle."""
        return 2 * self.partitions * self.stationary_max * self.tensor_clock

    def peak(self, dtype: str) -> float:
        """Peak FLOP/s of the tensor engine in bfloat16 or float32."""
        return self.float32_flops if dtype == "float32" else self.flops

    @property
    def bandwidth(self) -> float:
        """Bytes per second of HBM that one core is documented or measured to reach: of its DMA engines, or its share of the chip's.

        Predictions go by `latency.constants`, where what was measured on one machine also scales the documented limits of others.
        """
        return self.dma_measured or min(self.dma_bandwidth, self.hbm_bandwidth / self.cores)


@dataclass(frozen=True)
class Instance:
    """A kind of EC2 instance, or of a server: how many chips of which machine it has."""

    name: str
    machine: Machine
    chips: int
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def cores(self) -> int:
        """Physical cores of the instance; `machine.lnc` of them can make a logical one."""
        return self.chips * self.machine.cores

    @property
    def hbm_capacity(self) -> int:
        return self.chips * self.machine.hbm_capacity


_GUIDE = "nki/guides/architecture"
_HARDWARE = "about-neuron/arch/neuron-hardware"
_ISA = "nki/api/nki/isa/__init__.py at v2.26.1"
_DMA = "nki/deep-dives/nki-dma-bandwidth-guide.rst"

_COMMON_SOURCES = {
    "dma_start": f"{_DMA}: about 1300 ns from semaphore to start, across engines, of no generation in particular",
    "stationary_max": f"{_ISA}: nc_matmul",
    "moving_max": f"{_ISA}: nc_matmul",
    "spill_fraction": "assumed: observed on published kernels, not documented",
}
_V2_PAGE, _V3_PAGE, _V4_PAGE = (
    f"{_GUIDE}/{page}_arch.rst" for page in ("trainium_inferentia2", "trainium2", "trainium3")
)


def _all_from(page: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, page)


_CLOCKS = ("tensor_clock", "vector_clock", "scalar_clock", "gpsimd_clock")
_PEAKS = ("float32_flops", "float8_flops")

_V2 = dict(
    core="NeuronCore-v2",
    tensor_clock=2.8e9,
    vector_clock=1.12e9,
    scalar_clock=1.4e9,
    gpsimd_clock=1.4e9,
    float32_flops=23e12,
    float8_flops=92e12,
    sbuf_partition=192 * KIB,
    hbm_capacity=32 * GIB,
    hbm_bandwidth=820e9,
    cores=2,
    dma_bandwidth=272e9,
    dma_measured=221e9,
    shared_ports=(("sbuf", "VectorE", "GpSimdE"), ("psum", "VectorE", "ScalarE")),
    sources={
        **_COMMON_SOURCES,
        **_all_from(_V2_PAGE, "core", "cores", *_CLOCKS, *_PEAKS, "sbuf_partition", "hbm_capacity", "hbm_bandwidth"),
        **_all_from(_V2_PAGE, "access_cycles", "partitions", "psum_banks", "psum_bank", "shared_ports", "dma_engines"),
        "dma_bandwidth": f"{_DMA}: 17 B/ns for each of 16 engines; {_V2_PAGE} has 27 GiB/s for an engine",
        "dma_measured": "derived from published timings of kernels on trn1: see the latency model; assumed for inf2",
        "lnc": "about-neuron/arch/neuron-features/logical-neuroncore-config.rst: LNC is of Trn2 and Trn3 only",
    },
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
            float32_flops=20e12,
            float8_flops=158e12,
            sbuf_partition=224 * KIB,
            hbm_capacity=96 * GIB,
            hbm_bandwidth=2.9e12,
            cores=8,
            dma_bandwidth=368e9,
            lnc=2,
            sources={
                **_COMMON_SOURCES,
                **_all_from(_V3_PAGE, "core", "cores", *_CLOCKS, *_PEAKS, "partitions", "sbuf_partition"),
                **_all_from(_V3_PAGE, "hbm_capacity", "dma_engines"),
                "hbm_bandwidth": f"{_HARDWARE}/trainium2.rst; {_V3_PAGE} has 3 TB/s",
                "dma_bandwidth": f"{_DMA}: 23 B/ns for each of 16 engines",
                "dma_measured": "assumed: none, as no timing of a kernel is published",
                "access_cycles": "assumed: that of NeuronCore-v2",
                "psum_banks": f"derived from {_V3_PAGE}: PSUM as large as NeuronCore-v2's",
                "psum_bank": f"derived from {_V3_PAGE}: PSUM as large as NeuronCore-v2's",
                "shared_ports": f"{_V3_PAGE}: both restrictions lifted, but for engines that meet in one PSUM bank",
                "lnc": "about-neuron/arch/neuron-features/logical-neuroncore-config.rst",
            },
        ),
        Machine(
            name="trn3",
            core="NeuronCore-v4",
            tensor_clock=2.4e9,
            vector_clock=1.2e9,
            scalar_clock=1.2e9,
            gpsimd_clock=1.2e9,
            float32_flops=20e12,
            float8_flops=315e12,
            sbuf_partition=256 * KIB,
            hbm_capacity=144 * GIB,
            hbm_bandwidth=4.7e12,
            cores=8,
            dma_bandwidth=528e9,
            lnc=2,
            sources={
                **_COMMON_SOURCES,
                **_all_from(_V4_PAGE, "core", "cores", *_CLOCKS, *_PEAKS, "hbm_capacity"),
                "partitions": f"derived from {_V4_PAGE}: its tiles have up to 128",
                "sbuf_partition": f"derived from {_V4_PAGE}: 32 MiB in 128 partitions",
                "hbm_bandwidth": f"{_V4_PAGE}; {_HARDWARE}/trainium3.rst has 4.9 TB/s",
                "dma_bandwidth": f"{_DMA}: 33 B/ns for each of 16 engines",
                "dma_measured": "assumed: none, as no timing of a kernel is published",
                "dma_engines": f"derived from {_V4_PAGE}: 128 of the chip, for 8 cores",
                "access_cycles": "assumed: that of NeuronCore-v2",
                "psum_banks": f"derived from {_V4_PAGE}: PSUM as large as NeuronCore-v2's",
                "psum_bank": f"derived from {_V4_PAGE}: PSUM as large as NeuronCore-v2's",
                "shared_ports": f"assumed: those of NeuronCore-v3, as {_V4_PAGE} names no change",
                "lnc": "about-neuron/arch/neuron-features/logical-neuroncore-config.rst",
            },
        ),
    )
}


_CHIPS = {
    ("trn1", "trn1-arch.rst"): {"trn1.2xlarge": 1, "trn1.32xlarge": 16, "trn1n.32xlarge": 16},
    ("inf2", "inf2-arch.rst"): {"inf2.xlarge": 1, "inf2.8xlarge": 1, "inf2.24xlarge": 6, "inf2.48xlarge": 12},
    ("trn2", "trn2-arch.rst"): {"trn2.48xlarge": 16, "trn2u.48xlarge": 16},
    # The page names no instances: one server of an UltraServer, of each generation.
    ("trn3", "trn3-arch.rst"): {"trn3-gen1-server": 16, "trn3-gen2-server": 4},
}

INSTANCES = {
    name: Instance(name, MACHINES[machine], chips, _all_from(f"{_HARDWARE}/{page}", "machine", "chips"))
    for (machine, page), instances in _CHIPS.items()
    for name, chips in instances.items()
}


def get_machine(target: "str | Machine") -> Machine:
    """The machine of a name (`trn1`, `inf2`, `trn2`, `trn3`); a `Machine` is returned as it is."""
    if isinstance(target, Machine):
        return target
    if not isinstance(target, str) or target not in MACHINES:
        raise KernelError(f"unknown target {target!r}: expected one of {', '.join(MACHINES)}, or a Machine")
    return MACHINES[target]
