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
"""The plan of a model: ranks, memory, kernels and predicted times, dense and at some compression ratios."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tqdm.auto import tqdm

from ..allocation import Projections, allocate_uniform
from ..configuration import NeuronMMConfig
from ..errors import NeuronMMError
from ..kernels import KernelError
from ..kernels.latency import CHECKED
from ..neuron.form import EXCHANGE_SECONDS, Form, check_heads, dense_form, forms_of
from ..neuron.selection import DENSE_LAYERS, Candidate, no_kernel, rank_kernels
from ..ranks import DENSE, Shape, removed_fraction
from .deployment import Deployment
from .even import allocate_evenly
from .interpolation import between, chosen
from .model import Model
from .roofline import kv_cache, mlp_operation, operations, other_weights
from .step import DECODE, PREFILL, Mlps, Phase


UNIFORM = "ranks are uniform, by the paper's formula, and remove what they are rounded to"
EVEN = (
    "ranks are spread evenly over the layers: those of an export, chosen by loss, remove about as many parameters, and which "
    "layer has which depends on the weights"
)
NOT_PREDICTED = "what the compiler makes of plain matrix products (--neuronmm_kernel compiler) is not predicted: its lowering is not known"
BOUNDS = (
    "bounds count products, weights and KV cache, one operation after the other: norms, softmax, activations through HBM, "
    "sampling and launches come on top"
)
EXCHANGES = (
    f"an exchange between ranks is assumed to take {EXCHANGE_SECONDS * 1e6:.0f} us whatever its size, so that a prefill with "
    "tensor parallelism takes longer"
)
INTERPOLATED = (
    "{} of the {} different MLPs of the compressed model are predicted: the times of the others are interpolated between "
    "them, by parameters"
)
ALLOCATIONS = {"even": EVEN, "uniform": UNIFORM}
BEYOND = (
    "{} {}: MLPs are predicted to be {:.2f} x as fast, and what was removed accounts for {:.2f} x: the dense kernel is further from "
    "its floor"
)
EQUAL_RANKS = "the ratios {} give the same ranks, which are rounded to the block size: a smaller --neuronmm_block_size tells them apart"


@dataclass(frozen=True)
class Variant:
    """The model at one compression ratio, or dense.

    Attributes:
        label: how tables name it. ratio: that was asked for; None for the dense model and for one that is compressed already.
        ranks: attribute of the MLP -> rank or DENSE of every layer.
        removed: the fraction of the chosen projections' parameters that is removed.
        parameters: of the whole model. mlp_parameters: of its MLPs, biases not.
        weights: bytes that one rank holds. cache: bytes of its KV cache.
        prefill, decode: predicted and bounded.
    """

    label: str
    ratio: float | None
    ranks: dict[str, list[int | None]]
    removed: float
    parameters: int
    mlp_parameters: int
    weights: int
    cache: int
    prefill: Phase
    decode: Phase

    @property
    def phases(self) -> tuple[Phase, Phase]:
        return self.prefill, self.decode


@dataclass(frozen=True)
class ModelPlan:
    """What was asked, and the variants of the model; the dense one comes first.

    Attributes:
        allocation: how the ranks of a ratio were found, "even" or "uniform"; None where no ratio was asked for.
    """

    model: Model
    deployment: Deployment
    variants: tuple[Variant, ...]
    layout: str
    allocation: str | None = None

    @property
    def dense(self) -> Variant:
        return self.variants[0]

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures has to know, each once."""
        notes = [note for variant in self.variants for phase in variant.phases for note in phase.notes]
        notes += [CHECKED, DENSE_LAYERS, BOUNDS, NOT_PREDICTED]
        notes += [ALLOCATIONS[self.allocation]] if self.allocation else []
        notes += [*self._equal_ranks(), *self._interpolated(), *self._beyond_the_floor()]
        notes += [EXCHANGES] if self.deployment.tensor_parallel_size > 1 else []
        most = getattr(self.model.config, "max_position_embeddings", None)
        if most and self.deployment.sequence_length > most:
            notes.append(
                f"the model was made for {most} positions, and {self.deployment.sequence_length} were asked for"
            )
        return list(dict.fromkeys(notes))

    def variant(self, label: str) -> Variant:
        """The variant of a ratio, as text, or `dense`.

        Raises:
            NeuronMMError: there is none.
        """
        return self.variants[find_label(label, [(variant.label, variant.ratio) for variant in self.variants])]

    def _equal_ranks(self) -> list[str]:
        found: dict[str, list[str]] = {}
        for variant in self.variants:
            if variant.ratio is not None:
                found.setdefault(str(variant.ranks), []).append(variant.label)
        return [EQUAL_RANKS.format(" and ".join(labels)) for labels in found.values() if len(labels) > 1]

    def _beyond_the_floor(self) -> list[str]:
        """Speed-ups that are not of the compression alone."""
        found = []
        for variant in self.variants[1:]:
            for dense, phase in zip(self.dense.phases, variant.phases, strict=True):
                if dense.refusal or phase.refusal:
                    continue
                speedup, allowed = dense.kernel_seconds / phase.kernel_seconds, dense.mlp_floor / phase.mlp_floor
                if speedup > max(1.0, 1.05 * allowed):
                    found.append(BEYOND.format(variant.label, phase.name, speedup, allowed))
        return found

    def _interpolated(self) -> list[str]:
        mlps = {}  # of the compressed model, whose forms are as many as its ranks
        for phase in self.variants[-1].phases:
            for found in phase.mlps:
                mlps[found.form] = mlps.get(found.form, False) or found.interpolated
        return [INTERPOLATED.format(len(mlps) - sum(mlps.values()), len(mlps))] if any(mlps.values()) else []


def labels_of(model: Model, ratios: Sequence[float]) -> list[tuple[str, float | None]]:
    """How the variants of a plan will be called, and their ratios."""
    compressed = [("as compressed", None)] if model.modules else []
    return [("dense", None), *compressed, *((str(ratio), ratio) for ratio in dict.fromkeys(ratios))]


def find_label(label: str, labels: Sequence[tuple[str, float | None]]) -> int:
    """The place of a ratio, as text, or of another variant among `labels_of`.

    Raises:
        NeuronMMError: it is not there.
    """
    for index, (name, ratio) in enumerate(labels):
        if label == name or ratio is not None and _number(label) == ratio:
            return index
    known = ", ".join(name for name, _ in labels)
    raise NeuronMMError(f"there is no ratio {label!r} in this plan: choose one of {known}.")


def plan_model(
    model: Model,
    deployment: Deployment,
    ratios: Sequence[float] = (),
    *,
    layout: str = "auto",
    **options,
) -> ModelPlan:
    """Plans the dense model, then one for each ratio, or what the model is already compressed to.

    Args:
        ratios: fractions of the chosen projections' parameters to remove; none for a model that is compressed.
        layout: of the factors over the ranks, see `NeuronMMConfig`.
        options: of `NeuronMMConfig` that decide ranks: `block_size`, `projections`, `allocation`, `alpha`.

    Raises:
        NeuronMMError: an option is wrong, nothing would be compressed, or no kernel fits any step of any variant.
    """
    check_heads(model.config, deployment.tensor_parallel_size)
    if model.modules and (ratios or options):
        given = ["ratios"] if ratios else list(options)
        raise NeuronMMError(
            f"{model.name} is compressed already: plan it without {', '.join(given)}, or plan the dense model."
        )
    if "alpha" in options and options.get("allocation") != "uniform":
        raise NeuronMMError(
            "alpha rounds uniform ranks, and these are not: add allocation 'uniform', or leave it out."
        )
    allocation, choices = None, []
    for label, ratio in labels_of(model, ratios):
        if ratio is None:
            modules = {} if label == "dense" else model.modules
            choices.append((label, None, modules, {path.rpartition(".")[2] for path in modules}))
            continue
        config = NeuronMMConfig(compression_ratio=ratio, layout=layout, **options)
        projections = _projections(model, config)
        allocation, allocate = ("even", allocate_evenly) if config.allocates_by_loss else ("uniform", allocate_uniform)
        modules = allocate(projections, config).modules
        choices.append((label, ratio, modules, set(projections.attributes)))
    layers = [_forms(model, deployment, modules, layout) for _, _, modules, _ in choices]
    predictions = _predict_all(dict.fromkeys(form for forms in layers for form in chosen(forms)), deployment)
    variants = [
        _variant(model, deployment, forms, predictions, *choice) for forms, choice in zip(layers, choices, strict=True)
    ]
    _check_any(variants)
    return ModelPlan(model, deployment, tuple(variants), layout, allocation)


_Predictions = dict[tuple[Form, int], tuple[list[Candidate], dict[str, KernelError]]]


def _predict_all(forms: Iterable[Form], on: Deployment) -> _Predictions:
    """The ways to compute each form, at the rows of each phase."""
    found: _Predictions = {}
    wanted = dict.fromkeys((form, rows) for form in sorted(forms, key=str) for rows in _rows(on).values())
    for form, rows in tqdm(wanted, desc="Predicting", unit="MLP", leave=False, disable=None):
        found[form, rows] = _predict(form, rows, on)
    return found


def _predict(form: Form, rows: int, on: Deployment) -> tuple[list[Candidate], dict[str, KernelError]]:
    return rank_kernels(form, rows, on.torch_dtype, on.kind, on.cores)


def _check_any(variants: Sequence[Variant]) -> None:
    """Refuses a plan without a single time."""
    phases = [phase for variant in variants for phase in variant.phases]
    if all(phase.refusal for phase in phases):
        mlps = next(mlps for mlps in phases[0].mlps if not mlps.candidates)
        reasons = [f"{kernel}: {reason}" for kernel, reason in mlps.refusals.items()]
        raise NeuronMMError(f"there is {no_kernel(mlps.form, phases[0].rows, reasons)}")


def _rows(deployment: Deployment) -> dict[str, int]:
    """Rows of hidden states in each phase."""
    batch = deployment.batch_size
    return {PREFILL: batch * deployment.sequence_length, DECODE: batch}


def _variant(
    model: Model,
    deployment: Deployment,
    forms: list[Form],
    predictions: _Predictions,
    label: str,
    ratio: float | None,
    modules: dict[str, dict],
    attributes: set[str],
) -> Variant:
    ranks, counts = _ranks_by_attribute(model, modules), Counter(forms)
    shapes = {f"{layer} {name}": shape for name, shape in model.projections.items() for layer in range(model.layers)}
    by_name = {f"{layer} {name}": rank for name, found in ranks.items() for layer, rank in enumerate(found)}
    mlp_parameters = sum(shape.parameters(by_name[name]) for name, shape in shapes.items())
    compressed = {name: shape for name, shape in shapes.items() if name.partition(" ")[2] in attributes}
    mlp_weights = sum(count * form.parameters for form, count in counts.items()) * deployment.itemsize

    def phase(name: str) -> Phase:
        rows = _rows(deployment)[name]
        mlps = []
        for form, count in counts.items():
            found = predictions.get((form, rows))
            near = [] if found else between(form, {f: ways for (f, n), (ways, _) in predictions.items() if n == rows})
            candidates, refusals = (near, {}) if near else found or _predict(form, rows, deployment)
            bound = mlp_operation(form, count, rows, deployment)
            mlps.append(Mlps(form, count, bound, tuple(candidates), refusals, bool(near)))
        return Phase(name, rows, tuple(mlps), tuple(operations(model, deployment, prefill=name == PREFILL)))

    return Variant(
        label=label,
        ratio=ratio,
        ranks=ranks,
        removed=removed_fraction(compressed, by_name) if compressed else 0.0,
        parameters=model.parameters - model.mlp_parameters + mlp_parameters,
        mlp_parameters=mlp_parameters,
        weights=mlp_weights + other_weights(model, deployment),
        cache=kv_cache(model, deployment),
        prefill=phase(PREFILL),
        decode=phase(DECODE),
    )


def _forms(model: Model, deployment: Deployment, modules: dict[str, dict], layout: str) -> list[Form]:
    """Of every layer, laid out over the ranks as an export does it."""
    tp = deployment.tensor_parallel_size
    dense = dense_form(model.config, tp)
    bandwidth = deployment.bandwidth / deployment.itemsize  # by which an export chooses
    return [form or dense for form in forms_of(model.config, modules, tp, layout, bandwidth)]


def _projections(model: Model, config: NeuronMMConfig) -> Projections:
    attributes = model.family.selected(config.projections)
    shapes: dict[str, Shape] = {
        model.family.projection_path(layer, attribute): model.projections[attribute]
        for layer in range(model.layers)
        for attribute in attributes
    }
    return Projections(model.family, model.layers, attributes, shapes)


def _ranks_by_attribute(model: Model, modules: dict[str, dict]) -> dict[str, list[int | None]]:
    return {
        attribute: [
            modules.get(model.family.projection_path(layer, attribute), {}).get("rank", DENSE)
            for layer in range(model.layers)
        ]
        for attribute in model.projections
    }


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
