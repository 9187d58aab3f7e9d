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
from optimum_neuronmm.recipes.data.tasks import PERPLEXITY, TASKS
from optimum_neuronmm.recipes.data.texts import C4_DOCUMENTS, check_layout, lay_out, rows_of_file


WIKITEXT, PTB, C4 = TASKS["wikitext2"], TASKS["ptb"], TASKS["c4"]


class TestRows:
    def test_wikitext_has_a_row_a_line_and_blank_lines_are_empty(self):
        text = " \n = Heading = \n \n A paragraph\u2028of one\x85line . \n"
        assert rows_of_file(WIKITEXT, text) == ["", " = Heading = \n", "", " A paragraph\u2028of one\x85line . \n"]

    def test_wikitext_without_a_line_end_at_the_end(self):
        assert rows_of_file(WIKITEXT, " a \n b") == [" a \n", " b"]
        assert rows_of_file(WIKITEXT, " a \n ") == [" a \n", ""]
        assert rows_of_file(WIKITEXT, " a \n\n") == [" a \n", ""]

    def test_ptb_loses_the_spaces_around_a_line(self):
        assert rows_of_file(PTB, " no it was \n but  N \n the last ") == ["no it was", "but  N", "the last"]
        assert rows_of_file(PTB, " no it was \n but \n") == ["no it was", "but"]


class TestLayouts:
    def test_wikitext(self):
        rows = ["", " = Heading = \n", "", " Text . \n"]
        assert lay_out(WIKITEXT, "joined", rows) == "\n\n = Heading = \n\n\n\n\n Text . \n"
        assert lay_out(WIKITEXT, "raw", rows) == " \n = Heading = \n \n Text . \n"

    def test_ptb(self):
        assert lay_out(PTB, "joined", ["a b", "c"]) == "a b c"
        assert lay_out(PTB, "blank_lines", ["a b", "c"]) == "a b\n\nc"

    def test_c4_is_cut_after_1100_documents(self):
        assert C4_DOCUMENTS == 1100
        assert lay_out(C4, "joined", [f"d{i}" for i in range(1101)]) == " ".join(f"d{i}" for i in range(1100))

    def test_only_c4_is_cut(self):
        assert lay_out(PTB, "joined", ["a"] * 1101).count("a") == 1101

    def test_every_layout_of_every_task_is_known(self):
        for task in TASKS.values():
            assert all(lay_out(task, layout, ["a", "b"])[0] == "a" for layout in task.layouts)
            assert bool(task.layouts) == (task.kind == PERPLEXITY)


class TestChoice:
    def test_the_first_one_is_the_default(self):
        assert check_layout(WIKITEXT, None) == check_layout(PTB, None) == "joined"
        assert check_layout(WIKITEXT, "raw") == "raw"
        assert check_layout(TASKS["mathqa"], None) is None

    def test_errors(self):
        with pytest.raises(NeuronMMError, match="wikitext2 has no layout 'blank_lines': expected one of joined, raw"):
            check_layout(WIKITEXT, "blank_lines")
        with pytest.raises(NeuronMMError, match="mathqa has no layout 'joined': its examples are no running text"):
            check_layout(TASKS["mathqa"], "joined")
