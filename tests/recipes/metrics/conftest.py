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
"""Loads metrics as a user does, and leaves nothing in the caches of the user."""

import sys
from pathlib import Path

import pytest


METRICS = Path(__file__).resolve().parents[3] / "recipes" / "metrics"


@pytest.fixture(scope="session")
def load_metric(tmp_path_factory):
    """`load_metric(name)` is the metric of that name, from the checkout."""
    import evaluate

    cache = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        # evaluate copies the script into a package `evaluate_modules`, which is imported once a process from one place.
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", str(cache / "modules"))
        patch.syspath_prepend(cache / "modules")
        for name in [name for name in sys.modules if name.split(".")[0] == "evaluate_modules"]:
            patch.delitem(sys.modules, name)
        yield lambda name, **options: evaluate.load(str(METRICS / name), cache_dir=str(cache / "data"), **options)
