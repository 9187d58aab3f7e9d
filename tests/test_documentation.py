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
"""The documentation against the code: links, options, defaults, messages, and every example."""

import ast
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import optimum_neuronmm
from optimum_neuronmm import LowRankLinear, NeuronMMConfig, NeuronModelForCausalLM, kernels
from optimum_neuronmm.commands.evaluation_flags import add_evaluation_arguments
from optimum_neuronmm.commands.flags import PREFIX
from optimum_neuronmm.families import FAMILIES
from optimum_neuronmm.ranks import Shape, removed_fraction, uniform_rank


ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "docs" / "source"
PAGES = sorted(SOURCE.rglob("*.mdx"))
DOCUMENTS = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *PAGES]
ON_AN_INSTANCE = ("compile", "tensor_parallel", "serve")  # guides whose examples tests/neuron runs
RUNNABLE = [
    ROOT / "README.md",
    SOURCE / "quickstart.mdx",
    SOURCE / "reference" / "configuration.mdx",
    *(path for path in sorted((SOURCE / "guides").glob("*.mdx")) if path.stem not in ON_AN_INSTANCE),
]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def page(name: str) -> str:
    return read(SOURCE / f"{name}.mdx")


def prose(path: Path) -> str:
    return _FENCE.sub("", read(path))


def blocks(path: Path, language: str) -> list[str]:
    return [code for kind, code in _FENCE.findall(read(path)) if kind == language]


def block_params(paths, language: str) -> list:
    """One test parameter for each code block in a language."""
    return [
        pytest.param(code, id=f"{relative(path)}-{index}")
        for path in paths
        for index, code in enumerate(blocks(path, language))
    ]


def shell_lines(path: Path) -> list[list[str]]:
    """The commands of a document, split as a shell would, without `NAME=value` in front of them."""
    lines = [line for code in blocks(path, "bash") for line in code.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    words = [w[next((i for i, word in enumerate(w) if not re.match(r"[A-Z_]+=", word)), 0) :] for w in words]
    return [w for w in words if w]


COMMANDS = [(path, words) for path in DOCUMENTS for words in shell_lines(path)]


def table_rows(text: str, columns: int) -> list[list[str]]:
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if len(row) == columns]


# Links and pages


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_relative_links_resolve(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"https?://", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.is_file(), f"{relative(path)} links to {link}, which does not exist"
        assert not anchor or anchor in anchors(target), f"{relative(path)} links to {link}: no such heading"


def test_the_table_of_contents_lists_every_page_once():
    listed = [entry["local"] for part in yaml.safe_load(read(SOURCE / "_toctree.yml")) for entry in part["sections"]]
    assert sorted(listed) == sorted(path.relative_to(SOURCE).with_suffix("").as_posix() for path in PAGES)


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_pages_begin_with_the_licence_and_one_title(path):
    assert read(path).startswith("<!--Copyright 2026 The optimum-neuronmm authors.")
    assert len(re.findall(r"^# ", prose(path), re.MULTILINE)) == 1


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_pages_hold_nothing_that_mdx_would_run(path):
    text = re.sub(r"<!--.*?-->", "", prose(path), count=1, flags=re.DOTALL)  # the licence; no other comment may stay
    assert not re.search(r"[{<]", re.sub(r"`[^`]*`", "", text))


# Commands


@pytest.fixture(scope="module")
def parsed() -> dict:
    """What the real parser makes of every `optimum-cli export neuron` of the documents, and the flags that it has.

    In a process of its own, because importing optimum-neuron changes the environment.
    """
    code = (
        "import argparse, json, sys\n"
        "from optimum_neuronmm.commands.standalone import StandaloneExportCommand\n"
        "parser = argparse.ArgumentParser(exit_on_error=False)\n"
        "StandaloneExportCommand.parse_args(parser)\n"
        "def parse(words):\n"
        "    try: return vars(parser.parse_args(words))\n"
        "    except (SystemExit, argparse.ArgumentError) as error: return str(error)\n"
        "lines = {' '.join(words): parse(words) for words in json.loads(sys.argv[1])}\n"
        "flags = sorted(parser._option_string_actions)\n"
        "print(json.dumps({'lines': lines, 'flags': flags}, default=str))\n"
    )
    lines = [words[3:] for _, words in COMMANDS if words[:3] == ["optimum-cli", "export", "neuron"]]
    lines = [[word for word in words if word != "[OPTIONS]"] for words in lines if words != ["--help"]]
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps(lines)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return json.loads(result.stdout.splitlines()[-1])


def test_export_commands_are_understood(parsed):
    assert parsed["lines"]
    for line, args in parsed["lines"].items():
        assert isinstance(args, dict) and args["neuronmm"], f"{line}: {args}"
        options = {name.removeprefix(PREFIX): args[name] for name in args if name.startswith(PREFIX)}
        NeuronMMConfig(**{name: value for name, value in options.items() if value is not None})


def test_every_flag_that_is_mentioned_exists(parsed):
    for path in DOCUMENTS:
        mentioned = set(re.findall(r"--neuronmm\w*", read(path))) - {"--neuronmm_"}
        assert mentioned <= set(parsed["flags"]), relative(path)


def test_every_flag_is_in_the_reference_with_its_default(parsed):
    documented = {row[0].strip("`"): row[2] for row in table_rows(page("reference/cli"), 4)}
    ours = {flag for flag in parsed["flags"] if flag.startswith("--neuronmm")}
    assert ours == {flag for flag in documented if flag.startswith("--neuronmm")}
    for flag in ours - {"--neuronmm"}:
        default = getattr(NeuronMMConfig(), flag.removeprefix(f"--{PREFIX}"))
        assert documented[flag] == (",".join(default) if isinstance(default, list) else str(default)), flag


def test_flags_of_optimum_neuron_in_the_reference_exist(parsed):
    if "--task" not in parsed["flags"]:
        pytest.skip("optimum-neuron is not installed")
    rows = table_rows(page("reference/cli"), 2)
    flags = {flag for row in rows for flag in re.findall(r"`(--?[\w-]+)`", row[0])}
    assert "--torch_dtype" in flags and flags <= set(parsed["flags"])


def test_commands_about_compressed_models_are_understood():
    from optimum_neuronmm.commands.neuronmm import NeuronMMCommand

    commands = {command.name: command.subcommand_class for command in NeuronMMCommand.SUBCOMMANDS}
    lines = [words[2:] for _, words in COMMANDS if words[:2] == ["optimum-cli", "neuronmm"]]
    assert {name for name, *_ in lines} == set(commands)
    for name, *rest in lines:
        parser = ArgumentParser()
        commands[name].parse_args(parser)
        args = parser.parse_args(rest)
        assert getattr(args, {"evaluate": "output", "plan": "model"}.get(name, "directory"))


def test_every_flag_of_a_plan_is_in_the_reference():
    from optimum_neuronmm.commands.plan import PlanCommand

    parser = ArgumentParser()
    PlanCommand.parse_args(parser)
    section = page("reference/cli").partition("## optimum-cli neuronmm plan")[2].partition("\n## ")[0]
    rows = table_rows(section, 4)
    documented = {flag: row[2] for row in rows for flag in re.findall(r"`(--?[\w-]+)`", row[0])}
    actions = {flag: action for flag, action in parser._option_string_actions.items() if action.dest != "help"}
    assert set(documented) == set(actions)
    for flag, action in actions.items():
        assert action.default in (None, False) or documented[flag] == str(action.default), flag


@pytest.mark.parametrize("folder", ["planning"])
def test_every_module_of_a_folder_is_in_the_layout(folder):
    layout = page("concepts/design").partition(f"Within `{folder}/`:")[2].partition("\nWithin ")[0]
    names = {path.name for path in (ROOT / "optimum_neuronmm" / folder).glob("*.py")} - {"__init__.py"}
    assert names == set(re.findall(r"`(\w+\.py)`", layout))


@pytest.mark.parametrize(
    ("path", "words"), COMMANDS, ids=[f"{relative(path)}: {' '.join(words)[:50]}" for path, words in COMMANDS]
)
def test_commands_name_what_exists(path, words):
    makefile, project = read(ROOT / "Makefile"), read(ROOT / "pyproject.toml")
    if words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word]
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
        variables = [word.partition("=")[0] for word in words[1:] if "=" in word]
        assert all(re.search(rf"^{variable} \?=", makefile, re.MULTILINE) for variable in variables)
    elif words[:2] == ["pip", "install"]:
        extras = [extra for word in words for extra in re.findall(r"\w+", "".join(re.findall(r"^\.\[(.+)\]", word)))]
        assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras)
    elif words[:3] == ["python", "-m", "optimum_neuronmm.recipes"]:
        parser = ArgumentParser()
        add_evaluation_arguments(parser)
        parser.parse_args(words[3:])
    elif words[0] == "python":
        if (ROOT / words[1]).is_dir():
            assert (ROOT / words[1] / "__main__.py").is_file()
            return
        if words[1] == "-m" and words[2] == "pytest":
            assert all((ROOT / word).exists() for word in words[3:] if word.endswith(".py"))
            return
        module = words[2].split(".")[-2:] if words[1] == "-m" else [words[1].removesuffix(".py")]
        script = read(ROOT / f"{'/'.join(module)}.py")
        assert all(f'"{word}"' in script for word in words if word.startswith("--"))
    else:
        assert words[0] == "optimum-cli", f"{relative(path)}: how is {words} to be checked?"


# Python examples


@pytest.mark.parametrize("code", block_params(DOCUMENTS, "python"))
def test_python_examples_compile(code):
    compile(code, "example", "exec")


@pytest.fixture
def playground(tmp_path, monkeypatch, tiny_llama, compressed_llama, text_file, quick_options):
    """A directory that holds what the examples name, with compressions of a second and uploads that go nowhere."""
    from optimum_neuronmm import auto, cache, compression

    monkeypatch.chdir(tmp_path)
    Path("MODEL").symlink_to(tiny_llama)
    shutil.copytree(compressed_llama, "OUT")
    tokenizer = Path("OUT/tokenizer_config.json")  # a real tokenizer gives its model nothing that it does not take
    names = {"model_input_names": ["input_ids", "attention_mask"]}
    tokenizer.write_text(json.dumps(json.loads(read(tokenizer)) | names), encoding="utf-8")
    shutil.copy(text_file, "notes.txt")
    requested = []

    def quick(model, output_dir, config=None, **options):
        requested.append(config)
        return compression.compress(model, output_dir, replace(config or NeuronMMConfig(), **quick_options), **options)

    class Api:
        def __init__(self, **options):
            pass

        def create_repo(self, repo_id, **options):
            return SimpleNamespace(repo_id=repo_id)

        def model_info(self, repo_id, **options):
            return SimpleNamespace(siblings=[], private=True)

        def create_commit(self, repo_id, operations, **options):
            return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/0")

    monkeypatch.setattr(optimum_neuronmm, "compress", quick, raising=False)
    monkeypatch.setattr(cache, "compress", quick)
    monkeypatch.setattr(cache, "HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(auto, "has_neuron_sdk", lambda: False)
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    return requested


@pytest.mark.parametrize("code", block_params(RUNNABLE, "python"))
def test_python_examples_run(code, playground):
    if "peft" in code:
        pytest.importorskip("peft")
    if "compress(" in code:  # the output of an example must not exist
        shutil.rmtree("OUT")
    exec(compile(code, "example", "exec"), {})
    asked_for = code.count("neuronmm=") + code.count(" = compress(")
    assert len(playground) == asked_for


# Reference


def test_every_field_of_the_config_is_documented_with_its_default():
    rows = {row[0].strip("`"): row[2] for row in table_rows(page("reference/configuration"), 4)}
    config = NeuronMMConfig()
    assert {field.name for field in fields(NeuronMMConfig)} == set(rows) - {"field", "---"}
    for field in fields(NeuronMMConfig):
        if field.name != "neuronmm_version":
            assert ast.literal_eval(rows[field.name].strip("`")) == getattr(config, field.name), field.name


def test_the_example_of_a_checkpoint_has_every_key():
    (example,) = [json.loads(code) for code in blocks(SOURCE / "concepts/checkpoint_format.mdx", "json")]
    assert list(example) and set(example) == set(NeuronMMConfig.from_dict(example).to_dict())


def test_the_keys_of_the_report_are_documented(compressed_llama):
    report = json.loads(read(compressed_llama / "neuronmm_report.json"))
    text = page("concepts/checkpoint_format")
    keys = {*report, *report["parameters"], *report["perplexity"], *report["projections"][0]}
    assert all(f"`{key}`" in text for key in keys), keys


def test_every_public_name_is_in_the_api_reference():
    headings = re.findall(r"^## (\w+)", page("reference/api"), re.MULTILINE)
    assert set(optimum_neuronmm.__all__) - {"__version__"} <= set(headings)


def documented_signatures() -> dict[str, str]:
    trees = [ast.parse(code) for code in blocks(SOURCE / "reference/api.mdx", "python")]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {function.name: ast.unparse(function.args) for function in functions}


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("compress", optimum_neuronmm.compress),
        ("from_pretrained", NeuronModelForCausalLM.from_pretrained.__func__),
        ("load_report", optimum_neuronmm.load_report),
        ("push_to_hub", optimum_neuronmm.push_to_hub),
        ("__init__", LowRankLinear.__init__),
    ],
)
def test_documented_signatures_are_the_real_ones(name, function):
    signature = inspect.signature(function)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    real = str(inspect.Signature(bare))[1:-1]
    assert documented_signatures()[name] == ast.unparse(ast.parse(f"def f({real}): ...").body[0].args)


def test_supported_families_are_listed():
    for path in (ROOT / "README.md", SOURCE / "index.mdx"):
        section = re.search(r"^## Supported models\n(.*?)^## ", read(path), re.MULTILINE | re.DOTALL)[1]
        types = set(re.findall(r"`([a-z0-9_]+)`", section)) - {"model_type"}
        assert types == set(FAMILIES), relative(path)


def test_every_module_is_in_the_layout():
    layout = page("concepts/design").partition("## Layout")[2].partition("### Direction")[0]
    names = {path.name for path in (ROOT / "optimum_neuronmm").glob("*.py")} - {"__init__.py", "version.py"}
    assert names <= set(re.findall(r"`(\w+\.py)`", layout))


@pytest.mark.parametrize("folder", ["kernels", "kernels/latency", "optimum_neuronmm/neuron", "benchmarks"])
def test_every_module_of_a_room_is_in_the_layout(folder):
    layout = page("concepts/design").partition("## Layout")[2].partition("### Direction")[0]
    names = {path.name for path in (ROOT / folder).glob("*.py")} - {"__init__.py"}
    assert names <= set(re.findall(r"`(\w+\.py)`", layout))


def test_every_public_name_of_the_kernels_is_in_their_reference():
    documented = set(re.findall(r"`(\w+)[(`]", page("reference/kernels")))
    assert set(kernels.__all__) <= documented, set(kernels.__all__) - documented


def test_documented_signatures_of_kernels_are_the_real_ones():
    calls = {name: arguments for name, arguments in re.findall(r"`(\w+)\((.*?)\)`", page("reference/kernels"))}
    assert {"low_rank_fused", "matmul", "mlp_up", "mlp", "simulate"} <= set(calls)
    for name, arguments in calls.items():
        function = getattr(kernels, name, None)
        if isinstance(function, kernels.Kernel) or inspect.isfunction(function):
            signature = inspect.signature(getattr(function, "body", function))
            kept = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
            if isinstance(function, kernels.Kernel):
                kept = [p for p in kept if p.name != "plan"]
            real = str(inspect.Signature(kept))
            assert ast.unparse(ast.parse(f"def f({arguments}): ...")) == ast.unparse(ast.parse(f"def f{real}: ...")), (
                name
            )


def test_ranks_in_the_table_of_the_method():
    rows = [row for row in table_rows(page("concepts/method"), 5) if re.match(r"\(\d", row[0])]
    assert rows
    for shape, ratio, block, rank, removed in rows:
        shape = Shape(*ast.literal_eval(shape))
        assert uniform_rank(shape, float(ratio), int(block), 0.5) == int(rank)
        assert removed == f"{removed_fraction({'W': shape}, {'W': int(rank)}):.2%}".replace("%", " %")


# Messages


def source_messages() -> list[str]:
    """Every string of the package, with … for what varies."""
    messages = []
    folders = ("optimum_neuronmm", "kernels", "recipes", "benchmarks")
    for path in [path for folder in folders for path in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(read(path))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                messages.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                messages.append(node.value)
    return messages


def test_messages_in_troubleshooting_exist():
    messages = source_messages()
    cells = [row[0] for row in table_rows(page("guides/troubleshooting"), 2) if "(from " not in row[0]]
    documented = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]
    assert len(documented) > 50
    for message in documented:
        # A literal in a message may come from a value that varies, such as the name of an option.
        pattern = re.compile(".*?".join(re.escape(part) for part in message.strip("… ").split("…")), re.DOTALL)
        assert any(pattern.search(known) for known in messages), f"no error says: {message}"
