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
"""Rows in the forms of the Hub's data sets and of local files, and what lm-eval makes of the former."""

from pathlib import Path

import pytest


# One row of each data set, made up, with traits of the real ones: labels 1 to 4, marks of WikiHow, commas in options.
HUB_ROWS = {
    "wikitext2": {"text": " = A heading = \n"},
    "ptb": {"sentence": "the company said <unk> rose N N"},
    "c4": {"text": "A document.\nIts second line.", "timestamp": "2019-04-25T12:57:54Z", "url": "https://example.com"},
    "openbookqa": {
        "id": "question-1",
        "question_stem": "A lamp without a plug is",
        "choices": {"text": ["noisy", "of little use", "", "green"], "label": ["A", "B", "C", "D"]},
        "answerKey": " B",
    },
    "arc_easy": {
        "id": "SCHOOL_1_2",
        "question": "What is a drawing of a town from above called?",
        "choices": {"text": ["street sign", "city map", "picture book"], "label": ["1", "2", "3"]},
        "answerKey": "2",
    },
    "arc_challenge": {
        "id": "Mercury_1",
        "question": "Which of {these} is it?",
        "choices": {"text": ["this", "that 'one'", 'the "other"', "\u00e9t\u00e9"], "label": ["A", "B", "C", "D"]},
        "answerKey": "D",
    },
    "winogrande": {
        "sentence": "Ada lent Bruno her bicycle because _ had missed the last_bus. ",
        "option1": "Ada",
        "option2": "Bruno",
        "answer": "2",
    },
    "hellaswag": {
        "ind": 24,
        "activity_label": "Washing  Hands",
        "ctx_a": " [header] How to wash [title] Use soap. [step] Open the tap.",
        "ctx_b": "then Mark",
        "ctx": "unused",
        "endings": ["dries them .", " [step] runs [title] away.", "[substeps] ", "sleeps  here."],
        "source_id": "wikihow~1",
        "split": "val",
        "split_type": "indomain",
        "label": "1",
    },
    "mathqa": {
        "Problem": "what is 1 , 5 and e ) 2 ?",
        "Rationale": "unused",
        "options": "a ) 38 , b ) , c ) 1,000 km , d ) 2 and 3 , e ) none , of these , ",
        "correct": "c",
        "annotated_formula": "",
        "linear_formula": "",
        "category": "gain",
    },
}


def local_row(name: str, **changes) -> dict:
    """A row of a local file of a multiple-choice task."""
    row = {"id": f"{name}-1", "choices": ["one", "two"], "label": 1}
    if name == "winogrande":
        row |= {"sentence": "I saw _ there.", "option1": "one", "option2": "two"}
    else:
        row |= {"context" if name == "hellaswag" else "question": "How many?"}
    return row | changes


def as_hub_row(name: str, row: dict) -> dict:
    """A row of a local file in the form of the Hub's data set; HellaSwag's stays as it is."""
    if name == "winogrande":
        options = {"option1": row["option1"], "option2": row["option2"]}
        return {"sentence": row["sentence"], **options, "answer": str(row["label"] + 1)}
    if name == "mathqa":
        options = " , ".join(f"{letter} ) {choice}" for letter, choice in zip("abcde", row["choices"], strict=True))
        return {"Problem": row["question"], "options": options, "correct": "abcde"[row["label"]]}
    if name == "hellaswag":
        return {"context": row["context"], "choices": row["choices"], "label": row["label"]}
    labels = [str(index + 1) for index in range(len(row["choices"]))]
    choices = {"text": row["choices"], "label": labels}
    stem = "question_stem" if name == "openbookqa" else "question"
    return {"id": row["id"], stem: row["question"], "choices": choices, "answerKey": labels[row["label"]]}


def lm_eval_task(name: str, rows: list[dict], **changes):
    """lm-eval's own task, made from its own file, over these rows.

    Args:
        rows: in the form of the Hub's data set.
        changes: to what its file says.
    """
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'lm-eval[hf]==0.4.13'")
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    data = dict.fromkeys(("train", "validation", "test"), Dataset.from_list(rows))
    return ConfigurableTask(config={**lm_eval_config(name), "custom_dataset": lambda **options: data, **changes})


def lm_eval_config(name: str) -> dict:
    """What lm-eval's own file of a task says."""
    lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'lm-eval[hf]==0.4.13'")
    from lm_eval.tasks._yaml_loader import load_yaml

    folder = {"arc_easy": "arc", "arc_challenge": "arc"}.get(name, name)
    file = "default" if name == "winogrande" else name
    return load_yaml(Path(lm_eval.__file__).parent / "tasks" / folder / f"{file}.yaml")


def lm_eval_requests(task) -> list[tuple[tuple[tuple[str, str], ...], int, tuple[int, ...]]]:
    """For each example: the (context, continuation) pairs, the right one, and what acc_norm divides by."""
    task.build_all_requests(rank=0, world_size=1)
    docs = list(task.eval_docs)
    pairs = [[] for _ in docs]
    for instance in task.instances:
        pairs[instance.doc_id].append(instance.args)
    gold = task.doc_to_text if task.multiple_input else task.doc_to_target
    return [
        (tuple(pairs[i]), gold(doc), tuple(len(choice) for choice in task.doc_to_choice(doc)))
        for i, doc in enumerate(docs)
    ]
