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
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import AutoTokenizer

from .allocation import Allocation, Projections, allocate_uniform, check_reachable, find_projections
from .analysis import Analysis
from .calibration import (
    SELF,
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
from .rank_map import draw_map
from .refinement import refine
from .report import MAP_NAME, REPORT_NAME, format_report
from .run import Run
from .sampling import sampler
from .search import choose_ranks
from .source import DenseCheckpoint, open_dense
from .streaming import LayerStream, empty_model
from .version import __version__
from .workspace import (
    Workspace,
    check_disk_space,
    check_output_dir,
    explained_disk_errors,
    intermediate,
    remove_intermediate,
)


if TYPE_CHECKING:
    from .recovery import RecoveryConfig
    from .speedup import SpeedupSearch


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
    recovery = None if config.recovery == "none" else _recovery_options(config)
    hub = {"cache_dir": cache_dir, "token": token}
    checkpoint = open_dense(model, revision, **hub, trust_remote_code=trust_remote_code)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if recovery is None:
        remove_intermediate(output_dir)  # of an interrupted run with recovery
        report = _compress(checkpoint, output_dir, config, device)
    else:
        report = _compress_and_recover(checkpoint, output_dir, config, recovery, hub, device)
    print(format_report(report), flush=True)
    return report


def _compress_and_recover(
    checkpoint: DenseCheckpoint,
    output_dir: Path,
    config: NeuronMMConfig,
    recovery: "RecoveryConfig",
    hub: dict,
    device: torch.device,
) -> dict:
    """Compresses into a hidden directory beside the output, and writes what training makes of that. Returns the report."""
    from .recovery import recover  # loads peft, which takes seconds

    longest = getattr(checkpoint.config, "max_position_embeddings", None) or recovery.sequence_length
    recovery = replace(recovery, sequence_length=min(recovery.sequence_length, longest))
    # What is compressed does not depend on the training: with other options for that, it is taken up again.
    plain = replace(config, recovery="none", recovery_data=[], recovery_tokens=NeuronMMConfig.recovery_tokens)
    with intermediate(output_dir, _fingerprint(checkpoint, plain, device)[:12]) as compressed:
        if not compressed.exists():
            _compress(checkpoint, compressed, plain, device)
        return recover(
            compressed,
            output_dir,
            recovery,
            # By its id, which the report tells, where it is of the Hub.
            teacher=checkpoint.name if checkpoint.revision else checkpoint.directory,
            revision=checkpoint.revision,
            **hub,
            trust_remote_code=checkpoint.trust_remote_code,
            device=device,
        )


def _recovery_options(config: NeuronMMConfig) -> "RecoveryConfig":
    """The `RecoveryConfig` that a config stands for. Its sources are checked.

    Raises:
        NeuronMMError: where there is no text to train on.
    """
    from .recovery import RecoveryConfig
    from .recovery.sources import check_sources

    data = config.recovery_data or [source for source in config.calibration if source != SELF]
    if not data:
        raise NeuronMMError(
            "recovery needs text to train on, and the calibration's is sampled from the model itself. Name a source with "
            "--neuronmm_recovery_data (recovery_data= in Python)."
        )
    check_sources(data)
    options = {"data": data, "tokens": config.recovery_tokens, "seed": config.seed}
    if config.recovery == "lora":  # SVD-LLM's recipe
        options |= {"objective": "labels", "order": "sequential", "learning_rate": 1e-4, "batch_size": 64}
    try:
        return RecoveryConfig(**options)
    except NeuronMMError as error:  # of the options that are set here, only the number of tokens can be wrong
        raise NeuronMMError(f"recovery_tokens is too small for recovery {config.recovery!r}: {error}") from error


def _compress(checkpoint: DenseCheckpoint, output_dir: Path, config: NeuronMMConfig, device: torch.device) -> dict:
    family = family_of(checkpoint.config)
    longest = getattr(checkpoint.config, "max_position_embeddings", None)
    if longest is not None and config.calibration_length > longest:
        raise NeuronMMError(
            f"calibration_length must be at most {longest}, the max_position_embeddings of {checkpoint.name}, got "
            f"{config.calibration_length}."
        )
    parameters = sum(parameter.numel() for parameter in empty_model(checkpoint).parameters())
    projections = find_projections(checkpoint, family, config)
    speedup = _speedup_search(checkpoint, projections, config)
    _check_ratio(projections, config)
    if speedup is not None:
        speedup.check_reachable()
    if config.refine and not family.adds_down:
        raise NeuronMMError(
            f"refine cannot be used with {checkpoint.config.model_type}: a norm lies between its down projections and the "
            "residual stream. Leave it out."
        )
    tokenizer = _load_tokenizer(checkpoint)
    check_disk_space(output_dir, _disk_needed(checkpoint, projections, config))
    print(_announcement(checkpoint.name, config), flush=True)
    workspace = Workspace(output_dir, _fingerprint(checkpoint, config, device))
    try:
        with explained_disk_errors(output_dir):
            text = _collect_text(config, checkpoint, tokenizer, workspace, device)
        # Half precision is slow on many CPUs, and statistics gain from float32.
        dtype = torch.float32 if device.type == "cpu" else checkpoint.dtype
        stream = LayerStream(checkpoint, family, dtype, device)
        stream.embed(text.windows[:1])  # records what the layers are called with
        run = Run(checkpoint, projections, config, text, stream, workspace)
        analysis = Analysis(run)
        analysis.complete()
        if speedup is None:
            allocation, ratio, trials = choose_ranks(run, analysis)
        else:
            allocation = speedup.allocate(analysis.losses)
            ratio, trials = allocation.removed, []
        refinements = refine(run, analysis, allocation) if config.refine else []
        perplexity = compress_layers(run, analysis, allocation)
        steps = {"trials": trials, "refinements": refinements}
        steps |= {} if speedup is None else {"speedup": speedup.report(allocation)}
        with explained_disk_errors(output_dir):
            report = _write_result(run, allocation, ratio, parameters, perplexity, steps)
        workspace.publish()
    finally:
        workspace.close()
    return report


def _announcement(model: str, config: NeuronMMConfig) -> str:
    goal = f"ratio {config.compression_ratio}"
    if config.max_perplexity_increase is not None:
        goal = f"the largest ratio that raises perplexity by less than {config.max_perplexity_increase:.2%}"
    if config.target_speedup is not None:
        goal = (
            f"MLPs predicted to be {config.target_speedup:g} times as fast on {config.target_instance_type} "
            f"({config.target_prompt_length} tokens of prompt, {config.target_output_length} of output)"
        )
    return (
        f"Compressing {model}: {goal}, block size {config.block_size}, projections {', '.join(config.projections)}, "
        f"{config.decomposition} SVD, ranks {'by loss' if config.allocates_by_loss else 'uniform'}, calibration "
        f"{', '.join(config.calibration)}."
    )


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


def _check_ratio(projections: Projections, config: NeuronMMConfig) -> None:
    """Finds out before any work whether there will be ranks."""
    if config.max_perplexity_increase is not None or config.target_speedup is not None:
        return
    if config.allocates_by_loss:
        check_reachable(projections, config)
    else:
        allocate_uniform(projections, config)


def _speedup_search(
    checkpoint: DenseCheckpoint, projections: Projections, config: NeuronMMConfig
) -> "SpeedupSearch | None":
    """What chooses the ranks where a speed-up is asked for."""
    if config.target_speedup is None:
        return None
    from .latency_cost import MLPLatency, Request  # loads the kernels and their simulator
    from .speedup import SpeedupSearch

    longest = getattr(checkpoint.config, "max_position_embeddings", None)
    if longest is not None and config.target_prompt_length > longest:
        raise NeuronMMError(
            f"target_prompt_length must be at most {longest}, the max_position_embeddings of {checkpoint.name}, got "
            f"{config.target_prompt_length}."
        )
    dtype = getattr(torch, config.dtype) if config.dtype else checkpoint.dtype
    latency = MLPLatency.of(checkpoint.config, projections.family, Request.of(config), dtype)
    return SpeedupSearch(projections, config.block_size, config.target_speedup, latency)


def _write_result(
    run: Run, allocation: Allocation, ratio: float, parameters: int, perplexity: dict, steps: dict[str, Any]
) -> dict:
    """Writes checkpoint, report and model card into the workspace's result. Returns the report.

    Args:
        ratio: that was asked for, or found, or came out.
        parameters: of the dense model.
        steps: what was tried on the way, and the speed that was asked for, for the report.
    """
    checkpoint, config, text, workspace = run.checkpoint, run.config, run.text, run.workspace
    directory = workspace.new_result()
    # The result may be published: sources by name, not where they lie on this disk.
    sources = [entry["source"] for entry in text.sources]
    final = replace(
        config,
        compression_ratio=ratio,
        calibration=sources,
        modules=allocation.modules,
        format_version=FORMAT_VERSION,
        neuronmm_version=__version__,
    )
    layers = range(run.projections.layers)
    write_checkpoint(checkpoint, [workspace.path / f"layer-{i}.safetensors" for i in layers], final, directory)
    after = parameters - allocation.parameters_before + allocation.parameters_after
    report = {
        "model": checkpoint.name if checkpoint.revision else checkpoint.directory.resolve().name,
        "revision": checkpoint.revision,
        "decomposition": config.decomposition,
        "allocation": "by_loss" if config.allocates_by_loss else "uniform",
        "compression_ratio": {
            "requested": ratio,
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
        **steps,
        "calibration": {"sources": text.sources, "seed": config.seed, "length": config.calibration_length},
        "projections": [entry for i in layers for entry in workspace.read_json(f"layer-{i}.json")],
        "seconds": workspace.seconds,
        "versions": {
            "optimum-neuronmm": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }
    (directory / REPORT_NAME).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    draw_map(report["projections"], directory / MAP_NAME)
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


def _disk_needed(checkpoint: DenseCheckpoint, projections: Projections, config: NeuronMMConfig) -> int:
    """Bytes while compressing: the factors of all ranks and of the chosen ones, the result, and what the walks keep."""
    H, layers = checkpoint.config.hidden_size, projections.layers
    held_out = 2 * held_out_count(config.calibration_samples)  # dense and compressed
    # Two generations of hidden states, in float32, and what enters every layer in the windows with gradients.
    windows = 2 * (config.calibration_samples + held_out)
    moments = 0
    if config.decomposition == "two_sided":
        windows += layers * (min(config.gradient_samples, config.calibration_samples) + held_out // 2)
        moments = layers * 2 * H * H * 8
    if config.refine:
        windows += 4 * config.calibration_samples  # of both models, two generations
    widening = getattr(torch, config.dtype).itemsize / checkpoint.dtype.itemsize if config.dtype else 1
    return int(3 * checkpoint.nbytes * max(1, widening)) + windows * config.calibration_length * H * 4 + moments


def _fingerprint(checkpoint: DenseCheckpoint, config: NeuronMMConfig, device: torch.device) -> str:
    """Identity of everything that decides the factors."""
    inputs = [
        checkpoint.fingerprint(),
        config.deciding_options(),
        file_stats(config.calibration + config.recovery_data),
    ]
    content = [*inputs, device.type, torch.__version__, transformers.__version__]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
