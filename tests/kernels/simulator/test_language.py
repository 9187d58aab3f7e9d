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
"""Transfers, loops, memory and programs of the language."""

import functools
import types

import ml_dtypes
import numpy as np
import pytest

from optimum_neuronmm.kernels import Kernel, SimulationError, simulate
from optimum_neuronmm.kernels.simulator import isa as nisa
from optimum_neuronmm.kernels.simulator import language as nl


pytestmark = pytest.mark.simulation


def out(*shape, dtype=nl.float32):
    return nl.ndarray(shape, dtype=dtype, buffer=nl.shared_hbm)


# Memory


def test_buffers(body):
    body(
        lambda x: nl.ndarray((128, 4), nl.float32, buffer="dram"),
        match="unknown buffer 'dram', the simulator has sbuf, psum",
    )
    body(lambda x: nl.zeros((128, 4), nl.float32, buffer=nl.hbm), match="a tensor in HBM cannot be made with a value")
    assert (nl.tile_size.pmax, nl.tile_size.psum_fmax) == (128, 512)
    assert (nl.tile_size.gemm_stationary_fmax, nl.tile_size.gemm_moving_fmax) == (128, 512)


def test_hbm_is_made_at_the_top_level(body):
    def inside(x):
        for _ in nl.affine_range(2):
            out(128, 4)

    body(inside, match="a tensor in HBM can only be made at the top level of a kernel, not inside a loop")


def test_zeros(values):
    def kernel(x):
        y = out(128, 8)
        nl.store(y[:, 0:4], nl.zeros((128, 4), dtype=nl.float32))  # SBUF: an instruction
        nl.store(y[:, 4:8], nl.copy(nl.zeros((128, 4), dtype=nl.float32, buffer=nl.psum)))  # PSUM: none
        return y

    result = simulate(kernel, values(4, 4))
    assert not result.outputs[0].any() and result.trace.counts == {"memset": 1, "tensor_copy": 1, "store": 2}


# Transfers


def test_what_is_loaded(body):
    def tall(x):
        nl.load(x.reshape((256, 256)))

    body(tall, match=r"load: x\[256, 256\] has 256 partitions, at most 128")
    body(lambda x: nl.load(x[0, 0]), match=r"load: an element of x\[128, 512\] has no partition dimension")
    body(
        lambda x: nl.load(x, dtype=nl.bfloat16),
        match="load: float32 is loaded as bfloat16: load it as it is, then copy",
    )
    body(lambda x: nl.load(x, dtype="int"), match="load: dtype: the simulator has the data types")
    body(lambda x: nl.load(nl.load(x)), match=r"load: src: load\[128, 512\] is in sbuf, and must be in hbm")
    body(lambda x: nl.load(np.ones((4, 4))), match="load: src: a tile is expected, got ndarray")
    body(
        lambda x: nl.copy(nl.load(x[0])),
        match=r"a tile in sbuf needs a partition and a free dimension, got \[512\]|partitions",
    )


def test_what_is_stored(body):
    def store(value, dtype=nl.float32):
        return lambda x: nl.store(out(128, 512, dtype=dtype), value(x))

    def product(x):
        t = nl.load(x[:, 0:128])
        return nisa.nc_matmul(t, nl.load(x))

    body(store(product), match=r"store: value: nc_matmul\[128, 512\] is in psum, and must be in sbuf")
    body(store(lambda x: x), match=r"store: value: x\[128, 512\] is in hbm, and must be in sbuf")
    body(
        store(lambda x: nl.load(x[:, 0:8])),
        match=r"store: load\[128, 8\] is stored to hbm\[128, 512\]: the shapes differ",
    )
    body(
        store(nl.load, nl.bfloat16),
        match="store: float32 is stored to bfloat16: a DMA does not cast, copy the tile first",
    )
    body(store(lambda x: 0.0), match="store: value: a tile is expected, got float")
    body(lambda x: nl.store(nl.load(x), nl.load(x)), match="store: dst: .* is in sbuf, and must be in hbm")


def test_load_transpose2d(values):
    def kernel(x):
        y = out(100, 96, dtype=nl.bfloat16)
        nl.store(y, nl.load_transpose2d(x, dtype=nl.bfloat16))
        return y

    x = values(96, 100, dtype="bfloat16")
    result = simulate(kernel, x)
    np.testing.assert_array_equal(result.outputs[0], x.T)
    assert result.trace.counts == {"load": 1, "nc_transpose": 1, "tensor_copy": 1, "store": 1}
    assert result.transpose_flops == 2 * 96 * 96 * 100 and result.flops == 0


def test_matmul(values, body):
    def kernel(x, w):
        y = out(96, 200)
        nl.store(y, nl.copy(nl.matmul(nl.load(x), nl.load(w), transpose_x=True)))
        return y

    x, w = values(64, 96), values(64, 200, seed=1)
    np.testing.assert_allclose(simulate(kernel, x, w).outputs[0], x.T @ w, rtol=1e-5, atol=1e-4)
    body(lambda x: nl.matmul(nl.load(x), nl.load(x)), match="matmul: give x transposed and transpose_x=True")


# Loops


@pytest.mark.parametrize("kind", ["affine_range", "sequential_range"])
def test_arguments_of_loops(body, kind):
    loop = getattr(nl, kind)
    if kind == "affine_range":
        body(
            lambda x: list(loop(0, 4)),
            match=r"nl.affine_range: the simulator takes one number of iter.*, got \(0, 4\)",
        )
    else:
        body(lambda x: list(loop(0, 4, 0)), match="nl.sequential_range: the step is zero")
        body(lambda x: list(loop(0, 4, 1, 1)), match="nl.sequential_range: 1 to 3 numbers are expected")
        body(lambda x: list(loop(0, 4.5)), match="nl.sequential_range: an integer is expected")
        body(lambda x: [list(loop(0, i)) for i in nl.affine_range(2)], match="a loop index has no value")
    body(lambda x: list(loop()), match=f"nl.{kind}: (the simulator takes one|1 to 3 numbers)")
    body(lambda x: list(loop(-1)), match=f"nl.{kind}: the number of iterations is negative, -1")
    body(lambda x: list(loop(4.0)), match=f"nl.{kind}: the number of iterations: an integer is expected, got 4.0")
    body(lambda x: [list(loop(i)) for i in nl.affine_range(2)], match="a loop index has no value")


def test_a_loop_of_no_iterations(values):
    def kernel(x):
        y = out(128, 4)
        for i in nl.affine_range(0):
            nl.store(y[:, nl.ds(i, 4)], nl.load(x))
        nl.store(y, nl.load(x))
        return y

    x = values(128, 4)
    np.testing.assert_array_equal(simulate(kernel, x).outputs[0], x)


@pytest.mark.parametrize("order", ["forward", "reversed"])
def test_the_range_of_python_is_a_sequential_loop(values, order):
    def kernel(x):
        y = out(128, 24)
        for i in range(2):
            nl.store(y[:, nl.ds(4 * i, 4)], nl.load(x[:, nl.ds(4 * i, 4)]))
        for i in range(8, 16, 4):
            nl.store(y[:, nl.ds(i, 4)], nl.load(x[:, nl.ds(i, 4)]))
        for i in range(20, 12, -4):
            nl.store(y[:, nl.ds(i, 4)], nl.load(x[:, nl.ds(i, 4)]))
        for _ in range(4, 4):
            nl.store(y, nl.load(x))
        return y

    x = values(128, 24)
    for function in (kernel, functools.partial(kernel), functools.partial(kernel, x=x)):
        result = simulate(function, x=x, order=order)
        np.testing.assert_array_equal(result.outputs[0], x)
        loops = [(entry.kind, entry.trips) for entry in result.trace.body[0].body]
        assert loops == [("sequential", 2)] * 3


def test_the_range_of_python_in_a_function_that_the_kernel_calls(values):
    def copy(y, x):
        for i in range(0, 8, 4):
            if i == 0 or i == 4:  # numbers
                nl.store(y[:, i : i + 4], nl.load(x[:, i : i + 4]))

    def kernel(x, *, w=None):
        y = out(128, 8)
        copy(y, x)
        return y

    x = values(128, 8)
    np.testing.assert_array_equal(simulate(kernel, x).outputs[0], x)


def test_a_range_that_the_module_of_the_kernel_defines(values):
    names = {"nl": nl, "out": out, "range": lambda *numbers: [0, 4]}
    exec(
        "def kernel(x):\n"
        "    y = out(128, 8)\n"
        "    for i in range(3):\n"
        "        nl.store(y[:, i : i + 4], nl.load(x[:, i : i + 4]))\n"
        "    return y\n",
        names,
    )
    x = values(128, 8)
    result = simulate(names["kernel"], x)
    np.testing.assert_array_equal(result.outputs[0], x)
    assert len(result.trace.body[0].body) == 4


def test_the_range_of_python_in_a_kernel_object(values):
    def body(x, *, plan):
        y = out(128, 8)
        for i in range(plan.trips):
            nl.store(y[:, nl.ds(4 * i, 4)], nl.load(x[:, nl.ds(4 * i, 4)]))
        return y

    plan = types.SimpleNamespace(cores=1, trips=2)
    kernel = Kernel(body, None, lambda shapes, dtype, machine, cores: plan, ("x",), ())
    x = values(128, 8)
    for given in (None, plan):  # plans of a form of their own are taken where the planner makes such
        result = simulate(kernel, x, plan=given)
        np.testing.assert_array_equal(result.outputs[0], x)
        assert result.trace.body[0].body[0].kind == "sequential"


def test_what_the_range_of_python_would_hide(refused, values):
    def branch(x):
        y = out(128, 4)
        for i in range(2):
            if i == 0:
                nl.store(y, nl.load(x))
        return y

    def after(x):
        y = out(128, 4)
        for i in range(2):
            t = nl.load(x[:, nl.ds(i, 4)])
        nl.store(y, t)
        return y

    refused(branch, values(128, 8), match="a loop index has no value .* use nl.static_range")
    refused(after, values(128, 8), match="is used outside of the loop that it was made in")


def test_static_range(values, body):
    def kernel(x):
        y = out(128, 8)
        for i in nl.static_range(0, 8, 4):
            if i == 0 or i > 2:  # numbers, which may be compared
                nl.store(y[:, i : i + 4], nl.load(x[:, i : i + 4]))
        return y

    x = values(128, 8)
    result = simulate(kernel, x)
    np.testing.assert_array_equal(result.outputs[0], x)
    assert len(result.trace.body[0].body) == 4  # unrolled
    body(lambda x: nl.static_range(), match="nl.static_range: 1 to 3 numbers are expected")
    body(lambda x: nl.static_range(2.0), match="nl.static_range: an integer is expected")
    body(lambda x: [nl.static_range(i) for i in nl.affine_range(2)], match="a loop index has no value")


def test_arguments_of_arange(body):
    body(lambda x: nl.arange(0), match=r"nl.arange: the range \(0,\) is empty")
    body(lambda x: nl.arange(4, 4), match=r"nl.arange: the range \(4, 4\) is empty")
    body(lambda x: nl.arange(0, 8, 2), match="nl.arange: 1 to 2 numbers are expected")
    body(lambda x: nl.arange(1.5), match="nl.arange: an integer is expected")
    body(lambda x: [nl.arange(i) for i in nl.affine_range(2)], match="a loop index has no value")


def test_mgrid(values, body):
    def kernel(x):
        y, z = out(64, 8), out(64, 2, 4)
        p, f = nl.mgrid[0:64, 0:8]
        dense = nl.mgrid[:64, 0:2, 0:4]
        for i in nl.affine_range(1):
            nl.store(y[p, f], nl.load(x[p + 2, 3 * f + 1 + i]))
        nl.store(z[dense.p, dense.x, dense.y], nl.load(x[dense.p, dense.x * 4 + dense.y]))
        return y, z

    x = values(128, 32)
    y, z = simulate(kernel, x).outputs
    np.testing.assert_array_equal(y, x[2:66, 1:25:3])
    np.testing.assert_array_equal(z, x[:64, :8].reshape(64, 2, 4))
    body(lambda x: nl.mgrid[0:8:2, 0:4], match="nl.mgrid: slices with a stop and no step are expected")
    body(lambda x: nl.mgrid[4], match="nl.mgrid: slices with a stop and no step are expected")
    body(lambda x: nl.mgrid[0:0, 0:4], match=r"nl.arange: the range \(0, 0\) is empty")
    body(lambda x: [nl.mgrid[0:i, 0:4] for i in nl.affine_range(2)], match="a loop index has no value")


# Names


def test_names_that_are_not_modelled(body):
    body(
        lambda x: nl.exp(x),
        match="nl.exp: the simulator does not model it; it has add, affine_range, arange, bfloat16",
    )
    body(
        lambda x: nisa.iota(x), match="nisa.iota: the simulator does not model it; it has activation, dma_copy, engine"
    )
    for module in (nl, nisa):
        for name in ("__path__", "_hidden", "exp"):
            assert not hasattr(module, name)
        with pytest.raises(AttributeError, match="has no attribute '__wrapped__'"):
            module.__wrapped__  # noqa: B018


@pytest.mark.parametrize("module", [nl, nisa])
def test_the_names_that_a_message_lists_are_there(module):
    with pytest.raises(SimulationError) as caught:
        module.nothing  # noqa: B018
    names = str(caught.value).split("it has ")[1].split(", ")
    assert names == sorted(names) and all(hasattr(module, name) for name in names)


# Programs


def test_programs_share_the_work(values):
    def kernel(x):
        y = out(256, 16)
        assert nl.num_programs() == nl.num_programs(0) == 2
        mine = nl.ds(nl.program_id(0) * 128, 128)
        nl.store(y[mine, :], nl.load(x[mine, :]))
        return y

    x = values(256, 16)
    for order in ("forward", "reversed"):
        result = simulate(kernel, x, cores=2, order=order)
        np.testing.assert_array_equal(result.outputs[0], x)
        assert result.hbm_bytes == 2 * x.nbytes and result.trace.counts == {"load": 2, "store": 2}


def test_one_program_has_the_number_zero(values):
    def kernel(x):
        y = out(128, 16)
        mine = nl.ds(nl.program_id(0) * 128, 128)
        nl.store(y[mine, :], nl.load(x[mine, :]))
        return y

    x = values(128, 16)
    np.testing.assert_array_equal(simulate(kernel, x).outputs[0], x)


def test_the_axis_of_program_id(body):
    body(lambda x: nl.program_id(1), match="program_id: the grid has one axis, got axis 1")
    body(lambda x: nl.program_id("0"), match="program_id: the axis: an integer is expected")
    body(lambda x: range(nl.program_id(0)), match="a loop index has no value", cores=2)


def test_private_memory_is_each_programs_own(values):
    def kernel(x):
        y, mine = out(2, 128, 4), nl.ndarray((128, 4), dtype=nl.float32, buffer=nl.private_hbm)
        nl.store(mine, nl.load(x[nl.program_id(0)]))  # refused if it were shared
        nl.store(y[nl.program_id(0)], nl.load(mine))
        return y

    x = values(2, 128, 4)
    np.testing.assert_array_equal(simulate(kernel, x, cores=2).outputs[0], x)


def test_private_memory_of_another_program_was_never_written(refused, values):
    def kernel(x):
        y, mine = out(256, 4), nl.ndarray((256, 4), dtype=nl.float32, buffer=nl.private_hbm)
        here, there = nl.ds(nl.program_id(0) * 128, 128), nl.ds(128 - nl.program_id(0) * 128, 128)
        nl.store(mine[here, :], nl.load(x[here, :]))
        nl.store(y[here, :], nl.load(mine[there, :]))
        return y

    refused(kernel, values(256, 4), match="is read, but was never written", dry=[False], cores=2)


def test_data_types():
    assert nl.bfloat16 == np.dtype(ml_dtypes.bfloat16) and nl.float16 == np.float16 and nl.float32 == np.float32
