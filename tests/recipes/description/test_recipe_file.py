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
"""Files of recipes: which one is found, and what is refused before its content is looked at."""

import re

import pytest

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.recipes.description.recipe import load_recipe
from optimum_neuronmm.recipes.description.recipe_file import FOLDER, find_recipe, read_recipe, shipped_recipes


SHIPPED = "llama-3.2-1b, llama-3.2-1b-speed, llama-3.2-3b, qwen3-1.7b, qwen3-4b, smollm2-135m-instruct"


@pytest.fixture
def written(tmp_path):
    def write(content: str | bytes):
        path = tmp_path / "mine.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


class TestFinding:
    @pytest.mark.parametrize("suffix", ["", ".yaml"])
    @pytest.mark.parametrize("name", SHIPPED.split(", "))
    def test_shipped(self, name, suffix, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert find_recipe(name + suffix) == FOLDER / f"{name}.yaml"

    def test_a_path_comes_first(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "qwen3-4b.yaml").write_text("name: Mine\n")
        assert read_recipe(find_recipe("qwen3-4b.yaml")) == {"name": "Mine"}
        assert find_recipe("qwen3-4b") == FOLDER / "qwen3-4b.yaml"

    def test_a_directory_of_the_name_is_not_in_the_way(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "qwen3-4b").mkdir()
        assert find_recipe("qwen3-4b") == FOLDER / "qwen3-4b.yaml"

    @pytest.mark.parametrize("kind", [str, lambda path: path])
    def test_a_path_of_any_suffix(self, written, kind):
        path = written("a: 1").rename(written("").with_suffix(".yml"))
        assert find_recipe(kind(path)) == path

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("Llama-3.2-1B", "Unknown recipe 'Llama-3.2-1B'; did you mean llama-3.2-1b? Give the path"),
            ("QWEN3-1.7B", "Unknown recipe 'QWEN3-1.7B'; did you mean qwen3-1.7b? Give the path"),
            ("xyz", f"Unknown recipe 'xyz'. Give the path of a .yaml file, or a name: {SHIPPED}."),
            ("qwen3-5b.yaml", "The recipe qwen3-5b.yaml does not exist; did you mean qwen3-4b?"),
            ("mine.yml", "The recipe mine.yml does not exist. Give"),
            ("some/where", "The recipe some/where does not exist. Give"),
            (".", "The recipe . is a directory: give the path of a .yaml file."),
        ],
    )
    def test_refuses(self, name, message, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(NeuronMMError, match="^" + re.escape(message)):
            load_recipe(name)

    def test_every_recipe_says_how_it_is_run(self):
        for name in shipped_recipes():
            text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
            assert f"optimum-cli neuronmm evaluate --recipe {name} --output " in text.split("\nname:")[0]


class TestReading:
    def test_numbers_without_a_dot(self, written):
        content = read_recipe(written("[1e-4, -2E+3, +.5e1, 1.5e3, 1e, 4e20d, e5, '1e-4', 1e5a]"))
        assert content == [1e-4, -2e3, 5.0, 1500.0, "1e", "4e20d", "e5", "1e-4", "1e5a"]

    def test_a_byte_order_mark(self, written):
        assert read_recipe(written(b"\xef\xbb\xbfname: Tiny")) == {"name": "Tiny"}

    def test_text_beyond_ascii(self, written):
        assert read_recipe(written("source: Müller")) == {"source": "Müller"}

    def test_a_key_once_in_each_mapping(self, written):
        assert read_recipe(written("a: {x: 1}\nb: {x: 1, '1': 2, 1: 3}")) == {
            "a": {"x": 1},
            "b": {"x": 1, "1": 2, 1: 3},
        }

    def test_merged_keys_may_be_overridden(self, written):
        content = "top: {deep: &b {<<: &a {x: 1, y: 1}, x: 2}}\nlow: {<<: *b, y: 3}"
        assert read_recipe(written(content)) == {"top": {"deep": {"x": 2, "y": 1}}, "low": {"x": 2, "y": 3}}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "empty. A recipe has at least"),
            ("# nothing\n", "empty. A recipe has at least"),
            ("- 1", "expected a mapping with the keys name, model"),
            ("seed: 1\nname: a\nseed: 2", ", line 3: not valid YAML: the key 'seed' is given twice."),
            ("a: {b: 1,\n 'b': 2}", ", line 2: not valid YAML: the key 'b' is given twice."),
            ("a:\n - &x {b: 1, b: 2}", ", line 2: not valid YAML: the key 'b' is given twice."),
            ("a: {<<: {b: 1, b: 2}}", ", line 1: not valid YAML: the key 'b' is given twice."),
            ("a: 1\nb: [1, 2\nc: 3", ", line 3: not valid YAML: "),
            ("a: 1\n\tb: 2", ", line 2: not valid YAML: "),
            ("a: *b", ", line 1: not valid YAML: "),
            ("a: 1\n---\nb: 2", ", line 2: not valid YAML: "),
            ("? [1]\n: 2", ", line 1: not valid YAML: "),
            ("a: 1\nb: !!python/object/apply:os.getcwd []", ", line 2: not valid YAML: "),
            ("a: 1\nb: 2024-13-01", ", line 2: not valid YAML: a value that cannot be read (month must be in 1..12"),
            ("a: !!int x", ", line 1: not valid YAML: a value that cannot be read"),
            ("a: !!bool x", ", line 1: not valid YAML: a value that cannot be read"),
            ("a: !!timestamp x", ", line 1: not valid YAML: a value that cannot be read"),
            ("a: \x07", "not valid YAML: unacceptable character #x0007"),
            ("[" * 5000, "not valid YAML: nested too deeply."),
            (b"name: \xff", "not UTF-8 (byte 6). Save it as UTF-8."),
            ("name: 2024-01-01", "model: missing"),
        ],
    )
    def test_refuses(self, written, content, message):
        separator = "" if message.startswith(",") else ": "
        with pytest.raises(NeuronMMError, match="^" + re.escape(f"recipe mine.yaml{separator}{message}")):
            load_recipe(written(content))

    def test_a_date_is_no_name(self, written):
        content = "name: 2024-01-01\nmodel: org/a\nvariants: [{ratio: 0}]\ntasks: {c4: null}"
        with pytest.raises(
            NeuronMMError, match=r"name: expected a name, got datetime.date\(2024, 1, 1\)\. Put it in quotes"
        ):
            load_recipe(written(content))

    def test_a_list_that_holds_itself(self, written):
        content = "name: &x [*x]\nmodel: org/a\nvariants: [{ratio: 0}]\ntasks: {c4: null}"
        with pytest.raises(NeuronMMError, match="name: expected a name, got a list"):
            load_recipe(written(content))

    def test_a_file_that_is_gone(self, tmp_path):
        with pytest.raises(NeuronMMError, match="recipe gone.yaml: could not be read: No such file"):
            read_recipe(tmp_path / "gone.yaml")
