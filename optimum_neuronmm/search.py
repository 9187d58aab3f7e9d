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
"""The choice of ranks: at the ratio that was asked for, or at the largest that keeps the model good enough."""

import math
from dataclasses import replace

from .allocation import Allocation, allocate_by_loss, allocate_uniform, largest_ratio, predicted_loss
from .analysis import Analysis
from .errors import NeuronMMError, NotFiniteError
from .quality import dense_hidden, trial
from .run import Run


# The search ends when the ratio is known to so much, or after so many trials.
_RESOLUTION = 0.002
_TRIALS = 10
# Nats of measured loss for one of predicted loss, before any was measured.
_SLOPE = 1.0
_BISECTIONS = 12
_FILE = "trials.json"


def choose_ranks(run: Run, analysis: Analysis) -> tuple[Allocation, float, list[dict]]:
    """The allocation, its ratio, and the trials that led to it: none where the ratio was given.

    Raises:
        NeuronMMError: where no ratio keeps the perplexity as asked.
    """
    if run.config.max_perplexity_increase is None:
        return allocate(run, analysis, run.config.compression_ratio), run.config.compression_ratio, []
    dense_hidden(run)  # before any trial: if the dense model fails, no ratio is to blame
    search = _Search(run, analysis)
    ratio = search.largest()
    return allocate(run, analysis, ratio), ratio, search.trials


def allocate(run: Run, analysis: Analysis, ratio: float) -> Allocation:
    config = replace(run.config, compression_ratio=ratio)
    if config.allocates_by_loss:
        return allocate_by_loss(run.projections, analysis.losses, config)
    return allocate_uniform(run.projections, config)


class _Search:
    """Looks for the largest ratio whose measured increase of perplexity stays below the limit.

    The logarithm of the increase is taken as linear in the predicted loss, between the trials on both sides of the limit
    or, as long as there are none above it, with the slope of the last. Every trial narrows an interval; where two in a row
    did not halve it, or nothing is known of the slope, the next one does. Trials are kept in the workspace.

    Attributes:
        trials: `{"ratio", "achieved", "perplexity", "increase", "divergence"}` of each, in order.
    """

    def __init__(self, run: Run, analysis: Analysis):
        self._run, self._analysis = run, analysis
        self._limit = run.config.max_perplexity_increase
        self._allocations: dict[float, Allocation] = {}
        self._done = 0  # trials that this run has come by; of an interrupted one there may be more
        self.trials: list[dict] = run.workspace.read_json(_FILE) or []

    def largest(self) -> float:
        nothing, bad = self._without_ranks(), largest_ratio(self._run.projections, self._run.config)
        good, limit = nothing, math.log1p(self._limit)
        below, above = (0.0, 0.0), None  # predicted loss and logarithm of the increase, nearest to the limit
        target, slow = limit / _SLOPE, 0
        while self._done < _TRIALS and bad - good > _RESOLUTION:
            width = bad - good
            ratio = (good + bad) / 2 if target is None or slow == 2 else self._between(good, bad, target)
            increase = self._increase(ratio)
            point = (self._predicted(ratio), math.log1p(increase))
            if increase < self._limit:
                good, below = ratio, point
            else:
                bad, above = ratio, point
            if above is not None:
                share = (limit - below[1]) / (above[1] - below[1])
                target = below[0] + share * (above[0] - below[0])
            else:
                target = limit * point[0] / point[1] if increase > 0 else None
            slow = 0 if bad - good <= width / 2 else slow % 2 + 1
        if good == nothing:
            raise self._nothing_found()
        return good

    def _nothing_found(self) -> NeuronMMError:
        if not self.trials:
            return NeuronMMError(
                "No ratio can be tried: no aligned rank saves what the allocation counts. Use a smaller block_size, or a "
                "smaller allocation_tensor_parallel_size."
            )
        least = min(self.trials, key=lambda entry: (self._increase_of(entry), entry["achieved"]))
        return NeuronMMError(
            f"No ratio keeps the increase of perplexity below {self._limit:.2%}: removing {least['achieved']:.2%} of the "
            f"parameters already costs {self._increase_of(least):.2%}. Allow more, use a smaller block_size, or calibrate "
            "on text that is closer to what the model is for."
        )

    def _without_ranks(self) -> float:
        """A ratio up to which nothing is compressed. A uniform rank may save nothing at a small ratio."""
        low, high = 0.0, largest_ratio(self._run.projections, self._run.config)
        for _ in range(0 if self._run.config.allocates_by_loss else _BISECTIONS):
            middle = (low + high) / 2
            try:
                self._allocation(middle)
                high = middle
            except NeuronMMError:
                low = middle
        return low

    def _between(self, good: float, bad: float, loss: float) -> float:
        """The ratio within an interval at which `loss` is predicted, or what narrows the interval most near its ends."""
        low, high = good, bad
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._predicted(middle) < loss else (low, middle)
        step = min(0.9 * _RESOLUTION, (bad - good) / 2)
        return min(max(low, good + step), bad - step)

    def _increase(self, ratio: float) -> float:
        """The measured increase at a ratio. Ranks that were tried already are not tried again."""
        allocation = self._allocation(ratio)
        for entry in self.trials[: self._done]:
            if self._allocation(entry["ratio"]).ranks == allocation.ranks:
                return self._increase_of(entry)
        number, self._done = self._done, self._done + 1
        if number == len(self.trials):
            entry, told = self._try(ratio, allocation)
            self.trials.append(entry)
            self._run.workspace.write_json(_FILE, self.trials)
            print(f"Trial {number + 1}: {allocation.removed:.2%} removed, {told}.", flush=True)
        return self._increase_of(self.trials[number])

    def _try(self, ratio: float, allocation: Allocation) -> tuple[dict, str]:
        """A trial's entry, and what is told of it."""
        entry = {"ratio": ratio, "achieved": allocation.removed}
        try:
            figures = trial(self._run, self._analysis, allocation)
        except NotFiniteError:
            figures = {"after": math.inf}
        if math.isinf(figures["after"]):  # which JSON cannot hold
            return entry | {"perplexity": None, "increase": None, "divergence": None}, "perplexity is not finite"
        increase = figures["after"] / figures["before"] - 1
        told = (
            f"perplexity {figures['before']:.2f} -> {figures['after']:.2f} ({increase:+.2%}, limit {self._limit:+.2%})"
        )
        return entry | {
            "perplexity": figures["after"],
            "increase": increase,
            "divergence": figures["divergence"],
        }, told

    @staticmethod
    def _increase_of(entry: dict) -> float:
        return math.inf if entry["increase"] is None else entry["increase"]

    def _predicted(self, ratio: float) -> float:
        """Predicted loss at a ratio; without one, something that grows with the ratio."""
        if not self._run.config.allocates_by_loss:
            return ratio
        return predicted_loss(self._allocation(ratio), self._analysis.losses)

    def _allocation(self, ratio: float) -> Allocation:
        if ratio not in self._allocations:
            self._allocations[ratio] = allocate(self._run, self._analysis, ratio)
        return self._allocations[ratio]
