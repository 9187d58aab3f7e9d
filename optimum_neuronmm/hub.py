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

"""Publishing a compressed or compiled directory."""

import fnmatch
import re
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.utils import logging

from .card import CARD_NAME, PLACEHOLDER, model_card
from .errors import NeuronMMError
from .hub_errors import Secrets, persistently
from .hub_files import WEIGHTS, Publication, check_directory, check_holds_no_token
from .report import MAP_NAME
from .version import __version__


if TYPE_CHECKING:
    from huggingface_hub import HfApi


logger = logging.get_logger(__name__)


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
    has_map = MAP_NAME in publication.files
    return model_card(publication.report, publication.config, publication.compiled, has_map).encode()
