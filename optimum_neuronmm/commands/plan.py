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
"""`optimum-cli neuronmm plan`: what compression would do to the latency of a model, from its config alone."""

import json
import math
import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from optimum.commands.base import BaseOptimumCLICommand

from ..errors import NeuronMMError
from .errors import reported_errors
from .flags import PREFIX, given_options


RATIO = "compression_ratio"


class PlanCommand(BaseOptimumCLICommand):
    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        parser.epilog = "All times are predicted by a model of the device, or bounds. None is measured."
        what = parser.add_argument_group("What is planned")
        what.add_argument(
            "-m", "--model", required=True, metavar="MODEL", help="Directory or Hub id. Only its config.json is read."
        )
        what.add_argument("--revision", metavar="R", help="Revision of a model on the Hub.")
        what.add_argument("--cache_dir", metavar="DIR", help="Directory in which downloads are cached.")
        _add_device(parser.add_argument_group("Where it runs"))
        _add_compression(parser.add_argument_group("How it is compressed"))
        _add_output(parser.add_argument_group("What is written"))

    def run(self) -> None:
        with reported_errors():
            _run(self.args)


def _add_device(group) -> None:
    group.add_argument(
        "--instance_type",
        default="trn1",
        metavar="TYPE",
        help="trn1, inf2, trn2 or trn3, or an instance such as trn1.32xlarge. Default: trn1.",
    )
    group.add_argument("--batch_size", type=int, default=1, metavar="N", help="Sequences at once. Default: 1.")
    group.add_argument(
        "--sequence_length", type=int, default=2048, metavar="N", help="Positions of a sequence. Default: 2048."
    )
    group.add_argument(
        "--tensor_parallel_size", type=int, default=1, metavar="N", help="Ranks to cut the model for. Default: 1."
    )
    group.add_argument(
        "--dtype", choices=["bfloat16", "float32"], default="bfloat16", help="To compute in. Default: bfloat16."
    )


def _add_compression(group) -> None:
    def add(option: str, help: str, **kwargs) -> None:
        group.add_argument(f"--{PREFIX}{option}", default=None, help=help, **kwargs)

    add(
        RATIO,
        "Fractions of the projections' parameters to REMOVE, separated by commas. Default: 0.1, and none for a model that is "
        "compressed already.",
        metavar="RATIOS",
    )
    add("block_size", "Ranks are multiples of this. Default: 128.", type=int, metavar="N")
    add(
        "allocation",
        "As an export's default removes: as many parameters as were asked for, here evenly over the layers (auto, by_loss); or by "
        "the paper's formula (uniform). Default: auto.",
        choices=["auto", "by_loss", "uniform"],
    )
    add("alpha", "Rounding threshold of a uniform rank. Default: 0.5.", type=float, metavar="A")
    add("projections", "Which projections of each MLP: any of gate, up, down. Default: all.", metavar="NAMES")
    add(
        "layout",
        "How the factors lie on the ranks of tensor parallelism. Default: auto.",
        choices=["auto", "replicated", "sharded"],
    )


def _add_output(group) -> None:
    group.add_argument("--json", action="store_true", help="Print the whole plan as JSON.")
    group.add_argument(
        "--plot",
        metavar="PNG",
        help="Draw where the time of a step goes. An existing file is overwritten.",
    )
    group.add_argument(
        "--trace",
        metavar="FILE",
        help="Write the timeline of the engines in one MLP, for Perfetto or Chrome. An existing file is overwritten.",
    )
    group.add_argument(
        "--trace_phase", choices=["prefill", "decode"], help="Of which step. Default: prefill. Needs --trace."
    )
    group.add_argument(
        "--trace_ratio",
        metavar="RATIO",
        help="At which of the ratios, or dense. Default: the first ratio. Needs --trace.",
    )


def _run(args: Namespace) -> None:
    options = given_options(args)
    text = options.pop(RATIO, None)
    ratios = None if text is None else _ratios(text)
    if "projections" in options:
        options["projections"] = [name.strip() for name in options["projections"].split(",") if name.strip()]

    _check_output(args)

    from ..configuration import NeuronMMConfig
    from ..planning import Deployment, plan_model, read_model
    from ..planning.plan import find_label, labels_of
    from ..planning.text import format_plan

    shapes = ("instance_type", "batch_size", "sequence_length", "tensor_parallel_size", "dtype")
    deployment = Deployment(**{name: getattr(args, name) for name in shapes})
    model = read_model(args.model, args.revision, args.cache_dir)
    if ratios is None:
        ratios = [] if model.modules else [NeuronMMConfig().compression_ratio]
    if args.trace_ratio is not None:
        find_label(args.trace_ratio, labels_of(model, ratios))
    plan = plan_model(model, deployment, ratios, **options)
    if args.json:
        from ..planning.record import to_dict

        print(json.dumps(to_dict(plan), indent=2))
    else:
        print(format_plan(plan))
    if args.trace is not None:
        _write_trace(plan, args)
    if args.plot is not None:
        from ..planning.plot import draw_plan

        draw_plan(plan, args.plot)


def _check_output(args: Namespace) -> None:
    """Checks what would otherwise be found out after the search.

    Raises:
        NeuronMMError: a file cannot be written, or an option has nothing to act on.
    """
    if args.trace is None:
        for option in ("trace_phase", "trace_ratio"):
            if getattr(args, option) is not None:
                raise NeuronMMError(f"--{option} says what --trace FILE is to hold: give --trace as well.")
    if args.plot is not None and Path(args.plot).suffix.lower() != ".png":
        raise NeuronMMError(f"--plot writes a PNG: expected a name that ends in .png, got {args.plot!r}.")
    files = {option: path for option in ("trace", "plot") if (path := getattr(args, option)) is not None}
    for option, path in files.items():
        _check_file(option, path)
    if len({os.path.realpath(path) for path in files.values()}) < len(files):
        raise NeuronMMError(f"--trace {args.trace} and --plot {args.plot} are the same file: give each its own.")


def _check_file(option: str, path: str) -> None:
    from ..output_file import is_special

    if Path(path).is_dir():
        is_folder = ", which is a directory" if path else ""
        raise NeuronMMError(f"--{option} takes the name of a file, got {path!r}{is_folder}.")
    needed = [path] if os.path.exists(path) else []
    if not is_special(path):
        folder = Path(os.path.realpath(path) if os.path.islink(path) else path).parent
        if not folder.is_dir():
            raise NeuronMMError(f"--{option} {path}: {folder} is no directory. Create it, or choose another.")
        if _is_printed_to(path):
            raise NeuronMMError(f"--{option} {path} is the file that the plan is printed to: choose another.")
        needed.append(folder)  # where a new file is written before it takes the place of an older one
    for refused in needed:
        if not os.access(refused, os.W_OK):
            raise NeuronMMError(
                f"{path} could not be written: no permission for {refused}. Choose another file for --{option}."
            )


def _is_printed_to(path: str) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(1))
    except OSError:  # it is not there yet, or nothing is printed
        return False


def _ratios(text: str) -> list[float]:
    """The ratios of a list with commas.

    Raises:
        NeuronMMError: one is no number between 0 and 1.
    """
    found = []
    for part in text.split(","):
        try:
            ratio = float(part)
        except ValueError:
            ratio = math.nan
        if not 0 < ratio < 1:
            raise NeuronMMError(
                f"--{PREFIX}{RATIO} takes numbers between 0 and 1, separated by commas, got {part.strip()!r} in {text!r}."
            )
        found.append(ratio)
    return found


def _write_trace(plan, args: Namespace) -> None:
    from ..output_file import write_whole
    from ..planning.chrome import chrome_trace

    first = plan.variants[min(1, len(plan.variants) - 1)]
    variant = first if args.trace_ratio is None else plan.variant(args.trace_ratio)
    phase = getattr(variant, args.trace_phase or "prefill")
    if phase.refusal:
        raise NeuronMMError(f"{args.trace} was not written: of ratio {variant.label}, {phase.refusal}.")
    mlps = phase.most_common
    title = (
        f"{plan.model.name}, ratio {variant.label}, {phase.name} of {phase.rows} rows: one MLP by {mlps.best.kernel}"
    )
    write_whole(args.trace, json.dumps(chrome_trace(mlps.trace(), title)).encode())
