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
"""One recovery in one process or several, through accelerate."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, GradientAccumulationPlugin, broadcast_object_list

from ..errors import NeuronMMError
from .config import RecoveryConfig


_SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


class Team:
    """The processes that work on one recovery. Each sees its share of every batch.

    Args:
        device: "cpu", "cuda", or None: CUDA where there is one.

    Attributes:
        accelerator: of accelerate.
        device: of this process.
        dtype: of the computation.
        share: windows of a batch for each process.
        micro: windows in each forward pass.

    Raises:
        NeuronMMError: the device is not there, or a batch cannot be shared evenly.
    """

    def __init__(self, config: RecoveryConfig, device: str | torch.device | None = None):
        kind = None if device is None else str(device).removesuffix(":0")
        if kind not in (None, "cpu", "cuda"):
            raise NeuronMMError(
                f"device must be 'cpu' or 'cuda', got {kind!r}. CUDA_VISIBLE_DEVICES chooses among several."
            )
        if kind == "cuda" and not torch.cuda.is_available():
            raise NeuronMMError("device 'cuda' was asked for, but PyTorch finds no CUDA device. Use 'cpu'.")
        cpu = kind == "cpu" or not torch.cuda.is_available()  # accelerate would find MPS and XLA devices too
        try:  # "no": autocast is entered below, where the teacher computes under it too
            probe = Accelerator(cpu=cpu, mixed_precision="no")
        except ValueError as error:  # this process has an Accelerator of another kind
            raise NeuronMMError(f"accelerate refused to start: {error}") from error
        if probe.distributed_type not in _SUPPORTED:
            raise NeuronMMError(
                f"Recovery runs in one process or with data parallelism, got {probe.distributed_type.value}. Launch it with "
                "accelerate launch --multi_gpu, or on one device."
            )
        processes = probe.num_processes
        self.share = config.batch_size // processes
        self.micro = min(config.micro_batch_size, self.share)
        if config.batch_size % processes or self.share % self.micro:
            raise NeuronMMError(
                f"batch_size must be a multiple of the number of processes times micro_batch_size, got {config.batch_size} "
                f"for {processes} processes and {config.micro_batch_size}."
            )
        # As a plugin: given as a number, the environment that `accelerate launch` sets would override it.
        plugin = GradientAccumulationPlugin(num_steps=self.share // self.micro)
        self.accelerator = Accelerator(cpu=cpu, mixed_precision="no", gradient_accumulation_plugin=plugin)
        self.device = self.accelerator.device
        automatic = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.dtype = automatic if config.dtype == "auto" else getattr(torch, config.dtype)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.accelerator.is_main_process

    @property
    def size(self) -> int:
        return self.accelerator.num_processes

    @property
    def rank(self) -> int:
        return self.accelerator.process_index

    def autocast(self) -> AbstractContextManager:
        """Matrix products in the dtype of the computation, whatever the parameters' is."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def on_main(self, work: Callable):
        """Runs `work` in the main process. Every process gets its result, which can be pickled, or its NeuronMMError."""
        outcome = [None, None]
        if self.is_main:
            try:
                outcome[0] = work()
            except NeuronMMError as error:
                if self.size == 1:
                    raise
                outcome[1] = str(error)
        if self.size > 1:
            broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise NeuronMMError(outcome[1])
        return outcome[0]
