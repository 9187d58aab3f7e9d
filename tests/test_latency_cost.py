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
"""Predicted seconds of MLPs and the shares of their projections: what they add up to, and for which MLPs."""

from types import SimpleNamespace

import pytest
import torch

from optimum_neuronmm import latency_cost as module
from optimum_neuronmm.allocation import Projections
from optimum_neuronmm.configuration import NeuronMMConfig
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.families import FAMILIES
from optimum_neuronmm.latency_cost import MLPLatency, Ranks, Request, ranks_of_layers
from optimum_neuronmm.neuron.form import Form
from optimum_neuronmm.neuron.selection import Candidate, rank_kernels
from optimum_neuronmm.ranks import DENSE, Shape


H, I = 256, 640  # noqa: E741
UP, DOWN, FUSED = Shape(H, I), Shape(I, H), Shape(H, 2 * I)
REQUEST = Request("trn1", 64, 10)


@pytest.fixture(scope="module")
def latency():
    return MLPLatency(Form(H, I, *Ranks()), REQUEST)


def model_config(**options):
    return SimpleNamespace(**{"hidden_size": H, "intermediate_size": I, "hidden_act": "silu", **options})


def test_the_request_is_that_of_the_config():
    options = {"target_instance_type": "trn2", "target_prompt_length": 7, "target_output_length": 3}
    request = Request.of(NeuronMMConfig(target_speedup=1.2, **options))
    assert request == Request("trn2", 7, 3)
    assert request.phases == {"prefill": (7, 1), "decode_step": (1, 3)}


@pytest.mark.parametrize(("target", "cores"), [("trn1", 1), ("inf2", 1), ("trn2", 2), ("trn3", 2)])
def test_a_logical_core_is_predicted(monkeypatch, target, cores):
    seen = []

    def asked(*args):
        seen.append(args[3:])
        return rank_kernels(*args)

    monkeypatch.setattr(module, "rank_kernels", asked)
    MLPLatency(Form(H, I, *Ranks()), Request(target, 64, 0)).seconds(Ranks())
    assert seen == [(target, cores)]


@pytest.mark.parametrize(
    ("lengths", "phases"), [((7, 0), {"prefill": (7, 1)}), ((0, 3), {"decode_step": (1, 3)}), ((0, 0), {})]
)
def test_a_length_of_0_leaves_its_phase_out(lengths, phases):
    assert Request("trn1", *lengths).phases == phases


@pytest.mark.parametrize("ranks", [Ranks(), Ranks(32, DENSE, 64), Ranks(64, 64, 64)])
def test_seconds_are_one_prefill_and_all_decode_steps_of_the_fastest_kernels(latency, ranks):
    fastest = {
        rows: rank_kernels(Form(H, I, *ranks), rows, torch.bfloat16, "trn1", 1)[0][0].prediction.seconds
        for rows in (64, 1)
    }
    assert latency.seconds(ranks) == pytest.approx(fastest[64] + 10 * fastest[1])
    assert latency.fastest(ranks, "prefill").seconds == fastest[64]
    assert latency.fastest(ranks, "decode_step").seconds == fastest[1]


def test_costs_add_up_to_the_mlp_where_no_more_than_one_projection_is_factored(latency):
    dense = [latency.cost(shape, DENSE) for shape in (UP, UP, DOWN)]
    assert sum(dense) == pytest.approx(latency.seconds(Ranks()))
    assert dense[0] == dense[1] == dense[2]
    for rank in (32, 128):
        gate, down = latency.cost(UP, rank), latency.cost(DOWN, rank)
        assert gate + dense[1] + dense[2] == pytest.approx(latency.seconds(Ranks(gate=rank)))
        assert dense[0] + dense[1] + down == pytest.approx(latency.seconds(Ranks(down=rank)))
        assert rank > 32 or gate < dense[0] and down < dense[2]


def test_a_fused_matrix_is_gate_and_up():
    latency = MLPLatency(Form(H, I, *Ranks(), shared=True), REQUEST)
    assert latency.cost(FUSED, DENSE) == pytest.approx(2 * latency.cost(DOWN, DENSE))
    expected = latency.cost(FUSED, DENSE) + latency.seconds(Ranks(64, 64, DENSE)) - latency.seconds(Ranks())
    assert latency.cost(FUSED, 64) == pytest.approx(expected)
    # One product with U instead of two.
    assert latency.seconds(Ranks(64, 64, 64)) < MLPLatency(Form(H, I, *Ranks()), REQUEST).seconds(Ranks(64, 64, 64))


def test_a_cost_is_never_negative(monkeypatch):
    """Where one projection alone saves more than its share."""

    def made_up(form, *_):
        seconds = 1e-6 if form.gate is DENSE else 1e-9
        return [Candidate("made_up", (), SimpleNamespace(seconds=seconds, spills=False, notes=()))], {}

    monkeypatch.setattr(module, "rank_kernels", made_up)
    assert MLPLatency(Form(H, I, *Ranks()), REQUEST).cost(UP, 32) == 0.0


def test_every_mlp_is_predicted_once(monkeypatch):
    seen = []

    def counted(*args):
        seen.append(args)
        return rank_kernels(*args)

    monkeypatch.setattr(module, "rank_kernels", counted)
    latency = MLPLatency(Form(H, I, *Ranks()), REQUEST)
    assert latency.known == []
    for _ in range(2):
        latency.cost(UP, 32)
    assert len(seen) == 4 and sorted(latency.known, key=str) == sorted([Ranks(), Ranks(gate=32)], key=str)
    latency.fastest(Ranks(down=32), "prefill")  # not yet in every phase
    assert Ranks(down=32) not in latency.known
    assert all(args[3:] == ("trn1", 1) for args in seen)


def test_what_is_predicted_is_what_the_model_has():
    family = FAMILIES["llama"]
    plain = MLPLatency.of(model_config(), family, REQUEST, torch.float32)
    assert plain.dtype == torch.float32
    assert MLPLatency.of(model_config(), family, REQUEST, torch.float16).dtype == torch.bfloat16
    half = MLPLatency.of(model_config(), family, REQUEST, torch.bfloat16)
    assert half.seconds(Ranks()) < plain.seconds(Ranks())
    biased = MLPLatency.of(model_config(mlp_bias=True), family, REQUEST, torch.bfloat16)
    assert (
        biased.fastest(Ranks(), "prefill").prediction.hbm_bytes > half.fastest(Ranks(), "prefill").prediction.hbm_bytes
    )
    gemma = model_config(hidden_act=None, hidden_activation="gelu_pytorch_tanh")
    assert MLPLatency.of(gemma, FAMILIES["gemma3_text"], REQUEST, torch.bfloat16).seconds(Ranks()) > 0
    fused = MLPLatency.of(model_config(), FAMILIES["phi3"], REQUEST, torch.bfloat16)
    assert fused.seconds(Ranks(64, 64)) < half.seconds(Ranks(64, 64))


def test_what_no_kernel_computes_cannot_be_predicted():
    latency = MLPLatency.of(model_config(hidden_act="relu"), FAMILIES["llama"], REQUEST, torch.bfloat16)
    with pytest.raises(NeuronMMError, match="cannot be predicted.*no activation 'relu'.*compression_ratio"):
        latency.seconds(Ranks())


def test_a_void_prediction_is_no_prediction(monkeypatch):
    void = SimpleNamespace(kernel="mlp", prediction=SimpleNamespace(seconds=1e-9, spills=True, notes=("void",)))
    monkeypatch.setattr(module, "rank_kernels", lambda *_: ([void], {"mlp_decode": "no block sizes fit"}))
    with pytest.raises(NeuronMMError, match="no block sizes fit; mlp is expected to spill"):
        MLPLatency(Form(H, I, *Ranks()), REQUEST).seconds(Ranks())


def test_the_ranks_of_layers():
    llama, phi3 = FAMILIES["llama"], FAMILIES["phi3"]
    ranks = {
        "model.layers.0.mlp.gate_proj": 32,
        "model.layers.0.mlp.up_proj": DENSE,
        "model.layers.1.mlp.down_proj": 64,
    }
    found = ranks_of_layers(Projections(llama, 3, list(llama.projections), {}), ranks)
    assert found == [Ranks(gate=32), Ranks(down=64), Ranks()]
    found = ranks_of_layers(Projections(phi3, 1, ["gate_up_proj"], {}), {"model.layers.0.mlp.gate_up_proj": 96})
    assert found == [Ranks(96, 96, DENSE)]
