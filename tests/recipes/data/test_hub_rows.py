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
from optimum_neuronmm.recipes.data.hub_rows import FIELDS, converted
from optimum_neuronmm.recipes.data.prompts import build_question
from optimum_neuronmm.recipes.data.tasks import MULTIPLE_CHOICE, TASKS

from .example_rows import HUB_ROWS, lm_eval_requests, lm_eval_task


# lm-eval looks at the first letter of each option of the first example, so that must have one.
FIRST = {
    "openbookqa": {"choices": {"text": ["a", "b", "c", "d"], "label": ["A", "B", "C", "D"]}},
    "hellaswag": {"endings": ["a", "b", "c", "d"]},
    "mathqa": {"options": "a ) 1 , b ) 2 , c ) 3 , d ) 4 , e ) 5"},
}
CHOICES = [name for name, task in TASKS.items() if task.kind == MULTIPLE_CHOICE]


def convert(name: str, **changes) -> dict:
    return converted(TASKS[name], HUB_ROWS[name] | changes, 7, "Hub, row 7")


class TestForms:
    def test_every_field_that_is_used_is_in_the_hubs_rows(self):
        assert list(FIELDS) == list(TASKS)
        for name, fields in FIELDS.items():
            only = {field: HUB_ROWS[name][field] for field in fields}
            assert converted(TASKS[name], only, 7, "") == convert(name)

    def test_texts(self):
        assert convert("wikitext2") == {"text": " = A heading = \n"}
        assert convert("ptb") == {"text": "the company said <unk> rose N N"}
        assert convert("c4") == {"text": "A document.\nIts second line."}
        assert convert("wikitext2", text="") == {"text": ""}

    def test_arc_and_openbookqa(self):
        assert convert("arc_easy") == {
            "id": "SCHOOL_1_2",
            "question": "What is a drawing of a town from above called?",
            "choices": ["street sign", "city map", "picture book"],
            "label": 1,
        }
        assert convert("openbookqa")["question"] == "A lamp without a plug is"
        assert convert("openbookqa")["label"] == 1
        assert convert("arc_challenge")["label"] == 3

    def test_winogrande(self):
        row = convert("winogrande")
        assert (row["id"], row["choices"], row["label"]) == ("winogrande-7", ["Ada", "Bruno"], 1)
        assert row["sentence"] == HUB_ROWS["winogrande"]["sentence"]

    def test_hellaswag(self):
        row = convert("hellaswag")
        assert row["context"] == "Washing Hands:  How to wash. Use soap. Open the tap. Then mark"
        assert row["choices"] == ["dries them .", " runs. away.", "", "sleeps here."]
        assert (row["id"], row["label"]) == ("hellaswag-7", 1)
        assert convert("hellaswag", label=3)["label"] == 3

    def test_mathqa(self):
        row = convert("mathqa")
        assert row["choices"] == ["38", "", "1,000 km", "2 and 3", "none , of these"]
        assert (row["id"], row["question"], row["label"]) == ("mathqa-7", "what is 1 , 5 and e ) 2 ?", 2)

    @pytest.mark.parametrize("name", CHOICES)
    def test_questions_as_lm_eval_builds_them(self, name):
        rows = [HUB_ROWS[name] | FIRST.get(name, {}), HUB_ROWS[name]]
        _, (pairs, gold, lengths) = lm_eval_requests(lm_eval_task(name, rows))
        if name == "hellaswag":  # which leaves its label a string, that lm-eval then reads
            gold = int(gold)
        question = build_question(TASKS[name], convert(name), "here")
        assert (question.rows, question.label, question.lengths) == (pairs, gold, lengths)

    @pytest.mark.parametrize(
        "options",
        [
            "a ) 1 , 2 , b ) 3 , c ) 4 , d ) 5 , e ) 6",
            "a ) b ) 2 , b ) 3 , c ) 4 , d ) 5 , e ) a ) 6 , 7",
            "a ) rs . 400 , b ) 1 / 2 ,, c ) , d )  5  , e ) ",
            "a ) 38 , b ) 27.675 , c ) 30 , d ) data inadequate , e ) none of these",
        ],
    )
    def test_options_of_mathqa_are_split_as_lm_eval_splits_them(self, options):
        rows = [HUB_ROWS["mathqa"] | FIRST["mathqa"], HUB_ROWS["mathqa"] | {"options": options}]
        _, (pairs, _, lengths) = lm_eval_requests(lm_eval_task("mathqa", rows))
        question = build_question(TASKS["mathqa"], convert("mathqa", options=options), "here")
        assert (question.rows, question.lengths) == (pairs, lengths)


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "changes", "message"),
        [
            ("ptb", {"sentence": None}, '"sentence" must be a string, got NoneType'),
            ("arc_easy", {"answerKey": "B"}, "\"answerKey\" must be one of 1, 2, 3, got 'B'"),
            ("arc_easy", {"answerKey": 2}, '"answerKey" must be a string, got int'),
            ("arc_easy", {"choices": []}, '"choices" must hold "text" and "label", got list'),
            ("arc_easy", {"choices": {"text": ["a"]}}, 'the field "label" is missing'),
            ("arc_easy", {"choices": {"text": ["a", "b"], "label": ["A"]}}, "there are 2 options, but 1 labels"),
            ("openbookqa", {"question_stem": 1}, '"question_stem" must be a string, got int'),
            ("winogrande", {"answer": ""}, "\"answer\" must be one of 1, 2, got ''"),
            ("hellaswag", {"label": ""}, "\"label\" must be one of 0, 1, 2, 3, got ''"),
            ("hellaswag", {"label": "4"}, "\"label\" must be one of 0, 1, 2, 3, got '4'"),
            ("hellaswag", {"label": True}, '"label" must be one of 0, 1, 2, 3, got '),
            ("mathqa", {"correct": "f"}, "\"correct\" must be one of a, b, c, d, e, got 'f'"),
            ("mathqa", {"options": None}, '"options" must be a string, got NoneType'),
        ],
    )
    def test_a_value_that_is_not_known(self, name, changes, message):
        with pytest.raises(NeuronMMError, match=f"^Hub, row 7: {message}"):
            convert(name, **changes)
