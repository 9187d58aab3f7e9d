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
"""Which rows the table of accuracy.py has."""

from dataclasses import dataclass
from pathlib import Path


SECTIONS = {
    "dense": "the dense model",
    "by_loss": "the default: two-sided factors, ranks by loss",
    "whitened": "uniform whitening (SVD-LLM, NeuronMM) at the share that ranks by loss remove, ranks not aligned",
    "calibration": "ranks by loss, calibrated on other text",
    "seed": "ranks by loss, another seed",
    "local": "ranks by loss, without gradients through the whole model",
    "uniform": "two-sided factors of uniform ranks, at the same share, not aligned",
    "pivoted": "the same factors in pivoted storage (PIFA)",
    "pruning": "Fisher-OBS neuron pruning, from outside the family",
    "gradients": "ranks by loss, other numbers of windows with gradients",
}
SELF = "self"


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        section: of the table.
        method: "dense", "by_loss", "uniform", "pivoted", "pruning" or "pruning_by_loss".
        ratio: asked for.
        block: of which ranks are multiples.
        decomposition: as in `NeuronMMConfig`, like the remaining ones.
    """

    section: str
    method: str
    ratio: float = 0.0
    block: int = 1
    decomposition: str = "two_sided"
    calibration: tuple[str, ...] = ()
    seed: int = 0
    gradient_samples: int = 32

    @property
    def text(self) -> str:
        """What it is calibrated on, in short."""
        return " + ".join(Path(source).name.split(".")[0] for source in self.calibration)

    @property
    def label(self) -> str:
        if self.method == "dense":
            return "dense"
        if self.method.startswith("pruning"):
            return "neuron pruning, " + ("by loss" if self.method.endswith("by_loss") else "uniform")
        ranks = {"by_loss": f"by loss, {self.block}", "uniform": "uniform", "pivoted": f"pivoted, {self.block}"}
        other = f", seed {self.seed}" if self.seed else ""
        if self.gradient_samples != 32:
            other += f", {self.gradient_samples} gradients"
        return f"{self.decomposition}, {ranks[self.method]}{other}"


def cases(calibration: list[str]) -> list[Case]:
    """All rows, those that the goals are about first.

    Args:
        calibration: sources of text. The first is the standard one.
    """
    first = tuple(calibration[:1])
    mixed = [tuple(calibration)] if len(calibration) > 1 else []
    others = [(source,) for source in calibration[1:] if source != SELF] + [(SELF,)]
    all_ratios, two_ratios = (0.05, 0.1, 0.2, 0.3), (0.1, 0.2)
    return [
        Case("dense", "dense"),
        *(Case("by_loss", "by_loss", ratio, 32, calibration=first) for ratio in all_ratios),
        *(Case("by_loss", "by_loss", ratio, 128, calibration=first) for ratio in two_ratios),
        *(Case("whitened", "uniform", ratio, 1, "whitened", first) for ratio in all_ratios),
        *(
            Case("calibration", "by_loss", ratio, 32, calibration=sources)
            for sources in mixed + others
            for ratio in (0.05, 0.1, 0.2)
            if sources != first
        ),
        *(Case("seed", "by_loss", ratio, 32, calibration=first, seed=1) for ratio in two_ratios),
        *(Case("local", "by_loss", ratio, 32, "two_sided_local", first) for ratio in two_ratios),
        *(Case("uniform", "uniform", ratio, 1, calibration=first) for ratio in all_ratios),
        *(Case("pivoted", "pivoted", ratio, 32, calibration=first) for ratio in all_ratios),
        *(
            Case("pruning", method, ratio, block, calibration=first)
            for method, block in (("pruning", 1), ("pruning_by_loss", 32))
            for ratio in two_ratios
        ),
        *(Case("gradients", "by_loss", 0.2, 32, calibration=first, gradient_samples=count) for count in (16, 64)),
    ]
