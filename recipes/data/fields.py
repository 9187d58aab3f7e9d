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
"""Fields of a row of data, with errors that name the row."""

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.json_text import checked_text


def value(row: dict, name: str, place: str):
    """The field of that name.

    Args:
        place: names the row in an error.

    Raises:
        NeuronMMError: the row has no such field.
    """
    if name not in row:
        raise NeuronMMError(f'{place}: the field "{name}" is missing; there are {", ".join(map(str, row)) or "none"}.')
    return row[name]


def text(row: dict, name: str, place: str) -> str:
    """A field that must be a string; it may be empty."""
    return checked_text(value(row, name, place), f'"{name}"', place)


def filled_text(row: dict, name: str, place: str) -> str:
    """A field that must be a string with more than white space in it."""
    found = text(row, name, place)
    if not found.strip():
        raise NeuronMMError(f'{place}: "{name}" is empty.')
    return found


def texts(row: dict, name: str, place: str) -> list[str]:
    """A field that must be a list of strings; each may be empty."""
    found = value(row, name, place)
    if not isinstance(found, list):
        raise NeuronMMError(f'{place}: "{name}" must be a list of strings, got {type(found).__name__}.')
    return [checked_text(item, f'"{name}"[{index}]', place) for index, item in enumerate(found)]
