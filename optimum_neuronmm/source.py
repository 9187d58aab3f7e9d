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
"""The dense model on disk: found, checked, and read one tensor at a time."""

import errno
import hashlib
import json
import os
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PretrainedConfig
from transformers.utils import logging

from .errors import NeuronMMError


logger = logging.get_logger(__name__)

_FORMATS = ("model.safetensors", "pytorch_model.bin")  # in order of preference
_HUB_PATTERNS = ["*.json", "*.txt", "*.model", "*.jinja", "*.py", "LICENSE*", "NOTICE*", "USE_POLICY*"]
# What belongs to a model beside its config and its weights.
COMPANIONS = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "chat_template*",
    "preprocessor_config.json",
    "processor_config.json",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)


# The names that the safetensors format has for dtypes.
SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class TensorInfo:
    """Form of a tensor on disk."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


class DenseCheckpoint:
    """A directory with a dense Hugging Face model.

    Everything that can be known to be wrong is found here, before any work is done: a missing or truncated shard, a
    model that is compressed or quantised already, remote code that was not allowed.

    Attributes:
        directory: where it lies.
        config: its transformers config.
        shards: `{file name: {tensor name: TensorInfo}}`, in the order in which they are listed.
        tensors: `{tensor name: TensorInfo}` of all shards.
        dtype: of most parameters.
        name: what the user called it: a Hub id or a directory.
        revision: the commit of a Hub snapshot, None for a directory.
    """

    def __init__(self, directory: Path, name: str, revision: str | None = None, trust_remote_code: bool = False):
        self.directory, self.name, self.revision = directory, name, revision
        self.trust_remote_code = trust_remote_code
        self.config = _read_config(directory, name, trust_remote_code)
        self.shards = list_shards(directory, name)
        self._file_of = {tensor: file for file, tensors in self.shards.items() for tensor in tensors}
        self.tensors = {name: info for tensors in self.shards.values() for name, info in tensors.items()}
        sizes = Counter()
        for info in self.tensors.values():
            sizes[info.dtype] += info.numel
        self.dtype = sizes.most_common(1)[0][0]

    @property
    def nbytes(self) -> int:
        return sum(info.nbytes for info in self.tensors.values())

    def info(self, name: str) -> TensorInfo:
        """Form of a tensor that the model needs."""
        if name not in self.tensors:
            raise NeuronMMError(
                f"{self.name} has no tensor {name!r}, which a {self.config.model_type} needs. The checkpoint is "
                "incomplete, or does not hold the whole causal language model."
            )
        return self.tensors[name]

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Tensors by name. Their files are closed again, so that memory does not grow with what was read before."""
        by_file: dict[str, list[str]] = {}
        for name in names:
            self.info(name)  # names what is missing
            by_file.setdefault(self._file_of[name], []).append(name)
        tensors = {}
        for file, wanted in by_file.items():
            tensors.update(_read_file(self.directory / file, wanted))
        return tensors

    def companions(self) -> list[Path]:
        """Tokenizer, generation config, licence and, where it is trusted, code. Never weights.

        Raises:
            NeuronMMError: for one that may not be read.
        """
        patterns = (*COMPANIONS, "*.py") if self.trust_remote_code else COMPANIONS
        refused = (".safetensors", ".bin") if self.trust_remote_code else (".safetensors", ".bin", ".py")
        found = {path for pattern in patterns for path in self.directory.glob(pattern)}
        files = sorted(path for path in found if path.is_file() and not path.name.endswith(refused))
        closed = [path for path in files if not os.access(path, os.R_OK)]
        if closed:
            raise NeuronMMError(f"{closed[0]} belongs to the model and may not be read: change its permissions.")
        return files

    def fingerprint(self) -> str:
        """Identity of the model: the commit of a snapshot, else sizes and times of a directory's files."""
        if self.revision:
            return f"{self.name}@{self.revision}"
        files = [*self.shards, *(path.name for path in self.companions())]
        stats = [(file, (self.directory / file).stat()) for file in files]
        content = [(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats]
        config = (self.directory / "config.json").read_text(encoding="utf-8")
        return hashlib.sha256(json.dumps([str(self.directory.resolve()), content, config]).encode()).hexdigest()


def open_dense(
    model: str | Path,
    revision: str | None = None,
    cache_dir: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
) -> DenseCheckpoint:
    """Finds `model`, a directory or a Hub id, and checks it.

    Raises:
        NeuronMMError: saying what is wrong with it.
    """
    directory = Path(model)
    if os.path.isdir(directory):
        return DenseCheckpoint(directory, str(model), trust_remote_code=trust_remote_code)
    if os.path.exists(directory):
        raise NeuronMMError(f"{model} is a file. Expected a directory with config.json and weights, or a Hub id.")
    snapshot = download(str(model), revision, cache_dir, token)
    return DenseCheckpoint(snapshot, str(model), snapshot.name, trust_remote_code)


def download(model: str, revision: str | None = None, cache_dir: str | None = None, token: str | None = None) -> Path:
    """The snapshot of a Hub model: config, tokenizer and weights.

    Raises:
        NeuronMMError: saying what is wrong with it.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    options = {"repo_id": model, "revision": revision, "cache_dir": cache_dir, "token": token}
    try:
        try:
            files = HfApi(token=token).list_repo_files(model, revision=revision)
        except HfHubHTTPError:
            raise  # the Hub answered: not there, gated, not logged in, ...
        except OSError:
            snapshot = Path(snapshot_download(**options, local_files_only=True))
            logger.warning(f"The Hub cannot be reached: using the snapshot {snapshot.name} of {model} in the cache.")
            return snapshot
        stem = "model" if any(file.endswith(".safetensors") for file in files) else "pytorch_model"
        weights = [f"{stem}*.safetensors", f"{stem}*.bin"]
        return Path(snapshot_download(**options, allow_patterns=_HUB_PATTERNS + weights))
    except (HFValidationError, OSError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise NeuronMMError(f"No space left on the disk of the Hub's cache while fetching {model}.") from error
        raise NeuronMMError(
            f"{model} is neither a directory nor a Hub model that could be fetched ({type(error).__name__}). Check the "
            "spelling, the connection and, for gated models, that you are logged in (hf auth login)."
        ) from error


def read_config_json(directory: Path, name: str) -> dict:
    """What config.json of a model holds.

    Raises:
        NeuronMMError: there is none, or it holds no JSON object.
    """
    path = directory / "config.json"
    if not os.path.isfile(path):
        raise NeuronMMError(f"{name} has no config.json. Expected the directory of a Hugging Face model.")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise NeuronMMError(f"{path} is not valid JSON: {error}.") from error
    except OSError as error:
        raise NeuronMMError(f"{path} could not be read: {error.strerror}.") from error
    if not isinstance(raw, dict):
        raise NeuronMMError(f"{path} must hold a JSON object, got {type(raw).__name__}.")
    return raw


def _read_config(directory: Path, name: str, trust_remote_code: bool) -> PretrainedConfig:
    raw = read_config_json(directory, name)
    quantization = raw.get("quantization_config")
    if quantization is not None:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        if method == "neuronmm":
            raise NeuronMMError(
                f"{name} is compressed already. Load it with AutoModelForCausalLM.from_pretrained after `import "
                "optimum_neuronmm`; to compress at another ratio, start from the dense model."
            )
        raise NeuronMMError(
            f"{name} is quantised ({method}). Factors are computed from full-precision weights: start from the "
            "original model."
        )
    code = raw.get("auto_map")
    if code and not trust_remote_code:
        what = ", ".join(sorted(code)) if isinstance(code, dict) else code
        raise NeuronMMError(
            f"{name} runs code of its own ({what}). If you trust it, allow that with --trust-remote-code, or "
            "trust_remote_code=True in Python."
        )
    try:
        return AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except Exception as error:  # its fields reach code of each family, and of the model itself
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NeuronMMError(
            f"transformers could not read the config of {name} (model type {raw.get('model_type')!r}): {reason}"
        ) from error


def list_shards(directory: Path, name: str) -> dict[str, dict[str, TensorInfo]]:
    """`{file name: {tensor name: TensorInfo}}` of the weights that transformers would load from a directory.

    Raises:
        NeuronMMError: where they are missing, incomplete or damaged.
    """
    for single in _FORMATS:
        shards = None
        if (directory / single).is_file():
            shards = {single: _tensors_of(directory / single, name)}
        elif (directory / f"{single}.index.json").is_file():
            shards = _list_indexed(directory / f"{single}.index.json", name)
        if shards is not None and any(shards.values()):
            return shards
    raise NeuronMMError(
        f"{name} holds no weights that can be read: expected {' or '.join(_FORMATS)}, or an index of shards."
    )


def _list_indexed(index_path: Path, name: str) -> dict[str, dict[str, TensorInfo]]:
    try:
        weight_map = json.loads(index_path.read_text(encoding="utf-8"))["weight_map"]
        listed: dict[str, list[str]] = {}
        for tensor, file in weight_map.items():
            listed.setdefault(file, []).append(tensor)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NeuronMMError(f"{index_path} is not a weight index: {error!r}. Fetch it again.") from error
    shards = {}
    for file, tensors in listed.items():
        if not isinstance(file, str) or Path(file).name != file or file == "..":
            raise NeuronMMError(f"{index_path.name} of {name} points outside its directory: {file!r}.")
        found = _tensors_of(index_path.parent / file, name)
        missing = sorted(set(tensors) - set(found))
        if missing:
            raise NeuronMMError(f"{file} of {name} lacks {missing[0]}, which the index lists in it. Fetch it again.")
        shards[file] = {tensor: found[tensor] for tensor in tensors}
    return shards


def _tensors_of(path: Path, model: str) -> dict[str, TensorInfo]:
    if not path.is_file():
        raise NeuronMMError(f"{model} lacks the shard {path.name}, which its index lists. Fetch the model again.")
    if path.suffix == ".bin":
        state = _load_pickle(path)
        unknown = [str(t.dtype) for t in state.values() if t.dtype not in SAFETENSORS_DTYPES.values()]
        if unknown:
            raise NeuronMMError(
                f"{path.name} of {model} holds tensors of type {unknown[0]}, expected full-precision weights."
            )
        return {name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()}
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            dtypes = {name: part.get_dtype() for name, part in slices.items()}
            unknown = sorted({dtype for dtype in dtypes.values() if dtype not in SAFETENSORS_DTYPES})
            if unknown:
                raise NeuronMMError(
                    f"{path.name} of {model} holds tensors of type {unknown[0]}, expected full-precision weights."
                )
            return {
                name: TensorInfo(tuple(part.get_shape()), SAFETENSORS_DTYPES[dtypes[name]])
                for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise NeuronMMError(f"{path.name} of {model} is damaged or incomplete ({error}). Fetch it again.") from error


def _read_file(path: Path, names: list[str]) -> dict[str, torch.Tensor]:
    if path.suffix == ".bin":
        state = _load_pickle(path)
        return {name: state[name].clone() for name in names}
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).clone() for name in names}


def _load_pickle(path: Path) -> dict[str, torch.Tensor]:
    """Reads pickled weights with torch's weights-only loader, which runs no code of the file."""
    try:
        # torch maps only the archives that it has written since 1.6 into memory.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, ValueError, EOFError, ...
        raise NeuronMMError(
            f"{path.name} could not be read with torch's weights-only loader ({type(error).__name__}). It is damaged, or "
            "is a pickle that holds more than tensors, which is not loaded. Convert the model to safetensors."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise NeuronMMError(f"{path.name} must hold a dictionary of tensors. Convert the model to safetensors.")
    return state
