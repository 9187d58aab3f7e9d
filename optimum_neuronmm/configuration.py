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
"""NeuronMMConfig: what the user chooses, and what config.json remembers of it."""

import json
import math
import os
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers.utils import PushToHubMixin, logging
from transformers.utils.quantization_config import QuantizationConfigMixin

from .errors import NeuronMMError
from .version import __version__


logger = logging.get_logger(__name__)

QUANT_METHOD = "neuronmm"
CONFIG_NAME = "neuronmm_config.json"
# Raised when an older release could misread what a newer one wrote. Keys that may be ignored do not need it.
FORMAT_VERSION = 1

PROJECTIONS = ("gate", "up", "down")
DECOMPOSITIONS = ("two_sided", "two_sided_local", "whitened", "svd")
ALLOCATIONS = ("auto", "by_loss", "uniform")
TARGETS = ("auto", "cpu", "neuron")
KERNELS = ("auto", "nki", "compiler")
DTYPES = ("float32", "bfloat16", "float16")
LAYOUTS = ("auto", "replicated", "sharded")
SAMPLINGS = ("device", "host")
INSTANCE_TYPES = ("trn1", "inf2", "trn2", "trn3")  # those that the kernels' time is predicted for
RECOVERIES = ("none", "lora", "distill")
STORAGES = ("uv",)
_LEAST = {
    "gradient_samples": 1,
    "allocation_tensor_parallel_size": 1,
    "recovery_tokens": 1,
    "calibration_samples": 1,
    "calibration_length": 8,
    "seed": 0,
    "target_prompt_length": 0,
    "target_output_length": 0,
}
_SPEEDUP = ("target_speedup", "target_instance_type", "target_prompt_length", "target_output_length")
_RUNNING = ("target", "kernel", "layout", "sampling", "compilation")  # what only matters where the model runs


@dataclass(repr=False)
class NeuronMMConfig(PushToHubMixin, QuantizationConfigMixin):
    """Options of block-aligned low-rank compression, and the form of a compressed checkpoint.

    It travels in config.json under `quantization_config`, which is how transformers recognises the checkpoint.

    Args:
        compression_ratio: fraction of the compressed projections' parameters that is REMOVED, in (0, 1).
        block_size: ranks are multiples of it; a positive multiple of 32. 128 is the width of the tensor engine's tile.
        alpha: rounding threshold of a uniform rank, in [0, 1): 0 rounds down, 0.5 to the nearest multiple (NeuronMM,
            arXiv 2510.25977, rank formula).
        projections: which of the MLP's projections to factorise: any of "gate", "up", "down".
        decomposition: what the factors minimise. "two_sided": the predicted increase of the model's loss, from the
            activations that enter a projection and the gradients at its output. "two_sided_local": the same with
            gradients of the layer's own output, where no walk back through the model can be afforded. "whitened": the
            error of the projection's output (NeuronMM, SVD-LLM). "svd": the error of the weight.
        gradient_samples: number of the calibration windows on which gradients are measured.
        allocation: of the ranks. "by_loss": the least predicted loss at the requested ratio, projections may stay dense;
            needs a two-sided decomposition. "uniform": the same rank for equal shapes (NeuronMM). "auto": by loss where
            the decomposition allows it.
        allocation_tensor_parallel_size: has the ranks chosen by loss save what one rank of so many holds.
        max_perplexity_increase: where set, the ratio is searched for: the largest whose measured increase of perplexity
            on held-out calibration text stays below this (0.05 for 5 %). Takes the place of `compression_ratio`.
        target_speedup: where set, the predicted loss is minimised for a speed instead of a ratio: the predicted seconds of
            all MLPs, for one request of the lengths below, are at most those of the dense MLPs divided by this (above 1).
            Takes the place of `compression_ratio`, and needs ranks by loss.
        target_instance_type: "trn1", "inf2", "trn2" or "trn3", for one core of which the seconds are predicted: a logical one, of
            two physical ones on trn2 and trn3.
        target_prompt_length: rows of the one prefill of that request; 0 leaves the prefill out.
        target_output_length: number of its decode steps, of one row each; 0 leaves decoding out.
        refine: change the down projections, factored and dense, by what least squares on the compressed model's own
            activations gives, where the divergence on held-out text improves by it.
        calibration: a source of text or several to mix: "self" (text sampled from the model), a .txt or .jsonl file
            (gzipped too), or a named dataset, "wikitext2" or "c4".
        calibration_samples: number of windows of calibration text, over all sources.
        calibration_length: tokens in each window.
        seed: chooses the windows and, for "self", the text.
        recovery: training of the factors after the compression. "lora": adapters on U, then on V, on the text's own tokens
            (SVD-LLM's recipe). "distill": adapters on both at once, towards the dense model's predictions. "none".
            `optimum_neuronmm.recovery.recover` has more options.
        recovery_data: sources of text to train on; what the calibration uses where empty, but for "self".
        recovery_tokens: number of tokens to train on.
        target: "cpu", "neuron", or "auto": neuron where the Neuron SDK is installed.
        kernel: "nki" insists on the fused kernels, "compiler" lets the compiler lower plain matrix products, "auto"
            tries each kernel and falls back.
        layout: of the factors over the ranks of tensor parallelism: "replicated" (one factor whole on every rank, no
            extra exchange), "sharded" (both cut, two more exchanges per layer), or "auto": what is predicted to decode
            faster, and never replicated where a rank would hold no less than of the dense weights.
        sampling: where a compiled model's next token is chosen. "device": as optimum-neuron compiles models, on the device
            wherever it can; such a model returns tokens and no logits. "host": the model returns logits, which an
            evaluation needs, and every step copies them from the device.
        dtype: dtype of the checkpoint that is written; None keeps each tensor's own.
        modules: set by compression: `{module path: {"rank": r, "storage": "uv"}}`. What is not listed is dense.
        compilation: set by a compilation: number of ranks, layout and kernels of every layer.
        format_version: of the checkpoint's form.
        neuronmm_version: of the package that made the config.

    Raises:
        NeuronMMError: naming the option, what was expected and what was got.
    """

    compression_ratio: float = 0.1
    block_size: int = 128
    alpha: float = 0.5
    projections: list[str] = field(default_factory=lambda: list(PROJECTIONS))
    decomposition: str = "two_sided"
    gradient_samples: int = 32
    allocation: str = "auto"
    allocation_tensor_parallel_size: int = 1
    max_perplexity_increase: float | None = None
    target_speedup: float | None = None
    target_instance_type: str = "trn1"
    target_prompt_length: int = 1024  # with the output's, what `speed` of a recipe times where nothing else is said
    target_output_length: int = 128
    refine: bool = False
    calibration: list[str] = field(default_factory=lambda: ["wikitext2", "c4"])
    calibration_samples: int = 64
    calibration_length: int = 512
    seed: int = 0
    recovery: str = "none"
    recovery_data: list[str] = field(default_factory=list)
    recovery_tokens: int = 2_000_000
    target: str = "auto"
    kernel: str = "auto"
    layout: str = "auto"
    sampling: str = "device"
    dtype: str | None = None
    modules: dict[str, dict[str, Any]] = field(default_factory=dict)
    compilation: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    neuronmm_version: str = __version__
    quant_method: str = QUANT_METHOD

    def __post_init__(self):
        self._check_format()  # before the options, which a newer format may use differently
        self.calibration = _as_list("calibration", self.calibration)
        self.projections = _as_list("projections", self.projections)
        self.recovery_data = _as_list("recovery_data", self.recovery_data)
        self._check_numbers()
        self._check_choices()
        self._check_modules()
        if not self.modules:  # how a finished model was made need not be known to load it
            self._check_speedup()

    def _check_format(self) -> None:
        if self.quant_method != QUANT_METHOD:
            raise NeuronMMError(f"quant_method must be {QUANT_METHOD!r}, got {self.quant_method!r}.")
        if not isinstance(self.format_version, int) or self.format_version > FORMAT_VERSION:
            raise NeuronMMError(
                f"This checkpoint has format {self.format_version}, written by optimum-neuronmm {self.neuronmm_version}; "
                f"optimum-neuronmm {__version__} reads up to format {FORMAT_VERSION}. Upgrade "
                "optimum-neuronmm."
            )

    def _check_numbers(self) -> None:
        _check_number("compression_ratio", self.compression_ratio, float)
        if not 0 < self.compression_ratio < 1:
            raise NeuronMMError(
                f"compression_ratio must lie strictly between 0 and 1, got {self.compression_ratio}. It is the fraction "
                "of the MLP parameters that is removed: 0.1 keeps 90 %."
            )
        _check_number("block_size", self.block_size, int)
        if self.block_size <= 0 or self.block_size % 32:
            raise NeuronMMError(
                f"block_size must be a positive multiple of 32, got {self.block_size}. 128 fits the tensor engine's "
                "tile; try 32 or 64 for small models."
            )
        _check_number("alpha", self.alpha, float)
        if not 0 <= self.alpha < 1:
            raise NeuronMMError(
                f"alpha must lie in [0, 1), got {self.alpha}. 0 rounds ranks down, 0.5 to the nearest."
            )
        if self.max_perplexity_increase is not None:
            _check_number("max_perplexity_increase", self.max_perplexity_increase, float)
            if not 0 < self.max_perplexity_increase < math.inf:
                raise NeuronMMError(
                    f"max_perplexity_increase must be positive, got {self.max_perplexity_increase}. 0.05 allows 5 %."
                )
        for name, least in _LEAST.items():
            _check_number(name, getattr(self, name), int)
            if getattr(self, name) < least:
                raise NeuronMMError(f"{name} must be at least {least}, got {getattr(self, name)}.")

    def _check_choices(self) -> None:
        for name in self.projections:
            if name not in PROJECTIONS:
                raise NeuronMMError(f"Unknown projection {name!r}: choose from {', '.join(PROJECTIONS)}.")
        if not self.projections or len(set(self.projections)) != len(self.projections):
            raise NeuronMMError(
                f"projections must name each of {', '.join(PROJECTIONS)} at most once, and at least one of them, got "
                f"{self.projections}."
            )
        # One order, so that configs which mean the same are equal.
        self.projections = [name for name in PROJECTIONS if name in self.projections]
        if not self.calibration or not all(isinstance(s, str) and s.strip() for s in self.calibration):
            raise NeuronMMError(
                f"calibration must name at least one source of text, got {self.calibration}. Try 'self', a .txt or "
                ".jsonl file, or 'wikitext2'."
            )
        allowed = {
            "decomposition": DECOMPOSITIONS,
            "allocation": ALLOCATIONS,
            "recovery": RECOVERIES,
            "target": TARGETS,
            "kernel": KERNELS,
            "layout": LAYOUTS,
            "sampling": SAMPLINGS,
        }
        for name, choices in allowed.items():
            # How a finished model was made need not be known to load it.
            if getattr(self, name) not in choices and not self.modules:
                raise NeuronMMError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        if self.allocation == "by_loss" and not self.is_two_sided:
            raise NeuronMMError(
                f"allocation by_loss compares predicted losses, which decomposition {self.decomposition!r} does not give: "
                "use decomposition 'two_sided', or allocation 'uniform'."
            )
        if not all(isinstance(source, str) and source.strip() for source in self.recovery_data):
            raise NeuronMMError(f"recovery_data must name sources of text, got {self.recovery_data}.")
        if self.recovery == "none" and self.recovery_data:
            raise NeuronMMError(
                f"recovery_data {self.recovery_data} was given, but recovery is 'none'. Choose recovery 'lora' or 'distill', "
                "or leave the data out."
            )
        if not isinstance(self.refine, bool):
            raise NeuronMMError(f"refine must be True or False, got {self.refine!r}.")
        if self.refine and "down" not in self.projections:
            raise NeuronMMError("refine changes the down projections: add 'down' to projections, or leave it out.")
        if self.dtype is not None:
            self.dtype = str(self.dtype).removeprefix("torch.")
            if self.dtype not in DTYPES:
                raise NeuronMMError(f"dtype must be one of {', '.join(DTYPES)} or None, got {self.dtype!r}.")

    def _check_speedup(self) -> None:
        if self.target_instance_type not in INSTANCE_TYPES:
            raise NeuronMMError(
                f"target_instance_type must be one of {', '.join(INSTANCE_TYPES)}, got {self.target_instance_type!r}."
            )
        if self.target_speedup is None:
            given = [name for name in _SPEEDUP if getattr(self, name) != _DEFAULTS[name]]
            if given:
                raise NeuronMMError(
                    f"{', '.join(given)} was given without target_speedup, which alone reads it. Give target_speedup too, "
                    "or leave it out."
                )
            return
        _check_number("target_speedup", self.target_speedup, float)
        if not 1 < self.target_speedup < math.inf:
            raise NeuronMMError(
                f"target_speedup must be greater than 1, got {self.target_speedup}. 1.2 asks for MLPs that are predicted to "
                "take 1 / 1.2 of the dense ones' time."
            )
        if self.target_prompt_length + self.target_output_length == 0:
            raise NeuronMMError(
                "target_prompt_length and target_output_length are both 0, so there is nothing to be fast at. Give one."
            )
        for other in ("compression_ratio", "max_perplexity_increase"):
            if getattr(self, other) != _DEFAULTS[other]:
                raise NeuronMMError(
                    f"target_speedup and {other} {getattr(self, other)} were both given, and each says how much to "
                    "compress. Give one of them; the report tells the ratio that a speed-up took."
                )
        if not self.allocates_by_loss:
            raise NeuronMMError(
                f"target_speedup needs ranks by loss, which decomposition {self.decomposition!r} with allocation "
                f"{self.allocation!r} does not give: use a two-sided decomposition and allocation 'by_loss' or 'auto'."
            )
        if self.allocation_tensor_parallel_size != 1:
            raise NeuronMMError(
                "target_speedup is predicted for one rank of tensor parallelism: allocation_tensor_parallel_size must be 1 with it, got "
                f"{self.allocation_tensor_parallel_size}."
            )

    @property
    def is_two_sided(self) -> bool:
        return self.decomposition.startswith("two_sided")

    @property
    def allocates_by_loss(self) -> bool:
        return self.is_two_sided and self.allocation != "uniform"

    def _check_modules(self) -> None:
        if not isinstance(self.modules, dict):
            raise NeuronMMError(
                f"modules must map module paths to rank and storage, got {type(self.modules).__name__}."
            )
        for path, entry in self.modules.items():
            rank = entry.get("rank") if isinstance(entry, dict) else None
            if type(rank) is not int or rank <= 0:
                raise NeuronMMError(
                    f"modules[{path!r}] must have a positive integer 'rank', got {entry!r}. config.json is damaged: "
                    "fetch or compress the model again."
                )
            if entry.get("storage") not in STORAGES:
                raise NeuronMMError(
                    f"modules[{path!r}] has storage {entry.get('storage')!r}; optimum-neuronmm {__version__} knows "
                    f"{', '.join(STORAGES)}. Upgrade optimum-neuronmm."
                )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs):
        """Builds a config from a dictionary.

        Keys that this release does not know are an error, unless a newer release wrote them: then they are dropped
        with a warning, because what may not be ignored raises `format_version`.
        """
        known = {f.name for f in fields(cls)}
        config_dict = dict(config_dict)
        unknown = sorted(set(config_dict) - known)
        if unknown:
            written_by = str(config_dict.get("neuronmm_version", __version__))
            if _release(written_by) <= _release(__version__):
                raise NeuronMMError(
                    f"Unknown option {', '.join(unknown)}: NeuronMMConfig takes {', '.join(sorted(known))}."
                )
            for name in unknown:
                del config_dict[name]
            # Checked below: a form that cannot be read is an error whatever the unknown keys are.
            logger.warning(
                f"Ignoring {', '.join(unknown)}, written by optimum-neuronmm {written_by}; this is {__version__}."
            )
        used = {name: value for name, value in kwargs.items() if name in known}
        config = cls(**{**config_dict, **used})
        unused = {name: value for name, value in kwargs.items() if name not in known}
        return (config, unused) if return_unused_kwargs else config

    def to_dict(self) -> dict[str, Any]:
        """All fields, but those of a speed-up where none is asked for: releases that do not know them read the rest."""
        left_out = _SPEEDUP if self.target_speedup is None else ()
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    def deciding_options(self) -> dict[str, Any]:
        """The options that decide the factors."""
        return {name: value for name, value in self.to_dict().items() if name not in _RUNNING}

    def to_diff_dict(self) -> dict[str, Any]:
        return self.to_dict()

    @classmethod
    def from_json_file(cls, path: str | os.PathLike) -> "NeuronMMConfig":
        """Reads what `to_json_file` wrote."""
        try:
            config_dict = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise NeuronMMError(f"{path} could not be read as a NeuronMMConfig: {error}.") from error
        if not isinstance(config_dict, dict):
            raise NeuronMMError(f"{path} must hold a JSON object, got {type(config_dict).__name__}.")
        return cls.from_dict(config_dict)

    @classmethod
    def from_pretrained(cls, directory_or_id: str | os.PathLike, **kwargs) -> "NeuronMMConfig":
        """Reads `neuronmm_config.json` from a directory or a Hub repository.

        Keyword arguments (`revision`, `token`, ...) go to `huggingface_hub.hf_hub_download`.
        """
        path = Path(directory_or_id) / CONFIG_NAME
        if not Path(directory_or_id).is_dir():
            from huggingface_hub import hf_hub_download

            path = hf_hub_download(str(directory_or_id), CONFIG_NAME, **kwargs)
        return cls.from_json_file(path)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """Writes `neuronmm_config.json`, and pushes it where `push_to_hub` is set (`kwargs` as in transformers)."""
        save_directory = Path(save_directory)
        save_directory.mkdir(parents=True, exist_ok=True)
        commit_message = kwargs.pop("commit_message", None)
        if push_to_hub:
            repo_id = self._create_repo(kwargs.pop("repo_id", save_directory.name), **kwargs)
            files_timestamps = self._get_files_timestamps(save_directory)
        self.to_json_file(save_directory / CONFIG_NAME)
        if push_to_hub:
            self._upload_modified_files(
                save_directory,
                repo_id,
                files_timestamps,
                commit_message=commit_message,
                token=kwargs.get("token"),
            )


_DEFAULTS = {field.name: field.default for field in fields(NeuronMMConfig)}


def as_config(neuronmm) -> NeuronMMConfig | None:
    """The config that the argument `neuronmm` of `from_pretrained` means, or None."""
    if neuronmm is None or neuronmm is False:
        return None
    if neuronmm is True:
        return NeuronMMConfig()
    if isinstance(neuronmm, dict):
        return NeuronMMConfig.from_dict(neuronmm)
    if isinstance(neuronmm, NeuronMMConfig):
        return neuronmm
    raise NeuronMMError(f"neuronmm must be True, a NeuronMMConfig or a dictionary of its options, got {neuronmm!r}.")


def _as_list(name: str, value) -> list[str]:
    if isinstance(value, (str, os.PathLike)):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise NeuronMMError(f"{name} must be a name or a list of names, got {value!r}.")
    return [os.fspath(v) if isinstance(v, os.PathLike) else v for v in value]


def _check_number(name: str, value, kind: type) -> None:
    accepted = (int, float) if kind is float else (int,)
    if isinstance(value, bool) or not isinstance(value, accepted):
        raise NeuronMMError(f"{name} must be {'a number' if kind is float else 'an integer'}, got {value!r}.")


def _release(version: str) -> tuple[int, ...]:
    """The numeric release of a version, comparable: "0.2.0.dev0" is (0, 2, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("dev")[0].split("rc")[0])[:3])
