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
"""Predictions and references come in pairs."""

import numpy as np
import pytest

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes.metrics.pairs import check_pairs, references_of_texts


@pytest.mark.parametrize(
    "predictions, references, given",
    [([1], None, "1 and 0"), (None, [1, 2], "0 and 2"), ([], [], "0 and 0"), ([1, 2, 3], [1, 2], "3 and 2")],
)
def test_what_is_refused(predictions, references, given):
    with pytest.raises(NeuronMMError, match=rf"predictions \(losses\) and references \(tokens\) .*; got {given}\."):
        check_pairs(predictions, references, ("losses", "tokens"))


def test_what_is_taken():
    check_pairs([1], [2], ("losses", "tokens"))
    check_pairs(np.zeros((3, 2)), (1, 2, 3), ("losses", "tokens"))


@pytest.mark.parametrize(
    "predictions, references, expected",
    [(["a", "b"], None, [None, None]), (["a"], [3], [3]), ([1.0], None, None), ([1.0], [3], [3]), ([], None, None)],
)
def test_texts_have_no_references(predictions, references, expected):
    assert references_of_texts(predictions, references) == expected


def test_one_text_is_not_taken_apart():
    with pytest.raises(NeuronMMError, match="got one text"):
        references_of_texts("abc", None)
