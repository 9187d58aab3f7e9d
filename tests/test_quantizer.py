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
"""Compressed checkpoints in the hands of transformers: load, save, run, train, adapt, and refuse what is damaged."""

import json
import logging
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from optimum_neuronmm import LowRankLinear, NeuronMMConfig, compress
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.families import FAMILIES

from .conftest import read_config, save_tiny_model


FACTORED = [f"model.layers.{i}.mlp.{name}" for i in range(3) for name in ("gate_proj", "up_proj", "down_proj")]
IDS = torch.arange(40).reshape(2, 20)


def load(directory, **options):
    return AutoModelForCausalLM.from_pretrained(directory, **options)


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


def tensors(directory):
    return {name: t for file in sorted(directory.glob("*.safetensors")) for name, t in load_file(file).items()}


def assert_same_tensors(one, other):
    assert set(one) == set(other)
    for name in one:
        assert one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]), name


@pytest.fixture(scope="module")
def quick_options(quick_options):
    """With uniform ranks, so that all projections get factors."""
    return {**quick_options, "allocation": "uniform"}


@pytest.fixture(scope="module")
def compressed_llama(tiny_llama, quick_options, tmp_path_factory):
    output = tmp_path_factory.mktemp("uniform") / "tiny-llama"
    compress(tiny_llama, output, NeuronMMConfig(**quick_options))
    return output


@pytest.fixture
def damaged(compressed_llama, tmp_path):
    """A copy of the compressed model, and a function that rewrites its weights."""
    directory = tmp_path / "damaged"
    shutil.copytree(compressed_llama, directory)

    def rewrite(change):
        state = load_file(directory / "model.safetensors")
        change(state)
        save_file(state, directory / "model.safetensors", metadata={"format": "pt"})

    return directory, rewrite


def change_config(directory, change):
    config = read_config(directory)
    change(config)
    (directory / "config.json").write_text(json.dumps(config))


def test_listed_projections_are_low_rank_and_hold_the_file(compressed_llama):
    model = load(compressed_llama)
    assert [path for path, module in model.named_modules() if type(module) is LowRankLinear] == FACTORED
    stored = tensors(compressed_llama)
    assert_same_tensors(dict(model.state_dict()), stored)
    for path in FACTORED:
        assert stored[f"{path}.u.weight"].shape[0] == stored[f"{path}.v.weight"].shape[1] == 64
        assert stored[f"{path}.weight"].numel() == 0
    assert not model.training and isinstance(model.config.quantization_config, NeuronMMConfig)


class ComputedShapes(TorchDispatchMode):
    """The shapes of all tensors that operations compute, but for those on meta.

    `empty` is not counted: torch's constructors call it for weights that go to meta at once, and it touches no memory.
    """

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is not torch.ops.aten.empty.memory_format:
            self.shapes |= {tuple(t.shape) for t in tree_iter(result) if isinstance(t, torch.Tensor) and not t.is_meta}
        return result


def test_the_dense_weight_is_never_built(compressed_llama, tiny_llama):
    dense = {(200, 96), (96, 200)}
    with ComputedShapes() as seen:
        model = load(compressed_llama, dtype=torch.bfloat16)
    assert (64, 96) in seen.shapes  # it does see what is built
    assert not seen.shapes & dense
    with ComputedShapes() as seen:
        logits(model)
    assert not seen.shapes & dense
    with ComputedShapes() as seen:
        load(tiny_llama, dtype=torch.bfloat16)
    assert dense <= seen.shapes


@pytest.mark.parametrize("shard_size", ["5GB", "100KB"])
def test_round_trip_is_exact(compressed_llama, tmp_path, shard_size):
    model = load(compressed_llama)
    model.save_pretrained(tmp_path / "again", max_shard_size=shard_size)
    files = sorted(file.name for file in (tmp_path / "again").glob("*.safetensors"))
    assert len(files) > 3 if shard_size == "100KB" else files == ["model.safetensors"]
    assert_same_tensors(tensors(tmp_path / "again"), tensors(compressed_llama))
    again = load(tmp_path / "again")
    assert_same_tensors(dict(again.state_dict()), dict(model.state_dict()))
    assert torch.equal(logits(again), logits(model))
    saved, original = read_config(tmp_path / "again"), read_config(compressed_llama)
    assert saved["quantization_config"] == original["quantization_config"]
    assert saved["dtype"] == original["dtype"] == "float32"


def test_tied_embeddings(quick_options, tmp_path):
    dense = save_tiny_model(tmp_path / "dense", tie_word_embeddings=True)
    compress(dense, tmp_path / "out", NeuronMMConfig(**quick_options))
    assert "lm_head.weight" not in tensors(tmp_path / "out")
    model = load(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(tmp_path / "again")
    assert_same_tensors(tensors(tmp_path / "again"), tensors(tmp_path / "out"))
    assert torch.equal(logits(load(tmp_path / "again")), logits(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(compressed_llama, tmp_path, dtype):
    model = load(compressed_llama, dtype=dtype)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {dtype}
    expected, actual = logits(load(compressed_llama)), logits(model)
    assert actual.dtype == dtype
    error = (actual.float() - expected).norm() / expected.norm()
    assert error < 16 * torch.finfo(dtype).eps
    model.save_pretrained(tmp_path)
    again = load(tmp_path, dtype="auto")
    assert again.dtype == dtype and torch.equal(logits(again), actual)


def test_the_dtype_of_the_file_is_found(quick_options, tmp_path):
    dense = save_tiny_model(tmp_path / "dense", dtype=torch.bfloat16)
    compress(dense, tmp_path / "out", NeuronMMConfig(**quick_options))
    assert {tensor.dtype for tensor in tensors(tmp_path / "out").values()} == {torch.bfloat16}
    assert load(tmp_path / "out", dtype="auto").dtype == torch.bfloat16


@pytest.mark.parametrize("device_map", [{"": "cpu"}, "auto", "cpu"])
def test_device_maps(compressed_llama, device_map):
    model = load(compressed_llama, device_map=device_map)
    assert all(tensor.device.type == "cpu" for tensor in model.state_dict().values())
    assert torch.equal(logits(model), logits(load(compressed_llama)))


def test_layers_on_disk(compressed_llama, tmp_path):
    places = ["model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head", "model.layers.0", "model.layers.2"]
    device_map = {**dict.fromkeys(places, "cpu"), "model.layers.1": "disk"}
    model = load(compressed_llama, device_map=device_map, offload_folder=tmp_path)
    assert model.model.layers[1].mlp.up_proj.u.weight.is_meta
    assert torch.equal(logits(model), logits(load(compressed_llama)))


def test_generate(compressed_llama):
    model = load(compressed_llama)
    generated = model.generate(IDS[:1], max_new_tokens=5, min_new_tokens=5, do_sample=False)
    # Greedy decoding by hand, without a cache.
    expected = IDS[:1]
    with torch.no_grad():
        for _ in range(5):
            expected = torch.cat([expected, model(input_ids=expected).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(generated, expected)


def test_backward_and_a_step(compressed_llama):
    model = load(compressed_llama).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = model(input_ids=IDS, labels=IDS).loss
    before.backward()
    for path in FACTORED:
        for factor in ("u", "v"):
            gradient = model.get_parameter(f"{path}.{factor}.weight").grad
            assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0, path
    optimizer.step()
    assert model(input_ids=IDS, labels=IDS).loss < before


def test_half_and_float(compressed_llama):
    # transformers refuses both for quantized models.
    model = load(compressed_llama)
    expected = logits(model)
    assert {tensor.dtype for tensor in model.half().state_dict().values()} == {torch.float16}
    assert {tensor.dtype for tensor in model.float().state_dict().values()} == {torch.float32}
    torch.testing.assert_close(logits(model), expected, rtol=0.05, atol=0.05 * expected.abs().max().item())
    assert {tensor.dtype for tensor in model.to(torch.bfloat16).state_dict().values()} == {torch.bfloat16}


def test_the_trainer_trains_saves_and_resumes(compressed_llama, tmp_path):
    from transformers import Trainer, TrainingArguments

    model = load(compressed_llama)
    start = model.model.layers[0].mlp.up_proj.u.weight.detach().clone()
    data = [{"input_ids": row, "labels": row} for row in IDS]
    arguments = TrainingArguments(tmp_path / "run", max_steps=1, report_to=[], use_cpu=True, disable_tqdm=True)
    trainer = Trainer(model, arguments, train_dataset=data)
    trainer.train()
    assert not torch.equal(model.model.layers[0].mlp.up_proj.u.weight, start)
    trainer.save_model(tmp_path / "saved")
    assert torch.equal(logits(load(tmp_path / "saved")), logits(model.eval()))


@pytest.mark.parametrize("targets", ["mlp", "all-linear"])
def test_lora_on_both_factors_merges(compressed_llama, tmp_path, targets):
    peft = pytest.importorskip("peft")
    model = load(compressed_llama, dtype=torch.float64)
    plain = logits(model)
    pattern = r".*\.mlp\.\w+\.(u|v)" if targets == "mlp" else targets
    torch.manual_seed(0)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=pattern, init_lora_weights=False))
    wrapped = {name for name, module in adapted.named_modules() if isinstance(module, peft.tuners.lora.LoraLayer)}
    factors = {f"base_model.model.{path}.{factor}" for path in FACTORED for factor in ("u", "v")}
    assert wrapped == factors if targets == "mlp" else wrapped > factors
    assert not any(name.endswith("lm_head") for name in wrapped)
    adapted.eval()
    expected = logits(adapted)
    assert (expected - plain).abs().max() > 1e-2  # the adapters do something
    merged = adapted.merge_and_unload()
    difference = (logits(merged) - expected).norm() / expected.norm()
    assert difference < 1e-6  # the norms and the rotary embedding of the model compute in float32 even here
    # A merged model is a compressed checkpoint again.
    merged.save_pretrained(tmp_path)
    assert set(tensors(tmp_path)) == set(tensors(compressed_llama))
    assert torch.equal(logits(load(tmp_path, dtype=torch.float64)), logits(merged))


def test_lora_by_the_names_of_the_factors(compressed_llama):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(load(compressed_llama), peft.LoraConfig(r=2, target_modules=["u", "v"]))
    wrapped = [name for name, module in adapted.named_modules() if isinstance(module, peft.tuners.lora.LoraLayer)]
    assert len(wrapped) == 2 * len(FACTORED) and all(".mlp." in name for name in wrapped)


def test_dequantize_gives_an_ordinary_dense_model(compressed_llama, tiny_llama, tmp_path):
    model = load(compressed_llama)
    expected = logits(model)
    del model.config._pre_quantization_dtype  # as where the config was read anew
    dense = model.dequantize()
    assert not any(isinstance(module, LowRankLinear) for module in dense.modules())
    torch.testing.assert_close(logits(dense), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    dense.save_pretrained(tmp_path)
    assert "quantization_config" not in read_config(tmp_path)
    assert {n: t.shape for n, t in tensors(tmp_path).items()} == {n: t.shape for n, t in tensors(tiny_llama).items()}
    assert torch.equal(logits(load(tmp_path)), logits(dense))
    with torch.no_grad():
        low_rank = load(compressed_llama).model.layers[0].mlp.up_proj
        product = low_rank.v.weight.double() @ low_rank.u.weight.double()
    assert torch.equal(dense.model.layers[0].mlp.up_proj.weight, product.float())


def low_rank_mlps(directory, rank):
    """Overwrites the MLP weights of a dense model by matrices of this rank."""
    state = load_file(directory / "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    for name, weight in state.items():
        if ".mlp." in name and weight.ndim == 2:
            N, K = weight.shape
            product = torch.randn(N, rank, generator=generator) @ torch.randn(rank, K, generator=generator)
            state[name] = 0.05 * product / rank**0.5
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("model_type", "options"),
    [*((name, {}) for name in sorted(FAMILIES)), ("llama", {"mlp_bias": True}), ("llama", {"attention_bias": True})],
)
def test_the_compressed_model_is_the_dense_one_with_products_for_weights(model_type, options, quick_options, tmp_path):
    dense = save_tiny_model(tmp_path / "dense", model_type, **options)
    compress(dense, tmp_path / "out", NeuronMMConfig(**quick_options))
    compressed, model = load(tmp_path / "out"), load(dense)
    changed = 0.0
    for path, module in compressed.named_modules():
        if isinstance(module, LowRankLinear):
            linear = model.get_submodule(path)
            product = (module.v.weight.double() @ module.u.weight.double()).float()
            changed = max(changed, (linear.weight - product).abs().max().item())
            linear.weight.data.copy_(product)
            assert (linear.bias is None) == (module.v.bias is None)
    assert changed > 1e-3  # it was compressed
    expected = logits(model)
    torch.testing.assert_close(logits(compressed), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize(("model_type", "options"), [("llama", {"mlp_bias": True}), ("phi3", {}), ("gemma3_text", {})])
def test_weights_of_low_rank_lose_nothing(model_type, options, quick_options, tmp_path):
    dense = save_tiny_model(tmp_path / "dense", model_type, **options)
    low_rank_mlps(dense, 40)
    report = compress(dense, tmp_path / "out", NeuronMMConfig(**quick_options))
    assert {entry["rank"] for entry in report["projections"]} <= {64, 96}  # above the 40 that are needed
    expected = logits(load(dense))
    compressed = load(tmp_path / "out")
    torch.testing.assert_close(logits(compressed), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    if options:
        bias = compressed.model.layers[1].mlp.down_proj.v.bias
        assert torch.equal(bias, load(dense).model.layers[1].mlp.down_proj.bias) and bias.abs().max() > 0


def test_a_subset_of_the_projections(tiny_llama, quick_options, tmp_path):
    compress(tiny_llama, tmp_path / "out", NeuronMMConfig(**{**quick_options, "projections": ["down"]}))
    mlp = load(tmp_path / "out").model.layers[1].mlp
    assert [type(mlp.gate_proj), type(mlp.up_proj), type(mlp.down_proj)] == [nn.Linear, nn.Linear, LowRankLinear]
    assert torch.equal(mlp.up_proj.weight, load(tiny_llama).model.layers[1].mlp.up_proj.weight)


@pytest.mark.parametrize("path", ["model.layers.7.mlp.up_proj", "model.layers.0.feed_forward"])
def test_a_path_that_the_model_lacks(damaged, path):
    directory, _ = damaged
    change_config(
        directory, lambda c: c["quantization_config"]["modules"].update({path: {"rank": 64, "storage": "uv"}})
    )
    with pytest.raises(NeuronMMError, match=f"'{path}' that LlamaForCausalLM does not have"):
        load(directory)


@pytest.mark.parametrize(
    ("entry", "message"),
    [({"rank": 64, "storage": "packed"}, "storage 'packed'.*Upgrade"), ({"rank": -1}, "positive integer 'rank'")],
)
def test_an_entry_that_cannot_be_read(damaged, entry, message):
    directory, _ = damaged
    change_config(directory, lambda c: c["quantization_config"]["modules"].update({FACTORED[0]: entry}))
    with pytest.raises(NeuronMMError, match=message):
        load(directory)


def test_a_newer_format_is_refused(damaged):
    directory, _ = damaged
    change_config(directory, lambda c: c["quantization_config"].update(format_version=2, neuronmm_version="9.0"))
    with pytest.raises(NeuronMMError, match="has format 2, written by optimum-neuronmm 9.0.*Upgrade"):
        load(directory)


@pytest.mark.parametrize("leaf", ["u.weight", "v.weight"])
def test_a_factor_of_the_wrong_shape(damaged, leaf):
    directory, rewrite = damaged
    rewrite(lambda state: state.update({f"{FACTORED[4]}.{leaf}": state[f"{FACTORED[4]}.{leaf}"][:, :-1].contiguous()}))
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        load(directory)


def test_another_rank_in_the_config(damaged):
    directory, _ = damaged
    change_config(directory, lambda c: c["quantization_config"]["modules"][FACTORED[0]].update(rank=32))
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        load(directory)


def test_factors_that_the_config_does_not_list(damaged):
    directory, _ = damaged
    change_config(directory, lambda c: c["quantization_config"]["modules"].pop(FACTORED[0]))
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        load(directory)


def test_dense_weights_where_the_config_lists_factors(damaged, tiny_llama):
    directory, _ = damaged
    shutil.copyfile(tiny_llama / "model.safetensors", directory / "model.safetensors")
    with pytest.raises((RuntimeError, NeuronMMError), match="size mismatch|lacks model.layers.0.mlp"):
        load(directory)


@pytest.mark.parametrize("leaf", ["u.weight", "v.weight"])
def test_a_factor_that_is_missing_is_not_made_up(damaged, leaf):
    directory, rewrite = damaged
    rewrite(lambda state: state.pop(f"{FACTORED[5]}.{leaf}"))
    with pytest.raises(NeuronMMError, match=f"lacks {FACTORED[5]}.{leaf}.*at random.*compress the model again"):
        load(directory)


def test_a_missing_bias_is_not_made_up(quick_options, tmp_path):
    dense = save_tiny_model(tmp_path / "dense", mlp_bias=True)
    compress(dense, tmp_path / "out", NeuronMMConfig(**quick_options))
    state = load_file(tmp_path / "out" / "model.safetensors")
    del state[f"{FACTORED[0]}.v.bias"]
    save_file(state, tmp_path / "out" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NeuronMMError, match=f"lacks {FACTORED[0]}.v.bias"):
        load(tmp_path / "out")


@pytest.mark.parametrize("device_map", [None, "auto"])
def test_the_empty_weights_are_not_missed(damaged, compressed_llama, device_map):
    # Converters to other layouts drop tensors without elements.
    directory, rewrite = damaged
    rewrite(lambda state: [state.pop(f"{path}.weight") for path in FACTORED])
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("transformers").addHandler(handler)
    try:
        model = load(directory, device_map=device_map)
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert torch.equal(logits(model), logits(load(compressed_llama)))
    assert_same_tensors(dict(model.state_dict()), tensors(compressed_llama))
    assert not any("newly initialized" in message for message in messages), messages


def test_a_dense_model_is_not_compressed_on_the_way(tiny_llama):
    with pytest.raises(
        NeuronMMError, match="only loads checkpoints that are compressed already.*optimum_neuronmm.compress"
    ):
        load(tiny_llama, quantization_config=NeuronMMConfig())


def test_a_config_given_for_a_compressed_model_is_not_used(compressed_llama):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load(compressed_llama, quantization_config=NeuronMMConfig(compression_ratio=0.9))
    assert any("The `quantization_config` from the model will be used" in str(w.message) for w in caught)
    assert model.config.quantization_config.compression_ratio == 0.2
    assert torch.equal(logits(model), logits(load(compressed_llama)))


def test_other_heads(compressed_llama):
    # The decoder lies at the same path below a classification head, but not in a bare LlamaModel.
    classifier = AutoModelForSequenceClassification.from_pretrained(compressed_llama, num_labels=2)
    assert type(classifier.get_submodule(FACTORED[0])) is LowRankLinear
    with pytest.raises(NeuronMMError, match="LlamaModel does not have.*written for another model class"):
        AutoModel.from_pretrained(compressed_llama)


def test_what_transformers_asks_of_the_model(compressed_llama):
    model = load(compressed_llama)
    quantizer = model.hf_quantizer
    assert model.is_quantized is False  # so that it is trained, cast and moved as any other
    assert quantizer.is_serializable() and quantizer.is_trainable and quantizer.is_qat_trainable
    assert quantizer.is_compileable and quantizer.requires_calibration
    assert model.num_parameters() == sum(tensor.numel() for tensor in tensors(compressed_llama).values())
