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
"""Runs the tests of this folder where there is an SDK, real or stand-in, and skips them whole where there is none."""

import pytest

from tests.neuron import environment


HERE, WHY_NOT = environment.sdk()
# Of neuronx_distributed, which names the keys that it drops even where there are none, of optimum-neuron, of torch.
EXPECTED_WARNINGS = (
    r"Removing redundant keys from checkpoint. \[\]",
    "It seems this is running on a CPU-only machine",
    "Activating continuous batching but disabling on-device sampling",
    "`torch.jit.save` is deprecated",
)


class Skipped(pytest.Module):
    """A test module that is not even imported, because that would import the SDK."""

    def collect(self):
        pytest.skip(WHY_NOT, allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    if HERE is None:
        return Skipped.from_parent(parent, path=module_path)


def pytest_collection_modifyitems(items):
    wrong = {"device": ("standins", "runs over the stand-ins only"), "standins": ("hardware", "needs a Neuron device")}
    marker, reason = wrong.get(HERE, (None, None))
    for item in items:
        if not item.path.is_relative_to(environment.STANDINS.parent):
            continue
        if marker and item.get_closest_marker(marker):
            item.add_marker(pytest.mark.skip(reason=reason))
        for warning in EXPECTED_WARNINGS:
            item.add_marker(pytest.mark.filterwarnings(f"ignore:{warning}"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """`tiny(family, **options)`: the directory of a small random model, written once for each set of options."""
    from tests.neuron import harness

    written = {}

    def write(family="llama", **options):
        key = (family, *sorted((name, str(value)) for name, value in options.items()))
        if key not in written:
            written[key] = harness.save_model(tmp_path_factory.mktemp("models") / family, family, **options)
        return written[key]

    return write


@pytest.fixture
def machine(monkeypatch):
    """`machine("inf2", 2)`: from here on the test runs on another instance. Over the stand-ins only."""
    if HERE == "device":
        pytest.skip("a device cannot be another one")

    def become(instance_type: str, cores: int) -> None:
        monkeypatch.setenv("NEURON_STANDIN_MACHINE", f"{instance_type}:{cores}")
        monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", instance_type)

    return become


@pytest.fixture
def predicted(monkeypatch):
    """Seconds by kernel that take the place of what the latency model predicts: the most fused are the fastest."""
    from types import SimpleNamespace

    from optimum_neuronmm.neuron import selection

    seconds = {"mlp_decode": 1.0, "mlp": 2.0, "mlp_up": 3.0}

    def predict_calls(calls, record=False):
        return SimpleNamespace(seconds=sum(seconds.get(call.kernel, 10.0) for call in calls), spills=False)

    monkeypatch.setattr(selection, "predict_calls", predict_calls)
    return seconds


@pytest.fixture
def child_environment():
    """The environment in which a child process finds the same SDK and machine: `child_environment(NAME="value")`."""
    return environment.child_environment


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Where what is compressed is kept."""
    from optimum_neuronmm import cache

    monkeypatch.setattr(cache, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "neuronmm"


@pytest.fixture
def compressions(monkeypatch):
    """The directories that were compressed to."""
    from optimum_neuronmm import cache

    calls, compress = [], cache.compress
    monkeypatch.setattr(
        cache, "compress", lambda *args, **options: calls.append(args[1]) or compress(*args, **options)
    )
    return calls


@pytest.fixture
def compilations(monkeypatch):
    """What was compiled: the arguments of the last step before the compiler."""
    from optimum.neuron.models.inference.backend.pretrained_model import NxDPreTrainedModel

    calls, compile = [], NxDPreTrainedModel.compile
    monkeypatch.setattr(
        NxDPreTrainedModel, "compile", staticmethod(lambda **options: calls.append(options) or compile(**options))
    )
    return calls


@pytest.fixture
def compressed(tiny, tmp_path):
    """The directory of a small compressed checkpoint."""
    from tests.neuron.compressed import save_compressed

    return save_compressed(tiny(), tmp_path / "compressed")
