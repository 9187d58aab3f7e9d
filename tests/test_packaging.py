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
"""What a wheel holds: every module at the place it is imported from, and nothing that would break other packages."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from optimum_neuronmm.recipes.metrics.by_name import METRICS


ROOT = Path(__file__).resolve().parent.parent
STUB = "optimum/commands/register/register_neuronmm.py"
# Where the folders of the checkout lie in an installation.
INSTALLED = {
    "optimum_neuronmm/commands/register": "optimum/commands/register",
    "optimum_neuronmm": "optimum_neuronmm",
    "kernels": "optimum_neuronmm/kernels",
    "recipes": "optimum_neuronmm/recipes",
}


def installed_path(path: Path) -> str:
    relative = path.relative_to(ROOT).as_posix()
    folder = next(folder for folder in INSTALLED if relative.startswith(f"{folder}/"))
    return INSTALLED[folder] + relative.removeprefix(folder)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> list[str]:
    """The names in a wheel built from a copy of the checkout, without the network."""
    source = tmp_path_factory.mktemp("source")
    for name in ("optimum_neuronmm", "kernels", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    target = tmp_path_factory.mktemp("wheel")
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    result = subprocess.run(
        [sys.executable, "-c", build, str(target)], cwd=source, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = target.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_wheel_holds_exactly_the_modules_and_recipes(wheel):
    folders = ("optimum_neuronmm", "kernels", "recipes")
    modules = {installed_path(path) for folder in folders for path in (ROOT / folder).rglob("*.py")}
    recipes = {installed_path(path) for path in (ROOT / "recipes").rglob("*.yaml")}
    contents = {name for name in wheel if ".dist-info/" not in name}
    assert contents == modules | recipes | {"optimum_neuronmm/py.typed"}
    assert {"llama-3.2-1b.yaml", "smollm2-135m-instruct.yaml"} <= {name.rpartition("/")[2] for name in recipes}


def test_wheel_holds_the_metrics_where_evaluate_looks_for_them(wheel):
    metrics = METRICS.relative_to(ROOT / "recipes").as_posix()
    names = {path.name for path in METRICS.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert {"multiple_choice", "perplexity"} <= names
    assert {f"optimum_neuronmm/recipes/{metrics}/{name}/{name}.py" for name in names} <= set(wheel)


def test_wheel_adds_only_the_stub_to_optimum(wheel):
    assert [name for name in wheel if name.startswith("optimum/")] == [STUB]
    assert [name for name in wheel if name.startswith("optimum_neuronmm/commands/register")] == []


def test_stub_lies_alone_in_its_folder():
    folder = ROOT / "optimum_neuronmm/commands/register"
    assert [path.name for path in folder.iterdir() if path.name != "__pycache__"] == ["register_neuronmm.py"]


def test_wheel_has_the_version_of_the_package(wheel):
    version = re.search(r'__version__ = "(.+)"', (ROOT / "optimum_neuronmm/version.py").read_text())[1]
    assert f"optimum_neuronmm-{version}.dist-info/METADATA" in wheel


def test_wheel_has_the_licence(wheel):
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)
