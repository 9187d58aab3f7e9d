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

"""The model card of a compressed or compiled directory, from its report."""

import json
from pathlib import Path

from .configuration import NeuronMMConfig
from .report import MAP_NAME, by_kind, format_report, perplexity_warning, rank_span, speedup_device


CARD_NAME = "README.md"
# Stands for the repository in a card until the card is uploaded: which one it will be is not known before.
PLACEHOLDER = "THIS_REPOSITORY"
# optimum-neuron's name of the older of the devices that a target covers, and what else runs it.
_DEVICES = {"trn1": "Trainium 1 and Inferentia 2 (`trn1`, `inf2`)", "trn2": "Trainium 2 (`trn2`)"}


def write_model_card(directory: Path, report: dict, config: NeuronMMConfig, compiled: dict | None = None) -> None:
    """Writes README.md with the metadata that the Hub reads and what a person needs to judge and load the model."""
    card = model_card(report, config, compiled, (directory / MAP_NAME).is_file())
    (directory / CARD_NAME).write_text(card, encoding="utf-8")


def model_card(report: dict, config: NeuronMMConfig, compiled: dict | None = None, has_map: bool = False) -> str:
    """The model card of a compressed directory, from its report.

    Args:
        compiled: neuron_config.json of a directory that was compiled.
        has_map: whether the picture of the ranks lies beside it.
    """
    is_local = report["revision"] is None
    name = report["model"]
    base_model = "" if is_local else f"base_model: {json.dumps(name)}\nbase_model_relation: quantized\n"
    perplexity, ratio = report["perplexity"], report["compression_ratio"]
    warning = perplexity_warning(report)
    return f"""---
library_name: {"transformers" if compiled is None else "optimum-neuron"}
pipeline_tag: text-generation
{base_model}tags:
- neuronmm
- low-rank
- aws-neuron
{"" if compiled is None else _COMPILED_TAGS}---

# {name}, MLPs in low-rank form{"" if compiled is None else ", compiled for AWS Neuron"}

The MLP weights of {name} are replaced by products of two smaller matrices (ranks a multiple of {config.block_size}),
computed by optimum-neuronmm for AWS Trainium and Inferentia. {_where_it_runs(compiled)}

| | before | after |
|---|---|---|
| parameters | {report["parameters"]["before"]:,} | {report["parameters"]["after"]:,} |
{_rank_rows(report)}| perplexity, {perplexity["windows"]} held-out windows of calibration text | {perplexity["before"]:.2f} \
| {perplexity["after"]:.2f} |

{ratio["projections"]:.2%} of the parameters of the compressed projections are removed ({_asked_for(report)}), {ratio["model"]:.2%} of the model's.
{_MAP if has_map else ""}{f"{chr(10)}**{warning}**{chr(10)}" if warning else ""}
{_USE if compiled is None else _compilation(compiled) + _USE_COMPILED}
## Report

```
{format_report(report)}
```
"""


_MAP = f"\n![Ranks of all projections, layers from left to right]({MAP_NAME})\n"

_COMPILED_TAGS = "- neuron\n- optimum-neuron\n"

_USE = f"""## Use

```python
import optimum_neuronmm  # of optimum-neuronmm, teaches transformers this format
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{PLACEHOLDER}", dtype="auto")
```

Without `import optimum_neuronmm`, loading stops at a size mismatch of the MLP weights. Never answer that with
`ignore_mismatched_sizes=True`: the MLPs would then be random.
"""

_USE_COMPILED = f"""## Use

On an instance with the Neuron SDK:

```python
from optimum_neuronmm import NeuronModelForCausalLM

model = NeuronModelForCausalLM.from_pretrained("{PLACEHOLDER}")
```

Loading by this name needs optimum-neuronmm. A local copy of the repository loads with optimum-neuron alone.
"""


def _where_it_runs(compiled: dict | None) -> str:
    if compiled is None:
        return "They run on\nany machine."
    return "This repository\nholds compiled graphs and weights, which run on the devices below and nowhere else."


def _asked_for(report: dict) -> str:
    """The ratio, or what came before one."""
    if "speedup" not in report:
        return f"{report['compression_ratio']['requested']:.2%} were\nrequested; ranks are aligned"
    speedup = report["speedup"]
    return (
        f"chosen for MLPs that\nare predicted, not measured, to be {speedup['predicted']:.3f} times as fast as our "
        f"kernels with dense weights on {speedup_device(speedup)}"
    )


def _rank_rows(report: dict) -> str:
    """One row for each kind of projection. A dense weight has full rank, the smaller of its dimensions."""
    rows = [
        f"| rank of {name} ({K} x {N}) | {min(K, N)} | {rank_span(members)} |\n"
        for (name, K, N), members in by_kind(report["projections"]).items()
    ]
    return "".join(rows)


def _compilation(compiled: dict) -> str:
    """What the compiled graphs are bound to. What neuron_config.json does not say is left out."""
    target, cores = compiled.get("target"), compiled.get("tp_degree")
    facts = {
        "device": _DEVICES.get(target, f"`{target}`") if target else None,
        "cores (tensor parallel)": cores,
        "batch size": compiled.get("batch_size"),
        "sequence length": compiled.get("sequence_length"),
        "dtype": str(compiled["torch_dtype"]).removeprefix("torch.") if compiled.get("torch_dtype") else None,
        "optimum-neuron": compiled.get("optimum_neuron_version"),
        "Neuron compiler": compiled.get("neuronxcc_version"),
    }
    rows = "".join(f"| {name} | {value} |\n" for name, value in facts.items() if value is not None)
    return f"""## Compiled for

| | |
|---|---|
{rows}
These are fixed: other shapes, devices or versions need another compilation.

"""
