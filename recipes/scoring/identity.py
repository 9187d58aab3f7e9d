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
"""Which model it is that numbers belong to."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from optimum_neuronmm import load_report
from optimum_neuronmm.cache import is_compressed
from optimum_neuronmm.compiled import find_compiled
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.source import download


_DECIDING = (
    *("*.safetensors", "*.bin", "model.pt", "config.json", "neuron_config.json", "*.py"),
    *(
        "token*",
        "*.model",
        "*.tiktoken",
        "tekken.json",
        "vocab*",
        "merges.txt",
        "special_tokens_map.json",
        "added_tokens.json",
    ),
)
_PIECE = 1 << 22  # bytes


@dataclass(frozen=True)
class Identity:
    """A model that is to be evaluated, before it is loaded.

    Attributes:
        name: Hub id, or the name of the directory.
        revision: commit of a model on the Hub.
        directory: where its files are.
        sha256: over the files that decide what it computes: weights, configuration, tokenizer, code.
        kind: "dense", "compressed" or "compiled".
        requested_ratio, achieved_ratio: share of the MLP parameters removed; 0 for a dense model.
        parameters: of the whole model; None for a compiled one.
        made: how a compressed model was compressed, in words of its configuration.
    """

    name: str
    revision: str | None
    directory: Path
    sha256: str
    kind: str
    requested_ratio: float
    achieved_ratio: float
    parameters: int | None
    made: str | None = None


def identify(model: str | Path, revision: str | None = None, cache_dir: str | None = None) -> Identity:
    """Finds a model, a directory or a Hub id, and says what it is.

    Raises:
        NeuronMMError: it is not there, or damaged.
    """
    directory = Path(model)
    name, commit = str(model), None
    if os.path.isdir(directory):
        name = directory.resolve().name
    elif directory.exists():
        raise NeuronMMError(f"{model} is a file. Expected a directory with config.json and weights, or a Hub id.")
    else:
        directory = _fetched(str(model), revision, cache_dir)
        commit = directory.name
    kind = _kind(directory)
    requested, achieved, made = 0.0, 0.0, None
    if kind != "dense" and is_compressed(directory):
        report = load_report(directory)
        requested, achieved = report["compression_ratio"]["requested"], report["compression_ratio"]["projections"]
        made = _made(report)
    parameters = None if kind == "compiled" else _parameters(directory)
    return Identity(name, commit, directory, _digest(directory), kind, requested, achieved, parameters, made)


def _fetched(model: str, revision: str | None, cache_dir: str | None) -> Path:
    if find_compiled(model, revision=revision, cache_dir=cache_dir) is None:
        return download(model, revision, cache_dir)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, cache_dir=cache_dir))
    except OSError as error:
        raise NeuronMMError(
            f"{model} could not be fetched whole ({type(error).__name__}). Check the connection."
        ) from error


def _kind(directory: Path) -> str:
    if not (directory / "config.json").is_file():
        raise NeuronMMError(f"{directory} has no config.json: expected the directory of a Hugging Face model.")
    if find_compiled(directory) is not None:
        return "compiled"
    return "compressed" if is_compressed(directory) else "dense"


def _made(report: dict) -> str:
    sources = [f"{source['source']} ({source['windows']} windows)" for source in report["calibration"]["sources"]]
    parts = [
        f"decomposition {report.get('decomposition', 'whitened')}",
        f"allocation {report.get('allocation', 'uniform')}",
        f"calibrated on {' and '.join(sources)}",
    ]
    if any(step["kept"] for step in report.get("refinements", [])):
        parts.append("refined")
    if "recovery" in report:
        parts.append(
            f"trained on {report['recovery']['tokens']:,} tokens ({report['recovery']['options']['objective']})"
        )
    return ", ".join(parts)


def _digest(directory: Path) -> str:
    paths = {path for pattern in _DECIDING for path in directory.glob(pattern)}
    paths |= set((directory / "checkpoint").rglob("*.safetensors"))
    files = sorted((path.relative_to(directory).as_posix(), path) for path in paths if path.is_file())
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(json.dumps([name, path.stat().st_size]).encode())
        with open(path, "rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    return digest.hexdigest()


def _parameters(directory: Path) -> int | None:
    """Counted from the headers of the weights, None where they are not safetensors."""
    from safetensors import SafetensorError, safe_open

    files = sorted(directory.glob("model*.safetensors"))
    total = 0
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():
                    count = 1
                    for size in file.get_slice(name).get_shape():
                        count *= size
                    total += count
        except (SafetensorError, OSError) as error:
            raise NeuronMMError(f"{path} is damaged or incomplete ({error}). Fetch or write it again.") from error
    return total or None
