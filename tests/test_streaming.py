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
import gc
import json
import math
import shutil
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from optimum_neuronmm import streaming
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.families import FAMILIES, family_of
from optimum_neuronmm.source import open_dense
from optimum_neuronmm.streaming import (
    LayerStream,
    collect_gradients,
    collect_inputs,
    collect_outputs,
    empty_model,
)

from .conftest import save_tiny_model
from .pipeline import observe, whole


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
        logits = model(input_ids=windows).logits
    torch.testing.assert_close(hidden, captured[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat([*stream.logits(hidden, windows)]), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_back_layer_by_layer_equals_the_whole_model(model_type, tmp_path, monkeypatch):
    """The gradients of the summed loss of the same labels, at every layer and at the outputs of its projections."""
    monkeypatch.setattr(streaming, "_ROWS_AT_ONCE", 96)  # two windows of three at once
    directory = save_tiny_model(tmp_path, model_type)
    windows = windows_of(3, 48)
    stream = stream_of(directory)
    names = list(FAMILIES[model_type].projections)
    paths = [f"model.layers.{index}.mlp.{name}" for index in range(3) for name in names]
    expected = observe(whole(directory), windows, paths, seed=11)
    entering, hidden = [], stream.embed(windows)
    for index in range(3):
        entering.append(hidden.clone())
        with stream.layer(index):
            stream.advance(index, hidden)
    gradients = stream.loss_gradients(hidden, windows, seed=11)

    def close(found, wanted):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item())

    close(gradients, expected.leaving_gradients[2])
    for index in reversed(range(3)):
        kept, inputs, rows = entering[index].clone(), {name: [] for name in names}, {name: [] for name in names}
        with stream.layer(index) as layer:
            modules = {name: layer.mlp.get_submodule(name) for name in names}

            def collect(name, x, g, inputs=inputs, rows=rows):
                inputs[name].append(x)
                rows[name].append(g.clone())  # it may be the tensor that is overwritten

            with collect_gradients(modules, collect):
                assert stream.retreat(index, entering[index], gradients) is None
        close(gradients, expected.entering_gradients[index])
        for name in names:
            assert [len(batch) for batch in rows[name]] == [96, 48]
            close(torch.cat(rows[name]), expected.gradients[f"model.layers.{index}.mlp.{name}"])
            close(torch.cat(inputs[name]), expected.inputs[f"model.layers.{index}.mlp.{name}"])
        assert torch.equal(entering[index], kept) and not entering[index].requires_grad
    assert not gradients.requires_grad


@pytest.fixture(scope="module")
def drawn(tiny_llama):
    """Gradients of one window 400 times."""
    stream = stream_of(tiny_llama)
    window = windows_of(1, 6).repeat(400, 1)
    hidden = 3 * torch.randn(1, 6, 96, generator=torch.Generator().manual_seed(3)).repeat(400, 1, 1)
    return stream, window, hidden, stream.loss_gradients(hidden, window, seed=5)


class TestLabels:
    """Drawn from the model, not the tokens that follow: the gradients are scores, whose mean is zero."""

    def test_their_mean_is_zero_and_their_second_moment_the_fisher_information(self, drawn):
        stream, window, hidden, gradients = drawn

        def logits_of(state):
            return stream.model.lm_head(stream.model.model.norm(state))

        for position in range(6):
            g, state = gradients[:, position].double(), hidden[0, position]
            p = logits_of(state).softmax(-1).double()
            J = torch.autograd.functional.jacobian(logits_of, state).double()
            fisher = J.T @ (p.diag() - torch.outer(p, p)) @ J
            assert g.mean(0).square().sum() < 3 * fisher.trace() / len(g)
            assert g.square().sum(1).mean().item() == pytest.approx(fisher.trace().item(), rel=0.3)
            torch.testing.assert_close(g.T @ g / len(g), fisher, rtol=0, atol=0.35 * fisher.diagonal().max().item())

    def test_each_window_and_position_has_its_own(self, drawn):
        *_, gradients = drawn
        assert not torch.equal(gradients[0], gradients[1])

    def test_a_seed_gives_the_same(self, drawn):
        stream, window, hidden, gradients = drawn
        again = stream.loss_gradients(hidden[:9], window[:9], seed=5)
        assert torch.equal(again, gradients[:9])
        assert not torch.equal(stream.loss_gradients(hidden[:9], window[:9], seed=6), again)

    def test_the_tokens_do_not_matter(self, drawn):
        stream, window, hidden, gradients = drawn
        assert torch.equal(stream.loss_gradients(hidden[:9], (window[:9] + 1) % 256, seed=5), gradients[:9])


def test_gradients_that_are_not_finite_are_named_by_their_layer(tiny_llama):
    stream = stream_of(tiny_llama)
    hidden = stream.embed(windows_of(2, 8))
    gradients = torch.ones_like(hidden)
    gradients[1, 3, 0] = math.inf
    with pytest.raises(NeuronMMError, match=r"gradients at layer 1 \(model.layers.1\) are not finite.*whitened"):
        with stream.layer(1):
            stream.retreat(1, hidden, gradients)


def test_no_gradient_outlives_a_layer(tiny_llama):
    """Nothing of autograd holds a layer's weights, and the weights get no gradients."""
    stream = stream_of(tiny_llama)
    hidden = stream.embed(windows_of(2, 8))
    with stream.layer(0) as layer:
        stream.retreat(0, hidden, torch.ones_like(hidden))
        assert all(parameter.grad is None for parameter in layer.parameters())
        weights = [weakref.ref(parameter) for parameter in layer.parameters()]
    gc.collect()
    assert all(reference() is None for reference in weights)


@pytest.fixture
def model(tiny_llama, tmp_path):
    """A model that a test may damage."""
    return shutil.copytree(tiny_llama, tmp_path / "model")


def edit_weights(directory, change):
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def windows_of(n, length, seed=1):
    return torch.randint(256, (n, length), generator=torch.Generator().manual_seed(seed))


class TestMemory:
    def test_a_layer_has_its_weights_only_while_it_is_open(self, tiny_llama):
        stream = stream_of(tiny_llama)
        expected = load_file(tiny_llama / "model.safetensors")
        for index, layer in enumerate(stream.layers):
            assert all(parameter.is_meta for parameter in layer.parameters())
            with stream.layer(index) as opened:
                assert opened is layer
                for name, parameter in layer.named_parameters():
                    assert torch.equal(parameter, expected[f"model.layers.{index}.{name}"])
                others = [other for other in stream.layers if other is not layer]
                assert all(parameter.is_meta for other in others for parameter in other.parameters())
            assert all(parameter.is_meta for parameter in layer.parameters())

    def test_the_weights_of_a_layer_are_free_after_it(self, tiny_llama):
        """Not only out of the module: nothing else holds them."""
        stream = stream_of(tiny_llama)
        hidden = stream.embed(windows_of(2, 8))
        with stream.layer(0) as layer:
            stream.advance(0, hidden)
            weights = [weakref.ref(parameter) for parameter in layer.parameters()]
        gc.collect()
        assert len(weights) == 9 and all(reference() is None for reference in weights)

    def test_an_error_inside_closes_the_layer(self, tiny_llama):
        stream = stream_of(tiny_llama)
        with pytest.raises(RuntimeError, match="inside"):
            with stream.layer(1):
                raise RuntimeError("inside")
        assert all(parameter.is_meta for parameter in stream.layers[1].parameters())

    def test_a_layer_whose_projections_were_replaced_is_closed_too(self, tiny_llama):
        from optimum_neuronmm.modeling import replace_projections

        stream = stream_of(tiny_llama)
        with stream.layer(0) as layer:
            replace_projections(stream.model, {"model.layers.0.mlp.up_proj": {"rank": 32, "storage": "uv"}})
            assert not layer.mlp.up_proj.u.weight.is_meta
        assert all(parameter.is_meta for parameter in layer.parameters())

    def test_embeddings_norm_and_head_stay(self, tiny_llama):
        stream = stream_of(tiny_llama)
        resident = {name for name, parameter in stream.model.named_parameters() if not parameter.is_meta}
        assert resident == {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}

    def test_each_tensor_is_read_once_for_a_layer(self, tiny_llama, monkeypatch):
        stream, read = stream_of(tiny_llama), []
        original = stream._checkpoint.read
        monkeypatch.setattr(stream._checkpoint, "read", lambda names: read.extend(names) or original(names))
        for index in range(3):
            with stream.layer(index):
                pass
        assert len(read) == len(set(read)) == 27


@pytest.mark.parametrize("tied", [False, True])
def test_a_tied_head_is_the_embedding(tied, tmp_path):
    directory = save_tiny_model(tmp_path, tie_word_embeddings=tied)
    stream = stream_of(directory)
    assert (stream.model.lm_head.weight is stream.model.model.embed_tokens.weight) == tied
    windows = windows_of(2, 12)
    hidden = stream.embed(windows)
    for index in range(3):
        with stream.layer(index):
            stream.advance(index, hidden)
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    with torch.no_grad():
        expected = model(input_ids=windows).logits
    torch.testing.assert_close(torch.cat([*stream.logits(hidden, windows)]), expected, rtol=1e-4, atol=1e-4)


def test_a_model_in_another_dtype_runs_in_that_of_the_stream(tmp_path):
    checkpoint = open_dense(save_tiny_model(tmp_path, dtype=torch.bfloat16))
    stream = LayerStream(checkpoint, family_of(checkpoint.config), torch.float32, torch.device("cpu"))
    hidden = stream.embed(windows_of(1, 8))
    with stream.layer(0) as layer:
        assert {parameter.dtype for parameter in layer.parameters()} == {torch.float32}
        stream.advance(0, hidden)
    assert hidden.dtype == torch.float32


def test_windows_are_independent_of_those_beside_them(tiny_llama, monkeypatch):
    """In batches of any size: here of three windows, one, and all."""
    windows, results = windows_of(7, 16), []
    for rows in (48, 1, 4096):
        monkeypatch.setattr(streaming, "_ROWS_AT_ONCE", rows)
        stream = stream_of(tiny_llama)
        hidden = stream.embed(windows)
        sizes = []
        with stream.layer(0) as layer:
            hook = layer.register_forward_pre_hook(lambda _, args, sizes=sizes: sizes.append(len(args[0])))
            stream.advance(0, hidden)
            hook.remove()
        assert sizes == {48: [3, 3, 1], 1: [1] * 7, 4096: [7]}[rows]
        results.append(hidden)
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results[0], results[2], rtol=1e-5, atol=1e-5)


def test_hidden_states_advance_in_place(tiny_llama):
    stream = stream_of(tiny_llama)
    hidden = stream.embed(windows_of(2, 8))
    before, address = hidden.clone(), hidden.data_ptr()
    with stream.layer(0):
        assert stream.advance(0, hidden) is None
    assert hidden.data_ptr() == address and not torch.equal(hidden, before)


class TestDamage:
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_a_weight_that_is_not_finite_is_named(self, model, value):
        edit_weights(model, lambda weights: weights["model.layers.1.mlp.up_proj.weight"].view(-1)[5].fill_(value))
        stream = stream_of(model)
        with stream.layer(0):
            pass
        with pytest.raises(NeuronMMError, match="model.layers.1.mlp.up_proj.weight of .* not finite.*damaged"):
            with stream.layer(1):
                pass

    def test_an_embedding_that_is_not_finite_is_named(self, model):
        edit_weights(model, lambda weights: weights["model.embed_tokens.weight"][3].fill_(math.nan))
        with pytest.raises(NeuronMMError, match="model.embed_tokens.weight of .* not finite"):
            stream_of(model)

    def test_activations_that_overflow_are_named_by_their_layer(self, model):
        def change(weights):
            weights["model.layers.2.mlp.up_proj.weight"] *= 1e25
            weights["model.layers.2.mlp.down_proj.weight"] *= 1e25

        edit_weights(model, change)
        stream = stream_of(model)
        hidden = stream.embed(windows_of(2, 8))
        for index in range(2):
            with stream.layer(index):
                stream.advance(index, hidden)
        with pytest.raises(NeuronMMError, match=r"activations of layer 2 \(model.layers.2\) are not finite"):
            with stream.layer(2):
                stream.advance(2, hidden)

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            (
                {"intermediate_size": 128},
                r"gate_proj.weight of .* has shape \(200, 96\), but config.json describes \(128",
            ),
            ({"num_hidden_layers": 5}, "no tensor 'model.layers.3"),
            ({"num_attention_heads": 0}, "describes no model: "),
            ({"hidden_size": "wide"}, "describes no model: "),
            ({"tie_word_embeddings": True, "vocab_size": 8}, r"embed_tokens.weight of .* has shape \(260, 96\)"),
        ],
    )
    def test_a_config_of_another_model(self, model, changes, match):
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(NeuronMMError, match=match):
            empty_model(open_dense(model))

    def test_an_empty_model_takes_no_memory(self, tiny_llama):
        model = empty_model(open_dense(tiny_llama))
        assert all(parameter.is_meta for parameter in model.parameters()) and not model.training


class TestCollectInputs:
    def test_rows_of_each_module_while_it_is_open(self):
        modules = {"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)}
        seen = []
        x = torch.randn(2, 4, 3)
        with collect_inputs(modules, lambda name, rows: seen.append((name, rows))):
            modules["a"](x)
            modules["b"](x[0])
        modules["a"](x)
        assert [name for name, _ in seen] == ["a", "b"]
        assert torch.equal(seen[0][1], x.view(8, 3)) and torch.equal(seen[1][1], x[0])

    def test_an_error_inside_removes_the_hooks(self):
        linear = nn.Linear(3, 2)
        with pytest.raises(RuntimeError):
            with collect_inputs({"a": linear}, lambda name, rows: None):
                raise RuntimeError
        assert not linear._forward_hooks


class TestCollectOutputs:
    def test_pairs_of_inputs_and_outputs(self):
        linear, seen = nn.Linear(3, 2), []
        x = torch.randn(2, 4, 3)
        with collect_outputs({"a": linear}, lambda *found: seen.append(found)):
            linear(x)
        linear(x)
        [(name, inputs, outputs)] = seen
        assert name == "a" and torch.equal(inputs, x.view(8, 3))
        torch.testing.assert_close(outputs, linear(x).view(8, 2))


class TestCollectGradients:
    def test_pairs_of_inputs_and_gradients(self):
        """Of each module, with the inputs that belong to the gradients; the modules are called one after the other."""
        modules = {"a": nn.Linear(3, 4), "b": nn.Linear(4, 2)}
        x = torch.randn(2, 5, 3, requires_grad=True)
        direction = torch.randn(2, 5, 2)
        seen = {}
        with collect_gradients(modules, lambda name, *found: seen.update({name: found})):
            between = modules["a"](x)
            output = modules["b"](between.tanh())
            torch.autograd.grad(output, x, direction)
        with torch.no_grad():
            back = direction @ modules["b"].weight * (1 - between.tanh() ** 2)
            expected = {
                "a": (x.view(10, 3), back.view(10, 4)),
                "b": (between.tanh().view(10, 4), direction.view(10, 2)),
            }
        assert list(seen) == ["b", "a"]
        for name, (inputs, gradients) in expected.items():
            torch.testing.assert_close(seen[name][0], inputs)
            torch.testing.assert_close(seen[name][1], gradients)
            assert not seen[name][0].requires_grad

    def test_afterwards_the_modules_are_as_before(self):
        linear = nn.Linear(3, 2)
        with collect_gradients({"a": linear}, lambda *found: pytest.fail("called")):
            pass
        assert not linear._forward_hooks
        linear(torch.ones(1, 3, requires_grad=True)).sum().backward()
