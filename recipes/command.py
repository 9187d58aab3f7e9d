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
"""What the command does with its arguments."""

import os
from argparse import Namespace
from dataclasses import fields, replace
from pathlib import Path

from optimum_neuronmm.commands.evaluation_flags import assignments
from optimum_neuronmm.errors import NeuronMMError

from .data.tasks import TASKS
from .description.recipe import Recipe, load_recipe
from .report.markdown import published_notes
from .report.tables import results_table
from .runner import run
from .speed import SpeedSettings


_DIGITS = 9  # of a number of tokens or runs


def evaluate_models(args: Namespace) -> None:
    """Evaluates what the arguments of the command say, and prints the table of results."""
    for name, values in {"model": args.model, "baseline": [args.baseline], "output": [args.output]}.items():
        if "" in values:
            raise NeuronMMError(
                f"--{name} is empty: expected the name of {'a directory' if name == 'output' else 'a model'}."
            )
    recipe = load_recipe(args.recipe) if args.recipe else _everything(args)
    if args.model and args.variants:
        raise NeuronMMError(
            "--variants chooses what a recipe makes, and --model evaluates models that exist: give one."
        )
    recipe = recipe.narrowed(
        tasks=args.tasks,
        variants=args.variants,
        examples=args.examples,
        windows=args.windows,
        window=args.window,
    )
    changes = {
        "dtype": args.dtype,
        "divergence": False if args.no_divergence else None,
        "speed": None if args.speed is None else _speed(args.speed),
    }
    recipe = replace(recipe, **{name: value for name, value in changes.items() if value is not None})
    if args.no_speed:
        recipe = replace(recipe, speed=None)
    if not recipe.tasks and recipe.speed is None:
        raise NeuronMMError(f"The recipe {recipe.name} only measures speed: leave --no_speed out.")
    results = run(
        recipe,
        args.output,
        models=args.model,
        baseline=args.baseline,
        data=_data(args.data, recipe),
        device=args.device,
        batch_tokens=args.batch_tokens,
        revision=args.revision,
        cache_dir=args.cache_dir,
        trust_remote_code=args.trust_remote_code,
    )
    print("\n\n".join([results_table(results), *published_notes(results)]))
    print(f"\nThe report is {Path(args.output) / 'report.md'}.")


def _everything(args: Namespace) -> Recipe:
    """All tasks on whole data, for models that were given."""
    model = args.baseline or next(iter(args.model), None)
    if model is None:
        raise NeuronMMError("Nothing to evaluate: give --model MODEL, or --recipe RECIPE.")
    content = {"name": "all-tasks", "model": str(model), "variants": [{"ratio": 0}], "tasks": dict.fromkeys(TASKS)}
    return Recipe.from_dict(content)


def _data(given: list[str] | None, recipe: Recipe) -> Path | dict[str, str] | None:
    """A directory alone, or files by task."""
    if given is None:
        return None
    if len(given) == 1 and ("=" not in given[0] or os.path.isdir(given[0])):
        return Path(given[0])
    files = assignments(given, "--data")
    unused = [name for name in files if name in TASKS and name not in recipe.tasks]
    if unused:
        raise NeuronMMError(f"--data names a file for {', '.join(unused)}, which is not evaluated. Leave it out.")
    return files


def _speed(given: list[str]) -> SpeedSettings:
    options = assignments(given, "--speed")
    known = [field.name for field in fields(SpeedSettings)]
    for name, value in options.items():
        if name not in known:
            raise NeuronMMError(f"--speed knows no {name!r}: expected {', '.join(known)}.")
        if not value.isdecimal() or len(value) > _DIGITS:
            raise NeuronMMError(f"--speed {name} must be an integer, got {value!r}.")
    return SpeedSettings(**{name: int(value) for name, value in options.items()})
