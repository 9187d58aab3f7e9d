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
"""A plan as a picture: where the time of a step goes, at each ratio."""

from io import BytesIO
from pathlib import Path

from ..errors import NeuronMMError
from ..output_file import write_whole
from .plan import ModelPlan
from .roofline import EXCHANGE


WIDEST = 600  # inches; matplotlib draws no more than 65535 pixels


def draw_plan(plan: ModelPlan, path: str | Path) -> None:
    """Writes a PNG: for prefill and decode, a bar of each variant, of MLPs (predicted) and of the rest (bounds).

    Variants without a kernel that fits have none. Under a bar are the ratio that was asked for, and what was removed.

    Raises:
        NeuronMMError: matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NeuronMMError("Drawing a plan needs matplotlib: pip install matplotlib.") from error

    width = min(max(8.0, 2.5 + 2.2 * len(plan.variants)), WIDEST)
    figure = Figure(figsize=(width, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    titles = {"prefill": "TTFT estimate: prefill of {} rows", "decode": "TPOT estimate: {} row(s), full KV cache"}
    for axes, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        dense = getattr(plan.dense, name)
        axes.set_title(title.format(f"{dense.rows:,}"), fontsize=10)
        planned = [variant for variant in plan.variants if not getattr(variant, name).refusal]
        if not planned:
            axes.annotate("no kernel fits", (0.5, 0.5), xycoords="axes fraction", ha="center")
            continue
        phases = [getattr(variant, name) for variant in planned]
        drawn = axes
        parts = {"MLP (predicted)": [phase.mlp_seconds for phase in phases]}
        for index, operation in enumerate(phases[0].operations):
            kind = "assumed" if operation.bound_by == EXCHANGE else "bound"
            parts[f"{operation.name} ({kind})"] = [phase.operations[index].seconds for phase in phases]
        bottom = [0.0] * len(phases)
        for part, seconds in parts.items():
            heights = [1e3 * s for s in seconds]
            axes.bar(range(len(phases)), heights, bottom=bottom, label=part)
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        for index, phase in enumerate(phases):
            speedup = "" if dense.refusal else f"\nx {dense.seconds / phase.seconds:.2f}"
            axes.annotate(
                f"{bottom[index]:.2f} ms{speedup}",
                (index, bottom[index]),
                ha="center",
                va="bottom",
                fontsize=8,
            )
        axes.set_ylim(0, 1.2 * max(bottom))
        removed = [
            "" if variant is plan.dense else f"\n({100 * variant.removed:.1f} % removed)" for variant in planned
        ]
        ticks = [variant.label + achieved for variant, achieved in zip(planned, removed, strict=True)]
        axes.set_xticks(range(len(ticks)), ticks, fontsize=8)
        if any(variant.ratio is not None for variant in planned):
            axes.set_xlabel("compression ratio asked for")
        axes.set_ylabel("milliseconds")
    figure.legend(*drawn.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    figure.suptitle(f"{plan.model.name}\n{plan.deployment}: predicted, not measured", fontsize=10, parse_math=False)
    drawing = BytesIO()
    figure.savefig(drawing, format="png", metadata={"Software": None})
    write_whole(path, drawing.getvalue())
