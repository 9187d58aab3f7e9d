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
"""The arguments of `optimum-cli neuronmm recover` and of `python -m optimum_neuronmm.recovery`, which are the same.

A flag that is not given is None, so that each default has one home: `RecoveryConfig`. The help repeats it as text,
because importing the config takes torch; a test compares the two.
"""

from argparse import ArgumentParser, Namespace


# Where the models are and who may fetch them. All other flags are fields of `RecoveryConfig`.
_PLACES = ("teacher", "revision", "trust_remote_code", "cache_dir", "device")


def add_recovery_arguments(parser: ArgumentParser) -> None:
    parser.epilog = (
        "In several processes: accelerate launch -m optimum_neuronmm.recovery DIR OUT ..., with the same arguments."
    )
    parser.add_argument("directory", metavar="DIR", help="Directory of a compressed model. It is only read.")
    parser.add_argument("output", metavar="OUT", help="Directory to write the recovered model to.")
    places = parser.add_argument_group("Models")
    places.add_argument(
        "--teacher",
        metavar="MODEL",
        help="The dense model, a directory or Hub id. Default: the one that the report of DIR names, if it is on the Hub. "
        "With --objective labels it is only measured, and not needed.",
    )
    places.add_argument("--revision", metavar="R", help="Revision of a teacher on the Hub.")
    places.add_argument(
        "--trust-remote-code", action="store_true", help="Run modeling code that a model brings along."
    )
    places.add_argument("--cache_dir", metavar="DIR", help="Directory in which downloaded models are cached.")
    places.add_argument("--device", choices=["cpu", "cuda"], help="Where to train. Default: CUDA where there is one.")
    _add_what(_Options(parser.add_argument_group("What is trained")))
    _add_how(_Options(parser.add_argument_group("How it is trained")))


def run_recovery(args: Namespace) -> None:
    from ..recovery import RecoveryConfig, recover

    given = {name: value for name, value in vars(args).items() if value is not None}
    fields = {name: value for name, value in given.items() if name in RecoveryConfig.__dataclass_fields__}
    places = {name: given[name] for name in _PLACES if name in given}
    recover(args.directory, args.output, RecoveryConfig(**fields), **places)


class _Options:
    """Adds flags that are fields of `RecoveryConfig`, with the default in their help."""

    def __init__(self, group):
        self._group = group

    def __call__(self, name: str, help: str, default: str, **options) -> None:
        self._group.add_argument(f"--{name}", help=f"{help} Default: {default}.", default=None, **options)


def _add_what(add: _Options) -> None:
    add(
        "objective",
        "Learn the dense model's distribution of the next token (distill), or the text's own tokens (labels).",
        "distill",
        choices=["distill", "labels"],
    )
    add("temperature", "Softens the distributions of distill.", "1.0", type=float, metavar="T")
    add("hidden_weight", "Weight of the error of hidden states in distill.", "0.0", type=float, metavar="W")
    add(
        "order",
        "Both factors at once (joint), or first U and then V with half of the tokens each (sequential).",
        "joint",
        choices=["joint", "sequential"],
    )
    add(
        "parameters",
        "Train LoRA adapters on the factors, merged at the end (lora), or the factors themselves (factors).",
        "lora",
        choices=["lora", "factors"],
    )
    add("lora_rank", "Rank of the adapters.", "8", type=int, metavar="R")
    add("lora_alpha", "Adapters are scaled by lora_alpha / lora_rank.", "16.0", type=float, metavar="A")
    add(
        "data",
        "Text to train on, sampled evenly: .txt or .jsonl files (gzipped too), wikitext2, c4, alpaca-cleaned. Give DIR and "
        "OUT before it. Lines of a .jsonl file have text, or instruction, output and, optionally, input.",
        "wikitext2 c4",
        nargs="+",
        action="extend",
        metavar="SOURCE",
    )


def _add_how(add: _Options) -> None:
    add("tokens", "Budget of training tokens.", "2000000", type=int, metavar="N")
    add("sequence_length", "Tokens in each window of text.", "512", type=int, metavar="N")
    add("batch_size", "Windows in each step, over all processes.", "8", type=int, metavar="N")
    add("micro_batch_size", "Windows in each forward pass. Fewer take less memory.", "4", type=int, metavar="N")
    add("held_out", "Windows of each source that are kept apart, to measure on.", "16", type=int, metavar="N")
    add(
        "learning_rate",
        "The highest learning rate.",
        "1e-3 for lora, 1e-4 for factors",
        type=float,
        metavar="RATE",
    )
    add("warmup_fraction", "Share of the steps in which the rate rises.", "0.05", type=float, metavar="F")
    add("weight_decay", "Of AdamW.", "0.0", type=float, metavar="W")
    add("max_grad_norm", "Gradients are scaled down to this norm.", "1.0", type=float, metavar="G")
    add("seed", "Of the order of the text and the adapters' start.", "0", type=int, metavar="N")
    add("eval_every", "Steps between two measurements on the held-out windows.", "25", type=int, metavar="N")
    add("patience", "End after so many measurements without a new best.", "5", type=int, metavar="N")
    add("save_every", "Steps between two checkpoints to resume from.", "25", type=int, metavar="N")
    add(
        "gradient_checkpointing",
        "Compute activations again rather than keep them: less memory, slower.",
        "off",
        action="store_const",
        const=True,
    )
    add(
        "dtype",
        "Of the computation; what is trained is float32. auto is bfloat16 on CUDA, else float32.",
        "auto",
        choices=["auto", "float32", "bfloat16"],
    )
