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
"""The nine tasks of the recipes: three texts for perplexity and six sets of multiple-choice questions."""

from dataclasses import dataclass

from optimum_neuronmm.errors import NeuronMMError


PERPLEXITY, MULTIPLE_CHOICE = "perplexity", "multiple_choice"


@dataclass(frozen=True)
class Hub:
    """Where a task lies on the Hugging Face Hub, as `datasets.load_dataset` takes it.

    Attributes:
        dataset: id of the repository.
        config: name of the configuration, if it has several.
        data_file: the file to read where not the whole split is wanted, or where the repository alone does not say.
        revision: branch or commit; None is the newest.
        streaming: read row by row and stop early, instead of fetching everything.
    """

    dataset: str
    config: str | None = None
    data_file: str | None = None
    revision: str | None = None
    streaming: bool = False


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: as options and reports name it.
        kind: "perplexity" or "multiple_choice".
        title: for tables and plots.
        split: "test" or "validation".
        hub: where the data come from by default.
        file: how the name of a local file begins.
        suffix: how it ends: ".txt" or ".jsonl", with or without ".gz" behind it.
        metrics: what is measured.
        layouts: of a perplexity task: how its documents can become one text (see `texts`). The first is the default.
    """

    name: str
    kind: str
    title: str
    split: str
    hub: Hub
    file: str
    suffix: str
    metrics: tuple[str, ...]
    layouts: tuple[str, ...] = ()


def _text(name: str, title: str, split: str, hub: Hub, suffix: str, layouts: tuple[str, ...]) -> Task:
    return Task(name, PERPLEXITY, title, split, hub, f"{name}.{split}", suffix, ("perplexity",), layouts)


def _questions(name: str, title: str, split: str, hub: Hub, metrics: tuple[str, ...] = ("acc", "acc_norm")) -> Task:
    return Task(name, MULTIPLE_CHOICE, title, split, hub, f"{name}.{split}", ".jsonl", metrics)


_ALL = (
    _text(
        "wikitext2",
        "WikiText-2",
        "test",
        Hub("Salesforce/wikitext", "wikitext-2-raw-v1"),
        ".txt",
        ("joined", "raw"),
    ),
    _text(
        "ptb",
        "PTB",
        "test",
        # The repository holds a loading script, which datasets 4 and newer do not run; this branch holds its output.
        Hub(
            "ptb-text-only/ptb_text_only",
            data_file="penn_treebank/test/*.parquet",
            revision="refs/convert/parquet",
        ),
        ".txt",
        ("joined", "blank_lines"),
    ),
    _text(
        "c4",
        "C4",
        "validation",
        Hub("allenai/c4", data_file="en/c4-validation.00000-of-00008.json.gz", streaming=True),
        ".jsonl",
        ("joined",),
    ),
    _questions("openbookqa", "OpenBookQA", "test", Hub("allenai/openbookqa", "main")),
    _questions("arc_easy", "ARC-easy", "test", Hub("allenai/ai2_arc", "ARC-Easy")),
    _questions("arc_challenge", "ARC-challenge", "test", Hub("allenai/ai2_arc", "ARC-Challenge")),
    # Its two rows share what is scored and differ in what comes before, so a length to divide by means nothing.
    _questions("winogrande", "WinoGrande", "validation", Hub("allenai/winogrande", "winogrande_xl"), ("acc",)),
    _questions("hellaswag", "HellaSwag", "validation", Hub("Rowan/hellaswag")),
    _questions("mathqa", "MathQA", "test", Hub("regisss/math_qa")),
)

TASKS: dict[str, Task] = {task.name: task for task in _ALL}
"""By name, in the order of the paper's table."""


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
        NeuronMMError: there is none.
    """
    if name not in TASKS:
        raise NeuronMMError(f"Unknown task {name!r}: expected one of {', '.join(TASKS)}.")
    return TASKS[name]
