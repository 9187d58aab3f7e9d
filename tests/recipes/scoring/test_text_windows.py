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
"""Perplexity and divergence of windows, against float64 on each window on its own."""

import json
import math
import shutil

import pytest
import torch

from optimum_neuronmm.errors import NeuronMMError, NotFiniteError
from optimum_neuronmm.recipes.data.tasks import TASKS
from optimum_neuronmm.recipes.description.task_options import TextOptions
from optimum_neuronmm.recipes.scoring.examples import Scores
from optimum_neuronmm.recipes.scoring.text_windows import evaluate_text

from ...conftest import build_tokenizer, save_tiny_model
from .common import BOS, BOS_ID, as_data, bos_tokenizer, load


TASK = TASKS["wikitext2"]
TEXT = "the rank of a tile, and é of the core. " * 12
IDS = build_tokenizer()(TEXT).input_ids


@pytest.fixture(scope="module")
def loaded(tiny_llama):
    return load(tiny_llama)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another model with the same tokenizer."""
    return load(save_tiny_model(tmp_path_factory.mktemp("models") / "other", "qwen2"))


@pytest.fixture(scope="module")
def loaded_bos(tmp_path_factory):
    """The weights of `loaded`, with a tokenizer that begins texts with BOS."""
    directory = save_tiny_model(tmp_path_factory.mktemp("models") / "bos")
    bos_tokenizer().save_pretrained(directory)
    return load(directory)


def evaluate(loaded, directory, baseline=None, text=TEXT, **options):
    options = TextOptions(**{"layout": "raw", "window": 64, "windows": 4, **options})
    return evaluate_text(loaded, TASK, options, as_data(text), Scores(directory, 150), baseline)


@torch.no_grad()
def log_probabilities(loaded, ids: list[int]) -> torch.Tensor:
    return loaded.model(input_ids=torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)


def losses(loaded, windows: list[list[int]]) -> list[float]:
    return [
        -sum(of_place[token].item() for of_place, token in zip(log_probabilities(loaded, ids), ids[1:], strict=True))
        for ids in windows
    ]


def pieces(ids: list[int], size: int, count: int) -> list[list[int]]:
    return [ids[start : start + size] for start in range(0, len(ids) - size + 1, size)][:count]


def kept(directory) -> list[str]:
    return [json.loads(line)["id"] for path in directory.iterdir() for line in path.read_text().splitlines()[1:]]


def test_perplexity(loaded, tmp_path):
    result = evaluate(loaded, tmp_path)
    expected = losses(loaded, pieces(IDS, 64, 4))
    assert result.outcomes == pytest.approx(expected, rel=1e-5) and result.tokens == [63] * 4
    mean = sum(expected) / (4 * 63)
    spread = math.sqrt(sum((loss / 63 - mean) ** 2 for loss in expected) / 3 / 4)
    entry = result.entry
    assert entry["perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)
    assert entry["stderr"] == pytest.approx(math.exp(mean) * spread, rel=1e-3)
    assert (entry["tokens"], entry["windows"], entry["window"]) == (4 * 63, 4, 64)
    assert entry["kind"] == "perplexity" and entry["layout"] == "raw" and entry["divergence"] is None


@pytest.mark.parametrize(("window", "count"), [(2, 5), (64, None), (100, 1), (100, 3), (len(IDS), None), (50, 1000)])
def test_windows(loaded, tmp_path, window, count):
    result = evaluate(loaded, tmp_path, window=window, windows=count)
    cut = pieces(IDS, window, count or len(IDS))
    assert result.outcomes == pytest.approx(losses(loaded, cut), rel=1e-4, abs=1e-4)
    assert result.entry["windows"] == len(cut) and result.tokens == [window - 1] * len(cut)


@pytest.mark.parametrize("bos", ["first", "none", "every"])
def test_bos(loaded, loaded_bos, tmp_path, bos):
    result = evaluate(loaded_bos, tmp_path, bos=bos)
    begun = [BOS_ID, *IDS] if bos == "first" else IDS
    cut = [[BOS_ID, *piece] for piece in pieces(IDS, 63, 4)] if bos == "every" else pieces(begun, 64, 4)
    assert result.outcomes == pytest.approx(losses(loaded_bos, cut), rel=1e-5)
    assert result.entry["bos"] == bos
    if bos != "every":
        assert evaluate(loaded, tmp_path, bos=bos).entry["bos"] == "none", "what was done, not what was asked for"


def test_a_bos_token_that_the_tokenizer_does_not_use(tmp_path):
    directory = save_tiny_model(tmp_path / "model")
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"bos_token": BOS})
    tokenizer.save_pretrained(directory)
    assert evaluate(load(directory), tmp_path / "scores").entry["bos"] == "none"


def test_divergence(loaded, other, tmp_path):
    result = evaluate(loaded, tmp_path, other)
    total = 0.0
    for ids in pieces(IDS, 64, 4):
        p, q = log_probabilities(other, ids), log_probabilities(loaded, ids)
        total += (p.exp() * (p - q)).sum().item()
    assert result.entry["divergence"] == pytest.approx(total / (4 * 63), rel=1e-4)
    assert result.entry["perplexity"] == pytest.approx(evaluate(loaded, tmp_path).entry["perplexity"], rel=1e-6)
    assert evaluate(other, tmp_path, other).entry["divergence"] == 0
    assert evaluate(other, tmp_path, loaded).entry["divergence"] != pytest.approx(result.entry["divergence"], rel=1e-3)


def test_scores_are_kept_with_their_baseline(loaded, other, loaded_bos, tmp_path, monkeypatch):
    first = evaluate(loaded, tmp_path, other, windows=2)
    seen, logits = [], loaded.scoring.logits
    monkeypatch.setattr(loaded.scoring, "logits", lambda groups: seen.extend(groups) or logits(groups))
    assert evaluate(loaded, tmp_path, other, windows=2) == first and not seen
    more = evaluate(loaded, tmp_path, other, windows=4)
    assert len(seen) == 2 and more.outcomes[:2] == first.outcomes and more.examples != first.examples
    for changes in ({"baseline": None}, {"baseline": loaded}, {"window": 63}, {"bos": "none"}, {"layout": "joined"}):
        seen.clear()
        evaluate(loaded, tmp_path, **{"baseline": other, "windows": 2, **changes})
        assert len(seen) >= 2, changes


def test_a_baseline_in_another_dtype(loaded, other, tmp_path):
    half = load(other.identity.directory, "bfloat16")
    exact, rounded = (evaluate(loaded, tmp_path, one).entry["divergence"] for one in (other, half))
    assert exact != rounded and exact == pytest.approx(rounded, rel=0.1)


def test_a_baseline_with_another_tokenizer(loaded, loaded_bos, tmp_path):
    for one, reference in ((loaded, loaded_bos), (loaded_bos, loaded)):
        result = evaluate(one, tmp_path, reference)
        assert result.entry["divergence"] is None
        assert result == evaluate(one, tmp_path), "the same scores as without a baseline"
    same = evaluate(loaded, tmp_path, loaded_bos, bos="none")
    assert same.entry["divergence"] == 0, "the windows are what counts"


def test_results_that_can_be_compared(loaded, other, loaded_bos, tmp_path):
    one = evaluate(loaded, tmp_path)
    assert evaluate(other, tmp_path).examples == one.examples == evaluate(loaded_bos, tmp_path, bos="none").examples
    assert one.examples not in (
        evaluate(loaded_bos, tmp_path).examples,
        evaluate(loaded, tmp_path, windows=3).examples,
    )


def test_a_baseline_with_another_vocabulary(loaded, tmp_path):
    larger = load(save_tiny_model(tmp_path / "larger", vocab_size=264))
    with pytest.raises(NeuronMMError, match="The model has 260 logits and the baseline 264.*--no_divergence"):
        evaluate(loaded, tmp_path / "scores", larger)
    evaluate(loaded, tmp_path / "scores")


def test_windows_longer_than_a_model(loaded, tmp_path):
    evaluate(loaded, tmp_path / "scores", text=TEXT * 2, window=512, windows=1)
    with pytest.raises(
        NeuronMMError, match=r"tiny-llama takes 512 tokens, and the windows of made.jsonl have 513.*--window 512"
    ):
        evaluate(loaded, tmp_path / "scores", window=513)
    shorter = load(save_tiny_model(tmp_path / "shorter", max_position_embeddings=32))
    with pytest.raises(NeuronMMError, match="shorter takes 32 tokens"):
        evaluate(loaded, tmp_path / "scores", shorter)


def test_a_text_that_is_too_short(loaded, tmp_path):
    with pytest.raises(NeuronMMError, match="made.jsonl: expected at least one window of 64 tokens, got 5 tokens"):
        evaluate(loaded, tmp_path, text="short")


def damaged(loaded, directory):
    """The model with a NaN in what stands for one token, the é."""
    copy = load(shutil.copytree(loaded.identity.directory, directory))
    token = build_tokenizer()("é").input_ids[0]
    copy.model.model.embed_tokens.weight.data[token] = math.nan
    return copy


def test_a_window_whose_loss_is_no_number(loaded, tmp_path):
    wrong = damaged(loaded, tmp_path / "damaged")
    scores = tmp_path / "scores"
    text = "a" * 128 + "é" * 16 + "a" * 100
    with pytest.raises(NotFiniteError, match="made.jsonl, window 3: damaged gives nan instead of finite numbers"):
        evaluate(wrong, scores, text=text, windows=None)
    assert "2" not in kept(scores)
    assert evaluate(wrong, scores, text=text, windows=2).entry["windows"] == 2


def test_a_baseline_whose_logits_are_no_numbers(loaded, tmp_path):
    wrong = damaged(loaded, tmp_path / "damaged")
    with pytest.raises(NotFiniteError, match="made.jsonl, window 2: damaged gives nan instead of finite numbers"):
        evaluate(loaded, tmp_path / "scores", wrong, text="a" * 70 + "é" + "a" * 100)
    assert "1" not in kept(tmp_path / "scores")


@pytest.mark.parametrize(
    ("key", "value"),
    [("tokens", 1), ("tokens", None), ("loss", "1"), ("loss", math.nan), ("loss", None), ("divergence", None)],
)
def test_kept_scores_that_cannot_be(loaded, other, tmp_path, key, value):
    evaluate(loaded, tmp_path, other)
    [path] = tmp_path.iterdir()
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    lines[-1] = json.dumps(json.loads(lines[-1]) | {key: value})
    path.write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    with pytest.raises(NeuronMMError, match="no score of made.jsonl, window .* looks so. Delete the file"):
        evaluate(loaded, tmp_path, other)
