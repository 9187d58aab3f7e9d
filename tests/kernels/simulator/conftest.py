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
"""What the tests of the simulator share: arrays, and the check that a kernel is refused."""

import ml_dtypes
import numpy as np
import pytest

from optimum_neuronmm.kernels import SimulationError, simulate
from optimum_neuronmm.kernels.simulator import isa as nisa
from optimum_neuronmm.kernels.simulator import language as nl


@pytest.fixture
def values():
    """values(*shape): random numbers that bfloat16 holds exactly, so that copies can be compared bit by bit."""

    def make(*shape, dtype="float32", seed=0):
        numbers = np.random.default_rng(seed).standard_normal(shape).astype(ml_dtypes.bfloat16)
        return numbers.astype(dtype)

    return make


@pytest.fixture
def refused():
    """refused(kernel, *tensors, match=...): a SimulationError with this message, run with data and dry."""

    def check(kernel, *tensors, match, dry=(False, True), **options):
        for how in dry:
            with pytest.raises(SimulationError, match=match):
                simulate(kernel, *tensors, dry=how, **options)

    return check


@pytest.fixture
def body(refused):
    """body(operations, match=...): a kernel of these operations on a tensor x [128, 512] is refused."""

    def check(operations, match, dry=(False, True), dtype="float32", **options):
        def kernel(x):
            operations(x)
            y = nl.ndarray((128, 4), dtype=nl.float32, buffer=nl.shared_hbm)
            nl.store(y, nisa.memset((128, 4), 0, nl.float32))
            return y

        refused(kernel, np.ones((128, 512), dtype), match=match, dry=dry, **options)

    return check
