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

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from ..beta1 import Beta1
from ..dialect import speaking
from ..errors import SimulationError
from ..kernel import Kernel, Spec
from ..machine import Machine, get_machine
from ..pipeline import Pipeline
from . import isa, language
from .memory import Tensor
from .recorder import Recorder, running
from .trace import Trace


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
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            return value.float().numpy().astype(ml_dtypes.bfloat16)
        return value.numpy()
    raise SimulationError(f"{name}: expected a NumPy array or a torch tensor, got {type(value).__name__}")


def simulate(
    kernel: Kernel,
    *args,
    target: str | Machine = "trn1",
    cores: int = 1,
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
        cores: logical cores that share the work; each runs as one program.
        plan: block sizes; without it the kernel's own.
        order: of the iterations of affine loops and of the programs: forward, reversed or shuffled (by `seed`).
        dry: no data; each loop body runs once and is counted by its trip count. Same trace, at the cost of the source's size.
        unroll: loops are unrolled, as for a compiler that should see no symbolic index.

    Raises:
        SimulationError: the kernel does what hardware or compiler would refuse. Names the operation, the limit, the shapes.
        PlanError: no block sizes fit.
    """
    on = get_machine(target)
    if isinstance(kernel, Pipeline):
        options = {"target": on, "cores": cores, "order": order, "dry": dry, "seed": seed, "unroll": unroll}
        return _simulate_pipeline(kernel, args, kwargs, **options)
    if isinstance(kernel, Kernel):
        tensors, settings = kernel.bind(*args, **kwargs)
        plan = plan or kernel.plan(*args, target=on, cores=cores, **kwargs)
        cores, body, settings = plan.cores, kernel.body, {**settings, "plan": plan}
    else:
        body, settings = kernel, {}
        names = body.__code__.co_varnames[: body.__code__.co_argcount]
        tensors = {**dict(zip(names, args, strict=False)), **kwargs}
    recorder = Recorder(on, dry=dry, order=order, programs=cores, seed=seed)
    arguments = {}
    for name, value in tensors.items():
        data = None if dry else _numpy(value, name)
        dtype = language.bfloat16 if str(value.dtype).endswith("bfloat16") else np.dtype(str(value.dtype).split(".")[-1])
        arguments[name] = Tensor(recorder, value.shape, dtype, "hbm", name, data=data, argument=True)
    if isinstance(kernel, Kernel):
        arguments = {name: arguments.get(name) for name in kernel.tensors}
    dialect = Beta1(language, isa, unroll=unroll)
    outputs: tuple = ()
    with running(recorder), speaking(dialect):
        for _ in recorder.loop("program", cores):
            returned = body(**arguments, **settings)
            outputs = returned if isinstance(returned, tuple) else (returned,)
    for tensor in outputs:
        if not isinstance(tensor, Tensor) or tensor.buffer != "hbm":
            raise SimulationError(f"a kernel returns tensors in HBM, got {tensor!r}")
        if not dry and not tensor.written.all():
            missing = int(tensor.written.size - np.count_nonzero(tensor.written))
            raise SimulationError(f"{tensor.label}: {missing} of {tensor.written.size} elements were never written")
    arrays = tuple(Spec(tensor.shape, str(tensor.dtype)) if dry else tensor.data for tensor in outputs)
    return Simulation(arrays, recorder.trace(), on, plan)


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
