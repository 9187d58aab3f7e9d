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
"""What goes wrong with a kernel: its plan, its run in the simulator, its dialect."""


class KernelError(ValueError):
    """A kernel cannot be planned, run or found. The message says what was expected, what was got and what to try."""


class PlanError(KernelError):
    """No block sizes of this kernel fit the shape and the machine: leave the layer to the compiler.

    Attributes:
        lacking: (bytes per partition, what is too large by as many) of the block sizes that come nearest, where one buffer is
            what does not fit.
    """

    def __init__(self, message: str, lacking: tuple[int, str] | None = None):
        super().__init__(message)
        self.lacking = lacking


class SimulationError(KernelError):
    """A kernel did what the hardware or the compiler would refuse; names the operation, the limit and the shapes."""


class DialectError(KernelError):
    """The NKI that was asked for is not there."""
