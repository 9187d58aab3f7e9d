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
"""Writes the compressed checkpoint: the dense one, shard by shard, with the factors in place of the weights."""

import json
import shutil
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from .configuration import NeuronMMConfig
from .modeling import rounded
from .source import SAFETENSORS_DTYPES, DenseCheckpoint, TensorInfo


_DTYPE_NAMES = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that will be written: its name and form, and the safetensors file or dense checkpoint it comes from."""

    name: str
    info: TensorInfo
    source: Path | DenseCheckpoint

    def read(self) -> torch.Tensor:
        if isinstance(self.source, DenseCheckpoint):
            return rounded(self.name, self.source.read([self.name])[self.name], self.info.dtype)
        with safe_open(self.source, framework="pt") as file:
            return file.get_tensor(self.name).clone()


def write_checkpoint(
    checkpoint: DenseCheckpoint, factor_files: Iterable[Path], config: NeuronMMConfig, directory: Path
) -> None:
    """Writes weights, config.json, tokenizer and licence files of the compressed model into `directory`.

    The shards are those of the dense checkpoint, one tensor in memory at a time.

    Args:
        factor_files: safetensors files with the entries of the factorised projections, and of dense weights that were
            changed.
        config: with `modules` filled in.
    """
    factors: dict[str, list[StoredTensor]] = {path: [] for path in config.modules}
    changed: dict[str, StoredTensor] = {}
    for file in factor_files:
        for tensor in _tensors_of(file):
            path = _module_of(tensor.name, config)
            if path in factors:
                factors[path].append(tensor)
            else:
                changed[tensor.name] = tensor
    cast_to = getattr(torch, config.dtype) if config.dtype else None
    weight_map: dict[str, str] = {}
    written: list[StoredTensor] = []
    for dense_file, infos in checkpoint.shards.items():
        file = dense_file.replace("pytorch_model", "model").replace(".bin", ".safetensors")
        tensors: list[StoredTensor] = []
        for name, info in infos.items():
            path, _, leaf = name.rpartition(".")
            if name in changed:
                tensors.append(changed[name])
            elif path not in factors:
                dtype = cast_to if cast_to and info.dtype.is_floating_point else info.dtype
                tensors.append(StoredTensor(name, TensorInfo(info.shape, dtype), checkpoint))
            elif leaf == "weight":  # what belongs to the projection goes where its weight was
                tensors += factors[path]
        write_safetensors(directory / file, tensors)
        weight_map.update({tensor.name: file for tensor in tensors})
        written += tensors
    if set(weight_map.values()) != {"model.safetensors"}:
        metadata = {
            "total_parameters": sum(tensor.info.numel for tensor in written),
            "total_size": sum(tensor.info.nbytes for tensor in written),
        }
        _write_json(directory / "model.safetensors.index.json", {"metadata": metadata, "weight_map": weight_map})
    _write_config(checkpoint, config, directory)
    _copy_files(checkpoint, directory)


def write_safetensors(path: Path, tensors: list[StoredTensor]) -> None:
    """Writes tensors in the safetensors format, reading each just before it is written.

    `safetensors.torch.save_file` needs them all in memory. The format (its documentation): the header's length as a
    little-endian 64-bit integer, the header as JSON, and the tensors' bytes in C order. Wider dtypes come first, as
    readers that map the file need each tensor aligned.
    """
    tensors = sorted(tensors, key=lambda tensor: -tensor.info.dtype.itemsize)
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": _DTYPE_NAMES[tensor.info.dtype],
            "shape": list(tensor.info.shape),
            "data_offsets": [offset, offset + tensor.info.nbytes],
        }
        offset += tensor.info.nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)))
        file.write(encoded)
        for tensor in tensors:
            file.write(tensor.read().contiguous().flatten().view(torch.uint8).numpy().data)


def _tensors_of(file: Path) -> Iterator[StoredTensor]:
    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():
            tensor = opened.get_tensor(name)
            yield StoredTensor(name, TensorInfo(tuple(tensor.shape), tensor.dtype), file)


def _module_of(name: str, config: NeuronMMConfig) -> str:
    """The projection that an entry such as `...gate_proj.u.weight` or `...gate_proj.weight` belongs to."""
    path = name.rpartition(".")[0]
    return path if path in config.modules else path.rpartition(".")[0]


def _write_config(checkpoint: DenseCheckpoint, config: NeuronMMConfig, directory: Path) -> None:
    raw = json.loads((checkpoint.directory / "config.json").read_text(encoding="utf-8"))
    raw.pop("torch_dtype", None)
    raw["dtype"] = config.dtype or str(checkpoint.dtype).removeprefix("torch.")
    raw["quantization_config"] = config.to_dict()
    _write_json(directory / "config.json", raw)


def _copy_files(checkpoint: DenseCheckpoint, directory: Path) -> None:
    for file in checkpoint.companions():
        shutil.copyfile(file, directory / file.name)


def _write_json(path: Path, content) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
