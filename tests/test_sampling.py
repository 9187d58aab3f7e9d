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
"""Sampling from the model: the distribution, the windows, and what a resumed run finds again."""

import gc
import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, LlamaConfig

from optimum_neuronmm import sampling
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.families import FAMILIES
from optimum_neuronmm.sampling import sample_tokens, sampler
from optimum_neuronmm.source import open_dense

from .conftest import save_tiny_model


TABLE = torch.tensor([[0.7, 0.2, 0.1, 0.0], [0.05, 0.05, 0.1, 0.8], [0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 0.0, 1.0]])


def bigram_model(temperature=1.0):
    """A causal LM whose next token depends on the last one only, by the rows of TABLE."""

    def call(input_ids, past_key_values, use_cache):
        return SimpleNamespace(logits=(TABLE.log() / temperature)[input_ids].clamp_min(-1e9))

    call.config = LlamaConfig(num_hidden_layers=1)
    call.device = torch.device("cpu")
    return call


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(model, count, length, seed=0, start=0):
    return sample_tokens(model, start, count, length, generator(seed), lambda n: None)


def test_tokens_follow_the_distribution_at_temperature_one():
    """Counts of every pair of tokens lie within five standard deviations of what TABLE says."""
    tokens = draw(bigram_model(), 3000, 6)
    for previous in range(4):
        following = tokens[:, 1:][tokens[:, :-1] == previous]
        n = len(following)
        assert n > 300
        for token in range(4):
            probability = TABLE[previous, token].item()
            deviation = math.sqrt(n * probability * (1 - probability))
            assert abs((following == token).sum().item() - n * probability) <= 5 * deviation


def test_another_temperature_would_be_noticed():
    """The test above tells temperatures apart."""
    tokens = draw(bigram_model(temperature=0.8), 3000, 2)
    probability, n = TABLE[0, 0].item(), 3000
    assert abs((tokens[:, 1] == 0).sum().item() - n * probability) > 5 * math.sqrt(n * probability * (1 - probability))


def test_a_text_starts_with_the_given_token_and_goes_on_past_it():
    tokens = draw(bigram_model(), 50, 20, start=2)
    assert (tokens[:, 0] == 2).all() and tokens.dtype == torch.int64
    assert (tokens[:, 1:] == 2).any()


def test_equal_generators_give_equal_text():
    assert torch.equal(draw(bigram_model(), 20, 9, seed=1), draw(bigram_model(), 20, 9, seed=1))
    assert not torch.equal(draw(bigram_model(), 20, 9, seed=1), draw(bigram_model(), 20, 9, seed=2))


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_each_token_is_drawn_from_what_the_whole_text_before_it_predicts(model_type, monkeypatch, tmp_path):
    """With its cache, and past its sliding window, the model sees the same as when transformers reads the text at once."""
    directory = save_tiny_model(tmp_path, model_type)
    drawn_from, multinomial = [], torch.multinomial

    def recorded(probabilities, *args, **kwargs):
        drawn_from.append(probabilities)
        return multinomial(probabilities, *args, **kwargs)

    monkeypatch.setattr(torch, "multinomial", recorded)
    tokens = draw(sampling._load(open_dense(directory), torch.device("cpu"), None), 3, 24, start=256)
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(directory).eval()(input_ids=tokens).logits
    torch.testing.assert_close(torch.stack(drawn_from, dim=1), logits.softmax(-1)[:, :-1], rtol=1e-4, atol=1e-7)


def test_progress_counts_every_token():
    seen = []
    sample_tokens(bigram_model(), 0, 7, 5, generator(), seen.append)
    assert seen == [7] * 4


class Cache:
    """What the workspace is to the sampler: tensors by name."""

    def __init__(self):
        self.tensors, self.computed = {}, []

    def __call__(self, name, compute):
        if name not in self.tensors:
            self.tensors[name] = compute()
            self.computed.append(name)
        return self.tensors[name]


def sampler_of(directory, seed=0, cache=None):
    return sampler(
        open_dense(directory),
        AutoTokenizer.from_pretrained(directory),
        seed,
        cache if cache else Cache(),
        torch.device("cpu"),
    )


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(sampling, "_BATCH", 4)


def test_windows_begin_with_the_document_token(tiny_llama):
    tokens = sampler_of(tiny_llama)(6, 10)
    assert tokens.shape == (6, 10) and tokens.dtype == torch.int64
    assert (tokens[:, 0] == 256).all()
    assert (tokens >= 0).all() and (tokens < 260).all()


def test_the_seed_decides_the_text(tiny_llama):
    first, again, other = (sampler_of(tiny_llama, seed)(6, 10) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not (first[:, 1:] == other[:, 1:]).all(1).any()


def test_a_huge_seed_is_a_seed(tiny_llama):
    assert sampler_of(tiny_llama, 2**70)(2, 8).shape == (2, 8)


def test_no_two_batches_are_the_same(tiny_llama):
    tokens = sampler_of(tiny_llama)(8, 12)
    assert len({tuple(row) for row in tokens.tolist()}) == 8


def test_what_was_sampled_before_is_found_again_without_the_model(tiny_llama, monkeypatch):
    cache = Cache()
    first = sampler_of(tiny_llama, cache=cache)(10, 9)
    assert len(cache.computed) == 3  # 4 + 4 + 2
    monkeypatch.setattr(sampling, "_load", lambda *_: pytest.fail("the model was loaded again"))
    assert torch.equal(sampler_of(tiny_llama, cache=cache)(10, 9), first)


def test_the_model_is_loaded_once_for_all_batches(tiny_llama, monkeypatch):
    loaded, load = [], sampling._load
    monkeypatch.setattr(sampling, "_load", lambda *where: loaded.append(1) or load(*where))
    sampler_of(tiny_llama)(10, 9)
    assert loaded == [1]


def test_a_resumed_run_samples_only_what_is_missing_and_the_same(tiny_llama):
    whole, cut = Cache(), Cache()
    expected = sampler_of(tiny_llama, cache=whole)(10, 9)
    first, *_ = whole.computed
    cut.tensors[first] = whole.tensors[first]
    assert torch.equal(sampler_of(tiny_llama, cache=cut)(10, 9), expected)
    assert cut.computed == whole.computed[1:]


def test_other_windows_are_other_entries_of_the_cache(tiny_llama):
    cache = Cache()
    sample = sampler_of(tiny_llama, cache=cache)
    assert sample(4, 9).shape == (4, 9)
    assert sample(4, 11).shape == (4, 11)
    assert sample(3, 9).shape == (3, 9)


def test_the_model_goes_to_disk_where_memory_is_short(tiny_llama, monkeypatch, tmp_path):
    expected = sampler_of(tiny_llama)(2, 6)
    monkeypatch.setattr(sampling.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    monkeypatch.setattr(sampling.tempfile, "tempdir", str(tmp_path))
    placements, load = [], AutoModelForCausalLM.from_pretrained

    def recorded(*args, **kwargs):
        placements.append(kwargs)
        kwargs["max_memory"] = {"cpu": 800_000}  # two thirds of the model
        return load(*args, **kwargs)

    monkeypatch.setattr(sampling.AutoModelForCausalLM, "from_pretrained", recorded)
    assert torch.equal(sampler_of(tiny_llama)(2, 6), expected)
    assert placements[0]["device_map"] == "auto" and placements[0]["offload_folder"].startswith(str(tmp_path))
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    directory = save_tiny_model(tmp_path / "model", vocab_size=200)
    with pytest.raises(NeuronMMError, match="gives token 256, but the model knows 200 tokens"):
        sampler_of(directory)(2, 8)


@pytest.mark.parametrize(
    ("tensor", "place"),
    [
        ("model.embed_tokens.weight", "the embeddings"),
        ("model.layers.0.mlp.up_proj.weight", "layer 0"),
        ("model.layers.1.self_attn.v_proj.weight", "layer 1"),
        ("lm_head.weight", "the head"),
    ],
)
def test_a_model_that_is_not_finite_is_named_by_its_layer(tiny_llama, tmp_path, tensor, place):
    directory = save_tiny_model(tmp_path / "model")
    weights = load_file(directory / "model.safetensors")
    weights[tensor][:, 3] = math.nan
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NeuronMMError, match=f"activations of {place} are not finite"):
        sampler_of(directory)(2, 8)


@pytest.mark.parametrize("model_type", ["llama", "granite", "gemma3_text"])
def test_sampling_sees_the_model_that_generation_sees(model_type, tmp_path):
    """Attention of one token to the cache is written anew for speed: logits are those of a forward pass over all."""
    directory = save_tiny_model(tmp_path, model_type)
    model = sampling._load(open_dense(directory), torch.device("cpu"), None)
    assert model.config._attn_implementation == sampling._ATTENTION
    tokens = torch.randint(256, (3, 40), generator=generator())
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        steps = [model(input_ids=t, past_key_values=cache, use_cache=True).logits for t in tokens.split(1, dim=1)]
        whole = AutoModelForCausalLM.from_pretrained(directory).eval()(input_ids=tokens).logits
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=1e-4, atol=1e-4)
