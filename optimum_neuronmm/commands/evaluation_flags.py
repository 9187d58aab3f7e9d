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
"""The arguments of `optimum-cli neuronmm evaluate` and of `python -m optimum_neuronmm.recipes`, which are the same."""

import argparse
from argparse import ArgumentParser, Namespace

from ..errors import NeuronMMError


def add_evaluation_arguments(parser: ArgumentParser) -> None:
    parser.epilog = (
        "What was measured is kept in DIR: the same command, or one with more examples, goes on from there."
    )
    what = parser.add_argument_group("What is evaluated")
    what.add_argument(
        "-m",
        "--model",
        nargs="+",
        action="extend",
        default=[],
        metavar="MODEL",
        help="Directories or Hub ids of models to evaluate: dense, compressed or compiled. Without any, the variants of the "
        "recipe are compressed and evaluated.",
    )
    what.add_argument(
        "--baseline",
        metavar="MODEL",
        help="The dense model to compare with. Without --model it takes the place of the recipe's model.",
    )
    what.add_argument(
        "--recipe",
        metavar="RECIPE",
        help="A YAML file, or the name of a recipe that comes with the package. Default: all nine tasks, on whole data.",
    )
    what.add_argument("--output", required=True, metavar="DIR", help="Directory of the report.")
    what.add_argument(
        "--revision", metavar="R", help="Revision of --baseline, where that is on the Hub, else of --model."
    )
    what.add_argument("--trust-remote-code", action="store_true", help="Run modeling code that a model brings along.")
    what.add_argument("--cache_dir", metavar="DIR", help="Directory in which downloaded models are cached.")
    _add_data(parser.add_argument_group("Data"))
    _add_how(parser.add_argument_group("How"))


def run_evaluation(args: Namespace) -> None:
    from ..recipes.command import evaluate_models

    evaluate_models(args)


def _add_data(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--data",
        nargs="+",
        metavar="DIR|TASK=FILE",
        help="Local data: a directory, or a file for each of some tasks. Default: the directory that NEURONMM_DATA names, "
        "else the Hub.",
    )
    group.add_argument("--tasks", nargs="+", metavar="TASK", help="Only these tasks of the recipe.")
    group.add_argument("--variants", nargs="+", metavar="NAME", help="Only these variants of the recipe.")
    group.add_argument("--examples", type=_count, metavar="N", help="Questions of each multiple-choice task.")
    group.add_argument("--windows", type=_count, metavar="N", help="Windows of each text.")
    group.add_argument("--window", type=_count, metavar="TOKENS", help="Tokens in each window.")


def _add_how(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--device", choices=["cpu", "cuda"], help="Where to run. Default: CUDA where there is one.")
    group.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="To compute in. Default: the recipe's, else float32.",
    )
    group.add_argument(
        "--batch_tokens", type=_count, metavar="N", help="Tokens in one forward pass. Fewer take less memory."
    )
    group.add_argument(
        "--no_divergence", action="store_true", help="Do not measure the divergence from the dense model."
    )
    timing = group.add_mutually_exclusive_group()
    timing.add_argument("--no_speed", action="store_true", help="Do not time generation, whatever the recipe says.")
    timing.add_argument(
        "--speed",
        nargs="*",
        metavar="OPTION=N",
        help="Time generation as well: prompt_length, new_tokens, batch_size, warmup, repeats. Default: as the recipe says.",
    )


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return number


def assignments(texts: list[str], what: str) -> dict[str, str]:
    """NAME=VALUE arguments as a dictionary.

    Raises:
        NeuronMMError: one has no "=", or a name is there twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise NeuronMMError(f"{what} takes NAME=VALUE, got {text!r}.")
        if name in found:
            raise NeuronMMError(f"{what} names {name} twice.")
        found[name] = value
    return found
