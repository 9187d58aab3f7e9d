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
"""Loop indices keep their value to themselves, and add up to affine indices."""

import operator

import numpy as np
import pytest

from optimum_neuronmm.kernels import SimulationError
from optimum_neuronmm.kernels.simulator.index import Affine, Grid, LoopVariable


pytestmark = pytest.mark.simulation


@pytest.fixture
def i():
    return Affine(0, ((LoopVariable(1, 4), 1),))


@pytest.fixture
def j():
    return Affine(0, ((LoopVariable(2, 3), 1),))


def at(index: Affine, **values) -> int:
    for variable, _ in index.terms:
        variable.value = values[f"i{variable.key}"]
    return index.value


def test_sums_of_multiples(i, j):
    index = 5 + 3 * i - j * 2 + (i + 1) - 2
    assert at(index, i1=2, i2=1) == 5 + 6 - 2 + 3 - 2
    assert (index.low, index.high) == (4 - 2 * 2, 4 + 4 * 3)
    assert repr(index) == "4*i1 + -2*i2 + 4"
    assert index.key == (4, (1, 4), (2, -2))
    assert at(7 - i, i1=3) == 4 and at(-i, i1=3) == -3


def test_terms_cancel(i, j):
    assert (i + j - i).key == j.key and (i - i).terms == () and (0 * i).terms == ()
    assert repr(i - i) == "0"


def test_coefficients(i, j):
    index = 3 * i + 5
    assert index.coefficient(i.terms[0][0]) == 3 and index.coefficient(j.terms[0][0]) == 0


def test_numpy_integers_are_integers(i):
    assert (np.int64(3) * i + np.int32(2)).key == (3 * i + 2).key == (i * np.int64(3) + 2).key


def test_products_with_a_constant_index(i):
    assert (Affine(3) * i).key == (i * Affine(3)).key == (3 * i).key


def test_the_product_of_two_indices(i, j):
    with pytest.raises(SimulationError, match="the product of two loop indices is not affine"):
        i * j


@pytest.mark.parametrize("factor", [1.5, "2", None, True])
def test_other_factors(i, factor):
    with pytest.raises(SimulationError, match="a loop index is multiplied: an integer is expected"):
        i * factor
    with pytest.raises(SimulationError, match="a loop index is multiplied: an integer is expected"):
        factor * i


@pytest.mark.parametrize("other", [1.5, "2", None, False])
def test_other_summands(i, other):
    with pytest.raises(SimulationError, match="an index is an integer or made of loop indices"):
        i + other


@pytest.mark.parametrize(
    "use",
    [
        *(lambda i, op=op: op(i, 2) for op in (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge)),
        *(lambda i, op=op: op(i, 2) for op in (operator.floordiv, operator.mod, operator.truediv, operator.pow)),
        *(lambda i, op=op: op(8, i) for op in (operator.floordiv, operator.mod, operator.truediv, operator.pow)),
        *(lambda i, op=op: op(i, 1) for op in (operator.lshift, operator.rshift, operator.and_, operator.or_, divmod)),
        *(lambda i, op=op: op(i) for op in (bool, int, float, hash, abs, round, operator.index, range, np.asarray)),
        lambda i: [1, 2, 3][i],
        lambda i: {i: 1},
        lambda i: i in (0, 1),
    ],
)  # fmt: skip
def test_a_loop_index_has_no_value(i, use):
    with pytest.raises(SimulationError, match="a loop index has no value when the compiler traces the loop body"):
        use(i)


def arange(n: int) -> Grid:
    return Grid(Affine(), ((1, n),))


def test_grids_broadcast():
    grid = 2 * arange(128)[:, None] + arange(4)[None, :] + 7
    assert grid.axes == ((2, 128), (1, 4)) and grid.base.key == (7,)
    assert (arange(8) - 3).base.key == (-3,) and (3 - arange(8)).axes == ((-1, 8),)


def test_a_grid_moves_with_a_loop(i):
    assert (i * 128 + arange(128)).base.key == (arange(128) + 128 * i).base.key == (128 * i).key
    assert (i - arange(2)).axes == ((-1, 2),)


def test_an_axis_of_one_position_goes_nowhere():
    assert (arange(1)[None, :] + arange(512)[None, :]).axes == ((0, 1), (1, 512))


@pytest.mark.parametrize("key", [(0, None), (slice(0, 2), None), (None,), (slice(None), slice(None)), np.arange(3)])
def test_grids_take_new_axes_only(key):
    with pytest.raises(SimulationError, match=r"nl.arange takes new axes only"):
        arange(4)[key]


def test_grids_that_do_not_fit():
    with pytest.raises(SimulationError, match="index arrays of 1 and 2 axes cannot be added"):
        arange(4) + arange(4)[:, None]
    with pytest.raises(SimulationError, match="index arrays of sizes 4 and 3 cannot be added"):
        arange(4) + arange(3)


def test_factors_of_grids(i):
    with pytest.raises(SimulationError, match="an index array of nl.arange is multiplied: an integer is expected"):
        arange(4) * 1.5
    with pytest.raises(SimulationError, match="a loop index has no value"):
        arange(4) * i
    with pytest.raises(SimulationError, match="a loop index has no value"):
        i * arange(4)


@pytest.mark.parametrize("use", [lambda g: g < 3, lambda g: g == 3, bool, iter, lambda g: g // 2, np.asarray])
def test_masks_are_not_modelled(use):
    with pytest.raises(SimulationError, match="masks are not modelled"):
        use(arange(4))
