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
"""Which NKI the kernels speak: found once, explicitly, and handed to them as one object of operations.

`NEURONMM_NKI=simulator|neuronxcc` chooses. Without it the Neuron SDK is used where importing it yields what a kernel needs;
a placeholder package or a stand-in of it does not, and counts as absent. A dialect is one class with the operations of
`beta1.Beta1`; `nki` 0.3 and later will be a second one. `NEURONMM_NKI_UNROLL=1` has the loops unrolled while the SDK traces,
should its compiler stumble over a symbolic index: slower to compile, the same kernel.
"""

import importlib
import os
from contextlib import contextmanager
from contextvars import ContextVar

from .errors import DialectError


VARIABLE = "NEURONMM_NKI"
UNROLL = "NEURONMM_NKI_UNROLL"
CHOICES = ("simulator", "neuronxcc")
_current: ContextVar = ContextVar("neuronmm_dialect")


def find_neuronxcc() -> tuple | None:
    """The modules (nki, nki.language, nki.isa) of a working `neuronxcc`, or None."""
    try:
        modules = [importlib.import_module(f"neuronxcc.nki{name}") for name in ("", ".language", ".isa")]
    except ImportError:
        return None
    nki, nl, nisa = modules
    return (nki, nl, nisa) if hasattr(nki, "jit") and hasattr(nl, "ndarray") and hasattr(nisa, "nc_matmul") else None


def chosen() -> str:
    """`simulator` or `neuronxcc`, as the environment says or as the installed packages allow."""
    wanted = os.environ.get(VARIABLE, "")
    if not wanted:
        return "neuronxcc" if find_neuronxcc() else "simulator"
    if wanted not in CHOICES:
        raise DialectError(f"{VARIABLE}={wanted!r}: expected one of {', '.join(CHOICES)}, or unset it")
    if wanted == "neuronxcc" and not find_neuronxcc():
        raise DialectError(
            f"{VARIABLE}=neuronxcc, but `neuronxcc.nki` with `nl.ndarray` and `nisa.nc_matmul` cannot be imported: install"
            " neuronx-cc 2.21 (Neuron SDK 2.26) from the Neuron repository; the package of that name on PyPI is a placeholder"
        )
    return wanted


@contextmanager
def speaking(dialect):
    """Makes `dialect` the one that kernels use."""
    token = _current.set(dialect)
    try:
        yield dialect
    finally:
        _current.reset(token)


def current():
    """The dialect that a kernel's body is to use: the one of the running simulation, or Beta 1 of the SDK."""
    dialect = _current.get(None)
    if dialect is not None:
        return dialect
    from .beta1 import Beta1

    found = find_neuronxcc()
    if found is None:
        raise DialectError(
            "no NKI is running this kernel: call it through simulate(), or on a machine with the Neuron SDK"
        )
    unroll = os.environ.get(UNROLL, "")
    if unroll not in ("", "0", "1"):
        raise DialectError(f"{UNROLL}={unroll!r}: expected 0 or 1, or unset it")
    return Beta1(*found[1:], unroll=unroll == "1")
