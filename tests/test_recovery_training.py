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
"""What is minimised, what is trained, and the training: against formulas, and against itself interrupted."""

import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from optimum_neuronmm import LowRankLinear
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.modeling import replace_projections
from optimum_neuronmm.perplexity import token_loss
from optimum_neuronmm.recovery import RecoveryConfig
from optimum_neuronmm.recovery.evaluation import held_out_losses
from optimum_neuronmm.recovery.objectives import Objective, divergence, hidden_error, label_loss
from optimum_neuronmm.recovery.parallel import Team
from optimum_neuronmm.recovery.parameters import TrainedFactors
from optimum_neuronmm.recovery.training import learning_rate, steps_of_phases

from .conftest import TINY


def tokens_of(*shape, seed=1):
    return torch.randint(0, 257, shape, generator=torch.Generator().manual_seed(seed))


class TestObjectives:
    def test_label_loss_is_the_mean_of_the_report_s(self):
        logits, tokens = torch.randn(3, 10, 257), tokens_of(3, 10)
        losses = label_loss(logits, tokens)
        assert losses.shape == (3,)
        assert losses.sum().item() * 9 == pytest.approx(token_loss(logits, tokens), rel=1e-5)

    def test_divergence_is_that_of_the_student_from_the_teacher(self):
        student, teacher = torch.randn(2, 5, 7), 3 * torch.randn(2, 5, 7)
        p, q = teacher.double().softmax(-1), student.double().softmax(-1)
        expected = (p * (p / q).log()).sum(-1).mean(1)
        torch.testing.assert_close(divergence(student, teacher), expected.float())
        reverse = (q * (q / p).log()).sum(-1).mean(1)
        assert (expected - reverse).abs().min() > 0.05  # the two directions can be told apart here

    def test_divergence_of_a_model_from_itself_is_zero_and_so_is_its_gradient(self):
        logits = torch.randn(2, 5, 7, requires_grad=True)
        value = divergence(logits, logits.detach())
        value.sum().backward()
        assert value.abs().max() < 1e-6 and logits.grad.abs().max() < 1e-6

    def test_its_gradient_leads_to_the_teacher(self):
        student, teacher = torch.randn(1, 5, 7, requires_grad=True), torch.randn(1, 5, 7)
        divergence(student, teacher).sum().backward()
        expected = (student.detach().softmax(-1) - teacher.softmax(-1)) / 5
        torch.testing.assert_close(student.grad, expected, atol=1e-6, rtol=1e-4)

    def test_temperature(self):
        student, teacher = torch.randn(1, 5, 7), torch.randn(1, 5, 7)
        torch.testing.assert_close(divergence(student, teacher, 2.0), 4 * divergence(student / 2, teacher / 2))

    def test_half_precision_logits_are_reduced_in_float32(self):
        student, teacher = torch.randn(1, 5, 7).bfloat16(), torch.randn(1, 5, 7).bfloat16()
        assert divergence(student, teacher).dtype == torch.float32
        torch.testing.assert_close(divergence(student, teacher), divergence(student.float(), teacher.float()))

    def test_hidden_error_is_relative_to_the_variance_of_each_channel(self):
        teacher = torch.randn(3, 50, 8) * torch.tensor([1000.0] + [1.0] * 7) + 5
        noise = 0.1 * torch.randn(3, 50, 8) * torch.tensor([1000.0] + [1.0] * 7)
        states = (torch.zeros(3, 50, 8), teacher)
        error = hidden_error((torch.ones(3, 50, 8), teacher + noise), states)  # the embeddings do not count
        expected = (noise.square().mean(1) / teacher.var(1, correction=0)).mean(1)
        torch.testing.assert_close(error, expected, rtol=1e-3, atol=0)
        assert hidden_error(states, states).abs().max() == 0

    def test_the_objective_of_a_config(self, compressed_llama, tiny_llama):
        student = AutoModelForCausalLM.from_pretrained(compressed_llama)
        teacher = AutoModelForCausalLM.from_pretrained(tiny_llama)
        tokens = tokens_of(2, 16)
        ours, theirs = (m(input_ids=tokens, output_hidden_states=True) for m in (student, teacher))
        labels = Objective(RecoveryConfig(objective="labels"))(student, tokens)
        torch.testing.assert_close(labels, label_loss(ours.logits, tokens).mean())
        distilled = divergence(ours.logits, theirs.logits, 2.0).mean()
        torch.testing.assert_close(Objective(RecoveryConfig(temperature=2.0), teacher)(student, tokens), distilled)
        both = Objective(RecoveryConfig(temperature=2.0, hidden_weight=0.5), teacher)(student, tokens)
        hidden = hidden_error(ours.hidden_states, theirs.hidden_states).mean()
        assert hidden > 0
        torch.testing.assert_close(both, distilled + 0.5 * hidden)
        with pytest.raises(NeuronMMError, match="needs a teacher"):
            Objective(RecoveryConfig())


class TestHeldOut:
    def test_each_source_has_its_own_loss(self, compressed_llama):
        model = AutoModelForCausalLM.from_pretrained(compressed_llama).eval()
        windows = [tokens_of(3, 16), tokens_of(5, 16, seed=2)]
        team = Team(RecoveryConfig(batch_size=4, micro_batch_size=2), "cpu")
        losses = held_out_losses(model, windows, team)
        with torch.no_grad():
            expected = [label_loss(model(input_ids=part).logits, part).mean().item() for part in windows]
        assert losses == pytest.approx(expected, rel=1e-6)


def paths_of(model):
    return [name for name, module in model.named_modules() if isinstance(module, LowRankLinear)]


@pytest.fixture(params=["lora", "factors"])
def trained(request, compressed_llama):
    """A model, its stored factors and what is trained of them."""
    model = AutoModelForCausalLM.from_pretrained(compressed_llama).eval()
    stored = {
        f"{path}.{f}.weight": getattr(model.get_submodule(path), f).weight.detach().clone()
        for path in paths_of(model)
        for f in ("u", "v")
    }
    torch.manual_seed(0)
    return model, stored, TrainedFactors(model, stored, RecoveryConfig(parameters=request.param, lora_alpha=24.0))


def disturb(trained: TrainedFactors):
    with torch.no_grad():
        for parameter in trained.parameters.values():
            parameter += 0.05 * torch.randn(parameter.shape)


class TestTrainedFactors:
    def test_at_the_start_nothing_is_changed(self, trained, compressed_llama):
        model, stored, factors = trained
        tokens = tokens_of(2, 16)
        plain = AutoModelForCausalLM.from_pretrained(compressed_llama)
        torch.testing.assert_close(model(input_ids=tokens).logits, plain(input_ids=tokens).logits)
        merged = factors.merged()
        assert merged.keys() == stored.keys() and all(torch.equal(merged[name], stored[name]) for name in stored)

    def test_the_merged_model_computes_what_the_trained_one_did(self, trained):
        model, stored, factors = trained
        disturb(factors)
        tokens = tokens_of(2, 16)
        with torch.no_grad():
            expected = model(input_ids=tokens).logits
        merged = factors.merged()
        assert all((merged[name] - stored[name]).abs().max() > 1e-3 for name in stored)
        factors.replace(merged)
        with torch.no_grad():
            torch.testing.assert_close(model(input_ids=tokens).logits, expected, atol=1e-4, rtol=1e-4)
        for path in paths_of(model):
            module = model.get_submodule(path)
            assert type(module.u) is type(module.v) is torch.nn.Linear
            assert torch.equal(module.u.weight, merged[f"{path}.u.weight"])

    @pytest.mark.parametrize("chosen", [("u",), ("v",), ("u", "v")])
    def test_only_what_is_chosen_gets_a_gradient(self, trained, chosen):
        model, _, factors = trained
        disturb(factors)
        parameters = factors.choose(chosen)
        label_loss(model(input_ids=tokens_of(1, 16)).logits, tokens_of(1, 16)).sum().backward()
        moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        endings = [f".{factor}." for factor in chosen]
        expected = {name for name in factors.parameters if any(ending in name for ending in endings)}
        assert moved == expected == set(parameters)

    def test_what_is_trained_is_float32_and_the_stored_value_is_not_rounded(self, compressed_llama):
        for kind in ("lora", "factors"):
            model = AutoModelForCausalLM.from_pretrained(compressed_llama)
            stored = {
                name: value for name, value in model.state_dict().items() if name.endswith((".u.weight", ".v.weight"))
            }
            stored = {name: value.clone() for name, value in stored.items()}
            factors = TrainedFactors(model.bfloat16(), stored, RecoveryConfig(parameters=kind))
            assert {parameter.dtype for parameter in factors.parameters.values()} == {torch.float32}
            assert all(torch.equal(value, stored[name]) for name, value in factors.merged().items())
            factors.replace(factors.merged())
            assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}

    def test_a_state_can_be_returned_to(self, trained):
        _, _, factors = trained
        state = factors.state()
        disturb(factors)
        factors.load(state)
        again = factors.state()
        assert all(torch.equal(state[name], again[name]) for name in state)

    def test_adapters_have_the_rank_that_was_asked_for(self, compressed_llama):
        model = AutoModelForCausalLM.from_pretrained(compressed_llama)
        factors = TrainedFactors(model, model.state_dict(), RecoveryConfig(lora_rank=3))
        assert len(factors.parameters) == 4 * len(paths_of(model))
        assert {min(parameter.shape) for parameter in factors.parameters.values()} == {3}

    def test_a_model_of_many_projections_and_nothing_else_is_adapted(self):
        config = AutoConfig.for_model(
            "llama", **{**TINY, "num_hidden_layers": 6}
        )  # PEFT treats long lists differently
        model = AutoModelForCausalLM.from_config(config)
        names = [name for name, _ in model.named_modules() if name.endswith(("gate_proj", "down_proj"))]
        replace_projections(model, {name: {"rank": 32, "storage": "uv"} for name in names})
        stored = {
            f"{name}.{factor}.weight": model.get_submodule(f"{name}.{factor}").weight
            for name in names
            for factor in "uv"
        }
        factors = TrainedFactors(model, stored, RecoveryConfig())
        adapted = {name.partition(".lora_")[0] + ".weight" for name in factors.parameters}
        assert adapted == set(stored) and len(factors.parameters) == 2 * len(stored)


class TestSchedules:
    def test_the_rate_rises_and_falls(self):
        config = RecoveryConfig(learning_rate=2.0, warmup_fraction=0.1)
        rates = [learning_rate(config, step, 100) for step in range(100)]
        assert max(rates) == rates[10] == 2.0
        assert rates[:11] == sorted(rates[:11]) and rates[0] == pytest.approx(2 / 11)
        assert rates[10:] == sorted(rates[10:], reverse=True) and 0 < rates[-1] < 0.01
        assert rates[55] == pytest.approx(2.0 * 0.5 * (1 + math.cos(math.pi * 45 / 90)))

    def test_without_a_warmup_it_begins_at_the_highest(self):
        assert learning_rate(RecoveryConfig(learning_rate=2.0, warmup_fraction=0), 0, 1) == 2.0

    def test_phases_share_the_budget(self):
        config = RecoveryConfig(tokens=7 * 8 * 512 + 100, order="sequential")
        assert config.steps == 7 and steps_of_phases(config) == [4, 3] and config.phases == [("u",), ("v",)]
        assert steps_of_phases(RecoveryConfig(tokens=7 * 8 * 512)) == [7]


class TestTeam:
    def test_batches_that_cannot_be_shared(self, monkeypatch):
        monkeypatch.setattr("accelerate.Accelerator.num_processes", 3)
        with pytest.raises(NeuronMMError, match="got 8 for 3 processes and 4"):
            Team(RecoveryConfig(batch_size=8), "cpu")

    def test_devices(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(NeuronMMError, match="device must be 'cpu' or 'cuda', got 'tpu'"):
            Team(RecoveryConfig(), "tpu")
        with pytest.raises(NeuronMMError, match="finds no CUDA device"):
            Team(RecoveryConfig(), "cuda")

    def test_the_dtype_of_the_computation(self):
        assert Team(RecoveryConfig(), "cpu").dtype == torch.float32
        team = Team(RecoveryConfig(dtype="bfloat16"), "cpu")
        with team.autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


class TestConfig:
    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"objective": "mse"}, "objective must be one of distill, labels, got 'mse'"),
            ({"order": "both"}, "order must be one of joint, sequential, got 'both'"),
            ({"parameters": "all"}, "parameters must be one of lora, factors, got 'all'"),
            ({"dtype": "float16"}, "dtype must be one of auto, float32, bfloat16, got 'float16'"),
            ({"tokens": 2.5}, "tokens must be an integer of at least 1, got 2.5"),
            ({"tokens": 4095}, r"tokens must be at least 4096, one step in each phase.*got 4095"),
            ({"tokens": 4096, "order": "sequential"}, "tokens must be at least 8192"),
            ({"lora_rank": 0}, "lora_rank must be an integer of at least 1, got 0"),
            ({"batch_size": True}, "batch_size must be an integer of at least 1, got True"),
            ({"batch_size": 6}, "batch_size must be a multiple of micro_batch_size, got 6 and 4"),
            ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
            ({"learning_rate": 0}, "learning_rate must be a number above 0, got 0"),
            ({"learning_rate": float("nan")}, "learning_rate must be a number above 0, got nan"),
            ({"max_grad_norm": float("inf")}, "max_grad_norm must be a number above 0, got inf"),
            ({"temperature": "hot"}, "temperature must be a number above 0, got 'hot'"),
            ({"weight_decay": -0.1}, "weight_decay must be a number of at least 0, got -0.1"),
            ({"warmup_fraction": 1}, r"warmup_fraction must be a number in \[0, 1\), got 1"),
            ({"objective": "labels", "hidden_weight": 1.0}, "hidden_weight needs objective 'distill'"),
            ({"data": []}, r"data must name at least one source of text, got \[\]"),
            ({"data": ["c4", 3]}, "data must name at least one source of text"),
            ({"data": 3}, "data must name at least one source of text"),
            ({"gradient_checkpointing": 1}, "gradient_checkpointing must be True or False, got 1"),
        ],
    )
    def test_options_out_of_range_are_named(self, options, match):
        with pytest.raises(NeuronMMError, match=match):
            RecoveryConfig(**options)

    def test_an_unknown_option_is_named(self):
        with pytest.raises(NeuronMMError, match="Unknown option epochs, steps: RecoveryConfig takes objective"):
            RecoveryConfig.from_dict({"steps": 3, "epochs": 1, "seed": 0})

    def test_what_follows_from_other_options(self):
        assert RecoveryConfig().learning_rate == 1e-3 and RecoveryConfig(parameters="factors").learning_rate == 1e-4
        assert RecoveryConfig(batch_size=2).micro_batch_size == 2
        assert RecoveryConfig(data="c4").data == ["c4"]
        assert "save_every" not in RecoveryConfig().deciding_options()
