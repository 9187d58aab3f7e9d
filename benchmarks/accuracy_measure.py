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
"""Measures the rows of accuracy.py: analyses that rows share, weights put into one model, perplexity of each text."""

import hashlib
import json
import os
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_neuronmm import NeuronMMConfig
from optimum_neuronmm.allocation import Allocation, allocate_by_loss, find_projections
from optimum_neuronmm.analysis import Analysis
from optimum_neuronmm.calibration import calibration_windows, file_stats, read_documents
from optimum_neuronmm.families import family_of
from optimum_neuronmm.modeling import factor_tensors, replace_projections, restore_dense
from optimum_neuronmm.perplexity import perplexity
from optimum_neuronmm.run import Run
from optimum_neuronmm.sampling import sampler
from optimum_neuronmm.source import open_dense
from optimum_neuronmm.streaming import LayerStream
from optimum_neuronmm.workspace import Workspace

from .accuracy_cases import Case
from .pruning import Pruning, measure_neurons, prune_by_loss, prune_evenly, pruned_weights
from .references import allocate_evenly, allocate_pivoted, pivoted


_BLOCK = 32  # of an analysis, which is the same for all multiples
_STATISTICS = "statistics.json"  # in a workspace: what making it took


@dataclass(frozen=True)
class Protocol:
    """What is the same for all rows.

    Attributes:
        model: directory or Hub id.
        evaluation: `(file, number of windows)` of each text.
        length: tokens in each of these windows.
        samples, calibration_length: number and length of the calibration windows.
        dtype: that the model is evaluated in.
    """

    model: str
    evaluation: tuple[tuple[str, int], ...]
    length: int
    samples: int
    calibration_length: int
    dtype: str

    def settings(self, case: Case) -> dict:
        """All that decides a row, for JSON."""
        texts = {Path(file).name: count for file, count in self.evaluation}
        case_settings = {**vars(case), "calibration": [Path(source).name for source in case.calibration]}
        return {**vars(self), "model": Path(self.model).name, "evaluation": texts, **case_settings}


def evaluation_windows(tokenizer, file: str, count: int, length: int) -> torch.Tensor:
    """The first disjoint windows (count, length) of a text, as it is: no BOS, documents joined by a blank line."""
    text = ("\n\n" if ".jsonl" in Path(file).name else "").join(read_documents(file))
    tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt", verbose=False).input_ids[0]
    if len(tokens) < count * length:
        raise SystemExit(f"{file} has {len(tokens)} tokens, and {count} windows of {length} are wanted.")
    return tokens[: count * length].view(count, length)


class Measurement:
    """Measures one case after the other.

    Args:
        work: directory for the analyses, which are kept and continued.
    """

    def __init__(self, protocol: Protocol, work: Path):
        self._protocol, self._work = protocol, work
        self._checkpoint = open_dense(protocol.model)
        self._family = family_of(self._checkpoint.config)
        self._tokenizer = AutoTokenizer.from_pretrained(protocol.model)
        self._runs: dict[str, Run] = {}

    def row(self, case: Case) -> dict:
        """What the table says of a case: perplexity by text, achieved ratio, seconds."""
        run = None if case.method == "dense" else self._finished_run(case)
        started = time.perf_counter()
        figures = {"perplexity": None, "achieved": 0.0, "left_dense": 0}
        with ExitStack() as stack:
            if run is not None:
                choice = self._choice(case, run)
                figures |= {"achieved": choice.removed, "choice_seconds": time.perf_counter() - started}
                stack.enter_context(self._put(case, run, choice))
                if isinstance(choice, Pruning):
                    figures["left_dense"] = choice.untouched
                    figures["neurons"] = choice.removed_neurons
                else:
                    figures["left_dense"] = len(choice.ranks) - len(choice.modules)
                    figures["ranks"] = list(choice.ranks.values())
                figures["statistics"] = run.workspace.read_json(_STATISTICS)
            figures["perplexity"] = {name: perplexity(self._model, w) for name, w in self._windows.items()}
        return {**figures, "seconds": time.perf_counter() - started, "load": os.getloadavg()[0]}

    def close(self) -> None:
        for run in self._runs.values():
            run.workspace.close()

    @cached_property
    def _model(self) -> torch.nn.Module:
        dtype = getattr(torch, self._protocol.dtype)
        return AutoModelForCausalLM.from_pretrained(self._checkpoint.directory, dtype=dtype).eval()

    @cached_property
    def _stream(self) -> LayerStream:
        """One for all analyses: their windows have the same length."""
        return LayerStream(self._checkpoint, self._family, torch.float32, torch.device("cpu"))

    @cached_property
    def _windows(self) -> dict[str, torch.Tensor]:
        """The windows of each text that are evaluated."""
        length = self._protocol.length
        return {
            Path(file).name: evaluation_windows(self._tokenizer, file, count, length)
            for file, count in self._protocol.evaluation
        }

    def _finished_run(self, case: Case) -> Run:
        """The run whose workspace holds what the case needs to know of the model."""
        config = NeuronMMConfig(
            block_size=_BLOCK,
            decomposition=case.decomposition,
            gradient_samples=case.gradient_samples,
            calibration=list(case.calibration),
            calibration_samples=self._protocol.samples,
            calibration_length=self._protocol.calibration_length,
            seed=case.seed,
        )
        kind = "neurons" if case.method.startswith("pruning") else case.decomposition
        decides = [kind, self._checkpoint.fingerprint(), config.deciding_options(), file_stats(config.calibration)]
        fingerprint = hashlib.sha256(json.dumps(decides).encode()).hexdigest()
        if fingerprint not in self._runs:
            self._runs[fingerprint] = self._new_run(f"{kind}-{fingerprint[:12]}", fingerprint, config)
        run = self._runs[fingerprint]
        if run.workspace.read_json(_STATISTICS) is None:
            started = time.process_time()
            measure_neurons(run) if kind == "neurons" else Analysis(run).complete()
            figures = {
                "seconds": run.workspace.seconds,
                "cpu_seconds": time.process_time() - started,  # of this process: too little after an interruption
                "threads": torch.get_num_threads(),
                "load": os.getloadavg(),
            }
            run.workspace.write_json(_STATISTICS, figures)
        return run

    def _new_run(self, name: str, fingerprint: str, config: NeuronMMConfig) -> Run:
        self._work.mkdir(parents=True, exist_ok=True)
        workspace = Workspace(self._work / name, fingerprint)
        sample = sampler(
            self._checkpoint, self._tokenizer, config.seed, workspace.cached, torch.device("cpu"), workspace.path
        )
        text = calibration_windows(config, self._tokenizer, sample)
        self._stream.embed(text.windows[:1])  # records what the layers are called with
        # With the factors of every rank below min(K, N), which pivoted storage has a use for.
        projections = pivoted(find_projections(self._checkpoint, self._family, config))
        return Run(self._checkpoint, projections, config, text, self._stream, workspace)

    def _choice(self, case: Case, run: Run) -> Allocation | Pruning:
        if case.method == "pruning":
            return prune_evenly(run, case.ratio)
        if case.method == "pruning_by_loss":
            return prune_by_loss(run, case.ratio, case.block)
        if case.method == "pivoted":
            return allocate_pivoted(run.projections, Analysis(run).losses, case.ratio, case.block)
        config = replace(run.config, compression_ratio=case.ratio, block_size=case.block if case.block > 1 else _BLOCK)
        projections = find_projections(self._checkpoint, self._family, config)
        if case.method == "uniform":
            by_loss = replace(case, method="by_loss", decomposition="two_sided", block=_BLOCK)
            return allocate_evenly(projections, self._choice(by_loss, self._finished_run(by_loss)).removed)
        return allocate_by_loss(projections, Analysis(run).losses, config)

    @contextmanager
    def _put(self, case: Case, run: Run, choice: Allocation | Pruning):
        """Has the model compute with a choice while the context is open."""
        model = self._model
        if isinstance(choice, Pruning):
            dense = {}
            for path, weight in pruned_weights(run, choice, model).items():
                dense[path] = model.get_submodule(path).weight.data
                model.get_submodule(path).weight.data = weight
            yield
            for path, weight in dense.items():
                model.get_submodule(path).weight.data = weight
            return
        dense = {path: model.get_submodule(path) for path in choice.modules}
        replace_projections(model, choice.modules)
        for layer in range(run.projections.layers):
            for attribute, (U, V) in Analysis(run).factors(layer, choice.factored(layer)).items():
                path = choice.projections.path(layer, attribute)
                entries = factor_tensors(path, U, V, dense[path].bias, model.dtype)
                state = {name.removeprefix(f"{path}."): tensor for name, tensor in entries.items()}
                model.get_submodule(path).load_state_dict(state)
        if case.method == "pivoted":
            restore_dense(model)
        yield
        for path, linear in dense.items():
            model.set_submodule(path, linear)
