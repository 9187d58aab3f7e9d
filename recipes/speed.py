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
"""How fast a model generates: latency, throughput, time to first token and time per output token.

They are the end-to-end figures of the NeuronMM paper (arXiv 2510.25977), for one length of prompt and of output. The
same code times a transformers model on CPU or CUDA and a model that optimum-neuron compiled.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from optimum_neuronmm.errors import NeuronMMError


# The time per output token lies between two tokens.
_LEAST = {"prompt_length": 1, "new_tokens": 2, "batch_size": 1, "warmup": 0, "repeats": 1}
# None to `generate` itself: a clean GenerationConfig would still take these from the model, and end at an EOS token.
_NO_TOKENS = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"))
_PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class SpeedSettings:
    """What is timed.

    Args:
        prompt_length: tokens of each prompt.
        new_tokens: tokens generated for each prompt, at least 2.
        batch_size: prompts that run together.
        warmup: runs before those that count.
        repeats: runs that count.

    Raises:
        NeuronMMError: naming the option, what was expected and what was got.
    """

    prompt_length: int = 1024
    new_tokens: int = 128
    batch_size: int = 1
    warmup: int = 1
    repeats: int = 5

    def __post_init__(self):
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise NeuronMMError(f"{name} of speed must be an integer of at least {least}, got {value!r}.")

    @property
    def length(self) -> int:
        """Tokens of a prompt with its output."""
        return self.prompt_length + self.new_tokens


def measure_speed(
    model: Any, settings: SpeedSettings, *, vocab_size: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Times greedy generation of exactly `settings.new_tokens` tokens for random prompts.

    The model's own generation config plays no part: nothing is sampled, no beams, no penalties, and no token ends a
    text early. Of a run, with t_i the time at which token i of every prompt is there, and t_0 that of the call:

    - `ttft_s`, time to first token: t_1 - t_0, in seconds. It holds the prompt's pass and what `generate` prepares. A
      compiled model pads the prompt to the length that it was compiled for, so that there it hardly depends on
      `prompt_length`.
    - `tpot_s`, time per output token: (t_n - t_1) / (n - 1), in seconds.
    - `latency_s`: t_n - t_0, in seconds.
    - `throughput_tokens_per_s`: batch_size * n / latency, in new tokens per second, over the whole batch.

    Args:
        model: a model of transformers on CPU or CUDA, in evaluation mode, or one that optimum-neuron compiled.
        vocab_size: prompts are drawn from the token ids below it, but for special ones; the model's own by default.
        seed: of the prompts, which are the same in every run.

    Returns:
        For JSON: "settings", "device" (what it ran on; for a compiled model what it was compiled for), "dtype", the
        four figures as {"mean", "min", "p50", "p90", "p99", "max"} over the runs that count, and "runs", the figures
        of each. Percentiles are interpolated linearly.

    Raises:
        NeuronMMError: before anything runs, where the settings do not fit the model's context or the shapes that it was
            compiled for, or where the model is on another device or in training mode; and where another number of
            tokens came out than was asked for.
    """
    device = _describe_device(model)
    _check_mode(model)
    _check_lengths(model, settings)
    prompts = _draw_prompts(model, settings, vocab_size, seed)
    runs = []
    with tqdm(total=settings.warmup + settings.repeats, desc="Timing generation", unit="run") as progress:
        for number in range(settings.warmup + settings.repeats):
            figures = _time_run(model, prompts, settings)
            if number >= settings.warmup:
                runs.append(figures)
            progress.update()
    dtype = _neuron_config(model).torch_dtype if _neuron_config(model) else model.dtype
    return {
        "settings": asdict(settings),
        "device": device,
        "dtype": str(dtype).removeprefix("torch."),
        **{name: _summarise(run[name] for run in runs) for name in runs[0]},
        "runs": runs,
    }


class _Clock(StoppingCriteria):
    """Notes when each token is there; `generate` calls it after every token. Never stops anything."""

    def __init__(self, prompts: torch.Tensor):
        self.device = prompts.device
        self.go_on = torch.zeros(len(prompts), dtype=torch.bool, device=prompts.device)
        self.ticks: list[float] = []
        self.shapes: list[tuple[int, ...]] = []

    def read(self) -> float:
        if self.device.type == "cuda":  # its work goes on after a call returns
            torch.cuda.synchronize(self.device)
        return perf_counter()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor | None, **kwargs) -> torch.Tensor:
        self.ticks.append(self.read())
        self.shapes.append(tuple(input_ids.shape))
        return self.go_on


def _time_run(model: Any, prompts: torch.Tensor, settings: SpeedSettings) -> dict[str, float]:
    n, clock = settings.new_tokens, _Clock(prompts)
    mask, config = torch.ones_like(prompts), GenerationConfig(do_sample=False, max_new_tokens=n)
    start = clock.read()
    output = model.generate(
        prompts,
        attention_mask=mask,
        generation_config=config,
        use_model_defaults=False,
        stopping_criteria=StoppingCriteriaList([clock]),
        **_NO_TOKENS,
    )
    batch_size, length = prompts.shape
    if clock.shapes != [(batch_size, length + i + 1) for i in range(n)] or output.shape != (batch_size, length + n):
        raise NeuronMMError(
            f"Speed is measured over {n} new tokens for each of {batch_size} prompts of {length}, one token a step, but "
            f"{type(model).__name__}.generate made {len(clock.ticks)} steps and returned the shape {tuple(output.shape)}. "
            "A figure for another length would mislead, so there is none: try a model whose `generate` is that of "
            "transformers or optimum-neuron."
        )
    first, last = clock.ticks[0], clock.ticks[-1]
    return {
        "latency_s": last - start,
        "ttft_s": first - start,
        "tpot_s": (last - first) / (n - 1),
        "throughput_tokens_per_s": batch_size * n / (last - start),
    }


def _summarise(values: Iterable[float]) -> dict[str, float]:
    values = np.array(list(values))
    percentiles = {f"p{p}": float(np.percentile(values, p)) for p in _PERCENTILES}
    return {"mean": float(values.mean()), "min": float(values.min()), **percentiles, "max": float(values.max())}


def _neuron_config(model: Any) -> Any:
    """What optimum-neuron compiled the model for; None for a model of transformers."""
    return getattr(model, "neuron_config", None)


def _describe_device(model: Any) -> str:
    if neuron := _neuron_config(model):
        return f"neuron (target {neuron.target or 'not given'}, tensor parallel {neuron.tp_degree})"
    found = []
    for device in sorted({parameter.device for parameter in model.parameters()}, key=str):
        if device.type == "cpu":
            threads = torch.get_num_threads()
            found.append(f"cpu ({threads} thread{'s' if threads > 1 else ''})")
        elif device.type == "cuda":
            found.append(f"cuda: {torch.cuda.get_device_name(device)}")
        else:
            raise NeuronMMError(
                f"Speed is measured on cpu, on cuda, or with a compiled model, but the model has weights on {device}. Load it "
                "whole on one of them."
            )
    return " + ".join(found)


def _check_mode(model: Any) -> None:
    if getattr(model, "training", False):
        raise NeuronMMError(
            "Speed is measured in evaluation mode, but the model is in training mode, with dropout and perhaps without a "
            "cache: call model.eval() first."
        )


def _check_lengths(model: Any, settings: SpeedSettings) -> None:
    asked = f"prompt_length {settings.prompt_length} + new_tokens {settings.new_tokens} = {settings.length} tokens"
    neuron = _neuron_config(model)
    if neuron is None:
        most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if most is not None and settings.length > most:
            raise NeuronMMError(
                f"The model has {most} positions (max_position_embeddings), got {asked}: lower prompt_length or new_tokens."
            )
        return
    compiled = (
        f"The model was compiled for batch_size {neuron.batch_size}, sequence_length {neuron.sequence_length} and prompts "
        f"of at most {neuron.max_context_length} tokens"
    )
    if settings.batch_size != neuron.batch_size:  # a smaller one would be padded, and take as long
        raise NeuronMMError(f"{compiled}, got batch_size {settings.batch_size}: set it to {neuron.batch_size}.")
    if settings.length > neuron.sequence_length:
        raise NeuronMMError(f"{compiled}, got {asked}: lower prompt_length or new_tokens, or compile for more.")
    if settings.prompt_length > neuron.max_context_length:  # the rest would be cut off without a word
        raise NeuronMMError(f"{compiled}, got prompt_length {settings.prompt_length}: lower it, or compile for more.")
    if neuron.output_logits:
        raise NeuronMMError(
            "The model was compiled to return its logits beside what it generates from (output_logits), and "
            "optimum-neuron's `generate` cannot use such a model: compile it without output_logits to measure its speed."
        )


def _draw_prompts(model: Any, settings: SpeedSettings, vocab_size: int | None, seed: int) -> torch.Tensor:
    """Random token ids (batch_size, prompt_length), int64, on the model's device."""
    most = model.config.get_text_config().vocab_size
    vocab_size = most if vocab_size is None else vocab_size
    if type(vocab_size) is not int or not 1 <= vocab_size <= most:
        raise NeuronMMError(f"vocab_size must be an integer from 1 to the model's {most}, got {vocab_size!r}.")
    special = _special_tokens(model)
    allowed = torch.tensor([token for token in range(vocab_size) if token not in special])
    if not len(allowed):
        raise NeuronMMError(
            f"vocab_size {vocab_size} leaves only the special tokens {sorted(special)} to draw prompts from: raise it."
        )
    generator = torch.Generator().manual_seed(seed)
    shape = (settings.batch_size, settings.prompt_length)
    return allowed[torch.randint(len(allowed), shape, generator=generator)].to(model.device)


def _special_tokens(model: Any) -> set[int]:
    """The ids that the model's configs name, such as its several EOS tokens."""
    found = set()
    for config in (model.config, model.config.get_text_config(), model.generation_config):
        for name in _NO_TOKENS:
            tokens = getattr(config, name, None)
            found.update(tokens if isinstance(tokens, (list, tuple)) else () if tokens is None else (tokens,))
    return found
