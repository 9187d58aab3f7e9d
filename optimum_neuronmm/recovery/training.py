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
"""The training itself: phases, steps, measurements, and a state from which it goes on after an interruption."""

import json
import math
import time
from dataclasses import asdict, dataclass, field

import torch
from tqdm.auto import tqdm

from ..errors import NeuronMMError
from .config import RecoveryConfig
from .data import RecoveryText, Schedule
from .evaluation import held_out_losses, mean
from .objectives import Objective
from .parallel import Team
from .parameters import TrainedFactors


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        phase: index of the phase in `RecoveryConfig.phases`.
        phase_step: steps done in it.
        step: steps done in all phases.
        stale: measurements in this phase since the last new best.
        best_loss: least mean held-out loss, in nats per token.
        best_step: after which step it was measured.
        losses: training losses of the steps since the last measurement.
        seconds: spent on training and measuring, in earlier runs too.
        log: one entry a measurement.
    """

    phase: int = 0
    phase_step: int = 0
    step: int = 0
    stale: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    log: list[dict] = field(default_factory=list)


def learning_rate(config: RecoveryConfig, step: int, steps: int) -> float:
    """Of step number `step` (from 0) of a phase of `steps`: a linear rise, then a cosine down to 0."""
    warmup = round(config.warmup_fraction * steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def steps_of_phases(config: RecoveryConfig) -> list[int]:
    """The steps in as many parts as there are phases, as even as possible."""
    parts = len(config.phases)
    return [config.steps // parts + (index < config.steps % parts) for index in range(parts)]


class Training:
    """Trains the factors of a model until the budget of tokens is spent or nothing gets better.

    The state of the least mean held-out loss is what is kept, the start included.

    Args:
        model: with `trained` put into it, on the team's device.
        save: `save(tensors)` stores a state, whole or not at all. Called in the main process.
        saved: a state that an earlier run stored, or None.
    """

    def __init__(
        self,
        model,
        trained: TrainedFactors,
        objective: Objective,
        text: RecoveryText,
        config: RecoveryConfig,
        team: Team,
        save,
        saved: dict[str, torch.Tensor] | None = None,
    ):
        self._model, self._trained, self._objective, self._config = model, trained, objective, config
        self._text, self._team, self._save_state, self._saved = text, team, save, saved
        self._schedule = Schedule(text, config.seed)
        self.progress = Progress() if saved is None else _progress(saved)
        self._opened = time.perf_counter() - self.progress.seconds

    def run(self) -> None:
        """Trains. Afterwards the model holds the best state.

        Raises:
            NeuronMMError: naming the step, where the loss is not finite.
        """
        total, silent = self._config.steps, {} if self._team.is_main else {"disable": True}
        with tqdm(total=total, initial=self.progress.step, desc="Recovering", unit="step", **silent) as self._bar:
            if self._saved is None:
                self._best = self._trained.state()
                self._measure(0.0)
            else:
                self._trained.load(_named(self._saved, "parameter."))
                self._best = _named(self._saved, "best.")
            for phase, steps in list(enumerate(steps_of_phases(self._config)))[self.progress.phase :]:
                self._run_phase(self._config.phases[phase], steps)
                self._trained.load(self._best)
                self.progress.phase, self.progress.phase_step, self.progress.stale = phase + 1, 0, 0

    def _run_phase(self, factors: tuple[str, ...], steps: int) -> None:
        config, progress = self._config, self.progress
        chosen = self._trained.choose(factors)
        optimizer = torch.optim.AdamW(chosen.values(), lr=config.learning_rate, weight_decay=config.weight_decay)
        # A new wrapper for each phase: data parallelism looks only once at which parameters have gradients.
        model, stepper = self._team.accelerator.prepare(self._model, optimizer)
        if self._saved is not None:
            _load_optimizer(optimizer, chosen, self._saved)
            self._saved = None  # belongs to the phase that was interrupted
        while progress.phase_step < steps and progress.stale < config.patience:
            rate = learning_rate(config, progress.phase_step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = self._step(model, stepper, list(chosen.values()))
            progress.losses.append(loss)
            progress.phase_step += 1
            progress.step += 1
            self._bar.update()
            self._bar.set_postfix_str(f"loss {loss:.4f}, held out {mean(progress.log[-1]['held_out']):.4f}")
            if progress.phase_step % config.eval_every == 0 or progress.phase_step == steps:
                self._measure(rate)
            if progress.phase_step % config.save_every == 0 and self._team.is_main:
                self._save(optimizer, chosen)
        self._team.accelerator.free_memory()

    def _step(self, model, stepper, parameters: list[torch.Tensor]) -> float:
        """One step of the optimiser. Returns the training loss of its batch."""
        team, accelerator = self._team, self._team.accelerator
        first = self.progress.step * self._config.batch_size + team.rank * team.share
        parts = self._schedule.windows(first, first + team.share).split(team.micro)
        total = torch.zeros((), device=team.device)
        for tokens in parts:
            with accelerator.accumulate(model):
                with team.autocast():
                    loss = self._objective(model, tokens.to(team.device))
                total += loss.detach()
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    mean_loss = accelerator.reduce(total / len(parts), "mean").item()  # the same in all processes
                    norm = accelerator.clip_grad_norm_(parameters, self._config.max_grad_norm)
                    self._check_finite(mean_loss, norm)
                stepper.step()
                stepper.zero_grad()
        return mean_loss

    def _check_finite(self, loss: float, norm: torch.Tensor) -> None:
        if math.isfinite(loss) and torch.isfinite(norm):
            return
        what = "The gradient" if math.isfinite(loss) else "The loss"
        raise NeuronMMError(
            f"{what} of step {self.progress.step + 1} of {self._config.steps} is not finite. Try a lower learning_rate (it is "
            f"{self._config.learning_rate:g}), a longer warmup_fraction, or dtype 'float32'."
        )

    def _measure(self, rate: float) -> None:
        """Measures on the held-out windows, and keeps the state if it is the best so far."""
        progress = self.progress
        losses = held_out_losses(self._model, self._text.held_out, self._team)
        for source, value in zip(self._text.sources, losses, strict=True):
            if not math.isfinite(value):
                raise NeuronMMError(
                    f"The held-out loss on {source['source']} is not finite after step {progress.step}. "
                    + (
                        "Try a lower learning_rate."
                        if progress.step
                        else "The compressed model is damaged, or overflows."
                    )
                )
        progress.seconds = time.perf_counter() - self._opened
        progress.log.append(
            {
                "step": progress.step,
                "tokens": progress.step * self._config.batch_size * self._config.sequence_length,
                "seconds": round(progress.seconds, 2),
                "learning_rate": rate,
                "loss": mean(progress.losses) if progress.losses else None,
                "held_out": losses,
            }
        )
        progress.losses = []
        if mean(losses) < progress.best_loss:
            progress.best_loss, progress.best_step, progress.stale = mean(losses), progress.step, 0
            self._best = self._trained.state()
        else:
            progress.stale += 1

    def _save(self, optimizer, chosen: dict[str, torch.Tensor]) -> None:
        self.progress.seconds = time.perf_counter() - self._opened
        tensors = {f"parameter.{name}": value for name, value in self._trained.state().items()}
        tensors |= {f"best.{name}": value for name, value in self._best.items()}
        for name, parameter in chosen.items():
            for key, value in optimizer.state[parameter].items():
                tensors[f"optimizer.{key}.{name}"] = value.detach().cpu().clone()
        encoded = json.dumps(asdict(self.progress)).encode()
        tensors["progress"] = torch.tensor(list(encoded), dtype=torch.uint8)
        self._save_state(tensors)


def _progress(saved: dict[str, torch.Tensor]) -> Progress:
    return Progress(**json.loads(bytes(saved["progress"].tolist())))


def _named(saved: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in saved.items() if name.startswith(prefix)}


def _load_optimizer(optimizer, chosen: dict[str, torch.Tensor], saved: dict[str, torch.Tensor]) -> None:
    for key in ("step", "exp_avg", "exp_avg_sq"):
        for name, value in _named(saved, f"optimizer.{key}.").items():
            parameter = chosen[name]
            device = "cpu" if key == "step" else parameter.device  # where AdamW keeps its count of steps
            optimizer.state[parameter][key] = value.to(device)
