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
"""Models of which there is a config and nothing else."""

import json

import pytest

from tests.conftest import FAMILY_OPTIONS, TINY


@pytest.fixture
def config_only(tmp_path):
    """`config_only(family, **options)`: a directory with a config.json; an option of None is left out."""

    def write(family="llama", **options):
        from transformers import AutoConfig

        options = {**TINY, **FAMILY_OPTIONS[family], **options}
        given = {name: value for name, value in options.items() if value is not None}
        AutoConfig.for_model(family, **given).save_pretrained(tmp_path / family)
        return tmp_path / family

    return write


@pytest.fixture
def raw_config(tmp_path):
    """`raw_config(content)`: a directory whose config.json is this text, or this object as JSON."""

    def write(content):
        folder = tmp_path / "raw"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return folder

    return write
