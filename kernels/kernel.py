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
"""A kernel as an object: its body, its reference twin, and how it is planned and launched."""

import functools
import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from . import dialect
from .errors import KernelError, PlanError
from .machine import Machine, get_machine
from .plan import ACTIVATIONS, Plan


LARGEST = 2**31  # of a dimension: far above any tensor, and few enough blocks for a search to end
_GIVEN = {"shapes", "dtype", "machine", "cores", "reload"}  # parameters of a planner that are no options of a caller


class Spec(NamedTuple):
    """The shape and the data type of a tensor, in its place where no data is needed."""

    shape: tuple[int, ...]
    dtype: str = "bfloat16"


def _shape(tensor) -> tuple[int, ...]:
    return tuple(int(n) for n in tensor.shape)


def dtype_name(tensor) -> str:
    """`bfloat16` or `float32`, of a NumPy, torch or XLA tensor or a Spec; its dtype may be a name or a scalar type."""
    dtype = tensor.dtype
    if isinstance(dtype, type):  # np.float32, ml_dtypes.bfloat16
        dtype = np.dtype(dtype)
    return str(dtype).removeprefix("torch.")


def _count(value) -> int | None:
    """An integer, or None for what is none."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


@dataclass(frozen=True, eq=False)
class Kernel:
    """An NKI kernel.

    Attributes:
        body: the function that a dialect runs; tensors first, `None` for one that is absent, then settings and `plan`.
        reference: what it computes, in torch: the same tensors and settings.
        planner: (shapes by argument name, dtype, machine, cores, settings...) -> the plan that `body` takes.
        tensors: names of the tensor arguments; settings: names of the others.
        absent: the tensors that may be None.
    """

    body: Callable
    reference: Callable
    planner: Callable
    tensors: tuple[str, ...]
    settings: tuple[str, ...]
    absent: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.body.__name__

    @property
    def __doc__(self):
        return self.body.__doc__

    def bind(self, *args, **kwargs) -> tuple[dict, dict]:
        """(tensors by name, settings by name) of a call; absent tensors are left out."""
        parameters = inspect.signature(self.body).parameters
        signature = inspect.Signature([p for name, p in parameters.items() if name != "plan"])  # what a caller gives
        try:
            bound = signature.bind_partial(*args, **kwargs)
        except TypeError as error:
            raise KernelError(f"{self.name}{signature}: {error}") from None
        tensors = {name: bound.arguments[name] for name in self.tensors if bound.arguments.get(name) is not None}
        # Said to be None, in the call or by default.
        said = {name for name in self.absent if name in bound.arguments or parameters[name].default is None}
        missing = [name for name in self.tensors if name not in tensors and name not in said]
        if missing:
            raise KernelError(f"{self.name}: missing {', '.join(missing)}")
        for name, tensor in tensors.items():
            if not hasattr(tensor, "shape") or not hasattr(tensor, "dtype"):
                raise KernelError(f"{self.name}: {name} must be an array or a Spec, got {type(tensor).__name__}")
            self._check_shape(name, tensor.shape)
        dtypes = {name: dtype_name(tensor) for name, tensor in tensors.items()}
        if len(set(dtypes.values())) > 1 or not set(dtypes.values()) <= {"bfloat16", "float32"}:
            raise KernelError(f"{self.name}: all tensors must be bfloat16, or all float32, got {dtypes}")
        settings = {name: bound.arguments[name] for name in self.settings if name in bound.arguments}
        self._check_settings(settings)
        return tensors, settings

    def _check_shape(self, name: str, shape) -> None:
        sizes = [_count(n) for n in shape] if hasattr(shape, "__iter__") else [None]
        if None in sizes:
            raise KernelError(f"{self.name}: the shape of {name} must be a tuple of integers, got {shape!r}")
        if any(n > LARGEST for n in sizes):
            raise KernelError(f"{self.name}: a dimension of {name} is at most {LARGEST}, got {sizes}")

    def _check_settings(self, settings: dict) -> None:
        activation = settings.get("activation", ACTIVATIONS[0])
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            raise PlanError(
                f"{self.name}: unknown activation {activation!r}: expected one of {', '.join(ACTIVATIONS)}"
            )
        transposed = settings.get("x_transposed", False)
        if not isinstance(transposed, bool):
            raise KernelError(f"{self.name}: x_transposed must be True or False, got {transposed!r}")

    def _options(self, options) -> dict:
        """The options of a call, if the planner has them."""
        if options is None:
            return {}
        names = inspect.signature(self.planner).parameters
        allowed = [name for name in names if name not in _GIVEN and name not in self.settings]
        wrong = f"{self.name}: options map {', '.join(allowed) or 'nothing, as there are none,'} to positive integers"
        if not isinstance(options, Mapping):
            raise KernelError(f"{wrong}, got {type(options).__name__}")
        for name, value in options.items():
            if name not in allowed or (_count(value) or 0) < 1:
                raise KernelError(f"{wrong}, got {name!r}: {value!r}")
        return {name: _count(value) for name, value in options.items()}

    def plan(
        self, *args, target: str | Machine = "trn1", cores: int | None = None, options: Mapping | None = None, **kwargs
    ):
        """The plan of least predicted time for these tensors (arrays or `Spec`s) on a machine, for 1 core where `cores` is None.

        The planner looks at all block sizes that fit and names the few that may be the quickest; the engine model decides
        between them (`latency.predict`). Plans of equal calls are made once.

        Args:
            options: restrict the search, by the names of the planner's own parameters.

        Raises:
            PlanError: no block sizes fit: leave the layer to the compiler.
            KernelError: the call is wrong: a shape, a data type, a setting, the machine or an option.
        """
        programs = 1 if cores is None else _count(cores)
        if programs is None or programs < 1:
            what = "an integer" if programs is None else "at least 1"
            raise PlanError(f"{self.name}: cores must be {what}, got {cores!r}")
        tensors, settings = self.bind(*args, **kwargs)
        shapes = {name: _shape(tensor) for name, tensor in tensors.items()}
        dtype = dtype_name(next(iter(tensors.values())))
        chosen = tuple(sorted(self._options(options).items()))
        return _quickest(
            self, tuple(shapes.items()), dtype, get_machine(target), programs, tuple(sorted(settings.items())), chosen
        )

    def planned(self, plan, tensors: dict, settings: dict, target: Machine, cores: int | None):
        """`plan` if it was made for this call, or a new one where it is None. Without `cores`, those of the plan count.

        Raises:
            PlanError: it was made for another kernel, other tensors, another machine or other cores: blocks would be
                skipped or not fit.
        """
        call = {**dict.fromkeys(self.absent), **tensors, **settings}
        if plan is None:
            return self.plan(**call, target=target, cores=cores)
        made = {"cores": (getattr(plan, "cores", None), cores)} if cores is not None else {}
        if isinstance(plan, Plan):
            made = {**self._made_for(plan, tensors, settings, target), **made}
        elif not hasattr(plan, "cores") or isinstance(self.plan(**call, target=target, cores=cores), Plan):
            # plans of another form are for kernels whose planner makes such
            raise PlanError(f"{self.name}: expected a plan of this kernel, got {type(plan).__name__}")
        for what, (planned, got) in made.items():
            if planned != got:
                raise PlanError(
                    f"{self.name}: the plan is for {what} {planned}, and this call has {got}: plan it anew"
                )
        return plan

    def _made_for(self, plan: Plan, tensors: dict, settings: dict, target: Machine) -> dict[str, tuple]:
        """(what the plan was made for, what this call has), by what it is."""
        planner = KERNELS[plan.kernel].planner if plan.kernel in KERNELS else None
        return {
            "kernel": (self.name if planner is self.planner else plan.kernel, self.name),
            "tensors": (plan.shapes, tuple((name, _shape(tensor)) for name, tensor in tensors.items())),
            "data type": (plan.dtype, dtype_name(next(iter(tensors.values())))),
            "x_transposed": (plan.x_transposed, settings.get("x_transposed", False)),
            "machine": (plan.machine, target.name),
        }

    def __call__(self, *args, target: str | Machine = "trn1", cores: int | None = None, plan=None, **kwargs):
        """Runs the kernel: on the device where the Neuron SDK is, else in the simulator (NumPy in, NumPy out).

        cores: that share the work; 1, or those of the plan, where it is None.
        """
        if dialect.chosen() == "simulator":
            from .simulator import simulate

            result = simulate(self, *args, target=target, cores=cores, plan=plan, **kwargs)
            return result.outputs[0] if len(result.outputs) == 1 else result.outputs
        on = get_machine(target)
        plan = self.planned(plan, *self.bind(*args, **kwargs), on, cores)
        if plan.cores == 1:
            return self.compiled(*args, **kwargs, plan=plan)
        grid = plan.cores  # programs that run one after the other, unless one logical core has as many physical ones
        if plan.cores <= on.lnc:
            from neuronxcc.nki.language import nc

            grid = nc(plan.cores)
        return self.compiled[grid](*args, **kwargs, plan=plan)

    @functools.cached_property
    def compiled(self):
        """The body under `nki.jit` of the SDK."""
        found = dialect.find_neuronxcc()
        if found is None:
            raise KernelError(f"{self.name}: the Neuron SDK is not installed")
        return found[0].jit(self.body)


@functools.lru_cache(maxsize=1024)
def _quickest(
    kernel: Kernel, shapes: tuple, dtype: str, machine: Machine, cores: int, settings: tuple, options: tuple
):
    """Of the plans that the planner names, the one of least predicted time; the first of equal ones."""
    found = kernel.planner(dict(shapes), dtype, machine, cores, **dict(settings), **dict(options))
    if not isinstance(found, list | Plan):
        return found
    transposed = dict(settings).get("x_transposed", False)
    plans = [
        replace(plan, kernel=kernel.name, shapes=shapes, x_transposed=transposed)
        for plan in (found if isinstance(found, list) else [found])
    ]
    if len(plans) == 1:
        return plans[0]
    from .latency.choice import quickest  # it runs kernels

    return quickest(kernel, {name: Spec(shape, dtype) for name, shape in shapes}, dict(settings), machine, plans)


KERNELS: dict[str, Kernel] = {}


def tensors_and_settings(body: Callable) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the positional parameters of a kernel's body, and of the keyword-only ones but `plan`."""
    parameters = inspect.signature(body).parameters.values()
    return (
        tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY),
        tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "plan"),
    )


def kernel(reference: Callable, planner: Callable, absent: tuple[str, ...] = ()):
    """Makes a function a `Kernel`. Its positional parameters are tensors, its keyword-only ones settings and `plan`.

    absent: the tensors that may be None, besides those that default to it.
    """

    def decorate(body: Callable) -> Kernel:
        defaulted = tuple(p.name for p in inspect.signature(body).parameters.values() if p.default is None)
        made = Kernel(body, reference, planner, *tensors_and_settings(body), (*absent, *defaulted))
        KERNELS[made.name] = made
        return made

    return decorate
