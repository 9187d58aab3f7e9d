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
"""A plan as text for a terminal."""

from collections import Counter
from dataclasses import dataclass

from ..neuron.form import Form
from ..neuron.selection import DENSE_LAYERS, Candidate
from ..report import rank_span
from .plan import ModelPlan
from .record import utilisation
from .roofline import EXCHANGE, Operation
from .step import DECODE, PREFILL, Mlps, Phase


MS = 1e3
GB, GIB = 1e9, 2**30


@dataclass(frozen=True)
class _Table:
    """Rows of cells under headings, the first column to the left."""

    headings: list[str]
    rows: list[list[str]]

    def lines(self) -> list[str]:
        columns = list(zip(self.headings, *self.rows, strict=True))
        widths = [max(map(len, column)) for column in columns]
        return [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
            for row in [self.headings, *self.rows]
        ]


def format_plan(plan: ModelPlan) -> str:
    """The plan as text. Every table says what of it is predicted and what is a bound."""
    lines = [
        f"{plan.model.name} on {plan.deployment}",
        f"Predicted for {plan.deployment.kind} by a model of its engines; nothing here was measured.",
        "",
        *_sizes(plan),
    ]
    for name, title in (
        ("prefill", "Prefill: one graph of {} rows, whose time bounds TTFT"),
        ("decode", "Decode: {} row{s} per step with a full KV cache, whose time bounds TPOT"),
    ):
        rows = getattr(plan.dense, name).rows
        lines += ["", title.format(f"{rows:,}", s="s" * (rows > 1)), *_times(plan, name)]
        lines += ["", f"Bounds of the rest of a {name} step", *_operations(getattr(plan.dense, name))]
    lines += ["", "Kernels that are predicted to be the fastest, and their blocks", *_kernels(plan), "", "Notes"]
    return "\n".join([*lines, *(f"- {note}" for note in plan.notes)])


def _sizes(plan: ModelPlan) -> list[str]:
    hbm = plan.deployment.hbm
    rows = []
    for variant in plan.variants:
        needed = variant.weights + variant.cache
        removed_of_model = 1 - variant.parameters / plan.model.parameters
        compressed = variant is not plan.dense
        rows.append(
            [
                variant.label,
                *(rank_span([{"rank": rank} for rank in ranks]) for ranks in variant.ranks.values()),
                f"{variant.removed:.2%}" if compressed else "",
                f"{removed_of_model:.2%}" if compressed else "",
                f"{variant.parameters / 1e6:,.1f} M",
                f"{variant.mlp_parameters / 1e6:,.1f} M",
                f"{variant.weights / GB:,.2f} GB",
                f"{variant.cache / GB:,.2f} GB",
                f"{needed / hbm:.1%}" + ("  TOO LARGE" if needed > hbm else ""),
            ]
        )
    names = [f"rank {name.removesuffix('_proj')}" for name in plan.model.projections]
    headings = ["ratio", *names, "removed", "of model", "parameters", "of MLPs", "weights", "KV cache", "of HBM"]
    return [
        *_Table(headings, rows).lines(),
        f"weights, KV cache and HBM ({hbm / GIB:.0f} GiB: an even share of the chip's) are those of one rank",
    ]


def _times(plan: ModelPlan, name: str) -> list[str]:
    dense = getattr(plan.dense, name)
    total = "TTFT" if name == "prefill" else "TPOT"
    headings = [
        "ratio", "predicted ms/layer", "predicted MLP ms", "speed-up", "bound by", "MFU", "floor ms",
        f"{total} estimate ms", "speed-up", f"{total} bound ms", "most of it",
    ]  # fmt: skip
    rows, refusals = [], []
    for variant in plan.variants:
        phase = getattr(variant, name)
        if phase.refusal:
            rows.append([variant.label, *["-"] * (len(headings) - 1)])
            refusals.append(f"{variant.label}: {phase.refusal}")
            continue
        rows.append(
            [
                variant.label,
                _ms(phase.mlp_seconds / plan.model.layers),
                _ms(phase.mlp_seconds),
                "-" if dense.refusal else f"{dense.mlp_seconds / phase.mlp_seconds:.2f}",
                phase.mlp_bound_by,
                f"{utilisation(phase, plan):.1%}",
                _ms(phase.mlp_floor),
                _ms(phase.seconds),
                "-" if dense.refusal else f"{dense.seconds / phase.seconds:.2f}",
                _ms(phase.floor),
                phase.bound_by,
            ]
        )
    without = ", without exchanges" if plan.deployment.tensor_parallel_size > 1 else ""
    captions = [
        f"floor: of the factors' FLOPs and bytes, whatever computes them; {total} estimate: MLPs as predicted, and the rest at its "
        f"bound; {total} bound: MLPs at the floor too{without}",
        DENSE_LAYERS,
    ]
    return [*_Table(headings, rows).lines(), *refusals, *captions]


def _operations(phase: Phase) -> list[str]:
    rows = [
        [
            _named(operation),
            f"{operation.flops / 1e9:,.2f}",
            f"{operation.bytes / 1e6:,.2f}",
            _ms(operation.seconds),
            operation.bound_by,
        ]
        for operation in phase.operations
    ]
    return _Table(["operation", "GFLOP", "MB", "bound ms", "bound by"], rows).lines()


def _named(operation: Operation) -> str:
    return f"{operation.name} (assumed)" if operation.bound_by == EXCHANGE else operation.name


def _kernels(plan: ModelPlan) -> list[str]:
    """The kernel of each form of an MLP, once, and the layers that have it."""
    rows = []
    for name in (PREFILL, DECODE):
        members: dict[Form, list[tuple[str, Mlps]]] = {}
        between = []
        for variant in plan.variants:
            mlps = getattr(variant, name).mlps
            for one in mlps:
                if one.candidates and not one.interpolated:
                    members.setdefault(one.form, []).append((variant.label, one))
            count = sum(one.count for one in mlps if one.interpolated)
            if count:
                between.append(f"{name}, {_layers(variant.label, count)} of other ranks: interpolated between these")
        for found in members.values():
            layers = ", ".join(_layers(label, one.count) for label, one in found)
            best, *others = found[0][1].candidates
            told = f" (others: {', '.join(map(_told, others))})" if others else ""
            rows += [f"{name}, {layers}: {_told(best, ' ms')}{told}", *(f"    {line}" for line in _blocks(best))]
        rows += between
    return rows


def _layers(label: str, count: int) -> str:
    return f"{label} ({count} layer{'s' * (count > 1)})"


def _told(candidate: Candidate, unit: str = "") -> str:
    found = candidate.prediction
    part = "" if candidate.complete else ", not whole"
    return f"{candidate.kernel} {_ms(candidate.seconds)}{unit}{part}{', void: it spills' * found.spills}"


def _blocks(candidate: Candidate) -> list[str]:
    """A line for each kernel of a candidate: rows of a strip, and rows x columns of the blocks of each weight."""
    lines = []
    for call, plan in zip(candidate.calls, candidate.prediction.plans, strict=True):
        stages = [
            f"{name} {blocks.depth} x {blocks.width}{' (partial sums)' * blocks.partial}"
            for name, blocks in plan.stages.items()
        ]
        strips = f"strips of {plan.B_M} rows" + (f", {plan.part} features at a time" if plan.part else "")
        lines.append(f"{call.kernel}: {strips}; blocks {', '.join(stages)}; SBUF {plan.sbuf_buffered / 2**20:.1f} MiB")
    counts = Counter(lines)
    return [line + (f" (x {count})" if count > 1 else "") for line, count in counts.items()]


def _ms(seconds: float) -> str:
    return f"{MS * seconds:,.3f}"
