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
"""Dense models pass through our classes as they always did."""

import inspect
import subprocess
import sys

import pytest
from optimum.neuron import NeuronModelForCausalLM
from optimum.neuron.models.auto_model import get_neuron_model_class

from optimum_neuronmm import NeuronMMError
from optimum_neuronmm import NeuronModelForCausalLM as OurNeuronModelForCausalLM
from optimum_neuronmm.neuron.models import NeuronMMModel, register
from tests.neuron import environment, harness
from tests.neuron.harness import SHAPES, same


DOORS = {"ours": OurNeuronModelForCausalLM, "optimum": NeuronModelForCausalLM}


pytestmark = pytest.mark.usefixtures("home")


class TestDenseModels:
    """In every method that is overridden they reach optimum-neuron with the arguments that were given."""

    @pytest.fixture
    def spied(self, monkeypatch):
        """`spied(name)` records the calls of a method of the base class, which then does nothing."""
        base = get_neuron_model_class("llama", "text-generation", "inference").__mro__[2]

        def spy(name):
            calls = []
            kind = type(inspect.getattr_static(base, name))

            def record(*args, **kwargs):
                calls.append((args if kind is staticmethod else args[1:], kwargs))
                return "what it returned"

            monkeypatch.setattr(base, name, kind(record) if kind in (classmethod, staticmethod) else record)
            return calls

        return spy

    @pytest.fixture
    def dense(self, tiny):
        return harness.export(tiny(), tp=2, load_weights=False)

    def test_from_pretrained(self, tiny, spied):
        calls = spied("_from_pretrained")
        options = {"revision": "r", "token": "t", "batch_size": 3, "strange": [1], "trust_remote_code": True}
        assert NeuronModelForCausalLM.from_pretrained(tiny(), **options) == "what it returned"
        (((model, config), passed),) = calls
        assert model == tiny() and config.model_type == "llama" and passed == options

    def test_export(self, tiny, spied):
        calls = spied("_export")
        config = harness.neuron_config(tiny())
        options = {"config": None, "token": "t", "load_weights": True, "cache_dir": "c", "strange": [1]}
        assert NeuronModelForCausalLM.export(tiny(), config, **options) == "what it returned"
        (((model, _, passed_config), passed),) = calls
        assert model == tiny() and passed_config is config
        expected = {"token": "t", "revision": None, "load_weights": True, "cache_dir": "c", "strange": [1]}
        assert passed == expected

    def test_save_pretrained(self, dense, spied):
        calls = spied("save_pretrained")
        assert dense.save_pretrained("somewhere", strange=1) == "what it returned"
        assert calls == [(("somewhere",), {"strange": 1})]

    def test__save_pretrained(self, dense, spied):
        calls = spied("_save_pretrained")
        dense._save_pretrained("somewhere", strange=1)
        assert calls == [(("somewhere",), {"strange": 1})]

    @pytest.mark.parametrize("token", [True, "t", False, None])
    def test_push_to_hub(self, dense, spied, token):
        calls = spied("push_to_hub")
        options = {"private": True, "revision": "r", "token": token, "endpoint": "e"}
        assert dense.push_to_hub("somewhere", "me/x", **options) == "what it returned"
        assert calls == [(("somewhere", "me/x"), options)]

    def test_forward(self, dense, spied):
        calls = spied("forward")
        tokens = harness.tokens(length=100)
        assert dense.forward(input_ids=tokens, position_ids=1, return_dict=False) == "what it returned"
        ((args, kwargs),) = calls
        assert (*args, *kwargs) == (tokens, "position_ids", "return_dict")

    def test_conversion_and_graphs(self, tiny, spied):
        calls = spied("convert_hf_to_neuron_state_dict"), spied("create_graph_builders")
        cls = get_neuron_model_class("llama", "text-generation", "inference")
        config = harness.load_torch(tiny()).config
        assert cls.convert_hf_to_neuron_state_dict({}, config, 2) == "what it returned"
        assert cls.create_graph_builders(config, 2) == "what it returned"
        assert calls == ([(({}, config, 2), {})], [((config, 2), {})])

    def test_without_neuronmm_no_hub_is_asked(self, tiny, spied, monkeypatch):
        from optimum_neuronmm.neuron import models

        spied("_from_pretrained")
        monkeypatch.setattr(models, "find_compiled", None)
        NeuronModelForCausalLM.from_pretrained(tiny())

    def test_a_compiled_one_with_neuronmm(self, tiny, tmp_path):
        harness.export(tiny(), tp=2).save_pretrained(tmp_path / "dense")
        for door in DOORS.values():
            with pytest.raises(NeuronMMError, match="is compiled from a dense model: pass the model"):
                door.from_pretrained(tmp_path / "dense", neuronmm=True)
        assert same(OurNeuronModelForCausalLM.from_pretrained(tmp_path / "dense", **SHAPES), tiny())


def test_registering_twice_changes_nothing():
    before = get_neuron_model_class("llama", "text-generation", "inference")
    register()
    after = get_neuron_model_class("llama", "text-generation", "inference")
    assert before is after and [cls.__name__ for cls in after.__mro__[:2]] == [after.__name__, "NeuronMMModel"]


def test_other_tasks_are_left_alone():
    assert not issubclass(get_neuron_model_class("qwen3", "feature-extraction", "inference"), NeuronMMModel)


# The module of pipelines imports what other kinds of models need.
PIPELINE = """
import sys
from unittest.mock import MagicMock
import torch_neuronx
if not hasattr(torch_neuronx, "move_trace_to_device"):
    torch_neuronx.move_trace_to_device = None
import optimum.utils
for name in ("sentence_transformers", "sentence_transformers.similarity_functions"):
    sys.modules.setdefault(name, MagicMock(__spec__=None))
import optimum_neuronmm
from optimum.neuron import pipeline
generate = pipeline("text-generation", sys.argv[1])
print(type(generate.model).__name__, generate("tile", max_new_tokens=4, do_sample=False))
"""


def test_a_pipeline(compressed, tmp_path, child_environment):
    model = NeuronModelForCausalLM.from_pretrained(compressed, neuronmm=True, **SHAPES)
    model.save_pretrained(tmp_path / "out")
    command = [sys.executable, "-c", PIPELINE, tmp_path / "out"]
    result = subprocess.run(
        command, env=child_environment(), cwd=environment.ROOT, capture_output=True, text=True, check=False
    )
    assert "CompressibleLlama" in result.stdout and "'generated_text': 'tile" in result.stdout, result.stderr
