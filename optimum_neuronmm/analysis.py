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
"""From a dense model and calibration text to the factors of every rank, and their predicted losses.

One layer is in memory at a time. A first walk goes forward and collects what enters the projections; where gradients are
wanted, a second goes backward from the loss, with the hidden states that the first one left on disk. A layer is
decomposed as soon as its statistics are whole, and stored at the largest rank that saves parameters: the factors of a
smaller rank are the first columns and rows of these.
"""

from collections import defaultdict
from functools import cached_property

import torch
from safetensors import safe_open
from torch import nn
from tqdm.auto import tqdm

from .decomposition import Decomposition, Moments, decompose
from .modeling import rounded
from .ranks import Shape
from .run import Run
from .statistics import GradientMoments, InputMoments, SecondOrderLoss
from .streaming import collect_gradients, collect_outputs


_FORWARD, _BACKWARD = "activations", "gradients"


class Analysis:
    """The statistics and decompositions of a model, in a workspace.

    It keeps `factors-{i}` and `losses-{i}` of every layer i, and what its walks need to be resumed. Nothing here depends on
    the ratio or the allocation.
    """

    def __init__(self, run: Run):
        self._run, self._stream, self._workspace, self._projections = run, run.stream, run.workspace, run.projections
        self._decomposition = run.config.decomposition
        self._layers = run.projections.layers

    def complete(self) -> None:
        """Does what is not done yet."""
        if self._decomposition == "svd":
            self._decompose_weights()
            return
        self._walk_forward()
        if self._decomposition == "two_sided":
            self._walk_backward()
        self._workspace.remove(f"hidden-{self._layers}")

    @cached_property
    def losses(self) -> dict[str, torch.Tensor]:
        """Predicted loss of every rank, by module path. Projections without a rank are left out.

        `Decomposition.losses`, with gradients times the factor by which the measured loss exceeds it (`_check`): one for
        all projections of a kind, because that of a single one is too uncertain to choose its rank by.
        """
        measured: dict[str, float] = defaultdict(float)
        predicted: dict[str, float] = defaultdict(float)
        for path, entry in self._entries.items():
            if "measured" in entry:
                kind = path.rpartition(".")[2]
                measured[kind] += entry["measured"].item()
                predicted[kind] += entry["losses"][_check_rank(self._projections.shapes[path])].item()
        factors = {kind: measured[kind] / predicted[kind] for kind in measured if predicted[kind] > 0}
        return {
            path: entry["losses"] * factors.get(path.rpartition(".")[2], 1.0) for path, entry in self._entries.items()
        }

    def predictions(self, path: str, rank: int) -> dict[str, float]:
        """What the report says of a projection at a rank, but for what is measured."""
        losses, ridge = self.losses[path], self._entries[path]["ridge"]
        relative = (losses[rank] / losses[0]).sqrt().item() if losses[0] > 0 else 0.0
        loss = {"predicted_loss": losses[rank].item()} if self._run.config.is_two_sided else {}
        return {"predicted_error": relative, **loss, "ridge": ridge.item()}

    def factors(self, layer: int, ranks: dict[str, int]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """U (K, r) and V (r, N) of projections of a layer, by attribute, in the dtype that they will be stored in.

        Args:
            ranks: `{attribute: rank}`.
        """
        factors = {}
        with safe_open(self._workspace.path / f"factors-{layer}.safetensors", framework="pt") as file:
            for attribute, rank in ranks.items():
                Ut, V = (file.get_slice(f"{attribute}.{name}")[:rank].clone() for name in ("u", "v"))
                factors[attribute] = (Ut.T, V)
        return factors

    @cached_property
    def _entries(self) -> dict[str, dict[str, torch.Tensor]]:
        entries: dict[str, dict[str, torch.Tensor]] = {}
        for layer in range(self._layers):
            for name, tensor in self._workspace.load(f"losses-{layer}").items():
                attribute, _, key = name.rpartition(".")
                entries.setdefault(self._projections.path(layer, attribute), {})[key] = tensor
        return entries

    def _decompose_weights(self) -> None:
        with self._progress("Decomposing layers", self._workspace.done(_FORWARD)) as progress:
            for layer in range(progress.n, self._layers):
                with self._stream.layer(layer):
                    self._store(layer, self._decompose(layer, {}))
                self._workspace.finish(_FORWARD, layer + 1)
                progress.update()

    def _walk_forward(self) -> None:
        workspace, done = self._workspace, self._workspace.done(_FORWARD)
        if done == self._layers:
            return
        text = self._run.text
        if done:
            states = workspace.load(f"hidden-{done}")
        else:
            states = {"calibration": self._stream.embed(text.windows), "held_out": self._stream.embed(text.held_out)}
        with self._progress("Measuring activations", done) as progress:
            for layer in range(done, self._layers):
                with self._stream.layer(layer):
                    self._visit_forward(layer, states)
                workspace.save(f"hidden-{layer + 1}", states)
                workspace.finish(_FORWARD, layer + 1)
                workspace.remove(f"hidden-{layer}")
                progress.update()

    def _visit_forward(self, layer: int, states: dict[str, torch.Tensor]) -> None:
        """Advances the hidden states, and decomposes the layer or keeps what the backward walk needs to."""
        entering = self._chosen(states)
        readers = self._readers(layer)
        collected = {name: InputMoments(linear) for name, linear in readers.items()}
        with collect_outputs(readers, lambda name, *rows: collected[name].add(*rows)):
            self._stream.advance(layer, states["calibration"])
        if self._run.config.is_two_sided:
            self._stream.advance(layer, states["held_out"])
        moments = {name: entry.moments() for name, entry in collected.items()}
        if self._decomposition == "two_sided":
            tensors = {f"{name}.inputs": entry.inputs.cpu() for name, entry in moments.items()}
            squares = {name: entry.inputs_mean_square for name, entry in moments.items()}
            self._workspace.save(f"moments-{layer}", tensors)
            self._workspace.write_json(f"moments-{layer}.json", squares)
            self._workspace.save(f"entering-{layer}", entering)
            return
        moments = self._shared(layer, moments)
        if self._decomposition == "two_sided_local":
            seed = self._run.seed + 2 * layer
            leaving = self._chosen(states).items()
            gradients = {name: _local_gradients(hidden, seed + i) for i, (name, hidden) in enumerate(leaving)}
            self._decompose_with_gradients(layer, moments, entering, gradients)
        else:
            self._store(layer, self._decompose(layer, moments))

    def _chosen(self, states: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A copy of the states of the windows on which gradients are measured."""
        return {"calibration": states["calibration"][self._run.with_gradients], "held_out": states["held_out"].clone()}

    def _walk_backward(self) -> None:
        workspace, layers = self._workspace, self._layers
        done = workspace.done(_BACKWARD)
        if done == layers:
            return
        if done:
            gradients = workspace.load(f"gradients-{layers - done}")
        else:
            windows = {
                "calibration": self._run.text.windows[self._run.with_gradients],
                "held_out": self._run.text.held_out,
            }
            leaving = self._chosen(workspace.load(f"hidden-{layers}"))
            gradients = {
                name: self._stream.loss_gradients(hidden, windows[name], self._run.seed + i)
                for i, (name, hidden) in enumerate(leaving.items())
            }
        with self._progress("Measuring gradients", done) as progress:
            for layer in reversed(range(layers - done)):
                entering = workspace.load(f"entering-{layer}")
                with self._stream.layer(layer):
                    moments = self._shared(layer, self._load_moments(layer))
                    self._decompose_with_gradients(layer, moments, entering, gradients)
                workspace.save(f"gradients-{layer}", gradients)
                workspace.finish(_BACKWARD, layers - layer)
                for name in (f"gradients-{layer + 1}", f"entering-{layer}", f"moments-{layer}"):
                    workspace.remove(name)
                progress.update()
        workspace.remove("gradients-0")

    def _decompose_with_gradients(
        self,
        layer: int,
        moments: dict[str, Moments],
        entering: dict[str, torch.Tensor],
        gradients: dict[str, torch.Tensor],
    ) -> None:
        """Carries `gradients` back through the layer, in place, and decomposes it by those of the calibration text."""
        linears = self._linears(layer)
        collected = {name: GradientMoments(linear) for name, linear in linears.items()}
        with collect_gradients(linears, lambda name, _, rows: collected[name].add(rows)):
            self._stream.retreat(layer, entering["calibration"], gradients["calibration"])
        results = self._decompose(layer, {name: entry.added_to(moments[name]) for name, entry in collected.items()})
        self._store(layer, results, self._check(layer, results, entering["held_out"], gradients["held_out"]))

    def _check(
        self, layer: int, results: dict[str, Decomposition], entering: torch.Tensor, gradients: torch.Tensor
    ) -> dict[str, float]:
        """The measured loss of each projection at `_check_rank`, on held-out text. Carries `gradients` back, in place.

        The decomposition predicts less. It takes a token's inputs and gradients as independent, and knows no other text:
        what either neglects is more in one kind of projection than in another.
        """
        losses = {}
        for name, linear in self._linears(layer).items():
            rank = _check_rank(self._projections.shapes[self._projections.path(layer, name)])
            losses[name] = SecondOrderLoss(linear, *results[name].factors(rank))
        with collect_gradients(self._linears(layer), lambda name, *rows: losses[name].add(*rows)):
            self._stream.retreat(layer, entering, gradients)
        return {name: loss.mean() for name, loss in losses.items()}

    def _load_moments(self, layer: int) -> dict[str, Moments]:
        squares = self._workspace.read_json(f"moments-{layer}.json")
        tensors = self._workspace.load(f"moments-{layer}")
        device = self._stream.device
        return {name: Moments(tensors[f"{name}.inputs"].to(device), square) for name, square in squares.items()}

    def _decompose(self, layer: int, moments: dict[str, Moments]) -> dict[str, Decomposition]:
        return {
            name: decompose(linear.weight.detach().T, moments.get(name), self._projections.path(layer, name))
            for name, linear in self._linears(layer).items()
        }

    def _store(self, layer: int, results: dict[str, Decomposition], measured: dict[str, float] | None = None) -> None:
        factors: dict[str, torch.Tensor] = {}
        losses: dict[str, torch.Tensor] = {}
        for name, result in results.items():
            path = self._projections.path(layer, name)
            dtype = self._run.stored_dtype(path)
            U, V = result.factors(self._projections.shapes[path].largest_rank)
            factors[f"{name}.u"] = rounded(f"{path}.u.weight", U.T, dtype).cpu()
            factors[f"{name}.v"] = rounded(f"{path}.v.weight", V, dtype).cpu()
            losses[f"{name}.losses"] = result.losses.cpu()
            losses[f"{name}.ridge"] = torch.tensor(result.ridge, dtype=torch.float64)
            if measured:
                losses[f"{name}.measured"] = torch.tensor(measured[name], dtype=torch.float64)
        self._workspace.save(f"factors-{layer}", factors)
        self._workspace.save(f"losses-{layer}", losses)

    def _linears(self, layer: int) -> dict[str, nn.Linear]:
        """The projections of a layer that some aligned rank would make smaller, by attribute."""
        attributes = self._projections.reducible(layer, self._run.config.block_size)
        return {name: self._stream.model.get_submodule(self._projections.path(layer, name)) for name in attributes}

    def _readers(self, layer: int) -> dict[str, nn.Linear]:
        """Of the projections, one of each whose moments are the same."""
        linears = self._linears(layer)
        return {name: linears[name] for name in self._reader_of(linears).values()}

    def _shared(self, layer: int, moments: dict[str, Moments]) -> dict[str, Moments]:
        """The moments of all projections from those of their readers."""
        return {name: moments[reader] for name, reader in self._reader_of(self._linears(layer)).items()}

    def _reader_of(self, linears: dict[str, nn.Linear]) -> dict[str, str]:
        """Maps each projection to the one that measures for it: where the inputs count, the first that reads the same."""
        readers = {}
        for group in self._projections.family.input_groups(linears):
            wide = [name for name in group if linears[name].in_features <= linears[name].out_features]
            readers |= {name: wide[0] if name in wide else name for name in group}
        return readers

    def _progress(self, what: str, done: int) -> tqdm:
        return tqdm(total=self._layers, initial=done, desc=what, unit="layer")


def _check_rank(shape: Shape) -> int:
    """A rank as it is typically chosen."""
    return max(1, shape.dense_parameters // (2 * (shape.K + shape.N)))  # half of what would save nothing


def _local_gradients(leaving: torch.Tensor, seed: int) -> torch.Tensor:
    """Random gradients (n, L, H) whose squared product with a change of the hidden states is its relative square.

    They stand for the gradients of the loss where a walk back through the whole model cannot be afforded.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(leaving.shape, generator=generator)
    return (noise / leaving.float().norm(dim=-1, keepdim=True).clamp_min(1e-12)).to(leaving)
