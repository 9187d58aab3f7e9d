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
"""What a trace counts, against numbers worked out by hand, and dry against eager."""

import numpy as np
import pytest

from optimum_neuronmm.kernels import KERNELS, Spec, simulate
from optimum_neuronmm.kernels.simulator import isa as nisa
from optimum_neuronmm.kernels.simulator import language as nl
from optimum_neuronmm.kernels.simulator.trace import Allocation, Instruction, Loop, Operand, Trace


pytestmark = pytest.mark.simulation


def out(*shape, dtype=nl.float32):
    return nl.ndarray(shape, dtype=dtype, buffer=nl.shared_hbm)


def tile(*shape, dtype=nl.float32, name=""):
    return nl.ndarray(shape, dtype=dtype, buffer=nl.sbuf, name=name)


def tall(x, w):
    """Y (256, 96) = X^T W of X (384, 256), W (384, 96): a product with a transpose of the result's tiles and back."""
    y = nl.ndarray((256, 96), dtype=x.dtype, buffer=nl.shared_hbm, name="y")
    weights = tile(128, 3, 96, dtype=w.dtype)
    for k in nl.affine_range(3):
        weights[:, k, :] = nl.load(w[nl.ds(128 * k, 128), :])
    for m in nl.affine_range(2):
        acc = nl.zeros((128, 96), dtype=nl.float32, buffer=nl.psum)
        for k in nl.affine_range(3):
            left = nl.load(x[nl.ds(128 * k, 128), nl.ds(128 * m, 128)])
            acc[...] += nisa.nc_matmul(left, weights[:, k, :])
        total = nl.copy(acc)
        across = nl.copy(nisa.nc_transpose(total, engine=nisa.engine.tensor))
        back = nisa.nc_transpose(across, engine=nisa.engine.tensor)
        nl.store(y[nl.ds(128 * m, 128), :], nl.copy(back, dtype=x.dtype))
    return y


def test_what_a_kernel_does(values):
    x, w = values(384, 256), values(384, 96, seed=1)
    result = simulate(tall, x, w)
    np.testing.assert_allclose(result.outputs[0], x.T @ w, rtol=1e-4, atol=1e-4)
    trace = result.trace
    assert trace.counts == {"load": 3 + 6, "nc_matmul": 6, "tensor_copy": 6, "nc_transpose": 4, "store": 2}
    assert trace.flops == result.flops == 2 * 384 * 256 * 96
    # 128 x 96 on 128 partitions, and 96 x 128 on 96
    assert trace.transpose_flops == result.transpose_flops == 2 * (2 * 128 * 128 * 96 + 2 * 96 * 96 * 128)
    read, written = 4 * (384 * 256 + 384 * 96), 4 * 256 * 96
    assert trace.total("hbm_read") == read and trace.total("hbm_written") == written
    assert trace.hbm_bytes == result.hbm_bytes == read + written
    assert trace.runs == {128 * 4: 4 * 384 * 256, 96 * 4: 4 * (384 * 96 + 256 * 96)}
    assert trace.bytes_in_runs_of(512) == 4 * 384 * 256 / (read + written)
    assert trace.bytes_in_runs_of(1) == 1 and trace.bytes_in_runs_of(513) == 0
    assert [trace.bytes_of(name) for name in ("x", "w", "y")] == [4 * 384 * 256, 4 * 384 * 96, written]
    assert result.intensity == 2 * 384 * 256 * 96 / (read + written)


def test_the_tree_of_loops(values):
    trace = simulate(tall, values(384, 256), values(384, 96)).trace
    (root,) = trace.body
    assert (root.kind, root.trips) == ("program", 1)
    first, second = root.body
    assert (first.kind, first.trips, [i.name for i in first.body]) == ("affine", 3, ["load"])
    assert (second.trips, second.body[0].trips, [i.name for i in second.body[0].body]) == (2, 3, ["load", "nc_matmul"])
    names = ["tensor_copy", "nc_transpose", "tensor_copy", "nc_transpose", "tensor_copy", "store"]
    assert [i.name for i in second.body[1:]] == names
    matmul = second.body[0].body[1]
    assert matmul.accumulate and matmul.write.buffer == "psum" and matmul.engine == "TensorE"
    stationary, moving = matmul.reads
    assert (stationary.shape, moving.shape, moving.elements, moving.contiguous) == ((128, 128), (128, 96), 96, 96)
    assert moving.offset == (0, (second.body[0].key, 96)) and moving.dtype == "float32"


@pytest.mark.parametrize(
    ("key", "run"),
    [
        (lambda: (slice(None), slice(None)), 512),
        (lambda: (slice(None), slice(0, 100)), 100),
        (lambda: (slice(None), slice(0, 512, 2)), 1),
        (lambda: (slice(0, 1), slice(None)), 512),
    ],
)
def test_runs_of_a_load(values, key, run):
    def kernel(x):
        y = out(128, 4)
        nl.copy(nl.load(x[key()]))
        nl.store(y, nisa.memset((128, 4), 0, nl.float32))
        return y

    trace = simulate(kernel, values(128, 512)).trace
    load = next(i for i, _ in trace.instructions() if i.name == "load")
    assert load.run == 4 * run


def test_runs_end_where_the_tile_on_chip_does(values):
    def kernel(x):
        y, t = out(128, 64), tile(128, 128)
        t[:, 0:128:2] = nl.load(x)  # contiguous in HBM, scattered on chip
        nl.store(y, t[:, 0:128:2])
        return y

    x = values(128, 64)
    result = simulate(kernel, x)
    np.testing.assert_array_equal(result.outputs[0], x)
    assert result.trace.runs == {4: 2 * 4 * 128 * 64}


def test_traces_add_up(values):
    one, two = (simulate(tall, values(384, 256), values(384, 96)).trace for _ in range(2))
    both = one + two
    assert (
        both.hbm_bytes == 2 * one.hbm_bytes and both.flops == 2 * one.flops and both.counts == one.counts + two.counts
    )
    assert both.peak("sbuf") == one.peak("sbuf")  # one after the other
    assert len(both.allocations) == 2 * len(one.allocations)


# Dry and eager


def described(trace: Trace) -> list:
    def operand(o):
        return o and (o.allocation.key, o.allocation.name, o.shape, o.dtype, o.buffer, o.offset, o.contiguous)

    instructions = [
        (i.name, i.engine, i.flops, i.transpose, i.accumulate, i.hbm_read, i.hbm_written, i.run, i.attributes, times)
        + (operand(i.write), *map(operand, i.reads))
        for i, times in trace.instructions()
    ]
    allocations = [
        (a.key, a.name, a.shape, a.dtype, a.buffer, a.bytes, len(a.loops), a.dma) for a in trace.allocations
    ]
    return [instructions, allocations]


def assert_same(eager, dry):
    assert described(eager.trace) == described(dry.trace)
    assert eager.trace.counts == dry.trace.counts and eager.trace.runs == dry.trace.runs
    for name in ("hbm_bytes", "flops", "transpose_flops", "sbuf_peak", "sbuf_peak_single", "psum_peak", "spills"):
        assert getattr(eager, name) == getattr(dry, name), name
    assert [(o.shape, str(o.dtype)) for o in eager.outputs] == [tuple(o) for o in dry.outputs]


@pytest.mark.parametrize("order", ["forward", "reversed", "shuffled"])
def test_a_dry_run_has_the_trace_of_an_eager_one(values, order):
    eager = simulate(tall, values(384, 256), values(384, 96), order=order)
    assert_same(eager, simulate(tall, Spec((384, 256), "float32"), w=Spec((384, 96), "float32"), dry=True))


@pytest.mark.parametrize(
    ("name", "shapes", "cores"),
    [
        ("low_rank_fused", [(130, 256), (256, 128), (128, 600)], 1),
        ("low_rank_fused", [(256, 256), (256, 128), (128, 600)], 2),
        ("low_rank_sequential", [(130, 640), (640, 192), (192, 700)], 2),
        ("matmul_tiled", [(256, 130), (256, 600)], 1),
        ("mlp_two_kernels", [(130, 256), (256, 128), (128, 300), (256, 128), (128, 300), (300, 128), (128, 256)], 1),
    ],
)
def test_dry_runs_of_the_kernels_of_the_package(values, name, shapes, cores):
    kernel = KERNELS[name]
    eager = simulate(kernel, *(values(*shape, dtype="bfloat16") for shape in shapes), cores=cores)
    assert_same(eager, simulate(kernel, *(Spec(shape) for shape in shapes), cores=cores, dry=True))


def test_a_dry_run_runs_each_body_once():
    runs = []

    def kernel(x):
        y = out(128, 4096)
        for i in nl.affine_range(4096):
            runs.append(None)
            nl.store(y[:, nl.ds(i, 1)], nl.load(x[:, nl.ds(i, 1)]))
        return y

    result = simulate(kernel, Spec((128, 4096), "float32"), dry=True, cores=1)
    assert len(runs) == 1 and result.trace.counts == {"load": 4096, "store": 4096}
    assert result.outputs == (Spec((128, 4096), "float32"),)


# Liveness, in bytes per partition


def chain(x):
    """a -> b -> c: never more than two of the tiles at once."""
    y, a, b, c = out(128, 10), tile(128, 100), tile(128, 200), tile(128, 50)
    a[:, 0:10] = nl.load(x[:, 0:10])
    b[:, 0:10] = a[:, 0:10]
    c[:, 0:10] = b[:, 0:10]
    nl.store(y, c[:, 0:10])
    return y


def test_a_tile_lives_from_its_first_write_to_its_last_use(values):
    trace = simulate(chain, values(128, 10)).trace
    assert trace.peak("sbuf") == 4 * (100 + 200) and trace.peak("psum") == 0
    peak, held = trace.held("sbuf")
    assert peak == 1200 and [(size, a.shape) for size, a in held] == [(800, (128, 200)), (400, (128, 100))]


def loop(trips: int, name: str = ""):
    """w (400 bytes) is made before the loop, t, o (40 each) and z (1000) inside; z comes when w was read."""

    def kernel(x):
        y, w = out(128, 10 * trips), tile(128, 100)
        w[:, 0:10] = nl.load(x[:, 0:10])
        for i in nl.affine_range(trips):
            t, o, z = tile(128, 10), tile(128, 10), tile(128, 250, name=name)
            t[...] = nl.load(x[:, nl.ds(10 * i, 10)])
            o[...] = nl.multiply(t, w[:, 0:10])
            z[:, 0:10] = nisa.activation(nl.copy, o)
            nl.store(y[:, nl.ds(10 * i, 10)], z[:, 0:10])
        return y

    return kernel


def test_what_a_loop_uses_lives_through_all_of_it(values):
    x = values(128, 40)
    assert simulate(loop(4), x).trace.peak("sbuf") == 400 + 40 + 1000  # w is needed again by the next iteration
    assert simulate(loop(1), x).trace.peak("sbuf") == 40 + 1000  # and here it is not


def test_second_buffers(values):
    x = values(128, 40)
    trace = simulate(loop(4), x).trace
    assert trace.peak("sbuf", buffered=True) == 400 + 40 + 2 * 1000  # z is drained by a DMA, w is outside of the loop
    result = simulate(loop(4, name="resident"), x)
    assert result.trace.peak("sbuf", buffered=True) == 400 + 40 + 1000
    assert result.sbuf_peak == result.sbuf_peak_single == 128 * 1440
    assert simulate(loop(1), x).trace.peak("sbuf", buffered=True) == 1040  # nothing to overlap with


def test_banks_of_psum(values):
    def kernel(x):
        y, t = out(128, 128), nl.load(x)
        small = nl.zeros((128, 128), dtype=nl.float32, buffer=nl.psum)  # 512 bytes, of a bank of 2048
        large = nl.zeros((128, 512), dtype=nl.float32, buffer=nl.psum)  # 2048, of another one
        small[...] += nisa.nc_matmul(t, t)
        large[:, 0:128] += nisa.nc_matmul(t, t)
        nl.store(y, nl.add(nl.copy(small), large[:, 0:128]))
        return y

    result = simulate(kernel, values(128, 128))
    assert result.trace.peak("psum") == 512 + 2048
    assert result.trace.peak("psum", granule=2048) == 2 * 2048 and result.psum_peak == 128 * 2 * 2048


def test_liveness_over_nested_loops():
    def allocation(key, size, *loops):
        return Allocation(key, "", (128, size), "uint8", "sbuf", size, loops)

    def operand(made):
        return Operand(made, made.shape, "uint8", "sbuf", (0,), 1)

    root, outer, inner = Loop("program", 1), Loop("affine", 2), Loop("affine", 3)
    before, between, within, late = (
        allocation(1, 1, root),
        allocation(2, 10, root, outer),
        None,
        allocation(4, 1000, root, outer),
    )
    within = allocation(3, 100, root, outer, inner)
    inner.body = [
        Instruction("a", "VectorE", (operand(before), operand(between)), operand(within)),
        Instruction("b", "VectorE", (operand(within),), operand(within)),
    ]
    outer.body = [
        Instruction("c", "VectorE", (), operand(between)),
        inner,
        Instruction("d", "VectorE", (), operand(late)),
    ]
    root.body = [outer]
    trace = Trace([root], [before, between, within, late])
    # In the inner loop 1 + 10 + 100; at its end `between` dies, and `late` is live beside `before` alone.
    assert trace.peak("sbuf") == 1001
    late.bytes = 50
    assert trace.peak("sbuf") == 111
    assert [times for _, times in trace.instructions()] == [2, 6, 6, 2]
