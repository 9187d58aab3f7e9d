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
"""Where a model is planned to run: a machine, the cores of it, and the shapes of the graphs."""

from dataclasses import dataclass

import torch

from ..errors import NeuronMMError
from ..kernels import MACHINES, Machine
from ..kernels.latency.constants import constants_of
from ..kernels.machine import INSTANCES, Instance


DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
MOST_ROWS = 2**20  # of a prefill; far above what a core takes, and larger ones would keep the program busy
# Types of instances with the chips of another name.
_SAME_CHIPS = {"trn1n": "trn1", "trn2u": "trn2"}


@dataclass(frozen=True)
class Deployment:
    """The device and the shapes.

    Attributes:
        instance_type: as the user gave it: a kind of chip (`trn1`), or an instance (`trn1.32xlarge`).
        batch_size, sequence_length: of the graphs; a sequence is prompt and answer together.
        tensor_parallel_size: ranks.
        dtype: a name of `DTYPES`.

    Raises:
        NeuronMMError: there is no such instance, it (of a kind of chip, the largest) has fewer cores than the ranks need, or a
            prefill has too many rows.
    """

    instance_type: str = "trn1"
    batch_size: int = 1
    sequence_length: int = 2048
    tensor_parallel_size: int = 1
    dtype: str = "bfloat16"

    def __post_init__(self):
        if self.kind not in MACHINES:
            raise NeuronMMError(
                f"unknown instance type {self.instance_type!r}: expected one of {', '.join([*MACHINES, *_SAME_CHIPS])}, "
                f"or an instance: {', '.join(INSTANCES)}."
            )
        if self.dtype not in DTYPES:
            raise NeuronMMError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}.")
        for name in ("batch_size", "sequence_length", "tensor_parallel_size"):
            if getattr(self, name) < 1:
                raise NeuronMMError(f"{name} must be at least 1, got {getattr(self, name)}.")
        rows = self.batch_size * self.sequence_length
        if rows > MOST_ROWS:
            raise NeuronMMError(
                f"batch_size x sequence_length must be at most {MOST_ROWS:,} rows of a prefill, got {self.batch_size:,} x "
                f"{self.sequence_length:,} = {rows:,}: use fewer or shorter sequences."
            )
        needed, largest = self.tensor_parallel_size * self.cores, self._largest
        if needed > largest.cores:
            told = self.instance_type if self.instance else f"{largest.name}, the largest of {self.instance_type},"
            raise NeuronMMError(
                f"tensor_parallel_size {self.tensor_parallel_size} needs {needed} cores, and {told} has {largest.cores}: use "
                + ("fewer ranks or a larger instance." if self.instance else "fewer ranks or another instance type.")
            )

    @property
    def kind(self) -> str:
        if self.instance:
            return self.instance.machine.name
        return _SAME_CHIPS.get(self.instance_type, self.instance_type)

    @property
    def instance(self) -> Instance | None:
        """None where the user gave a kind of chip."""
        return INSTANCES.get(self.instance_type)

    @property
    def _largest(self) -> Instance:
        """The instance, or of a kind of chip the one with the most cores."""
        of_kind = (instance for instance in INSTANCES.values() if instance.machine.name == self.kind)
        return self.instance or max(of_kind, key=lambda instance: instance.cores)

    @property
    def machine(self) -> Machine:
        return MACHINES[self.kind]

    @property
    def cores(self) -> int:
        """Physical cores of one rank: of a logical core, as optimum-neuron uses them."""
        return self.machine.lnc

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def itemsize(self) -> int:
        return self.torch_dtype.itemsize

    @property
    def flops(self) -> float:
        """Peak FLOP/s of one rank."""
        return self.cores * self.machine.peak(self.dtype)

    @property
    def bandwidth(self) -> float:
        """Bytes per second that one rank can expect of HBM: what the model of the engines lets its transfers reach."""
        return self.cores * constants_of(self.machine).saturated

    @property
    def hbm(self) -> int:
        """Bytes of HBM of one rank: its cores' even share of the chip's."""
        return self.cores * self.machine.hbm_capacity_per_core

    def __str__(self) -> str:
        cores = f" of {self.cores} cores" if self.cores > 1 else ""
        ranks = f"{self.tensor_parallel_size} ranks{cores}" if self.tensor_parallel_size > 1 else f"1 rank{cores}"
        return (
            f"{self.instance_type} ({self.machine.core}), {ranks}, {self.dtype}, batch {self.batch_size}, sequence "
            f"{self.sequence_length}"
        )
