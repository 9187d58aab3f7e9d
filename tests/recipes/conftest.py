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
"""Small data for all nine tasks, and a place for the scripts of metrics, which is not the user's."""

from pathlib import Path

import pytest

from . import metric_scripts
from .made_data import write_data


@pytest.fixture(scope="session", autouse=True)
def modules_cache(tmp_path_factory) -> Path:
    with metric_scripts.copied_to(tmp_path_factory.mktemp("modules")) as directory:
        yield directory


@pytest.fixture(scope="session")
def nine_tasks(tmp_path_factory) -> Path:
    """A directory of local data for every task, with text to calibrate on."""
    return write_data(tmp_path_factory.mktemp("data"))
