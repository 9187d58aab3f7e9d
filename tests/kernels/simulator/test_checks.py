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


@pytest.mark.parametrize("accumulate", [False, True])
def test_a_product_lies_within_one_bank(body, accumulate):
    at = (slice(None), slice(256, 768))
    body(
        product(lambda: psum(128, 1024), at, accumulate=accumulate),
        match=r"nc_matmul: the result must lie within one PSUM bank of 2048 bytes per partition, psum\[128, 512\] of"
        r" psum\[128, 1024\] starts at byte 1024 of a bank and spans 2048",
    )


def test_a_product_that_is_spread_out_reaches_into_another_bank(body):
    at = (slice(None), slice(0, 1024, 4))
    body(product(lambda: psum(128, 1024), at, columns=256), match="starts at byte 0 of a bank and spans 4084")


def test_whole_banks_and_parts_of_one(values):
    def kernel(x):
        y = nl.ndarray((128, 1024), dtype=nl.float32, buffer=nl.shared_hbm)
        t, acc = nl.load(x), psum(128, 1024)
        acc[:, 512:1024] += nisa.nc_matmul(t[:, 0:128], t)
        acc[:, 0:128] += nisa.nc_matmul(t[:, 0:128], t[:, 0:128])
        acc[:, 128:512] += nisa.nc_matmul(t[:, 0:128], t[:, 128:512])
        nl.store(y, nl.copy(acc))
        return y

    x = values(128, 512)
    (y,) = simulate(kernel, x).outputs
    np.testing.assert_allclose(y, np.tile(x[:, :128].T @ x, 2), rtol=1e-5, atol=1e-4)


def looped(step: int, columns: int, trips: int):
    def operations(x):
        t, acc = nl.load(x), psum(128, 2048)
        for i in nl.affine_range(trips):
            acc[:, nl.ds(i * step, columns)] += nisa.nc_matmul(t[:, 0:128], t[:, 0:columns])

    return operations


def test_banks_hold_for_every_iteration(body):
    body(looped(384, 384, 4), match="nc_matmul: the result must lie within one PSUM bank")
    body(looped(252, 12, 3), match="nc_matmul: the result must lie within one PSUM bank")  # the last alone


def test_banks_that_hold_for_every_iteration():
    def kernel(x):
        y = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.shared_hbm)
        for step, columns, trips in ((512, 512, 4), (256, 256, 8), (512, 100, 4), (384, 128, 5)):
            looped(step, columns, trips)(x)
        nl.store(y, nl.load(x))
        return y

    simulate(kernel, np.ones((128, 512), "float32"))


def test_a_transpose_lies_within_one_bank(body):
    def operations(x):
        t, bank = nl.load(x[:, 0:128]), psum(128, 1024, zeros=False)
        bank[:, 448:576] = nisa.nc_transpose(t, engine=nisa.engine.tensor)

    body(operations, match="nc_transpose: the result must lie within one PSUM bank of 2048 bytes")


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
