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
"""One step of a model: its MLPs as predicted, and everything else as bounds."""

from collections import Counter
from dataclasses import dataclass

from ..kernels import KernelError, PlanError
from ..kernels.latency import Prediction
from ..neuron.form import EXCHANGE_SECONDS, Form
from ..neuron.selection import Candidate, no_kernel, predict_calls
from .roofline import EXCHANGE, Operation


PREFILL, DECODE = "prefill", "decode"


@dataclass(frozen=True)
class Mlps:
    """The MLPs of one form in a step.

    Attributes:
        form: of each. count: of layers that have it. bound: of all these layers, whatever computes them.
        candidates: ways to compute one, in the order of `neuron.selection.in_order`; empty where no kernel fits.
        refusals: kernel -> why it cannot be used.
        interpolated: between those of MLPs with other ranks, see `interpolation`; then there are no calls and no plans.
    """

    form: Form
    count: int
    bound: Operation
    candidates: tuple[Candidate, ...]
    refusals: dict[str, KernelError]
    interpolated: bool = False

    @property
    def best(self) -> Candidate:
        return self.candidates[0]

    @property
    def seconds(self) -> float:
        """Predicted for one layer, with its exchanges, whose time is assumed."""
        return self.best.seconds + self.form.collectives * EXCHANGE_SECONDS

    def trace(self) -> Prediction:
        """The prediction of the best with the events of its timeline."""
        return predict_calls(self.best.calls, record=True)


@dataclass(frozen=True)
class Phase:
    """One step of the model: a prefill (its time bounds TTFT) or the decoding of a token (TPOT).

    Times are there where `refusal` is None.

    Attributes:
        name: PREFILL or DECODE. rows: of hidden states.
        mlps: predicted. operations: everything else, as bounds.
    """

    name: str
    rows: int
    mlps: tuple[Mlps, ...]
    operations: tuple[Operation, ...]

    @property
    def refusal(self) -> str | None:
        """Why there is no time: of an MLP that no kernel fits, the kernel that comes nearest, and what it lacks."""
        refused = next((mlps for mlps in self.mlps if not mlps.candidates), None)
        return refused and f"there is {no_kernel(refused.form, self.rows, _nearest(refused.refusals))}"

    @property
    def most_common(self) -> Mlps:
        """Those of the most layers, of those that are predicted themselves."""
        return max((mlps for mlps in self.mlps if not mlps.interpolated), key=lambda mlps: mlps.count)

    @property
    def mlp_seconds(self) -> float:
        """Predicted for all layers."""
        return sum(mlp.count * mlp.seconds for mlp in self.mlps)

    @property
    def kernel_seconds(self) -> float:
        """The same without the exchanges between ranks."""
        return sum(mlp.count * mlp.best.seconds for mlp in self.mlps)

    @property
    def mlp_floor(self) -> float:
        """Seconds by FLOPs and bytes alone, all layers; without exchanges, whose time is assumed."""
        return sum(mlp.bound.seconds for mlp in self.mlps)

    @property
    def mlp_flops(self) -> int:
        """Of one core, transposes apart."""
        return sum(mlp.count * mlp.best.prediction.flops for mlp in self.mlps)

    @property
    def mlp_bound_by(self) -> str:
        """The engine that works longest, in all layers together."""
        busy = Counter()
        for mlp in self.mlps:
            for engine, seconds in mlp.best.prediction.busy.items():
                busy[engine] += mlp.count * seconds
        return max(busy, key=busy.get)

    @property
    def rest_seconds(self) -> float:
        """What everything that is not an MLP takes at least, and its exchanges as assumed."""
        return sum(operation.seconds for operation in self.operations)

    @property
    def seconds(self) -> float:
        """An estimate of the whole step: MLPs as predicted, the rest at its bound, and exchanges as assumed."""
        return self.mlp_seconds + self.rest_seconds

    @property
    def floor(self) -> float:
        """A bound of the whole step: MLPs and the rest at their bounds, without exchanges."""
        return self.mlp_floor + sum(each.seconds for each in self.operations if each.bound_by != EXCHANGE)

    @property
    def bound_by(self) -> str:
        """The part that takes longest, and what bounds that."""
        longest = max(self.operations, key=lambda operation: operation.seconds)
        if self.mlp_seconds >= longest.seconds:
            return f"MLP ({self.mlp_bound_by})"
        return f"{longest.name} ({longest.bound_by})"

    @property
    def notes(self) -> list[str]:
        """Of the predictions: why one is void, or outside of what the model was checked on."""
        best = [mlp.best for mlp in self.mlps if mlp.candidates]
        return list(dict.fromkeys(note for candidate in best for note in candidate.notes))


def _nearest(refusals: dict[str, KernelError]) -> list[str]:
    """Of reasons, the one that lacks the fewest bytes, in short."""
    lacking = {
        kernel: error.lacking for kernel, error in refusals.items() if isinstance(error, PlanError) and error.lacking
    }
    if not lacking:
        return [f"{kernel}: {error}" for kernel, error in refusals.items()]
    kernel = min(lacking, key=lacking.get)
    size, what = lacking[kernel]
    return [f"the nearest is {kernel}, whose {what} are {size} bytes per partition too large"]
