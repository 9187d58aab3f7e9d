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

A kernel is a candidate where its plan fits the machine. With the SDK, every shape is then compiled once in a child process
and compared with its reference (`probe`). What comes out is a table that travels in config.json: the graphs are traced by it.
"""

import os

import torch
from tqdm.auto import tqdm
from transformers.utils import logging

from ..errors import NeuronMMError
from ..kernels import DialectError, Kernel, KernelError, Pipeline, Spec
from ..kernels.dialect import VARIABLE, find_neuronxcc
from .form import Form
from .launch import can_compile
from .probe import Call, probe
from .program import KERNEL_ACTIVATIONS, compressed_mlp, kernels_for


logger = logging.get_logger(__name__)

KERNEL_DTYPES = (torch.bfloat16, torch.float32)
Table = dict[str, list[str | None]]  # rows of a graph -> the kernel of every layer, None for plain products


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

    def record(kernel: Kernel, **call):
        if isinstance(kernel, Pipeline):
            return kernel.run(record, **call)
        tensors, settings = kernel.bind(**call)
        specs = {name: Spec(tuple(tensor.shape), name_of(dtype)) for name, tensor in tensors.items()}
        kernel.plan(**{**dict.fromkeys(kernel.absent), **specs}, **settings, target=target, cores=cores)
        shapes = tuple((name, spec.shape) for name, spec in specs.items())
        calls.append(Call(kernel.name, shapes, tuple(settings.items()), name_of(dtype), target, cores))
        return kernel.reference(**call)

    weights = {name: torch.empty(m.local, dtype=dtype, device="meta") for name, m in form.matrices.items()}
    x = torch.empty((rows, form.H), dtype=dtype, device="meta")
    compressed_mlp(x, weights, form, kernel, record, _NoExchange(form.tp))
    return calls


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
        progress = tqdm(different, desc="Trying kernels", unit="MLP", leave=False)
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
    """The first kernel whose calls fit the machine and pass the probe."""
    refusals: list[str] = []
    for name in kernels_for(form):
        try:
            calls = calls_of(form, name, rows, dtype, target, cores)
        except KernelError as error:
            refusals.append(str(error))
            continue
        failed = next((failure for call in calls if (failure := probe(call)) is not None), None)
        if failed is None:
            return name
        refusals.append(failed)
    if not refusals:
        known = ", ".join(KERNEL_ACTIVATIONS)
        refusals.append(f"the kernels have no activation {form.activation!r}, only {known}")
    message = f"no kernel for an MLP of {rows} rows, {form}: " + "; ".join(refusals)
    if setting == "nki":
        raise NeuronMMError(f"kernel='nki' was asked for, but there is {message}. Use kernel='auto' or 'compiler'.")
    logger.warning(f"Plain matrix products for these layers: {message}.")
    return None
