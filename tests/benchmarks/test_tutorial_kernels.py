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
"""The slower steps of the Neuron documentation's matrix multiplication tutorial, rebuilt: traffic, transfers, numbers."""

import ml_dtypes
import numpy as np
import pytest

from benchmarks.tutorial_kernels import free_blocked_matmul, tiled_matmul
from optimum_neuronmm.kernels import Spec, simulate


pytestmark = pytest.mark.simulation
TENSORS = (Spec((8192, 4096)), Spec((8192, 8192)))  # X^T and W of the tutorial's timings


@pytest.mark.parametrize(
    ("kernel", "x_reads", "w_reads"),
    [(tiled_matmul, 8192 // 512, 4096 // 128), (free_blocked_matmul, 1, 4096 // 256)],
)
def test_traffic(kernel, x_reads, w_reads):
    run = simulate(kernel, *TENSORS, dry=True)
    assert run.flops == 2 * 4096 * 8192 * 8192
    assert run.trace.bytes_of("xT") == x_reads * 2 * 4096 * 8192
    assert run.trace.bytes_of("w") == w_reads * 2 * 8192 * 8192
    assert run.trace.bytes_of("y") == 2 * 4096 * 8192
    assert not run.spills


@pytest.mark.parametrize("kernel", [tiled_matmul, free_blocked_matmul])
def test_one_tile_per_transfer(kernel):
    run = simulate(kernel, *TENSORS, dry=True)
    loads = {i.write.shape[-1] for i, _ in run.trace.instructions() if i.name == "load"}
    assert loads == {128, 512}
    assert {i.write.elements for i, _ in run.trace.instructions() if i.name == "load"} == loads


@pytest.mark.parametrize(("kernel", "sums"), [(tiled_matmul, 1), (free_blocked_matmul, 4)])
def test_tiles_of_the_result_at_once(kernel, sums):
    run = simulate(kernel, *TENSORS, dry=True)
    assert run.psum_peak == sums * run.machine.partitions * run.machine.psum_bank


@pytest.mark.parametrize("kernel", [tiled_matmul, free_blocked_matmul])
@pytest.mark.parametrize("order", ["forward", "reversed"])
def test_numerics(kernel, order):
    rng = np.random.default_rng(0)
    xT, w = (rng.standard_normal(shape).astype(ml_dtypes.bfloat16) for shape in ((330, 300), (330, 1300)))
    (y,) = simulate(kernel, xT, w, order=order).outputs
    expected = xT.astype(np.float64).T @ w.astype(np.float64)
    assert np.linalg.norm(y.astype(np.float64) - expected) < 0.003 * np.linalg.norm(expected)
