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
"""Integers, shapes and data types that are passed to the operations."""

import ml_dtypes
import numpy as np
import pytest
import torch

from optimum_neuronmm.kernels import SimulationError
from optimum_neuronmm.kernels.simulator.index import Affine, LoopVariable
from optimum_neuronmm.kernels.simulator.values import data_type, dimensions, integer


pytestmark = pytest.mark.simulation


def test_integers():
    assert integer(3, "n") == 3 and integer(np.int64(4), "n") == 4
    assert type(integer(np.int64(4), "n")) is int


@pytest.mark.parametrize("value", [1.0, "1", None, True, np.array([1, 2]), [1]])
def test_what_is_no_integer(value):
    with pytest.raises(SimulationError, match="the size: an integer is expected"):
        integer(value, "the size")


def test_a_loop_index_is_no_integer():
    with pytest.raises(SimulationError, match="a loop index has no value"):
        integer(Affine(0, ((LoopVariable(1, 4), 1),)), "the size")


def test_dimensions():
    assert dimensions([128, np.int32(4)], "x") == (128, 4) and dimensions((), "x") == ()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (128, "a shape is a tuple of integers, got 128"),
        (None, "a shape is a tuple of integers, got None"),
        ((128, 1.5), "an integer is expected, got 1.5"),
        ((128, 0), r"the dimensions must be positive, got \[128, 0\]"),
        ((-1, 4), "the dimensions must be positive"),
    ],
)
def test_what_is_no_shape(shape, message):
    with pytest.raises(SimulationError, match=f"x: {message}"):
        dimensions(shape, "x")


@pytest.mark.parametrize("dtype", ["bfloat16", ml_dtypes.bfloat16, np.dtype(ml_dtypes.bfloat16), torch.bfloat16])
def test_the_names_of_a_data_type(dtype):
    assert data_type(dtype, "x") == np.dtype(ml_dtypes.bfloat16)


def test_data_types():
    assert data_type(np.float32, "x") == data_type("float32", "x") == data_type(torch.float32, "x") == np.float32
    assert data_type(torch.float16, "x") == data_type("half", "x") == np.float16


@pytest.mark.parametrize("dtype", [None, float, np.float64, int, "int32", "nonsense", ">f4", bool, object, "U3", 7])
def test_other_data_types(dtype):
    with pytest.raises(SimulationError, match="x: the simulator has the data types bfloat16, float16, float32, got"):
        data_type(dtype, "x")
