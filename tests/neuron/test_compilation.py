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
"""What a compilation decides, and how config.json remembers it."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from optimum.neuron.cache.entries.single_model import SingleModelCacheEntry
from transformers import AutoConfig

from optimum_neuronmm import NeuronMMConfig, NeuronMMError
from optimum_neuronmm.neuron import selection
from optimum_neuronmm.neuron.compilation import (
    Compilation,
    compressed_with,
    decide_forms,
    graph_rows,
    is_compressed,
    with_sampling,
)
from optimum_neuronmm.neuron.form import REPLICATED, SHARDED, Form
from optimum_neuronmm.neuron.loading import compressible_class
from tests.neuron import compressed, harness


OPTIONS = {"num_hidden_layers": 3}
LAYERS = {"layer_1": {}, "layer_2": {"gate_proj": 60}}


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    """Of three layers, the second dense and the third with too high a rank to replicate."""
    return compressed.save_compressed(tiny(**OPTIONS), tmp_path_factory.mktemp("compressed") / "llama", **LAYERS)


@pytest.fixture
def config(checkpoint):
    return AutoConfig.from_pretrained(checkpoint)


@pytest.fixture(autouse=True)
def all_kernels_work(monkeypatch, predicted):
    monkeypatch.setenv("NEURONMM_NKI", "simulator")
    monkeypatch.setattr(selection, "probe", lambda call: None)


def decide(checkpoint, tp=2, layout="auto", kernel="nki", **options) -> tuple[Compilation, object]:
    config, neuron_config = AutoConfig.from_pretrained(checkpoint), harness.neuron_config(checkpoint, tp=tp, **options)
    decided = NeuronMMConfig(kernel=kernel, layout=layout)
    forms = decide_forms(config, neuron_config, decided)
    return Compilation.decide(forms, neuron_config, decided), neuron_config


def test_layouts_and_kernels_are_decided_for_every_layer(checkpoint):
    found, _ = decide(checkpoint, sequence_length=160)
    assert found.forms == (
        Form(96, 203, 32, 32, 32, tp=2),
        None,
        Form(96, 203, 60, None, None, tp=2, layout=SHARDED),
    )
    assert found.kernels == {"160": ["mlp", None, "matmul"], "1": ["mlp_decode", None, "matmul"]}
    assert found.kernels_of(0) == {160: "mlp", 1: "mlp_decode"}
    assert found.kernels_of(1) == {160: None, 1: None}
    assert found.kernels_of(2) == {160: "matmul", 1: "matmul"}


@pytest.mark.parametrize("layout", [REPLICATED, SHARDED])
def test_a_layout_that_is_asked_for(checkpoint, layout):
    found, _ = decide(checkpoint, layout=layout)
    assert {form.layout for form in found.forms if form} == {layout}


@pytest.mark.parametrize(
    ("instance_type", "target", "cores"), [("trn1", "trn1", 1), ("trn2", "trn2", 2), ("inf2", "trn1", 1)]
)
def test_kernels_are_planned_for_the_instance(checkpoint, monkeypatch, machine, instance_type, target, cores):
    machine(instance_type, 4)
    planned = []
    monkeypatch.setattr(selection, "probe", planned.append)
    decide(checkpoint, instance_type=instance_type, dtype=torch.bfloat16)
    assert {(call.target, call.cores, call.dtype) for call in planned} == {(target, cores, "bfloat16")}


@pytest.mark.parametrize("kernel", ["nki", "compiler"])
@pytest.mark.parametrize("layout", ["auto", REPLICATED, SHARDED])
def test_it_travels_in_a_saved_config(checkpoint, config, tmp_path, kernel, layout):
    decided, neuron_config = decide(checkpoint, kernel=kernel, layout=layout)
    before = copy.deepcopy(config.quantization_config)
    decided.write_to(config)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert is_compressed(loaded)
    assert Compilation.read(loaded, neuron_config) == decided
    written = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert written.pop("compilation")["tensor_parallel_size"] == 2
    assert written == {name: value for name, value in before.items() if name != "compilation"}
    NeuronMMConfig.from_dict(written | {"compilation": {}})  # a config of this package


def test_what_was_written_counts_and_not_what_would_be_decided(checkpoint, config):
    neuron_config = harness.neuron_config(checkpoint, tp=2)
    decide(checkpoint, layout=SHARDED)[0].write_to(config)
    config.quantization_config |= {"layout": REPLICATED, "kernel": "compiler"}
    found = Compilation.read(config, neuron_config)
    assert {form.layout for form in found.forms if form} == {SHARDED}
    assert found.kernels["1"] == ["matmul", None, "matmul"]


def test_compiling_again_replaces_what_was_written(checkpoint, config):
    for layout in (SHARDED, REPLICATED):
        decide(checkpoint, layout=layout)[0].write_to(config)
    assert config.quantization_config["compilation"]["layouts"] == [REPLICATED, None, REPLICATED]


def test_another_number_of_ranks_is_refused(checkpoint, config):
    decide(checkpoint, tp=2)[0].write_to(config)
    with pytest.raises(
        NeuronMMError, match="config.json is for 2 ranks and neuron_config.json for 4: compile the model"
    ):
        Compilation.read(config, harness.neuron_config(checkpoint, tp=4))


def without(name):
    return lambda written: written.pop(name)


def with_value(name, value):
    return lambda written: written.update({name: value})


@pytest.mark.parametrize(
    "damage",
    [
        dict.clear,
        without("tensor_parallel_size"),
        without("layouts"),
        without("kernels"),
        with_value("tensor_parallel_size", None),
        with_value("tensor_parallel_size", "2"),
        with_value("layouts", None),
        with_value("layouts", [SHARDED]),
        with_value("layouts", [None, None, None]),
        with_value("layouts", [SHARDED, None, "diagonal"]),
        with_value("layouts", "diagonal"),
        with_value("layouts", 7),
        with_value("kernels", None),
        with_value("kernels", ["mlp"]),
        with_value("kernels", {"64": ["mlp"]}),
        with_value("kernels", {"64": None}),
        with_value("kernels", {"many": ["mlp", None, "mlp"]}),
        with_value("kernels", {"64": ["mlp_of_tomorrow", None, "mlp"]}),
        with_value("kernels", {"64": ["mlp", "mlp", "mlp"]}),
        with_value("kernels", {"64": [["mlp"], None, "mlp"]}),
    ],
)
def test_damage_is_said(checkpoint, config, damage):
    decided, neuron_config = decide(checkpoint, layout=REPLICATED)
    decided.write_to(config)
    damage(config.quantization_config["compilation"])
    with pytest.raises(
        NeuronMMError, match="config.json (does not say how|is for (None|2) ranks) .* compile (it|the model) again"
    ):
        Compilation.read(config, neuron_config)


def test_a_checkpoint_that_was_never_compiled(checkpoint, config):
    with pytest.raises(NeuronMMError, match="config.json does not say how the model was compiled"):
        Compilation.read(config, harness.neuron_config(checkpoint))


def test_a_damaged_checkpoint_is_not_taken_for_a_damaged_compilation(checkpoint, config):
    decided, neuron_config = decide(checkpoint)
    decided.write_to(config)
    config.quantization_config["modules"]["model.layers.9.mlp.gate_proj"] = {"rank": 32, "storage": "uv"}
    with pytest.raises(
        NeuronMMError, match="^config.json lists a factorised projection 'model.layers.9.mlp.gate_proj'"
    ):
        Compilation.read(config, neuron_config)


def test_a_checkpoint_without_factors(checkpoint, config):
    config.quantization_config["modules"] = {}
    with pytest.raises(NeuronMMError, match="lists no factorised projection"):
        decide_forms(config, harness.neuron_config(checkpoint), NeuronMMConfig())


def test_a_config_object_counts_as_a_dictionary(config):
    as_dict = copy.deepcopy(config)
    config.quantization_config = NeuronMMConfig.from_dict(config.quantization_config)
    assert is_compressed(config)
    assert compressed_with(config).modules == as_dict.quantization_config["modules"]
    compilation = Compilation((Form(96, 203, 32, 32, 32), None, Form(96, 203, 60, None, None)), {"1": [None] * 3})
    compilation.write_to(config)
    assert Compilation.read(config, SimpleNamespace(tp_degree=1)) == compilation


def test_dense_and_otherwise_quantized_models_are_not_compressed(tiny):
    config = AutoConfig.from_pretrained(tiny())
    assert not is_compressed(config)
    config.quantization_config = {"quant_method": "gptq"}
    assert not is_compressed(config)
    config.quantization_config = None
    assert not is_compressed(config)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_size": 2},  # a continuous batch: prompts one by one
        {"batch_size": 2, "continuous_batching": False},
        {"sequence_length": 96, "max_context_length": 48},
        {"speculation_length": 3},
        {"batch_size": 2, "speculation_length": 5},
        {"batch_size": 2, "speculation_length": 32, "sequence_length": 64, "continuous_batching": False},
    ],
)
def test_rows_of_the_graphs_that_upstream_builds(checkpoint, config, changes):
    neuron_config = harness.neuron_config(checkpoint, **changes)
    builders = compressible_class(config).create_graph_builders(config, neuron_config)
    inputs = [builder.input_generator()[0][0] for builder in builders.values()]
    assert len(inputs) == (3 if "speculation_length" in changes else 2)
    found = graph_rows(neuron_config)
    assert found == list(dict.fromkeys(tokens.numel() for tokens in inputs))
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(("speculation_length", "rows"), [(0, [64, 1]), (3, [64, 1, 3]), (64, [64, 1])])
def test_rows_are_listed_once(checkpoint, speculation_length, rows):
    assert graph_rows(harness.neuron_config(checkpoint, speculation_length=speculation_length)) == rows


@pytest.mark.parametrize("on_device", [True, False])
@pytest.mark.parametrize("output_logits", [True, False])
def test_sampling(checkpoint, on_device, output_logits):
    given = harness.neuron_config(checkpoint, on_device_sampling=on_device, output_logits=output_logits)
    before = vars(copy.deepcopy(given))
    host = with_sampling(given, NeuronMMConfig(sampling="host"))
    assert vars(host) == before | {"on_device_sampling": False, "output_logits": False}
    device = with_sampling(given, NeuronMMConfig())
    assert vars(device) == before, "what optimum-neuron decided was changed"
    assert vars(given) == before and device is not given, "the caller's config is the caller's"


def test_digests_of_the_compilation_cache_are_distinct(checkpoint, tiny):
    def entry(config, neuron_config):
        return SingleModelCacheEntry("org/model", "text-generation", config, neuron_config)

    entries = [entry(AutoConfig.from_pretrained(tiny(**OPTIONS)), harness.neuron_config(tiny(**OPTIONS), tp=2))]
    for layout in (REPLICATED, SHARDED):
        for kernel in ("nki", "compiler"):
            config = AutoConfig.from_pretrained(checkpoint)
            decided, neuron_config = decide(checkpoint, layout=layout, kernel=kernel)
            decided.write_to(config)
            entries.append(entry(config, neuron_config))
    assert len({entry.hash for entry in entries}) == len({entry.arch_digest() for entry in entries}) == 5
    config = AutoConfig.from_pretrained(checkpoint)
    decided.write_to(config)
    assert entry(config, neuron_config).hash == entries[-1].hash
