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
"""When the format is registered with transformers, in processes of its own and with a registry of its own."""

import importlib
import importlib.machinery
import json
import os
import shutil
import subprocess
import sys
from types import ModuleType

import pytest

from optimum_neuronmm import _registration

from .conftest import ROOT


def run(code, **variables):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **variables}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd="/")


def test_without_the_package_loading_fails_until_it_is_imported(compressed_llama):
    # The failed attempt leaves transformers' registry loaded, so the import afterwards registers at once.
    code = """
import os, sys
from transformers import AutoModelForCausalLM
directory = os.environ["DIRECTORY"]
try:
    AutoModelForCausalLM.from_pretrained(directory)
except RuntimeError as error:
    assert "size mismatch for weight" in str(error) and "torch.Size([0])" in str(error), error
else:
    sys.exit("loaded a model with random MLPs")
assert "optimum_neuronmm" not in sys.modules
import optimum_neuronmm
model = AutoModelForCausalLM.from_pretrained(directory)
assert type(model.model.layers[0].mlp.up_proj) is optimum_neuronmm.LowRankLinear
print("loaded")
"""
    result = run(code, DIRECTORY=str(compressed_llama))
    assert result.stdout == "loaded\n", result.stderr


def test_imported_first_it_waits_for_transformers(compressed_llama):
    code = """
import os, sys
import optimum_neuronmm
assert not {"torch", "transformers"} & set(sys.modules), "importing the package is not cheap"
assert "NeuronMMConfig" in dir(optimum_neuronmm)
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(os.environ["DIRECTORY"])
assert type(model.model.layers[0].mlp.up_proj) is optimum_neuronmm.LowRankLinear
import transformers.quantizers.auto as registry
assert type(registry.__loader__).__name__ == "SourceFileLoader"
assert registry.AUTO_QUANTIZATION_CONFIG_MAPPING["neuronmm"] is optimum_neuronmm.NeuronMMConfig
# Once more, by hand: transformers refuses a second registration.
optimum_neuronmm._registration.register_when_loaded()
from optimum_neuronmm.quantizer import register
register()
print("loaded")
"""
    result = run(code, DIRECTORY=str(compressed_llama))
    assert result.stdout == "loaded\n", result.stderr
    assert "Some weights" not in result.stderr


def test_the_quantizer_may_be_what_is_imported_first():
    # It imports the registry, whose import wants the quantizer.
    code = """
from optimum_neuronmm.quantizer import NeuronMMHfQuantizer
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
assert AUTO_QUANTIZER_MAPPING["neuronmm"] is NeuronMMHfQuantizer
assert AUTO_QUANTIZATION_CONFIG_MAPPING["neuronmm"].__name__ == "NeuronMMConfig"
print("registered")
"""
    result = run(code)
    assert result.stdout == "registered\n", result.stderr


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry module `stand_in.registry` on disk, which only counts how often it was registered with."""
    package = tmp_path / "stand_in"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "registry.py").write_text("READY = True\n")
    (package / "registry_of_others.py").write_text("")
    calls = []
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(_registration, "_REGISTRIES", {"stand_in.registry": "registrar"})
    monkeypatch.setattr(_registration, "_register", lambda name: calls.append(sys.modules[name].READY))
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if type(f).__module__ != _registration.__name__])
    yield package, calls
    for name in [name for name in sys.modules if name.split(".")[0] == "stand_in"]:
        del sys.modules[name]


def test_registers_once_when_the_registry_is_imported(registry):
    _, calls = registry
    _registration.register_when_loaded()
    _registration.register_when_loaded()  # as when the package is reloaded
    assert sum(isinstance(finder, _registration._RegistryFinder) for finder in sys.meta_path) == 1
    importlib.import_module("stand_in")
    assert not calls
    module = importlib.import_module("stand_in.registry")
    importlib.import_module("stand_in.registry")
    assert calls == [True]  # after the module was executed
    # To everything else it is a module like any other.
    assert isinstance(module.__loader__, importlib.machinery.SourceFileLoader)
    assert module.__spec__.loader is module.__loader__


def test_registers_at_once_where_the_registry_is_loaded(registry):
    _, calls = registry
    importlib.import_module("stand_in.registry")
    assert not calls
    _registration.register_when_loaded()
    assert calls == [True]


def test_a_registry_that_fails_to_import_is_waited_for(registry):
    # An import that was interrupted, in a notebook say, and is tried again.
    package, calls = registry
    good = (package / "registry.py").read_text()
    (package / "registry.py").write_text("raise KeyboardInterrupt\n")
    _registration.register_when_loaded()
    with pytest.raises(KeyboardInterrupt):
        importlib.import_module("stand_in.registry")
    assert not calls
    (package / "registry.py").write_text(good)
    shutil.rmtree(package / "__pycache__", ignore_errors=True)
    importlib.invalidate_caches()
    importlib.import_module("stand_in.registry")
    assert calls == [True]


def test_other_imports_are_left_alone(registry):
    _, calls = registry
    _registration.register_when_loaded()
    importlib.import_module("stand_in.registry_of_others")
    assert not calls and "stand_in.registry" not in sys.modules


def test_an_absent_registry_is_absent(registry):
    package, calls = registry
    (package / "registry.py").unlink()
    importlib.invalidate_caches()
    _registration.register_when_loaded()
    with pytest.raises(ModuleNotFoundError, match="stand_in.registry"):
        importlib.import_module("stand_in.registry")
    assert not calls


def test_registering_twice_changes_nothing():
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

    from optimum_neuronmm import NeuronMMConfig
    from optimum_neuronmm.quantizer import NeuronMMHfQuantizer, register

    for _ in range(2):
        register()
        assert AUTO_QUANTIZATION_CONFIG_MAPPING["neuronmm"] is NeuronMMConfig
        assert AUTO_QUANTIZER_MAPPING["neuronmm"] is NeuronMMHfQuantizer
    # Half a registration, as an interrupted one leaves it, is completed.
    del AUTO_QUANTIZER_MAPPING["neuronmm"]
    register()
    assert AUTO_QUANTIZER_MAPPING["neuronmm"] is NeuronMMHfQuantizer


def test_the_package_offers_its_names_and_no_others():
    import optimum_neuronmm

    assert isinstance(optimum_neuronmm, ModuleType)
    for name in optimum_neuronmm.__all__:
        assert getattr(optimum_neuronmm, name) is not None and name in dir(optimum_neuronmm)
    with pytest.raises(AttributeError, match="'optimum_neuronmm' has no attribute 'compres'"):
        optimum_neuronmm.compres  # noqa: B018


def test_a_checkpoint_names_the_method_that_is_registered(compressed_llama):
    config = json.loads((compressed_llama / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "neuronmm"
