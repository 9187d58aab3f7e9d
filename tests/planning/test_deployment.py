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
"""Instances, and what one rank has of them."""

import pytest

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.kernels import MACHINES
from optimum_neuronmm.kernels.latency.constants import constants_of
from optimum_neuronmm.planning import Deployment


@pytest.mark.parametrize(
    ("instance_type", "kind"),
    [
        *((name, name) for name in MACHINES),
        ("trn1n", "trn1"),
        ("trn2u", "trn2"),
        ("trn1.2xlarge", "trn1"),
        ("trn1n.32xlarge", "trn1"),
        ("inf2.48xlarge", "inf2"),
        ("trn2.48xlarge", "trn2"),
    ],
)
def test_instances_have_the_machine_of_their_chips(instance_type, kind):
    assert Deployment(instance_type).machine is MACHINES[kind]


@pytest.mark.parametrize("instance_type", ["p5", "trn9", "", "trn1.7xlarge", ".32xlarge", "TRN1"])
def test_an_unknown_instance_is_told_what_there_is(instance_type):
    with pytest.raises(NeuronMMError, match="unknown instance type") as error:
        Deployment(instance_type)
    assert repr(instance_type) in str(error.value)
    assert all(name in str(error.value) for name in [*MACHINES, "trn1.32xlarge", "trn1n"])


@pytest.mark.parametrize("name", ["batch_size", "sequence_length", "tensor_parallel_size"])
def test_sizes_are_positive(name):
    with pytest.raises(NeuronMMError, match=f"{name} must be at least 1, got 0"):
        Deployment(**{name: 0})


def test_a_prefill_has_so_many_rows():
    assert Deployment(batch_size=2**10, sequence_length=2**10).batch_size == 1024
    with pytest.raises(NeuronMMError, match="at most 1,048,576 rows of a prefill, got 1,024 x 1,025 = 1,049,600: use"):
        Deployment(batch_size=1024, sequence_length=1025)


def test_only_what_kernels_compute_in():
    with pytest.raises(NeuronMMError, match="dtype must be one of bfloat16, float32, got 'float16'"):
        Deployment(dtype="float16")


def test_an_instance_has_so_many_cores():
    assert Deployment("trn1.2xlarge", tensor_parallel_size=2).cores == 1
    with pytest.raises(NeuronMMError, match="tensor_parallel_size 3 needs 3 cores, and trn1.2xlarge has 2"):
        Deployment("trn1.2xlarge", tensor_parallel_size=3)
    assert Deployment("trn2.48xlarge", tensor_parallel_size=64).cores == 2
    with pytest.raises(NeuronMMError, match="needs 130 cores, and trn2.48xlarge has 128"):
        Deployment("trn2.48xlarge", tensor_parallel_size=65)


@pytest.mark.parametrize(
    ("kind", "ranks", "told"),
    [
        ("trn1", 32, "33 cores, and trn1.32xlarge, the largest of trn1, has 32"),
        ("trn1n", 32, "33 cores, and trn1.32xlarge, the largest of trn1n, has 32"),
        ("inf2", 24, "25 cores, and inf2.48xlarge, the largest of inf2, has 24"),
        ("trn2", 64, "130 cores, and trn2.48xlarge, the largest of trn2, has 128"),
        ("trn2u", 64, "130 cores, and trn2.48xlarge, the largest of trn2u, has 128"),
        ("trn3", 64, "130 cores, and trn3-gen1-server, the largest of trn3, has 128"),
    ],
)
def test_a_kind_of_chip_has_the_cores_of_its_largest_instance(kind, ranks, told):
    assert Deployment(kind, tensor_parallel_size=ranks).tensor_parallel_size == ranks
    with pytest.raises(NeuronMMError, match=f"needs {told}: use fewer ranks or another instance type"):
        Deployment(kind, tensor_parallel_size=ranks + 1)


def test_what_a_rank_has():
    trn1, trn2 = MACHINES["trn1"], MACHINES["trn2"]
    one, two = Deployment("trn1"), Deployment("trn2", dtype="float32")
    assert (one.flops, one.bandwidth, one.hbm) == (trn1.flops, constants_of(trn1).saturated, 16 * 2**30)
    assert (two.flops, two.hbm) == (2 * trn2.float32_flops, 24 * 2**30)
    assert two.bandwidth == 2 * constants_of(trn2).saturated
    assert (one.itemsize, two.itemsize) == (2, 4)


def test_it_says_what_it_is():
    assert str(Deployment()) == "trn1 (NeuronCore-v2), 1 rank, bfloat16, batch 1, sequence 2048"
    told = str(Deployment("trn2", 4, 128, 8, "float32"))
    assert told == "trn2 (NeuronCore-v3), 8 ranks of 2 cores, float32, batch 4, sequence 128"
