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
"""Conventions that every file of the project keeps."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "optimum_neuronmm"
PYTHON_FILES = sorted(
    path
    for folder in (PACKAGE, *(ROOT / name for name in ("kernels", "recipes", "tests", "benchmarks")))
    for path in folder.rglob("*.py")
)
HEADER = """\
# Copyright 2026 The optimum-neuronmm authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
"""
DEVICE_ONLY = {"optimum.neuron", "torch_neuronx", "torch_xla", "neuronx_distributed", "libneuronxla", "vllm"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    """The name that a file is imported by: kernels/ and recipes/ install inside the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] == "optimum_neuronmm" else ("optimum_neuronmm", *parts))


def imports(path: Path, everywhere: bool = True) -> set[str]:
    """Absolute names of what a file imports; with `everywhere` unset only what importing it loads.

    `from a import b` counts as `a.b`: whether b is a module cannot be seen from here, and `a` is a prefix of it.
    """
    package = module_name(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    found = set()
    nodes = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.update(f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            nodes.extend(node.orelse)
            continue
        if everywhere or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            nodes.extend(ast.iter_child_nodes(node))
    return found


def within(name: str, *modules: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def files_of(room: str) -> list[Path]:
    """The files of a room: a folder or a module of the package, or kernels/ or recipes/. None where it is not built yet."""
    base = ROOT / room if room in ("kernels", "recipes") else PACKAGE / room
    return sorted(base.rglob("*.py")) or [path for path in [base.with_suffix(".py")] if path.is_file()]


@pytest.mark.parametrize("path", PYTHON_FILES, ids=relative)
def test_licence_header(path):
    assert path.read_text(encoding="utf-8").startswith(HEADER), f"{relative(path)} lacks the Apache-2.0 header"


@pytest.mark.parametrize("folder", ["kernels", "recipes", "optimum_neuronmm/commands/register", "tests", "."])
def test_no_stray_init(folder):
    # A regular package `kernels` in the checkout would shadow the one that transformers imports, and an __init__.py in
    # a namespace package breaks every other Optimum package.
    assert not (ROOT / folder / "__init__.py").exists()


def test_no_conftest_at_the_root():
    assert not (ROOT / "conftest.py").exists()


# What the modules of a room may import of their own package.
ALLOWED = {
    "configuration": {"errors", "version"},
    "errors": set(),
    "version": set(),
    "processes": set(),
    "json_text": {"errors"},
    "ranks": {"errors"},
    "families": {"errors"},
    "kernels": {"kernels"},
    "modeling": {"configuration", "families", "errors"},
    "quantizer": {"configuration", "families", "modeling", "errors", "version"},
}
# What the modules of a room may not import of their own package.
FORBIDDEN = {"neuron": {"commands", "recipes", "auto", "planning"}, "planning": {"commands", "recipes", "auto"}}
# What the modules of a room may import of anything else, where that is restricted.
FOREIGN = {
    "errors": set(),
    "version": set(),
    "processes": set(),
    "ranks": {"numpy"},
    "decomposition": {"numpy", "torch"},
    "calibration": {"numpy", "torch", "datasets"},
    "kernels": {"numpy", "torch", "neuronxcc", "nki", "ml_dtypes"},
    "planning": {"torch", "transformers", "huggingface_hub", "matplotlib", "tqdm"},
    "commands": {"optimum.commands"},
}


@pytest.mark.parametrize("room", ALLOWED)
def test_direction_of_imports(room):
    allowed = [f"optimum_neuronmm.{name}" for name in ALLOWED[room]]
    for path in files_of(room):
        wrong = {n for n in imports(path) if within(n, "optimum_neuronmm") and not within(n, *allowed)}
        assert not wrong, f"{relative(path)} may import {sorted(ALLOWED[room])} of this package, but imports {wrong}"


@pytest.mark.parametrize("room", FORBIDDEN)
def test_rooms_that_lie_below(room):
    forbidden = [f"optimum_neuronmm.{name}" for name in FORBIDDEN[room]]
    for path in files_of(room):
        wrong = {n for n in imports(path) if within(n, *forbidden)}
        assert not wrong, f"{relative(path)} may not import {wrong}"


@pytest.mark.parametrize("room", FOREIGN)
def test_foreign_imports(room):
    for path in files_of(room):
        wrong = {
            name
            for name in imports(path)
            if not within(name, "optimum_neuronmm", *FOREIGN[room])
            and name.split(".")[0] not in sys.stdlib_module_names
        }
        assert not wrong, f"{relative(path)} may import {sorted(FOREIGN[room])}, but imports {wrong}"


@pytest.mark.parametrize("path", files_of("kernels"), ids=relative)
def test_kernels_import_without_the_sdk(path):
    eager = {name.split(".")[0] for name in imports(path, everywhere=False)}
    assert not eager & {"neuronxcc", "nki"}, f"{relative(path)} must import the SDK lazily"


LIBRARY = [path for path in PYTHON_FILES if not path.is_relative_to(ROOT / "tests")]


@pytest.mark.parametrize("path", LIBRARY, ids=relative)
def test_only_the_neuron_room_imports_the_device_libraries(path):
    if not path.is_relative_to(PACKAGE / "neuron"):
        wrong = {name for name in imports(path) if within(name, *DEVICE_ONLY)}
        assert not wrong, f"only optimum_neuronmm/neuron/ may import {wrong}, not {relative(path)}"


@pytest.mark.parametrize("path", LIBRARY, ids=relative)
def test_only_commands_and_recipes_import_recipes(path):
    if path.is_relative_to(PACKAGE) and not path.is_relative_to(PACKAGE / "commands"):
        wrong = {name for name in imports(path) if within(name, "optimum_neuronmm.recipes", "recipes")}
        assert not wrong, f"{relative(path)} may not import {wrong}"


# What comes with a dependency that is declared, and may be imported as if it were; or has another name than its package.
COMES_WITH = {"tokenizers": "transformers", "yaml": "PyYAML"}


@pytest.mark.parametrize("path", LIBRARY, ids=relative)
def test_imports_are_declared(path):
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no TOML reader")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = list(project["dependencies"])
    folder = relative(path).partition("/")[0]
    for extra in {"recipes": ["recipes"], "benchmarks": ["recipes", "tests"]}.get(folder, []):
        declared += project["optional-dependencies"][extra]
    names = {re.match(r"[\w-]+", requirement)[0].replace("-", "_") for requirement in declared}
    own = {"optimum_neuronmm", "neuronxcc", "nki"} | {name.split(".")[0] for name in DEVICE_ONLY}
    own |= {"tests"} if folder == "benchmarks" else set()
    roots = {name.split(".")[0] for name in imports(path)} - own - set(sys.stdlib_module_names)
    missing = {root for root in roots if COMES_WITH.get(root, root) not in names}
    assert not missing, f"{relative(path)} imports {missing}, which pyproject.toml does not declare"


@pytest.mark.parametrize("path", files_of("commands"), ids=relative)
def test_commands_are_cheap_to_import(path):
    # `optimum-cli` imports them on every call, so whatever takes time belongs inside `run`.
    own = ("commands", "errors", "processes", "version")
    cheap = ("optimum.commands", *(f"optimum_neuronmm.{name}" for name in own))
    eager = {name for name in imports(path, everywhere=False) if name.split(".")[0] not in sys.stdlib_module_names}
    wrong = {name for name in eager if not within(name, *cheap)}
    assert not wrong, f"{relative(path)} must import {wrong} inside run()"


@pytest.mark.parametrize("module", ["optimum_neuronmm", "optimum_neuronmm.commands.flags"])
def test_import_loads_no_framework(module):
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.split(".")[0] for name in result.stdout.split()}
    assert not loaded & {"torch", "transformers", "optimum", "numpy", "datasets", "accelerate"}
