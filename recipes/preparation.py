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
"""Makes the compressed models of a recipe: each variant once, kept beside the report."""

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from optimum_neuronmm import NeuronMMConfig, __version__, calibration, compress
from optimum_neuronmm.errors import NeuronMMError

from .data.local_files import ENVIRONMENT_VARIABLE, FOLDERS
from .description.variants import Variant
from .scoring.identity import Identity


if TYPE_CHECKING:
    from optimum_neuronmm.recovery import RecoveryConfig

# Names of sources to calibrate and train on -> how a local file of them begins and ends.
_TRAINING = {
    "wikitext2": ("wikitext2.train", ".txt"),
    "c4": ("c4.train", ".jsonl"),
    "alpaca-cleaned": ("alpaca_cleaned", ".jsonl"),
}
_TRAINING_FOLDERS = (*FOLDERS, "finetune")


@dataclass(frozen=True)
class Plan:
    """How a variant is made, and where it is kept.

    Attributes:
        directory: of the result. Its name holds a hash of everything that decides what is in it.
        compression, recovery: with local files in place of the names of sources, where there are such files.
    """

    directory: Path
    compression: NeuronMMConfig
    recovery: "RecoveryConfig | None"

    @property
    def is_made(self) -> bool:
        return (self.directory / "config.json").is_file()


def plan(variant: Variant, dense: Identity, directory: Path, data: Path | None = None) -> Plan:
    """Plans a compressed variant.

    Args:
        directory: where variants are kept.
        data: a directory in which text to calibrate and train on is looked for before the Hub is asked: files that begin
            with wikitext2.train, c4.train or alpaca_cleaned. None is the one that NEURONMM_DATA names.

    Raises:
        NeuronMMError: a source of text is unknown or not there.
    """
    compression, recovery = variant.compression, variant.recovery
    compression = replace(compression, calibration=[_local(source, data) for source in compression.calibration])
    calibration.check_sources(compression)
    files = [*compression.calibration]
    if recovery is not None:
        recovery = replace(recovery, data=[_local(source, data) for source in recovery.data])
        from optimum_neuronmm.recovery.sources import check_sources

        check_sources(recovery.data)
        files += recovery.data
    digests = {file: _digest(Path(file)) for file in files if os.path.isfile(file)}
    deciding = {
        "version": __version__,
        "model": dense.sha256,
        "compression": compression.deciding_options(),
        "recovery": None if recovery is None else recovery.to_dict(),
    }
    content = json.dumps(_with_digests(deciding, digests), sort_keys=True)
    name = f"{variant.name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
    return Plan(directory / name, compression, recovery)


def make(plan: Plan, dense: Identity, *, device: str | None = None, trust_remote_code: bool = False) -> None:
    """Compresses and, where it is asked for, trains what was planned. An interrupted run goes on where it was."""
    options = {"device": device, "trust_remote_code": trust_remote_code}
    if plan.recovery is None:
        compress(dense.directory, plan.directory, plan.compression, **options)
        return
    compressed = plan.directory.with_name(f"{plan.directory.name}-compressed")
    if not (compressed / "config.json").is_file():
        compress(dense.directory, compressed, plan.compression, **options)
    from optimum_neuronmm.recovery import recover  # loads peft, which takes seconds

    recover(compressed, plan.directory, plan.recovery, teacher=dense.directory, **options)


def _with_digests(content, digests: dict[str, str]):
    """What the text is decides, not where it lies."""
    if isinstance(content, dict):
        return {key: _with_digests(value, digests) for key, value in content.items()}
    if isinstance(content, list):
        return [_with_digests(value, digests) for value in content]
    return digests.get(content, content) if isinstance(content, str) else content


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _local(source: str, data: Path | None) -> str:
    """A local file for the name of a source, where there is one."""
    directory = data or os.environ.get(ENVIRONMENT_VARIABLE)
    if not directory or source not in _TRAINING:
        return source
    start, suffix = _TRAINING[source]
    folders = [Path(directory), *(Path(directory) / name for name in _TRAINING_FOLDERS)]
    files = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    found = [
        p for p in files if p.name.startswith(start) and p.name.endswith((suffix, suffix + ".gz")) and p.is_file()
    ]
    if len(found) > 1:
        raise NeuronMMError(
            f"{directory} has several files for the source {source}: {', '.join(path.name for path in found)}. Leave one "
            "there, or name a file in the recipe."
        )
    return str(found[0]) if found else source
