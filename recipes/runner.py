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
"""Runs a recipe: makes its models, evaluates them on its tasks, and writes the report."""

import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from time import perf_counter

from optimum_neuronmm.auto import has_neuron_sdk
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.workspace import lock_directory

from .comparison import compare
from .data.sources import Data, load_data
from .data.tasks import MULTIPLE_CHOICE, TASKS
from .description.recipe import Recipe
from .description.task_options import TextOptions
from .metrics.by_name import metric
from .preparation import make, plan
from .provenance import machine, versions, without_directories
from .report.report import FORMAT_VERSION, write_report
from .scoring.evaluation import evaluate
from .scoring.examples import Scores
from .scoring.identity import Identity
from .speed import measure_speed
from .subjects import Loading, Subject, given_models, variants_of


def run(
    recipe: Recipe,
    output: str | Path,
    *,
    models: Sequence[str | Path] = (),
    baseline: str | Path | None = None,
    data: str | Path | dict[str, str | Path] | None = None,
    device: str | None = None,
    batch_tokens: int | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    trust_remote_code: bool = False,
) -> dict:
    """Evaluates models on the tasks of a recipe and writes report.json, report.md and pictures.

    What was measured is kept in `output`, example by example, so that an interrupted run goes on where it was, and one
    with more examples or models measures only what is new.

    Args:
        output: directory of the report; made where it is not there.
        models: directories or Hub ids of models to evaluate: dense, compressed or compiled. Without any, the recipe's
            variants are made and evaluated.
        baseline: the dense model to compare with; for the recipe's variants it takes the place of the recipe's model.
        data: a directory of local data, or {task: file}; see `load_data`.
        device: "cpu" or "cuda"; CUDA where there is one. Compiled models run where they are compiled for.
        batch_tokens: tokens in one forward pass; None for what suits the device.
        revision: of the baseline, where that is on the Hub, or else of the models; the recipe pins that of its own model.

    Returns:
        What report.json holds.

    Raises:
        NeuronMMError: for every input that can be put right.
    """
    started, output = perf_counter(), Path(output)
    with closing(_locked(output)):
        found = {
            name: load_data(TASKS[name], data=data, layout=getattr(options, "layout", None))
            for name, options in recipe.tasks.items()
        }
        revisions = {recipe.model: recipe.revision}
        if revision is not None:
            of_baseline = baseline is not None and not Path(baseline).is_dir()  # a directory has no revision
            revisions |= {str(model): revision for model in ([baseline] if of_baseline else models or [recipe.model])}
        load = Loading(recipe.dtype, device, revisions, cache_dir, trust_remote_code)
        if models:
            subjects = given_models(models, baseline, load)
        else:
            dense = load(baseline or recipe.model)
            subjects = variants_of(recipe, dense)
            folder = None if data is None or isinstance(data, dict) else Path(data)
            _make(subjects, dense.identity, output / "models", load, folder)
        _check(subjects, recipe)
        entries = _evaluated(subjects, recipe, found, Scores(output / "scores", batch_tokens))
        report = {
            "format_version": FORMAT_VERSION,
            "recipe": {"name": recipe.name, "content": without_directories(recipe.to_dict())},
            "models": entries,
            "data": {name: _about(of_task) for name, of_task in found.items()},
            "published_source": recipe.published.source if recipe.published else None,
            "seed": recipe.seed,
            "versions": versions(),
            "machine": machine(),
            "seconds": perf_counter() - started,
        }
        write_report(report, output)
    return report


def _make(subjects: list[Subject], dense: Identity, directory: Path, load: Loading, data: Path | None) -> None:
    """Compresses the variants that are not there yet."""
    plans = [None if s.loaded else plan(s.variant, dense, directory, data) for s in subjects]
    for subject, planned in zip(subjects, plans, strict=True):
        if planned is not None:
            if not planned.is_made:
                _say(f"Making {subject.name}")
                make(planned, dense, device=load.device, trust_remote_code=load.trust_remote_code)
            subject.loaded = load(planned.directory)


def _check(subjects: list[Subject], recipe: Recipe) -> None:
    """Finds what would stop the last model before hours go into the first."""
    if recipe.tasks:
        metric("perplexity")  # of an extra, which may not be installed
    windows = [options.window for options in recipe.tasks.values() if isinstance(options, TextOptions)]
    for loaded in (subject.loaded for subject in subjects):
        if loaded.is_compiled:  # its shapes are known once it is loaded
            if not has_neuron_sdk():
                raise NeuronMMError(
                    f"{loaded.identity.name} is a compiled model, which needs the Neuron SDK (torch_neuronx), and that is not "
                    "installed here. Evaluate the checkpoint that it was compiled from."
                )
            continue
        if recipe.tasks:
            _ = loaded.tokenizer
        if windows and max(windows) > loaded.max_length:
            raise NeuronMMError(
                f"{loaded.identity.name} takes {loaded.max_length} tokens, and windows of text have {max(windows)}. Use "
                f"windows of at most {loaded.max_length}: --window {loaded.max_length}."
            )
        if recipe.speed and recipe.speed.length > loaded.max_length:
            raise NeuronMMError(
                f"{loaded.identity.name} takes {loaded.max_length} tokens, and timing it needs {recipe.speed.length}: lower "
                "prompt_length or new_tokens, such as --speed prompt_length=128 new_tokens=32."
            )


def _evaluated(subjects: list[Subject], recipe: Recipe, data: dict[str, Data], scores: Scores) -> list[dict]:
    """The entries of the models in the report."""
    base = next((subject for subject in subjects if subject.is_baseline), None)
    entries, results = [], []
    for number, subject in enumerate(subjects, 1):
        _say(f"[{number}/{len(subjects)}] {subject.name}")
        started, loaded = perf_counter(), subject.loaded
        reference = base.loaded if recipe.divergence is not False and base not in (None, subject) else None
        of_tasks = {
            name: evaluate(loaded, TASKS[name], options, data[name], scores, reference)
            for name, options in recipe.tasks.items()
        }
        speed = measure_speed(loaded.model, recipe.speed, seed=recipe.seed) if recipe.speed else None
        if subject is not base:
            loaded.release()
        entry = _entry(subject, recipe, {name: result.entry for name, result in of_tasks.items()})
        entries.append({**entry, "speed": speed, "seconds": perf_counter() - started})
        results.append(of_tasks)
    if base is not None:
        compare(entries, results, subjects.index(base))
    return entries


def _entry(subject: Subject, recipe: Recipe, tasks: dict[str, dict]) -> dict:
    identity = subject.loaded.identity
    requested = subject.variant.ratio if subject.variant else identity.requested_ratio
    accuracies = [entry["acc"] for entry in tasks.values() if entry["kind"] == MULTIPLE_CHOICE]
    published = recipe.published_row(requested)
    return {
        "name": subject.name,
        "model": identity.name,
        "revision": identity.revision,
        "sha256": identity.sha256,
        "kind": identity.kind,
        "baseline": subject.is_baseline,
        "requested_ratio": requested,
        "achieved_ratio": identity.achieved_ratio,
        "parameters": identity.parameters,
        "made": identity.made,
        "dtype": subject.loaded.dtype,
        "device": subject.loaded.device,
        "tasks": tasks,
        "mean_accuracy": sum(accuracies) / len(accuracies) if accuracies else None,
        "gamma": None,
        "published": published.to_dict() if published else None,
    }


def _about(data: Data) -> dict:
    return {
        "source": data.source,
        "sha256": data.sha256,
        "examples": 1 if isinstance(data.rows, str) else len(data.rows),
        "notes": list(data.notes),
    }


def _locked(output: Path):
    try:
        if output.exists() and not output.is_dir():
            raise NeuronMMError(f"{output} is a file: expected a directory for the report, or a name that is free.")
        lock = lock_directory(output / "scores")
    except OSError as error:
        raise NeuronMMError(f"{output} cannot be written ({error.strerror}). Choose another directory.") from error
    if lock is None:
        raise NeuronMMError(f"Another process is writing {output}. Wait for it, or choose another directory.")
    return lock


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
