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
"""The machine table against figures that the documentation prints in another form."""

import re
from dataclasses import fields, replace

import pytest

from optimum_neuronmm.kernels import MACHINES, KernelError, get_machine
from optimum_neuronmm.kernels.engines import GPSIMD, SCALAR, VECTOR
from optimum_neuronmm.kernels.machine import INSTANCES


DESCRIBED = [*MACHINES.values(), *INSTANCES.values()]


@pytest.mark.parametrize(
    ("name", "sbuf_mib", "tflops"), [("trn1", 24, 92), ("inf2", 24, 92), ("trn2", 28, 79), ("trn3", 32, 79)]
)
def test_capacity_and_peak(name, sbuf_mib, tflops):
    machine = get_machine(name)
    assert machine.sbuf == sbuf_mib * 2**20
    assert machine.partitions * machine.psum_partition == 2 * 2**20
    assert machine.flops / 1e12 == pytest.approx(tflops, rel=0.01)


@pytest.mark.parametrize("described", DESCRIBED, ids=lambda described: described.name)
def test_every_field_has_its_source_and_no_other_has(described):
    names = {field.name for field in fields(described)} - {"name", "sources"}
    assert set(described.sources) == names
    for name, source in described.sources.items():
        page = re.match(r"(derived from )?(nki|about-neuron)/[\w/-]+\.(rst|py)\b", source)
        assert page or re.match(r"(assumed|derived from published timings)\b.+", source), f"{name}: {source}"


def test_a_machine_is_a_value_whatever_its_sources():
    trn1 = get_machine("trn1")
    assert len({trn1, replace(trn1, sources={})}) == 1
    assert trn1 != replace(trn1, tensor_clock=1e9)


@pytest.mark.parametrize(
    ("name", "float32", "float8", "gib"),
    [("trn1", 4, 1, 16), ("inf2", 4, 1, 16), ("trn2", 4, 2, 12), ("trn3", 4, 4, 18)],
)
def test_peaks_beside_bfloat16_and_memory_of_a_core(name, float32, float8, gib):
    machine = get_machine(name)
    assert machine.flops / machine.float32_flops == pytest.approx(float32, rel=0.02)
    assert machine.float8_flops / machine.flops == pytest.approx(float8, rel=0.01)
    assert machine.hbm_capacity_per_core == gib * 2**30


def test_ports_are_shared_on_v2_only():
    for machine in MACHINES.values():
        shared = {("sbuf", VECTOR, GPSIMD), ("psum", VECTOR, SCALAR)} if machine.core == "NeuronCore-v2" else set()
        assert set(machine.shared_ports) == shared


def test_instances():
    assert all(name == instance.name for name, instance in INSTANCES.items())
    described = {i.name: (i.machine.name, i.cores, i.hbm_capacity / 2**30) for i in INSTANCES.values()}
    assert described == {
        "trn1.2xlarge": ("trn1", 2, 32),
        "trn1.32xlarge": ("trn1", 32, 512),
        "trn1n.32xlarge": ("trn1", 32, 512),
        "inf2.xlarge": ("inf2", 2, 32),
        "inf2.8xlarge": ("inf2", 2, 32),
        "inf2.24xlarge": ("inf2", 12, 192),
        "inf2.48xlarge": ("inf2", 24, 384),
        "trn2.48xlarge": ("trn2", 128, 1536),
        "trn2u.48xlarge": ("trn2", 128, 1536),
        "trn3-gen1-server": ("trn3", 128, 9216 / 4),  # of an UltraServer of four
        "trn3-gen2-server": ("trn3", 32, 20736 / 36),  # of one of 36
    }


def test_a_bank_holds_the_result_of_the_largest_product():
    for machine in MACHINES.values():
        assert machine.psum_bank == 4 * machine.moving_max


def test_bandwidth_is_measured_on_v2_and_never_beyond_the_dma_engines():
    assert get_machine("trn1").bandwidth == 221e9
    for machine in MACHINES.values():
        assert machine.bandwidth <= min(machine.dma_bandwidth, machine.hbm_bandwidth / machine.cores)


def test_logical_cores_join_two_physical_ones_from_trainium2_on():
    assert {name: machine.lnc for name, machine in MACHINES.items()} == {"trn1": 1, "inf2": 1, "trn2": 2, "trn3": 2}


@pytest.mark.parametrize("target", [None, 1, ["trn1"], {}])
def test_a_target_of_another_type_is_refused(target):
    with pytest.raises(KernelError, match="unknown target .*: expected one of trn1, inf2, trn2, trn3, or a Machine"):
        get_machine(target)


def test_a_machine_passes_through_and_a_wrong_name_lists_the_right_ones():
    assert get_machine(MACHINES["trn2"]) is MACHINES["trn2"]
    with pytest.raises(KernelError, match="unknown target 'a100': expected one of trn1, inf2, trn2, trn3"):
        get_machine("a100")
