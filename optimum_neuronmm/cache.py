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
"""Compressed models that were made before: one directory for each model, revision and choice of options."""

import hashlib
import json
import re
from pathlib import Path

from huggingface_hub.constants import HF_HOME
from transformers import PretrainedConfig
from transformers.utils import logging

from .calibration import check_sources, file_stats
from .compression import compress
from .configuration import QUANT_METHOD, NeuronMMConfig
from .source import open_dense


logger = logging.get_logger(__name__)


def is_compressed(model_id, **hub) -> bool:
    """Whether a directory or Hub id holds a compressed checkpoint. False where it cannot be read.

    hub: `revision`, `cache_dir`, `token`.
    """
    try:
        config, _ = PretrainedConfig.get_config_dict(model_id, **hub)
    except (OSError, ValueError, TypeError):  # no JSON object is a TypeError
        return False  # opening it as a dense model says what is wrong
    written = config.get("quantization_config")
    return isinstance(written, dict) and written.get("quant_method") == QUANT_METHOD


def compressed_once(model_id, config: NeuronMMConfig, trust_remote_code: bool = False, **hub) -> Path:
    """The cached directory of `model_id` compressed with `config`; written if it is not there.

    hub: `revision`, `cache_dir`, `token`.
    """
    checkpoint = open_dense(model_id, **hub, trust_remote_code=trust_remote_code)
    check_sources(config)
    content = [
        checkpoint.fingerprint(),
        config.deciding_options(),
        file_stats(config.calibration + config.recovery_data),
    ]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    name = re.sub(r"[^\w.-]+", "--", str(model_id)).strip("-")[-60:]
    directory = Path(HF_HOME) / "neuronmm" / f"{name}-{key[:16]}"
    if (directory / "config.json").is_file():
        logger.warning(f"Using the compressed model in {directory}.")
    else:
        compress(model_id, directory, config, trust_remote_code=trust_remote_code, **hub)
    return directory
