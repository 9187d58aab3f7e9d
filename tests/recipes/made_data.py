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
"""A directory of local data for all nine tasks, small and made up, and a recipe over it."""

import gzip
import json
import random
from pathlib import Path

import yaml

from optimum_neuronmm.recipes.data.tasks import MULTIPLE_CHOICE, TASKS
from optimum_neuronmm.recipes.description.recipe import Recipe


QUESTIONS = [name for name, task in TASKS.items() if task.kind == MULTIPLE_CHOICE]
TEXTS = [name for name in TASKS if name not in QUESTIONS]
EXAMPLES = 6  # of each task of questions
WORDS = "water heat the a of plant falls moves because energy 12 3.5 grows not caf\u00e9".split()
WINDOW = 32


def phrase(generator: random.Random, shortest: int, longest: int) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randint(shortest, longest)))


def rows_of(name: str, count: int = EXAMPLES) -> list[dict]:
    """Rows of a task's local file."""
    generator, rows = random.Random(name), []
    for index in range(count):
        choices = [phrase(generator, 1, 3) for _ in range(2 if name == "winogrande" else 4)]
        row = {"id": f"{name}-{index}", "choices": choices, "label": generator.randrange(len(choices))}
        if name == "winogrande":
            row |= {"option1": choices[0], "option2": choices[1]}
            row["sentence"] = f"{phrase(generator, 1, 2)} _ {phrase(generator, 1, 3)}."
        else:
            row["context" if name == "hellaswag" else "question"] = phrase(generator, 2, 5)
        rows.append(row)
    return rows


def lines_of(name: str) -> list[str]:
    """Lines, or documents, of a task's text: about 150 tokens of one byte."""
    generator = random.Random(name)
    return [phrase(generator, 4, 6) for _ in range(7)]


def write_data(directory: Path) -> Path:
    """Files for all nine tasks, and text to calibrate and train on: in the directory and its folders, some compressed."""
    for folder in ("corpora", "tasks"):
        (directory / folder).mkdir(parents=True)
    for name in QUESTIONS:
        write_lines(directory / "tasks" / f"{TASKS[name].file}.jsonl", rows_of(name))
    with gzip.open(directory / "corpora" / f"{TASKS['wikitext2'].file}.txt.gz", "wt", encoding="utf-8") as file:
        file.write("".join(line + "\n" for line in lines_of("wikitext2")))
    (directory / "ptb.test.txt").write_text("".join(line + "\n" for line in lines_of("ptb")), encoding="utf-8")
    documents = [{"id": str(number), "text": text} for number, text in enumerate(lines_of("c4"))]
    write_lines(directory / "corpora" / "c4.validation-7.jsonl", documents)
    generator = random.Random("train")
    text = "".join(phrase(generator, 5, 9) + "\n" for _ in range(120))
    (directory / "corpora" / "wikitext2.train-4kb.txt").write_text(text, encoding="utf-8")
    documents = [{"id": str(number), "text": phrase(generator, 20, 30)} for number in range(40)]
    write_lines(directory / "corpora" / "c4.train-40.jsonl", documents)
    return directory


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def recipe_content(model: str | Path, **changes) -> dict:
    """A recipe of two quick tasks, of each kind one."""
    return {
        "name": "tiny",
        "model": str(model),
        "variants": [{"ratio": 0}],
        "tasks": {"wikitext2": {"window": WINDOW, "windows": 4, "bos": "none"}, "arc_easy": None},
    } | changes


def recipe(model: str | Path, **changes) -> Recipe:
    return Recipe.from_dict(recipe_content(model, **changes))


def write_recipe(path: Path, model: str | Path, **changes) -> Path:
    path.write_text(yaml.safe_dump(recipe_content(model, **changes)), encoding="utf-8")
    return path


def without_times(report: dict) -> dict:
    """A report without what differs from run to run."""
    models = [{**model, "seconds": None, "speed": None, "gamma": None} for model in report["models"]]
    return {**report, "models": models, "seconds": None}
