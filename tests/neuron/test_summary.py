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
"""The numbers that a compilation prints, counted by hand."""

from types import SimpleNamespace

import pytest
import torch

from optimum_neuronmm.neuron.compilation import Compilation
from optimum_neuronmm.neuron.form import REPLICATED, SHARDED, Form
from optimum_neuronmm.neuron.summary import summarize


H, I, R = 2048, 8192, 1280  # noqa: E741 - of Llama-3.2-1B at ratio 0.2


def form(tp=2, layout=REPLICATED, ranks=(R, R, R)):
    return Form(H, I, *ranks, tp=tp, layout=layout)


def lines(forms, kernels=None, dtype=torch.bfloat16, target="trn1", cores=1, on_device=True) -> list[str]:
    compilation = Compilation(tuple(forms), kernels or {"1": [None] * len(forms)})
    neuron_config = SimpleNamespace(
        torch_dtype=dtype, target=target, logical_nc_config=cores, on_device_sampling=on_device
    )
    return summarize(compilation, neuron_config).splitlines()


def test_one_rank():
    found = lines([form(tp=1), form(tp=1)], {"512": ["mlp", "mlp"], "1": ["mlp_decode", None]})
    # 3 r (H + I) of 3 H I, in two layers of two bytes
    assert found == [
        "2 of 2 layers have compressed MLPs; tensor parallel size 1, nothing is cut.",
        "MLP weights per rank           157.3 MB   dense 201.3 MB   (0.78)",
        "MLP per token and rank         157.3 MFLOP   dense 201.3 MFLOP",
        "kernels, 512 rows       mlp (2)",
        "kernels, 1 rows         mlp_decode (1), plain products (1)",
    ]
    assert lines([form(tp=1, layout=SHARDED)] * 2) == lines([form(tp=1)] * 2)


def test_bytes_follow_the_dtype():
    (two,), (four,) = (
        [line for line in lines([form()], dtype=d) if "MB" in line] for d in (torch.bfloat16, torch.float32)
    )
    assert "47.2 MB   dense 50.3 MB   (0.94)" in two
    assert "94.4 MB   dense 100.7 MB   (0.94)" in four
    assert [line for line in lines([form()]) if "MFLOP" in line] == [
        "MLP per token and rank          47.2 MFLOP   dense 50.3 MFLOP"
    ]


def test_the_replicated_layout_exchanges_as_often_as_dense():
    found = lines([form()])
    assert found[0].endswith("tensor parallel size 2, replicated.")
    assert "exchanges per layer                1   dense 1" in found
    assert not any("WARNING" in line or "sharded" in line for line in found)


def test_projections_larger_than_dense_are_named():
    forms = [form(tp=8), None, form(tp=8, ranks=(None, 128, R)), form(tp=8, ranks=(128, 128, None))]
    found = [line for line in lines(forms) if line.startswith("WARNING") and "holds" in line]
    assert found == [
        f"WARNING: {name} holds no less per rank than dense in {count}: leave it dense (projections), compress more, "
        "or use another layout or number of ranks."
        for name, count in (("gate", "1 layer"), ("up", "1 layer"), ("down", "2 layers"))
    ]


@pytest.mark.parametrize(
    ("target", "cores", "bandwidth"), [("trn1", 1, 221e9), ("inf2", 1, 221e9), ("trn2", 2, 2 * 221e9 * 368 / 272)]
)
def test_decoding_is_predicted(target, cores, bandwidth):
    found = lines([form(layout=SHARDED), form()], target=target, cores=cores)
    # Bytes of one of two ranks, and 10 us for each of 3, 1 and 1 exchanges.
    sharded = 3 * R * (H + I) / 2 * 2 / bandwidth * 1e6 + 30
    replicated = 3 * R * (2 * H + I) / 2 * 2 / bandwidth * 1e6 + 10
    dense = 3 * H * I / 2 * 2 / bandwidth * 1e6 + 10
    (line,) = [line for line in found if line.startswith("decoding, per layer")]
    assert f" {(sharded + replicated) / 2:,.1f} us   dense {dense:,.1f} us   (predicted: " in line
    assert "10 us for an exchange, which is assumed" in line


def test_layers_that_should_stay_dense_are_said():
    # An eighth of the weights that are saved is read in 12 us; two more exchanges take 20.
    small = form(tp=8, layout=SHARDED)
    found = lines([small, form(tp=8, layout=SHARDED, ranks=(128, 128, 128)), small])
    (warning,) = [line for line in found if line.startswith("WARNING")]
    assert "2 layers of this model should stay dense on 8 ranks: decoding is predicted to be no faster" in warning
    assert not any("stay dense" in line for line in lines([form(tp=2, layout=SHARDED)] * 3))
    assert not any("stay dense" in line for line in lines([form(tp=1)]))


def test_a_layer_that_gains_nothing_should_stay_dense():
    even = Form(64, 64, 32, 32, 32)
    assert even.parameters == even.dense_parameters
    assert any("1 layer of this model should stay dense on 1 ranks" in line for line in lines([even]))


def test_layouts_that_differ():
    forms = [form(), form(layout=SHARDED), None, form(layout=SHARDED, ranks=(None, R, None))]
    found = lines(forms, {"1": ["mlp_decode", "matmul", None, None], "64": ["mlp", "matmul", None, "matmul"]})
    assert found[0] == "3 of 4 layers have compressed MLPs; tensor parallel size 2, replicated (1), sharded (2)."
    assert "exchanges per layer     1 (1), 3 (1), 2 (1)   dense 1" in found
    assert "kernels, 1 rows         mlp_decode (1), matmul (1), plain products (1)" in found
    assert "kernels, 64 rows        mlp (1), matmul (2)" in found


def test_dense_layers_are_no_plain_products():
    found = lines([None, form(), None], {"1": [None, None, None]})
    assert "kernels, 1 rows         plain products (1)" in found
    assert found[0].startswith("1 of 3 layers")
    ours, dense = form().parameters, form().dense_parameters
    assert f"({ours / dense:.2f})" in found[1]


def test_sampling_on_the_host():
    found, device = lines([form()], on_device=False), lines([form()])
    assert [line for line in found if line not in device] == [
        "sampling                on the host: the model returns logits"
    ]
