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
"""The search for the ratio: against fakes whose answer is known, and against what is measured of a model."""

import math
from types import SimpleNamespace

import pytest
import torch

from optimum_neuronmm import NeuronMMConfig
from optimum_neuronmm import search as module
from optimum_neuronmm.allocation import find_projections, largest_ratio, predicted_loss
from optimum_neuronmm.errors import NeuronMMError, NotFiniteError
from optimum_neuronmm.families import family_of
from optimum_neuronmm.ranks import DENSE
from optimum_neuronmm.search import allocate, choose_ranks
from optimum_neuronmm.source import open_dense
from optimum_neuronmm.workspace import Workspace

from .conftest import save_tiny_model


RESOLUTION = 0.002


class Fake:
    """A run whose trials cost what a function of the allocation says, without a model."""

    def __init__(self, directory, output, cost, monkeypatch, **options):
        checkpoint, family = open_dense(directory), None
        family = family_of(checkpoint.config)
        self.config = NeuronMMConfig(**{"block_size": 32, "max_perplexity_increase": 0.05, **options})
        projections = find_projections(checkpoint, family, self.config)
        self.run = SimpleNamespace(projections=projections, config=self.config, workspace=Workspace(output, "f"))
        generator = torch.Generator().manual_seed(1)
        losses = {}
        for path in projections.shapes:
            terms = torch.rand(96, generator=generator, dtype=torch.float64) ** 4
            tails = terms.sort(descending=True).values.flip(0).cumsum(0).flip(0)
            losses[path] = 0.02 * torch.cat([tails, torch.zeros(1)]) * torch.rand(1, generator=generator)
        self.analysis = SimpleNamespace(losses=losses)
        self.cost, self.tried = cost, []
        monkeypatch.setattr(module, "trial", self.trial)
        monkeypatch.setattr(module, "dense_hidden", lambda run: None)

    def increase(self, allocation):
        return self.cost(predicted_loss(allocation, self.analysis.losses), allocation)

    def trial(self, run, analysis, allocation):
        assert run is self.run and analysis is self.analysis
        self.tried.append(allocation)
        return {"before": 20.0, "after": 20.0 * (1 + self.increase(allocation)), "divergence": 0.01 * len(self.tried)}

    def brute_force(self):
        """The largest ratio of a fine grid that keeps the limit."""
        largest = largest_ratio(self.run.projections, self.config)
        return max(ratio for ratio in (largest * step / 500 for step in range(1, 500)) if self.kept(ratio))

    def kept(self, ratio):
        try:
            allocation = allocate(self.run, self.analysis, ratio)
        except NeuronMMError:  # a uniform rank that saves nothing
            return False
        return self.increase(allocation) <= self.config.max_perplexity_increase


def proportional(slope):
    return lambda predicted, allocation: math.expm1(slope * predicted)


def uneven(predicted, allocation):
    """Far from proportional: little at first, then more and more."""
    return (40 * predicted) ** 3


def early(predicted, allocation):
    """Much at once, then little more."""
    return 0.2 * math.sqrt(predicted)


@pytest.mark.parametrize("limit", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("cost", [proportional(3), proportional(0.6), proportional(8), uneven, early])
def test_it_finds_the_largest_ratio(tiny_llama, tmp_path, monkeypatch, cost, limit):
    fake = Fake(tiny_llama, tmp_path / "out", cost, monkeypatch, max_perplexity_increase=limit)
    allocation, ratio, trials = choose_ranks(fake.run, fake.analysis)
    assert fake.increase(allocation) <= limit and fake.kept(ratio)
    assert allocation.ranks == allocate(fake.run, fake.analysis, ratio).ranks
    assert ratio == pytest.approx(fake.brute_force(), abs=1.5 * RESOLUTION)
    assert len({tuple(allocation.ranks.values()) for allocation in fake.tried}) == len(fake.tried)
    assert 1 <= len(trials) == len(fake.tried) <= 10
    best = max(entry["achieved"] for entry in trials if entry["increase"] <= limit)
    assert allocation.removed == best


def test_a_cliff_of_which_trials_on_both_sides_say_nothing(tiny_llama, tmp_path, monkeypatch):
    cost = lambda predicted, _: 0.001 if predicted < 0.02 else 1e9  # noqa: E731
    fake = Fake(tiny_llama, tmp_path / "out", cost, monkeypatch)
    _, ratio, trials = choose_ranks(fake.run, fake.analysis)
    assert ratio == pytest.approx(fake.brute_force(), abs=1.5 * RESOLUTION) and len(trials) <= 10
    # With fewer trials than it takes, the best of them.
    monkeypatch.setattr(module, "_TRIALS", 3)
    short = Fake(tiny_llama, tmp_path / "short", cost, monkeypatch)
    _, ratio, trials = choose_ranks(short.run, short.analysis)
    assert len(short.tried) == len(trials) == 3 and short.kept(ratio)


def test_a_good_prediction_needs_few_trials(tiny_llama, tmp_path, monkeypatch):
    for slope, most in ((3, 3), (9, 4)):
        fake = Fake(tiny_llama, tmp_path / str(slope), proportional(slope), monkeypatch)
        choose_ranks(fake.run, fake.analysis)
        assert len(fake.tried) <= most


def test_trials_say_what_was_measured(tiny_llama, tmp_path, monkeypatch, capfd):
    fake = Fake(tiny_llama, tmp_path / "out", uneven, monkeypatch)
    _, _, trials = choose_ranks(fake.run, fake.analysis)
    for number, (entry, allocation) in enumerate(zip(trials, fake.tried, strict=True), 1):
        increase = fake.increase(allocation)
        assert entry == {
            "ratio": entry["ratio"],
            "achieved": allocation.removed,
            "perplexity": pytest.approx(20 * (1 + increase)),
            "increase": pytest.approx(increase),
            "divergence": pytest.approx(0.01 * number),
        }
        assert allocation.ranks == allocate(fake.run, fake.analysis, entry["ratio"]).ranks
    assert fake.run.workspace.read_json("trials.json") == trials
    assert "Trial 1: " in capfd.readouterr().out


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_an_interrupted_search_goes_on(tiny_llama, tmp_path, monkeypatch, stop):
    whole = Fake(tiny_llama, tmp_path / "whole", early, monkeypatch)
    expected = choose_ranks(whole.run, whole.analysis)
    assert len(whole.tried) > stop
    fake = Fake(tiny_llama, tmp_path / "out", early, monkeypatch)
    trial = fake.trial

    def interrupted(*args):
        if len(fake.tried) == stop:
            raise KeyboardInterrupt
        return trial(*args)

    monkeypatch.setattr(module, "trial", interrupted)
    with pytest.raises(KeyboardInterrupt):
        choose_ranks(fake.run, fake.analysis)
    fake.run.workspace.close()
    again = Fake(tiny_llama, tmp_path / "out", early, monkeypatch)
    allocation, ratio, trials = choose_ranks(again.run, again.analysis)
    assert (allocation.ranks, ratio) == (expected[0].ranks, expected[1])
    assert [entry["ratio"] for entry in trials] == [entry["ratio"] for entry in expected[2]]
    assert len(again.tried) == len(trials) - stop
    again.run.workspace.close()
    done = Fake(tiny_llama, tmp_path / "out", early, monkeypatch)
    assert choose_ranks(done.run, done.analysis)[1] == ratio and not done.tried


@pytest.mark.parametrize("allocation", ["by_loss", "uniform"])
def test_a_limit_that_nothing_keeps(tiny_llama, tmp_path, monkeypatch, allocation):
    fake = Fake(
        tiny_llama, tmp_path / "out", lambda *_: 0.5, monkeypatch, allocation=allocation, max_perplexity_increase=0.1
    )
    with pytest.raises(NeuronMMError) as error:
        choose_ranks(fake.run, fake.analysis)
    least = min(allocation.removed for allocation in fake.tried)
    for part in ("No ratio keeps the increase of perplexity below 10.00%", f"removing {least:.2%}", "costs 50.00%"):
        assert part in str(error.value)
    assert len(fake.tried) <= 10


@pytest.mark.parametrize("allocation", ["by_loss", "uniform"])
def test_a_limit_that_everything_keeps(tiny_llama, tmp_path, monkeypatch, allocation):
    fake = Fake(
        tiny_llama, tmp_path / "out", lambda *_: 0.5, monkeypatch, allocation=allocation, max_perplexity_increase=100.0
    )
    found, ratio, trials = choose_ranks(fake.run, fake.analysis)
    largest = largest_ratio(fake.run.projections, fake.config)
    assert largest - RESOLUTION <= ratio <= largest and len(trials) == 1
    assert list(found.ranks.values()).count(32) >= 8


def test_perplexity_that_does_not_grow(tiny_llama, tmp_path, monkeypatch):
    fake = Fake(tiny_llama, tmp_path / "out", lambda *_: -0.01, monkeypatch, max_perplexity_increase=1e-6)
    _, ratio, trials = choose_ranks(fake.run, fake.analysis)
    assert len(trials) <= 10 and ratio > largest_ratio(fake.run.projections, fake.config) - RESOLUTION


def by_rank(limits):
    """What a uniform rank costs."""
    return lambda _, allocation: limits[next(rank for rank in allocation.ranks.values() if rank is not DENSE)]


class TestUniform:
    def test_the_smaller_rank(self, tiny_llama, tmp_path, monkeypatch):
        cost = by_rank({32: 0.04, 64: 0.01})
        fake = Fake(tiny_llama, tmp_path / "out", cost, monkeypatch, allocation="uniform")
        allocation, ratio, _ = choose_ranks(fake.run, fake.analysis)
        assert set(allocation.ranks.values()) == {32}

    def test_the_larger_rank(self, tiny_llama, tmp_path, monkeypatch):
        cost = by_rank({32: 0.06, 64: 0.01})
        fake = Fake(tiny_llama, tmp_path / "out", cost, monkeypatch, decomposition="whitened")
        allocation, ratio, trials = choose_ranks(fake.run, fake.analysis)
        assert set(allocation.ranks.values()) == {64} and fake.kept(ratio)
        assert ratio == pytest.approx(fake.brute_force(), abs=1.5 * RESOLUTION)
        assert [entry["achieved"] for entry in trials] == [pytest.approx(1 - r * 296 / 19200) for r in (64, 32)]

    @pytest.mark.parametrize("cost", [0.01, 0.06])
    def test_ratios_at_which_no_rank_saves_are_not_tried(self, tmp_path, monkeypatch, cost):
        """At (96, 160), ratios below 0.2 give two blocks, which save nothing."""
        directory = save_tiny_model(tmp_path / "model", intermediate_size=160)
        fake = Fake(directory, tmp_path / "out", by_rank({32: cost}), monkeypatch, allocation="uniform")
        if cost < 0.05:
            assert set(choose_ranks(fake.run, fake.analysis)[0].ranks.values()) == {32}
        else:
            with pytest.raises(NeuronMMError, match="No ratio keeps the increase.* already costs 6.00%"):
                choose_ranks(fake.run, fake.analysis)


def test_a_ratio_that_was_given_is_not_searched_for(tiny_llama, tmp_path, monkeypatch):
    options = {"compression_ratio": 0.3, "max_perplexity_increase": None}
    fake = Fake(tiny_llama, tmp_path / "out", early, monkeypatch, **options)
    allocation, ratio, trials = choose_ranks(fake.run, fake.analysis)
    assert (ratio, trials, fake.tried) == (0.3, [], [])
    assert 0.3 <= allocation.removed < 0.36 and len(set(allocation.ranks.values())) > 1
    assert fake.run.workspace.read_json("trials.json") is None
    fake = Fake(tiny_llama, tmp_path / "uniform", early, monkeypatch, allocation="uniform", **options)
    assert set(choose_ranks(fake.run, fake.analysis)[0].ranks.values()) == {32}


def test_a_cliff_between_allocations_without_steps(tiny_llama, tmp_path, monkeypatch):
    """As of a model so large that every ratio gives other ranks: ten trials halve the interval often enough."""
    fake = Fake(tiny_llama, tmp_path / "out", early, monkeypatch)
    monkeypatch.setattr(module, "allocate", lambda _, __, ratio: SimpleNamespace(ranks={"x": ratio}, removed=ratio))
    monkeypatch.setattr(module, "predicted_loss", lambda allocation, _: allocation.removed)
    monkeypatch.setattr(fake, "increase", lambda allocation: 0.001 if allocation.removed < 0.2 else 1e9)
    _, ratio, trials = choose_ranks(fake.run, fake.analysis)
    assert len(trials) == 10 and 0.14 < ratio < 0.2


def test_a_ratio_at_which_nothing_is_finite_is_too_large(tiny_llama, tmp_path, monkeypatch):
    """It is no reason to give up, and infinity is nothing that JSON can hold."""

    class Overflowing(Fake):
        def trial(self, run, analysis, allocation):
            if predicted_loss(allocation, self.analysis.losses) > 0.02:
                self.tried.append(allocation)
                raise NotFiniteError("the loss is not finite")
            return super().trial(run, analysis, allocation)

    fake = Overflowing(tiny_llama, tmp_path / "out", proportional(0.01), monkeypatch)
    allocation, _, trials = choose_ranks(fake.run, fake.analysis)
    assert 0.01 < predicted_loss(allocation, fake.analysis.losses) <= 0.02
    assert None in [entry["increase"] for entry in trials]
    assert "Infinity" not in (tmp_path / ".out.neuronmm" / "trials.json").read_text()


def test_nothing_to_try(tiny_llama, tmp_path, monkeypatch):
    options = {"max_perplexity_increase": 0.5, "allocation_tensor_parallel_size": 100_000}
    fake = Fake(tiny_llama, tmp_path / "out", proportional(1), monkeypatch, **options)
    with pytest.raises(NeuronMMError, match="No ratio can be tried.*smaller block_size"):
        choose_ranks(fake.run, fake.analysis)
