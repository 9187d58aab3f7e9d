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
"""Judges that share no code with the evaluation: lm-eval for questions, a plain loop for texts.

lm-eval runs its own tasks on the same rows with the same model. With a real vocabulary its softmax is done in float64:
torch's `log_softmax` in float32 gives about 1e-5 a token too much there, 6e-4 for the longest choices, where ours, by
`logsumexp`, has no such bias. What is left is the rounding of the forward pass.
"""

import gzip
import json
import math
import random
import warnings
from pathlib import Path

import pytest
import torch

from optimum_neuronmm.recipes.data.sources import load_data
from optimum_neuronmm.recipes.data.tasks import MULTIPLE_CHOICE, TASKS
from optimum_neuronmm.recipes.description.task_options import QuestionOptions, TextOptions
from optimum_neuronmm.recipes.scoring.evaluation import evaluate
from optimum_neuronmm.recipes.scoring.examples import Scores
from optimum_neuronmm.recipes.scoring.identity import identify
from optimum_neuronmm.recipes.scoring.loading import LoadedModel

from ..conftest import SHARED_DATA, build_tokenizer, save_tiny_model
from .lm_eval_tasks import build_model, build_task, judge


QUESTIONS = [name for name, task in TASKS.items() if task.kind == MULTIPLE_CHOICE]
WORDS = "water heat the a of plant falls moves because energy 12 3.5 % grows not r\u00e9sum\u00e9 \u65e5\u672c \U0001f600 it's".split()


def load(directory: Path) -> LoadedModel:
    return LoadedModel(identify(directory), "float32", "cpu")


def evaluated(loaded: LoadedModel, name: str, options, data: Path, scores: Path) -> tuple[dict, list[dict]]:
    """The entry for report.json, and the kept scores of the examples."""
    found = load_data(TASKS[name], data={name: data}, layout=getattr(options, "layout", None))
    result = evaluate(loaded, TASKS[name], options, found, Scores(scores))
    [file] = scores.glob(f"*-{name}-*.jsonl")
    return result.entry, [json.loads(line) for line in file.read_text().splitlines()[1:]]


def compare(loaded: LoadedModel, name: str, rows: list[dict], directory: Path, tolerance: float, **options) -> dict:
    """Fails where lm-eval finds anything else; else the entry for report.json.

    Args:
        tolerance: of the log-likelihood of each choice, nats.
        options: of lm-eval's model.
    """
    file = directory / f"{TASKS[name].file}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    entry, kept = evaluated(loaded, name, QuestionOptions(), file, directory / "scores")
    model = build_model(loaded.model, loaded.tokenizer, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "divide by zero", RuntimeWarning)  # by the characters of an empty option
        judged = judge(model, build_task(name, rows, directory / "lm-eval"))

    assert entry["examples"] == len(rows) == len(judged.log_likelihoods)
    for metric, value in judged.metrics.items():
        assert entry[metric] == pytest.approx(value, abs=1e-12), metric
    assert {"acc", *TASKS[name].metrics} <= set(judged.metrics)
    scores = {entry["id"]: entry["log_likelihoods"] for entry in kept}
    for row, theirs, right in zip(rows, judged.log_likelihoods, judged.right["acc"], strict=True):
        distinct = list(dict.fromkeys(row["choices"]))  # equal choices are scored once
        ours = [scores[row["id"]][distinct.index(choice)] for choice in row["choices"]]
        assert ours == pytest.approx(theirs, abs=tolerance), row
        assert ours.index(max(ours)) == theirs.index(max(theirs)), row
        assert (ours.index(max(ours)) == row["label"]) == bool(right), row
    return entry


def phrase(generator: random.Random, shortest: int, longest: int) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randint(shortest, longest)))


def made_up_rows(name: str, count: int, longest: int = 25) -> list[dict]:
    """Rows of a local file. The first ones are the special cases that real data have, and worse.

    Args:
        longest: words in a question; choices have up to a fifth of it.
    """
    generator = random.Random(name)
    rows = []
    for index in range(count):
        choices = [phrase(generator, 1, longest // 5) for _ in range(5 if name == "mathqa" else 4)]
        question = phrase(generator, 3, longest)
        row = {"id": f"{name}-{index}", "label": generator.randrange(len(choices))}
        if name == "winogrande":
            before, after = (
                ("", " ", "_ ")[index] if index < 3 else phrase(generator, 1, 9) + " ",
                phrase(generator, 1, 9),
            )
            row |= {"option1": choices[0], "option2": choices[1], "choices": choices[:2], "label": row["label"] % 2}
            row["sentence"] = f"{before}_{generator.choice(' .')}{after}"
            rows.append(row)
            continue
        field = "context" if name == "hellaswag" else "question"
        row |= {field: question, "choices": choices}
        if index == 0:
            choices[1] = choices[3] = choices[row["label"]]  # the first of equal ones counts
        elif index == 1:
            choices[1] = ""
        elif index == 2:
            row[field] = f"{question} \n"  # its end goes to the choices
        elif index == 3:
            row[field] = f"<|endoftext|>{question}"  # no BOS is added to one
        elif index in (4, 5) and name.startswith("arc"):
            row |= {"choices": [*choices, "5"] if index == 4 else choices[:3], "label": index - 2 - (index == 5)}
        rows.append(row)
    return rows


def real_rows(name: str, count: int) -> list[dict]:
    """Rows of the data set with the traits that matter, the shortest of each, and others of the shorter half."""
    path = SHARED_DATA / "tasks" / f"{TASKS[name].file}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"no evaluation data in {SHARED_DATA}: set NEURONMM_SHARED_DATA")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = sorted((json.loads(line) for line in file), key=lambda row: (len(json.dumps(row)), row["id"]))
    traits = (
        lambda row: not json.dumps(row, ensure_ascii=False).isascii(),
        lambda row: len(row["choices"]) == 3,
        lambda row: len(row["choices"]) == 5,
        lambda row: "" in row["choices"],
        lambda row: len(set(row["choices"])) < len(row["choices"]),
        lambda row: row.get("sentence", "").endswith("_ ."),
    )
    special = [row for row in (next(filter(trait, rows), None) for trait in traits) if row is not None]
    others = rows[: len(rows) // 2 : len(rows) // 2 // count]
    return list({row["id"]: row for row in special + others}.values())[:count]


@pytest.fixture(scope="module")
def tiny(tiny_llama) -> LoadedModel:
    return load(tiny_llama)


@pytest.fixture(scope="module")
def tiny_with_bos(tmp_path_factory) -> LoadedModel:
    """A tokenizer like Llama's, which begins every text with BOS."""
    return load(save_with_bos(tmp_path_factory.mktemp("models") / "tiny-bos"))


def save_with_bos(directory: Path, **options) -> Path:
    from tokenizers.processors import TemplateProcessing

    save_tiny_model(directory, **options)
    tokenizer = build_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def real_model(smollm2) -> LoadedModel:
    return load(smollm2)


class TestQuestions:
    @pytest.mark.parametrize("name", QUESTIONS)
    def test_a_tiny_model(self, tiny, name, tmp_path):
        entry = compare(tiny, name, made_up_rows(name, 120), tmp_path, tolerance=1e-4)
        assert (entry["bos"], entry["truncated"]) == (False, 0)
        assert entry["empty_options"] == (name != "winogrande")

    @pytest.mark.parametrize("name", QUESTIONS)
    def test_a_tokenizer_that_adds_bos(self, tiny_with_bos, name, tmp_path):
        entry = compare(tiny_with_bos, name, made_up_rows(name, 30), tmp_path, tolerance=1e-4)
        assert entry["bos"] is True

    @pytest.mark.parametrize("save", [save_tiny_model, save_with_bos])
    @pytest.mark.parametrize("name", ["arc_easy", "winogrande", "hellaswag"])
    def test_rows_that_are_longer_than_the_model_takes(self, name, save, tmp_path):
        loaded = load(save(tmp_path / "short", max_position_embeddings=64))
        entry = compare(loaded, name, made_up_rows(name, 40, longest=15), tmp_path, tolerance=1e-4)
        assert 0 < entry["truncated"]

    @pytest.mark.slow
    @pytest.mark.parametrize("name", QUESTIONS)
    def test_a_real_model_on_real_data(self, real_model, name, tmp_path):
        count = {"hellaswag": 6, "mathqa": 8}.get(name, 12)  # they are long, or have many choices
        compare(real_model, name, real_rows(name, count), tmp_path, tolerance=1e-4, softmax_dtype=torch.float64)


def plain_perplexity(model, windows: list[list[int]]) -> float:
    """exp of the mean loss of all tokens but each window's first, window by window, reduced in float64."""
    total, count = 0.0, 0
    for window in windows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([window])).logits[0].double()
        total -= logits.log_softmax(-1)[range(len(window) - 1), window[1:]].sum().item()
        count += len(window) - 1
    return math.exp(total / count)


def read(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode()


def wikitext(corpora: Path, layout: str) -> tuple[Path, str]:
    path = corpora / "wikitext2.test.txt.gz"
    if layout == "raw":
        return path, read(path)
    lines = read(path).split("\n")[:-1]
    return path, "\n\n".join(line + "\n" if line.strip() else "" for line in lines)


def ptb(corpora: Path, layout: str) -> tuple[Path, str]:
    path = corpora / "ptb.test.txt.gz"
    joiner = {"joined": " ", "blank_lines": "\n\n"}[layout]
    return path, joiner.join(line.strip() for line in read(path).split("\n"))


def c4(corpora: Path, layout: str) -> tuple[Path, str]:
    path = corpora / "c4.validation-2k.jsonl.gz"
    return path, " ".join(json.loads(line)["text"] for line in read(path).splitlines()[:1100])


class TestTexts:
    def check(self, loaded, name, options, path, windows, directory):
        entry, kept = evaluated(loaded, name, options, path, directory / "scores")
        assert entry["windows"] == len(windows) == len(kept)
        assert entry["tokens"] == sum(len(window) - 1 for window in windows)
        assert entry["perplexity"] == pytest.approx(plain_perplexity(loaded.model, windows), rel=1e-6)

    def test_a_tiny_model(self, tiny, text_file, tmp_path):
        tokens = tiny.tokenizer(text_file.read_text()).input_ids
        windows = [tokens[start : start + 100] for start in range(0, 1000, 100)]
        self.check(tiny, "wikitext2", TextOptions("raw", 100, 10), text_file, windows, tmp_path)

    @pytest.mark.parametrize("bos", ["first", "none", "every"])
    def test_a_tokenizer_that_adds_bos(self, tiny_with_bos, text_file, bos, tmp_path):
        tokens = tiny_with_bos.tokenizer(text_file.read_text(), add_special_tokens=bos == "first").input_ids
        content = 49 if bos == "every" else 50
        windows = [tokens[start : start + content] for start in range(0, 9 * content, content)]
        if bos == "every":
            windows = [[tiny_with_bos.tokenizer.bos_token_id, *window] for window in windows]
        self.check(tiny_with_bos, "wikitext2", TextOptions("raw", 50, 9, bos), text_file, windows, tmp_path)

    def test_all_windows_of_a_text(self, tiny, text_file, tmp_path):
        tokens = tiny.tokenizer(text_file.read_text()).input_ids
        windows = [tokens[start : start + 512] for start in range(0, len(tokens) - 511, 512)]
        self.check(tiny, "wikitext2", TextOptions("raw", 512), text_file, windows, tmp_path)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "layout", "text"),
        [
            ("wikitext2", "joined", wikitext),
            ("wikitext2", "raw", wikitext),
            ("ptb", "joined", ptb),
            ("ptb", "blank_lines", ptb),
            ("c4", "joined", c4),
        ],
    )
    def test_a_real_model_on_real_text(self, real_model, corpora, name, layout, text, tmp_path):
        path, whole = text(corpora, layout)
        tokens = real_model.tokenizer(whole, verbose=False).input_ids
        windows = [tokens[:128], tokens[128:256]]
        self.check(real_model, name, TextOptions(layout, 128, 2), path, windows, tmp_path)
