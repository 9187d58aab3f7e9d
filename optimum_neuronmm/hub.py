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

"""Publishing a compressed or compiled directory: its model card and the upload."""

import fnmatch
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.utils import logging

from .configuration import NeuronMMConfig
from .errors import NeuronMMError
from .hub_errors import Secrets, persistently
from .hub_files import WEIGHTS, Publication, check_directory, check_holds_no_token
from .report import by_kind, format_report, perplexity_warning, rank_span
from .version import __version__


if TYPE_CHECKING:
    from huggingface_hub import HfApi


logger = logging.get_logger(__name__)

CARD_NAME = "README.md"
# Stands for the repository in a card until the card is uploaded: which one it will be is not known before.
PLACEHOLDER = "THIS_REPOSITORY"
# optimum-neuron's name of the older of the devices that a target covers, and what else runs it.
_DEVICES = {"trn1": "Trainium 1 and Inferentia 2 (`trn1`, `inf2`)", "trn2": "Trainium 2 (`trn2`)"}


def write_model_card(directory: Path, report: dict, config: NeuronMMConfig, compiled: dict | None = None) -> None:
    """Writes README.md with the metadata that the Hub reads and what a person needs to judge and load the model."""
    (directory / CARD_NAME).write_text(model_card(report, config, compiled), encoding="utf-8")


def model_card(report: dict, config: NeuronMMConfig, compiled: dict | None = None) -> str:
    """The model card of a compressed directory, from its report.

    Args:
        compiled: neuron_config.json of a directory that was compiled.
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

{ratio["projections"]:.2%} of the parameters of the compressed projections are removed ({ratio["requested"]:.2%} were
requested; ranks are aligned), {ratio["model"]:.2%} of the model's.
{f"{chr(10)}**{warning}**{chr(10)}" if warning else ""}
{_USE if compiled is None else _compilation(compiled) + _USE_COMPILED}
## Report

```
{format_report(report)}
```
"""


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


def push_to_hub(
    directory: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload a model compressed with optimum-neuronmm",
    endpoint: str | None = None,
) -> str:
    """Uploads a compressed or compiled directory to the Hub, in one commit. Needs no device.

    The directory is checked before anything is sent, and stays as it is: the name of the repository is put into the
    model card on its way. Weights of an earlier upload that this one does not replace are removed in the same commit.

    Args:
        directory: written by `compress` or by a compilation, or by `save_pretrained` of a model loaded from one.
        repo_id: created where it does not exist, "user/name".
        private: of a repository that is created. True refuses one that exists and is public.
        token: default: the one of `hf auth login` or HF_TOKEN.
        revision: a branch that exists.
        endpoint: address of the Hub. Default: HF_ENDPOINT, else huggingface.co.

    Returns:
        The address of the commit, or of the newest one where nothing has changed.

    Raises:
        NeuronMMError: where the directory does not hold a whole model, or the Hub cannot be reached or refuses. The
            repository is then as it was. Only where the connection was lost for good while the Hub was answering, it
            may hold the whole.
    """
    from huggingface_hub import HfApi, get_token

    _check_names(repo_id, revision, commit_message)
    publication = check_directory(directory)
    secrets = Secrets(_checked_token(token or get_token()))
    check_holds_no_token(publication, secrets.token)
    api = HfApi(endpoint=endpoint, token=token or None, library_name="optimum-neuronmm", library_version=__version__)
    card = _card(publication)
    created = persistently(lambda: _create(api, repo_id, private), f"creating {repo_id}", secrets)

    def commit() -> str:
        # All of it anew in each attempt: a commit whose answer was lost is seen as done, and one of somebody else
        # as the state to start from.
        operations = _operations(api, created, publication, card, revision, private)
        return _commit(api, created, operations, commit_message, revision)

    return persistently(commit, f"uploading to {created}", secrets)


def _check_names(repo_id: str, revision: str | None, commit_message: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
        is_valid = re.fullmatch(r"[A-Za-z0-9._/-]+", repo_id) is not None  # it lets other alphabets and "\n" pass
    except HFValidationError:
        is_valid = False
    if not is_valid:
        raise NeuronMMError(
            f"{repo_id!r} is no name of a repository: expected 'user/name' of letters, digits, '-', '_' and '.', without "
            "'--' or '..', at most 96 characters."
        )
    if revision is not None and not revision.strip():
        raise NeuronMMError("revision must name a branch, got an empty string.")
    if not commit_message.strip():
        raise NeuronMMError("commit_message must not be empty: it names the commit.")


def _checked_token(token: str | None) -> str | None:
    """Refused here, because the client's error for a header that cannot be sent shows the header."""
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise NeuronMMError(
            "The access token holds spaces, line breaks or characters other than ASCII. Expected it as the Hub shows it, "
            "such as hf_...: check HF_TOKEN or what was passed."
        )
    return token


def _create(api: "HfApi", repo_id: str, private: bool | None) -> str:
    try:
        return api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    except KeyError:  # a conflict whose answer names no repository
        raise NeuronMMError(
            f"{repo_id} could not be created, and is no model repository (409): its name is taken. Choose another."
        ) from None


def _operations(
    api: "HfApi",
    repo_id: str,
    publication: Publication,
    card: bytes | None,
    revision: str | None,
    private: bool | None,
) -> list:
    """What turns the repository, as it is now, into the directory."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    info = api.model_info(repo_id, revision=revision)
    present = {sibling.rfilename for sibling in info.siblings or ()}
    if private and info.private is False:
        raise NeuronMMError(
            f"{repo_id} exists and is public, but private was asked for: nothing was uploaded. Make it private in its "
            "settings, or choose another name."
        )
    if ".gitignore" in present:
        raise NeuronMMError(
            f"{repo_id} has a .gitignore, by which the Hub drops files without a word: nothing was uploaded. Remove it "
            "from the repository."
        )
    files = dict(publication.files)
    if card is not None:
        files[CARD_NAME] = card.replace(f'("{PLACEHOLDER}"'.encode(), f'("{repo_id}"'.encode())
    stale = sorted(
        name for name in present - set(files) if any(fnmatch.fnmatchcase(name, pattern) for pattern in WEIGHTS)
    )
    if stale:
        logger.warning(f"{repo_id}: removing {', '.join(stale)}, which this model does not have.")
    return [
        *(CommitOperationDelete(name) for name in stale),
        *(CommitOperationAdd(name, content) for name, content in files.items()),
    ]


def _commit(api: "HfApi", repo_id: str, operations: list, message: str, revision: str | None) -> str:
    try:
        return api.create_commit(repo_id, operations, commit_message=message, revision=revision).commit_url
    except ValueError as error:
        # With an `endpoint` of its own the client commits, and then takes the commit's address apart as if it were one
        # of the default Hub.
        if "from the passed HF ID" not in str(error):
            raise
    return f"{api.endpoint}/{repo_id}/commit/{api.model_info(repo_id, revision=revision).sha}"


def _card(publication: Publication) -> bytes | None:
    """The model card to upload. None: the directory holds none, and no report to make one from.

    A card that somebody else wrote has no placeholder, and goes as it is.
    """
    path = publication.files.get(CARD_NAME)
    if path is not None:
        card = path.read_bytes()
        try:
            card.decode()
        except UnicodeDecodeError as error:
            raise NeuronMMError(f"{path} is not UTF-8: save it as UTF-8.") from error
        return card
    if publication.report is None:
        logger.warning(f"There will be no model card: the directory holds neither {CARD_NAME} nor a report.")
        return None
    return model_card(publication.report, publication.config, publication.compiled).encode()
