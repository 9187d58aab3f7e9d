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
"""Kernels whose result depends on the order of an affine loop are found."""

import numpy as np
import pytest

from optimum_neuronmm.kernels import KERNELS, SimulationError, check_orders
from optimum_neuronmm.kernels.simulator import isa as nisa
from optimum_neuronmm.kernels.simulator import language as nl
from optimum_neuronmm.kernels.simulator import orders


pytestmark = pytest.mark.simulation


def out(*shape, dtype=nl.float32):
    return nl.ndarray(shape, dtype=dtype, buffer=nl.shared_hbm)


def copied(x):
    y = out(*x.shape)
    for i in nl.affine_range(x.shape[1] // 4):
        nl.store(y[:, nl.ds(4 * i, 4)], nl.load(x[:, nl.ds(4 * i, 4)]))
    return y


def summed(x, w):
    y, acc = out(128, 64), nl.zeros((128, 64), dtype=nl.float32, buffer=nl.psum)
    for k in nl.affine_range(8):
        rows = nl.ds(k * 128, 128)
        acc[...] += nisa.nc_matmul(nl.load(x[rows, :]), nl.load(w[rows, :]))
    nl.store(y, nl.copy(acc))
    return y


def running(x, kind=nl.affine_range):
    """The last of the loop's tiles, kept in memory that each iteration reads and writes through a PSUM accumulator."""
    y, acc = out(8, 128, 64), nl.zeros((128, 64), dtype=nl.float32, buffer=nl.psum)
    t = nl.load(x)
    for i in kind(8):
        acc[...] += nisa.nc_matmul(t[:, 0:128], t[:, nl.ds(64 * i, 64)])
        nl.store(y[i], nl.copy(acc))
    return y


def test_kernels_that_keep_their_promise(values):
    x = values(128, 64)
    np.testing.assert_array_equal(check_orders(copied, x).outputs[0], x)
    result = check_orders(summed, values(1024, 128), w=values(1024, 64, seed=1))
    assert result.trace.counts["nc_matmul"] == 8


def test_the_kernels_of_the_package(values):
    x, u, v = (
        values(*shape, dtype="bfloat16", seed=i) for i, shape in enumerate([(130, 256), (256, 128), (128, 600)])
    )
    check_orders(KERNELS["low_rank_fused"], x, u, v, target="trn2")
    check_orders(KERNELS["matmul"], x, u)


def test_an_iteration_that_needs_another_one(values):
    message = (
        r"with the loops reversed, output 0: element \(0, 0, 0\) is .*, and .* forward: an iteration of an affine loop"
    )
    with pytest.raises(SimulationError, match=message):
        check_orders(running, values(128, 512))


def test_a_sequential_loop_may_need_another_one(values):
    def kernel(x):
        return running(x, nl.sequential_range)

    check_orders(kernel, values(128, 512))


def test_memory_that_another_iteration_writes(values):
    def shifted(x):
        y, t = out(128, 32), nl.ndarray((128, 36), dtype=nl.float32, buffer=nl.sbuf)
        t[:, 0:4] = nl.load(x[:, 0:4])
        for i in nl.affine_range(8):
            t[:, nl.ds(4 * i + 4, 4)] = nl.copy(t[:, nl.ds(4 * i, 4)])
        nl.store(y, t[:, 4:36])
        return y

    with pytest.raises(
        SimulationError, match="with the loops reversed: sbuf.* is read, but was never written as a whole"
    ):
        check_orders(shifted, values(128, 32))


def test_programs_that_need_another_one(values):
    def kernel(x):
        y, z = out(256, 4), out(256, 4)
        p = nl.program_id(0) * 128
        nl.store(y[nl.ds(p, 128), :], nl.load(x[nl.ds(p, 128), :]))
        nl.store(z[nl.ds(p, 128), :], nl.load(y[nl.ds(0, 128), :]))
        return y, z

    with pytest.raises(SimulationError, match="with the loops reversed: y?.*is read, but was never written"):
        check_orders(kernel, values(256, 4), cores=2)


def test_a_kernel_that_does_something_else_the_next_time(values):
    calls = []

    def kernel(x):
        y = copied(x)
        calls.append(None)
        if len(calls) > 1:
            nl.load(x)
        return y

    with pytest.raises(
        SimulationError, match="with the loops reversed, counts of the trace is .*'load': 17.* forward"
    ):
        check_orders(kernel, values(128, 64))


@pytest.mark.parametrize("option", [{"order": "forward"}, {"seed": 1}, {"dry": True}])
def test_options_that_it_sets_itself(values, option):
    with pytest.raises(
        SimulationError, match=f"check_orders runs all orders on data, it takes no {next(iter(option))}"
    ):
        check_orders(copied, values(128, 64), **option)


def test_the_tolerance():
    a = np.array([[1.0, -4.0, np.nan]], "float32")
    near, far = a + np.float32(3e-5), a + np.float32(5e-5)
    orders._compare(a, a.copy(), False, "here")
    orders._compare(a, near, True, "here")  # of the largest magnitude, 4
    with pytest.raises(SimulationError, match=r"here: element \(0, 0\) is 1.00003, and 1 forward"):
        orders._compare(a, near, False, "here")
    with pytest.raises(SimulationError, match=r"here: element \(0, 0\)"):
        orders._compare(a, far, True, "here")
    with pytest.raises(SimulationError, match=r"here: element \(0, 2\) is 1, and nan forward"):
        orders._compare(a, np.array([[1.0, -4.0, 1.0]], "float32"), True, "here")
