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
"""What a recovery did, for the report, the terminal and the model card."""

import json
import math
import platform
from pathlib import Path

import accelerate
import peft
import torch
import transformers

from ..card import CARD_NAME, write_model_card
from ..configuration import NeuronMMConfig
from ..report import REPORT_NAME
from ..version import __version__
from .config import RecoveryConfig
from .data import RecoveryText
from .training import Progress


def recovery_entry(
    config: RecoveryConfig,
    teacher: str | None,
    text: RecoveryText,
    progress: Progress,
    losses: dict[str, list[float] | None],
    improved: bool,
    processes: int,
) -> dict:
    """What the report says under "recovery".

    Args:
        losses: "dense" (None without a teacher), "before" and "after": mean cross-entropy per token of the held-out
            windows of each source, in nats.
        improved: whether the factors were changed.
    """
    held_out = []
    for index, source in enumerate(text.sources):
        entry = {name: values[index] if values else None for name, values in losses.items()}
        held_out.append({"source": source["source"], "windows": source["held_out"], **entry})
        held_out[-1]["won_back"] = _won_back(**entry)
    return {
        "improved": improved,
        "teacher": teacher,
        "sources": text.sources,
        "tokens": progress.log[-1]["tokens"],
        "steps": progress.step,
        "best_step": progress.best_step,
        "seconds": round(progress.seconds, 2),
        "held_out": held_out,
        "options": config.to_dict() | {"data": [source["source"] for source in text.sources]},
        "processes": processes,
        "log": progress.log,
        "versions": {
            "optimum-neuronmm": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "accelerate": accelerate.__version__,
            "peft": peft.__version__,
            "python": platform.python_version(),
        },
    }


def format_recovery(entry: dict) -> str:
    """The entry as text for a terminal: perplexities of the held-out windows, and warnings as the last lines."""
    lines = [
        f"{'held-out perplexity':<24}{'dense':>10}{'before':>10}{'after':>10}{'won back':>10}",
        *(_row(source) for source in entry["held_out"]),
        "",
        f"trained           {entry['tokens']:,} tokens in {entry['steps']} steps, {entry['seconds']:.0f} s; best after step "
        f"{entry['best_step']}",
    ]
    if not entry["improved"]:
        lines.append(
            "WARNING: training made nothing better on the held-out text, so the factors were left as they were."
        )
    for source in entry["held_out"]:
        if source["after"] > source["before"]:
            lines.append(
                f"WARNING: on {source['source']} the model became worse: perplexity {_perplexity(source['before'])} -> "
                f"{_perplexity(source['after'])}. Train on more text of that kind, or at a lower learning_rate."
            )
    return "\n".join(lines)


def write_description(directory: Path, report: dict, options: NeuronMMConfig) -> None:
    """Writes the report and the model card of a recovered checkpoint."""
    (directory / REPORT_NAME).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    write_model_card(directory, report, options)
    section = (
        "\n## Recovery\n\nAfter the compression the factors were trained. The figures above are those from before it, these "
        f"are of the weights in this repository:\n\n```\n{format_recovery(report['recovery'])}\n```\n"
    )
    with open(directory / CARD_NAME, "a", encoding="utf-8") as file:
        file.write(section)


def _won_back(dense: float | None, before: float, after: float) -> float | None:
    """The share of the log-likelihood lost by compression that is back; None where it is not known or none was lost."""
    return None if dense is None or before <= dense else (before - after) / (before - dense)


def _row(source: dict) -> str:
    won = "" if source["won_back"] is None else f"{source['won_back']:.1%}"
    numbers = [_perplexity(source[name]) for name in ("dense", "before", "after")]
    return f"{source['source']:<24}" + "".join(f"{number:>10}" for number in [*numbers, won])


def _perplexity(loss: float | None) -> str:
    return "" if loss is None else f"{math.exp(min(loss, 700)):.2f}"
