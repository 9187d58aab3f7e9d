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

from .compilation import Compilation, bandwidth_of
from .form import EXCHANGE_SECONDS, Form


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
        *_exchanges(forms, bandwidth_of(neuron_config)),
        *(_kernel_line(rows, names, forms) for rows, names in compilation.kernels.items()),
    ]
    if not neuron_config.on_device_sampling:
        lines.append(f"{'sampling':<24}on the host: the model returns logits")
    return "\n".join([*lines, *_warnings(forms, bandwidth_of(neuron_config))])


def _exchanges(forms: list[Form], bandwidth: float) -> list[str]:
    if forms[0].tp == 1:
        return []
    ours = sum(form.decoding_seconds(bandwidth) for form in forms) / len(forms) * 1e6
    dense = sum(form.dense_decoding_seconds(bandwidth) for form in forms) / len(forms) * 1e6
    return [
        f"{'exchanges per layer':<24}{_counted(form.collectives for form in forms):>12}   dense 1",
        f"{'decoding, per layer':<24}{ours:>12,.1f} us   dense {dense:,.1f} us   (predicted: weights read at the bandwidth "
        f"of HBM, and {EXCHANGE_SECONDS * 1e6:.0f} us for an exchange, which is assumed)",
    ]


def _kernel_line(rows: str, names: list[str | None], forms: list[Form]) -> str:
    used = Counter(name or "plain products" for name in names)
    used["plain products"] -= len(names) - len(forms)  # layers that are dense
    counts = ", ".join(f"{name} ({count})" for name, count in used.items() if count > 0)
    return f"{f'kernels, {rows} rows':<24}{counts}"


def _counted(values) -> str:
    counts = Counter(values)
    return str(*counts) if len(counts) == 1 else ", ".join(f"{value} ({count})" for value, count in counts.items())


def _warnings(forms: list[Form], bandwidth: float) -> list[str]:
    counts = Counter(name for form in forms for name in form.larger_than_dense)
    lines = [
        f"WARNING: {name} holds no less per rank than dense in {_layers(count)}: leave it dense (projections), compress more, "
        "or use another layout or number of ranks."
        for name, count in counts.items()
    ]
    slower = [form for form in forms if form.decoding_seconds(bandwidth) >= form.dense_decoding_seconds(bandwidth)]
    if slower:
        lines.append(
            f"WARNING: {_layers(len(slower))} of this model should stay dense on {forms[0].tp} ranks: decoding is predicted to be "
            "no faster, because the exchanges take longer than reading the weights that are saved. Use fewer ranks, or "
            "compress more."
        )
    return lines


def _layers(count: int) -> str:
    return f"{count} layer{'s' * (count > 1)}"
