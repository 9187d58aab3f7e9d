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
"""Loops are held to their first iteration, and tensors to the iteration that they were made in."""

import numpy as np
import pytest

from optimum_neuronmm.kernels import SimulationError, simulate
from optimum_neuronmm.kernels.simulator import isa as nisa
from optimum_neuronmm.kernels.simulator import language as nl


pytestmark = pytest.mark.simulation

NOT_REPEATED = "an iteration of the (affine|sequential) loop of [0-9]+ does not repeat the first one"
EAGER = [False]  # a dry run sees one iteration


def out(*shape, dtype=nl.float32):
    return nl.ndarray(shape, dtype=dtype, buffer=nl.shared_hbm)


def tile(*shape):
    return nl.ndarray(shape, dtype=nl.float32, buffer=nl.sbuf)


# A loop body is traced once


@pytest.mark.parametrize("kind", [nl.affine_range, nl.sequential_range])
def test_a_counter_in_python(body, kind):
    def operations(x):
        count = 0
        for _ in kind(4):
            nl.load(x[:, nl.ds(count * 128, 128)])
            count += 1

    body(operations, match=NOT_REPEATED + r": operation 0 was .*\. The compiler traces a loop body once", dry=EAGER)


@pytest.mark.parametrize("order", ["reversed", "shuffled"])
def test_a_counter_in_python_in_another_order(body, order):
    def operations(x):
        count = 0
        for _ in nl.affine_range(4):
            nl.load(x[:, nl.ds(count * 128, 128)])
            count += 1

    body(operations, match=NOT_REPEATED, dry=EAGER, order=order)


@pytest.mark.parametrize(
    "instruction",
    [
        lambda x, n: nisa.memset((128, 4), n, nl.float32),
        lambda x, n: nisa.activation(nl.copy, nl.load(x), scale=n),
        lambda x, n: nisa.activation([nl.silu, nl.copy][n % 2], nl.load(x)),
        lambda x, n: nisa.tensor_tensor(nl.load(x), nl.load(x), [np.add, np.multiply][n % 2]),
        lambda x, n: nl.copy(nl.load(x), dtype=[nl.float32, nl.bfloat16][n % 2]),
        lambda x, n: nisa.tensor_copy(nl.load(x), engine=[nisa.engine.vector, nisa.engine.scalar][n % 2]),
        lambda x, n: tile(128, n + 1),
        lambda x, n: nl.ndarray((128, 4), nl.float32, name=f"tile{n}"),
        lambda x, n: nl.load(x[:, 0 : n + 1]),
        lambda x, n: [nl.load(x) for _ in range(n)],
        lambda x, n: list(nl.affine_range(n + 1)),
    ],
)
def test_python_state_that_the_loop_changes(body, instruction):
    def operations(x):
        state = []
        for _ in nl.affine_range(3):
            instruction(x, len(state))
            state.append(None)

    body(operations, match=NOT_REPEATED, dry=EAGER)


def test_an_iteration_that_does_less_or_more(body):
    def first_only(x):
        first = True
        for _ in nl.affine_range(2):
            if first:
                nl.load(x)
            first = False

    def later_only(x):
        first = True
        for _ in nl.affine_range(2):
            nl.load(x)
            if not first:
                nl.load(x)
            first = False

    body(first_only, match=NOT_REPEATED + ": ended after 0 of 1 operations", dry=EAGER)
    body(later_only, match=NOT_REPEATED + r": it goes on with \('load', 'DMA'\)", dry=EAGER)


def test_an_inner_loop_that_does_something_later(body):
    def operations(x):
        later = False
        for _ in nl.affine_range(2):
            for _ in nl.affine_range(3):
                if later:
                    nl.load(x)
            later = True

    body(operations, match=NOT_REPEATED + ": it goes on with", dry=EAGER)


def test_a_list_that_is_indexed_with_the_loop(body):
    def operations(x):
        tiles = []
        for i in nl.affine_range(2):
            tiles.append(nl.load(x))
            nl.copy(tiles[i])

    body(operations, match="a loop index has no value")


def test_a_branch_on_the_index(body):
    def equal(x):
        for i in nl.affine_range(2):
            if i == 0:
                nl.load(x)

    def true(x):
        for i in nl.sequential_range(2):
            nl.load(x) if i else None

    body(equal, match="a loop index has no value .* Peel the special iteration, or use nl.static_range")
    body(true, match="a loop index has no value")


def test_a_tile_of_the_iteration_before(body):
    def operations(x):
        last = None
        for i in nl.affine_range(2):
            now = nl.load(x[:, nl.ds(i * 4, 4)])
            if last is not None:
                nl.add(last, now)
            last = now

    body(operations, match=r"the result of load\[128, 4\] is used outside of the loop that it was made in", dry=EAGER)


@pytest.mark.parametrize("keep", [False, True])
def test_leaving_a_loop(body, keep):
    def leave(x):
        loop = nl.affine_range(4)
        for i in loop if keep else nl.affine_range(4):
            nl.load(x[:, nl.ds(i * 4, 4)])
            break
        nl.load(x)

    body(leave, match="the affine loop of 4 was left with `break`, `return` or an exception: the compiler")


def test_returning_from_a_loop(refused, values):
    def kernel(x):
        y = out(128, 4)
        for i in nl.affine_range(4):
            nl.store(y[:, nl.ds(i, 1)], nl.load(x[:, nl.ds(i, 1)]))
            return y

    refused(kernel, values(128, 4), match="the affine loop of 4 was left with")


def test_leaving_the_inner_of_two_loops(body):
    def operations(x):
        for _ in nl.affine_range(2):
            for _ in nl.sequential_range(3):
                nl.load(x)
                break

    body(operations, match="the sequential loop of 3 was left with")


def test_an_exception_of_the_kernel_is_its_own():
    def kernel(x):
        for _ in nl.affine_range(2):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        simulate(kernel, np.ones((4, 4), "float32"))


# Scopes


def test_a_tile_used_after_its_loop(body):
    def operations(x):
        for i in nl.affine_range(2):
            t = tile(128, 4)
            t[...] = nl.load(x[:, nl.ds(4 * i, 4)])
        nl.copy(t)

    body(
        operations,
        match=r"sbuf\[128, 4\] is used outside of the loop that it was made in: allocate it before the loop",
    )


@pytest.mark.parametrize(
    "use",
    [
        lambda r: nl.copy(r),
        lambda r: r[0:32],
        lambda r: tile(128, 128).__setitem__(..., r),
        lambda r: nl.zeros((128, 128), nl.float32, buffer=nl.psum).__setitem__(..., r),
        lambda r: nl.zeros((128, 128), nl.float32, buffer=nl.psum).__iadd__(r),
    ],
)
def test_a_result_used_after_its_loop(body, use):
    def operations(x):
        for i in nl.affine_range(2):
            t = nl.load(x[:, nl.ds(128 * i, 128)])
            result = nisa.nc_matmul(t, t)
        use(result)

    body(operations, match=r"is used outside of the loop that it was made in: allocate it before the loop")


def test_a_region_used_after_its_loop(body):
    def operations(x):
        for i in nl.affine_range(2):
            region = nl.load(x[:, nl.ds(4 * i, 4)])[:, 0:2]
        region.tensor[:, 0:2]

    body(operations, match="is used outside of the loop that it was made in")


def test_an_index_used_after_its_loop(body):
    def operations(x):
        for i in nl.affine_range(2):  # noqa: B007
            pass
        nl.load(x[:, nl.ds(4 * i, 4)])

    body(operations, match=r"x\[128, 512\] is indexed with 4\*i[0-9]+, the index of a loop that has ended")


def test_a_result_of_before_a_loop_is_one_tile_for_it(values):
    def kernel(x, w):
        y = out(128, 8)
        scale = nl.load(w)  # not assigned to a tile: it becomes one here, not in the first iteration
        for i in nl.affine_range(2):
            nl.store(y[:, nl.ds(4 * i, 4)], nl.multiply(nl.load(x[:, nl.ds(4 * i, 4)]), scale))
        return y

    x, w = values(128, 8), values(128, 4, seed=1)
    for dry in (False, True):
        result = simulate(kernel, x, w, dry=dry)
        (scale,) = [a for a in result.trace.allocations if a.name == "load" and len(a.loops) == 1]
        assert scale.shape == (128, 4) and result.trace.counts["load"] == 3
    np.testing.assert_array_equal(simulate(kernel, x, w).outputs[0], x * np.tile(w, 2))


def test_tensors_of_another_run(refused, values):
    kept = []

    def first(x):
        y, t = out(128, 4), tile(128, 4)
        t[...] = nl.load(x)
        nl.store(y, t)
        kept.extend([x, t, nl.load(x)])
        return y

    simulate(first, values(128, 4))
    for tensor in kept:
        use = nl.load if tensor is kept[0] else nl.copy
        refused(
            lambda x, use=use, tensor=tensor: use(tensor), values(128, 4), match="belongs to another run of a kernel"
        )
    with pytest.raises(SimulationError, match="is used outside of the loop that it was made in"):
        kept[1][0:32]


def test_tensors_of_another_program(refused, values):
    kept = []

    def kernel(x):
        t = tile(128, 4)
        t[...] = nl.load(x)
        kept.append(t)
        nl.copy(kept[0])
        return x

    refused(kernel, values(128, 4), match="is used outside of the loop that it was made in", cores=2, dry=EAGER)


# Values


def test_affine_loops_in_every_order(values):
    seen = []

    def kernel(x):
        y = out(128, 8)
        for i in nl.affine_range(8):
            seen.append(i.value)
            nl.store(y[:, nl.ds(i, 1)], nl.load(x[:, nl.ds(i, 1)]))
        return y

    x = values(128, 8)
    runs = {}
    for order, seed in (("forward", 0), ("reversed", 0), ("shuffled", 0), ("shuffled", 1), ("shuffled", 1)):
        seen.clear()
        np.testing.assert_array_equal(simulate(kernel, x, order=order, seed=seed).outputs[0], x)
        runs.setdefault((order, seed), []).append(list(seen))
    assert runs["forward", 0] == [list(range(8))] and runs["reversed", 0] == [list(range(7, -1, -1))]
    assert sorted(runs["shuffled", 0][0]) == list(range(8)) != runs["shuffled", 0][0]
    assert runs["shuffled", 0][0] != runs["shuffled", 1][0] == runs["shuffled", 1][1]


@pytest.mark.parametrize("order", ["forward", "reversed", "shuffled"])
def test_sequential_loops_run_forward(values, order):
    def kernel(x):
        y, total = out(128, 4), nl.zeros((128, 4), dtype=nl.float32, buffer=nl.sbuf)
        for i in nl.sequential_range(8):
            total[...] = nl.multiply(total, nl.load(x[:, nl.ds(4 * i, 4)]))
            total[...] += nl.load(x[:, nl.ds(4 * i, 4)])
        nl.store(y, total)
        return y

    x = values(128, 32)
    expected = np.zeros((128, 4), "float32")
    for i in range(8):
        expected = expected * x[:, 4 * i : 4 * i + 4] + x[:, 4 * i : 4 * i + 4]
    np.testing.assert_array_equal(simulate(kernel, x, order=order).outputs[0], expected)


def test_products_accumulate_in_psum_over_affine_loops(values):
    def kernel(x, w):
        y = out(128, 256)
        acc = nl.zeros((128, 256), dtype=nl.float32, buffer=nl.psum)
        for k in nl.affine_range(4):
            rows = nl.ds(k * 128, 128)
            acc[...] += nisa.nc_matmul(nl.load(x[rows, :]), nl.load(w[rows, :]))
        nl.store(y, nl.copy(acc))
        return y

    x, w = values(512, 128), values(512, 256, seed=1)
    result = simulate(kernel, x, w)
    np.testing.assert_allclose(result.outputs[0], x.T @ w, rtol=1e-4, atol=1e-4)
    assert result.trace.counts == {"load": 8, "nc_matmul": 4, "tensor_copy": 1, "store": 1}


def test_what_accumulates(body):
    def shapes(x):
        acc = nl.zeros((128, 256), dtype=nl.float32, buffer=nl.psum)
        acc[...] += nisa.nc_matmul(nl.load(x[:, 0:128]), nl.load(x[:, 0:128]))

    def number(x):
        tile(128, 4)[...] += 1.0

    def both(x):
        acc = nl.zeros((128, 128), dtype=nl.float32, buffer=nl.psum)
        acc[...] += acc

    body(shapes, match=r"psum\[128, 256\] accumulates the result of nc_matmul\[128, 128\]: the shapes differ")
    body(number, match="tensor_tensor: data2: a tile is expected, got float")
    body(both, match="tensor_tensor: .* are both in PSUM")


def test_a_product_may_be_added_to_sbuf(values):
    def kernel(x):
        y, total = out(128, 128), nl.zeros((128, 128), dtype=nl.float32, buffer=nl.sbuf)
        t = nl.load(x)
        total[...] += nisa.nc_matmul(t, t)
        total[...] += nisa.nc_matmul(t, t)
        nl.store(y, total)
        return y

    x = values(128, 128)
    result = simulate(kernel, x)
    np.testing.assert_allclose(result.outputs[0], 2 * (x.T @ x), rtol=1e-5, atol=1e-4)
    assert result.trace.counts["tensor_tensor"] == 2
