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
"""The demo's output: parameters, perplexities and an answer of each model."""

import shutil
import sys

import pytest
from transformers import AutoTokenizer

from optimum_neuronmm import load_report
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes import demo


@pytest.fixture
def talking(tmp_path):
    """`talking(directory)`: a copy of the model that has a chat template."""

    def copy(directory, name):
        copied = shutil.copytree(directory, tmp_path / name)
        tokenizer = AutoTokenizer.from_pretrained(copied)
        tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        tokenizer.save_pretrained(copied)
        return copied

    return copy


def test_both_models_answer_and_the_table_is_the_reports(tiny_llama, compressed_llama, talking, monkeypatch, capsys):
    directories = [talking(tiny_llama, "dense"), talking(compressed_llama, "compressed")]
    monkeypatch.setattr(sys, "argv", ["demo", *map(str, directories)])
    monkeypatch.setattr(demo, "answer", lambda directory, prompt: f"{directory.name} answers {prompt!r}")
    demo.main()
    lines = capsys.readouterr().out.splitlines()
    assert any("dense:" in line and "dense answers 'Explain" in line for line in lines)
    assert any("compressed:" in line and "compressed answers 'Explain" in line for line in lines)
    report = load_report(compressed_llama)
    figures, counts = report["perplexity"], report["parameters"]
    assert lines[-2].split() == ["dense", "306,336", "172,800", f"{figures['before']:.2f}"]
    assert lines[-1].split() == [
        "compressed",
        f"{counts['after']:,}",
        f"{counts['projections_after']:,}",
        f"{figures['after']:.2f}",
    ]


def test_an_answer_is_what_follows_the_question(tiny_llama, compressed_llama, talking):
    for directory in (talking(tiny_llama, "dense"), talking(compressed_llama, "compressed")):
        first = demo.answer(directory, "one two")
        assert first == demo.answer(directory, "one two")  # without sampling
        assert 0 < len(first.encode()) and "user:" not in first and "one two" not in first


def test_a_directory_that_is_not_compressed_is_refused(tiny_llama, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["demo", str(tiny_llama), str(tiny_llama)])
    with pytest.raises(NeuronMMError, match="has no neuronmm_report.json"):
        demo.main()
