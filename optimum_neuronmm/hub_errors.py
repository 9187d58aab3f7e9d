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

"""What can go wrong between here and the Hub: what is tried again, and what the user is told.

The client's exceptions hold the request that failed, and with it the token. So none of them is kept: errors of ours have
no cause and no context, and every text that comes from outside is cleared of the token.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from transformers.utils import logging

from .errors import NeuronMMError


logger = logging.get_logger(__name__)

T = TypeVar("T")

WAITS = (1, 4, 15)  # seconds before a second, third and fourth attempt
_PASSING = (408, 500, 502, 503, 504)
_CONFLICTS = (409, 412)
_ADVICE = {
    401: "Log in with `hf auth login`, or set HF_TOKEN to a token that may write.",
    403: "Use a token that may write there, or upload under a name of your own.",
    404: "Check the name and the branch, and that your token may see them.",
    409: "Somebody else is changing the repository: try again when they are done.",
    412: "Somebody else is changing the repository: try again when they are done.",
    413: "A file or the whole directory is larger than the Hub takes.",
    429: "You have sent too many requests: wait, and try again.",
}
_LATER = "Check the connection and try again: nothing is sent twice that has arrived."


@dataclass(frozen=True)
class Trouble:
    """What is known of a failed attempt. `passing`: the same may well succeed a moment later."""

    reason: str
    advice: str
    passing: bool


class Secrets:
    """Clears texts of a token, and of whatever else looks like one."""

    def __init__(self, token: str | None):
        self.token = token

    def clear(self, text: object) -> str:
        """One line of at most 300 characters."""
        text = str(text)
        if self.token:
            text = text.replace(self.token, "***")
        text = re.sub(r"\bhf_[A-Za-z0-9]{16,}", "***", text)
        text = re.sub(r"//[^/@\s]+@", "//***@", text)  # a password in an address
        return " ".join(text.split())[:300]


def persistently(action: Callable[[], T], what: str, secrets: Secrets) -> T:
    """The result of `action`, which is tried again after what may pass.

    Uploads of files are not: huggingface_hub has tried each of them six times before it gives up.

    Args:
        what: names the action in messages: "creating me/name".

    Raises:
        NeuronMMError: in place of whatever the client raised.
    """
    for attempt, wait in enumerate((*WAITS, None), start=1):
        try:
            return action()
        except NeuronMMError:
            raise
        except Exception as error:
            trouble = _diagnose(error, secrets)
            if trouble is None:
                raise
        # Here, and not in the handler above, which would make the client's exception the context of ours.
        if wait is None or not trouble.passing:
            times = f" after {attempt} attempts" if attempt > 1 else ""
            raise NeuronMMError(f"{what} failed{times}: {trouble.reason}. {trouble.advice}")
        logger.warning(f"{what}: {trouble.reason}. Trying again in {wait} s ({attempt} of {len(WAITS)}).")
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _diagnose(error: Exception, secrets: Secrets) -> Trouble | None:
    """None for a defect, of the client or of ours."""
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled, RevisionNotFoundError, XetError

    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # the client's "Error while uploading ..."
        cause = _diagnose(error.__cause__, secrets)
        if cause is not None:
            reason = f"{secrets.clear(error).rstrip('.')}: {cause.reason}"
            return Trouble(reason, cause.advice, cause.passing and not _was_put(error.__cause__))
    if isinstance(error, OfflineModeIsEnabled):
        return Trouble("offline mode is enabled", "Unset HF_HUB_OFFLINE to upload.", False)
    if isinstance(error, RevisionNotFoundError):
        return Trouble("no such branch (404)", "Create it, or leave the revision out.", False)
    if getattr(error, "response", None) is not None:
        return _answered(error, secrets)
    if isinstance(error, HFValidationError):
        return Trouble(secrets.clear(error), "Put the name right.", False)
    if isinstance(error, OSError) and hasattr(error, "request"):  # of `requests`: no answer, or not the whole of it
        garbled = hasattr(error, "doc")
        reason = "the answer is not one of the Hub's" if garbled else _unreachable(error)
        return Trouble(reason, _LATER, True)
    if isinstance(error, OSError) and error.filename is not None:
        reason = f"{secrets.clear(error.filename)} could not be read ({error.strerror})"
        return Trouble(reason, "Leave the directory as it is while it is uploaded.", False)
    if isinstance(error, KeyError):
        return Trouble(f"the answer lacks {error}", "Is this address a Hugging Face Hub?", False)
    if isinstance(
        error, (OSError, ValueError, RuntimeError, XetError)
    ):  # what the client or its transfer refuses, in words
        return Trouble(secrets.clear(error).rstrip("."), "Nothing was committed.", False)
    return None


def _answered(error: Exception, secrets: Secrets) -> Trouble:
    status = error.response.status_code
    said = secrets.clear(getattr(error, "server_message", None) or "").rstrip(".")
    seconds = error.response.headers.get("Retry-After")
    after = f"; it asks to wait {secrets.clear(seconds)} s" if seconds else ""
    advice = _ADVICE.get(status, _LATER if status in _PASSING else "Nothing was committed.")
    reason = f"the Hub answered {status}{f' ({said})' if said else ''}{after}"
    return Trouble(reason, advice, status in (*_PASSING, *_CONFLICTS))


def _was_put(error: BaseException) -> bool:
    """Whether the failed request carried a file, which the client sends again by itself."""
    return getattr(getattr(error, "request", None), "method", None) == "PUT"


def _unreachable(error: Exception) -> str:
    names = {kind.__name__ for kind in type(error).__mro__}
    if "Timeout" in names:
        return "the Hub did not answer in time"
    if "SSLError" in names:
        return "no secure connection to the Hub"
    return "the connection to the Hub failed or was cut"
