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
"""`simulate`: a kernel on NumPy arrays, or on shapes alone."""

import functools
import inspect
import types
from dataclasses import dataclass

import numpy as np

from ..beta1 import Beta1
from ..dialect import speaking
from ..errors import SimulationError
from ..kernel import Kernel, Spec
from ..machine import Machine, get_machine
from ..pipeline import Pipeline
from . import isa, language
from .memory import Tensor, Traced
from .recorder import Recorder, running
from .trace import Trace
from .values import data_type, dimensions, integer


@dataclass(frozen=True, eq=False)
class Simulation:
    """What a simulated run gave and did.

    Attributes:
        outputs: the tensors that the kernel returned; `Spec`s of them for a dry run.
        trace: every instruction, as a tree of loops.
        machine, plan: what it ran for and with.
    """

    outputs: tuple[np.ndarray | Spec, ...]
    trace: Trace
    machine: Machine
    plan: object

    @property
    def hbm_bytes(self) -> int:
        """Bytes to and from HBM, by all programs together."""
        return self.trace.hbm_bytes

    @property
    def flops(self) -> int:
        """FLOPs of matrix products, without transposes."""
        return self.trace.flops

    @property
    def transpose_flops(self) -> int:
        return self.trace.transpose_flops

    @property
    def intensity(self) -> float:
        """FLOPs per byte of HBM traffic."""
        return self.flops / max(1, self.hbm_bytes)

    @property
    def sbuf_peak(self) -> int:
        """Most bytes of SBUF live at once, with the second buffers that let transfers overlap with work."""
        return self.machine.partitions * self.trace.peak("sbuf", buffered=True)

    @property
    def sbuf_peak_single(self) -> int:
        """Most bytes of SBUF live at once, without second buffers."""
        return self.machine.partitions * self.trace.peak("sbuf")

    @property
    def psum_peak(self) -> int:
        """Most bytes of PSUM live at once, in whole banks."""
        return self.machine.partitions * self.trace.peak("psum", granule=self.machine.psum_bank)

    @property
    def spills(self) -> bool:
        """Whether more of SBUF is live than the compiler is expected to keep there: predictions are void then."""
        return self.sbuf_peak > self.machine.spill_fraction * self.machine.sbuf


def _numpy(value, name: str) -> np.ndarray:
    """NumPy, from NumPy or a torch tensor; bfloat16 through ml_dtypes."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):
        try:
            value = value.detach().cpu()
            bfloat16 = str(value.dtype) == "torch.bfloat16"
            return value.float().numpy().astype(language.bfloat16) if bfloat16 else value.numpy()
        except (TypeError, RuntimeError) as error:  # a meta tensor, a data type of torch alone
            raise SimulationError(f"{name}: this torch tensor has no NumPy form: {error}") from error
    raise SimulationError(f"{name}: expected a NumPy array or a torch tensor, got {type(value).__name__}")


def _argument(recorder: Recorder, name: str, value) -> Tensor:
    """The tensor in HBM for an argument of the kernel."""
    if not recorder.dry:
        value = _numpy(value, name)
    elif not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise SimulationError(
            f"{name}: expected a Spec, or anything with a shape and a dtype, got {type(value).__name__}"
        )
    shape = dimensions(value.shape, name)
    if not shape:
        raise SimulationError(f"{name}: a tensor has at least one dimension, got a number")
    data = None if recorder.dry else value
    return Tensor(recorder, shape, data_type(value.dtype, name), "hbm", name, data=data, argument=True)


def _bind(function, args, kwargs) -> inspect.BoundArguments:
    """The call of a plain function; absent tensors (None) are left as they are."""
    name = getattr(function, "__name__", repr(function))
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise SimulationError(f"a kernel or a function is expected, got {name}") from None
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in signature.parameters.values()):
        raise SimulationError(f"{name}{signature}: a kernel names each of its tensors")
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as error:
        raise SimulationError(f"{name}{signature}: {error}") from None


def _check_capacity(trace: Trace, machine: Machine) -> None:
    """What is live at once must fit, even without second buffers."""
    for buffer, capacity, granule in (
        ("sbuf", machine.sbuf_partition, 1),
        ("psum", machine.psum_partition, machine.psum_bank),
    ):
        peak, held = trace.held(buffer, granule=granule)
        if peak > capacity:
            largest = ", ".join(f"{a.name or 'tile'}{list(a.shape)} of {a.dtype}: {size}" for size, a in held[:4])
            raise SimulationError(
                f"{peak} bytes per partition of {buffer} are live at once, {machine.name} has {capacity}; the largest of"
                f" {len(held)} tiles are {largest}"
            )


def _compiled(function):
    """The function as the compiler of Beta 1 sees it.

    It replaces Python's `range` inside of a kernel with `nl.sequential_range`: the index has no value, and what is made
    in the loop ends with it. Functions that the kernel calls are left alone: in the samples of the SDK their `range` is
    Python's. A `range` that the module of the kernel defines itself is not, and stays.
    """
    if isinstance(function, functools.partial):
        return functools.partial(_compiled(function.func), *function.args, **function.keywords)
    if not isinstance(function, types.FunctionType):
        return function
    names = {"range": language.sequential_range, **function.__globals__}
    made = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def simulate(
    kernel: Kernel,
    *args,
    target: str | Machine = "trn1",
    cores: int | None = None,
    plan=None,
    order: str = "forward",
    dry: bool = False,
    seed: int = 0,
    unroll: bool = False,
    **kwargs,
) -> Simulation:
    """Runs a kernel in NumPy, with the checks of the hardware and of the compiler.

    Args:
        kernel: one of `optimum_neuronmm.kernels`, or a plain function of the same form (it takes no plan of its own).
        args, kwargs: its tensors, as NumPy arrays (bfloat16 of ml_dtypes, or float32), and its settings. With `dry`, `Spec`s do.
        target: the machine whose limits apply.
        cores: how many share the work; each runs as one program. None: 1, or those of the plan.
        plan: block sizes; without it the kernel's own.
        order: of the iterations of affine loops and of the programs: forward, reversed or shuffled (by `seed`).
        dry: no data; each loop body runs once and is counted by its trip count. Same trace, at the cost of the source's size.
            What needs data or a second iteration goes unnoticed: reads of what was never written, elements that are written
            twice or never, Python state that a loop changes, accumulations that take turns in a tile of PSUM.
        unroll: loops are unrolled, as for a compiler that should see no symbolic index.

    Raises:
        SimulationError: the kernel does what hardware or compiler would refuse. Names the operation, the limit, the shapes.
        PlanError: no block sizes fit.
    """
    on = get_machine(target)
    seed = integer(seed, "seed")
    if cores is not None and integer(cores, "cores") < 1:
        raise SimulationError(f"cores: at least one is expected, got {cores}")
    if isinstance(kernel, Pipeline):
        if plan is not None:
            kernel.planned(plan)
        options = {"target": on, "cores": cores, "order": order, "dry": dry, "seed": seed, "unroll": unroll}
        return _simulate_pipeline(kernel, args, kwargs, **options)
    if isinstance(kernel, Kernel):
        tensors, settings = kernel.bind(*args, **kwargs)
        plan = kernel.planned(plan, tensors, settings, on, cores)
        cores = plan.cores
    else:
        if plan is not None:
            raise SimulationError("a plain function takes no plan: give it what it needs as arguments of its own")
        cores = 1 if cores is None else cores
        call = _bind(kernel, args, kwargs)
        tensors = {name: value for name, value in call.arguments.items() if value is not None}
    recorder = Recorder(on, dry=dry, order=order, programs=cores, seed=seed)
    arguments = {name: _argument(recorder, name, value) for name, value in tensors.items()}
    if isinstance(kernel, Kernel):
        body = functools.partial(
            _compiled(kernel.body), **{name: arguments.get(name) for name in kernel.tensors}, **settings, plan=plan
        )
    else:
        call.arguments.update(arguments)
        body = functools.partial(_compiled(kernel), *call.args, **call.kwargs)
    dialect = Beta1(language, isa, unroll=unroll)
    outputs: tuple = ()
    with running(recorder), speaking(dialect):
        for _ in recorder.loop("program", cores):
            returned = body()
            outputs = returned if isinstance(returned, tuple) else (returned,)
    trace = recorder.trace()
    _check_capacity(trace, on)
    for tensor in outputs:
        if not isinstance(tensor, Tensor) or not tensor.shared:
            what = tensor.label if isinstance(tensor, Traced) else repr(tensor)
            raise SimulationError(
                f"a kernel returns tensors that it made in nl.shared_hbm, one or a tuple of them, got {what}"
            )
        if not dry and not tensor.written.all():
            missing = int(tensor.written.size - np.count_nonzero(tensor.written))
            raise SimulationError(f"{tensor.label}: {missing} of {tensor.written.size} elements were never written")
    arrays = tuple(Spec(tensor.shape, str(tensor.dtype)) if dry else tensor.data for tensor in outputs)
    return Simulation(arrays, trace, on, plan)


def _simulate_pipeline(pipeline: Pipeline, args, kwargs, **options) -> Simulation:
    """Its kernels one after the other; the traces are joined, and the plan is the tuple of theirs."""
    runs: list[Simulation] = []

    def launch(kernel, **call):
        runs.append(simulate(kernel, **call, **options))
        return runs[-1].outputs[0]

    pipeline.run(launch, *args, **kwargs)
    trace = runs[0].trace
    for run in runs[1:]:
        trace = trace + run.trace
    return Simulation(runs[-1].outputs, trace, runs[0].machine, tuple(run.plan for run in runs))
