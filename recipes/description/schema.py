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
"""Checks on what a recipe says. Every error names the place: `recipe smollm2.yaml: tasks.wikitext2.windows: ...`."""

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from optimum_neuronmm.errors import NeuronMMError


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHOWN = 60  # characters of a wrong value that an error repeats


@dataclass(frozen=True)
class Place:
    """Where in a recipe something stands: `Place("a.yaml") / "variants" / 1 / "ratio"`.

    Args:
        recipe: the name of the file, or what else the recipe is called.
        path: keys and positions, from the top.
    """

    recipe: str
    path: tuple[str | int, ...] = ()

    def __truediv__(self, step: str | int) -> "Place":
        return Place(self.recipe, (*self.path, step))

    def __str__(self) -> str:
        path = ""
        for step in self.path:
            path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
        return f"recipe {self.recipe}: {path}" if path else f"recipe {self.recipe}"

    def error(self, message: str) -> NeuronMMError:
        """The error to raise about this place."""
        return NeuronMMError(f"{self}: {message}")

    def wrong(self, expected: str, value: Any, hint: str = "") -> NeuronMMError:
        return self.error(f"expected {expected}, got {shown(value)}.{f' {hint}' if hint else ''}")


def shown(value: Any) -> str:
    """A value in words that someone who writes YAML knows: its kind, and what it is."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return "a very large integer"  # Python does not write out those of thousands of digits
    kind = "the text " if isinstance(value, str) else "the number " if isinstance(value, (int, float)) else ""
    written = repr(value)
    return kind + (written if len(written) <= _SHOWN else f"{written[:_SHOWN]}...")


def nearest(word: Any, known: Iterable[str]) -> str | None:
    """The known word that is most like another, if one is."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1) if isinstance(word, str) else []
    return by_lower[near[0]] if near else None


def did_you_mean(word: Any, known: Iterable[str]) -> str:
    """How a sentence about an unknown word ends: with what is near it, if anything is."""
    near = nearest(word, known)
    return f"; did you mean {near}?" if near else "."


def mapping(value: Any, place: Place, known: Iterable[str], required: Iterable[str] = ()) -> dict[str, Any]:
    """A mapping with known keys only, of which some must be there.

    Raises:
        NeuronMMError: naming the wrong key, what is near it and what is known.
    """
    known = list(known)
    if not isinstance(value, dict):
        raise place.wrong(f"a mapping with the keys {', '.join(known)}", value)
    for key in value:
        if key not in known:
            step = key if isinstance(key, str) else shown(key)
            raise (place / step).error(f"unknown key{did_you_mean(key, known)} Known keys: {', '.join(known)}.")
    for key in required:
        if key not in value:
            raise (place / key).error(f"missing. Required keys: {', '.join(required)}.")
    return value


def text(value: Any, place: Place, what: str = "a text") -> str:
    """A text that is not blank, on one line."""
    hint = "" if isinstance(value, (str, dict, list, type(None))) else "Put it in quotes."
    if not isinstance(value, str) or not value.strip() or len(value.splitlines()) > 1:
        raise place.wrong(what, value, hint)
    return value.strip()


def file_name(value: Any, place: Place) -> str:
    """A name that can also be a file's: it becomes one in the report's directory."""
    name = text(value, place, "a name")
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise place.wrong(
            "a name of letters, digits, '-', '_' and '.' that begins with a letter or digit, ends in no '.' and has at "
            "most 64 characters",
            value,
        )
    return name


def choice(value: Any, place: Place, choices: Iterable[str]) -> str:
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        near = nearest(value, choices)
        raise place.wrong(f"one of {', '.join(choices)}", value, f"Did you mean {near}?" if near else "")
    return value


def flag(value: Any, place: Place) -> bool:
    if not isinstance(value, bool):
        raise place.wrong("true or false", value)
    return value


def integer(value: Any, place: Place, least: int, or_null: str = "") -> int | None:
    """An integer of at least `least`; where `or_null` says what null means, also null."""
    if value is None and or_null:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise place.wrong(f"an integer of at least {least}{f', or null for {or_null}' if or_null else ''}", value)
    return value


def number(value: Any, place: Place, expected: str, low: float, high: float, open_at: tuple[float, ...] = ()) -> float:
    """A finite number from `low` to `high`, without those of the two ends that are in `open_at`."""
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
    if not fits or value in open_at or math.isinf(value):
        raise place.wrong(expected, value)
    return float(value)
