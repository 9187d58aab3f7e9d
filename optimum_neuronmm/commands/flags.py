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
"""The `--neuronmm*` flags, and the options of `NeuronMMConfig` that they stand for.

A flag that is not given is None, so that each default has one home: `NeuronMMConfig`. The help repeats it as text,
because importing the config takes transformers; a test compares the two.
"""

import argparse
from argparse import ArgumentParser, Namespace
from typing import Any


PREFIX = "neuronmm_"


class _RelaxInstanceType(argparse.Action):
    """Stores what `store` and `append` would, and lets the parser do without `--instance_type`.

    Where there is no Neuron device, optimum-neuron's parser requires `--instance_type`. Compressing needs none; a plain
    export still does, so the requirement may only go once a flag of ours has been seen.
    """

    def __call__(self, parser, namespace, values, option_string=None):
        for action in parser._actions:
            if action.dest == "instance_type":
                action.required = False
        setattr(namespace, self.dest, self.new_value(namespace, values))

    def new_value(self, namespace: Namespace, values):
        return values


class _Enable(_RelaxInstanceType):
    def new_value(self, namespace, values):
        return True


class _Append(_RelaxInstanceType):
    def new_value(self, namespace, values):
        return [*(getattr(namespace, self.dest) or []), values]


def add_neuronmm_arguments(parser: ArgumentParser) -> None:
    """Adds `--neuronmm` and one flag for each option of `NeuronMMConfig`."""
    group = parser.add_argument_group(
        "NeuronMM", "Replace the MLP weights by block-aligned low-rank factors before exporting (needs --neuronmm)."
    )
    group.add_argument(
        "--neuronmm",
        action=_Enable,
        nargs=0,
        default=False,
        help="Compress the MLPs of a decoder model into low-rank factors.",
    )

    def add(option: str, help: str, default: str, action=_RelaxInstanceType, **kwargs) -> None:
        help = f"{help} Default: {default}."
        group.add_argument(f"--{PREFIX}{option}", action=action, default=None, help=help, **kwargs)

    add(
        "compression_ratio",
        "Fraction of the projections' parameters to REMOVE, between 0 and 1. The achieved ratio differs a little, "
        "because ranks are aligned; both are reported.",
        "0.1",
        type=float,
        metavar="RATIO",
    )
    add("block_size", "Ranks are multiples of this.", "128", type=int, metavar="N")
    add(
        "alpha",
        "Rounding threshold of the rank: 0 rounds down, 0.5 to the nearest multiple.",
        "0.5",
        type=float,
        metavar="A",
    )
    add(
        "projections",
        "Which projections of each MLP to compress, separated by commas: any of gate, up, down.",
        "gate,up,down",
        type=_comma_separated,
        metavar="NAMES",
    )
    add(
        "decomposition",
        "What the factors keep: the model's predictions (two_sided: from the activations that enter a projection and the "
        "gradients at its output; two_sided_local: from the activations and the layer alone), a projection's output "
        "(whitened, as the paper), or its weight (svd).",
        "two_sided",
        choices=["two_sided", "two_sided_local", "whitened", "svd"],
    )
    add("gradient_samples", "Calibration windows on which gradients are measured.", "32", type=int, metavar="N")
    add(
        "allocation",
        "How ranks are chosen: for the least predicted loss (by_loss; needs a two-sided decomposition), the same for equal "
        "shapes (uniform, as the paper), or auto: by loss where the decomposition allows it.",
        "auto",
        choices=["auto", "by_loss", "uniform"],
    )
    add(
        "allocation_tensor_parallel_size",
        "Choose ranks by what one core of so many holds, where both layouts of the factors are considered.",
        "1",
        type=int,
        metavar="N",
    )
    add(
        "max_perplexity_increase",
        "Instead of a ratio: search for the largest one whose measured perplexity rises by less than this fraction (0.05 is "
        "5 %%).",
        "None",
        type=float,
        metavar="FRACTION",
    )
    add(
        "target_speedup",
        "Instead of a ratio: the least predicted loss at which the MLPs are predicted to be this many times as fast as the dense "
        "ones (1.2: in 1 / 1.2 of the time), for one request of the lengths below.",
        "None",
        type=float,
        metavar="FACTOR",
    )
    add(
        "target_instance_type",
        "For a core of what the speed-up is predicted.",
        "trn1",
        choices=["trn1", "inf2", "trn2", "trn3"],
    )
    add(
        "target_prompt_length",
        "Tokens of the prompt of the request that is to be faster; 0 leaves the prefill out.",
        "1024",
        type=int,
        metavar="N",
    )
    add(
        "target_output_length",
        "Tokens that it generates, one decode step each; 0 leaves decoding out.",
        "128",
        type=int,
        metavar="N",
    )
    add(
        "refine",
        "Change the down projections by least squares on the compressed model's own activations, and keep that where the "
        "model comes closer to the dense one on held-out text.",
        "False",
        action=_Enable,
        nargs=0,
    )
    add(
        "calibration",
        "Text to measure activations on: 'self' (sampled from the model itself, needs no data), a .txt or .jsonl file "
        "(gzipped too), or a named dataset, wikitext2 or c4. Repeat the flag to mix sources.",
        "wikitext2,c4",
        action=_Append,
        metavar="SOURCE",
    )
    add("calibration_samples", "Number of windows of calibration text.", "64", type=int, metavar="N")
    add("calibration_length", "Tokens in each window.", "512", type=int, metavar="N")
    add("seed", "Seed of the calibration windows.", "0", type=int, metavar="N")
    add(
        "recovery",
        "Train the factors afterwards: adapters on U, then on V, on the text's own tokens (lora), or on both at once towards "
        "the dense model's predictions (distill). 'optimum-cli neuronmm recover' has more options.",
        "none",
        choices=["none", "lora", "distill"],
    )
    add(
        "recovery_data",
        "Text to train on: as for the calibration but for 'self', and alpaca-cleaned. Repeat the flag to mix sources.",
        "the calibration's",
        action=_Append,
        metavar="SOURCE",
    )
    add("recovery_tokens", "Number of tokens to train on.", "2000000", type=int, metavar="N")
    add(
        "target",
        "What to write: a checkpoint that runs anywhere (cpu) or one compiled for a Neuron device (neuron). auto is "
        "neuron where the Neuron SDK is installed.",
        "auto",
        choices=["auto", "cpu", "neuron"],
    )
    add(
        "kernel",
        "How a compiled model computes the factors: with NKI kernels, with what the compiler makes of plain matrix "
        "products, or auto: the kernel wherever it compiles and agrees with its reference.",
        "auto",
        choices=["auto", "nki", "compiler"],
    )

    add(
        "layout",
        "How the factors lie on the ranks of tensor parallelism: one of the two whole on every rank (replicated), both cut "
        "at the price of two more exchanges per layer (sharded), or auto: what is predicted to decode faster.",
        "auto",
        choices=["auto", "replicated", "sharded"],
    )
    add(
        "sampling",
        "Where a compiled model's next token is chosen: on the device, as optimum-neuron does it, or on the host from logits, "
        "which the model then returns. An evaluation needs them.",
        "device",
        choices=["device", "host"],
    )


def given_options(args: Namespace) -> dict[str, Any]:
    """The options of `NeuronMMConfig` that were given on the command line, by field name."""
    flags = {dest: value for dest, value in vars(args).items() if dest.startswith(PREFIX) and value is not None}
    return {dest.removeprefix(PREFIX): value for dest, value in flags.items()}


def _comma_separated(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
