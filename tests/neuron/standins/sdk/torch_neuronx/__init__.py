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
"""Stand-in for torch_neuronx: what the inference code of optimum-neuron touches, on a CPU."""

import functools

import torch

from .standin import runtime


__version__ = "2.8.0.2.10.16998+standin"


class DataParallel(torch.nn.Module):
    """Imported by optimum-neuron, and used by nothing that decodes."""


def _opens_archives(load):
    """`torch.jit.load` that also opens what the stand-in saved. The real package registers C++ classes to this end."""

    @functools.wraps(load)
    def wrapper(f, *args, **kwargs):
        if not hasattr(f, "read"):
            with open(f, "rb") as handle:
                if handle.read(len(runtime.MAGIC)) == runtime.MAGIC:
                    return runtime.load(handle.read())
        return load(f, *args, **kwargs)

    return wrapper


torch.jit.load = _opens_archives(torch.jit.load)
