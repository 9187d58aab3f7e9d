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
"""What is checked of every write: banks of PSUM, engines, and what other iterations write."""

import numpy as np
import pytest

from optimum_neuronmm.kernels import simulate
from optimum_neuronmm.kernels.simulator import isa as nisa
from optimum_neuronmm.kernels.simulator import language as nl


pytestmark = pytest.mark.simulation


def psum(*shape, dtype=nl.float32, zeros=True):
    return (nl.zeros if zeros else nl.ndarray)(shape, dtype=dtype, buffer=nl.psum)


# Banks of PSUM


def product(acc, at, columns=512, accumulate=True):
    """A kernel body that adds [128, columns] to a region of an accumulator."""

    def operations(x):
        t, total = nl.load(x), acc()
        if accumulate:
            total[at] += nisa.nc_matmul(t[:, 0:128], t[:, 0:columns])
        else:
            total[at] = nisa.nc_matmul(t[:, 0:128], t[:, 0:columns])

    return operations


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(
    ("shape", "dtype", "size"),
    [((128, 513), "float32", 2052), ((1, 2, 512), "float32", 4096), ((128, 1026), "bfloat16", 2052)],
)
def test_a_tile_lies_within_one_bank(body, zeros, shape, dtype, size):
    message = rf"of {dtype} takes {size} bytes per partition: a bank of psum of trn2 has 2048"
    body(lambda x: psum(*shape, dtype=dtype, zeros=zeros), match=message, target="trn2")


def accumulated(*regions: tuple[int, int], times=2, again=lambda acc: None):
    """A kernel that adds `times` products to each region of columns of an accumulator, one region after the other."""

    def kernel(x):
        y = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.shared_hbm)
        t, acc = nl.load(x), psum(128, 512)
        for start, stop in regions:
            for _ in nl.affine_range(times):
                acc[:, start:stop] += nisa.nc_matmul(t[:, 0:128], t[:, start:stop])
            again(acc)
        nl.store(y, nl.copy(acc))
        return y

    return kernel


def test_accumulations_one_after_the_other(values):
    x = values(128, 512)
    product = x[:, :128].T @ x
    for regions in ([(0, 512)], [(256, 512), (0, 256)], [(0, 128), (128, 200), (200, 512)]):
        np.testing.assert_allclose(simulate(accumulated(*regions), x).outputs[0], 2 * product, rtol=1e-5, atol=1e-4)


INTERLEAVED = "is accumulated again after another region of the tile: a bank of PSUM holds one accumulation at a time"


@pytest.mark.parametrize(
    ("regions", "refused_one"),
    [
        ([(0, 128), (128, 256), (0, 128)], 128),
        ([(0, 128), (128, 256), (256, 512), (128, 256)], 128),
        ([(0, 128), (128, 256), (64, 192)], 128),  # part of it
        ([(0, 256), (0, 128), (0, 256)], 256),  # of a region within it
    ],
)
def test_accumulations_that_take_turns(refused, values, regions, refused_one):
    message = rf"psum\[128, {refused_one}\] of psum\[128, 512\] {INTERLEAVED}"
    refused(accumulated(*regions), values(128, 512), match=message, dry=[False])
    simulate(accumulated(*regions), values(128, 512), dry=True)  # it has no regions, only symbolic ones


def test_accumulations_that_take_turns_over_a_loop(refused, values):
    def kernel(x):
        y = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.shared_hbm)
        t, acc = nl.load(x), psum(128, 4, 128)
        for _ in nl.affine_range(2):
            for i in nl.affine_range(4):
                acc[:, i] += nisa.nc_matmul(t[:, 0:128], t[:, nl.ds(i * 128, 128)])
        nl.store(y, nl.copy(acc))
        return y

    for order in ("forward", "reversed", "shuffled"):
        refused(kernel, values(128, 512), match=INTERLEAVED, dry=[False], order=order)


def test_a_region_that_is_filled_again_may_be_accumulated_again(values):
    def fill(acc):
        acc[...] = nisa.memset((128, 512), 0, nl.float32)

    x = values(128, 512)
    result = simulate(accumulated((0, 256), (256, 512), (0, 256), (256, 512), again=fill), x)
    assert not result.outputs[0].any()


def test_a_product_that_overwrites_starts_an_accumulation(body):
    def operations(x):
        t, acc = nl.load(x), psum(128, 512)
        left, right = (slice(None), slice(0, 256)), (slice(None), slice(256, 512))

        def add(at):
            acc[at] += nisa.nc_matmul(t[:, 0:128], t[:, 0:256])

        def start(at):
            acc[at] = nisa.nc_matmul(t[:, 0:128], t[:, 0:256])

        for step, at in ((start, left), (add, left), (start, right), (add, right), (start, left), (add, left)):
            step(at)
        add(right)

    def overwritten(x):
        t, acc = nl.load(x), psum(128, 512)
        acc[:, 0:256] = nisa.nc_matmul(t[:, 0:128], t[:, 0:256])
        acc[:, 256:512] = nisa.nc_matmul(t[:, 0:128], t[:, 0:256])
        acc[:, 0:256] += nisa.nc_matmul(t[:, 0:128], t[:, 0:256])

    body(operations, match=INTERLEAVED, dry=[False])
    body(overwritten, match=INTERLEAVED, dry=[False])


def test_accumulations_in_tiles_of_their_own_take_turns(values):
    def kernel(x):
        y = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.shared_hbm)
        t, tiles = nl.load(x), [psum(128, 256) for _ in (0, 1)]
        for _ in nl.affine_range(3):
            for number, acc in enumerate(tiles):
                acc[...] += nisa.nc_matmul(t[:, 0:128], t[:, 256 * number : 256 * number + 256])
        for number, acc in enumerate(tiles):
            nl.store(y[:, 256 * number : 256 * number + 256], nl.copy(acc))
        return y

    x = values(128, 512)
    np.testing.assert_allclose(simulate(kernel, x).outputs[0], 3 * x[:, :128].T @ x, rtol=1e-5, atol=1e-4)


def test_products_in_psum_are_float32(body):
    at = (slice(None), slice(0, 512))
    message = r"nc_matmul: TensorE writes float32, and psum\[128, 512\] of psum\[128, 512\] is bfloat16"
    for accumulate in (False, True):
        body(product(lambda: psum(128, 512, dtype=nl.bfloat16), at, accumulate=accumulate), match=message)


def test_transposes_in_psum_keep_the_data_type_of_the_engine(body):
    def operations(x):
        bank = psum(128, 128, dtype=nl.bfloat16, zeros=False)
        bank[...] = nisa.nc_transpose(nl.load(x[:, 0:128]), engine=nisa.engine.tensor)

    body(operations, match="nc_transpose: TensorE writes float32, and .* is bfloat16")


# Engines


@pytest.mark.parametrize(
    "instruction",
    [
        lambda t: nisa.tensor_copy(t, engine=nisa.engine.gpsimd),
        lambda t: nisa.tensor_tensor(t, t, op=np.add, engine=nisa.engine.gpsimd),
        lambda t: nisa.memset((128, 512), 0, nl.float32, engine=nisa.engine.gpsimd),
    ],
)
def test_gpsimd_does_not_write_psum(body, instruction):
    def operations(x):
        psum(128, 512)[...] = instruction(nl.load(x))

    body(operations, match=r"GpSimdE has no access to PSUM, where psum\[128, 512\] is")


def test_other_engines_write_psum(values):
    def kernel(x):
        y, t = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.shared_hbm), nl.load(x)
        a, b = psum(128, 512, zeros=False), psum(128, 512, zeros=False)
        a[...] = nisa.tensor_copy(t, engine=nisa.engine.vector)
        b[...] = nisa.activation(nl.copy, a, scale=2.0)
        nl.store(y, nl.copy(b))
        return y

    x = values(128, 512)
    np.testing.assert_array_equal(simulate(kernel, x).outputs[0], 2 * x)


# Iterations that write the same memory


def writes(trips: int, key, shape=(128, 512), size=128, kind=nl.affine_range):
    """A kernel body whose loop writes a region of a tile that was made before it."""

    def operations(x):
        t = nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf)
        for i in kind(trips):
            t[key(i)] = nl.load(x[:, 0:size])

    return operations


def test_the_same_region(body):
    body(
        writes(4, lambda i: (slice(None), slice(0, 128))),
        match=r"different iterations of the affine loop of 4 write the same sbuf\[128, 128\] of sbuf\[128, 512\]: index it with",
    )


def test_overlapping_regions(body):
    body(
        writes(4, lambda i: (slice(None), nl.ds(i * 64, 128))),
        match=r"different iterations of the affine loop of 4 write overlapping regions sbuf\[128, 128\] of sbuf\[128, 512\]: each"
        " starts 64 after the one before it",
    )
    body(
        writes(2, lambda i: (slice(None), nl.ds(300 - 127 * i, 128))), match="overlapping regions .* starts 127 after"
    )
    body(writes(4, lambda i: (slice(None), slice(2 * i, 2 * i + 256, 2))), match="overlapping regions")


def test_overlap_over_two_loops(body):
    def operations(x):
        t = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
        for i in nl.affine_range(2):
            for j in nl.affine_range(2):
                t[:, nl.ds(i * 128 + j * 128, 128)] = nl.load(x[:, 0:128])

    body(operations, match="different iterations of the affine loop of 2 write overlapping regions")


def test_overlap_in_hbm_is_seen_without_data(body):
    def operations(x):
        y = nl.ndarray((256, 512), dtype=nl.float32, buffer=nl.shared_hbm)
        for i in nl.affine_range(2):
            p, n = nl.arange(128)[:, None], nl.arange(512)[None, :]
            nl.store(y[p + i * 100, n], nl.load(x))

    body(operations, match=r"overlapping regions hbm\[128, 512\] of hbm\[256, 512\]: each starts 100")


def test_programs_that_write_the_same(body):
    def same(x):
        nl.store(nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.shared_hbm), nl.load(x))

    def overlapping(x):
        y = nl.ndarray((256, 512), dtype=nl.float32, buffer=nl.shared_hbm)
        nl.store(y[nl.ds(nl.program_id(0) * 64, 128), :], nl.load(x))

    body(same, match=r"different programs of 2 write the same hbm.*: index it with nl.program_id", cores=2)
    body(overlapping, match="different programs of 2 write overlapping regions hbm", cores=2)


@pytest.mark.parametrize(
    "operations",
    [
        writes(4, lambda i: (slice(None), nl.ds(i * 128, 128))),
        writes(4, lambda i: (slice(None), nl.ds(384 - i * 128, 128))),
        writes(4, lambda i: (slice(None), i, slice(None)), shape=(128, 4, 128)),
        writes(4, lambda i: (slice(None), slice(i, i + 509, 4))),  # interleaved
        writes(4, lambda i: (slice(None), nl.ds(i * 64, 128)), kind=nl.sequential_range),
        writes(1, lambda i: (slice(None), slice(0, 128))),
    ],
)
def test_iterations_that_write_memory_of_their_own(operations):
    def kernel(x):
        y = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.shared_hbm)
        operations(x)
        nl.store(y, nl.load(x))
        return y

    for dry in (False, True):
        simulate(kernel, np.ones((128, 512), "float32"), dry=dry)


def test_interleaved_loops_write_memory_of_their_own(values):
    def kernel(x):
        y = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.shared_hbm)
        for i in nl.affine_range(2):
            for j in nl.affine_range(2):  # the outer loop takes the smaller steps
                nl.store(y[:, nl.ds(i * 128 + j * 256, 128)], nl.load(x[:, nl.ds(i * 128 + j * 256, 128)]))
        return y

    x = values(128, 512)
    np.testing.assert_array_equal(simulate(kernel, x).outputs[0], x)


def test_accumulating_over_an_affine_loop(body):
    def operations(x):
        total = nl.zeros((128, 128), dtype=nl.float32, buffer=nl.sbuf)
        for i in nl.affine_range(4):
            total[...] += nl.load(x[:, nl.ds(i * 128, 128)])

    body(
        operations,
        match=r"is accumulated over an affine loop: only matrix products in PSUM may be, use nl.sequential_range",
    )
