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

from pathlib import Path

from ..errors import NeuronMMError
from .plan import ModelPlan


def draw_plan(plan: ModelPlan, path: str | Path) -> None:
    """Writes a PNG: for prefill and decode, a bar of each variant, of MLPs (predicted) and of the rest (bounds).

    Variants without a kernel that fits have none.

    Raises:
        NeuronMMError: matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NeuronMMError("Drawing a plan needs matplotlib: pip install matplotlib.") from error

    figure = Figure(figsize=(max(8.0, 2.5 + 1.6 * len(plan.variants)), 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    titles = {"prefill": "TTFT estimate: prefill of {} rows", "decode": "TPOT estimate: {} row(s), full KV cache"}
    for axes, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        dense = getattr(plan.dense, name)
        axes.set_title(title.format(f"{dense.rows:,}"), fontsize=10)
        planned = [variant for variant in plan.variants if not getattr(variant, name).refusal]
        if not planned:
            axes.annotate("no kernel fits", (0.5, 0.5), xycoords="axes fraction", ha="center")
            continue
        labels, phases = [variant.label for variant in planned], [getattr(variant, name) for variant in planned]
        drawn = axes
        parts = {"MLP (predicted)": [phase.mlp_seconds for phase in phases]}
        for index, operation in enumerate(phases[0].operations):
            parts[f"{operation.name} (bound)"] = [phase.operations[index].seconds for phase in phases]
        bottom = [0.0] * len(phases)
        for part, seconds in parts.items():
            heights = [1e3 * s for s in seconds]
            axes.bar(labels, heights, bottom=bottom, label=part)
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
        axes.set_xlabel("fraction removed of the MLPs")
        axes.set_ylabel("milliseconds")
    figure.legend(*drawn.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    figure.suptitle(f"{plan.model.name}\n{plan.deployment}: predicted, not measured", fontsize=10)
    try:
        figure.savefig(path, format="png", metadata={"Software": None})
    except OSError as error:
        raise NeuronMMError(f"{path} could not be written: {error.strerror}.") from error
