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
import pytest
import torch
from transformers import AutoModelForCausalLM

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.families import FAMILIES, family_of
from optimum_neuronmm.perplexity import perplexity
from optimum_neuronmm.source import open_dense
from optimum_neuronmm.streaming import LayerStream, collect_inputs

from .conftest import save_tiny_model


def stream_of(directory):
    checkpoint = open_dense(directory)
    return LayerStream(checkpoint, family_of(checkpoint.config), torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_layer_by_layer_equals_the_whole_model(model_type, tmp_path):
    directory = save_tiny_model(tmp_path, model_type)
    windows = torch.randint(256, (3, 48), generator=torch.Generator().manual_seed(1))
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    stream = stream_of(directory)
    hidden = stream.embed(windows)
    for index in range(len(stream.layers)):
        with stream.layer(index):
            stream.advance(index, hidden)
    with torch.no_grad():
        captured = []
        model.model.norm.register_forward_pre_hook(lambda _, args: captured.append(args[0]))
        model(input_ids=windows)
    torch.testing.assert_close(hidden, captured[0], rtol=1e-4, atol=1e-4)
    assert stream.perplexity(hidden, windows) == pytest.approx(perplexity(model, windows), rel=1e-5)
