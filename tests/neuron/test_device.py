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
"""What only a device can show: kernels that compile inside a model's graphs, and compute the right numbers there."""

import pytest

from tests.neuron import compressed, harness


@pytest.mark.hardware
@pytest.mark.parametrize("layout", ["replicated", "sharded"])
@pytest.mark.parametrize(("family", "tp"), [("llama", 1), ("llama", 2), ("phi3", 2)])
def test_kernels_inside_the_model(tiny, tmp_path, family, tp, layout):
    import torch

    dense = tiny(family, dtype=torch.bfloat16, intermediate_size=512, hidden_size=256)
    checkpoint = compressed.save_compressed(dense, tmp_path / "compressed")
    # "nki" raises where a kernel does not compile, or differs from its reference.
    model = compressed.export(
        checkpoint, layout=layout, kernel="nki", tp=tp, dtype=torch.bfloat16, sequence_length=256
    )
    used = {name for names in model.config.quantization_config["compilation"]["kernels"].values() for name in names}
    assert used and None not in used
    tokens = harness.tokens()
    exact = harness.torch_logits(harness.load_torch(checkpoint, torch.float32), tokens)
    theirs = harness.error(harness.torch_logits(checkpoint, tokens), exact)
    assert harness.error(harness.logits(model, tokens), exact) <= 2 * theirs + 1e-6
