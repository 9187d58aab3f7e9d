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
"""Keeps the scripts that `evaluate` copies out of the user's cache."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from optimum_neuronmm.recipes.metrics.by_name import metric


@contextmanager
def copied_to(directory: Path) -> Iterator[Path]:
    """In the block, metrics are copied to `directory`, by this process and by those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_MODULES_CACHE", str(directory))
        if "evaluate" in sys.modules:  # it has read the variable
            patch.setattr(sys.modules["evaluate"].config, "HF_MODULES_CACHE", str(directory))
        patch.syspath_prepend(directory)
        _forget()
        yield directory
        _forget()


def _forget() -> None:
    """Scripts are modules of one package, which is imported once a process, from one place."""
    metric.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "evaluate_modules"]:
        del sys.modules[name]
