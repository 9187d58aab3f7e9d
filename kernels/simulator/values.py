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
"""What kernels pass to the operations: integers, shapes and data types, refused here with the name of the operation."""

import operator

import ml_dtypes
import numpy as np

from ..errors import SimulationError


BFLOAT16, FLOAT16, FLOAT32 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16), np.dtype(np.float32)
DTYPES = (BFLOAT16, FLOAT16, FLOAT32)


def integer(value, what: str) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise SimulationError(f"{what}: an integer is expected, got {value!r}") from None


def dimensions(shape, what: str) -> tuple[int, ...]:
    """A shape: positive integers."""
    try:
        sizes = tuple(shape)
    except TypeError:
        raise SimulationError(f"{what}: a shape is a tuple of integers, got {shape!r}") from None
    sizes = tuple(integer(n, what) for n in sizes)
    if any(n < 1 for n in sizes):
        raise SimulationError(f"{what}: the dimensions must be positive, got {list(sizes)}")
    return sizes


def data_type(dtype, what: str) -> np.dtype:
    """One of the data types that the simulator has: NumPy's, their names, or torch's."""
    name = str(dtype).removeprefix("torch.")
    for known in DTYPES:
        if name == known.name:
            return known
    try:
        found = None if dtype is None else np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found not in DTYPES:
        names = ", ".join(known.name for known in DTYPES)
        raise SimulationError(f"{what}: the simulator has the data types {names}, got {dtype}")
    return found
