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
"""The same kernels and the same rule where the Neuron SDK is: in its own simulator, and on a device."""

import glob

import pytest

from optimum_neuronmm.kernels.dialect import find_neuronxcc


DEVICES = glob.glob("/dev/neuron[0-9]*")
needs_sdk = pytest.mark.skipif(find_neuronxcc() is None, reason="the Neuron SDK (neuronxcc.nki) is not installed")
needs_device = pytest.mark.skipif(not DEVICES, reason="no Neuron device on this machine")
SIZES = ((17, 130, 64, 200), (128, 256, 128, 512), (300, 640, 257, 700))


def check(bench, kernel, sizes, dtype, launch):
    """`launch(kernel, **tensors, **settings)` gives the output of one kernel, NumPy in and out."""
    sizes = (min(sizes[0], 128), *sizes[1:]) if kernel == "mlp_decode" else sizes
    bias = not kernel.startswith("matmul_")
    tensors = bench.tensors(kernel, *sizes, dtype=dtype, **({"bias": True} if bias else {}))
    found = bench.kernel(kernel)
    output = found.run(launch, **tensors) if kernel == "mlp_two_kernels" else launch(found, **tensors)
    bench.check(kernel, tensors, output)


@needs_sdk
@pytest.mark.simulation
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("sizes", SIZES)
def test_in_the_simulator_of_the_sdk(bench, kernel, sizes, dtype):
    nki = find_neuronxcc()[0]

    def launch(one, **call):
        tensors, settings = one.bind(**call)
        plan = one.plan(**call)
        return nki.simulate_kernel(one.compiled, *(tensors.get(name) for name in one.tensors), **settings, plan=plan)

    check(bench, kernel, sizes, dtype, launch)


@needs_sdk
@needs_device
@pytest.mark.hardware
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("sizes", SIZES)
def test_on_a_device(bench, kernel, sizes, dtype, monkeypatch):
    monkeypatch.setenv("NEURONMM_NKI", "neuronxcc")
    check(bench, kernel, sizes, dtype, lambda one, **call: one(**call))
