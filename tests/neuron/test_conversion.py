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
"""Tensors of a checkpoint become those of the module: all of them, and no others."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_neuronmm import NeuronMMError
from optimum_neuronmm.families import FAMILIES
from optimum_neuronmm.neuron.conversion import convert_mlp, expected_tensors
from optimum_neuronmm.neuron.form import REPLICATED, SHARDED, Form
from tests.neuron.compressed import checkpoint_tensors, save_compressed


LLAMA, PHI3 = FAMILIES["llama"], FAMILIES["phi3"]
PREFIX = "layers.1.mlp."


def stored(form: Form, family=LLAMA) -> dict[str, torch.Tensor]:
    tensors = checkpoint_tensors(form, family, torch.Generator().manual_seed(0))
    return {f"{PREFIX}{name}": tensor for name, tensor in tensors.items()}


def convert(form: Form, state: dict | None = None, family=LLAMA) -> dict[str, torch.Tensor]:
    found = convert_mlp(stored(form, family) if state is None else state, PREFIX, form, family)
    assert all(name.startswith(PREFIX) and name.endswith(".weight") for name in found)
    return {name.removeprefix(PREFIX).removesuffix(".weight"): tensor for name, tensor in found.items()}


@settings(deadline=None)
@given(
    ranks=st.tuples(*[st.none() | st.integers(1, 9)] * 3),
    fused=st.booleans(),
    biased=st.booleans(),
    tp=st.integers(1, 5),
    layout=st.sampled_from([REPLICATED, SHARDED]),
)
def test_every_number_is_used_once_and_the_rest_is_zeros(ranks, fused, biased, tp, layout):
    family = PHI3 if fused else LLAMA
    gate, up, down = ranks
    up = gate if fused else up
    form = Form(6, 7, gate, up, down, shared=fused and gate is not None, biased=biased, tp=tp, layout=layout)
    state = stored(form, family)
    before = torch.cat([tensor.flatten() for tensor in state.values()])
    found = convert(form, state, family)
    assert state == {}
    assert {name: tuple(t.shape) for name, t in found.items()} == {n: m.shape for n, m in form.matrices.items()}
    assert all(tensor.is_contiguous() for tensor in found.values())
    after = torch.cat([tensor.flatten() for tensor in found.values()])
    assert torch.equal(after[after != 0].sort().values, before.sort().values)


def test_other_layers_are_left_alone():
    form = Form(6, 7, 2, 3, 2)
    others = {"layers.0.mlp.gate_proj.weight": torch.ones(1), "layers.10.mlp.x": torch.ones(1), "norm": torch.ones(1)}
    state = stored(form) | others
    convert(form, state)
    assert state == others


def test_factors_are_stored_as_the_kernels_read_them():
    form = Form(6, 7, 2, None, 3)
    state = stored(form)
    found = convert(form, dict(state))
    for name, of_checkpoint in {
        "gate_u": "gate_proj.u", "gate_v": "gate_proj.v", "up": "up_proj", "down_u": "down_proj.u", "down_v": "down_proj.v",
    }.items():  # fmt: skip
        assert torch.equal(found[name], state[f"{PREFIX}{of_checkpoint}.weight"].T)


def test_a_fused_matrix_is_cut_in_gate_then_up():
    form = Form(6, 7, 2, 2, None, shared=True, biased=True)
    state = stored(form, PHI3)
    found = convert(form, dict(state), PHI3)
    v, bias = state[f"{PREFIX}gate_up_proj.v.weight"], state[f"{PREFIX}gate_up_proj.v.bias"]
    assert torch.equal(found["gate_u"], state[f"{PREFIX}gate_up_proj.u.weight"].T)
    assert torch.equal(found["gate_v"], v[:7].T) and torch.equal(found["up_v"], v[7:].T)
    assert torch.equal(found["gate_bias"], bias[:7]) and torch.equal(found["up_bias"], bias[7:])


def test_zeros_are_added_at_the_ends():
    form = Form(6, 7, 3, None, 3, biased=True, tp=4, layout=SHARDED)
    state = stored(form)
    found = convert(form, dict(state))
    gate_v = found["gate_v"]
    assert gate_v.shape == (4, 8)
    assert torch.equal(gate_v[:3, :7], state[f"{PREFIX}gate_proj.v.weight"].T)
    assert not gate_v[3:].any() and not gate_v[:, 7:].any()
    assert torch.equal(found["down_u"][:7, :3], state[f"{PREFIX}down_proj.u.weight"].T)
    assert torch.equal(found["down_v"][:3], state[f"{PREFIX}down_proj.v.weight"].T)
    assert torch.equal(found["gate_bias"][:7], state[f"{PREFIX}gate_proj.v.bias"]) and found["gate_bias"][7] == 0
    assert torch.equal(found["down_bias"], state[f"{PREFIX}down_proj.v.bias"])  # whole on every rank


def test_every_rank_gets_its_columns_of_gate_and_then_of_up():
    form = Form(6, 7, 3, 4, None, tp=2, layout=SHARDED)
    state = stored(form)
    gate, up = (state[f"{PREFIX}{name}_proj.u.weight"].T for name in ("gate", "up"))
    first, second = convert(form, dict(state))["u"].chunk(2, dim=1)
    assert torch.equal(first, torch.cat([gate[:, :2], up[:, :2]], dim=1))
    assert torch.equal(second, torch.cat([gate[:, 2:], torch.zeros(6, 1), up[:, 2:]], dim=1))


@pytest.mark.parametrize("family", [LLAMA, PHI3], ids=["llama", "phi3"])
@pytest.mark.parametrize("biased", [False, True])
def test_every_missing_tensor_is_named(family, biased):
    form = Form(6, 7, 2, 2, 3, shared=family is PHI3, biased=biased)
    for name in stored(form, family):
        state = stored(form, family)
        del state[name]
        with pytest.raises(NeuronMMError, match=f"{name} is missing in the checkpoint"):
            convert(form, state, family)


@pytest.mark.parametrize("family", [LLAMA, PHI3], ids=["llama", "phi3"])
def test_every_wrong_shape_is_named(family):
    form = Form(6, 7, 2, 2, None, shared=family is PHI3, biased=True)
    for name, tensor in stored(form, family).items():
        state = stored(form, family)
        state[name] = torch.zeros(*tensor.shape[:-1], tensor.shape[-1] + 1)
        shapes = f"{name} is {tuple(state[name].shape)} in the checkpoint, expected {tuple(tensor.shape)}"
        with pytest.raises(NeuronMMError) as error:
            convert(form, state, family)
        assert shapes in str(error.value)


@pytest.mark.parametrize("surplus", ["gate_proj.bias", "up_proj.u.weight", "gate_proj.w.weight", "norm.weight"])
def test_a_tensor_that_belongs_to_nothing_is_named(surplus):
    form = Form(6, 7, 2, None, 3)
    state = stored(form) | {f"{PREFIX}{surplus}": torch.ones(3)}
    with pytest.raises(NeuronMMError, match=rf"{PREFIX}{surplus} is \(3,\) .* expected none of that name"):
        convert(form, state)


def test_dense_weights_under_a_factored_name_are_refused():
    form = Form(6, 7, 2, 2, 2)
    state = stored(form) | {f"{PREFIX}gate_proj.weight": torch.ones(7, 6)}
    with pytest.raises(NeuronMMError, match=r"gate_proj.weight is \(7, 6\) .* expected \(0,\)"):
        convert(form, state)


@pytest.mark.parametrize(
    ("family", "ranks", "options"),
    [("llama", {"gate_proj": 32, "down_proj": 8}, {"mlp_bias": True}), ("phi3", {"gate_up_proj": 16}, {})],
)
def test_what_is_expected_is_what_a_checkpoint_holds(tiny, tmp_path, family, ranks, options):
    from safetensors.torch import load_file
    from transformers import AutoConfig

    from optimum_neuronmm.neuron.compilation import compressed_with
    from optimum_neuronmm.neuron.form import forms_of

    directory = save_compressed(tiny(family, **options), tmp_path / "compressed", ranks)
    config = AutoConfig.from_pretrained(directory)
    prefix = "model.layers.0.mlp."
    tensors = load_file(directory / "model.safetensors")
    found = {name.removeprefix(prefix): tuple(t.shape) for name, t in tensors.items() if name.startswith(prefix)}
    form = forms_of(config, compressed_with(config).modules, 1)[0]
    assert expected_tensors(form, FAMILIES[family]) == found
