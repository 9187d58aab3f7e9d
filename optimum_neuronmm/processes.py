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
"""Child processes that run a module of this package."""

import sys
from pathlib import Path


# It imports nothing before the path is set: the first entry that Python makes for `-c` is the current directory.
_START = (
    "import sys; sys.path[:] = sys.argv.pop(1).split(chr(10)); import runpy; "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs `module` as this Python would, and looks for modules where this process does.

    Not in the current directory, where anything may lie, unless this process was given it by name.
    """
    package = str(Path(__file__).resolve().parents[1])
    return [sys.executable, "-c", _START, "\n".join(path for path in [*sys.path, package] if path), module, *arguments]
