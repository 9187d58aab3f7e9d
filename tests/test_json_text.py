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
"""Text that JSON holds."""

import json

import pytest

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.json_text import checked_text


def test_text_is_returned_as_it_is():
    assert checked_text(" é\U0001f600\n", "a", "here") == " é\U0001f600\n" and checked_text("", "a", "here") == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3", r"^here: \"a\" must be a string, got int\.$"),
        ("null", r"^here: \"a\" must be a string, got NoneType\.$"),
        (r'"\ud800"', r"^here: \"a\" is not valid Unicode \(surrogates not allowed\)\.$"),
    ],
)
def test_what_is_no_text(line, message):
    with pytest.raises(NeuronMMError, match=message):
        checked_text(json.loads(line), '"a"', "here")
