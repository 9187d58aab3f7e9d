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
"""`recover`: a compressed checkpoint in, the same checkpoint with better factors out."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..calibration import check_vocabulary
from ..errors import NeuronMMError
from ..modeling import rounded
from ..source import DenseCheckpoint, open_dense
from ..workspace import Workspace, check_disk_space, check_output_dir, explained_disk_errors, workspace_path
from .checkpoint import CompressedCheckpoint, load_model, load_tokenizer
from .config import RecoveryConfig
from .data import RecoveryText, collect_text
from .evaluation import held_out_losses, mean
from .objectives import Objective
from .parallel import Team
from .parameters import TrainedFactors
from .sources import DATASETS, check_sources
from .summary import format_recovery, recovery_entry, write_description
from .training import Progress, Training


def recover(
    directory: str | Path,
    output_dir: str | Path,
    config: RecoveryConfig | dict | None = None,
    *,
    teacher: str | Path | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    cache_dir: str | None = None,
    token: str | None = None,
    device: str | torch.device | None = None,
) -> dict:
    """Trains the factors of a compressed checkpoint and writes the result as a checkpoint of the same form.

    The state of the least loss on held-out text is written; if that is the start, the factors are written as they were.
    Whatever is not a factor stays as it was, to the byte, and `directory` is only read. An interrupted run goes on where
    it was when it is started again with the same arguments. Started by `accelerate launch`, the processes share every
    batch.

    Args:
        directory: of a compressed checkpoint.
        output_dir: written whole at the end; must not exist, or be empty.
        config: what to do, as a config or a dictionary of its options; the defaults where None.
        teacher: the dense model, a directory or a Hub id; None is the one that the report names. Objective "labels" needs
            none; where one is given, its loss stands beside the others.
        revision, cache_dir, token: as in `from_pretrained`, for a teacher on the Hub.
        trust_remote_code: allows code that the models bring along.
        device: "cpu" or "cuda"; CUDA where there is one, else the CPU.

    Returns:
        The report that was written to `neuronmm_report.json`, with what was done under "recovery".

    Raises:
        NeuronMMError: for every input that can be put right, and for a loss that is not finite; then `output_dir` was not
            touched.
    """
    if not isinstance(config, RecoveryConfig):
        config = RecoveryConfig.from_dict(config or {})
    output_dir = Path(output_dir).resolve()
    check_sources(config.data)
    checkpoint = CompressedCheckpoint(directory, trust_remote_code)
    _check_lengths(config, checkpoint)
    if output_dir.is_relative_to(checkpoint.directory.resolve()):
        raise NeuronMMError(f"{output_dir} lies in the checkpoint that is read. Choose another output.")
    check_output_dir(output_dir)
    hub = {"revision": revision, "cache_dir": cache_dir, "token": token}
    dense = _open_teacher(teacher, checkpoint, config, trust_remote_code, hub)
    tokenizer = checkpoint.load_tokenizer()
    if dense is not None:
        _check_teacher(dense, checkpoint, tokenizer, config)
    team = Team(config, device)
    return _Run(checkpoint, dense, tokenizer, output_dir, config, team).run()


class _Run:
    """A recovery whose inputs are checked."""

    def __init__(self, checkpoint, dense, tokenizer, output_dir: Path, config: RecoveryConfig, team: Team):
        self._checkpoint, self._dense, self._tokenizer = checkpoint, dense, tokenizer
        self._output_dir, self._config, self._team = output_dir, config, team
        self._workspace: Workspace | None = None

    def run(self) -> dict:
        try:
            self._team.on_main(self._open_workspace)
            sources = self._team.on_main(self._collect_text)
            report = self._recover(RecoveryText.from_tensors(self._load("text"), sources))
        finally:
            if self._workspace is not None:
                self._workspace.close()
        return report

    def _recover(self, text: RecoveryText) -> dict:
        config, team = self._config, self._team
        stored = self._checkpoint.read_factors()
        teacher = self._load_teacher()
        dense_losses = None if teacher is None else held_out_losses(teacher, text.held_out, team)
        if config.objective == "labels":
            teacher = None  # it has been measured, and makes room
        student = self._checkpoint.load(team.dtype).to(team.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed % 2**62)
            trained = TrainedFactors(student, stored, config)
        _checkpoint_activations(student, config.gradient_checkpointing)
        save = self._save_training if team.is_main else None
        saved = self._load("training") if self._is_resumed() else None
        training = Training(student, trained, Objective(config, teacher), text, config, team, save, saved)
        training.run()
        before = training.progress.log[0]["held_out"]
        factors = {
            name: rounded(name, tensor, self._checkpoint.factors[name].dtype)
            for name, tensor in trained.merged().items()
        }
        trained.replace(factors)
        after = held_out_losses(student, text.held_out, team)
        improved = training.progress.best_step > 0 and mean(after) < mean(before)
        if not improved:
            factors, after = stored, before
        losses = {"dense": dense_losses, "before": before, "after": after}
        return team.on_main(lambda: self._finish(text, training.progress, losses, improved, factors))

    def _open_workspace(self) -> None:
        check_output_dir(self._output_dir)
        trained_bytes = 4 * sum(info.numel for info in self._checkpoint.factors.values())
        states = 4 * trained_bytes if self._config.parameters == "factors" else trained_bytes
        check_disk_space(self._output_dir, self._checkpoint.nbytes + 2 * states)  # a state is written beside the last
        self._workspace = Workspace(self._output_dir, self._fingerprint())

    def _collect_text(self) -> list[dict]:
        sources = self._workspace.read_json("text.json")
        if sources is None:
            names = ", ".join(self._config.data)
            print(f"Recovering {self._checkpoint.directory}: {_described(self._config)}, data {names}.", flush=True)
            text = collect_text(self._config, self._tokenizer)
            for windows in [*text.train, *text.held_out]:
                check_vocabulary(windows.max().item(), self._checkpoint.config.vocab_size)
            self._workspace.save("text", text.tensors())
            self._workspace.write_json("text.json", text.sources)
            sources = text.sources
        return sources

    def _load_teacher(self):
        if self._dense is None:
            return None
        model = load_model(self._dense.directory, self._team.dtype, self._dense.trust_remote_code)
        return model.requires_grad_(False).to(self._team.device)

    def _load(self, name: str) -> dict[str, torch.Tensor]:
        """What the main process stored, in any process."""
        return load_file(workspace_path(self._output_dir) / f"{name}.safetensors")

    def _is_resumed(self) -> bool:
        def found() -> bool:
            is_there = (self._workspace.path / "training.safetensors").is_file()
            if is_there:
                print(f"Resuming the recovery of {self._checkpoint.directory}.", flush=True)
            return is_there

        return self._team.on_main(found)

    def _save_training(self, tensors: dict[str, torch.Tensor]) -> None:
        self._workspace.save("training", tensors)

    def _finish(self, text: RecoveryText, progress: Progress, losses: dict, improved: bool, factors: dict) -> dict:
        teacher = None if self._dense is None else _name(self._dense)
        entry = recovery_entry(self._config, teacher, text, progress, losses, improved, self._team.size)
        report = dict(self._checkpoint.report)
        if "recovery" in report:
            entry["previous"] = report["recovery"]
        report["recovery"] = entry
        with explained_disk_errors(self._output_dir):
            result = self._workspace.new_result()
            self._checkpoint.write(result, factors)
            write_description(result, report, self._checkpoint.options)
        self._workspace.publish()
        print(format_recovery(entry), flush=True)
        return report

    def _fingerprint(self) -> str:
        """Identity of everything that decides the result."""
        files = [Path(source).resolve() for source in self._config.data if source not in DATASETS]
        stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        teacher = None if self._dense is None else self._dense.fingerprint()
        versions = [version(name) for name in ("torch", "transformers", "peft", "accelerate")]
        machine = [self._team.device.type, self._team.size]
        inputs = [self._checkpoint.fingerprint(), teacher, self._config.deciding_options(), stats]
        return hashlib.sha256(json.dumps(["recovery", *inputs, *machine, *versions]).encode()).hexdigest()


def _open_teacher(
    teacher: str | Path | None,
    checkpoint: CompressedCheckpoint,
    config: RecoveryConfig,
    trust_remote_code: bool,
    hub: dict,
) -> DenseCheckpoint | None:
    """The dense model on this disk, or None where the objective needs none and none was given."""
    if teacher is None and config.objective == "labels":
        return None
    if teacher is None:
        report = checkpoint.report
        if not report.get("revision"):
            raise NeuronMMError(
                f"objective 'distill' needs the dense model, and the report of {checkpoint.directory} names a directory, "
                f"{report['model']!r}, not where it lies. Give it with --teacher (teacher= in Python), or use objective "
                "'labels'."
            )
        teacher, hub = report["model"], {**hub, "revision": hub["revision"] or report["revision"]}
    return open_dense(teacher, hub["revision"], hub["cache_dir"], hub["token"], trust_remote_code)


def _check_teacher(
    dense: DenseCheckpoint, checkpoint: CompressedCheckpoint, tokenizer, config: RecoveryConfig
) -> None:
    ours, theirs = checkpoint.config, dense.config
    if ours.vocab_size != theirs.vocab_size:
        raise NeuronMMError(
            f"The teacher {dense.name} has a vocabulary of {theirs.vocab_size}, {checkpoint.directory} one of "
            f"{ours.vocab_size}. Give the dense model that was compressed."
        )
    try:
        vocabulary = load_tokenizer(dense.directory, dense.trust_remote_code).get_vocab()
    except NeuronMMError:
        vocabulary = None  # weights alone are enough to teach
    if vocabulary not in (None, tokenizer.get_vocab()):
        raise NeuronMMError(
            f"The tokenizer of the teacher {dense.name} is not that of {checkpoint.directory}: its tokens mean other text. "
            "Give the dense model that was compressed."
        )
    shapes = [(c.num_hidden_layers, c.hidden_size) for c in (ours, theirs)]
    if config.hidden_weight and shapes[0] != shapes[1]:
        raise NeuronMMError(
            f"hidden_weight compares hidden states, but the teacher {dense.name} has (layers, hidden size) {shapes[1]}, "
            f"expected {shapes[0]}. Give the dense model that was compressed, or leave hidden_weight at 0."
        )


def _check_lengths(config: RecoveryConfig, checkpoint: CompressedCheckpoint) -> None:
    longest = getattr(checkpoint.config, "max_position_embeddings", None)
    if longest is not None and config.sequence_length > longest:
        raise NeuronMMError(
            f"sequence_length must be at most {longest}, the max_position_embeddings of {checkpoint.directory}, got "
            f"{config.sequence_length}."
        )


def _checkpoint_activations(model, wanted: bool) -> None:
    if not wanted:
        return
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for module in model.modules():  # layers look whether they are in training; nothing else may, for dropout's sake
        if getattr(module, "gradient_checkpointing", False):
            module.training = True


def _described(config: RecoveryConfig) -> str:
    what = f"LoRA of rank {config.lora_rank} on U and V" if config.parameters == "lora" else "U and V"
    order = "at once" if config.order == "joint" else "one after the other"
    return (
        f"{what}, {order}, objective {config.objective}, learning rate {config.learning_rate:g}, {config.steps} steps of "
        f"{config.batch_size} x {config.sequence_length} tokens"
    )


def _name(dense: DenseCheckpoint) -> str:
    """How the report calls a dense model: a Hub id, or the name of its directory."""
    return dense.name if dense.revision else dense.directory.resolve().name
