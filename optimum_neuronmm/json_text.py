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
"""Text that JSON holds: a string, and one that can be encoded."""

from .errors import NeuronMMError


def checked_text(found, name: str, place: str) -> str:
    """What JSON holds, if it is a string that can be encoded.

    Args:
        name: of the field.
        place: of the row, for errors.
    """
    if not isinstance(found, str):
        raise NeuronMMError(f"{place}: {name} must be a string, got {type(found).__name__}.")
    try:
        found.encode()
    except UnicodeEncodeError as error:  # JSON can name half a surrogate pair
        raise NeuronMMError(f"{place}: {name} is not valid Unicode ({error.reason}).") from error
    return found
