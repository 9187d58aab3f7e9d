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
"""Tiles, HBM tensors, and the regions of them."""

import numpy as np
import pytest

from optimum_neuronmm.kernels import get_machine, simulate
from optimum_neuronmm.kernels.simulator import isa as nisa
from optimum_neuronmm.kernels.simulator import language as nl


pytestmark = pytest.mark.simulation


def tile(*shape, dtype=nl.float32, buffer=nl.sbuf):
    return nl.ndarray(shape, dtype=dtype, buffer=buffer)


def out(*shape, dtype=nl.float32):
    return nl.ndarray(shape, dtype=dtype, buffer=nl.shared_hbm)


# Tiles


def test_a_tile_needs_two_dimensions(body):
    body(lambda x: tile(128), match=r"a tile in sbuf needs a partition and a free dimension, got \[128\]")


@pytest.mark.parametrize("buffer", ["sbuf", "psum"])
def test_partitions(body, buffer):
    body(
        lambda x: tile(129, 4, buffer=buffer), match=rf"a tile \[129, 4\] in {buffer} has 129 partitions: at most 128"
    )


def test_the_partition_dimension_leads(body):
    body(lambda x: tile(4, nl.par_dim(128), 4), match="the leading dimension must be the partition dimension")
    body(lambda x: nl.par_dim(1.5), match="nl.par_dim: an integer is expected, got 1.5")


@pytest.mark.parametrize("target", ["trn1", "trn2"])
def test_a_tile_larger_than_its_buffer(body, target):
    sbuf, bank = get_machine(target).sbuf_partition, 2 * 1024
    body(
        lambda x: tile(128, sbuf // 4 + 1),
        match=rf"takes {sbuf + 4} bytes per partition: sbuf of {target} has",
        target=target,
    )
    body(
        lambda x: tile(1, bank // 4 + 1, buffer="psum"),
        match=f"takes {bank + 4} bytes per partition: a bank of psum of {target} has {bank}",
        target=target,
    )


@pytest.mark.parametrize("shape", [(128, 0), (0, 4), (-1, 4), (128, 1.5), 128, None])
def test_shapes_of_tiles(body, shape):
    body(
        lambda x: nl.ndarray(shape, dtype=nl.float32), match="a tensor in sbuf: (a|an|the) (shape|integer|dimensions)"
    )


def test_data_types_of_tiles(body):
    body(lambda x: tile(128, 4, dtype=np.float64), match="a tensor in sbuf: the simulator has the data types")


def test_names_of_tiles(body):
    body(lambda x: nl.ndarray((128, 4), nl.float32, name=["t"]), match="a tensor in sbuf: the name is a string, got")


def test_fresh_memory_is_nan_and_may_not_be_read(body):
    def read_part(x):
        t = tile(128, 8)
        t[:, 0:4] = nisa.memset((128, 4), 1, nl.float32)
        assert np.isnan(t.data[:, 4:]).all() if t.data is not None else True
        nl.copy(t[:, 0:4])
        nl.copy(t[:, 2:6])

    body(read_part, match=r"sbuf\[128, 4\] of sbuf\[128, 8\] is read, but was never written as a whole", dry=[False])


def test_psum_must_be_zeroed_before_it_accumulates(body):
    def accumulate(x):
        t, acc = nl.load(x[:, 0:128]), tile(128, 128, buffer="psum")
        acc[...] += nisa.nc_matmul(t, t)

    body(accumulate, match="is read, but was never written as a whole", dry=[False])


def test_arguments_may_not_be_written(body):
    body(
        lambda x: nl.store(x[:, 0:4], nisa.memset((128, 4), 0, nl.float32)),
        match=r"x\[128, 512\] is an argument of the kernel",
    )


def test_hbm_is_written_once(body):
    def twice(x):
        y, t = out(128, 8), nl.load(x[:, 0:4])
        nl.store(y[:, 0:4], t)
        nl.store(y[:, 3:7], t)

    body(twice, match=r"hbm\[128, 4\] of hbm\[128, 8\]: an element in HBM is written twice", dry=[False])


def test_reshape(values):
    def kernel(x, b):
        y = out(2, 3, 128)
        flat = y.reshape((6, 128))
        nl.store(flat[:, 0:128], nl.load(x))
        nl.load(b.reshape((1, 6)))
        return y

    x = values(6, 128)
    (y,) = simulate(kernel, x, values(6)).outputs
    np.testing.assert_array_equal(y, x.reshape(2, 3, 128))


def test_reshapes_that_are_refused(body):
    body(lambda x: x.reshape((128, 513)), match=r"cannot reshape x\[128, 512\] to \[128, 513\]")
    body(lambda x: x.reshape((-1, 512)), match="reshape of x.*: the dimensions must be positive")
    body(lambda x: x.reshape(65536), match="reshape of x.*: a shape is a tuple")
    body(lambda x: tile(128, 4).reshape((128, 2, 2)), match="only HBM tensors are reshaped, sbuf")


# Regions


@pytest.mark.parametrize(
    ("key", "low", "high", "axis"),
    [
        (lambda: (slice(0, 129),), 0, 128, 0),
        (lambda: (slice(None), slice(0, 513)), 0, 512, 1),
        (lambda: (slice(None), nl.ds(500, 13)), 500, 512, 1),
        (lambda: (slice(None), nl.ds(-1, 13)), -1, 11, 1),
        (lambda: (128, slice(None)), 128, 128, 0),
        (lambda: (nl.arange(128)[:, None], nl.arange(512)[None, :] + 1), 1, 512, 1),
        (lambda: (nl.arange(128)[:, None] * 2, nl.arange(4)[None, :]), 0, 254, 0),
        (lambda: (nl.arange(128)[:, None], 2 - nl.arange(4)[None, :]), -1, 2, 1),
    ],
)
def test_out_of_bounds(body, key, low, high, axis):
    body(
        lambda x: x[key()],
        match=rf"out of bounds: index range \[{low}, {high}\] of dimension {axis} of x\[128, 512\], which has {(128, 512)[axis]}",
    )


def test_out_of_bounds_in_a_later_iteration(body):
    def tail(x):
        for i in nl.affine_range(5):
            nl.load(x[:, nl.ds(i * 128, 128)])

    body(tail, match=r"out of bounds: index range \[0, 639\] of dimension 1")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (lambda: (0, 0, 0), "is indexed with 3 indices"),
        (lambda: (Ellipsis, 0, 0, 0), "is indexed with 3 indices"),
        (lambda: (slice(-4, None),), "negative indices are not supported"),
        (lambda: (slice(0, -1),), "negative indices are not supported"),
        (lambda: (slice(4, 4),), "slice .* of dimension 0 is empty"),
        (lambda: (slice(4, 0, -1),), "the step of a slice must be positive"),
        (lambda: (slice(0, 4, 0),), "the step of a slice must be positive"),
        (lambda: (slice(0, 4, 0.5),), "the step of a slice: an integer is expected"),
        (lambda: (slice(0, 1.5),), "an index is an integer or made of loop indices"),
        (lambda: ("a",), "an index is an integer or made of loop indices"),
        (lambda: (True,), "an index is an integer or made of loop indices"),
        (lambda: (None,), "an index is an integer or made of loop indices"),
        (lambda: (np.arange(4),), "an index is an integer or made of loop indices"),
        (lambda: (slice(0, 4), nl.arange(4)), "slices and nl.arange indices cannot be mixed"),
        (lambda: (nl.ds(0, 4), nl.arange(4)[:, None]), "slices and nl.arange indices cannot be mixed"),
        (lambda: (nl.ds(0, 0),), "nl.ds: the size must be positive, got 0"),
        (lambda: (nl.ds(0, 1.5),), "nl.ds: the size: an integer is expected"),
    ],
)
def test_keys(body, key, message):
    body(lambda x: x[key()], match=message)


def test_sizes_do_not_depend_on_a_loop(body):
    def dynamic(x):
        for i in nl.affine_range(4):
            nl.ds(0, i)

    def stretched(x):
        for i in nl.affine_range(4):
            x[:, 0 : 128 * i]

    body(dynamic, match="nl.ds: the size must be a number, got a loop index")
    body(stretched, match="the length of slice .* depends on a loop index")


def test_regions_on_chip(body):
    body(lambda x: tile(128, 4)[0], match="an integer drops the partition dimension, take a slice of one")
    body(lambda x: tile(128, 4)[0:128:2], match="the partitions of a region must follow each other")
    start = "a region of {} partitions must start at partition {}, got {}"
    body(lambda x: tile(128, 4)[1:4], match=start.format(3, "0, 32, 64 or 96", 1))
    body(lambda x: tile(128, 4)[32:65], match=start.format(33, "0 or 64", 32))
    body(lambda x: tile(128, 4)[32:96], match=start.format(64, "0 or 64", 32))
    body(lambda x: tile(128, 4)[32:97], match=start.format(65, "0", 32))
    p, q = (lambda: nl.arange(4)[:, None]), (lambda: nl.arange(4)[None, :])
    body(lambda x: tile(128, 4)[q(), p()], match="the partition index must lie on the first axis")
    body(lambda x: tile(128, 4)[...][0:4], match=r"index the tensor once, not a region of it")

    def rows(x):
        for i in nl.affine_range(4):
            tile(128, 4)[nl.ds(32 * i, 32)]

    body(rows, match=r"a region of 32 partitions must start at partition 0, 32, 64 or 96, got 32\*i")


def test_regions_are_what_numpy_has(values):
    def kernel(x):
        ya, yb, yc, yd = out(64, 64), out(4, 128), out(128, 2, 16), out(96, 32)
        t = tile(128, 256)
        t[...] = nl.load(x)
        nl.store(ya, t[64:128, 10:138:2])
        row = nl.load(x[nl.ds(7, 4), 128:256])
        nl.store(yb, row)
        p, t_, n = nl.arange(128)[:, None, None], nl.arange(2)[None, :, None], nl.arange(16)[None, None, :]
        nl.store(yc, t[p, t_ * 100 + n + 3])
        nl.store(yd, nl.load(x[32:128, 0:32])[...])
        return ya, yb, yc, yd

    x = values(128, 256)
    a, b, c, d = simulate(kernel, x).outputs
    np.testing.assert_array_equal(a, x[64:128, 10:138:2])
    np.testing.assert_array_equal(b, x[7:11, 128:])
    np.testing.assert_array_equal(c, np.stack([x[:, 3:19], x[:, 103:119]], axis=1))
    np.testing.assert_array_equal(d, x[32:, :32])


def test_rows_of_several_tiles_in_one_region(values):
    def kernel(x):
        y = out(128, 3, 8)
        for i in nl.affine_range(2):
            p, t, n = nl.arange(128)[:, None, None], nl.arange(3)[None, :, None], nl.arange(4)[None, None, :]
            nl.store(y[:, :, nl.ds(4 * i, 4)], nl.load(x[p + t * 128, n + 4 * i]))
        return y

    x = values(384, 8)
    (y,) = simulate(kernel, x).outputs
    np.testing.assert_array_equal(y, x.reshape(3, 128, 8).transpose(1, 0, 2))


# Values are not known


@pytest.mark.parametrize(
    "use",
    [
        lambda t: bool(t),
        lambda t: t == t,
        lambda t: t > 0,
        lambda t: t + 1,
        lambda t: 2 * t,
        lambda t: t @ t,
        lambda t: -t,
        lambda t: list(t),
        lambda t: len(t),
        lambda t: float(t),
        lambda t: np.asarray(t),
        lambda t: np.float32(2) * t,
        lambda t: 1 if t else 0,
    ],
)
def test_python_does_not_see_values(body, use):
    for make in (lambda x: x, lambda x: x[0:4], lambda x: nl.load(x)):
        body(lambda x, make=make: use(make(x)), match="the values of a tensor are not known when the kernel is traced")


def test_a_result_is_no_tile_to_write(body):
    def assign(x):
        nl.load(x)[0:4, 0:4] = nisa.memset((4, 4), 0, nl.float32)

    def add(x):
        r = nl.load(x)
        r += nl.load(x)

    body(assign, match=r"the result of load\[128, 512\] is written: assign it to a tile")
    body(add, match=r"the result of load\[128, 512\] is added to: assign it to a tile")


# Assigning


def test_what_is_assigned(body):
    def assign(value):
        def operations(x):
            tile(128, 4)[...] = value(x)

        return operations

    body(assign(lambda x: 0.0), match=r"assign a tile, or fill with nisa.memset, not the number 0.0")
    body(assign(lambda x: np.float32(1)), match="not the number 1.0")
    body(assign(lambda x: np.ones((128, 4))), match="a tile is expected, got ndarray")
    body(assign(lambda x: None), match="a tile is expected, got NoneType")
    body(assign(lambda x: x), match=r"x\[128, 512\] is in HBM: read it with nl.load")
    body(assign(lambda x: x[:, 0:4]), match=r"x\[128, 4\] is in HBM: read it with nl.load")
    body(assign(lambda x: x[0, 0]), match=r"is in HBM: read it with nl.load")
    body(assign(lambda x: nl.load(x[:, 0:8])), match=r"sbuf\[128, 4\] is assigned \(128, 8\): the shapes differ")
    body(assign(lambda x: nl.load(x[0:4, 0:4])), match="the shapes differ")


def test_hbm_is_not_assigned_to(body):
    def assign(x):
        out(128, 512)[...] = nl.load(x)

    def add(x):
        y = out(128, 512)
        y[...] += nl.load(x)

    body(assign, match=r"hbm\[128, 512\] is in HBM: write it with nl.store")
    body(add, match=r"is in hbm, and must be in sbuf or psum")


def test_a_result_is_assigned_for_nothing_and_a_tile_is_copied(values):
    def kernel(x):
        y, a, b, c = out(128, 4), tile(128, 4), tile(128, 4), tile(128, 4, dtype=nl.bfloat16)
        a[...] = nl.load(x)
        b[...] = a
        c[...] = b[...]
        d = tile(128, 4)
        d[...] = nl.copy(c, dtype=nl.float32)
        nl.store(y, d)
        return y

    x = values(128, 4)
    result = simulate(kernel, x)
    np.testing.assert_array_equal(result.outputs[0], x)
    assert result.trace.counts == {"load": 1, "tensor_copy": 3, "store": 1}


def test_a_result_used_twice_is_one_instruction(values):
    def kernel(x):
        y = out(128, 4)
        r = nl.load(x)
        a, b = tile(128, 4), tile(128, 4)
        a[...] = r
        b[...] = r  # now a tile, and copied
        nl.store(y, nl.add(a, b))
        return y

    x = values(128, 4)
    result = simulate(kernel, x)
    np.testing.assert_array_equal(result.outputs[0], 2 * x)
    assert result.trace.counts == {"load": 1, "tensor_copy": 1, "tensor_tensor": 1, "store": 1}


def test_accumulating_is_get_add_set(values):
    def kernel(x):
        y, t = out(128, 4), tile(128, 4)
        t[...] = nl.load(x)
        one = nisa.memset((128, 4), 1, nl.float32)
        t[...] += one
        t += one
        view = t[:, 0:2]
        view += nisa.memset((128, 2), 1, nl.float32)
        nl.store(y, t)
        return y

    x = values(128, 4)
    result = simulate(kernel, x)
    expected = x + np.float32(1) + np.float32(1)
    expected[:, :2] += 1
    np.testing.assert_array_equal(result.outputs[0], expected)
    assert result.trace.counts["tensor_tensor"] == 3 and "tensor_copy" not in result.trace.counts
