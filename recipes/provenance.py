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
"""With what the numbers were made: versions and machine."""

import importlib.metadata
import os
import platform

import torch

from optimum_neuronmm import __version__


_PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "evaluate", "numpy", "optimum-neuron", "neuronx-cc")


def versions() -> dict[str, str]:
    """Of Python, this package and what the numbers depend on, where it is installed."""
    found = {"python": platform.python_version(), "optimum-neuronmm": __version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict:
    """Cores, threads and processor; never a name or an address."""
    found = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "architecture": platform.machine()}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def without_directories(content):
    """The same JSON content, with only the name of each file or directory of this machine that it mentions."""
    if isinstance(content, dict):
        return {key: without_directories(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_directories(value) for value in content]
    if isinstance(content, str) and (os.path.isabs(content) or os.path.exists(content)):
        return os.path.basename(os.path.abspath(content))
    return content
