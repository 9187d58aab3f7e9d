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
"""What the metrics share: predictions and references come in pairs."""

from collections.abc import Sequence, Sized
from typing import TYPE_CHECKING

from optimum_neuronmm.errors import NeuronMMError


if TYPE_CHECKING:
    import datasets


def texts_or_windows() -> "list[datasets.Features]":
    """The features of metrics that take texts, or what was measured on windows with their numbers of tokens."""
    import datasets

    # evaluate takes the first form that fits, and would turn a text such as "12" into a number.
    return [
        datasets.Features({"predictions": datasets.Value(kind), "references": datasets.Value("int64")})
        for kind in ("string", "float64")
    ]


def check_pairs(predictions: Sized | None, references: Sized | None, names: tuple[str, str]) -> None:
    """Refuses predictions and references that are missing, empty, or not as many of one as of the other.

    `evaluate` leaves a metric with half a batch where it finds that out itself.

    Args:
        names: what predictions and references are, for the message.
    """
    given = [0 if values is None else len(values) for values in (predictions, references)]
    if given[0] != given[1] or not given[0]:
        raise NeuronMMError(
            f"predictions ({names[0]}) and references ({names[1]}) must be as many, and at least one; got {given[0]} and "
            f"{given[1]}."
        )


def references_of_texts(predictions: Sequence | None, references: Sequence | None) -> Sequence | None:
    """The references of metrics that also take texts: as given, or one None a text, because texts have none.

    Raises:
        NeuronMMError: for one text in place of a list, which would be taken apart into its characters.
    """
    if isinstance(predictions, str):
        raise NeuronMMError("predictions must be a list of texts, and got one text. Put it into a list.")
    if references is None and predictions is not None and len(predictions) and isinstance(predictions[0], str):
        return [None] * len(predictions)
    return references
