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
"""From the path or the name of a recipe to its content: where recipes lie, and YAML read strictly."""

import re
from pathlib import Path
from typing import Any

import yaml

from optimum_neuronmm.errors import NeuronMMError

from .schema import did_you_mean


FOLDER = Path(__file__).resolve().parent.parent
_SUFFIX = ".yaml"
_WRONG_VALUES = (ValueError, TypeError, KeyError, AttributeError, OverflowError)


def shipped_recipes() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(path.name.removesuffix(_SUFFIX) for path in FOLDER.glob(f"*{_SUFFIX}"))


def find_recipe(path_or_name: str | Path) -> Path:
    """The file of a recipe: what lies at the path, else the one that the package ships under the name.

    Raises:
        NeuronMMError: there is neither.
    """
    path, known = Path(path_or_name), shipped_recipes()
    if path.is_file():
        return path
    name = str(path_or_name).removesuffix(_SUFFIX)
    if name in known:
        return FOLDER / f"{name}{_SUFFIX}"
    if path.is_dir():
        raise NeuronMMError(f"The recipe {path_or_name} is a directory: give the path of a {_SUFFIX} file.")
    if path.suffix in (_SUFFIX, ".yml") or path.name != str(path_or_name):
        missing = f"The recipe {path_or_name} does not exist{did_you_mean(name, known)}"
    else:
        missing = f"Unknown recipe {str(path_or_name)!r}{did_you_mean(name, known)}"
    raise NeuronMMError(f"{missing} Give the path of a {_SUFFIX} file, or a name: {', '.join(known)}.")


def read_recipe(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        NeuronMMError: it cannot be read, is not UTF-8, not YAML, or has a key twice.
    """
    try:
        content = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise NeuronMMError(f"recipe {path.name}: not UTF-8 (byte {error.start}). Save it as UTF-8.") from error
    except OSError as error:
        raise NeuronMMError(f"recipe {path.name}: could not be read: {error.strerror or error}.") from error
    try:
        return yaml.load(content, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise NeuronMMError(f"recipe {path.name}{line}: not valid YAML: {error.problem or error.context}.") from error
    except yaml.YAMLError as error:  # a character that YAML does not allow: the message says which, and where
        raise NeuronMMError(f"recipe {path.name}: not valid YAML: {error}.") from error
    except RecursionError as error:
        raise NeuronMMError(f"recipe {path.name}: not valid YAML: nested too deeply.") from error


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which besides refuses a key that is given twice and takes 1e-4 for a number."""

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                problem = f"the key {key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add((key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key))
        return node

    def construct_object(self, node, deep=False):
        try:
            return super().construct_object(node, deep)
        except _WRONG_VALUES as error:  # of a date such as 2024-13-01: Python's own errors, without a place
            problem = f"a value that cannot be read ({error})"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


# PyYAML follows YAML 1.1, where 1e-4 is a text because it lacks the dot.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
