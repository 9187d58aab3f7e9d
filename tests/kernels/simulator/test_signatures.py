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
"""Calls are bound to the documented signatures."""

import numpy as np
import pytest

from optimum_neuronmm.kernels import SimulationError
from optimum_neuronmm.kernels.simulator import isa as nisa
from optimum_neuronmm.kernels.simulator import language as nl
from optimum_neuronmm.kernels.simulator import signatures
from optimum_neuronmm.kernels.simulator.signatures import documented


pytestmark = pytest.mark.simulation


def test_a_wrong_keyword(body):
    body(
        lambda x: nl.load(x, datatype=nl.float32),
        match=r"language.load\(src, \*, mask=None, dtype=None\): got an unexpected",
    )


def test_too_many_arguments(body):
    body(lambda x: nl.load(x, None, nl.float32), match=r"language.load.*too many positional arguments")


def test_keywords_that_are_not_positions(body):
    body(lambda x: nisa.dma_copy(x, x), match="isa.dma_copy.*too many positional")
    body(lambda x: nl.ndarray((128, 4), nl.float32, nl.sbuf), match="language.ndarray.*too many positional")


def test_missing_arguments(body):
    body(lambda x: nl.store(x), match="language.store.*missing a required argument: 'value'")
    body(lambda x: nl.ndarray((128, 4)), match="language.ndarray.*missing a required argument: 'dtype'")
    body(lambda x: nisa.memset((128, 4), 0), match="isa.memset.*missing a required argument: 'dtype'")


def test_a_parameter_that_is_not_documented(body):
    body(
        lambda x: nisa.nc_matmul(x, x, accumulate=True),
        match="isa.nc_matmul.*unexpected keyword argument 'accumulate'",
    )
    body(lambda x: nl.load_transpose2d(x, engine=None), match="language.load_transpose2d.*unexpected keyword")


@pytest.mark.parametrize("mask", [True, np.ones(2), [1]])
def test_a_documented_parameter_that_is_not_modelled(body, mask):
    body(lambda x: nl.load(x, mask=mask), match="language.load: the simulator does not model mask=")


def test_other_parameters_that_are_not_modelled(body):
    body(
        lambda x: nisa.nc_matmul(x, x, tile_size=(32, 32)),
        match="isa.nc_matmul: the simulator does not model tile_size=",
    )
    body(lambda x: nisa.activation(nl.silu, x, reduce_op=np.add), match="isa.activation: .* does not model reduce_op=")
    body(lambda x: nl.load(x, mask=x), match="language.load: the simulator does not model mask=")


def test_defaults_may_be_given():
    @documented(signatures.isa.nc_matmul)
    def matmul(stationary, moving, is_stationary_onezero=True):
        return stationary, moving, is_stationary_onezero

    given = matmul(1, moving=2, mask=None, tile_position=(), is_transpose=False)
    assert given == (1, 2, False)  # the documented default, not the function's own


def test_every_operation_is_documented():
    for module, stubs in ((nl, signatures.language), (nisa, signatures.isa)):
        for name in (name for name in vars(stubs) if not name.startswith("_")):
            assert hasattr(getattr(module, name), "__wrapped__"), f"{module.__name__}.{name} does not bind its calls"


@pytest.mark.parametrize(
    "call", [lambda: nl.ndarray((128, 4), nl.float32), lambda: nisa.memset((128, 4), 0, nl.float32)]
)
def test_operations_outside_of_a_kernel(call):
    with pytest.raises(SimulationError, match="an NKI operation was called outside of simulate"):
        call()
