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
"""The same on CUDA as on the CPU: no step mixes devices. Skipped where there is no CUDA device."""

import pytest
import torch

from optimum_neuronmm import NeuronMMConfig, compress


pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"decomposition": "two_sided_local"},
        {"decomposition": "whitened"},
        {"decomposition": "svd"},
        {"refine": True},
        {"max_perplexity_increase": 0.05},
        {"recovery": "distill", "recovery_tokens": 8192},
    ],
    ids=str,
)
def test_compression(options, tiny_llama, quick_options, tmp_path):
    config = NeuronMMConfig(**quick_options, **options)
    reports = {device: compress(tiny_llama, tmp_path / device, config, device=device) for device in ("cpu", "cuda")}
    figures = [report["perplexity"]["divergence"] for report in reports.values()]
    assert figures[1] == pytest.approx(figures[0], rel=0.05)
