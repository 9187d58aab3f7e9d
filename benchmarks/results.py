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
"""Tables of figures, and goals beside the values that they are for: printed as they come, kept for a file."""

import json
import operator
from collections.abc import Iterable
from pathlib import Path


_COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "=": operator.eq}
_SHOWN = 4  # rows that a note names


class Results:
    """Rows of tables and goals, printed as they come."""

    def __init__(self):
        self.tables: dict[str, list[dict]] = {}
        self.goals: list[dict] = []
        self.notes: dict[str, dict[str, list[str]]] = {}
        self.section = ""

    def begin(self, section: str, title: str) -> None:
        self._print_notes()
        self.section = section
        print(f"\n== {title}", flush=True)

    def note(self, row: str, notes: Iterable[str]) -> None:
        """Keeps what is to be said about a row of this section; each note is printed once, with its rows, at the section's end."""
        for note in notes:
            self.notes.setdefault(self.section, {}).setdefault(note, []).append(row)

    def _print_notes(self) -> None:
        for note, rows in self.notes.get(self.section, {}).items():
            more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
            print(f"  note on {'; '.join(rows[:_SHOWN])}{more}: {note}")

    def table(self, name: str, rows: list[dict]) -> None:
        self.tables[name] = rows
        columns = list(dict.fromkeys(key for row in rows for key in row))
        cells = [columns, *([text(row.get(column)) for column in columns] for row in rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
        for line in cells:
            print(
                "  ".join(
                    cell.ljust(w) if i == 0 else cell.rjust(w)
                    for i, (cell, w) in enumerate(zip(line, widths, strict=True))
                )
            )

    def goal(self, what: str, value, compare: str, limit, within: float = 0.0) -> None:
        """Compares a value with its goal; `within`: what "=" and "<=" forgive, relative to the goal."""
        if value is None:
            met = False
        elif compare == "=" and within:
            met = abs(value / limit - 1) <= within
        else:
            met = _COMPARE[compare](value, limit * (1 + within))
        self.goals.append(
            {
                "section": self.section,
                "what": what,
                "value": value,
                "compare": compare,
                "goal": limit,
                "met": bool(met),
            }
        )
        shown = f"{compare} {text(limit)}" + (f" within {within:.1%}" if within else "")
        print(f"  {'met   ' if met else 'MISSED'}  {what}: {text(value)} (goal {shown})", flush=True)

    @property
    def missed(self) -> list[dict]:
        return [goal for goal in self.goals if not goal["met"]]

    def end(self, file: Path | None, **figures) -> None:
        """Says how many goals are met, and writes tables and goals beside `figures` to a JSON file if there is one."""
        self._print_notes()
        print(f"\n{len(self.goals) - len(self.missed)} of {len(self.goals)} goals met")
        if file:
            content = {**figures, "tables": self.tables, "goals": self.goals}
            content |= {"notes": self.notes} if self.notes else {}
            file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def text(value) -> str:
    """A cell of a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}"
    return str(value)
