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
"""Scores of compiled models, beside those of transformers with the same checkpoint."""

import json

import pytest
import torch
from optimum.neuron import NeuronModelForCausalLM

from optimum_neuronmm import NeuronMMConfig, NeuronMMError
from optimum_neuronmm.recipes.scoring.compiled_model import CompiledModel
from tests.neuron import compressed, harness
from tests.neuron.compressed import save_compressed
from tests.neuron.harness import GREEDY


LENGTH = 40
OPTIONS = {"sampling": "host", "kernel": "compiler"}
# Lengths, and how many of the last tokens are scored: contexts of one token, full windows, more rows than in a batch.
RAGGED = [[(9, 2), (8, 1), (11, 4)], [(LENGTH, 1), (2, 1)], [(3, 2)], [(LENGTH + 1, 6)], [(21, 20)]]


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    return save_compressed(tiny(), tmp_path_factory.mktemp("compressed") / "llama", layer_1={"down_proj": 32})


@pytest.fixture(scope="module", params=[(1, 1), (2, 1), (1, 2), (2, 2)], ids=lambda p: f"batch{p[0]}-tp{p[1]}")
def compiled(request, checkpoint):
    """Compiled for a batch size and a number of ranks, by what a user writes."""
    batch_size, tp = request.param
    return NeuronModelForCausalLM.from_pretrained(
        checkpoint,
        neuronmm=NeuronMMConfig(**OPTIONS),
        batch_size=batch_size,
        sequence_length=LENGTH,
        tensor_parallel_size=tp,
    )


def groups(shapes) -> list[list]:
    """Rows of random tokens; those of a group begin alike."""
    return [
        [(harness.tokens(length=length, seed=number)[0].tolist(), scored) for length, scored in group]
        for number, group in enumerate(shapes)
    ]


def check(model, checkpoint, shapes) -> list:
    """Scores, and compares with transformers. Returns the logits."""
    reference, asked = harness.load_torch(checkpoint), groups(shapes)
    found = CompiledModel(model, "m").logits(asked)
    for group, of_group in zip(asked, found, strict=True):
        for (tokens, scored), logits in zip(group, of_group, strict=True):
            with torch.no_grad():
                expected = reference(torch.tensor([tokens[:-1]])).logits[0, -scored:]
            assert harness.error(logits, expected) < 1e-4
    return found


def test_rows_of_different_lengths(compiled, checkpoint):
    first = check(compiled, checkpoint, RAGGED)
    again = CompiledModel(compiled, "m").logits(groups(RAGGED))  # over the cache that the first left behind
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_full_window_after_one_token(compiled, checkpoint):
    check(compiled, checkpoint, [[(LENGTH, LENGTH - 1)], [(LENGTH + 1, LENGTH)], [(5, 4)]])


def test_a_row_that_is_too_long(compiled):
    model = CompiledModel(compiled, "m")
    assert model.max_length == LENGTH and model.dtype == "float32" and model.device == "neuron"
    with pytest.raises(NeuronMMError, match="compiled for sequence_length=40, and a row has 41 tokens to put in"):
        model.logits(groups([[(LENGTH + 2, 1)]]))


def test_it_still_writes_the_same(compiled, checkpoint):
    """A host that samples from logits is served as before."""
    tokens = harness.tokens(batch_size=compiled.neuron_config.batch_size, length=12)
    options = {**GREEDY, "max_new_tokens": 12}
    expected = harness.load_torch(checkpoint).generate(tokens, **options)
    assert torch.equal(compiled.generate(tokens, **options), expected)
    check(compiled, checkpoint, [[(7, 3)]])
    assert torch.equal(compiled.generate(tokens, **options), expected)


def test_a_model_that_was_saved(compiled, checkpoint, tmp_path):
    compiled.save_pretrained(tmp_path / "saved")
    written = json.loads((tmp_path / "saved/neuron_config.json").read_text())
    assert (written["on_device_sampling"], written["output_logits"]) == (False, False)
    check(NeuronModelForCausalLM.from_pretrained(tmp_path / "saved"), checkpoint, RAGGED[:3])


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_model_that_samples_on_the_device(checkpoint, batch_size):
    shapes = {"batch_size": batch_size, "sequence_length": LENGTH, "tensor_parallel_size": 2}
    model = NeuronModelForCausalLM.from_pretrained(checkpoint, neuronmm={"kernel": "compiler"}, **shapes)
    with pytest.raises(NeuronMMError, match="m chooses tokens on the device.*--neuronmm_sampling host"):
        CompiledModel(model, "m")


@pytest.mark.parametrize(
    "options",
    [
        {"on_device_sampling": True},
        {"on_device_sampling": True, "batch_size": 2, "tp": 2},
        {"on_device_sampling": True, "vocab_size": 1025, "tp": 2},
        {"output_logits": True, "batch_size": 2},
        {"max_context_length": 8, "batch_size": 2},
        {"batch_size": 2, "continuous_batching": False},
    ],
    ids=str,
)
def test_other_ways_to_compile(tiny, tmp_path, options):
    """Logits beside tokens, prompts that are shorter than the cache, a prompt of the whole batch."""
    changes = {"vocab_size": options["vocab_size"]} if "vocab_size" in options else {}
    options = {name: value for name, value in options.items() if name != "vocab_size"}
    checkpoint = save_compressed(tiny(**changes), tmp_path / "compressed")
    model = compressed.export(checkpoint, sequence_length=LENGTH, **options)
    check(model, checkpoint, RAGGED)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "granite", "phi3", "smollm3"])
def test_other_families(tiny, tmp_path, family):
    checkpoint = save_compressed(tiny(family), tmp_path / family)
    shapes = {"batch_size": 2, "sequence_length": LENGTH, "tensor_parallel_size": 2}
    model = NeuronModelForCausalLM.from_pretrained(checkpoint, neuronmm=OPTIONS, **shapes)
    check(model, checkpoint, RAGGED[:3])


def test_a_vocabulary_that_ranks_do_not_divide(tiny):
    """optimum-neuron masks the last logit then. Should this fail, it does so no longer, and need not be refused."""
    dense = tiny(vocab_size=1025)
    model = harness.export(dense, tp=2)
    found, expected = harness.logits(model, harness.tokens()), harness.torch_logits(dense, harness.tokens())
    assert (found[..., -1] == torch.finfo(torch.float32).min).all()
    assert harness.error(found[..., :-1], expected[..., :-1]) < 1e-4
    with pytest.raises(NeuronMMError, match="masks the last 1 of the logits .* vocabulary of 1025"):
        CompiledModel(model, "m")
