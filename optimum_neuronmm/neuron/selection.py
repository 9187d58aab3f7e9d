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
"""Which layers run on which kernels, decided before the model is traced.

A kernel is a candidate where its plan fits the machine, and candidates are tried in the order of their predicted time
(`kernels.latency`). With the SDK, every shape is then compiled once in a child process and compared with its reference
(`probe`). What comes out is a table that travels in config.json: the graphs are traced by it.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from tqdm.auto import tqdm
from transformers.utils import logging

from ..errors import NeuronMMError
from ..kernels import KERNELS, DialectError, Kernel, KernelError, Pipeline, Spec, get_machine
from ..kernels.dialect import VARIABLE, find_neuronxcc
from ..kernels.latency import Prediction, predict
from ..kernels.latency.constants import constants_of
from .form import Form
from .launch import can_compile
from .probe import Call, probe
from .program import FEW_ROWS, KERNEL_ACTIVATIONS, SEPARATE, compressed_mlp, kernels_for


logger = logging.get_logger(__name__)

KERNEL_DTYPES = (torch.bfloat16, torch.float32)
# Of a dense layer, wherever its time is told.
DENSE_LAYERS = (
    "dense: our kernels with dense weights; an export leaves dense layers to the compiler, whose time is not predicted"
)
SEPARATELY = (
    "separate products of few rows leave the product of gate and up to the compiler: it is assumed to take what its bytes take, "
    "and the start of two transfers"
)
Table = dict[str, list[str | None]]  # rows of a graph -> the kernel of every layer, None for plain products


@dataclass(frozen=True)
class Candidate:
    """A way to compute the MLP of one layer.

    Attributes:
        kernel: one of `kernels_for` its form.
        calls: of kernels, one after the other.
        prediction: of all of them. Exchanges between ranks, and what is left to the compiler between the calls, are not in it.
        left: seconds that are assumed for what is left to the compiler. With few rows, separate products leave it
            activation(gate) * up.
    """

    kernel: str
    calls: tuple[Call, ...]
    prediction: Prediction
    left: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether nothing is left to the compiler."""
        return self.left == 0.0

    @property
    def seconds(self) -> float:
        """Predicted, and what is assumed for what is left to the compiler."""
        return self.prediction.seconds + self.left

    @property
    def notes(self) -> tuple[str, ...]:
        """Of the prediction, and of what is assumed."""
        return self.prediction.notes if self.complete else (*self.prediction.notes, SEPARATELY)


class _NoExchange:
    """Collectives of tensors without data."""

    def __init__(self, tp: int):
        self.tp = tp

    def gather(self, x):
        return x.new_empty((self.tp, *x.shape))

    def sum(self, x):
        return x

    def sum_and_scatter(self, x):
        return x.new_empty((x.shape[0], x.shape[1] // self.tp))


def calls_of(form: Form, kernel: str, rows: int, dtype: torch.dtype, target: str, cores: int) -> list[Call]:
    """The kernel calls that one layer makes in a graph of `rows` rows.

    Raises:
        PlanError: one of them does not fit the machine.
    """
    calls: list[Call] = []

    def record(launched: Kernel, **call):
        if isinstance(launched, Pipeline):
            return launched.run(record, **call)
        tensors, settings = launched.bind(**call)
        specs = {name: Spec(tuple(tensor.shape), name_of(dtype)) for name, tensor in tensors.items()}
        launched.plan(**{**dict.fromkeys(launched.absent), **specs}, **settings, target=target, cores=cores)
        shapes = tuple((name, spec.shape) for name, spec in specs.items())
        calls.append(Call(launched.name, shapes, tuple(settings.items()), name_of(dtype), target, cores))
        return launched.reference(**call)

    weights = {name: torch.empty(m.local, dtype=dtype, device="meta") for name, m in form.matrices.items()}
    x = torch.empty((rows, form.H), dtype=dtype, device="meta")
    compressed_mlp(x, weights, form, kernel, record, _NoExchange(form.tp))
    return calls


def predict_calls(calls: Iterable[Call], record: bool = False) -> Prediction:
    """The predicted time of calls that follow each other.

    Args:
        record: keep the events of the timeline.

    Raises:
        PlanError: one of them does not fit the machine.
    """

    def one(call: Call) -> Prediction:
        kernel = KERNELS[call.kernel]
        specs = {name: Spec(shape, call.dtype) for name, shape in call.tensors}
        arguments = {**dict.fromkeys(kernel.absent), **specs, **dict(call.settings)}
        return predict(kernel, target=call.target, cores=call.cores, record=record, **arguments)

    return reduce(add, map(one, calls))


def rank_kernels(
    form: Form, rows: int, dtype: torch.dtype, target: str, cores: int
) -> tuple[list[Candidate], dict[str, KernelError]]:
    """The ways to compute a form at some rows by predicted time, fastest first, and why the others cannot be used.

    The order is that of `in_order`. Plain products are no candidate: how the compiler lowers them is not known.

    Args:
        cores: physical cores that share the work of one rank.

    Returns:
        The candidates, and (kernel -> error) of those without a plan.
    """
    candidates, refusals = [], {}
    for name in kernels_for(form):
        try:
            calls = tuple(calls_of(form, name, rows, dtype, target, cores))
            left = (
                _left_to_the_compiler(form, rows, dtype, target, cores)
                if name == SEPARATE and rows <= FEW_ROWS
                else 0.0
            )
            candidates.append(Candidate(name, calls, predict_calls(calls), left))
        except KernelError as error:
            refusals[name] = error.with_traceback(None)  # which would hold all that the search made
    return in_order(candidates), refusals


def in_order(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Candidates by predicted time, fastest first; what is expected to spill comes last, because its prediction is void."""
    return sorted(candidates, key=lambda candidate: (candidate.prediction.spills, candidate.seconds))


def _left_to_the_compiler(form: Form, rows: int, dtype: torch.dtype, target: str, cores: int) -> float:
    """Seconds of h = activation(g) * u by itself: g and u read, and h written. Assumed, see `SEPARATELY`."""
    machine = get_machine(target)
    moved = 3 * rows * (form.padded(form.I) // form.tp) * dtype.itemsize
    return moved / (cores * constants_of(machine).saturated) + 2 * machine.dma_start


def choose_kernels(
    forms: list[Form | None], rows: list[int], dtype: torch.dtype, target: str, cores: int, setting: str
) -> Table:
    """The kernel of every layer in every graph.

    Args:
        forms: of the layers; None where a layer is dense.
        rows: of the graphs.
        setting: `NeuronMMConfig.kernel`: "compiler" uses none, "nki" insists, "auto" falls back to plain products.

    Raises:
        NeuronMMError: "nki" is asked for, and a kernel cannot be used; it names the shape and the log.
    """
    nothing: Table = {str(n): [None] * len(forms) for n in rows}
    if setting == "compiler":
        return nothing
    refusal = check_kernels(setting, dtype)
    if refusal is None:
        different = dict.fromkeys((form, n) for n in rows for form in forms if form is not None)
        progress = tqdm(different, desc="Trying kernels", unit="MLP", leave=False, disable=None)
        choices = {(form, n): _choose(form, n, dtype, target, cores, setting) for form, n in progress}
        return {str(n): [choices.get((form, n)) for form in forms] for n in rows}
    logger.warning(f"No fused kernels: {refusal}. The compiler lowers plain matrix products.")
    return nothing


def check_kernels(setting: str, dtype: torch.dtype | None) -> str | None:
    """Why no kernel can be used whatever the shape, or None.

    Args:
        dtype: None where it is not known yet.

    Raises:
        NeuronMMError: there is a reason, and `setting` is "nki".
    """
    refusal = None
    if dtype is not None and dtype not in KERNEL_DTYPES:
        refusal = f"the kernels compute in bfloat16 or float32, not in {name_of(dtype)}"
    elif not _has_nki():
        refusal = "no working neuronxcc.nki is installed"
    if refusal is not None and setting == "nki":
        raise NeuronMMError(f"kernel='nki' was asked for, but {refusal}. Use kernel='auto' or 'compiler'.")
    return refusal


def _has_nki() -> bool:
    try:
        compiles = can_compile()
    except DialectError as error:  # the variable asks for what is not there
        raise NeuronMMError(str(error)) from error
    simulates = os.environ.get(VARIABLE) == "simulator"
    if simulates and find_neuronxcc():
        raise NeuronMMError(
            f"{VARIABLE}=simulator computes kernels on the CPU, and cannot be part of a compiled model: unset it, or use "
            "kernel='compiler'."
        )
    return compiles or simulates


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _choose(form: Form, rows: int, dtype, target: str, cores: int, setting: str) -> str | None:
    """The kernel that is predicted to be the fastest of those whose calls fit the machine and pass the probe."""
    candidates, refused = rank_kernels(form, rows, dtype, target, cores)
    refusals = list(refused.values())
    for candidate in candidates:
        failed = next((failure for call in candidate.calls if (failure := probe(call)) is not None), None)
        if failed is None:
            return candidate.kernel
        refusals.append(failed)
    message = no_kernel(form, rows, refusals)
    if setting == "nki":
        raise NeuronMMError(f"kernel='nki' was asked for, but there is {message}. Use kernel='auto' or 'compiler'.")
    logger.warning(f"Plain matrix products for these layers: {message}.")
    return None


def no_kernel(form: Form, rows: int, refusals: Iterable[KernelError | str]) -> str:
    """Why no kernel can compute a form, from what was refused."""
    if not refusals:
        known = ", ".join(KERNEL_ACTIVATIONS)
        refusals = [f"the kernels have no activation {form.activation!r}, only {known}"]
    return f"no kernel for an MLP of {rows} rows, {form}: " + "; ".join(map(str, refusals))
