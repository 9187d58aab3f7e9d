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
"""Sizes of what every rank holds, counted again by hand."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_neuronmm import NeuronMMError
from optimum_neuronmm.neuron.form import (
    REPLICATED,
    SHARDED,
    Form,
    Matrix,
    activation_of,
    check_heads,
    dense_form,
    forms_of,
)
from optimum_neuronmm.ranks import Shape, uniform_rank


LAYOUTS = (REPLICATED, SHARDED)


def up(n: int, tp: int) -> int:
    while n % tp:
        n += 1
    return n


def held(form: Form) -> dict[str, int]:
    """Numbers that one rank holds of each projection, from the description of the layouts in the documentation."""
    H, tp = form.H, form.tp
    I, mine = up(form.I, tp), up(form.I, tp) // tp  # noqa: E741
    cut = form.layout == SHARDED

    def first(r):
        return H * up(r, tp) // tp if cut else H * r

    def second(r):
        return (up(r, tp) if cut else r) * mine

    found = {
        name: H * mine if r is None else (0 if name == "up" and form.shared else first(r)) + second(r)
        for name, r in (("gate", form.gate), ("up", form.up))
    }
    r = form.down
    if r is None:
        found["down"] = I * H // tp
    else:
        found["down"] = mine * up(r, tp) + up(r, tp) * H // tp if cut else mine * r + r * H
    return found


@st.composite
def forms(draw, tps=(1, 2, 3, 4, 8), layouts=LAYOUTS):
    H, I = draw(st.integers(2, 40)), draw(st.integers(2, 60))  # noqa: E741
    ranks = [draw(st.none() | st.integers(1, 50)) for _ in range(3)]
    shared = ranks[0] is not None and draw(st.booleans())
    if shared:
        ranks[1] = ranks[0]
    return Form(
        H, I, *ranks, shared=shared, biased=draw(st.booleans()),
        tp=draw(st.sampled_from(tps)), layout=draw(st.sampled_from(layouts)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("form", "told"),
    [
        (Form(8, 16, None, None, None), "dense"),
        (Form(8, 16, 4, None, 2), "ranks 4 (gate), dense (up), 2 (down)"),
        (Form(8, 16, 4, 4, None, shared=True), "ranks 4 (gate), 4 (up), dense (down), gate and up in one matrix"),
        (
            Form(8, 16, 4, 4, 4, biased=True, activation="gelu", tp=4, layout=SHARDED),
            "ranks 4 (gate), 4 (up), 4 (down), with biases, activation gelu, tensor parallel size 4, sharded",
        ),
        (Form(8, 16, None, None, None, tp=2), "dense, tensor parallel size 2"),
        (Form(8, 16, None, None, None, layout=SHARDED), "dense, sharded"),
    ],
)
def test_what_a_form_says_in_messages(form, told):
    assert str(form) == f"hidden size 8, intermediate size 16, {told}"


@settings(deadline=None)
@given(forms(), st.data())
def test_forms_that_differ_say_so(form, data):
    """Every field is in the text."""
    change = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                **dict.fromkeys(("H", "I", "tp"), st.integers(1, 4)),
                **dict.fromkeys(("gate", "up", "down"), st.none() | st.integers(1, 4)),
                **dict.fromkeys(("shared", "biased"), st.booleans()),
                "activation": st.sampled_from(["silu", "gelu"]),
                "layout": st.sampled_from(LAYOUTS),
            },
        )
    )
    other = replace(form, **change)
    assert (str(form) == str(other)) == (form == other)


@settings(deadline=None)
@given(forms())
def test_parameters_of_one_rank(form):
    assert form.parameters == sum(held(form).values())
    assert form.dense_parameters == 3 * form.H * (up(form.I, form.tp) // form.tp)


@settings(deadline=None)
@given(forms())
def test_larger_than_dense_names_what_one_rank_would_hold_less_of_without_factors(form):
    found, dense = held(form), form.H * (up(form.I, form.tp) // form.tp)
    expected = []
    for names in (("gate", "up"), ("down",)) if form.shared else (("gate",), ("up",), ("down",)):
        if getattr(form, names[0]) is not None and sum(found[name] for name in names) >= len(names) * dense:
            expected.append(names[0])
    assert form.larger_than_dense == expected


def test_as_much_as_dense_is_not_less():
    assert Form(4, 4, 2, 2, 2).larger_than_dense == ["gate", "up", "down"]
    assert Form(8, 16, 4, 4, 4, tp=2).larger_than_dense == ["gate", "up", "down"]
    assert Form(8, 16, 3, 3, 3, tp=2).larger_than_dense == []
    assert Form(3, 2, 4, 4, None, shared=True).larger_than_dense == ["gate"]


@settings(deadline=None)
@given(forms())
def test_all_ranks_together_hold_every_number_once_but_the_whole_factors(form):
    for name, matrix in form.matrices.items():
        whole, local = matrix.shape, matrix.local
        if matrix.cut is None:
            assert whole == local
            assert form.tp == 1 or form.layout == REPLICATED or name == "down_bias"
        else:
            assert whole[matrix.cut] == local[matrix.cut] * form.tp
            assert whole[: matrix.cut] + whole[matrix.cut + 1 :] == local[: matrix.cut] + local[matrix.cut + 1 :]


def shapes(form: Form) -> dict[str, tuple]:
    return {name: (matrix.shape, matrix.cut) for name, matrix in form.matrices.items()}


def test_matrices_of_the_replicated_layout():
    assert shapes(Form(8, 10, 3, None, 5, biased=True, tp=4)) == {
        "gate_u": ((8, 3), None),
        "gate_v": ((3, 12), 1),
        "up": ((8, 12), 1),
        "down_u": ((12, 5), 0),
        "down_v": ((5, 8), None),
        "gate_bias": ((12,), 0),
        "up_bias": ((12,), 0),
        "down_bias": ((8,), None),
    }


def test_matrices_of_the_sharded_layout():
    assert shapes(Form(8, 10, 3, 6, 5, tp=4, layout=SHARDED)) == {
        "u": ((8, 12), 1),  # 4 of gate and 8 of up
        "gate_v": ((4, 12), 1),
        "up_v": ((8, 12), 1),
        "down_u": ((12, 8), 0),
        "down_v": ((8, 8), 0),
    }
    assert shapes(Form(8, 10, None, None, 4, tp=2, layout=SHARDED)) == {
        "gate": ((8, 10), 1),
        "up": ((8, 10), 1),
        "down_u": ((10, 4), 0),
        "down_v": ((4, 8), 0),
    }


def test_matrices_of_a_shared_first_factor():
    form = Form(8, 10, 3, 3, None, shared=True, tp=2)
    assert shapes(form) == {
        "gate_u": ((8, 3), None), "gate_v": ((3, 10), 1), "up_v": ((3, 10), 1), "down": ((10, 8), 0),
    }  # fmt: skip
    assert form.first_factors == ["gate"]
    assert shapes(Form(8, 10, 3, 3, None, shared=True, tp=2, layout=SHARDED)) == {
        "u": ((8, 4), 1), "gate_v": ((4, 10), 1), "up_v": ((4, 10), 1), "down": ((10, 8), 0),
    }  # fmt: skip


def test_one_rank_cuts_nothing_in_either_layout():
    one = [Form(8, 10, 3, 3, 5, layout=layout) for layout in LAYOUTS]
    assert one[0].matrices == one[1].matrices
    assert not any(form.sharded for form in one)
    assert all(matrix.local == matrix.shape for matrix in one[0].matrices.values())


def test_the_part_of_one_rank():
    assert Matrix((6, 4), 0, 2).local == (3, 4)
    assert Matrix((6, 4), 1, 2).local == (6, 2)
    assert Matrix((6, 4), None, 2).local == (6, 4)


@pytest.mark.parametrize(
    ("ranks", "sharded"),
    [((4, 4, 4), 3), ((4, None, 4), 3), ((None, 4, None), 2), ((None, None, 4), 2), ((4, 4, None), 2)],
)
def test_exchanges(ranks, sharded):
    assert Form(8, 10, *ranks, tp=2).collectives == 1
    assert Form(8, 10, *ranks, tp=2, layout=SHARDED).collectives == sharded
    assert Form(8, 10, *ranks, tp=1, layout=SHARDED).collectives == 0


@pytest.mark.parametrize(
    ("ratio", "rank", "of_dense"), [(0.2, 1280, {2: 0.94, 4: 1.25, 8: 1.88}), (0.1, 1536, {2: 1.12, 4: 1.5, 8: 2.25})]
)
def test_what_the_replicated_layout_of_llama_3_2_1b_holds_beside_dense(ratio, rank, of_dense):
    H, I = 2048, 8192  # noqa: E741
    assert uniform_rank(Shape(H, I), ratio, 128, 0.5) == uniform_rank(Shape(I, H), ratio, 128, 0.5) == rank
    for tp, expected in of_dense.items():
        replicated = Form(H, I, rank, rank, rank, tp=tp)
        assert replicated.parameters / replicated.dense_parameters == pytest.approx(expected, abs=0.0051)
        assert replicated.larger_than_dense == (["gate", "up", "down"] if expected > 1 else [])
        sharded = Form(H, I, rank, rank, rank, tp=tp, layout=SHARDED)
        assert sharded.parameters / sharded.dense_parameters == pytest.approx(rank * (H + I) / (H * I))


def config(model_type="llama", layers=2, **changes):
    sizes = {"hidden_size": 64, "intermediate_size": 203, "hidden_act": "silu", "num_hidden_layers": layers}
    return SimpleNamespace(model_type=model_type, **{**sizes, **changes})


def entries(layer: int = 0, **ranks) -> dict:
    return {f"model.layers.{layer}.mlp.{name}_proj": {"rank": r, "storage": "uv"} for name, r in ranks.items()}


@settings(deadline=None)
@given(
    H=st.integers(33, 400),
    I=st.integers(33, 900),
    blocks=st.tuples(*[st.integers(0, 12)] * 3),
    tp=st.sampled_from([1, 2, 4, 8, 16, 32]),
    fused=st.booleans(),
)
def test_auto_never_holds_more_of_a_projection_than_dense(H, I, blocks, tp, fused):  # noqa: E741
    # Ranks as compression chooses them: whole blocks, and none that saves nothing.
    width = {"gate_up": 2 * I, "down": I} if fused else {"gate": I, "up": I, "down": I}
    ranks = {name: 32 * n for name, n in zip(width, blocks, strict=False) if n}
    ranks = {name: r for name, r in ranks.items() if Shape(H, width[name]).saves_parameters(r)}
    sizes = config("phi3" if fused else "llama", layers=1, hidden_size=H, intermediate_size=I)
    (form,) = forms_of(sizes, entries(**ranks), tp)
    if not ranks:
        assert form is None
        return
    assert form.larger_than_dense == []
    assert form.parameters < form.dense_parameters
    (replicated,) = forms_of(sizes, entries(**ranks), tp, REPLICATED)
    assert (form.layout == REPLICATED) == (tp == 1 or not replicated.larger_than_dense)


@pytest.mark.parametrize(
    ("ratio", "tp", "bandwidth", "layout"),
    [
        (0.2, 2, 1e9, SHARDED),  # reading is slow: the fewest weights win
        (0.2, 2, 1e15, REPLICATED),  # exchanges are slow
        (0.2, 4, 1e15, SHARDED),  # as replicated it would hold more than dense
        (0.2, 1, 1e9, REPLICATED),
        (0.2, 2, 111e9, SHARDED),  # bfloat16 on trn1
        (0.2, 2, 900e9, REPLICATED),
    ],
)
def test_auto_weighs_bytes_against_exchanges(ratio, tp, bandwidth, layout):
    r = uniform_rank(Shape(2048, 8192), ratio, 128, 0.5)
    sizes = config(layers=1, hidden_size=2048, intermediate_size=8192)
    (form,) = forms_of(sizes, entries(gate=r, up=r, down=r), tp, "auto", bandwidth)
    assert form.layout == layout
    other = Form(2048, 8192, r, r, r, tp=tp, layout=REPLICATED if layout == SHARDED else SHARDED)
    assert other.larger_than_dense or form.decoding_seconds(bandwidth) <= other.decoding_seconds(bandwidth)


def test_decoding_is_reading_and_exchanging():
    sizes = {"H": 64, "I": 96, "gate": 16, "up": 16, "down": 16}
    sharded, whole = Form(**sizes, tp=2, layout=SHARDED), Form(**sizes)
    assert sharded.decoding_seconds(1e6) == pytest.approx(3 * 16 * 160 / 2 / 1e6 + 30e-6)
    assert sharded.dense_decoding_seconds(1e6) == pytest.approx(3 * 64 * 96 / 2 / 1e6 + 10e-6)
    assert whole.decoding_seconds(1e6) == pytest.approx(3 * 16 * 160 / 1e6)
    assert whole.dense_decoding_seconds(1e6) == pytest.approx(3 * 64 * 96 / 1e6)


def test_forms_of_a_mixture():
    modules = entries(0, gate=16, down=8) | entries(2, up=24)
    first, second, third = forms_of(config(layers=3), modules, 2, REPLICATED)
    assert first == Form(64, 203, 16, None, 8, tp=2)
    assert second is None
    assert third == Form(64, 203, None, 24, None, tp=2)


def test_forms_of_a_fused_matrix():
    (form, other) = forms_of(config("phi3"), entries(0, gate_up=16) | entries(1, down=8), 1)
    assert form == Form(64, 203, 16, 16, None, shared=True)
    assert other == Form(64, 203, None, None, 8)


def test_forms_know_biases_and_activation():
    (form,) = forms_of(config(layers=1, mlp_bias=True, hidden_act="gelu_pytorch_tanh"), entries(gate=16), 1)
    assert form.biased and form.activation == "gelu_pytorch_tanh"


def test_a_layout_for_each_layer():
    modules = entries(0, gate=16) | entries(2, gate=16)
    first, second, third = forms_of(config(layers=3), modules, 2, [SHARDED, None, REPLICATED])
    assert (first.layout, second, third.layout) == (SHARDED, None, REPLICATED)


@pytest.mark.parametrize(
    ("model_type", "modules", "named"),
    [
        ("llama", entries(2, gate=16), "model.layers.2.mlp.gate_proj"),
        ("llama", entries(0, gate_up=16), "model.layers.0.mlp.gate_up_proj"),
        ("phi3", entries(1, gate=16), "model.layers.1.mlp.gate_proj"),
        ("llama", {**entries(gate=16), "lm_head": {"rank": 8, "storage": "uv"}}, "lm_head"),
    ],
)
def test_a_projection_that_the_model_does_not_have(model_type, modules, named):
    with pytest.raises(NeuronMMError, match=f"{named!r} that a {model_type} of 2 layers does not have"):
        forms_of(config(model_type), modules, 1)


def test_families_without_such_mlps_are_refused():
    with pytest.raises(NeuronMMError, match="mixture of experts"):
        forms_of(config("qwen3_moe"), {}, 1)


def test_the_form_of_a_dense_mlp():
    biased = SimpleNamespace(**vars(config("llama")) | {"mlp_bias": True})
    form = dense_form(biased, 4)
    assert (form.H, form.I, form.tp, form.biased) == (biased.hidden_size, biased.intermediate_size, 4, True)
    assert form.parameters == form.dense_parameters and form.collectives == 1
    assert dense_form(config("llama")) == Form(form.H, form.I, None, None, None)


def test_an_activation_under_another_name():
    assert activation_of(SimpleNamespace(hidden_activation="gelu_pytorch_tanh")) == "gelu_pytorch_tanh"
    assert activation_of(SimpleNamespace(hidden_act="silu", hidden_activation="gelu")) == "silu"


@pytest.mark.parametrize(
    ("heads", "kv_heads", "tp", "fits"), [(8, 4, 2, True), (8, 4, 8, True), (8, 4, 3, False), (6, 6, 4, True)]
)
def test_heads_that_ranks_can_share(heads, kv_heads, tp, fits):
    found = SimpleNamespace(num_attention_heads=heads, num_key_value_heads=kv_heads)
    if fits:
        check_heads(found, tp)
    else:
        with pytest.raises(
            NeuronMMError, match="divide the 4 key-value heads .* got 3. Use 1, 2, 4, or a multiple of 4"
        ):
            check_heads(found, tp)
