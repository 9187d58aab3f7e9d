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
"""The door to `kernels/`: every name that it offers, from a checkout."""

import pytest

from optimum_neuronmm import kernels


@pytest.mark.parametrize("name", kernels.__all__)
def test_every_name_is_served(name):
    value = getattr(kernels, name)
    assert value is not None and name in dir(kernels)


def test_kernels_are_not_shadowed_by_the_modules_that_hold_them():
    # A submodule becomes an attribute of its package as soon as it is imported.
    served = {name: getattr(kernels, name) for name in kernels.__all__}
    assert set(kernels.KERNELS) == {name for name, value in served.items() if isinstance(value, kernels.Kernel)}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'fused'"):
        kernels.fused  # noqa: B018
    with pytest.raises(ImportError):
        from optimum_neuronmm.kernels import nothing  # noqa: F401
