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
import pytest

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes.data import fields


ROW = {
    "full": "a",
    "empty": "",
    "blank": " \n",
    "number": 3,
    "list": ["a", ""],
    "mixed": ["a", None],
    "half": "\ud83d",
}


def test_what_is_there_is_returned():
    assert fields.value(ROW, "number", "here") == 3
    assert fields.text(ROW, "full", "here") == fields.filled_text(ROW, "full", "here") == "a"
    assert fields.text(ROW, "empty", "here") == ""
    assert fields.texts(ROW, "list", "here") == ["a", ""]


@pytest.mark.parametrize(
    ("read", "name", "message"),
    [
        (fields.value, "other", r'^here: the field "other" is missing; there are full, empty, '),
        (fields.text, "other", r'^here: the field "other" is missing'),
        (fields.text, "number", r'^here: "number" must be a string, got int\.'),
        (fields.text, "half", r'^here: "half" is not valid Unicode \(surrogates not allowed\)\.'),
        (fields.filled_text, "empty", r'^here: "empty" is empty\.'),
        (fields.filled_text, "blank", r'^here: "blank" is empty\.'),
        (fields.texts, "full", r'^here: "full" must be a list of strings, got str\.'),
        (fields.texts, "mixed", r'^here: "mixed"\[1\] must be a string, got NoneType\.'),
    ],
)
def test_errors_name_the_row_and_the_field(read, name, message):
    with pytest.raises(NeuronMMError, match=message):
        read(ROW, name, "here")


def test_a_row_without_fields():
    with pytest.raises(NeuronMMError, match="there are none"):
        fields.value({}, "text", "here")
