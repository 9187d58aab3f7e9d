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
"""A compressed checkpoint as input, and the recovered one beside it: the same files with other factors."""

import hashlib
import json
import os
import shutil
import struct
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ..configuration import QUANT_METHOD, NeuronMMConfig
from ..errors import NeuronMMError
from ..quantizer import register
from ..report import load_report
from ..source import TensorInfo, list_shards


register()


class CompressedCheckpoint:
    """A directory with a compressed model. Whatever can be known to be wrong with it is found here.

    Attributes:
        directory: where it lies.
        config: its transformers config.
        options: what its config.json says of the compression.
        report: its neuronmm_report.json.
        factors: `{tensor name: TensorInfo}` of u and v of all factored projections.
    """

    def __init__(self, directory: str | Path, trust_remote_code: bool = False):
        self.directory, self.trust_remote_code = Path(directory), trust_remote_code
        if not self.directory.is_dir():
            raise NeuronMMError(
                f"{directory} is not a directory. Expected the output of a compression; fetch one from the Hub with hf download."
            )
        self.options = self._read_options()
        self.report = load_report(directory)
        self._shards = list_shards(self.directory, str(directory))
        pickled = [file for file in self._shards if not file.endswith(".safetensors")]
        if pickled:
            raise NeuronMMError(f"{pickled[0]} of {directory} is a pickle. Save the model as safetensors.")
        tensors = {name: (file, info) for file, infos in self._shards.items() for name, info in infos.items()}
        names = [f"{path}.{factor}.weight" for path in self.options.modules for factor in ("u", "v")]
        missing = [name for name in names if name not in tensors]
        if missing:
            raise NeuronMMError(
                f"{directory} lacks {missing[0]}, which config.json lists. Fetch or compress it again."
            )
        if not names:
            raise NeuronMMError(f"{directory} has no factored projection: there is nothing to recover.")
        self._file_of = {name: tensors[name][0] for name in names}
        self.factors: dict[str, TensorInfo] = {name: tensors[name][1] for name in names}
        try:
            self.config = AutoConfig.from_pretrained(self.directory, trust_remote_code=trust_remote_code)
        except Exception as error:  # its fields reach code of each family, and of the model itself
            raise NeuronMMError(f"transformers could not read the config of {directory}: {error}") from error

    def _read_options(self) -> NeuronMMConfig:
        path = self.directory / "config.json"
        try:
            entry = json.loads(path.read_text(encoding="utf-8")).get("quantization_config")
        except (OSError, ValueError, AttributeError) as error:
            raise NeuronMMError(f"{path} could not be read: {error}. Expected the output of a compression.") from error
        if not isinstance(entry, dict) or entry.get("quant_method") != QUANT_METHOD:
            raise NeuronMMError(
                f"{self.directory} is not compressed. Expected the output of a compression: optimum-cli export neuron -m MODEL "
                "--neuronmm OUT/"
            )
        return NeuronMMConfig.from_dict(entry)

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.directory.iterdir() if path.is_file() and not path.name.startswith("."))

    @property
    def nbytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)

    def read_factors(self) -> dict[str, torch.Tensor]:
        """All factors as they are stored: U^T (r, K) and V^T (N, r) under their tensors' names."""
        return {name: self._read(name) for name in self.factors}

    def load(self, dtype: torch.dtype):
        """The model with its weights in `dtype`, on the CPU."""
        return load_model(self.directory, dtype, self.trust_remote_code)

    def load_tokenizer(self):
        return load_tokenizer(self.directory, self.trust_remote_code)

    def fingerprint(self) -> str:
        """Identity of the model: what sizes and times its files have, and where."""
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self.files]
        return hashlib.sha256(json.dumps([str(self.directory.resolve()), stats]).encode()).hexdigest()

    def write(self, directory: Path, factors: dict[str, torch.Tensor]) -> None:
        """Copies the checkpoint into an empty `directory`, with other values of the factors.

        Every file is copied, then the bytes of the factors are overwritten where they lie: whatever is not a factor stays
        as it was, to the byte.

        Args:
            factors: of the shapes and dtypes of `self.factors`.
        """
        for path in self.files:
            shutil.copyfile(path, directory / path.name)
        by_file: dict[str, list[str]] = {}
        for name, file in self._file_of.items():
            by_file.setdefault(file, []).append(name)
        for file, names in by_file.items():
            _overwrite(directory / file, {name: factors[name] for name in names})

    def _read(self, name: str) -> torch.Tensor:
        with safe_open(self.directory / self._file_of[name], framework="pt") as file:
            return file.get_tensor(name).clone()


def load_model(directory: Path, dtype: torch.dtype, trust_remote_code: bool):
    """A causal language model with its weights in `dtype`, on the CPU, without dropout."""
    try:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, RuntimeError) as error:  # what transformers makes of damaged weights and configs
        raise NeuronMMError(
            f"{directory} could not be loaded: {str(error).strip() or type(error).__name__}"
        ) from error
    return model.eval()


def load_tokenizer(directory: Path, trust_remote_code: bool):
    try:
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except Exception as error:  # a damaged tokenizer.json raises a bare Exception
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NeuronMMError(
            f"{directory} has no tokenizer that transformers can load, and training text needs one ({reason})."
        ) from error


def _overwrite(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Puts other values in place of tensors in a safetensors file.

    The format (its documentation): the header's length as a little-endian 64-bit integer, the header as JSON with each
    tensor's place, and the tensors' bytes in C order.
    """
    with open(path, "r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        for name, tensor in tensors.items():
            first, last = header[name]["data_offsets"]
            content = tensor.contiguous().flatten().view(torch.uint8).numpy().data
            assert content.nbytes == last - first, name
            file.seek(8 + length + first)
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
