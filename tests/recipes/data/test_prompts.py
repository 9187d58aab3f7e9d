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
from optimum_neuronmm.recipes.data.prompts import build_question, build_questions
from optimum_neuronmm.recipes.data.tasks import MULTIPLE_CHOICE, TASKS

from .example_rows import as_hub_row, lm_eval_requests, lm_eval_task, local_row


CHOICES = [name for name, task in TASKS.items() if task.kind == MULTIPLE_CHOICE]


def build(name: str, **changes):
    return build_question(TASKS[name], local_row(name, **changes), "file, line 3")


class TestPrompts:
    @pytest.mark.parametrize("name", ["arc_easy", "arc_challenge", "mathqa"])
    def test_a_question_and_its_answers(self, name):
        question = build(name)
        asked = "Question: How many?\nAnswer:"
        assert question.rows == ((asked, " one"), (asked, " two"))
        assert (question.id, question.label, question.lengths) == (f"{name}-1", 1, (3, 3))
        assert question.place == "file, line 3"

    @pytest.mark.parametrize("name", ["openbookqa", "hellaswag"])
    def test_a_passage_that_is_continued(self, name):
        assert build(name, choices=["on", " two"]).rows == (("How many?", " on"), ("How many?", "  two"))

    def test_winogrande_scores_the_remainder_after_each_option(self):
        question = build("winogrande", sentence="I saw _ there. ", label=0)
        assert question.rows == (("I saw one", " there."), ("I saw two", " there."))
        assert question.lengths == (9, 9) and question.label == 0

    def test_winogrande_fills_the_first_of_several_blanks(self):
        assert build("winogrande", sentence="_ is a_b").rows == (("one", " is a_b"), ("two", " is a_b"))

    def test_an_empty_option_is_kept(self):
        question = build("mathqa", choices=["38", "", "5"])
        assert question.rows[1][1] == " " and question.lengths == (2, 0, 1)

    def test_braces_in_a_question_are_text(self):
        assert build("arc_easy", question="{0} {x}").rows[0][0] == "Question: {0} {x}\nAnswer:"

    def test_lengths_are_characters(self):
        assert build("openbookqa", choices=["\u00e9t\u00e9", "\U0001f600"]).lengths == (3, 1)

    @pytest.mark.parametrize("name", CHOICES)
    def test_rows_as_lm_eval_builds_them(self, name):
        choices = ["a rather long one", "two, 'or' more", "\u00e9t\u00e9 ", "4", "\U0001f600"]
        choices = choices[:2] if name == "winogrande" else choices
        changes = {"option1": choices[0], "option2": choices[1]} if name == "winogrande" else {}
        row = local_row(name, choices=choices, label=1, **changes)
        changes = {"process_docs": None, "doc_to_text": "{{context}}"} if name == "hellaswag" else {}
        if name == "mathqa":  # its regular expression gives no option with a comma and a space, or a space at its end
            row["choices"][1:3] = ["two,'or' more", "\u00e9t\u00e9"]
        [(pairs, gold, lengths)] = lm_eval_requests(lm_eval_task(name, [as_hub_row(name, row)], **changes))
        question = build_question(TASKS[name], row, "here")
        assert (question.rows, question.label, question.lengths) == (pairs, gold, lengths)


class TestErrors:
    @pytest.mark.parametrize("name", CHOICES)
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"id": 3}, '"id" must be a string, got int'),
            ({"id": " "}, '"id" is empty'),
            ({"choices": "one"}, '"choices" must be a list of strings, got str'),
            ({"choices": ["one", 2]}, r'"choices"\[1\] must be a string, got int'),
            ({"choices": ["one", "\udc00"]}, r'"choices"\[1\] is not valid Unicode'),
            ({"choices": []}, '"choices" must hold two or more, got 0'),
            ({"choices": ["one"]}, '"choices" must hold two or more, got 1'),
            ({"label": True}, '"label" must be an integer, got bool'),
            ({"label": 1.0}, '"label" must be an integer, got float'),
            ({"label": "1"}, '"label" must be an integer, got str'),
            ({"label": 2}, '"label" must be from 0 to 1, got 2'),
            ({"label": -1}, '"label" must be from 0 to 1, got -1'),
        ],
    )
    def test_of_every_task(self, name, changes, message):
        with pytest.raises(NeuronMMError, match=f"^file, line 3: {message}"):
            build(name, **changes)

    @pytest.mark.parametrize("name", CHOICES)
    def test_a_field_that_is_missing(self, name):
        row = local_row(name)
        for field in set(row) - {"option1", "option2"}:
            rest = {key: value for key, value in row.items() if key != field}
            with pytest.raises(NeuronMMError, match=f'^here: the field "{field}" is missing'):
                build_question(TASKS[name], rest, "here")

    @pytest.mark.parametrize(
        ("name", "field"), [("arc_easy", "question"), ("hellaswag", "context"), ("winogrande", "sentence")]
    )
    def test_what_is_asked_must_not_be_empty(self, name, field):
        with pytest.raises(NeuronMMError, match=f'"{field}" is empty'):
            build(name, **{field: " "})

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"sentence": "I saw her there."}, r'"sentence" has no blank \(_\)'),
            ({"choices": ["one", "two", "three"]}, '"choices" must hold the two options, got 3'),
            ({"option2": "three"}, r'"choices" must be \["option1", "option2"\]'),
            ({"option1": "", "choices": ["", "two"]}, "an option is empty"),
        ],
    )
    def test_of_winogrande(self, changes, message):
        with pytest.raises(NeuronMMError, match=f"^file, line 3: {message}"):
            build("winogrande", **changes)

    def test_winogrande_needs_no_options_beside_its_choices(self):
        row = local_row("winogrande")
        del row["option1"], row["option2"]
        assert build_question(TASKS["winogrande"], row, "here") == build_question(
            TASKS["winogrande"], local_row("winogrande"), "here"
        )

    def test_an_id_that_is_there_twice(self):
        rows = [("line 1", local_row("mathqa")), ("line 2", local_row("mathqa"))]
        with pytest.raises(NeuronMMError, match="^line 2: the \"id\" 'mathqa-1' is that of line 1, too"):
            build_questions(TASKS["mathqa"], rows)


def test_questions_keep_their_order():
    rows = [(f"line {i}", local_row("mathqa", id=str(9 - i))) for i in range(3)]
    questions = build_questions(TASKS["mathqa"], rows)
    assert [(q.id, q.place) for q in questions] == [("9", "line 0"), ("8", "line 1"), ("7", "line 2")]
