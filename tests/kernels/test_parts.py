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
"""The building blocks: where remainders are cut, and how strips, weights and their orders fit together."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest

from optimum_neuronmm.kernels import (
    Blocks,
    PlanError,
    Spec,
    gated_matmul,
    mlp,
    mlp_decode,
    mlp_two_kernels,
    simulate,
)
from optimum_neuronmm.kernels.beta1 import to
from optimum_neuronmm.kernels.dialect import current
from optimum_neuronmm.kernels.parts import (
    Product,
    columns_on_partitions,
    copying,
    project,
    project_by_parts,
    rows_on_partitions,
)
from optimum_neuronmm.kernels.simulator import language as nl
from optimum_neuronmm.kernels.strips import load_strip
from optimum_neuronmm.kernels.tiling import cut, regions, tiles


pytestmark = pytest.mark.simulation


def random(*shape, dtype=ml_dtypes.bfloat16):
    return np.random.default_rng(sum(shape)).integers(-4, 5, shape).astype(dtype)  # exact in any order of summation


@pytest.mark.parametrize("extent", [1, 127, 128, 129, 256, 300])
def test_regions_cover_every_element_once(extent):
    covered = [
        128 * (first + t) + p
        for partitions, first, count in regions(extent)
        for t in range(count)
        for p in range(partitions)
    ]
    assert covered == list(range(extent)) and tiles(extent) == -(-extent // 128)


@pytest.mark.parametrize(
    ("extent", "size", "sizes"), [(300, 128, (128, 128, 44)), (256, 128, (128, 128)), (5, 128, (5,))]
)
def test_cut(extent, size, sizes):
    assert cut(extent, size) == sizes


@pytest.mark.parametrize(("extent", "size"), [(512, 128), (500, 128), (100, 128), (128, 128), (7, 2)])
@pytest.mark.parametrize("unroll", [False, True])
def test_blocks_cover_a_dimension_once(extent, size, unroll):
    def copy(x):
        nk = current()
        y = nk.output((1, extent), dtype=x.dtype, name="y")
        for b in nk.blocks(extent, size):
            tile = nk.sbuf((1, b.size), x.dtype)
            nk.load(to(tile)[0:1, 0 : b.size], x[0:1, b.ds])
            nk.store(y[0:1, b.ds], tile[0:1, 0 : b.size])
        return y

    x = random(1, extent)
    for order in ("forward", "reversed", "shuffled"):
        np.testing.assert_array_equal(simulate(copy, x, unroll=unroll, order=order).outputs[0], x)


def features_of(interleave: int, extent: int) -> np.ndarray:
    """The feature at [p, t] of a strip."""
    t, p = np.arange(extent // 128), np.arange(128)[:, None]
    return t // interleave * 128 * interleave + p * interleave + t % interleave


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("interleave", [1, 2, 4])
def test_a_strip_holds_its_features_in_order(interleave, transposed):
    M, K = 37, 1024

    def read(x):
        nk = current()
        y = nk.output((128, K // 128, M), dtype=x.dtype, name="y")
        strip = load_strip(nk, x, nk.block(0, M), nk.block(0, K), 512, transposed, interleave)
        nk.store(y[...], strip.pieces[0].tile[...])
        return y

    x = random(M, K)
    held = simulate(read, np.ascontiguousarray(x.T) if transposed else x).outputs[0]
    np.testing.assert_array_equal(held, x.T[features_of(interleave, K)])


@pytest.mark.parametrize("interleave", [1, 2, 4])
@pytest.mark.parametrize(
    "blocks",
    [
        Blocks(256, 1024, 1),
        Blocks(256, 1024, 2),
        Blocks(128, 1024, 1),
        Blocks(256, 512),
        Blocks(256, 512, 2, partial=True),
        Blocks(128, 512, 1, partial=True),
        Blocks(256, 512, abreast=1),
        Blocks(256, 512, abreast=2),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_columns_on_partitions(interleave, blocks, bias):
    M, K, N = 20, 1024, 256

    def product(x, w, b):
        nk = current()
        y = nk.output((128, N // 128, M), dtype=nl.float32, name="y")
        out = nk.sbuf((128, N // 128, M), nl.float32)
        strip = load_strip(nk, x, nk.block(0, M), nk.block(0, K), 512, False, interleave)

        columns_on_partitions(nk, [Product(strip, w, b if bias else None)], nk.block(0, N), blocks, copying(nk, out))
        nk.store(y[...], out[...])
        return y

    x, w, b = random(M, K), random(K, N), random(N)
    expected = x.astype(np.float32) @ w.astype(np.float32) + bias * b.astype(np.float32)
    np.testing.assert_array_equal(simulate(product, x, w, b).outputs[0], expected.T[features_of(1, N)])


@pytest.mark.parametrize("produced", [2, 4])
@pytest.mark.parametrize(
    ("M", "blocks"),
    [
        (9, Blocks(512, 256, 4)),
        (9, Blocks(512, 256)),  # the tiles that share features one by one
        (600, Blocks(512, 256)),
        (600, Blocks(512, 128, partial=True)),
        (9, Blocks(512, 128)),
        (9, Blocks(512, 128, abreast=3)),
        (600, Blocks(512, 128, abreast=3)),
    ],
)
def test_columns_can_be_produced_interleaved(M, blocks, produced):
    K, N = 256, 1024

    def product(x, w, b):
        nk = current()
        y = nk.output((128, N // 128, M), dtype=nl.float32, name="y")
        out = nk.sbuf((128, N // 128, M), nl.float32)
        strip = load_strip(nk, x, nk.block(0, M), nk.block(0, K), 512, False)
        columns_on_partitions(nk, [Product(strip, w, b)], nk.block(0, N), blocks, copying(nk, out), produced)
        nk.store(y[...], out[...])
        return y

    x, w, b = random(M, K), random(K, N), random(N)
    expected = x.astype(np.float32) @ w.astype(np.float32) + b.astype(np.float32)
    for order in ("forward", "shuffled"):
        found = simulate(product, x, w, b, order=order).outputs[0]
        np.testing.assert_array_equal(found, expected.T[features_of(produced, N)])


@pytest.mark.parametrize("abreast", [1, 2, 3])
def test_sums_abreast_of_a_strip_in_pieces(abreast):
    """Weights of a product whose activations came in two pieces, more tiles than banks, and two blocks of rows."""
    M, K, r, N = 600, 256, 384, 512

    def product(x, u, w, b):
        nk = current()
        y = nk.output((128, N // 128, M), dtype=nl.float32, name="y")
        out = nk.sbuf((128, N // 128, M), nl.float32)
        strip = load_strip(nk, x, nk.block(0, M), nk.block(0, K), 256, False)
        strip = project(nk, strip, u, Blocks(256, 128, abreast=1))
        assert [piece.size for piece in strip.pieces] == [256, 128]
        blocks = Blocks(512, 128, abreast=abreast)
        columns_on_partitions(nk, [Product(strip, w, b)], nk.block(0, N), blocks, copying(nk, out))
        nk.store(y[...], out[...])
        return y

    x, u, w, b = np.sign(random(M, K)), np.sign(random(K, r)), random(r, N), random(N)
    between = (x.astype(np.float32) @ u.astype(np.float32)).astype(x.dtype).astype(np.float32)
    expected = between @ w.astype(np.float32) + b.astype(np.float32)
    for order in ("forward", "reversed", "shuffled"):
        found = simulate(product, x, u, w, b, order=order).outputs[0]
        np.testing.assert_array_equal(found, expected.T[features_of(1, N)])


@pytest.mark.parametrize("blocks", [Blocks(640, 300), Blocks(640, 128), Blocks(256, 300), Blocks(512, 256)])
@pytest.mark.parametrize("bias", [False, True])
def test_rows_on_partitions(blocks, bias):
    M, K, N = 150, 300, 640

    def product(x, w, b):
        nk = current()
        y = nk.output((M, N), dtype=nl.float32, name="y")
        strip = load_strip(nk, x, nk.block(0, M), nk.block(0, K), 512, False)
        rows_on_partitions(nk, Product(strip, w, b if bias else None), y, nk.block(0, M), nk.block(0, N), blocks)
        return y

    x, w, b = random(M, K), random(K, N), random(N)
    expected = x.astype(np.float32) @ w.astype(np.float32) + bias * b.astype(np.float32)
    np.testing.assert_array_equal(simulate(product, x, w, b).outputs[0], expected)


@pytest.mark.parametrize("part", [0, 128, 256])
def test_two_projections_of_one_strip(part):
    M, K, ranks = 40, 600, (256, 130)
    blocks = [Blocks(128, 128), Blocks(130, 128)]

    def both(x, a, b):
        nk = current()
        y = nk.output((386, M), dtype=x.dtype, name="y")
        rows = nk.block(0, M)
        if part:
            strips = project_by_parts(nk, x, rows, [a, b], part, 128, False, blocks)
        else:
            strip = load_strip(nk, x, rows, nk.block(0, K), 512, False)
            strips = [project(nk, strip, w, how) for w, how in zip((a, b), blocks, strict=True)]
        for strip, first in zip(strips, (0, 256), strict=True):
            assert sum(piece.size for piece in strip.pieces) == strip.extent
            for piece in strip.pieces:
                for p, t, count in regions(piece.size):
                    source = piece.tile[0:p, t : t + count, 0:M]
                    nk.store_tiles(y, source, first + piece.first + t * 128, count, rows, p)
        return y

    x, a, b = random(M, K), random(K, ranks[0]), random(K, ranks[1])
    expected = (x.astype(np.float32) @ np.concatenate([a, b], axis=1).astype(np.float32)).T.astype(x.dtype)
    np.testing.assert_array_equal(simulate(both, x, a, b).outputs[0], expected)


def test_a_partial_sum_of_one_wide_product():
    M, K, N = 600, 512, 300

    def product(x, w):
        nk = current()
        y = nk.output((N, M), dtype=x.dtype, name="y")
        strip = load_strip(nk, x, nk.block(0, M), nk.block(0, K), 512, False)
        result = project(nk, strip, w, Blocks(N, 128, 1, partial=True))
        for p, t, count in regions(N):
            source = result.pieces[0].tile[0:p, t : t + count, 0:M]
            nk.store_tiles(y, source, t * 128, count, nk.block(0, M), p)
        return y

    x, w = random(M, K), random(K, N)
    expected = (x.astype(np.float32) @ w.astype(np.float32)).T.astype(x.dtype)
    np.testing.assert_array_equal(simulate(product, x, w).outputs[0], expected)


@pytest.mark.parametrize("width", [128, 256])
def test_sums_in_parts_are_of_activations_in_one_piece(width):
    """A plan for a product that is in two pieces where it was to be in one."""

    def products(x, u, w):
        nk = current()
        y = nk.output((128, 8), dtype=x.dtype, name="y")
        strip = load_strip(nk, x, nk.block(0, 8), nk.block(0, 512), 512, False)
        made = project(nk, strip, u, Blocks(width, 512))
        assert len(made.pieces) == 256 // width
        project(nk, made, w, Blocks(128, 128, partial=True))
        return y

    tensors = random(8, 512), random(512, 256), random(256, 128)
    if width == 256:
        simulate(products, *tensors, dry=True)
        return
    with pytest.raises(PlanError, match="sums in parts need activations in one piece: plan this kernel anew"):
        simulate(products, *tensors, dry=True)


@pytest.mark.parametrize(
    ("field", "value"), [("width", 0), ("width", -128), ("depth", 0), ("group", 0), ("depth", 128.0), ("width", None)]
)
def test_blocks_are_positive_integers(field, value):
    with pytest.raises(PlanError, match=f"Blocks: {field} must be a positive integer, got"):
        dataclasses.replace(Blocks(128, 128), **{field: value})


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (Blocks(256, 100), "a depth of 100 does not end with a tile"),
        (Blocks(100, 512), "a width of 100 does not end with a tile: expected a multiple of 128, or all 256"),
    ],
)
def test_blocks_end_with_a_tile(blocks, message):
    def product(x, w):
        nk = current()
        y = nk.output((256, 8), dtype=x.dtype, name="y")
        project(nk, load_strip(nk, x, nk.block(0, 8), nk.block(0, 512), 512, False), w, Blocks(256, 512))
        strip = load_strip(nk, x, nk.block(0, 8), nk.block(0, 512), 512, False)
        columns_on_partitions(nk, [Product(strip, w)], nk.block(0, 256), blocks, lambda *_: None)
        return y

    with pytest.raises(PlanError, match=message):
        simulate(product, random(8, 512), random(512, 256))


def innermost(body, loop=None):
    for entry in body:
        if hasattr(entry, "body"):
            yield from innermost(entry.body, entry)
        else:
            yield entry, loop


@pytest.mark.parametrize("M", [3, 130])
def test_every_accumulation_lies_in_an_affine_loop(M):
    """The form by which the compiler knows an accumulation in PSUM: architecture guide, near-memory accumulation."""
    H, I, r = 200, 300, 130  # noqa: E741
    U, V = Spec((H, r)), Spec((r, I))
    tensors = Spec((M, H)), U, V, U, V, Spec((I, r)), Spec((r, H)), Spec((I,)), Spec((I,)), Spec((H,))
    shared = *tensors[:3], None, *tensors[4:]
    kernels = [mlp, mlp_decode, mlp_two_kernels] if M <= 128 else [mlp, mlp_two_kernels]
    calls = [(kernel, given) for kernel in kernels for given in (tensors, shared)]
    calls.append((gated_matmul, (Spec((M, H)), Spec((H, I)), Spec((M, r)), V, Spec((I,)), Spec((I,)))))
    for kernel, given in calls:
        trace = simulate(kernel, *given, dry=True).trace
        products = [(i, loop) for i, loop in innermost(trace.body) if i.name == "nc_matmul"]
        assert products and all(i.accumulate and loop.kind == "affine" for i, loop in products)
