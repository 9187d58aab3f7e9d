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
"""How the compressed MLP of one layer is cut over the ranks of tensor parallelism. Pure arithmetic.

Every matrix is stored as the kernels read it, (input features, output features), and every rank holds `Matrix.local` of it.
Two layouts compute the same:

* replicated: what dense tensor parallelism does, with the factor that faces the hidden states on every rank: gate and up
  are U (H, r) whole and V (r, I) cut by columns; down is U (I, r) cut by rows and V (r, H) whole. One all-reduce, as dense.
* sharded: both factors are cut. U of gate and up by columns, then one gather of the rank-r activations of both; U of down by
  rows, then a reduce-scatter, V of down by rows, then the all-reduce. Two more collectives, no byte held twice.

With one rank nothing is cut, and the layout has no meaning.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from ..errors import NeuronMMError
from ..families import family_of
from ..ranks import DENSE


REPLICATED, SHARDED = "replicated", "sharded"
PROJECTIONS = ("gate", "up", "down")
# Of a small message among the ranks of an instance. Assumed, not measured: AWS documents one to tens of microseconds (Neuron
# documentation, intra-node collective communication).
EXCHANGE_SECONDS = 10e-6


@dataclass(frozen=True)
class Matrix:
    """A weight of the module.

    Attributes:
        shape: of the whole, padded so that the ranks get equal parts.
        cut: the dimension that is divided among the ranks; None where each holds the whole.
        ranks: their number.
    """

    shape: tuple[int, ...]
    cut: int | None
    ranks: int

    @property
    def local(self) -> tuple[int, ...]:
        """The shape of one rank's part."""
        return tuple(n // self.ranks if dim == self.cut else n for dim, n in enumerate(self.shape))


@dataclass(frozen=True)
class Form:
    """The MLP of one layer: its sizes, ranks and layout.

    Attributes:
        H, I: hidden and intermediate size.
        gate, up, down: rank of each projection, or DENSE.
        shared: gate and up share one U, because the model has them in one matrix.
        biased: the projections have biases.
        activation: name in transformers, such as `silu`.
        tp: number of ranks of tensor parallelism.
        layout: REPLICATED or SHARDED.
    """

    H: int
    I: int  # noqa: E741
    gate: int | None
    up: int | None
    down: int | None
    shared: bool = False
    biased: bool = False
    activation: str = "silu"
    tp: int = 1
    layout: str = REPLICATED

    def __str__(self) -> str:
        """For messages. Forms that differ have different texts; what is as by default is left out."""
        ranks = {name: getattr(self, name) for name in PROJECTIONS}
        told = ", ".join(f"{'dense' if rank is DENSE else rank} ({name})" for name, rank in ranks.items())
        return ", ".join(
            [
                f"hidden size {self.H}, intermediate size {self.I}",
                "dense" if all(rank is DENSE for rank in ranks.values()) else f"ranks {told}",
                *["gate and up in one matrix"] * self.shared,
                *["with biases"] * self.biased,
                *[f"activation {self.activation}"] * (self.activation != "silu"),
                *[f"tensor parallel size {self.tp}"] * (self.tp > 1),
                *[self.layout] * (self.layout != REPLICATED),
            ]
        )

    def padded(self, n: int) -> int:
        """`n` rounded up to a multiple of the number of ranks."""
        return -(-n // self.tp) * self.tp

    @property
    def sharded(self) -> bool:
        return self.layout == SHARDED and self.tp > 1

    @property
    def first_factors(self) -> list[str]:
        """The projections of gate and up whose U is computed; a shared one counts once, as gate's."""
        names = ["gate"] if self.shared else ["gate", "up"]
        return [name for name in names if getattr(self, name) is not DENSE]

    @cached_property
    def matrices(self) -> dict[str, Matrix]:
        """The weights of the module by name: `gate`, or `gate_u` and `gate_v`, ..., and `u`, the joined U when sharded."""
        H, I = self.H, self.padded(self.I)  # noqa: E741
        found = {}
        if self.sharded and self.first_factors:
            found["u"] = ((H, sum(self.padded(getattr(self, name)) for name in self.first_factors)), 1)
        for name in ("gate", "up"):
            rank = getattr(self, name)
            if rank is DENSE:
                found[name] = ((H, I), 1)
                continue
            if name in self.first_factors and not self.sharded:
                found[f"{name}_u"] = ((H, rank), None)
            found[f"{name}_v"] = ((self.padded(rank) if self.sharded else rank, I), 1)
        if self.down is DENSE:
            found["down"] = ((I, H), 0)
        else:
            r = self.padded(self.down) if self.sharded else self.down
            found["down_u"] = ((I, r), 0)
            found["down_v"] = ((r, H), 0 if self.sharded else None)
        if self.biased:
            found |= {"gate_bias": ((I,), 0), "up_bias": ((I,), 0), "down_bias": ((H,), None)}
        return {name: Matrix(shape, cut, self.tp) for name, (shape, cut) in found.items()}

    @property
    def parameters(self) -> int:
        """Of one rank, padding included, biases not."""
        return sum(math.prod(matrix.local) for name, matrix in self.matrices.items() if not name.endswith("bias"))

    @property
    def dense_parameters(self) -> int:
        """Of one rank of the dense MLP."""
        return 3 * self.H * self.padded(self.I) // self.tp

    @property
    def collectives(self) -> int:
        """Exchanges between the ranks. The dense MLP has one."""
        if self.tp == 1:
            return 0
        return 1 + (bool(self.first_factors) + (self.down is not DENSE) if self.sharded else 0)

    def decoding_seconds(self, bandwidth: float) -> float:
        """Predicted for one token: the weights read once at `bandwidth` parameters per second, and the exchanges."""
        return self.parameters / bandwidth + self.collectives * EXCHANGE_SECONDS

    def dense_decoding_seconds(self, bandwidth: float) -> float:
        """The same of the dense MLP."""
        return self.dense_parameters / bandwidth + (self.tp > 1) * EXCHANGE_SECONDS

    @property
    def larger_than_dense(self) -> list[str]:
        """The factored projections of which one rank would hold no less than of the dense ones."""
        dense = self.H * self.padded(self.I) // self.tp
        parts = {"gate": ("gate_u", "gate_v"), "up": ("up_u", "up_v"), "down": ("down_u", "down_v")}
        budget = {"gate": dense, "up": dense, "down": dense}
        if self.shared:
            parts, budget = (
                {"gate": ("gate_u", "gate_v", "up_v"), "down": parts["down"]},
                {"gate": 2 * dense, "down": dense},
            )
        local = {name: math.prod(matrix.local) for name, matrix in self.matrices.items()}
        if "u" in local:  # the joined U belongs to its projections in proportion to their ranks
            ranks = {name: self.padded(getattr(self, name)) for name in self.first_factors}
            local |= {f"{name}_u": local["u"] * rank // sum(ranks.values()) for name, rank in ranks.items()}
        return [
            name
            for name, factors in parts.items()
            if getattr(self, name) is not DENSE and sum(local[f] for f in factors) >= budget[name]
        ]


def forms_of(
    config,
    modules: dict[str, dict],
    tp: int,
    layout: "str | list[str | None]" = "auto",
    bandwidth: float = math.inf,
) -> list[Form | None]:
    """The form of every layer's MLP; None where it stays dense.

    Args:
        config: of the transformers model.
        modules: `NeuronMMConfig.modules`.
        layout: REPLICATED, SHARDED, or "auto": what is predicted to decode faster, but never replicated where a projection
            would hold no less per rank than dense. One for all layers, or a list.
        bandwidth: of one rank, in parameters per second; for "auto".

    Raises:
        NeuronMMError: `modules` lists a projection that the model does not have.
    """
    family = family_of(config)
    unknown = dict(modules)
    forms: list[Form | None] = []
    for layer in range(config.num_hidden_layers):
        ranks: dict[str, int | None] = dict.fromkeys(PROJECTIONS, DENSE)
        shared = False
        for attribute, computes in family.projections.items():
            entry = unknown.pop(family.projection_path(layer, attribute), None)
            if entry is not None:
                ranks |= dict.fromkeys(computes, entry["rank"])
                shared = shared or len(computes) > 1
        if all(rank is DENSE for rank in ranks.values()):
            forms.append(None)
            continue
        forms.append(
            _laid_out(
                layout if isinstance(layout, str) else layout[layer],
                bandwidth,
                H=config.hidden_size,
                I=config.intermediate_size,
                **ranks,
                shared=shared,
                biased=bool(getattr(config, "mlp_bias", False)),
                activation=activation_of(config),
                tp=tp,
            )
        )
    if unknown:
        raise NeuronMMError(
            f"config.json lists a factorised projection {next(iter(unknown))!r} that a {config.model_type} of "
            f"{config.num_hidden_layers} layers does not have. The checkpoint is damaged: fetch or compress it again."
        )
    return forms


def check_heads(config, tp: int) -> None:
    """Checks that the attention heads of a model can be shared by so many ranks.

    Raises:
        NeuronMMError: they cannot; it says how many can.
    """
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    if heads != config.num_attention_heads and heads % tp and tp % heads:
        fitting = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        raise NeuronMMError(
            f"tensor_parallel_size must divide the {heads} key-value heads of the model or be a multiple of them, got {tp}. "
            f"Use {fitting}, or a multiple of {heads}."
        )


def dense_form(config, tp: int = 1) -> Form:
    """The form of a dense MLP of a transformers config."""
    return Form(
        H=config.hidden_size,
        I=config.intermediate_size,
        **dict.fromkeys(PROJECTIONS, DENSE),
        biased=bool(getattr(config, "mlp_bias", False)),
        activation=activation_of(config),
        tp=tp,
    )


def activation_of(config) -> str:
    """The name of the MLP's activation, which some families keep under another name."""
    return getattr(config, "hidden_act", None) or config.hidden_activation


def _laid_out(layout: str, bandwidth: float, **sizes) -> Form:
    if layout in (REPLICATED, SHARDED):
        return Form(**sizes, layout=layout)
    if layout != "auto":
        raise ValueError(f"no layout {layout!r}")
    replicated, sharded = (Form(**sizes, layout=layout) for layout in (REPLICATED, SHARDED))
    if replicated.tp == 1:
        return replicated
    faster = min(replicated, sharded, key=lambda form: form.decoding_seconds(bandwidth))
    return sharded if replicated.larger_than_dense else faster
