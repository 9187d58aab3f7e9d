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
"""What `optimum-cli export neuron` does with `--neuronmm`, whichever command class was called."""

import shlex
from argparse import ArgumentParser, Namespace

from ..errors import NeuronMMError
from .errors import reported_errors
from .flags import PREFIX, add_neuronmm_arguments, given_options


TASKS = ("auto", "text-generation")

# Of optimum-neuron's options, those that the compression itself reads, and those that only matter to the compilation
# that follows on the instance. Whatever else is given is refused, because it would silently do nothing.
USED = {"help", "model", "output", "task", "torch_dtype", "trust_remote_code", "cache_dir"}
FOR_COMPILATION = ("instance_type", "batch_size", "sequence_length", "tensor_parallel_size")
HOW_TO_COMPILE = tuple(f"{PREFIX}{option}" for option in ("kernel", "layout", "sampling"))


def extend_parser(parser: ArgumentParser) -> None:
    """Adds the `--neuronmm*` flags to a parser that has optimum-neuron's arguments."""
    add_neuronmm_arguments(parser)
    # optimum-neuron's default is "float32", which it never reads here: a plain export parses the command line anew in
    # a child process. To us, not given has to mean the checkpoint's own dtype.
    parser.set_defaults(torch_dtype=None)


def wants_neuronmm(args: Namespace) -> bool:
    """Whether `--neuronmm` was given. Its options without it end the program: ignoring them would surprise."""
    options = given_options(args)
    if options and not args.neuronmm:
        with reported_errors():
            flags = ", ".join(f"--{PREFIX}{option}" for option in options)
            raise NeuronMMError(
                f"{flags} given without --neuronmm. Add --neuronmm to compress, or leave the option out."
            )
    return args.neuronmm


def run_neuronmm(args: Namespace, parser: ArgumentParser, *, sdk_installed: bool) -> None:
    """Compresses `args.model` into `args.output`, and compiles it where the target is a Neuron device."""
    with reported_errors(interrupted="interrupted: run the same command again to resume"):
        _check_options(args, parser)

        from ..configuration import NeuronMMConfig

        config = NeuronMMConfig(**given_options(args), dtype=args.torch_dtype)
        if _compiles(config.target, sdk_installed):
            from .compilation import compile_in_child

            shapes = {name: getattr(args, name) for name in FOR_COMPILATION}
            options = {**given_options(args), "dtype": args.torch_dtype}
            common = {"trust_remote_code": args.trust_remote_code, "cache_dir": args.cache_dir}
            compile_in_child(args.model, args.output, options, **shapes, **common)
            return

        from ..compression import compress

        print(_how_to_compile(args), flush=True)
        compress(
            args.model,
            args.output,
            config,
            trust_remote_code=args.trust_remote_code,
            cache_dir=args.cache_dir,
        )


def _check_options(args: Namespace, parser: ArgumentParser) -> None:
    options = given_options(args)
    if {"compression_ratio", "target_speedup"} <= set(options):  # the config cannot tell a default that was given
        raise NeuronMMError(
            f"--{PREFIX}compression_ratio and --{PREFIX}target_speedup were both given, and each says how much to compress. "
            "Give one of them."
        )
    task = getattr(args, "task", "auto")
    if task not in TASKS:
        raise NeuronMMError(
            f"--neuronmm compresses decoder models, so --task must be one of {', '.join(TASKS)}, got {task!r}."
        )
    meaningless = [
        action.option_strings[-1]
        for action in parser._actions
        if action.dest not in {*USED, *FOR_COMPILATION, PREFIX.rstrip("_")}
        and not action.dest.startswith(PREFIX)
        and getattr(args, action.dest, action.default) != action.default
    ]
    if meaningless:
        raise NeuronMMError(
            f"{', '.join(meaningless)} cannot be combined with --neuronmm, and would be ignored: remove it."
        )


def _compiles(target: str, sdk_installed: bool) -> bool:
    if target == "neuron" and not sdk_installed:
        raise NeuronMMError(
            f"--{PREFIX}target neuron asks for a compiled model, but the Neuron SDK is not installed on this machine. Pass "
            f"--{PREFIX}target cpu to write the compressed checkpoint, which runs on any CPU and is compiled on an instance."
        )
    return target == "neuron" or (target == "auto" and sdk_installed)


def _how_to_compile(args: Namespace) -> str:
    output = str(args.output)
    command = ["optimum-cli", "export", "neuron", "-m", output, "--neuronmm"]
    for name in (*FOR_COMPILATION, *HOW_TO_COMPILE):
        if getattr(args, name) is not None:
            command += [f"--{name}", str(getattr(args, name))]
    command.append(f"{output.rstrip('/')}-neuron")
    return (
        f"Compressing {args.model} into {output}: a checkpoint that runs on any CPU and is not compiled.\n"
        f"To compile it, run on an instance with the Neuron SDK:\n  {shlex.join(command)}"
    )
