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
"""Helpers: a compression up to any of its steps, and what transformers computes with the whole model, to compare with."""

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_neuronmm import NeuronMMConfig
from optimum_neuronmm.allocation import Allocation, find_projections
from optimum_neuronmm.analysis import Analysis
from optimum_neuronmm.calibration import calibration_windows
from optimum_neuronmm.families import family_of
from optimum_neuronmm.modeling import factor_tensors, replace_projections
from optimum_neuronmm.run import Run
from optimum_neuronmm.source import open_dense
from optimum_neuronmm.streaming import LayerStream
from optimum_neuronmm.workspace import Workspace


def run_of(dense: Path, output: Path, options: dict) -> Run:
    """What `compress` begins with. Close its workspace before another run of the same output."""
    config = NeuronMMConfig(**options)
    checkpoint = open_dense(dense)
    family = family_of(checkpoint.config)
    text = calibration_windows(config, AutoTokenizer.from_pretrained(dense), None)
    stream = LayerStream(checkpoint, family, torch.float32, torch.device("cpu"))
    stream.embed(text.windows[:1])
    projections = find_projections(checkpoint, family, config)
    return Run(checkpoint, projections, config, text, stream, Workspace(output, "a run"))


def analysed(dense: Path, output: Path, options: dict) -> tuple[Run, Analysis]:
    run = run_of(dense, output, options)
    analysis = Analysis(run)
    analysis.complete()
    return run, analysis


def whole(directory: Path) -> torch.nn.Module:
    """The model as transformers runs it, in float32."""
    return AutoModelForCausalLM.from_pretrained(directory, dtype="auto").to(torch.float32).eval()


@dataclass
class Observed:
    """What passes through a whole model: at its projections by path, rows of all windows; at its layers by number.

    Attributes:
        inputs, gradients: of projections, (M, K) and (M, N).
        entering, leaving: hidden states, (n, L, H).
        entering_gradients, leaving_gradients: of each window's loss.
    """

    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    entering: dict[int, torch.Tensor] = field(default_factory=dict)
    leaving: dict[int, torch.Tensor] = field(default_factory=dict)
    entering_gradients: dict[int, torch.Tensor] = field(default_factory=dict)
    leaving_gradients: dict[int, torch.Tensor] = field(default_factory=dict)


def observe(model, windows: torch.Tensor, paths: list[str], seed: int | None = None, local: bool = False) -> Observed:
    """Runs a whole model window by window, and back where a seed is given.

    Args:
        seed: of the labels, which are drawn from the model at every position. The loss is summed over the window.
        local: the gradients at projections are instead those of random directions at the output of their layer, over
            its length, of the generator `seed` + 2 layer.
    """
    layers = model.model.layers
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    noise = {}
    if local:
        for index in range(len(layers)):
            shape = (*windows.shape, model.config.hidden_size)
            noise[index] = torch.randn(shape, generator=torch.Generator().manual_seed(seed + 2 * index))
    collected = []
    for number, window in enumerate(windows.split(1)):
        inputs, outputs, entering, leaving = {}, {}, {}, {}
        hooks = [_kept(model.get_submodule(path), path, inputs, outputs) for path in paths]
        hooks += [_kept(layer, index, entering, leaving) for index, layer in enumerate(layers)]
        logits = model(input_ids=window, use_cache=False).logits[0].float()
        for hook in hooks:
            hook.remove()
        one = Observed()
        one.inputs = {path: value.detach().flatten(0, 1) for path, value in inputs.items()}
        one.entering = {index: value.detach() for index, value in entering.items()}
        one.leaving = {index: value.detach() for index, value in leaving.items()}
        if local:
            for index in noise:
                direction = noise[index][number : number + 1] / leaving[index].detach().norm(dim=-1, keepdim=True)
                own = [path for path in paths if path.startswith(f"model.layers.{index}.")]
                found = torch.autograd.grad(leaving[index], [outputs[p] for p in own], direction, retain_graph=True)
                one.gradients |= {path: value.flatten(0, 1) for path, value in zip(own, found, strict=True)}
        elif seed is not None:
            labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
            loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
            targets = [*outputs.values(), *entering.values(), *leaving.values()]
            found = list(torch.autograd.grad(loss, targets))
            for path in outputs:
                one.gradients[path] = found.pop(0).flatten(0, 1)
            for index in entering:
                one.entering_gradients[index] = found.pop(0)
            for index in leaving:
                one.leaving_gradients[index] = found.pop(0)
        collected.append(one)
    joined = Observed()
    for name in vars(joined):
        keys = getattr(collected[0], name)
        setattr(joined, name, {key: torch.cat([getattr(one, name)[key] for one in collected]) for key in keys})
    return joined


def _kept(module, key, inputs: dict, outputs: dict):
    def keep(_, args, output):
        inputs[key] = args[0]
        outputs[key] = output[0] if isinstance(output, tuple) else output

    return module.register_forward_hook(keep)


def weight_of(model, path: str) -> torch.Tensor:
    """W (K, N), in float64."""
    return model.get_submodule(path).weight.detach().T.double()


def covariance(rows: torch.Tensor, ridge: float) -> torch.Tensor:
    """E[v v^T] of rows, damped."""
    rows = rows.double()
    matrix = rows.T @ rows / len(rows)
    return matrix + ridge * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)


def expected_losses(W: torch.Tensor, X: torch.Tensor | None, g: torch.Tensor | None) -> torch.Tensor:
    """What `Decomposition.losses` must be for inputs X and gradients g: from an SVD of S^T W L."""
    M = W
    if X is not None:
        M = torch.linalg.cholesky(covariance(X, 1e-6)).T @ M
    if g is not None:
        M = M @ torch.linalg.cholesky(covariance(g, 1e-3))
    squares = torch.linalg.svdvals(M).square() * (1 if g is None else 0.5)
    return torch.stack([squares[rank:].sum() for rank in range(len(squares) + 1)])


def best_product(W: torch.Tensor, X: torch.Tensor, g: torch.Tensor, rank: int) -> torch.Tensor:
    """The U V of the least expected loss."""
    S, L = torch.linalg.cholesky(covariance(X, 1e-6)), torch.linalg.cholesky(covariance(g, 1e-3))
    U, values, Vh = torch.linalg.svd(S.T @ W @ L, full_matrices=False)
    return torch.linalg.inv(S.T) @ (U[:, :rank] * values[:rank]) @ Vh[:rank] @ torch.linalg.inv(L)


def with_gradients(run: Run) -> torch.Tensor:
    """The calibration windows on which gradients are measured: at even distances."""
    total = len(run.text.windows)
    count = min(run.config.gradient_samples, total)
    return run.text.windows[[number * total // count for number in range(count)]]


def expected_predictions(model, run: Run) -> dict[str, torch.Tensor]:
    """What `Analysis.losses` must be with gradients: `expected_losses`, corrected by what is measured of each kind.

    That is of held-out text, at half of the largest rank.
    """
    paths, local = list(run.projections.shapes), run.config.decomposition == "two_sided_local"
    inputs = observe(model, run.text.windows, paths).inputs
    gradients = observe(model, with_gradients(run), paths, run.seed, local).gradients
    held_out = observe(model, run.text.held_out, paths, run.seed + 1, local)
    losses, measured, predicted = {}, {}, {}
    for path in paths:
        W, X, g = weight_of(model, path), inputs[path], gradients[path]
        losses[path] = expected_losses(W, X, g)
        rank, kind = max(1, run.projections.shapes[path].largest_rank // 2), path.rpartition(".")[2]
        errors = held_out.inputs[path].double() @ (W - best_product(W, X, g, rank))
        products = (errors * held_out.gradients[path].double()).sum(1)
        measured[kind] = measured.get(kind, 0.0) + 0.5 * products.square().mean().item()
        predicted[kind] = predicted.get(kind, 0.0) + losses[path][rank].item()
    kinds = {path: path.rpartition(".")[2] for path in paths}
    return {path: value * measured[kinds[path]] / predicted[kinds[path]] for path, value in losses.items()}


def with_factors(dense: Path, analysis: Analysis, allocation: Allocation) -> torch.nn.Module:
    """The whole model of an allocation, in float32."""
    model = whole(dense)
    biases = {path: model.get_submodule(path).bias for path in allocation.modules}
    replace_projections(model, allocation.modules)
    for layer in range(allocation.projections.layers):
        for attribute, (U, V) in analysis.factors(layer, allocation.factored(layer)).items():
            path = allocation.projections.path(layer, attribute)
            tensors = factor_tensors(path, U, V, biases[path], U.dtype)
            state = {name.removeprefix(f"{path}."): tensor.detach() for name, tensor in tensors.items()}
            model.get_submodule(path).load_state_dict(state)
    return model


def sharpened(directory: Path) -> Path:
    """Has a random model be sure of what it says, so that a change of it shows in its perplexity."""
    weights = load_file(directory / "model.safetensors")
    head = "lm_head.weight" if "lm_head.weight" in weights else "model.embed_tokens.weight"
    weights[head] *= 10
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@torch.no_grad()
def divergence(reference: torch.nn.Module, model: torch.nn.Module, windows: torch.Tensor) -> float:
    """Mean KL(reference || model) of all predictions of tokens of the windows, in float64."""
    p, q = (m(input_ids=windows, use_cache=False).logits[:, :-1].double().log_softmax(-1) for m in (reference, model))
    return (p.exp() * (p - q)).sum(-1).mean().item()


def result_of(output: Path) -> dict:
    """What must be equal of two runs: the weights, the settings, and which files there are."""
    if not output.exists():
        return {}
    exact = {name: sha256((output / name).read_bytes()).hexdigest() for name in ("model.safetensors", "config.json")}
    return {**exact, "files": sorted(path.name for path in output.iterdir())}
