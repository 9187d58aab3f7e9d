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
"""Results of an evaluation that nobody ran, for tests of reports."""

import math

from optimum_neuronmm.recipes.data.tasks import TASKS


TEXTS = ("wikitext2", "ptb", "c4")
QUESTIONS = tuple(name for name in TASKS if name not in TEXTS)
DENSE_PERPLEXITY = {"wikitext2": 9.75, "ptb": 15.4, "c4": 13.83}
DENSE_ACCURACY = {
    "openbookqa": 0.26,
    "arc_easy": 0.66,
    "arc_challenge": 0.31,
    "winogrande": 0.61,
    "hellaswag": 0.48,
    "mathqa": 0.29,
}


def text_entry(perplexity: float, divergence: float | None = None, **changes) -> dict:
    return {
        "kind": "perplexity",
        "perplexity": perplexity,
        "stderr": 0.05 * perplexity,
        "divergence": divergence,
        "divergence_stderr": None if divergence is None else divergence / 50,
        "tokens": 20440,
        "windows": 40,
        "window": 512,
        "layout": "raw",
        "bos": "first",
    } | changes


def question_entry(acc: float, acc_norm: float | None = None, examples: int = 1000, **changes) -> dict:
    def error(share: float) -> float:
        return (share * (1 - share) / (examples - 1)) ** 0.5

    entry = {"kind": "multiple_choice", "acc": acc, "acc_stderr": error(acc)}
    if acc_norm is not None:
        entry |= {"acc_norm": acc_norm, "acc_norm_stderr": error(acc_norm)}
    return entry | {"examples": examples, "bos": True, "empty_options": 0, "truncated": 0} | changes


def speed_entry(latency: float, device: str = "cpu") -> dict:
    """Everything in proportion to the latency; p90 a tenth above the median, which is a tenth below the mean."""

    def spread(median: float) -> dict:
        return {key: median * f for key, f in zip(("min", "p50", "mean", "p90", "p99", "max"), FACTORS, strict=True)}

    return {
        "settings": {"prompt_length": 1024, "new_tokens": 128, "batch_size": 1, "warmup": 1, "repeats": 5},
        "device": device,
        "dtype": "float32",
        "latency_s": spread(latency),
        "ttft_s": spread(latency / 8),
        "tpot_s": spread(latency / 256),
        "throughput_tokens_per_s": spread(128 / latency),
        "runs": [],
    }


FACTORS = (0.8, 1.0, 1.2, 1.5, 1.7, 2.0)
LOSS_ERROR, ACCURACY_ERROR = 0.03, 0.02  # standard errors of changes


def model(name: str, ratio: float = 0.0, growth: float = 1.0, drop: float = 0.0, **changes) -> dict:
    """All nine tasks: perplexities multiplied by `growth`, accuracies less `drop`, acc_norm a hundredth more.

    With a ratio it is not the baseline, and each task has its change against it.
    """
    tasks = {task: text_entry(growth * DENSE_PERPLEXITY[task], growth - 1 if ratio else None) for task in TEXTS}
    for task in QUESTIONS:
        acc = DENSE_ACCURACY[task] - drop
        tasks[task] = question_entry(acc, None if task == "winogrande" else acc + 0.01)
    for task, entry in tasks.items() if ratio else ():
        difference, error = (math.log(growth), LOSS_ERROR) if task in TEXTS else (0 - drop, ACCURACY_ERROR)
        entry["change"] = {"difference": difference, "stderr": error}
    return {
        "name": name,
        "model": "org/model",
        "revision": None,
        "sha256": "0123456789abcdef" * 4,
        "kind": "compressed" if ratio else "dense",
        "baseline": not ratio,
        "requested_ratio": ratio,
        "achieved_ratio": ratio + 0.0123 if ratio else 0.0,
        "parameters": 1_235_814_400,
        "made": "decomposition two_sided, calibrated on text" if ratio else None,
        "dtype": "float32",
        "device": "cpu",
        "tasks": tasks,
        "mean_accuracy": sum(tasks[task]["acc"] for task in QUESTIONS) / len(QUESTIONS),
        "gamma": None,
        "speed": None,
        "published": None,
        "seconds": 1234.5,
    } | changes


def published_row(ratio: float, growth: float, drop: float, **changes) -> dict:
    return {
        "ratio": ratio,
        "perplexity": {task: round(growth * value, 2) for task, value in DENSE_PERPLEXITY.items()},
        "accuracy": {task: round(value - drop, 2) for task, value in DENSE_ACCURACY.items()},
        "mean_accuracy": round(0.43 - drop, 2),
        "speedup": 1.21,
        "gamma": 0.2527,
    } | changes


def results(*models: dict, **changes) -> dict:
    """An evaluation with these models."""
    names = {task: None for entry in models for task in entry["tasks"]}
    return {
        "format_version": 1,
        "recipe": {"name": "Llama-3.2-1B", "content": {"model": "org/model", "variants": [{"ratio": 0}]}},
        "models": list(models),
        "data": {
            task: {"source": f"{task}.file", "sha256": "fedcba9876543210" * 4, "examples": 1000, "notes": []}
            for task in names
        },
        "published_source": "NeuronMM, arXiv 2510.25977, table 5",
        "seed": 7,
        "versions": {"torch": "2.13.0", "transformers": "4.57.6"},
        "machine": {"cores": 2, "threads": 1},
        "seconds": 4321.0,
    } | changes


def full_results() -> dict:
    """Three models, each timed, each with a published row."""
    dense = model("dense", speed=speed_entry(10.0), published=published_row(0, 1.0, 0, speedup=1.0, gamma=None))
    small = model(
        "uniform-0.1",
        0.1,
        1.5,
        0.04,
        speed=speed_entry(8.0),
        gamma=0.16,
        published=published_row(0.1, 1.6, 0.05),
    )
    large = model(
        "uniform-0.2",
        0.2,
        2.0,
        0.08,
        speed=speed_entry(5.0),
        gamma=0.08,
        published=published_row(0.2, 1.94, 0.07, speedup=1.63, gamma=0.1124),
    )
    return results(dense, small, large)
