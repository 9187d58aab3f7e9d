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
"""Compresses a dense checkpoint into a directory: from the inputs to the published result."""

import hashlib
import json
import platform
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from transformers import AutoTokenizer

from .allocation import Allocation, allocate_uniform
from .calibration import (
    CalibrationText,
    calibration_windows,
    check_sources,
    check_vocabulary,
    file_stats,
    held_out_count,
)
from .card import write_model_card
from .checkpoint import write_checkpoint
from .configuration import FORMAT_VERSION, NeuronMMConfig
from .errors import NeuronMMError
from .families import family_of
from .layerwise import compress_layers
from .report import REPORT_NAME, format_report
from .sampling import sampler
from .source import DenseCheckpoint, open_dense
from .streaming import empty_model
from .version import __version__
from .workspace import Workspace, check_disk_space, check_output_dir, explained_disk_errors


def compress(
    model: str | Path,
    output_dir: str | Path,
    config: NeuronMMConfig | dict | None = None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    cache_dir: str | None = None,
    token: str | None = None,
    device: str | torch.device | None = None,
) -> dict:
    """Replaces MLP projections of a model by block-aligned low-rank factors and writes the result as a checkpoint.

    Memory holds one layer, its statistics and the hidden states of the calibration text, whatever the model's size.
    An interrupted run goes on where it was when it is started again with the same arguments.

    Args:
        model: directory of a Hugging Face model, or its Hub id.
        output_dir: written whole at the end; must not exist, or be empty.
        config: what to do, as a config or a dictionary of its options; the defaults where None.
        revision, cache_dir, token: as in `from_pretrained`, for a Hub id.
        trust_remote_code: allows code that the model brings along.
        device: to compute on; CUDA where there is one, else the CPU.

    Returns:
        The report that was also printed and written to `neuronmm_report.json`.

    Raises:
        NeuronMMError: for every input that can be put right; then `output_dir` was not touched.
    """
    if not isinstance(config, NeuronMMConfig):
        config = NeuronMMConfig.from_dict(config or {})
    output_dir = Path(output_dir).resolve()  # a link stays, and what it points to is written
    check_output_dir(output_dir)
    check_sources(config)
    checkpoint = open_dense(model, revision, cache_dir, token, trust_remote_code)
    family = family_of(checkpoint.config)
    longest = getattr(checkpoint.config, "max_position_embeddings", None)
    if longest is not None and config.calibration_length > longest:
        raise NeuronMMError(
            f"calibration_length must be at most {longest}, the max_position_embeddings of {checkpoint.name}, got "
            f"{config.calibration_length}."
        )
    parameters = sum(parameter.numel() for parameter in empty_model(checkpoint).parameters())
    allocation = allocate_uniform(checkpoint, family, config)
    tokenizer = _load_tokenizer(checkpoint)
    check_disk_space(output_dir, _disk_needed(checkpoint, config))
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    print(
        f"Compressing {model}: ratio {config.compression_ratio}, block size {config.block_size}, projections "
        f"{', '.join(config.projections)}, {config.decomposition} SVD, calibration {', '.join(config.calibration)}.",
        flush=True,
    )
    workspace = Workspace(output_dir, _fingerprint(checkpoint, config, device))
    try:
        with explained_disk_errors(output_dir):
            text = _collect_text(config, checkpoint, tokenizer, workspace, device)
        perplexity = compress_layers(checkpoint, allocation, config, text, workspace, device)
        with explained_disk_errors(output_dir):
            report = _write_result(checkpoint, parameters, allocation, config, text, perplexity, workspace)
        workspace.publish()
    finally:
        workspace.close()
    print(format_report(report), flush=True)
    return report


def _collect_text(
    config: NeuronMMConfig, checkpoint: DenseCheckpoint, tokenizer, workspace: Workspace, device: torch.device
) -> CalibrationText:
    """The calibration text, the same when a run is resumed as when it was begun."""
    described = workspace.read_json("calibration.json")
    if described is not None:
        return CalibrationText(**workspace.load("calibration"), **described)
    sample = sampler(checkpoint, tokenizer, config.seed, workspace.cached, device, workspace.path)
    text = calibration_windows(config, tokenizer, sample)
    for tokens in (text.windows, text.held_out):
        check_vocabulary(tokens.max().item(), checkpoint.config.vocab_size)
    workspace.save("calibration", {"windows": text.windows, "held_out": text.held_out})
    workspace.write_json("calibration.json", {"sources": text.sources, "bos": text.bos})
    return text


def _write_result(
    checkpoint: DenseCheckpoint,
    parameters: int,
    allocation: Allocation,
    config: NeuronMMConfig,
    text: CalibrationText,
    perplexity: dict,
    workspace: Workspace,
) -> dict:
    """Writes checkpoint, report and model card into the workspace's result. Returns the report.

    Args:
        parameters: of the dense model.
    """
    directory = workspace.new_result()
    # The result may be published: sources by name, not where they lie on this disk.
    sources = [entry["source"] for entry in text.sources]
    final = replace(
        config,
        calibration=sources,
        modules=allocation.modules,
        format_version=FORMAT_VERSION,
        neuronmm_version=__version__,
    )
    factor_files = [workspace.path / f"layer-{layer}.safetensors" for layer in range(allocation.layers)]
    write_checkpoint(checkpoint, factor_files, final, directory)
    after = parameters - allocation.parameters_before + allocation.parameters_after
    report = {
        "model": checkpoint.name if checkpoint.revision else checkpoint.directory.resolve().name,
        "revision": checkpoint.revision,
        "compression_ratio": {
            "requested": config.compression_ratio,
            "projections": allocation.removed,
            "model": 1 - after / parameters,
        },
        "parameters": {
            "before": parameters,
            "after": after,
            "projections_before": allocation.parameters_before,
            "projections_after": allocation.parameters_after,
        },
        "perplexity": perplexity,
        "calibration": {"sources": text.sources, "seed": config.seed, "length": config.calibration_length},
        "projections": [e for i in range(allocation.layers) for e in workspace.read_json(f"layer-{i}.json")],
        "seconds": workspace.seconds,
        "versions": {
            "optimum-neuronmm": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }
    (directory / REPORT_NAME).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    write_model_card(directory, report, final)
    return report


def _load_tokenizer(checkpoint: DenseCheckpoint):
    try:
        return AutoTokenizer.from_pretrained(checkpoint.directory, trust_remote_code=checkpoint.trust_remote_code)
    except Exception as error:  # a damaged tokenizer.json raises a bare Exception
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NeuronMMError(
            f"{checkpoint.name} has no tokenizer that transformers can load, and calibration text needs one ({reason})."
        ) from error


def _disk_needed(checkpoint: DenseCheckpoint, config: NeuronMMConfig) -> int:
    """Bytes while compressing: the factors, the result with them, and two generations of hidden states in float32."""
    windows = config.calibration_samples + 2 * held_out_count(config.calibration_samples)
    states = windows * config.calibration_length * checkpoint.config.hidden_size * 4
    widening = getattr(torch, config.dtype).itemsize / checkpoint.dtype.itemsize if config.dtype else 1
    return int(2 * checkpoint.nbytes * max(1, widening)) + 2 * states


def _fingerprint(checkpoint: DenseCheckpoint, config: NeuronMMConfig, device: torch.device) -> str:
    """Identity of everything that decides the factors."""
    inputs = [checkpoint.fingerprint(), config.deciding_options(), file_stats(config.calibration)]
    content = [*inputs, device.type, torch.__version__, transformers.__version__]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
