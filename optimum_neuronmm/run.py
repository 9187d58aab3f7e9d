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
"""What the steps of a compression share."""

from dataclasses import dataclass

import torch

from .allocation import Projections
from .calibration import CalibrationText
from .configuration import NeuronMMConfig
from .source import DenseCheckpoint
from .streaming import LayerStream
from .workspace import Workspace


@dataclass(frozen=True)
class Run:
    """The inputs of a compression and the place where it works.

    Attributes:
        checkpoint: the dense model.
        projections: those to compress.
        config: how.
        text: to measure on.
        stream: of the checkpoint, which has embedded windows of the text's length.
        workspace: for files.
    """

    checkpoint: DenseCheckpoint
    projections: Projections
    config: NeuronMMConfig
    text: CalibrationText
    stream: LayerStream
    workspace: Workspace

    def stored_dtype(self, path: str) -> torch.dtype:
        """The dtype of a projection's weight or factors in the checkpoint that is written."""
        if self.config.dtype is not None:
            return getattr(torch, self.config.dtype)
        return self.checkpoint.info(f"{path}.weight").dtype

    def is_refined(self, layer: int, path: str) -> bool:
        """Whether a kept refinement changed the projection at `path`."""
        is_down = path == self.projections.path(layer, self.projections.family.down)
        return is_down and self.workspace.holds(f"refined-{layer}")

    @property
    def with_gradients(self) -> torch.Tensor:
        """Which of the calibration windows gradients are measured on: at even distances, as sources follow one another."""
        windows = len(self.text.windows)
        count = min(self.config.gradient_samples, windows)
        return torch.arange(count) * windows // count

    @property
    def seed(self) -> int:
        """For generators of torch, which take 64 bits."""
        return self.config.seed % 2**62
