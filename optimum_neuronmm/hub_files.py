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

"""What of a directory goes to the Hub: its files, and whether they are a whole model."""

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError, safe_open

from .compiled import COMPILED_CONFIG, COMPILED_GRAPHS, COMPILED_WEIGHTS, check_whole, find_compiled, shard_name
from .configuration import QUANT_METHOD, NeuronMMConfig
from .errors import NeuronMMError
from .report import REPORT_NAME, load_report
from .source import list_shards


# Of an earlier upload these would be loaded in place of, or beside, what is uploaded now.
WEIGHTS = (
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model-*-of-*.bin",
    "pytorch_model.bin.index.json",
    COMPILED_CONFIG,
    COMPILED_GRAPHS,
    f"{COMPILED_WEIGHTS}/*.safetensors",
)

_FACTORS = ("u.weight", "v.weight")
_TEXT_BYTES = 10 << 20  # what is larger is weights, and not searched for a token


@dataclass(frozen=True)
class Publication:
    """A directory that was found whole.

    Attributes:
        files: `{path in the repository: path}`, sorted.
        config: the quantization_config of config.json.
        report: neuronmm_report.json, if there is one.
        compiled: neuron_config.json of a directory that was compiled, else None.
    """

    files: dict[str, Path]
    config: NeuronMMConfig
    report: dict | None
    compiled: dict | None


def check_directory(directory: str | Path) -> Publication:
    """Finds what is to be uploaded.

    Raises:
        NeuronMMError: where the directory is not a whole compressed or compiled model.
    """
    directory = Path(directory)
    config = _read_config(directory)
    compiled = find_compiled(directory)
    if compiled is None:
        _check_factors(directory, config)
    else:
        _check_compiled(directory, compiled)
    report = load_report(directory) if (directory / REPORT_NAME).is_file() else None
    return Publication(files_of(directory), config, report, compiled)


def files_of(directory: Path) -> dict[str, Path]:
    """The files that belong in a repository: no caches, no unfinished downloads, nothing hidden.

    Raises:
        NeuronMMError: for what cannot be uploaded as it stands, above all a link that leads out of the directory.
    """

    def unreadable(error: OSError) -> None:
        raise NeuronMMError(f"{error.filename} cannot be read ({error.strerror}): change its permissions.") from error

    root = directory.resolve()
    files = {}
    for folder, folders, names in os.walk(root, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not _is_private(name))
        for name in [*folders, *(name for name in names if not _is_private(name))]:
            path = Path(folder, name)
            if path.is_symlink() or name not in folders:
                _check_file(path, root)
                files[path.relative_to(root).as_posix()] = path
    return dict(sorted(files.items()))


def check_holds_no_token(publication: Publication, token: str | None) -> None:
    """Refuses a directory with a note, a log or a configuration that holds the token it would be uploaded with."""
    if token is None or len(token) < 8:  # none of the Hub's, and found in any file
        return
    for name, path in publication.files.items():
        if path.stat().st_size <= _TEXT_BYTES and token.encode() in path.read_bytes():
            raise NeuronMMError(f"{name} holds your access token: nothing was uploaded. Remove the token from it.")


def _is_private(name: str) -> bool:
    hidden = name.startswith(".") and name != ".gitattributes"
    return hidden or name == "__pycache__" or PurePosixPath(name).suffix in (".partial", ".incomplete")


def _check_file(path: Path, root: Path) -> None:
    name = path.relative_to(root).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise NeuronMMError(f"The name of {ascii(name)} is not UTF-8: rename it.") from error
    try:
        kind = path.stat().st_mode
    except OSError as error:
        raise NeuronMMError(f"{name} cannot be read ({error.strerror}): put it right or remove it.") from error
    if not stat.S_ISREG(kind):
        what = "a link to a folder" if stat.S_ISDIR(kind) else "neither a file nor a folder"
        raise NeuronMMError(f"{name} is {what}, which the Hub cannot hold: replace or remove it.")
    if not os.access(path, os.R_OK):
        raise NeuronMMError(f"{name} may not be read: change its permissions.")
    # The Hub's own cache holds links into its `blobs`. Any other link may lead to what nobody meant to publish.
    target = path.resolve()
    if not target.is_relative_to(root) and target.parent != root.parent.parent / "blobs":
        raise NeuronMMError(
            f"{name} is a link out of the directory, to {target}: nothing was uploaded. If it is meant to be published, "
            "put the file itself in its place."
        )


def _read_config(directory: Path) -> NeuronMMConfig:
    try:
        written = json.loads((directory / "config.json").read_text(encoding="utf-8"))["quantization_config"]
        is_compressed = written["quant_method"] == QUANT_METHOD
    except (OSError, ValueError, KeyError, TypeError):
        is_compressed = False
    if not is_compressed:
        raise NeuronMMError(
            f"{directory} is not a compressed checkpoint: expected a config.json with quant_method {QUANT_METHOD!r}."
        )
    return NeuronMMConfig.from_dict(written)


def _check_factors(directory: Path, config: NeuronMMConfig) -> None:
    stored = {tensor for tensors in list_shards(directory, str(directory)).values() for tensor in tensors}
    factors = [f"{module}.{leaf}" for module in config.modules for leaf in _FACTORS]
    missing = [name for name in factors if name not in stored]
    if missing:
        raise NeuronMMError(f"{directory} lacks {missing[0]}: nothing was uploaded. Compress the model again.")


def _check_compiled(directory: Path, compiled: dict) -> None:
    """The names of tensors in compiled shards are the conversion's own, so each rank's shard is only read and counted."""
    if compiled.get("checkpoint_id") is not None:
        raise NeuronMMError(
            f"{directory} was compiled to take its weights from elsewhere (checkpoint_id "
            f"{compiled['checkpoint_id']!r} in {COMPILED_CONFIG}), which would be the dense ones. Expected null and the "
            "weights in the directory: compile the compressed directory again."
        )
    check_whole(directory, compiled)
    ranks = compiled["tp_degree"]
    for shard in map(shard_name, range(ranks)):
        if not (directory / shard).is_file():  # of a rank of another host, which is not checked for running here
            raise NeuronMMError(
                f"{directory} lacks {shard}, and the Hub needs the weights of all {ranks} ranks: nothing was uploaded."
            )
        try:
            with safe_open(directory / shard, framework="pt") as file:
                tensors = list(file.keys())
        except (SafetensorError, OSError) as error:
            raise NeuronMMError(f"{directory / shard} is damaged or incomplete ({error}).") from error
        if not tensors:
            raise NeuronMMError(f"{directory / shard} holds no tensors. Compile the model again.")
