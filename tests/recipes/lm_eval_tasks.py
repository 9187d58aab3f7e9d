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
"""lm-eval as a referee: its own tasks over local rows, and what it measures of a model in memory."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import pytest

from .data.example_rows import as_hub_row


# Beside lm-eval's own definition, for rows whose text is already as lm-eval makes it.
_AS_IT_IS = {"hellaswag": {"process_docs": None, "doc_to_text": "{{context}}"}}
_SPLITS = ("train", "validation", "test")  # lm-eval looks at all that its file names
_FILES = {
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "winogrande": "winogrande/default.yaml",
}


@dataclass(frozen=True)
class Judged:
    """What lm-eval finds.

    Attributes:
        metrics: acc, acc_stderr and, where the task has them, acc_norm, acc_norm_stderr.
        log_likelihoods: of each choice of each example.
        right: for each metric, 1.0 for each example that it counts as right.
    """

    metrics: dict[str, float]
    log_likelihoods: list[list[float]]
    right: dict[str, list[float]]


def build_task(name: str, rows: list[dict], directory: Path) -> dict:
    """lm-eval's own task of that name, its YAML included, over local rows; as `judge` takes it.

    Args:
        rows: in the form of a local file.
        directory: for the rows in the form of the Hub's data set, the YAML and the cache of datasets.
    """
    lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'lm-eval[hf]>=0.4.13'")
    import yaml
    from lm_eval.tasks import TaskManager

    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{name}.hub.jsonl"
    file.write_text("".join(json.dumps(as_hub_row(name, row)) + "\n" for row in rows), encoding="utf-8")
    task = f"local_{name}"
    config = {
        "include": str(Path(lm_eval.__file__).parent / "tasks" / _FILES.get(name, f"{name}/{name}.yaml")),
        "task": task,
        "dataset_path": "json",
        "dataset_name": None,
        "num_fewshot": 0,
        "dataset_kwargs": {"data_files": dict.fromkeys(_SPLITS, str(file)), "cache_dir": str(directory / "cache")},
        **_AS_IT_IS.get(name, {}),
    }
    (directory / f"{task}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return TaskManager(include_path=str(directory), include_defaults=False).load([task])


def build_model(model, tokenizer, batch_size: int = 8, **options):
    """A transformers model in memory as lm-eval's own backend for such models."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'lm-eval[hf]>=0.4.13'")
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every row that it cuts
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, **options)


def judge(model, task: dict) -> Judged:
    """Evaluates.

    Args:
        model: of `build_model`.
        task: of `build_task`.
    """
    from lm_eval import evaluate

    found = evaluate(model, task)
    [(name, samples)] = found["samples"].items()
    samples = sorted(samples, key=lambda sample: sample["doc_id"])
    metrics = {key.partition(",")[0]: value for key, value in found["results"][name].items() if ",none" in key}
    return Judged(
        metrics=metrics,
        log_likelihoods=[[value for value, _ in sample["filtered_resps"]] for sample in samples],
        right={key: [sample[key] for sample in samples] for key in ("acc", "acc_norm") if key in metrics},
    )
