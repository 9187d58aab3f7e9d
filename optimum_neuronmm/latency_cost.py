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
"""Predicted seconds as the cost of a rank: of whole MLPs, and of each projection as its share of them.

The parts of an MLP work at the same time, on several engines, so the seconds of its projections do not add up by nature.
A share that adds up is made of differences: what the whole MLP takes when one projection alone is replaced, against the
dense MLP. `MLPLatency.seconds` of the MLP as it was chosen says how far the sum is off.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from .allocation import Projections
from .configuration import NeuronMMConfig
from .errors import NeuronMMError
from .families import Family
from .kernels import MACHINES
from .neuron.form import Form, dense_form
from .neuron.selection import Candidate, no_kernel, rank_kernels
from .ranks import DENSE, Shape


BATCH_SIZE = 1  # what is predicted
_DECODE_ROWS = 1


class Ranks(NamedTuple):
    """The rank of each projection of one MLP, or DENSE."""

    gate: int | None = DENSE
    up: int | None = DENSE
    down: int | None = DENSE


@dataclass(frozen=True)
class Request:
    """What is to be fast: one prompt, read in one prefill, and the decode steps after it.

    Attributes:
        instance_type: a name of `kernels.MACHINES`; the time is that of one of its logical cores.
        prompt_length: rows of the prefill; 0 leaves it out.
        output_length: number of decode steps, of one row each; 0 leaves them out.
    """

    instance_type: str
    prompt_length: int
    output_length: int

    @classmethod
    def of(cls, config: NeuronMMConfig) -> "Request":
        return cls(config.target_instance_type, config.target_prompt_length, config.target_output_length)

    @property
    def cores(self) -> int:
        """Physical cores of a logical one, which share the work as in an export."""
        return MACHINES[self.instance_type].lnc

    @property
    def phases(self) -> dict[str, tuple[int, int]]:
        """(rows of a call of the MLP, number of calls) of the phases that count."""
        phases = {"prefill": (self.prompt_length, 1), "decode_step": (_DECODE_ROWS, self.output_length)}
        return {name: (rows, times) for name, (rows, times) in phases.items() if rows and times}


class MLPLatency:
    """Predicted seconds of the MLPs of a model in a request, by the model of `kernels.latency`.

    Every MLP is predicted with the kernels that `neuron.selection` would try first. The dense MLP is one of these kernels
    with dense weights: what the compiler makes of it is not known. Biases are counted.

    Args:
        dense: the form of the dense MLP, for one rank of tensor parallelism.
        request: that is to be fast.
        dtype: of weights and activations.
    """

    def __init__(self, dense: Form, request: Request, dtype: torch.dtype = torch.bfloat16):
        self._form, self.request, self.dtype = dense, request, dtype
        self._fastest: dict[tuple[Ranks, str], Candidate] = {}

    @classmethod
    def of(cls, model_config, family: Family, request: Request, dtype: torch.dtype) -> "MLPLatency":
        """That of a transformers model. float16, which the kernels do not compute in, counts as bfloat16."""
        shared = any(len(computes) > 1 for computes in family.projections.values())
        form = replace(dense_form(model_config), shared=shared)
        return cls(form, request, torch.bfloat16 if dtype == torch.float16 else dtype)

    def fastest(self, ranks: Ranks, phase: str) -> Candidate:
        """The fastest way to compute one MLP once in a phase of the request.

        Raises:
            NeuronMMError: no kernel can compute it, so nothing can be predicted.
        """
        if (ranks, phase) not in self._fastest:
            rows, _ = self.request.phases[phase]
            form = replace(self._form, **ranks._asdict())
            candidates, refused = rank_kernels(form, rows, self.dtype, self.request.instance_type, self.request.cores)
            valid = [candidate for candidate in candidates if not candidate.prediction.spills]
            if not valid:
                reasons = [*refused.values(), *(f"{c.kernel} is expected to spill" for c in candidates)]
                raise NeuronMMError(
                    f"target_speedup cannot be predicted: {no_kernel(form, rows, reasons)}. Give a compression_ratio instead."
                )
            self._fastest[ranks, phase] = valid[0]
        return self._fastest[ranks, phase]

    @property
    def known(self) -> list[Ranks]:
        """The MLPs that were predicted already, in every phase."""
        first, *others = self.request.phases
        found = [ranks for ranks, phase in self._fastest if phase == first]
        return [ranks for ranks in found if all((ranks, phase) in self._fastest for phase in others)]

    def seconds(self, ranks: Ranks) -> float:
        """Of one MLP, in the whole request."""
        return sum(times * self.fastest(ranks, phase).seconds for phase, (_, times) in self.request.phases.items())

    def cost(self, shape: Shape, rank: int | None) -> float:
        """Seconds of one projection in the whole request: its share of the MLP.

        A dense one has the share of the dense MLP that it has of the parameters; another rank adds to it what the MLP
        takes longer (less: subtracts) when this projection alone has the rank. So the costs of an MLP add up to `seconds`
        where at most one of its projections is factored.
        """
        H, I = self._form.H, self._form.I  # noqa: E741
        dense = self.seconds(Ranks())
        share = shape.dense_parameters / (3 * H * I) * dense
        if shape == Shape(H, 2 * I):
            alone = Ranks(gate=rank, up=rank)
        else:  # gate stands for up as well: either of them alone takes the same time
            alone = Ranks(gate=rank) if shape == Shape(H, I) else Ranks(down=rank)
        return max(0.0, share + self.seconds(alone) - dense)


def ranks_of_layers(projections: Projections, ranks: Mapping[str, int | None]) -> list[Ranks]:
    """The ranks of every layer's MLP. Projections that `ranks` does not list are dense; a fused one is gate and up."""
    found = []
    for layer in range(projections.layers):
        names = {}
        for attribute, computes in projections.family.projections.items():
            names |= dict.fromkeys(computes, ranks.get(projections.path(layer, attribute), DENSE))
        found.append(Ranks(**names))
    return found
