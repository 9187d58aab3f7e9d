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
"""Questions, against log-likelihoods in float64 of each choice on its own."""

import json
import math

import pytest
import torch

from optimum_neuronmm.errors import NeuronMMError, NotFiniteError
from optimum_neuronmm.recipes.data.tasks import TASKS
from optimum_neuronmm.recipes.description.task_options import QuestionOptions
from optimum_neuronmm.recipes.scoring.examples import Scores
from optimum_neuronmm.recipes.scoring.questions import evaluate_questions

from ...conftest import build_tokenizer, save_tiny_model
from .common import as_data, bos_tokenizer, load, question


TASK = TASKS["arc_easy"]


def ask(number: int, *choices: str, label: int = 0, context: str | None = None):
    context = f"Question: what is {number} é?\nAnswer:" if context is None else context
    rows = [(context, f" {choice}" if choice else "") for choice in choices]
    return question(f"q{number}", rows, label, [len(choice) for choice in choices])


QUESTIONS = [
    ask(0, "a house", "b", "ccc ccc ccc ccc", "d e"),
    ask(1, "11", "12", "13", label=2),
    ask(2, "same", "same", "other", "same", label=1),
    ask(3, "x" * 40, "y", label=1),
    ask(4, "sí", "日本", "\U0001f600", "n", "o", label=4),
    ask(5, "up", "down", label=1),
]


@pytest.fixture(scope="module")
def loaded(tiny_llama):
    return load(tiny_llama)


@pytest.fixture(scope="module")
def loaded_bos(tmp_path_factory):
    directory = save_tiny_model(tmp_path_factory.mktemp("models") / "bos")
    bos_tokenizer().save_pretrained(directory)
    return load(directory)


def evaluate(loaded, questions, directory, count=None, task=TASK):
    return evaluate_questions(loaded, task, QuestionOptions(count), as_data(questions), Scores(directory, 200))


@torch.no_grad()
def log_likelihoods(model, tokenizer, asked) -> list[float]:
    """Of each choice on its own."""
    found = []
    for context, continuation in asked.rows:
        begin, ids = tokenizer(context).input_ids, tokenizer(context + continuation).input_ids
        logits = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        found.append(sum(logits[place - 1, ids[place]].item() for place in range(len(begin), len(ids))))
        found[-1] = found[-1] if len(ids) > len(begin) else -math.inf
    return found


def check(loaded, questions, result) -> None:
    """Accuracy, its error and the outcomes by their definitions."""
    own = [log_likelihoods(loaded.model, loaded.tokenizer, asked) for asked in questions]
    per_character = [
        [value / length if length else -math.inf for value, length in zip(values, asked.lengths, strict=True)]
        for values, asked in zip(own, questions, strict=True)
    ]
    n = len(questions)
    for values, names in ((own, ("acc", "acc_stderr")), (per_character, ("acc_norm", "acc_norm_stderr"))):
        right = [max(range(len(v)), key=v.__getitem__) == q.label for v, q in zip(values, questions, strict=True)]
        share = sum(right) / n
        assert result.entry[names[0]] == pytest.approx(share)
        assert result.entry[names[1]] == pytest.approx(math.sqrt(share * (1 - share) / (n - 1)))
        if values is own:
            assert result.outcomes == [float(one) for one in right]
    assert result.entry["examples"] == n and result.entry["kind"] == "multiple_choice" and result.tokens is None


def kept(directory) -> dict[str, list[float]]:
    [path] = directory.iterdir()
    entries = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    return {entry["id"]: entry["log_likelihoods"] for entry in entries}


@pytest.mark.parametrize("bos", [False, True])
def test_as_each_choice_on_its_own(loaded, loaded_bos, tmp_path, bos):
    loaded = loaded_bos if bos else loaded
    result = evaluate(loaded, QUESTIONS, tmp_path)
    check(loaded, QUESTIONS, result)
    assert 0 < result.entry["acc"] < 1, "an accuracy at the end of its range says little"
    assert result.entry["bos"] is bos and result.entry["empty_options"] == result.entry["truncated"] == 0
    for asked in QUESTIONS:
        distinct = list(dict.fromkeys(asked.rows))
        values = dict(zip(distinct, kept(tmp_path)[asked.id], strict=True))
        assert [values[row] for row in asked.rows] == pytest.approx(
            log_likelihoods(loaded.model, loaded.tokenizer, asked), abs=1e-4
        )


def test_the_first_of_equal_choices(loaded, tmp_path):
    questions = [ask(n, "x", "x", "x", label=n) for n in range(3)]
    result = evaluate(loaded, questions, tmp_path)
    assert result.outcomes == [1.0, 0.0, 0.0] and result.entry["acc"] == pytest.approx(1 / 3)


def test_the_first_questions(loaded, tmp_path):
    result = evaluate(loaded, QUESTIONS, tmp_path, 2)
    check(loaded, QUESTIONS[:2], result)
    assert set(kept(tmp_path)) == {"q0", "q1"}
    assert evaluate(loaded, QUESTIONS[:2], tmp_path).examples == result.examples
    more = evaluate(loaded, QUESTIONS, tmp_path, 100)
    assert more.entry["examples"] == 6 and more.examples != result.examples


def test_scores_are_kept(loaded, tmp_path, monkeypatch):
    first = evaluate(loaded, QUESTIONS[:4], tmp_path)
    seen, logits = [], loaded.scoring.logits
    monkeypatch.setattr(loaded.scoring, "logits", lambda groups: seen.extend(groups) or logits(groups))
    assert evaluate(loaded, QUESTIONS[:4], tmp_path) == first and not seen
    evaluate(loaded, QUESTIONS, tmp_path)
    assert len(seen) == 2


def test_choices_without_tokens_are_never_chosen(loaded, tmp_path):
    questions = [
        ask(0, "", "a", label=1),
        ask(1, "b", "", "c c"),
        ask(2, "", "a", label=0),
        ask(3, "", "z" * 30, label=1),
    ]
    result = evaluate(loaded, questions, tmp_path)
    check(loaded, questions, result)
    assert result.outcomes[0] == result.outcomes[3] == 1 and result.outcomes[2] == 0
    assert result.entry["empty_options"] == 4


def test_a_question_of_which_no_choice_has_tokens(loaded, tmp_path):
    with pytest.raises(NeuronMMError, match="no choice has a token"):
        evaluate(loaded, [QUESTIONS[0], ask(1, "", "")], tmp_path)
    assert list(tmp_path.iterdir()) == [], "found before anything was scored"


def test_rows_that_lose_their_start(loaded, tmp_path):
    long = ask(7, "a", "b", "c" * 30, label=1, context="w" * 505)
    result = evaluate(loaded, [QUESTIONS[0], long], tmp_path)
    assert result.entry["truncated"] == 1 and result.entry["empty_options"] == 0
    ids = build_tokenizer()(long.rows[2][0] + long.rows[2][1]).input_ids[-513:]
    with torch.no_grad():
        logits = loaded.model(input_ids=torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)
    expected = logits[torch.arange(512 - 31, 512), ids[-31:]].sum().item()
    assert kept(tmp_path)["q7"][2] == pytest.approx(expected, abs=1e-4)


def test_a_shorter_limit_gives_other_scores(tiny_llama, tmp_path):
    long = [ask(7, "a", "b", context="w" * 50)]
    values = []
    for limit in (512, 20):
        loaded = load(tiny_llama)
        loaded.__dict__["max_length"] = limit
        result = evaluate(loaded, long, tmp_path)
        assert result.entry["truncated"] == (2 if limit == 20 else 0)
        values.append([json.loads(path.read_text().splitlines()[1]) for path in tmp_path.iterdir()])
    assert len(values[1]) == 2 and values[1][0] != values[1][1]


def test_a_bos_token_that_the_tokenizer_does_not_use(tmp_path):
    directory = save_tiny_model(tmp_path / "model")
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.save_pretrained(directory)
    result = evaluate(load(directory), QUESTIONS[:2], tmp_path / "scores")
    assert result.entry["bos"] is False


def test_a_choice_longer_than_the_model(loaded, tmp_path):
    with pytest.raises(NeuronMMError, match="line q9: a choice has 601 tokens, and the model takes 512"):
        evaluate(loaded, [ask(9, "a", "b" * 600)], tmp_path)


def test_a_task_without_acc_norm(loaded, tmp_path):
    entry = evaluate(loaded, QUESTIONS, tmp_path, task=TASKS["winogrande"]).entry
    assert "acc" in entry and "acc_norm" not in entry and "acc_norm_stderr" not in entry


class Answers:
    """Gives one number for every logit of a token."""

    def __init__(self, token: int, value: float, only: int | None = None):
        self.token, self.value, self.only = token, value, only

    def logits(self, groups):
        found = [[torch.zeros(row.scored, 260) for row in rows] for rows in groups]
        for rows, of_rows in zip(groups, found, strict=True):
            for row, logits in zip(rows, of_rows, strict=True):
                if self.only is None or self.only in row.tokens:
                    logits[:, self.token] = self.value
        return found


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_no_numbers(loaded, tmp_path, monkeypatch, value):
    [b] = build_tokenizer()("5").input_ids
    monkeypatch.setitem(loaded.__dict__, "scoring", Answers(3, value, only=b))
    with pytest.raises(NotFiniteError, match=r"made.jsonl, line q5: .*tiny-llama.* gives .*nan"):
        evaluate(loaded, QUESTIONS, tmp_path)
    assert "q5" not in kept(tmp_path)


def test_a_log_likelihood_above_every_number(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr("optimum_neuronmm.recipes.scoring.questions.log_likelihood", lambda *_: math.inf)
    with pytest.raises(NotFiniteError, match="line q3: .* gives inf, inf"):
        evaluate(loaded, QUESTIONS, tmp_path)


def test_a_choice_that_cannot_be(loaded, tmp_path, monkeypatch):
    """A log-likelihood of -inf is a number to compare by, and comes back from the file as such."""
    [x] = build_tokenizer()("x").input_ids
    monkeypatch.setitem(loaded.__dict__, "scoring", Answers(x, -math.inf))
    questions = [ask(0, "x", "aaa", label=1), ask(1, "x", "aaa", label=0)]
    for _ in range(2):
        result = evaluate(loaded, questions, tmp_path)
        assert result.outcomes == [1.0, 0.0] and result.entry["acc_norm"] == 0.5
    assert kept(tmp_path)["q0"][0] == -math.inf


@pytest.mark.parametrize(
    "damage",
    [
        lambda score: score["log_likelihoods"].pop(),
        lambda score: score["log_likelihoods"].append(-1.0),
        lambda score: score.pop("log_likelihoods"),
        lambda score: score.update(log_likelihoods="abc"),
        lambda score: score["log_likelihoods"].__setitem__(0, "-1"),
        lambda score: score["log_likelihoods"].__setitem__(0, math.nan),
        lambda score: score["log_likelihoods"].__setitem__(0, math.inf),
    ],
)
def test_kept_scores_that_cannot_be(loaded, tmp_path, damage):
    evaluate(loaded, QUESTIONS, tmp_path)
    [path] = tmp_path.iterdir()
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    scores = [json.loads(line) for line in lines]
    damage(next(score for score in scores if score["id"] == "q1"))
    path.write_text("\n".join([header, *map(json.dumps, scores), ""]), encoding="utf-8")
    with pytest.raises(NeuronMMError, match="no score of made.jsonl, line q1 looks so. Delete the file"):
        evaluate(loaded, QUESTIONS, tmp_path)
    evaluate(loaded, [QUESTIONS[0], *QUESTIONS[2:]], tmp_path)  # the others are as they were
