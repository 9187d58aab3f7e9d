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
"""Publishing a compressed directory: its model card and the upload."""

import json
from pathlib import Path

from .configuration import QUANT_METHOD, NeuronMMConfig
from .errors import NeuronMMError
from .report import REPORT_NAME, format_report, load_report, perplexity_warning
from .source import list_shards


_FACTORS = ("u.weight", "v.weight")


def write_model_card(directory: Path, report: dict, config: NeuronMMConfig) -> None:
    """Writes README.md with the metadata that the Hub reads and what a person needs to judge and load the model."""
    (directory / "README.md").write_text(model_card(report, config), encoding="utf-8")


def model_card(report: dict, config: NeuronMMConfig) -> str:
    """The model card of a compressed directory, from its report."""
    is_local = report["revision"] is None
    name = report["model"]
    base_model = "" if is_local else f"base_model: {name}\nbase_model_relation: quantized\n"
    perplexity, ratio = report["perplexity"], report["compression_ratio"]
    warning = perplexity_warning(report)
    return f"""---
library_name: transformers
pipeline_tag: text-generation
{base_model}tags:
- neuronmm
- low-rank
- aws-neuron
---

# {name}, MLPs in low-rank form

The MLP weights of {name} are replaced by products of two smaller matrices (ranks a multiple of {config.block_size}),
computed by optimum-neuronmm for AWS Trainium and Inferentia. They run on
any machine.

| | before | after |
|---|---|---|
| parameters | {report["parameters"]["before"]:,} | {report["parameters"]["after"]:,} |
| perplexity, {perplexity["windows"]} held-out windows of calibration text | {perplexity["before"]:.2f} \
| {perplexity["after"]:.2f} |

{ratio["projections"]:.2%} of the parameters of the compressed projections are removed ({ratio["requested"]:.2%} were
requested; ranks are aligned), {ratio["model"]:.2%} of the model's.
{f"{chr(10)}**{warning}**{chr(10)}" if warning else ""}
## Use

```python
import optimum_neuronmm  # of optimum-neuronmm, teaches transformers this format
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("THIS_REPOSITORY", dtype="auto")
```

Without `import optimum_neuronmm`, loading stops at a size mismatch of the MLP weights. Never answer that with
`ignore_mismatched_sizes=True`: the MLPs would then be random.

## Report

```
{format_report(report)}
```
"""


def push_to_hub(
    directory: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload a model compressed with optimum-neuronmm",
) -> str:
    """Uploads a compressed directory to the Hub. Needs no device.

    Args:
        directory: written by `compress`, or by `save_pretrained` of a model that was loaded from one.
        repo_id: created where it does not exist, "user/name".

    Returns:
        The address of the commit.

    Raises:
        NeuronMMError: where the directory does not hold a whole compressed checkpoint.
    """
    from huggingface_hub import HfApi

    directory = Path(directory)
    _check_complete(directory)
    api = HfApi(token=token)
    created = api.create_repo(repo_id, private=private, exist_ok=True)
    commit = api.upload_folder(
        repo_id=created.repo_id, folder_path=directory, revision=revision, commit_message=commit_message
    )
    return commit.commit_url


def _check_complete(directory: Path) -> None:
    path = directory / "config.json"
    try:
        written = json.loads(path.read_text(encoding="utf-8"))["quantization_config"]
        is_compressed = written["quant_method"] == QUANT_METHOD
    except (OSError, ValueError, KeyError, TypeError):
        is_compressed = False
    if not is_compressed:
        raise NeuronMMError(
            f"{directory} is not a compressed checkpoint: expected a config.json with quant_method {QUANT_METHOD!r}."
        )
    stored = {tensor for tensors in list_shards(directory, str(directory)).values() for tensor in tensors}
    factors = [f"{module}.{leaf}" for module in NeuronMMConfig.from_dict(written).modules for leaf in _FACTORS]
    missing = [name for name in factors if name not in stored]
    if missing:
        raise NeuronMMError(f"{directory} lacks {missing[0]}: nothing was uploaded. Compress the model again.")
    if (directory / REPORT_NAME).is_file():
        load_report(directory)
