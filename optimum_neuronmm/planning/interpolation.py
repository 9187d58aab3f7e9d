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
"""MLPs of many ranks: a few of them are predicted, and the others lie between those.

Where the ranks of every layer were chosen, no two MLPs may be equal, and to search the kernels of each takes a second or two.
What a kernel computes and reads is linear in the ranks, and so nearly is its time.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ..kernels.latency import Prediction
from ..neuron.form import PROJECTIONS, Form
from ..neuron.selection import Candidate, in_order
from ..ranks import DENSE


MOST = 8  # MLPs of one model that are all predicted
FEW = 5  # that are where there are more, and two of each kind


def chosen(forms: Iterable[Form]) -> list[Form]:
    """The forms to predict: all, or a few from the smallest to the largest of each kind.

    A kind is what has factors in the same projections and lies on the ranks of tensor parallelism in the same way.
    """
    forms = list(dict.fromkeys(forms))
    if len(forms) <= MOST:
        return forms
    kinds = defaultdict(list)
    for form in sorted(forms, key=_size):
        kinds[_kind(form)].append(form)
    found = []
    for members in kinds.values():
        number = min(len(members), max(2, FEW * len(members) // len(forms)))
        found += [members[round(i * (len(members) - 1) / max(number - 1, 1))] for i in range(number)]
    return found


def between(form: Form, predicted: Mapping[Form, Sequence[Candidate]]) -> list[Candidate]:
    """The candidates of a form, interpolated by parameters between its two neighbours of the same kind.

    Args:
        predicted: candidates of forms.

    Returns:
        The kernels that both neighbours have, in order, without calls and plans. Empty where they have none in common, and
        where the form does not lie between two of its kind.
    """
    peers = sorted((other for other in predicted if _kind(other) == _kind(form)), key=_size)
    sizes = [other.parameters for other in peers]
    if not peers or not sizes[0] <= form.parameters <= sizes[-1]:
        return []
    low, high = peers[bisect_right(sizes, form.parameters) - 1], peers[bisect_left(sizes, form.parameters)]
    width = high.parameters - low.parameters
    share = (form.parameters - low.parameters) / width if width > 0 else 0.0
    others = {candidate.kernel: candidate for candidate in predicted[high]}
    return in_order(
        replace(candidate, calls=(), prediction=_mix(candidate.prediction, other.prediction, share))
        for candidate in predicted[low]
        if (other := others.get(candidate.kernel)) is not None
    )


def _mix(low: Prediction, high: Prediction, share: float) -> Prediction:
    def mixed(a: float, b: float) -> float:
        return a + share * (b - a)

    counts = {name: round(mixed(getattr(low, name), getattr(high, name))) for name in _COUNTS}
    return replace(
        low,
        seconds=mixed(low.seconds, high.seconds),
        floor=mixed(low.floor, high.floor),
        busy={engine: mixed(seconds, high.busy[engine]) for engine, seconds in low.busy.items()},
        **counts,
        spills=low.spills or high.spills,
        notes=tuple(dict.fromkeys(low.notes + high.notes)),
        plans=(),
        events=(),
    )


_COUNTS = ("flops", "transpose_flops", "hbm_bytes", "sbuf_peak")


def _kind(form: Form) -> tuple:
    return (*(getattr(form, name) is DENSE for name in PROJECTIONS), form.layout)


def _size(form: Form) -> tuple[int, str]:
    return form.parameters, str(form)
