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
"""Ranks for a speed: against all other ranks, with predictions that are made up or real; and a compression by them."""

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from optimum_neuronmm import NeuronMMConfig, compress, compression, latency_cost, load_report, speedup
from optimum_neuronmm.allocation import Projections, predicted_loss
from optimum_neuronmm.card import write_model_card
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.families import FAMILIES
from optimum_neuronmm.latency_cost import MLPLatency, Ranks, Request, ranks_of_layers
from optimum_neuronmm.neuron.form import Form
from optimum_neuronmm.neuron.selection import DENSE_LAYERS, SEPARATELY, Candidate
from optimum_neuronmm.ranks import DENSE, Shape, removed_fraction
from optimum_neuronmm.report import format_report
from optimum_neuronmm.speedup import SpeedupSearch

from .conftest import read_config, save_tiny_model
from .test_allocation import projections_of, random_losses


LENGTHS = {"target_prompt_length": 64, "target_output_length": 4}
REQUEST = Request("trn1", *LENGTHS.values())


def made_up(form, rows, *_):
    """Seconds that are no sum over projections: gate and up wait for each other, and a factored down takes a start."""
    share = {name: 1.0 if (rank := getattr(form, name)) is DENSE else 0.137 + rank / 83.1 for name in Ranks._fields}
    seconds = max(share["gate"], share["up"]) + 0.317 * min(share["gate"], share["up"]) + share["down"]
    seconds += 0.0513 * (form.down is not DENSE) * (form.gate is DENSE)
    prediction = SimpleNamespace(seconds=1e-6 * seconds * rows**0.5, spills=False, notes=("made up",))
    return [Candidate("made_up", (), prediction)], {}


def waiting(form, rows, *_):
    """The same for larger models, in proportion to the ranks: of gate and up, the smaller one counts a third."""
    shares = [0.02 + 1.2 * rank / form.H if rank else 1.0 for rank in (form.gate, form.up, form.down)]
    seconds = rows * (max(shares[:2]) + 0.3 * min(shares[:2]) + shares[2])
    return [Candidate("waiting", (), SimpleNamespace(seconds=seconds, spills=False, notes=()))], {}


def of_shapes(layers, H, I):  # noqa: E741
    names = ["gate_proj", "up_proj", "down_proj"]
    projections = Projections(FAMILIES["llama"], layers, names, {})
    for layer, name in itertools.product(range(layers), names):
        projections.shapes[projections.path(layer, name)] = Shape(I, H) if name == "down_proj" else Shape(H, I)
    return projections


@pytest.fixture
def llama(tiny_llama):
    return projections_of(tiny_llama)[0]


def search_of(projections, target, request=REQUEST, block_size=32):
    shape = next(iter(projections.shapes.values()))
    shared = "gate_up_proj" in projections.attributes
    latency = MLPLatency(Form(shape.K, shape.N // (2 if shared else 1), *Ranks(), shared=shared), request)
    return SpeedupSearch(projections, block_size, target, latency), latency


def fastest_of(request):
    """How many times as fast as dense an MLP of the tiny model can be."""
    latency = MLPLatency(Form(96, 200, *Ranks()), request)
    every = itertools.product((32, 64, DENSE), repeat=3)
    return latency.seconds(Ranks()) / min(latency.seconds(Ranks(*ranks)) for ranks in every)


def least_loss(projections, losses, latency, limit, options=(32, 64, DENSE)):
    """Of all ranks whose whole MLPs take no longer than `limit`: every MLP in every layer."""
    attributes = projections.attributes
    choices = list(itertools.product(options, repeat=len(attributes)))
    paths = [[projections.path(layer, name) for name in attributes] for layer in range(projections.layers)]
    mlps = [ranks_of_layers(projections, dict(zip(paths[0], choice, strict=True)))[0] for choice in choices]
    seconds = np.array([latency.seconds(mlp) for mlp in mlps])
    sums = [
        np.array(
            [
                sum(0 if r is DENSE else losses[p][r].item() for p, r in zip(of, choice, strict=True))
                for choice in choices
            ]
        )
        for of in paths
    ]
    total = sum(np.ix_(*[seconds] * len(paths)))
    return sum(np.ix_(*sums))[total <= limit].min()


def check_target(search, latency, allocation, target, rank_count):
    """The whole MLPs, as they were chosen, meet the target; returns their seconds."""
    layers = ranks_of_layers(allocation.projections, allocation.ranks)
    dense = len(layers) * latency.seconds(Ranks())
    seconds = sum(latency.seconds(ranks) for ranks in layers)
    assert list(allocation.ranks) == list(allocation.projections.shapes) and len(allocation.ranks) == rank_count
    assert dense / seconds >= target
    assert search.seconds(allocation) == pytest.approx(seconds)
    return dense


class TestSearch:
    @pytest.mark.parametrize("target", [1.02, 1.2, 1.5])
    @pytest.mark.parametrize("seed", range(3))
    def test_no_other_ranks_lose_less(self, llama, monkeypatch, target, seed):
        monkeypatch.setattr(latency_cost, "rank_kernels", made_up)
        losses = random_losses(llama, seed)
        search, latency = search_of(llama, target)
        allocation = search.allocate(losses)
        dense = check_target(search, latency, allocation, target, 9)
        # Rounding up to units may cost a choice within 3 units of the limit, which none of these has.
        assert predicted_loss(allocation, losses) == pytest.approx(least_loss(llama, losses, latency, dense / target))

    @pytest.mark.parametrize("share", [0.2, 0.7])
    def test_no_other_ranks_lose_less_by_the_model_of_the_engines(self, llama, share):
        losses = random_losses(llama, 5)
        target = 1 + share * (fastest_of(REQUEST) - 1)
        search, latency = search_of(llama, target)
        allocation = search.allocate(losses)
        dense = check_target(search, latency, allocation, target, 9)
        limit = dense / target
        assert predicted_loss(allocation, losses) <= least_loss(llama, losses, latency, limit * (1 - 1e-4))

    @pytest.mark.parametrize("target", [1.1, 1.3, 1.6])
    @pytest.mark.parametrize("seed", range(4))
    def test_where_not_all_mlps_are_predicted(self, llama, monkeypatch, target, seed):
        monkeypatch.setattr(latency_cost, "rank_kernels", made_up)
        monkeypatch.setattr(speedup, "_ALL", 1)
        losses = random_losses(llama, seed)
        search, latency = search_of(llama, target)
        allocation = search.allocate(losses)
        assert len(latency.known) < 27
        dense = check_target(search, latency, allocation, target, 9)
        assert predicted_loss(allocation, losses) <= 1.1 * least_loss(llama, losses, latency, dense / target)

    @pytest.mark.parametrize("target", [1.1, 1.3, 1.6])
    def test_what_is_near_the_choice_is_looked_at(self, monkeypatch, target):
        """Against the choice from all MLPs, 343 for each of six layers."""
        monkeypatch.setattr(latency_cost, "rank_kernels", waiting)
        projections = of_shapes(6, 2048, 8192)
        losses = random_losses(projections, 1)
        search, latency = search_of(projections, target, block_size=256)
        found = predicted_loss(search.allocate(losses), losses)
        assert len(latency.known) < 200
        monkeypatch.setattr(speedup, "_ALL", 343)
        least = predicted_loss(search_of(projections, target, block_size=256)[0].allocate(losses), losses)
        assert least <= found <= 1.01 * least

    def test_many_ranks(self, monkeypatch):
        """So many that no one can look at all MLPs: the target is met all the same, and closely."""
        monkeypatch.setattr(latency_cost, "rank_kernels", waiting)
        projections = of_shapes(4, 8192, 28672)
        losses = random_losses(projections)
        search, latency = search_of(projections, 1.2)
        allocation = search.allocate(losses)
        dense = check_target(search, latency, allocation, 1.2, 12)
        assert dense / search.seconds(allocation) < 1.201
        assert len(latency.known) < 700  # 199 ranks for each of two shapes, and what is chosen or near it

    def test_projections_that_were_not_chosen_stay_dense_and_count(self, tiny_llama, monkeypatch):
        monkeypatch.setattr(latency_cost, "rank_kernels", made_up)
        projections, _ = projections_of(tiny_llama, projections=["gate", "up"])
        losses = random_losses(projections)
        search, latency = search_of(projections, 1.1)
        allocation = search.allocate(losses)
        dense = check_target(search, latency, allocation, 1.1, 6)
        assert predicted_loss(allocation, losses) == pytest.approx(
            least_loss(projections, losses, latency, dense / 1.1)
        )
        with pytest.raises(NeuronMMError, match="cannot be reached"):
            search_of(projections, 1.8)[0].check_reachable()
        search_of(projections_of(tiny_llama)[0], 1.8)[0].check_reachable()

    def test_mlps_that_were_predicted_for_others_are_not_chosen(self, tiny_llama, monkeypatch):
        monkeypatch.setattr(latency_cost, "rank_kernels", made_up)
        monkeypatch.setattr(speedup, "_ALL", 1)
        projections, _ = projections_of(tiny_llama, projections=["gate", "up"])
        search, latency = search_of(projections, 1.1)
        for foreign in (Ranks(32, 32, 32), Ranks(16, 16), Ranks(DENSE, DENSE, 64)):
            latency.seconds(foreign)
        allocation = search.allocate(random_losses(projections))
        check_target(search, latency, allocation, 1.1, 6)
        assert set(allocation.ranks.values()) <= {32, 64, DENSE}

    def test_fused_projections(self, tmp_path, monkeypatch):
        monkeypatch.setattr(latency_cost, "rank_kernels", made_up)
        projections, _ = projections_of(save_tiny_model(tmp_path, "phi3"))
        losses = random_losses(projections)
        search, latency = search_of(projections, 1.3)
        allocation = search.allocate(losses)
        check_target(search, latency, allocation, 1.3, 6)
        assert all(ranks.gate == ranks.up for ranks in ranks_of_layers(projections, allocation.ranks))

    @pytest.mark.parametrize("all_mlps", [64, 1])
    def test_the_largest_target_and_nothing_beyond(self, llama, monkeypatch, all_mlps):
        monkeypatch.setattr(latency_cost, "rank_kernels", made_up)
        monkeypatch.setattr(speedup, "_ALL", all_mlps)
        search, latency = search_of(llama, 50)
        with pytest.raises(NeuronMMError) as error:
            search.check_reachable()
        fastest = latency.seconds(Ranks()) / latency.seconds(Ranks(32, 32, 32))
        said = f"{int(1000 * fastest) / 1000:.3f}"
        for part in ("target_speedup 50 cannot be reached", f"{said} times as fast", "smaller target or block_size"):
            assert part in str(error.value)
        with pytest.raises(NeuronMMError, match="cannot be reached"):
            search.allocate(random_losses(llama))
        again, _ = search_of(llama, float(said))  # what it said can be had
        again.check_reachable()
        assert set(again.allocate(random_losses(llama)).ranks.values()) == {32}
        with pytest.raises(NeuronMMError, match="cannot be reached"):
            search_of(llama, float(said) + 0.002)[0].check_reachable()

    def test_it_is_deterministic(self, llama, monkeypatch):
        monkeypatch.setattr(latency_cost, "rank_kernels", made_up)
        monkeypatch.setattr(speedup, "_ALL", 1)
        losses = random_losses(llama)
        first = search_of(llama, 1.3)[0].allocate(losses)
        assert first.ranks == search_of(llama, 1.3)[0].allocate(dict(reversed(losses.items()))).ranks

    def test_what_is_left_to_the_compiler_is_counted_and_told(self, llama, monkeypatch):
        """On both sides of the speed-up."""

        def separate(*args):
            (whole,), refused = made_up(*args)
            return [replace(whole, left=2e-6)], refused

        monkeypatch.setattr(latency_cost, "rank_kernels", separate)
        search, latency = search_of(llama, 1.1, Request("trn2", 0, 4))
        report = search.report(search.allocate(random_losses(llama)))
        (made,), _ = made_up(Form(96, 200, *Ranks()), 1)
        dense = report["predicted_milliseconds"]["dense"]["decode_step"]
        assert dense == pytest.approx(3e3 * (made.seconds + 2e-6)) and SEPARATELY in report["notes"]

    @pytest.mark.parametrize(
        ("lengths", "phases"),
        [((64, 4), {"prefill", "decode_step"}), ((64, 0), {"prefill"}), ((0, 4), {"decode_step"})],
    )
    def test_what_the_report_says(self, llama, monkeypatch, lengths, phases):
        monkeypatch.setattr(latency_cost, "rank_kernels", made_up)
        search, latency = search_of(llama, 1.2, Request("trn2", *lengths))
        allocation = search.allocate(random_losses(llama))
        report = search.report(allocation)
        prompt, output = lengths
        expected = {"target": 1.2, "instance_type": "trn2", "cores": 2, "batch_size": 1, "dtype": "bfloat16"}
        assert expected | {"prompt_length": prompt, "output_length": output} == {
            name: report[name] for name in (*expected, "prompt_length", "output_length")
        }
        assert report["notes"] == [DENSE_LAYERS, "made up"]
        layers = ranks_of_layers(llama, allocation.ranks)
        for name, mlps in (("dense", [Ranks()] * 3), ("compressed", layers)):
            milliseconds = report["predicted_milliseconds"][name]
            assert set(milliseconds) == {*phases, "request"}
            for phase in phases:
                total = sum(latency.fastest(mlp, phase).seconds for mlp in mlps)
                assert milliseconds[phase] == pytest.approx(1e3 * total)
            assert milliseconds["request"] == pytest.approx(1e3 * sum(map(latency.seconds, mlps)))
        times = report["predicted_milliseconds"]
        assert report["predicted"] == pytest.approx(times["dense"]["request"] / times["compressed"]["request"])
        assert json.loads(json.dumps(report)) == report


@pytest.fixture(scope="module")
def options(quick_options):
    return {name: value for name, value in quick_options.items() if name != "compression_ratio"} | LENGTHS


@pytest.fixture(scope="module")
def target():
    return 1 + (fastest_of(REQUEST) - 1) / 2


@pytest.fixture(scope="module")
def compressed(tiny_llama, options, target, tmp_path_factory):
    output = tmp_path_factory.mktemp("faster") / "out"
    compress(tiny_llama, output, NeuronMMConfig(**options, target_speedup=target, dtype="bfloat16"))
    return output


class TestCompression:
    def test_the_chosen_mlps_are_predicted_to_meet_the_target(self, compressed, target, tiny_llama):
        report = load_report(compressed)
        found = report["speedup"]
        assert found["target"] == target <= found["predicted"] and found["dtype"] == "bfloat16"
        projections, _ = projections_of(tiny_llama)
        ranks = {entry["name"]: entry["rank"] for entry in report["projections"]}
        latency = MLPLatency(Form(96, 200, *Ranks()), REQUEST)  # anew, from what was written
        seconds = sum(map(latency.seconds, ranks_of_layers(projections, ranks)))
        assert found["predicted"] == pytest.approx(3 * latency.seconds(Ranks()) / seconds)
        assert report["allocation"] == "by_loss" and report["trials"] == []
        ratio = report["compression_ratio"]
        assert ratio["requested"] == ratio["projections"] == pytest.approx(removed_fraction(projections.shapes, ranks))

    def test_the_two_cores_of_a_logical_one_are_told(self, compressed, target, tmp_path):
        report = load_report(compressed)
        report["speedup"] |= {"instance_type": "trn2", "cores": 2}
        assert "on one core of 2 physical ones of trn2, bfloat16" in format_report(report)
        write_model_card(tmp_path, report, NeuronMMConfig(target_speedup=target))
        assert "dense weights on one core of 2 physical ones of trn2" in (tmp_path / "README.md").read_text()

    def test_the_terminal_and_the_card_say_that_it_is_predicted(self, compressed, target):
        report = load_report(compressed)
        text = format_report(report)
        predicted = f"{report['speedup']['predicted']:.3f}"
        assert f"speed-up          MLPs predicted to be {predicted} times as fast (target {target:g})" in text
        assert "on one core of trn1, bfloat16: 64 tokens of prompt, 4 of output" in text
        assert "predicted ms of all MLPs: prefill " in text and "decode step" in text and "request" in text
        assert DENSE_LAYERS in report["speedup"]["notes"]
        assert all(f"note: {note}" in text for note in report["speedup"]["notes"])
        assert "requested" not in text and "ratio removed     achieved" in text
        card = (compressed / "README.md").read_text()
        assert (
            f"predicted, not measured, to be {predicted} times as fast as our kernels with dense weights on one core of trn1"
            in card
        )
        assert "measured" not in text.replace("measured loss", "").replace("measured error", "")

    def test_config_json_remembers_it(self, compressed, target):
        written = read_config(compressed)["quantization_config"]
        assert written["target_speedup"] == target and written["target_instance_type"] == "trn1"
        assert {name: written[name] for name in LENGTHS} == LENGTHS
        assert written["compression_ratio"] == load_report(compressed)["compression_ratio"]["requested"]
        again = NeuronMMConfig.from_dict(written)
        assert again.to_dict() == written

    def test_an_interrupted_run_gives_the_same(self, tiny_llama, compressed, options, target, tmp_path, monkeypatch):
        def interrupted(*_):
            raise KeyboardInterrupt

        config = NeuronMMConfig(**options, target_speedup=target, dtype="bfloat16")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(compression, "compress_layers", interrupted)
            compress(tiny_llama, tmp_path / "out", config)
        monkeypatch.setattr("optimum_neuronmm.analysis.Analysis._visit_forward", interrupted)  # not analysed again
        report = compress(tiny_llama, tmp_path / "out", config)
        assert report["projections"] == load_report(compressed)["projections"]
        assert report["speedup"] == load_report(compressed)["speedup"]

    def test_a_target_out_of_reach_is_refused_before_any_work(self, tiny_llama, options, tmp_path):
        with pytest.raises(NeuronMMError, match=r"target_speedup 1000 cannot be reached.* \d+\.\d+ times as fast"):
            compress(tiny_llama, tmp_path / "out", {**options, "target_speedup": 1000})
        assert not list(tmp_path.iterdir())

    def test_a_prompt_that_the_model_cannot_take(self, tiny_llama, options, tmp_path):
        with pytest.raises(NeuronMMError, match="target_prompt_length must be at most 512, .* got 513"):
            compress(tiny_llama, tmp_path / "out", {**options, "target_speedup": 1.2, "target_prompt_length": 513})
