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
"""Which NKI is found: the choice, the placeholder and the stand-in that do not count, and the path to `nki.jit`."""

import dataclasses
import sys
import types

import ml_dtypes
import numpy as np
import pytest

from optimum_neuronmm.kernels import DialectError, KernelError, dialect, get_machine, low_rank_fused
from optimum_neuronmm.kernels.simulator import isa, language
from optimum_neuronmm.kernels.simulator.memory import Tensor
from optimum_neuronmm.kernels.simulator.recorder import Recorder, running


def install(monkeypatch, **modules):
    """Puts modules named `neuronxcc...` in the place of whatever is installed."""
    for name in [name for name in sys.modules if name.split(".")[0] == "neuronxcc"]:
        monkeypatch.delitem(sys.modules, name)
    root = types.ModuleType("neuronxcc")
    root.__path__ = []
    monkeypatch.setitem(sys.modules, "neuronxcc", root)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, f"neuronxcc.{name}".replace("nki_", "nki."), module)


@pytest.fixture
def unset(monkeypatch):
    monkeypatch.delenv(dialect.VARIABLE, raising=False)


class Jitted:
    """What `nki.jit` gives, on the simulator's operations: the body finds its dialect by itself."""

    grids = []

    def __init__(self, body, cores=1):
        self.body, self.cores = body, cores

    def __getitem__(self, grid):
        self.grids.append(grid)
        return Jitted(self.body, getattr(grid, "size", grid))

    def __call__(self, *arrays, **settings):
        recorder = Recorder(get_machine("trn2"), programs=self.cores)
        tensors = [Tensor(recorder, a.shape, a.dtype, "hbm", data=a, argument=True) for a in arrays]
        with running(recorder):
            for _ in recorder.loop("program", self.cores):
                output = self.body(*tensors, **settings)
        return output.data


@pytest.fixture
def sdk(monkeypatch, unset):
    nki = types.ModuleType("neuronxcc.nki")
    nki.__path__, nki.jit = [], Jitted
    monkeypatch.setattr(language, "nc", lambda size: types.SimpleNamespace(size=size), raising=False)
    install(monkeypatch, nki=nki, nki_language=language, nki_isa=isa)


@pytest.fixture
def absent(monkeypatch, unset):
    install(monkeypatch)


def test_nothing_installed_is_the_simulator(absent):
    assert dialect.find_neuronxcc() is None and dialect.chosen() == "simulator"


def test_a_placeholder_and_a_stand_in_count_as_absent(monkeypatch, unset):
    for missing in ("jit", "ndarray", "nc_matmul"):
        nki, nl, nisa = (types.ModuleType(f"neuronxcc.nki{name}") for name in ("", ".language", ".isa"))
        nki.__path__, nki.jit, nl.ndarray, nisa.nc_matmul = [], print, print, print
        delattr({"jit": nki, "ndarray": nl, "nc_matmul": nisa}[missing], missing)
        install(monkeypatch, nki=nki, nki_language=nl, nki_isa=nisa)
        assert dialect.chosen() == "simulator", missing


def test_a_working_sdk_is_used(sdk):
    assert dialect.chosen() == "neuronxcc"


def test_the_variable_decides(monkeypatch, sdk):
    monkeypatch.setenv(dialect.VARIABLE, "simulator")
    assert dialect.chosen() == "simulator"


def test_a_wrong_variable_is_refused(monkeypatch, absent):
    monkeypatch.setenv(dialect.VARIABLE, "cuda")
    with pytest.raises(DialectError, match="NEURONMM_NKI='cuda': expected one of simulator, neuronxcc"):
        dialect.chosen()
    monkeypatch.setenv(dialect.VARIABLE, "neuronxcc")
    with pytest.raises(DialectError, match="the package of that name on PyPI is a placeholder"):
        dialect.chosen()


def test_a_body_outside_of_everything_is_refused(absent):
    with pytest.raises(DialectError, match="call it through simulate"):
        dialect.current()
    with pytest.raises(KernelError, match="the Neuron SDK is not installed"):
        dataclasses.replace(low_rank_fused).compiled  # noqa: B018


@pytest.mark.parametrize(("value", "unroll"), [(None, False), ("", False), ("0", False), ("1", True)])
def test_the_variable_that_unrolls(monkeypatch, sdk, value, unroll):
    monkeypatch.delenv(dialect.UNROLL, raising=False)
    if value is not None:
        monkeypatch.setenv(dialect.UNROLL, value)
    assert dialect.current().unroll is unroll


@pytest.mark.parametrize("value", ["true", "2", "no", " 1"])
def test_other_values_of_the_variable_that_unrolls(monkeypatch, sdk, value):
    monkeypatch.setenv(dialect.UNROLL, value)
    with pytest.raises(DialectError, match=f"NEURONMM_NKI_UNROLL='{value}': expected 0 or 1, or unset it"):
        dialect.current()


@pytest.fixture
def tensors():
    random = np.random.default_rng(0)
    shapes = (130, 200), (200, 128), (128, 300)
    return [random.standard_normal(shape).astype(ml_dtypes.bfloat16) for shape in shapes]


@pytest.mark.simulation
def test_called_without_an_sdk_a_kernel_runs_in_the_simulator(absent, tensors):
    x, u, v = (t.astype(np.float64) for t in tensors)
    y = low_rank_fused(*tensors)
    assert y.shape == (130, 300)
    np.testing.assert_allclose(y.astype(np.float64), x @ u @ v, atol=0.02 * np.abs(x @ u @ v).max())


@pytest.mark.simulation
@pytest.mark.parametrize("cores", [1, 2])
def test_called_with_an_sdk_it_goes_through_jit_and_finds_its_dialect(monkeypatch, absent, tensors, cores):
    expected = low_rank_fused(*tensors, target="trn2", cores=cores)
    nki = types.ModuleType("neuronxcc.nki")
    nki.__path__, nki.jit = [], Jitted
    monkeypatch.setattr(language, "nc", lambda size: types.SimpleNamespace(size=size), raising=False)
    install(monkeypatch, nki=nki, nki_language=language, nki_isa=isa)
    kernel = dataclasses.replace(low_rank_fused)  # nothing compiled yet
    np.testing.assert_array_equal(kernel(*tensors, target="trn2", cores=cores), expected)


@pytest.mark.simulation
@pytest.mark.parametrize(("target", "joined"), [("trn1", False), ("trn2", True)])
def test_programs_share_a_logical_core_only_where_the_machine_has_such(monkeypatch, sdk, tensors, target, joined):
    monkeypatch.setattr(Jitted, "grids", [])
    dataclasses.replace(low_rank_fused)(*tensors, target=target, cores=2)
    (grid,) = Jitted.grids
    assert (grid == 2) is not joined and (getattr(grid, "size", None) == 2) is joined
