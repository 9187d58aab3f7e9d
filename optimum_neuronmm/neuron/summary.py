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
"""What a compilation does to the MLPs of one rank, beside the dense model, as text."""

from collections import Counter

from ..kernels import get_machine
from .compilation import Compilation
from .form import SHARDED, Form


MB = 1e6


def summarize(compilation: Compilation, neuron_config) -> str:
    """Bytes, FLOPs and exchanges per rank of the compressed layers, the layout, the kernels, and what to beware of."""
    forms = [form for form in compilation.forms if form is not None]
    tp, itemsize = forms[0].tp, neuron_config.torch_dtype.itemsize
    ours, dense = sum(form.parameters for form in forms), sum(form.dense_parameters for form in forms)
    layers = f"{len(forms)} of {len(compilation.forms)} layers have compressed MLPs"
    lines = [
        f"{layers}; tensor parallel size {tp}, {_counted(form.layout for form in forms) if tp > 1 else 'nothing is cut'}.",
        f"{'MLP weights per rank':<24}{ours * itemsize / MB:>12,.1f} MB   dense {dense * itemsize / MB:,.1f} MB   "
        f"({ours / dense:.2f})",
        f"{'MLP per token and rank':<24}{2 * ours / MB:>12,.1f} MFLOP   dense {2 * dense / MB:,.1f} MFLOP",
        *_exchanges(forms, tp),
        *(_kernel_line(rows, names, forms) for rows, names in compilation.kernels.items()),
    ]
    return "\n".join([*lines, *_warnings(compilation, neuron_config)])


def _exchanges(forms: list[Form], tp: int) -> list[str]:
    if tp == 1:
        return []
    return [f"{'exchanges per layer':<24}{_counted(form.collectives for form in forms):>12}   dense 1"]


def _kernel_line(rows: str, names: list[str | None], forms: list[Form]) -> str:
    used = Counter(name or "plain products" for name in names)
    used["plain products"] -= len(names) - len(forms)  # layers that are dense
    counts = ", ".join(f"{name} ({count})" for name, count in used.items() if count > 0)
    return f"{f'kernels, {rows} rows':<24}{counts}"


def _counted(values) -> str:
    counts = Counter(values)
    return str(*counts) if len(counts) == 1 else ", ".join(f"{value} ({count})" for value, count in counts.items())


def _warnings(compilation: Compilation, neuron_config) -> list[str]:
    forms = [form for form in compilation.forms if form is not None]
    lines = []
    for name, count in Counter(name for form in forms for name in form.larger_than_dense).items():
        lines.append(
            f"WARNING: {name} holds more per rank than dense in {count} layers: leave it dense (projections), compress more, "
            "or use layout sharded."
        )
    sharded = [form for form in forms if form.layout == SHARDED]
    if forms[0].tp > 1 and sharded:
        machine = get_machine(neuron_config.target)
        saved = sum(form.dense_parameters - form.parameters for form in sharded) * neuron_config.torch_dtype.itemsize
        bandwidth = machine.bandwidth * neuron_config.logical_nc_config
        microseconds = saved / len(sharded) / bandwidth * 1e6
        extra = max(form.collectives for form in sharded) - 1
        lines.append(
            f"The sharded layout takes {extra} more exchanges per layer and spares each rank "
            f"{saved / len(sharded) / MB:.2f} MB of weights per layer, {microseconds:.0f} us of HBM traffic for a token "
            f"(predicted, {bandwidth / 1e9:.0f} GB/s). Where {extra} exchanges take longer on your instance, decoding is "
            "faster with fewer ranks, or with the dense model."
        )
    return lines
