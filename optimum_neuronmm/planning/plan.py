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
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm.auto import tqdm

from ..allocation import Projections, allocate_uniform
from ..configuration import NeuronMMConfig
from ..errors import NeuronMMError
from ..kernels.latency import CHECKED, Prediction
from ..neuron.form import EXCHANGE_SECONDS, Form, check_heads, dense_form, forms_of
from ..neuron.program import FEW_ROWS, SEPARATE
from ..neuron.selection import Candidate, no_kernel, predict_calls, rank_kernels
from ..ranks import DENSE, Shape, removed_fraction
from .deployment import Deployment
from .model import Model
from .roofline import Operation, kv_cache, operations, other_weights


PREFILL, DECODE = "prefill", "decode"
UNIFORM = "ranks are uniform, by the paper's formula: those chosen by loss depend on the weights, and remove as many parameters"
NOT_PREDICTED = "what the compiler makes of plain matrix products (--neuronmm_kernel compiler) is not predicted: its lowering is not known"
BOUNDS = (
    "bounds count products, weights and KV cache, one operation after the other: norms, softmax, activations through HBM, "
    "sampling and launches come on top"
)
SEPARATELY = "with separate products of few rows, the compiler lowers the product of gate and up: that is not predicted, and comes on top"
EXCHANGES = (
    f"an exchange between ranks is assumed to take {EXCHANGE_SECONDS * 1e6:.0f} us whatever its size, so that a prefill with "
    "tensor parallelism takes longer"
)


@dataclass(frozen=True)
class Mlps:
    """The MLPs of one form in a step.

    Attributes:
        form: of each. count: of layers that have it.
        candidates: ways to compute one, fastest first.
        refusals: kernel -> why it cannot be used.
    """

    form: Form
    count: int
    candidates: tuple[Candidate, ...]
    refusals: dict[str, str]

    @property
    def best(self) -> Candidate:
        return self.candidates[0]

    @property
    def seconds(self) -> float:
        """Predicted for one layer, with its exchanges, whose time is assumed."""
        return self.best.prediction.seconds + self.form.collectives * EXCHANGE_SECONDS

    def trace(self) -> Prediction:
        """The prediction of the best with the events of its timeline."""
        return predict_calls(self.best.calls, record=True)


@dataclass(frozen=True)
class Phase:
    """One step of the model: a prefill (its time bounds TTFT) or the decoding of a token (TPOT).

    Attributes:
        name: PREFILL or DECODE. rows: of hidden states.
        mlps: predicted. operations: everything else, as bounds.
    """

    name: str
    rows: int
    mlps: tuple[Mlps, ...]
    operations: tuple[Operation, ...]

    @property
    def mlp_seconds(self) -> float:
        """Predicted for all layers."""
        return sum(mlp.count * mlp.seconds for mlp in self.mlps)

    @property
    def mlp_floor(self) -> float:
        """Seconds that no schedule of the same kernels can beat, all layers."""
        exchanges = sum(mlp.count * mlp.form.collectives for mlp in self.mlps) * EXCHANGE_SECONDS
        return sum(mlp.count * mlp.best.prediction.floor for mlp in self.mlps) + exchanges

    @property
    def mlp_flops(self) -> int:
        """Of one core, transposes apart."""
        return sum(mlp.count * mlp.best.prediction.flops for mlp in self.mlps)

    @property
    def mlp_bound_by(self) -> str:
        """The engine that works longest, in all layers together."""
        busy = Counter()
        for mlp in self.mlps:
            for engine, seconds in mlp.best.prediction.busy.items():
                busy[engine] += mlp.count * seconds
        return max(busy, key=busy.get)

    @property
    def rest_seconds(self) -> float:
        """A bound of everything that is not an MLP."""
        return sum(operation.seconds for operation in self.operations)

    @property
    def seconds(self) -> float:
        """A bound of the whole step, with MLPs as predicted."""
        return self.mlp_seconds + self.rest_seconds

    @property
    def floor(self) -> float:
        """A bound of the whole step, with MLPs at their floor too."""
        return self.mlp_floor + self.rest_seconds

    @property
    def bound_by(self) -> str:
        """The part that takes longest, and what bounds that."""
        longest = max(self.operations, key=lambda operation: operation.seconds)
        if self.mlp_seconds >= longest.seconds:
            return f"MLP ({self.mlp_bound_by})"
        return f"{longest.name} ({longest.bound_by})"

    @property
    def notes(self) -> list[str]:
        """Of the predictions: why one is void, or outside of what the model was checked on."""
        notes = [note for mlp in self.mlps for note in mlp.best.prediction.notes]
        if self.rows <= FEW_ROWS and any(mlp.best.kernel == SEPARATE for mlp in self.mlps):
            notes.append(SEPARATELY)
        return list(dict.fromkeys(notes))


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
    """What was asked, and the variants of the model; the dense one comes first."""

    model: Model
    deployment: Deployment
    variants: tuple[Variant, ...]
    layout: str

    @property
    def dense(self) -> Variant:
        return self.variants[0]

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures has to know, each once."""
        notes = [note for variant in self.variants for phase in variant.phases for note in phase.notes]
        notes += [CHECKED, BOUNDS, NOT_PREDICTED]
        notes += [UNIFORM] if any(variant.ratio is not None for variant in self.variants) else []
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
        for variant in self.variants:
            if label == variant.label or variant.ratio is not None and _number(label) == variant.ratio:
                return variant
        known = ", ".join(variant.label for variant in self.variants)
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
        options: of `NeuronMMConfig` that decide uniform ranks: `block_size`, `alpha`, `projections`.

    Raises:
        NeuronMMError: an option is wrong, nothing would be compressed, or no kernel fits a shape.
    """
    check_heads(model.config, deployment.tensor_parallel_size)
    if model.modules and ratios:
        raise NeuronMMError(f"{model.name} is compressed already: plan it without ratios, or plan the dense model.")
    chosen: list[tuple[str, float | None, dict[str, dict], set[str]]] = [("dense", None, {}, set())]
    if model.modules:
        chosen.append(("as compressed", None, model.modules, _attributes(model)))
    for ratio in dict.fromkeys(ratios):
        config = NeuronMMConfig(compression_ratio=ratio, allocation="uniform", layout=layout, **options)
        projections = _projections(model, config)
        modules = allocate_uniform(projections, config).modules
        chosen.append((f"{ratio:g}", ratio, modules, set(projections.attributes)))
    layers = [_forms(model, deployment, modules, layout) for _, _, modules, _ in chosen]
    ranked = _ranked({form for forms in layers for form in forms}, deployment)
    variants = (
        _variant(model, deployment, forms, ranked, *choice) for forms, choice in zip(layers, chosen, strict=True)
    )
    return ModelPlan(model, deployment, tuple(variants), layout)


_Ranked = dict[tuple[Form, int], tuple[list[Candidate], dict[str, str]]]


def _ranked(forms: set[Form], on: Deployment) -> _Ranked:
    """The ways to compute each form, at the rows of each phase."""
    found: _Ranked = {}
    wanted = dict.fromkeys((form, rows) for form in sorted(forms, key=str) for rows in _rows(on).values())
    for form, rows in tqdm(wanted, desc="Predicting", unit="MLP", leave=False, disable=None):
        candidates, refusals = rank_kernels(form, rows, on.torch_dtype, on.kind, on.cores)
        if not candidates:
            reasons = [f"{kernel}: {reason}" for kernel, reason in refusals.items()]
            raise NeuronMMError(f"there is {no_kernel(form, rows, reasons)}")
        found[form, rows] = candidates, refusals
    return found


def _rows(deployment: Deployment) -> dict[str, int]:
    """Rows of hidden states in each phase."""
    batch = deployment.batch_size
    return {PREFILL: batch * deployment.sequence_length, DECODE: batch}


def _variant(
    model: Model,
    deployment: Deployment,
    forms: list[Form],
    ranked: _Ranked,
    label: str,
    ratio: float | None,
    modules: dict[str, dict],
    attributes: set[str],
) -> Variant:
    ranks, counts = _ranks(model, modules), Counter(forms)
    shapes = {f"{layer} {name}": shape for name, shape in model.projections.items() for layer in range(model.layers)}
    by_name = {f"{layer} {name}": rank for name, found in ranks.items() for layer, rank in enumerate(found)}
    mlp_parameters = sum(shape.parameters(by_name[name]) for name, shape in shapes.items())
    chosen = {name: shape for name, shape in shapes.items() if name.partition(" ")[2] in attributes}
    mlp_weights = sum(count * form.parameters for form, count in counts.items()) * deployment.itemsize

    def phase(name: str) -> Phase:
        rows = _rows(deployment)[name]
        mlps = []
        for form, count in counts.items():
            candidates, refusals = ranked[form, rows]
            mlps.append(Mlps(form, count, tuple(candidates), refusals))
        return Phase(name, rows, tuple(mlps), tuple(operations(model, deployment, prefill=name == PREFILL)))

    return Variant(
        label,
        ratio,
        ranks,
        removed_fraction(chosen, by_name) if chosen else 0.0,
        model.parameters - model.mlp_parameters + mlp_parameters,
        mlp_parameters,
        mlp_weights + other_weights(model, deployment),
        kv_cache(model, deployment),
        phase(PREFILL),
        phase(DECODE),
    )


def _forms(model: Model, deployment: Deployment, modules: dict[str, dict], layout: str) -> list[Form]:
    """Of every layer, laid out over the ranks as an export does it."""
    tp = deployment.tensor_parallel_size
    dense = dense_form(model.config, tp)
    bandwidth = deployment.bandwidth / deployment.itemsize
    return [form or dense for form in forms_of(model.config, modules, tp, layout, bandwidth)]


def _path(model: Model, layer: int, attribute: str) -> str:
    return f"{model.family.layer_path(layer)}.{model.family.mlp}.{attribute}"


def _projections(model: Model, config: NeuronMMConfig) -> Projections:
    attributes = model.family.selected(config.projections)
    shapes: dict[str, Shape] = {
        _path(model, layer, attribute): model.projections[attribute]
        for layer in range(model.layers)
        for attribute in attributes
    }
    return Projections(model.family, model.layers, attributes, shapes)


def _ranks(model: Model, modules: dict[str, dict]) -> dict[str, list[int | None]]:
    return {
        attribute: [
            modules.get(_path(model, layer, attribute), {}).get("rank", DENSE) for layer in range(model.layers)
        ]
        for attribute in model.projections
    }


def _attributes(model: Model) -> set[str]:
    """Of the projections that a compressed model has in factors, in some layer."""
    return {path.rpartition(".")[2] for path in model.modules}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
