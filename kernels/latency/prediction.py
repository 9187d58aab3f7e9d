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
"""What a kernel is predicted to take, and how far that can be trusted."""

from dataclasses import dataclass, field, replace

from ..machine import Machine, get_machine
from ..simulator import simulate
from ..simulator.trace import Trace
from .checked import notes
from .constants import Constants, constants_of
from .dma import CALIBRATED, Curve
from .instructions import Costs
from .timeline import CUT, schedule


@dataclass(frozen=True)
class Prediction:
    """The predicted time of a kernel, or of several that run one after the other.

    Attributes:
        kernel: its name.
        machine: for which.
        seconds: predicted. Void where `spills`.
        busy: seconds that each engine works (TensorE, VectorE, ScalarE, GpSimdE, DMA).
        flops, transpose_flops: of one core, transposes apart.
        hbm_bytes: that one core moves.
        floor: seconds that no schedule can beat: max(FLOPs / peak, bytes / saturated bandwidth).
        sbuf_peak: bytes of SBUF live at once, with two buffers of what is streamed (the timeline has more where there is room);
            capacity is `machine.sbuf`.
        peak: FLOPs per second of the tensor engine in the data type.
        spills: more is live than the compiler is expected to keep on chip.
        notes: why the prediction is void, or outside of what the model was checked on; empty where it is inside.
        plans: of its kernels.
        events: (engine, name, start seconds, seconds), where they were asked for. A note says so where they are only the first.
    """

    kernel: str
    machine: Machine
    seconds: float
    busy: dict[str, float]
    flops: int
    transpose_flops: int
    hbm_bytes: int
    floor: float
    sbuf_peak: int
    peak: float
    spills: bool = False
    notes: tuple[str, ...] = ()
    plans: tuple = ()
    events: tuple = field(default=(), repr=False)

    @property
    def bound_by(self) -> str:
        """The engine that works longest."""
        return max(self.busy, key=self.busy.get)

    @property
    def utilisation(self) -> float:
        """FLOPs per second, as a fraction of the tensor engine's peak (MFU)."""
        return self.flops / self.peak / self.seconds

    @property
    def milliseconds(self) -> float:
        return 1e3 * self.seconds

    def __add__(self, other: "Prediction") -> "Prediction":
        """One after the other."""
        flops = self.flops + other.flops
        return replace(
            self,
            kernel=f"{self.kernel} + {other.kernel}",
            seconds=self.seconds + other.seconds,
            busy={engine: seconds + other.busy[engine] for engine, seconds in self.busy.items()},
            flops=flops,
            transpose_flops=self.transpose_flops + other.transpose_flops,
            hbm_bytes=self.hbm_bytes + other.hbm_bytes,
            floor=self.floor + other.floor,
            sbuf_peak=max(self.sbuf_peak, other.sbuf_peak),
            peak=flops / (self.flops / self.peak + other.flops / other.peak) if flops else self.peak,
            spills=self.spills or other.spills,
            notes=tuple(dict.fromkeys(self.notes + other.notes)),
            plans=self.plans + other.plans,
            events=self.events + tuple((e, n, start + self.seconds, s) for e, n, start, s in other.events),
        )


def predict(
    kernel,
    *args,
    target: str | Machine = "trn1",
    cores: int | None = None,
    plan=None,
    record: bool = False,
    dma: Curve = CALIBRATED,
    **kwargs,
) -> Prediction:
    """The predicted time of a call of a kernel, from a dry run of it.

    Args:
        kernel: one of `optimum_neuronmm.kernels`, or a plain function of the same form, as for `simulate`.
        args, kwargs: its tensors (arrays or `Spec`s; None for absent ones) and settings.
        target, cores, plan: as for `simulate`.
        record: keep the events of the timeline.
        dma: the curve of what transfers cost, see `dma`.

    Raises:
        PlanError: no block sizes fit.
        KernelError: the call is wrong.
    """
    run = simulate(kernel, *args, target=target, cores=cores, plan=plan, dry=True, **kwargs)
    name = getattr(kernel, "name", None) or kernel.__name__
    plans = run.plan if isinstance(run.plan, tuple) else (run.plan,)
    return predict_trace(run.trace, run.machine, kernel=name, plans=plans, record=record, dma=dma)


def predict_trace(
    trace: Trace,
    target: str | Machine = "trn1",
    kernel: str = "",
    plans: tuple = (),
    record: bool = False,
    dma: Curve = CALIBRATED,
    constants: Constants | None = None,
) -> Prediction:
    """The predicted time of a trace, see `predict`; `constants`: others than those of the machine."""
    machine = get_machine(target)
    constants = constants or constants_of(machine)
    costs = Costs(machine, constants, dma)
    timeline = schedule(trace, costs, record)
    sbuf = machine.partitions * trace.peak("sbuf", buffered=True)
    spills = sbuf > machine.spill_fraction * machine.sbuf
    programs = max((part.trips for part in trace.body if part.kind == "program"), default=1)
    flops, moved = trace.flops // programs, trace.hbm_bytes // programs
    float32 = any(i.name == "nc_matmul" and i.reads[0].dtype == "float32" for i, _ in trace.instructions())
    peak = machine.peak("float32" if float32 else "bfloat16")
    return Prediction(
        kernel=kernel,
        machine=machine,
        seconds=timeline.seconds,
        busy=costs.busy(trace),
        flops=flops,
        transpose_flops=trace.transpose_flops // programs,
        hbm_bytes=moved,
        floor=max(flops / peak, moved / constants.saturated),
        sbuf_peak=sbuf,
        peak=peak,
        spills=spills,
        notes=(*notes(trace, machine, constants, spills, plans), *([CUT] if timeline.cut else [])),
        plans=plans,
        events=tuple(timeline.events),
    )
