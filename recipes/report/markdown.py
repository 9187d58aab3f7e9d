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
"""The report of an evaluation as Markdown, for readers who have never seen the paper."""

from collections.abc import Sequence

from ..data.tasks import MULTIPLE_CHOICE, PERPLEXITY
from .figures import accuracy_tasks, baseline_of, measured_tasks, published_rows, speedup, title_of
from .plots import PICTURES
from .tables import (
    data_table,
    escaped,
    growth_table,
    models_table,
    normalised_table,
    results_table,
    speed_table,
)


FEW_EXAMPLES = 500  # at this many an accuracy of one half has a standard error of 2.2 points


def markdown(results: dict, pictures: Sequence[str] = ()) -> str:
    """The report.

    Args:
        results: of an evaluation. Numbers that are null or not finite are shown as such.
        pictures: names of the files of `PICTURES` that lie beside it.
    """
    sections = [
        f"# {'Accuracy' if _has_tasks(results) else 'Speed'} by recipe {escaped(results['recipe']['name'])}",
        _opening(results),
        "## Results",
        _how_to_read(results),
        results_table(results),
        *published_notes(results),
        *_noise(results),
        *_mean_notes(results),
        *(f"![{PICTURES[name]}]({name})" for name in pictures),
        *_section("Change against the baseline", _GROWTH, growth_table(results)),
        *_section("Accuracy by length-normalised choice", _NORMALISED, normalised_table(results)),
        *_section("Speed", _speed_notes(results), speed_table(results)),
        "## Models",
        models_table(results),
        "## Data and protocol",
        *([data_table(results), _protocol(results)] if _has_tasks(results) else []),
        *_counts(results),
        _settings(results),
    ]
    return "\n\n".join(sections) + "\n"


_GROWTH = (
    "Perplexity as a multiple of the baseline's; KL is the divergence of the next token's distribution from the "
    "baseline's, in nats a token, 0 if they agree; accuracy in percentage points above (+) or below (-) the baseline's. "
    "What follows ± is one standard error of the change, taken example by example: both models were scored on the same. "
    "Where a model was scored otherwise than the baseline, there is no figure."
)
_NORMALISED = (
    "acc_norm, in percent with its standard error: the choice of the highest log-probability per character. It favours "
    "long answers less than the accuracy above. Tasks whose choices share the scored text have none."
)
_GAMMA = (
    "*Gamma* is what the speed costs: the drop in mean accuracy against the baseline, divided by the speed-up less one. "
    "Lower is better. A published gamma is most likely the same ratio (Speedup Degradation Ratio, He et al. 2024)."
)


def _section(title: str, text: str, table: str | None) -> list[str]:
    return [f"## {title}", text, table] if table else []


def _opening(results: dict) -> str:
    count, baseline = len(results["models"]), baseline_of(results)
    against = f", compared with {escaped(baseline['name'])}" if baseline and count > 1 else ""
    return f"{'One model was' if count == 1 else f'{count} models were'} measured{against}."


def _how_to_read(results: dict) -> str:
    lines = [
        "- In a compressed model, weight matrices of the MLPs, which hold most of a model's parameters, are replaced by "
        "products of two smaller ones. *Requested* and *achieved* are shares of the MLP parameters that were removed; they "
        "differ because the inner widths of the products, the ranks, are multiples of a block. *Made*, in the table of "
        "models, says how each was compressed.",
    ]
    if measured_tasks(results, PERPLEXITY):
        lines.append(
            "- Columns with ↓ are perplexities: the exponential of the mean loss per token, lower is better. They are "
            "only comparable for the same text, tokenizer, windows and layout."
        )
    if measured_tasks(results, MULTIPLE_CHOICE):
        lines.append(
            "- Columns with ↑ are accuracies in percent, higher is better: how often the right choice has the highest "
            "log-probability (acc)."
        )
    if _has_tasks(results):
        lines.append("- What follows ± is one standard error.")
    baseline = baseline_of(results)
    if any(speedup(model, baseline) is not None for model in results["models"]):
        lines.append(
            "- *Speed-up* is the baseline's median latency divided by the model's, where both were timed alike on the same "
            "device."
        )
    if any(model["gamma"] is not None or (model["published"] or {}).get("gamma") for model in results["models"]):
        lines.append(f"- {_GAMMA}")
    return "\n".join(lines)


def published_notes(results: dict) -> list[str]:
    """What a reader of published figures has to know, where there are some."""
    rows = published_rows(results["models"]).values()
    if not rows:
        return []
    source = results["published_source"]
    told = f"from {escaped(source)}" if source else "from a source that the recipe does not name"
    notes = [
        f"*Rows in italics are published figures* {told}. They were not measured here, and their device, lengths, windows, layout, "
        "BOS token or number of examples may be others: compare how much they change from ratio to ratio, rather than the figures."
    ]
    original = _last_part(results["recipe"]["content"].get("model", ""))
    if original and original not in {_last_part(model["model"]) for model in results["models"]}:
        notes.append(
            f"They are for {escaped(original)}, and **none of the models above is known by its name to be that one**: where "
            "they come from another, the two have nothing to do with each other."
        )
    if any(row.get("perplexity") for row in rows):
        notes.append("The picture of perplexity has them at their own ratio.")
    ours = len(measured_tasks(results, MULTIPLE_CHOICE))
    theirs = {len(row.get("accuracy") or {}) for row in rows if row.get("mean_accuracy") is not None}
    if ours and theirs - {0, ours}:
        notes.append(
            f"The published mean accuracy is over {' or '.join(map(str, sorted(theirs)))} tasks, ours over at most {ours}: "
            "the two are not comparable."
        )
    return notes


def _last_part(model: str) -> str:
    """The name of a model without its organisation or directory."""
    return model.rstrip("/").rpartition("/")[2]


def _noise(results: dict) -> list[str]:
    if not _has_tasks(results):
        return []
    notes = ["**A difference smaller than about two standard errors is noise.**"]
    few = {
        name: min(model["tasks"][name]["examples"] for model in results["models"] if name in model["tasks"])
        for name in measured_tasks(results, MULTIPLE_CHOICE)
    }
    few = {name: count for name, count in few.items() if count < FEW_EXAMPLES}
    if few:
        listed = ", ".join(f"{title_of(name)} {count}" for name, count in few.items())
        error = 50 / min(few.values()) ** 0.5 if min(few.values()) else float("inf")
        notes.append(
            f"**Few examples** ({listed}): with {min(few.values())} of them, an accuracy near 50 % has a standard error of "
            f"{error:.1f} points."
        )
    if measured_tasks(results, PERPLEXITY):
        notes.append(
            "The standard error of a perplexity says how far other windows of the text could lie. On the same windows, two "
            "models differ by much less chance than that."
        )
    return [" ".join(notes)]


def _mean_notes(results: dict) -> list[str]:
    """Means over different tasks stand in one column."""
    over = {model["name"]: accuracy_tasks(model) for model in results["models"] if accuracy_tasks(model)}
    if len({frozenset(names) for names in over.values()}) <= 1:
        return []
    listed = "; ".join(f"{escaped(name)}: {', '.join(map(title_of, names))}" for name, names in over.items())
    return [f"Mean accuracies are over different tasks and not comparable. {listed}."]


def _speed_notes(results: dict) -> str:
    speeds = [model["speed"] for model in results["models"] if model["speed"]]
    lines = [
        "Each cell is the median / the 90th percentile of the runs. TTFT is the time to the first token, TPOT the "
        "time per token after it."
    ]
    settings = {_speed_settings(speed["settings"]): None for speed in speeds}
    lines.append(f"Measured with {'; or with '.join(settings)}.")
    if any(speed["device"].startswith("cpu") for speed in speeds):
        lines.append("Times on a CPU say little about a Neuron device.")
    return " ".join(lines)


def _speed_settings(settings: dict) -> str:
    return (
        f"{settings['prompt_length']:,} prompt tokens, {settings['new_tokens']:,} new tokens, batch size "
        f"{settings['batch_size']}, {settings['repeats']} timed runs after {settings['warmup']} to warm up"
    )


def _has_tasks(results: dict) -> bool:
    return any(model["tasks"] for model in results["models"])


def _protocol(results: dict) -> str:
    lines = []
    if measured_tasks(results, PERPLEXITY):
        lines.append(
            "Perplexity: each window is scored on its own. BOS token *first*: once, at the beginning of the text; *every*: "
            "before each window; *none*: nowhere."
        )
    if measured_tasks(results, MULTIPLE_CHOICE):
        lines.append(
            "Multiple choice: the log-probability of each choice given the question, without examples in the prompt. BOS "
            "token *yes*: the tokenizer puts one before the question."
        )
    return " ".join(lines)


def _counts(results: dict) -> list[str]:
    """What went into the figures although something was missing from it."""
    found: dict[tuple[str, str, int], list[str]] = {}
    for model in results["models"]:
        for name, entry in model["tasks"].items():
            for key in _COUNTS:
                if entry.get(key):
                    found.setdefault((name, key, entry[key]), []).append(escaped(model["name"]))
    lines = [
        f"- {title_of(name)}, {_COUNTS[key]}: {count:,} ({', '.join(models)})"
        for (name, key, count), models in found.items()
    ]
    return ["\n".join(lines)] if lines else []


_COUNTS = {
    "empty_options": "choices that are empty",
    "truncated": "rows longer than the model's context, which lost their beginning",
}


def _settings(results: dict) -> str:
    machine = ", ".join(f"{escaped(key)} {escaped(value)}" for key, value in results["machine"].items())
    versions = ", ".join(f"{escaped(name)} {escaped(version)}" for name, version in results["versions"].items())
    lines = [
        f"- seed: {results['seed']}",
        f"- versions: {versions}",
        f"- machine: {machine}",
        f"- time of the last command: {results['seconds']:,.0f} s",
        "- recipe, and all figures in full: report.json",
    ]
    return "\n".join(lines)
