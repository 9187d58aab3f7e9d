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
"""The documentation of the recipes against the code: options, keys, tasks, files, examples."""

import json
import re
from argparse import ArgumentParser
from dataclasses import fields

import pytest
import yaml

from optimum_neuronmm.commands.evaluation_flags import add_evaluation_arguments
from optimum_neuronmm.recipes.data.prompts import build_question
from optimum_neuronmm.recipes.data.tasks import PERPLEXITY, TASKS
from optimum_neuronmm.recipes.description import published, recipe, variants
from optimum_neuronmm.recipes.description.recipe import Recipe, load_recipe
from optimum_neuronmm.recipes.description.recipe_file import shipped_recipes
from optimum_neuronmm.recipes.description.task_options import BOS, QuestionOptions, TextOptions
from optimum_neuronmm.recipes.metrics.by_name import METRICS
from optimum_neuronmm.recipes.report.markdown import markdown
from optimum_neuronmm.recipes.report.plots import PICTURES
from optimum_neuronmm.recipes.report.report import load_report_file
from optimum_neuronmm.recipes.speed import SpeedSettings

from ..test_documentation import COMMANDS, ROOT, SOURCE, blocks, page, table_rows
from .report.fabricated import full_results


REFERENCE, GUIDE = "reference/recipes", "guides/evaluate"
REPORTS = ROOT / "docs" / "source" / "reports"
YAML_BLOCKS = [code for name in (REFERENCE, GUIDE) for code in blocks(SOURCE / f"{name}.mdx", "yaml")]


def quoted(text: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)))


def section(name: str, title: str) -> str:
    return re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", page(name), re.MULTILINE | re.DOTALL)[1]


def test_every_option_of_the_command_is_in_the_reference():
    parser = ArgumentParser(add_help=False)
    add_evaluation_arguments(parser)
    documented = {
        flag
        for row in table_rows(section("reference/cli", "optimum-cli neuronmm evaluate"), 4)
        for flag in quoted(row[0])
    }
    assert documented == set(parser._option_string_actions)


def test_commands_name_recipes_tasks_and_variants_that_exist():
    parser = ArgumentParser()
    add_evaluation_arguments(parser)
    lines = [
        words[3:]
        for _, words in COMMANDS
        if words[1:3] in (["neuronmm", "evaluate"], ["-m", "optimum_neuronmm.recipes"])
    ]
    assert len(lines) > 10
    for line in lines:
        args = parser.parse_args(line)
        if args.recipe and not args.recipe.endswith(".yaml"):
            load_recipe(args.recipe).narrowed(tasks=args.tasks, variants=args.variants)
        assert set(args.tasks or ()) <= set(TASKS)


def test_every_key_of_a_recipe_is_in_the_reference():
    keys = {row[0] for row in table_rows(section(REFERENCE, "Keys of a recipe"), 4)}
    documented = {name for cell in keys for name in quoted(cell)}
    options = {field.name for kind in (TextOptions, QuestionOptions) for field in fields(kind)}
    assert documented == {*recipe._KEYS, *variants._KEYS, *options}
    assert {*(field.name for field in fields(SpeedSettings)), *BOS} <= quoted(page(REFERENCE))


def test_recipes_of_the_documents_are_read():
    assert len(YAML_BLOCKS) == 2
    read = [Recipe.from_dict(yaml.safe_load(code), "of a document") for code in YAML_BLOCKS]
    assert [variant.name for variant in read[0].variants] == ["dense", "ratio-0.1-recovered", "untrained"]
    whole = yaml.safe_load(YAML_BLOCKS[0])
    assert set(whole) == set(recipe._KEYS)
    assert set(whole["published"]["rows"][0]) == set(published._ROW)


def test_recipes_that_are_shipped_are_listed():
    assert set(shipped_recipes()) <= quoted(section(GUIDE, "Run a whole recipe"))


def test_the_table_of_tasks():
    rows = {row[0].strip("`"): row for row in table_rows(section(REFERENCE, "Tasks"), 7)}
    assert list(rows)[2:] == list(TASKS)
    for name, task in TASKS.items():
        _, kind, split, hub, begins, ends, metrics = rows[name]
        assert kind == ("text" if task.kind == PERPLEXITY else "questions")
        assert (split, metrics) == (task.split, ", ".join(task.metrics))
        assert (begins, ends) == (f"`{task.file}`", f"`{task.suffix}`")
        place = {
            task.hub.dataset,
            task.hub.config,
            (task.hub.data_file or "").replace("*.parquet", ""),
            task.hub.revision,
        }
        assert {part for part in quoted(hub) if not part.endswith("parquet")} <= place
        assert task.hub.dataset in quoted(hub)
        assert f"`{task.file}`" in section(GUIDE, "Data")


def test_the_layouts_of_texts():
    rows = [row for row in table_rows(section(GUIDE, "Texts"), 3) if row[0].startswith("`")]
    texts = {name: task.layouts for name, task in TASKS.items() if task.layouts}
    listed = [(row[0].strip("`"), re.sub(r"`| .*", "", row[1])) for row in rows]
    assert listed == [(name, layout) for name, layouts in texts.items() for layout in layouts]


def test_lines_of_data_are_read():
    rows = [row for row in table_rows(section(GUIDE, "Data"), 2) if row[0].startswith("`")]
    found = set()
    for tasks, line in rows:
        row = json.loads(line.strip("`"))
        for name in quoted(tasks):
            found.add(name)
            assert row["text"] if name == "c4" else build_question(TASKS[name], row, "document")
    assert found == set(TASKS) - {"wikitext2", "ptb"}  # plain text


def keys_of(report: dict) -> set[str]:
    model = report["models"][-1]
    tasks = [{**task, "mean_loss": 0, "change": {"difference": 0, "stderr": 0}} for task in model["tasks"].values()]
    parts = [
        report,
        report["recipe"],
        model,
        model["speed"],
        model["speed"]["latency_s"],
        *report["data"].values(),
        *tasks,
    ]
    return {key for part in parts for key in part} | {"difference"}


def test_the_keys_of_the_report_are_documented():
    keys = keys_of(full_results())
    assert keys <= quoted(section(REFERENCE, "report.json")), keys - quoted(section(REFERENCE, "report.json"))
    assert {"report.md", "report.json", *PICTURES} <= quoted(section(GUIDE, "Read the report"))


def test_the_metrics_are_documented():
    names = {path.parent.name for path in METRICS.glob("*/*.py")}
    assert {row[0].strip("`") for row in table_rows(section(REFERENCE, "Metrics"), 5)} - {"metric", "---"} == names


def test_every_module_is_in_the_layout():
    layout = page("concepts/design").partition("Within `recipes/`")[2].partition("### Direction")[0]
    modules = {path.relative_to(ROOT / "recipes").as_posix() for path in (ROOT / "recipes").rglob("*.py")}
    listed = {name for row in table_rows(layout, 2) for name in quoted(row[0]) if name.endswith(".py")}
    assert modules == listed


@pytest.mark.parametrize("name", [REFERENCE, GUIDE])
def test_tables_have_as_many_cells_in_each_row(name):
    for table in re.findall(r"(?:^\|.*\n)+", page(name), re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


@pytest.mark.parametrize("directory", sorted(REPORTS.iterdir()), ids=lambda path: path.name)
def test_reports_are_what_a_recipe_wrote(directory):
    """Every figure on the page comes from report.json, and the recipe is one that is shipped."""
    results = load_report_file(directory)
    pictures = [name for name in PICTURES if (directory / name).is_file()]
    page = (directory / "report.mdx").read_text(encoding="utf-8")
    licence, _, text = page.partition("-->\n\n")
    assert licence.startswith("<!--Copyright") and text == markdown(results, pictures)
    recipe = load_recipe(directory.name)
    assert results["recipe"]["content"]["tasks"] == recipe.to_dict()["tasks"]
    assert [model["name"] for model in results["models"]] == [variant.name for variant in recipe.variants]
