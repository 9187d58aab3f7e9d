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
import torch

from .base import xla_hlo_call  # noqa: F401


class RmsNorm:
    """apply(hidden_states fp32, weight, eps, dim): custom call AwsNeuronRmsNorm on a device."""

    @staticmethod
    def apply(hidden_states, weight, eps, dim):
        variance = hidden_states.pow(2).mean(dim, keepdim=True)
        return weight.to(hidden_states.dtype) * (hidden_states * torch.rsqrt(variance + eps))


class Argmax:
    @staticmethod
    def apply(tensor, dim, keepdim=False):
        return torch.argmax(tensor, dim=dim, keepdim=keepdim)


class TopK:
    @staticmethod
    def apply(tensor, k, dim):
        return torch.topk(tensor, k, dim=dim)


class _NkiCall:
    def __init__(self, kernel, grid=()):
        self.kernel, self.grid = kernel, grid

    def __getitem__(self, grid):
        return _NkiCall(self.kernel, grid)

    def __call__(self, *args, **kwargs):
        run = getattr(self.kernel, "cpu_reference", None)
        if run is None:
            raise NotImplementedError(f"NKI kernel {self.kernel!r} has no CPU reference in the stand-in")
        return run(*args, grid=self.grid, **kwargs)


def nki_jit(**_options):
    return lambda kernel: _NkiCall(kernel)
