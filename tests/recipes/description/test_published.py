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
"""Published figures: those that ship, against a table that was typed apart from them, and the choice of a row."""

import pytest

from optimum_neuronmm.recipes.description.published import Published, PublishedRow
from optimum_neuronmm.recipes.description.recipe import load_recipe


# recipe, ratio: wikitext2 ptb c4 | openbookqa arc_easy arc_challenge winogrande hellaswag mathqa | mean speed-up gamma (%)
TABLE = """
llama-3.2-1b 0    9.75 15.40 13.83 | .26 .66 .31 .61 .48 .29 | .43 1.00 -
llama-3.2-1b 0.1 15.64 22.80 22.72 | .20 .59 .28 .55 .41 .26 | .38 1.21 25.27
llama-3.2-1b 0.2 18.87 27.24 26.71 | .18 .56 .26 .54 .39 .25 | .36 1.63 11.24
llama-3.2-3b 0    7.82 11.78 11.29 | .31 .74 .42 .70 .55 .35 | .51 1.00 -
llama-3.2-3b 0.1 11.58 15.61 17.11 | .24 .65 .34 .64 .47 .28 | .44 1.88  8.66
llama-3.2-3b 0.2 15.13 18.69 20.80 | .23 .62 .29 .60 .43 .27 | .41 2.49  7.20
qwen3-1.7b   0   16.68 28.88 22.80 | .28 .72 .40 .61 .46 .38 | .47 1.00 -
qwen3-1.7b   0.1 15.43 25.00 20.13 | .27 .72 .39 .62 .43 .34 | .46 1.41  3.24
qwen3-1.7b   0.2 17.05 26.97 22.14 | .25 .70 .37 .58 .42 .31 | .44 1.74  4.72
qwen3-4b     0    9.75 15.40 13.83 | .29 .80 .51 .66 .52 .47 | .54 1.00 -
qwen3-4b     0.1 12.18 18.98 19.05 | .31 .78 .47 .66 .50 .42 | .52 1.28  6.93
qwen3-4b     0.2 14.05 21.09 21.38 | .30 .75 .43 .64 .48 .37 | .49 1.67  7.41
"""
LINES = [line.split() for line in TABLE.strip().splitlines()]
RECIPES = sorted({line[0] for line in LINES})
TEXTS = ["wikitext2", "ptb", "c4"]
QUESTIONS = ["openbookqa", "arc_easy", "arc_challenge", "winogrande", "hellaswag", "mathqa"]


@pytest.fixture(scope="module")
def recipes():
    return {name: load_recipe(name) for name in RECIPES}


class TestShippedFigures:
    @pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line[0]}-{line[1]}")
    def test_are_those_of_the_table(self, recipes, line):
        name, ratio, *texts = line[:5]
        *accuracies, _, mean, speedup, gamma = line[6:]
        (row,) = [row for row in recipes[name].published.rows if row.ratio == float(ratio)]
        assert row.perplexity == dict(zip(TEXTS, map(float, texts), strict=True))
        assert row.accuracy == dict(zip(QUESTIONS, map(float, accuracies), strict=True))
        assert (row.mean_accuracy, row.speedup) == (float(mean), float(speedup))
        assert row.gamma == (None if gamma == "-" else pytest.approx(float(gamma) / 100))

    @pytest.mark.parametrize("name", RECIPES)
    def test_source_and_ratios(self, recipes, name):
        published = recipes[name].published
        assert "NeuronMM" in published.source
        assert "arXiv 2510.25977" in published.source
        assert [row.ratio for row in published.rows] == [0, 0.1, 0.2]

    @pytest.mark.parametrize("name", RECIPES)
    def test_means_and_gammas_follow_from_the_rest(self, recipes, name):
        """What is printed to two digits is off by at most 0.005, and so is a mean of such figures."""
        dense, *others = recipes[name].published.rows
        for row in (dense, *others):
            assert abs(sum(row.accuracy.values()) / 6 - row.mean_accuracy) <= 0.005 + 0.005 + 1e-9
        for row in others:
            drop = dense.mean_accuracy - row.mean_accuracy
            least, most = (drop - 0.01) / (row.speedup - 0.995), (drop + 0.01) / (row.speedup - 1.005)
            assert least <= row.gamma <= most


class TestRow:
    published = Published("A paper", tuple(PublishedRow(ratio) for ratio in (0.0, 0.1, 0.2)))

    @pytest.mark.parametrize(
        ("ratio", "expected"),
        [
            *[(0, 0), (0.001, None), (0.03, None), (0.05, None), (0.069, None), (0.07, 0.1), (0.1, 0.1), (0.13, 0.1)],
            *[(0.131, None), (0.15, None), (0.17, 0.2), (0.23, 0.2), (0.24, None)],
        ],
    )
    def test_is_the_nearest_within_the_tolerance(self, ratio, expected):
        row = self.published.row(ratio)
        assert (row and row.ratio) == expected

    @pytest.mark.parametrize(
        ("ratio", "expected"), [(0, 0), (0.04, 0.1), (0.06, 0.1), (0.14, 0.1), (0.16, 0.2), (0.9, None)]
    )
    def test_wide_tolerance(self, ratio, expected):
        row = self.published.row(ratio, tolerance=0.5)
        assert (row and row.ratio) == expected

    def test_a_distance_that_is_the_tolerance_but_for_rounding(self):
        assert self.published.row(0.08, tolerance=0.02).ratio == 0.1
        assert self.published.row(0.079, tolerance=0.02) is None

    def test_of_a_recipe(self, recipes):
        assert recipes["qwen3-4b"].published_row(0.1).speedup == 1.28
        assert recipes["qwen3-4b"].published_row(0.05) is None
        assert recipes["qwen3-4b"].published_row(0.05, tolerance=0.06).ratio == 0.1, (
            "the other is that of a dense model"
        )

    def test_of_a_recipe_without_figures(self):
        assert load_recipe("smollm2-135m-instruct").published_row(0.1) is None

    def test_as_the_report_holds_it(self, recipes):
        assert recipes["llama-3.2-1b"].published_row(0.1).to_dict() == {
            "ratio": 0.1,
            "perplexity": {"wikitext2": 15.64, "ptb": 22.8, "c4": 22.72},
            "accuracy": dict(zip(QUESTIONS, (0.20, 0.59, 0.28, 0.55, 0.41, 0.26), strict=True)),
            "mean_accuracy": 0.38,
            "speedup": 1.21,
            "gamma": 0.2527,
            "speed": {},
        }
        speed = {"latency_s": 22.14, "ttft_s": 0.0612, "tpot_s": 0.02041}
        assert load_recipe("llama-3.2-1b-speed").published_row(0.2).speed == speed
