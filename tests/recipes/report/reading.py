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
"""Reads the tables of a report back."""

from optimum_neuronmm.recipes.report.markdown import markdown

from .fabricated import results


RESULTS, CHANGE, NORMALISED = "Results", "Change against the baseline", "Accuracy by length-normalised choice"
SPEED, MODELS, DATA = "Speed", "Models", "Data and protocol"


def cells(line: str) -> list[str]:
    """The cells of a row, with `\\|` as part of a cell, as a renderer splits it."""
    parts, escaping = [""], False
    for letter in line.strip()[1:-1]:
        if letter == "|" and not escaping:
            parts.append("")
        else:
            parts[-1] += letter
        escaping = letter == "\\" and not escaping
    return [part.strip() for part in parts]


def read_tables(text: str) -> dict[str, list[dict[str, str]]]:
    """`{heading: rows}`, a row as `{column: cell}`. Every row has as many cells as the header."""
    tables, heading, header = {}, None, None
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("#"):
            heading, header = line.lstrip("# "), None
        elif line.startswith("|") and header is None:
            header = cells(line)
            assert len(set(header)) == len(header) and not lines[number - 1]
            tables[heading] = []
        elif line.startswith("|"):
            row = cells(line)
            assert len(row) == len(header)
            if set("".join(row)) != {"-", ":"} and set("".join(row)) != {"-"}:
                tables[heading].append(dict(zip(header, row, strict=True)))
    return tables


def tables_of(*models, **changes) -> dict[str, list[dict[str, str]]]:
    return read_tables(markdown(results(*models, **changes)))
