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

import pytest

from optimum_neuronmm.kernels import MACHINES, KernelError, get_machine


@pytest.mark.parametrize(
    ("name", "sbuf_mib", "tflops"), [("trn1", 24, 92), ("inf2", 24, 92), ("trn2", 28, 79), ("trn3", 32, 79)]
)
def test_capacity_and_peak(name, sbuf_mib, tflops):
    machine = get_machine(name)
    assert machine.sbuf == sbuf_mib * 2**20
    assert machine.psum == 2 * 2**20
    assert machine.flops / 1e12 == pytest.approx(tflops, rel=0.01)


def test_a_bank_holds_the_result_of_the_largest_product():
    for machine in MACHINES.values():
        assert machine.psum_bank == 4 * machine.moving_max


def test_bandwidth_is_measured_on_v2_and_never_beyond_the_dma_engines():
    assert get_machine("trn1").bandwidth == 222e9
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
