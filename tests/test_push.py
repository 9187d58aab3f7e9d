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
"""Uploads with the real client, to a Hub on loopback: what arrives, and what happens when something fails."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import traceback
import urllib.request
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from optimum_neuronmm import push_to_hub
from optimum_neuronmm.card import model_card
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.hub_errors import WAITS, Secrets
from optimum_neuronmm.report import load_report

from .compiled_form import NEURON_CONFIG
from .hub_server import TOKEN, HubServer, environment, hub_for_this_process


ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with hub_for_this_process(monkeypatch, tmp_path) as server:
        yield server
    secret = server.token.encode()
    stored = {
        f"{repo}: {name}" for repo in server.repositories for name, c in server.files(repo).items() if secret in c
    }
    assert not stored, "the token was published"


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """How long was waited, instead of waiting: of ours, and of the client's own attempts to send a file."""
    waited = []
    monkeypatch.setattr("optimum_neuronmm.hub_errors.time.sleep", waited.append)
    return waited


@pytest.fixture
def push(hub, directory):
    """Pushes `directory`, or another, to me/name."""

    def push(path=directory, repo_id="me/name", token=hub.token, **options):
        return push_to_hub(path, repo_id, token=token, **options)

    return push


@pytest.fixture
def fails(push):
    """The message with which a push fails. Neither it nor its traceback may show the token or keep the client's error."""

    def fails(*args, **options) -> str:
        with pytest.raises(NeuronMMError) as failure:
            push(*args, **options)
        error = failure.value
        assert error.__cause__ is None and (error.__context__ is None or isinstance(error.__context__, KeyError))
        shown = "".join(traceback.format_exception(error)) + repr(error.__dict__)
        assert TOKEN not in shown
        return str(error)

    return fails


def content_of(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def card_for(directory: Path, repo_id: str = "me/name") -> bytes:
    return (directory / "README.md").read_bytes().replace(b"THIS_REPOSITORY", repo_id.encode())


class TestWhatArrives:
    def test_a_compressed_directory(self, hub, push, directory):
        before = content_of(directory)
        url = push()
        assert hub.files("me/name") == {**before, "README.md": card_for(directory)}
        assert b"THIS_REPOSITORY" not in card_for(directory) and b'"me/name"' in card_for(directory)
        assert content_of(directory) == before  # the local card too
        newest = hub.repositories["me/name"].branches["main"]
        assert url == f"{hub.endpoint}/me/name/commit/{newest}"

    def test_it_is_one_commit(self, hub, push):
        push(commit_message="mine")
        assert hub.history("me/name") == ["mine", "initial commit"]
        assert hub.count("commit") == 1

    def test_weights_go_as_large_files(self, hub, push, directory):
        push()
        assert list(hub.objects.values()) == [(directory / "model.safetensors").read_bytes()]
        assert all(r.authorization is None for r in hub.requests if r.route == "put")

    def test_a_compiled_directory(self, hub, push, compiled, directory):
        push(compiled)
        files = hub.files("me/name")
        card = files.pop("README.md").decode()  # there is none in the directory, so it was made from the report
        assert files == content_of(compiled)
        assert card == model_card(load_report(compiled), _config(directory), NEURON_CONFIG, True).replace(
            "THIS_REPOSITORY", "me/name"
        )

    def test_the_map_of_the_ranks_and_the_card_that_shows_it(self, hub, push, directory, compiled):
        picture = (directory / "neuronmm_ranks.png").read_bytes()
        push()
        push(compiled, "me/compiled")
        (compiled / "neuronmm_ranks.png").unlink()
        push(compiled, "me/without")
        for name in ("me/name", "me/compiled"):
            files = hub.files(name)
            assert files["neuronmm_ranks.png"] == picture and b"](neuronmm_ranks.png)" in files["README.md"]
        files = hub.files("me/without")
        assert "neuronmm_ranks.png" not in files and b"neuronmm_ranks" not in files["README.md"]

    def test_a_name_without_its_owner(self, hub, push):
        push(repo_id="name")
        assert b'"me/name"' in hub.files("me/name")["README.md"]

    def test_a_card_of_another_origin(self, hub, push, directory):
        card = b"# Mine\n\nTHIS_REPOSITORY is not replaced in prose.\n"
        (directory / "README.md").write_bytes(card)
        with pytest.warns(UserWarning, match="yaml metadata"):  # of the client
            push()
        assert hub.files("me/name")["README.md"] == card

    def test_without_card_and_report(self, hub, push, directory, caplog):
        (directory / "README.md").unlink()
        (directory / "neuronmm_report.json").unlink()
        push()
        assert "README.md" not in hub.files("me/name")
        assert "There will be no model card" in caplog.text

    def test_odd_names_and_empty_files(self, hub, push, directory):
        for name in ("größe 1 #%?.txt", "sub dir/$(touch x);`id`.txt", "empty.bin"):
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_text("")
        push()
        assert set(hub.files("me/name")) == set(content_of(directory))
        assert not Path("x").exists()

    def test_private(self, hub, push):
        push(private=True)
        assert hub.repositories["me/name"].private
        push(private=True)

    def test_a_branch(self, hub, push):
        repository = hub.create("me/name")
        repository.branches["a branch/ü"] = repository.branches["main"]
        push(revision="a branch/ü")
        assert "config.json" in hub.files("me/name", "a branch/ü") and hub.files("me/name") == {}

    def test_another_hub(self, hub, push):
        with HubServer() as other:
            other.cut("commit", "answer")
            url = push(endpoint=other.endpoint)
            newest = other.repositories["me/name"].branches["main"]
            assert url == f"{other.endpoint}/me/name/commit/{newest}"
            assert len(other.history("me/name")) == 2 and hub.requests == []

    def test_the_token_of_the_environment(self, hub, push, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", hub.token)
        push(token=None)
        assert {r.authorization for r in hub.requests} == {f"Bearer {hub.token}", None}


def _config(directory: Path):
    from optimum_neuronmm import NeuronMMConfig

    return NeuronMMConfig.from_dict(json.loads((directory / "config.json").read_text())["quantization_config"])


class TestAgain:
    def test_nothing_has_changed(self, hub, push):
        first = push()
        assert push() == first
        assert len(hub.history("me/name")) == 2

    def test_one_file_has_changed(self, hub, push, directory):
        push()
        puts = hub.count("put")
        (directory / "NOTICE").write_text("new")
        push()
        assert hub.files("me/name")["NOTICE"] == b"new" and hub.count("put") == puts

    def test_weights_of_another_form_are_replaced(self, hub, push, directory, tmp_path, caplog):
        AutoModelForCausalLM.from_pretrained(directory).save_pretrained(tmp_path / "sharded", max_shard_size="300KB")
        hub.create("me/name", {"LICENSE": b"theirs", "model.pt": b"old", "model.fp16.safetensors": b"theirs"})
        push()
        push(tmp_path / "sharded")
        names = set(hub.files("me/name"))
        assert "model.safetensors" not in names and "model.safetensors.index.json" in names
        assert "removing model.safetensors, which this model does not have" in caplog.text
        assert len(hub.history("me/name")) == 4  # in the same commit
        assert {"LICENSE", "model.fp16.safetensors"} < names and "model.pt" not in names

    def test_a_compiled_model_becomes_a_compressed_one(self, hub, push, compiled):
        push(compiled)
        push()
        names = set(hub.files("me/name"))
        assert "model.safetensors" in names and not {"neuron_config.json", "model.pt"} & names
        assert not any(name.startswith("checkpoint/") for name in names)


class TestTheWayBack:
    def test_list_and_download(self, hub, push, directory, tmp_path):
        push()
        api = HfApi(token=hub.token)
        assert sorted(set(api.list_repo_files("me/name")) - {".gitattributes"}) == sorted(content_of(directory))
        assert [model.id for model in api.list_models(author="me")] == ["me/name"]
        path = hf_hub_download("me/name", "config.json", cache_dir=tmp_path / "cache")
        assert Path(path).read_bytes() == (directory / "config.json").read_bytes()
        snapshot = snapshot_download("me/name", local_dir=tmp_path / "copy")
        original, copy = load_file(directory / "model.safetensors"), load_file(Path(snapshot) / "model.safetensors")
        assert original.keys() == copy.keys() and all(torch.equal(original[name], copy[name]) for name in original)

    def test_config_model_and_tokenizer_by_name(self, hub, push, directory, monkeypatch):
        push(private=True)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        assert AutoConfig.from_pretrained("me/name").quantization_config["quant_method"] == "neuronmm"
        assert (
            AutoTokenizer.from_pretrained("me/name").vocab_size == AutoTokenizer.from_pretrained(directory).vocab_size
        )
        tensors = AutoModelForCausalLM.from_pretrained("me/name").state_dict()
        expected = AutoModelForCausalLM.from_pretrained(directory).state_dict()
        assert tensors.keys() == expected.keys() and all(
            torch.equal(tensors[name], expected[name]) for name in tensors
        )

    def test_a_download_that_is_cut(self, hub, push, directory, tmp_path):
        push()
        hub.cut("resolve", "response", times=2)  # of HEAD, whose answer has no body and is whole, and of GET
        with pytest.raises(OSError, match="IncompleteRead"):
            hf_hub_download("me/name", "model.safetensors", cache_dir=tmp_path / "cache")
        path = hf_hub_download("me/name", "model.safetensors", cache_dir=tmp_path / "cache")
        assert Path(path).read_bytes() == (directory / "model.safetensors").read_bytes()

    @pytest.mark.parametrize(
        ("wanted", "part"), [("10-19", slice(10, 20)), ("10-", slice(10, None)), ("-7", slice(-7, None))]
    )
    def test_a_part(self, hub, wanted, part):
        hub.create("me/name", {"x": bytes(range(100))})
        request = urllib.request.Request(
            f"{hub.endpoint}/me/name/resolve/main/x", headers={"Range": f"bytes={wanted}"}
        )
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 206 and answer.read() == bytes(range(100))[part]

    def test_what_was_downloaded_can_be_pushed(self, hub, push, tmp_path):
        push()
        snapshot = snapshot_download("me/name", cache_dir=tmp_path / "cache")
        push(Path(snapshot), "me/other")
        assert hub.files("me/other") == hub.files("me/name")  # the card names the repository that it was loaded from


class TestRefusedBeforeAnythingIsSent:
    @pytest.mark.parametrize(
        "repo_id",
        [
            "",
            "a/b/c",
            "me/$(touch x)",
            "me/x;id",
            "me/x y",
            "me/../x",
            "me/x\n",
            "më/x",
            "-x",
            "x" * 97,
            "me/x.git",
            3,
        ],
    )
    def test_a_repository_id(self, hub, fails, repo_id):
        assert "is no name of a repository: expected 'user/name'" in fails(repo_id=repo_id)
        assert hub.requests == []

    @pytest.mark.parametrize("token", [f"{TOKEN}\n", f"{TOKEN} ", f"{TOKEN}ü", "a\rb"])
    def test_a_token_that_is_none(self, hub, fails, token):
        assert "The access token holds spaces, line breaks" in fails(token=token)
        assert hub.requests == []

    @pytest.mark.parametrize("options", [{"revision": " "}, {"commit_message": "\n"}])
    def test_empty_names(self, hub, fails, options):
        assert "empty" in fails(**options)
        assert hub.requests == []

    def test_a_directory_that_is_not_whole(self, hub, fails, directory, compiled):
        (directory / "model.safetensors").unlink()
        assert "holds no weights" in fails()
        (compiled / "model.pt").unlink()
        assert "lacks model.pt" in fails(compiled)
        assert hub.requests == []

    def test_a_card_that_is_no_text(self, hub, push, directory):
        (directory / "README.md").write_bytes(b"caf\xe9")
        with pytest.raises(NeuronMMError, match="README.md is not UTF-8"):
            push()
        assert hub.requests == []

    def test_a_file_with_the_token(self, hub, fails, directory, monkeypatch):
        (directory / "run.log").write_text(f"logged in with {TOKEN}")
        assert "run.log holds your access token" in fails()
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert "run.log holds your access token" in fails(token=None)
        assert hub.requests == []

    def test_offline(self, hub, fails, monkeypatch):
        import huggingface_hub.constants
        from huggingface_hub.utils import reset_sessions

        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        reset_sessions()
        assert "offline mode is enabled. Unset HF_HUB_OFFLINE" in fails()
        assert hub.requests == []


# Where an upload asks the Hub for something, but for the files themselves, which the client sends again by itself.
STEPS = ("create", "info", "validate", "preupload", "batch", "verify", "commit")


class TestWhatPasses:
    @pytest.mark.parametrize(
        ("step", "status"), [*((step, 503) for step in STEPS), *(("commit", s) for s in (408, 500, 502, 504))]
    )
    def test_a_server_error(self, hub, push, directory, waits, caplog, step, status):
        hub.fail(step, status, times=2)
        push()
        assert set(hub.files("me/name")) == set(content_of(directory))
        assert hub.history("me/name")[1:] == ["initial commit"]
        assert waits == list(WAITS[:2])
        (first, second) = [r.message for r in caplog.records if "Trying again" in r.message]
        assert f"the Hub answered {status} (injected {status}). Trying again in {WAITS[0]} s (1 of 3)" in first
        assert f"Trying again in {WAITS[1]} s (2 of 3)" in second

    @pytest.mark.parametrize("where", ["request", "answer", "response"])
    @pytest.mark.parametrize("step", STEPS)
    def test_a_cut_connection(self, hub, push, directory, waits, caplog, step, where):
        hub.cut(step, where)
        url = push()
        assert set(hub.files("me/name")) == set(content_of(directory))
        assert len(hub.history("me/name")) == 2  # a commit whose answer was lost is not made twice
        assert url.endswith(hub.repositories["me/name"].branches["main"])
        assert waits == [WAITS[0]]
        assert re.search("the connection to the Hub failed or was cut|the answer is not one of the Hub's", caplog.text)

    @pytest.mark.parametrize("status", [409, 412])
    def test_a_commit_of_somebody_else(self, hub, push, directory, waits, status):
        hub.fail("commit", status)
        push()
        assert set(hub.files("me/name")) == set(content_of(directory)) and waits == [WAITS[0]]

    def test_an_answer_that_is_not_of_the_hub(self, hub, push, waits):
        hub.fail("validate", 502, body="<html>proxy</html>")  # the client reads it as JSON before it sees the status
        push()
        assert waits == [WAITS[0]]

    @pytest.mark.parametrize("where", ["request", "answer"])
    def test_the_client_sends_files_again(self, hub, push, directory, waits, where):
        hub.fail("put", 503)
        hub.cut("put", where)
        push()
        assert hub.files("me/name")["model.safetensors"] == (directory / "model.safetensors").read_bytes()
        assert waits == [1, 2] and hub.count("put") == 3  # the client's, and none of ours


def nothing_was_published(hub) -> bool:
    return all(hub.history(repo) == ["initial commit"] for repo in hub.repositories)


class TestWhatStays:
    @pytest.mark.parametrize("step", STEPS)
    def test_a_server_error(self, hub, fails, waits, step):
        hub.fail(step, 503, times=-1)
        message = fails()
        what = "creating" if step == "create" else "uploading to"
        assert f"{what} me/name failed after 4 attempts: " in message
        assert "the Hub answered 503 (injected 503). Check the connection and try again" in message
        assert nothing_was_published(hub) and hub.count(step) == 4 and waits == list(WAITS)

    def test_a_connection_that_is_always_cut(self, hub, fails):
        hub.cut("commit", "request", times=-1)
        assert "failed after 4 attempts: the connection to the Hub failed or was cut." in fails()
        assert nothing_was_published(hub) and hub.count("commit") == 4

    def test_a_hub_that_is_not_there(self, fails):
        message = fails(endpoint="http://127.0.0.1:1")
        assert "creating me/name failed after 4 attempts: the connection to the Hub failed or was cut." in message

    @pytest.mark.parametrize(
        ("status", "advice"),
        [
            (401, "Log in with `hf auth login`, or set HF_TOKEN"),
            (403, "Use a token that may write there"),
            (404, "Check the name and the branch"),
            (413, "larger than the Hub takes"),
            (422, "Nothing was committed"),
            (429, "too many requests: wait"),
        ],
    )
    @pytest.mark.parametrize("step", STEPS)
    def test_a_refusal_is_not_tried_again(self, hub, fails, waits, step, status, advice):
        hub.fail(step, status, times=-1)
        message = fails()
        assert f"the Hub answered {status} (injected {status}). " in message and advice in message
        assert nothing_was_published(hub) and waits == [] and hub.count(step) == 1

    def test_it_says_how_long_to_wait(self, hub, fails):
        hub.fail("commit", 429, headers={"Retry-After": "60"})
        assert "the Hub answered 429 (injected 429); it asks to wait 60 s." in fails()

    @pytest.mark.parametrize("status", [409, 412])
    def test_commits_of_others_without_end(self, hub, fails, status):
        hub.fail("commit", status, times=-1)
        assert f"answered {status} (injected {status}). Somebody else is changing the repository" in fails()
        assert nothing_was_published(hub) and hub.count("commit") == 4

    def test_a_name_that_is_taken(self, hub, fails):
        hub.fail("create", 409, times=-1)
        assert "me/name could not be created, and is no model repository (409)" in fails()

    def test_a_file_that_never_arrives(self, hub, fails, waits):
        hub.fail("put", 503, times=-1)
        message = fails()
        assert "uploading to me/name failed: Error while uploading 'model.safetensors' to the Hub: " in message
        assert "the Hub answered 503" in message
        assert nothing_was_published(hub) and hub.count("put") == 6 and len(waits) == 5  # the client's; none of ours

    def test_a_wrong_token(self, hub, fails, directory):
        message = fails(token="hf_wrongButStillSecret")
        assert "the Hub answered 401 (Invalid credentials in Authorization header). Log in with" in message
        assert "Secret" not in message and hub.repositories == {}

    def test_no_token(self, hub, fails):
        assert "the Hub answered 401" in fails(token=None)
        assert hub.repositories == {}

    def test_the_name_of_somebody_else(self, hub, fails):
        assert "the Hub answered 403" in fails(repo_id="you/name")

    def test_a_branch_that_does_not_exist(self, hub, fails):
        assert "uploading to me/name failed: no such branch (404). Create it" in fails(revision="nowhere")
        assert nothing_was_published(hub) and hub.count("put") == 0

    def test_private_was_asked_for_and_it_is_public(self, hub, fails):
        hub.create("me/name")
        assert "me/name exists and is public, but private was asked for" in fails(private=True)
        assert nothing_was_published(hub) and hub.count("put") == 0

    def test_a_gitignore_would_drop_files(self, hub, fails):
        hub.create("me/name", {".gitignore": b"*.safetensors"})
        assert "me/name has a .gitignore" in fails()
        assert hub.history("me/name")[0] == "before" and hub.count("put") == 0

    def test_metadata_that_the_hub_does_not_take(self, hub, fails, directory):
        (directory / "README.md").write_text("---\n\ta: b\n---\n")
        assert "Invalid metadata in README.md. - tabs are no YAML. Nothing was committed." in fails()
        assert nothing_was_published(hub) and hub.count("put") == 0

    def test_an_answer_without_what_it_must_hold(self, hub, fails):
        hub.fail("commit", 200, body={"success": True}, times=-1)
        assert "the answer lacks 'commitUrl'. Is this address a Hugging Face Hub?" in fails()

    @pytest.mark.parametrize("step", ["create", "preupload", "batch"])
    def test_a_file_that_vanishes(self, hub, fails, directory, monkeypatch, step):
        answer = getattr(hub._server.RequestHandlerClass, f"_{step}")

        def vanish(handler, *args, **values):
            (directory / "model.safetensors").unlink(missing_ok=True)
            (directory / "config.json").unlink(missing_ok=True)
            return answer(handler, *args, **values)

        monkeypatch.setattr(hub._server.RequestHandlerClass, f"_{step}", vanish)
        message = fails()
        assert re.search("config.json|model.safetensors", message) and nothing_was_published(hub)
        assert "Nothing was committed" in message or "Leave the directory as it is while it is uploaded" in message

    def test_a_file_that_changes(self, hub, fails, directory, monkeypatch):
        answer = hub._server.RequestHandlerClass._batch

        def change(handler, *args, **values):
            path = directory / "model.safetensors"
            path.write_bytes(path.read_bytes()[:-1] + b"\xff")
            return answer(handler, *args, **values)

        monkeypatch.setattr(hub._server.RequestHandlerClass, "_batch", change)
        assert "the Hub answered 400 (XAmzContentSHA256Mismatch" in fails()
        assert nothing_was_published(hub)

    def test_a_defect_keeps_its_traceback(self, push, monkeypatch):
        def defect(*args):
            raise ZeroDivisionError("a defect")

        monkeypatch.setattr("optimum_neuronmm.hub._operations", defect)
        with pytest.raises(ZeroDivisionError, match="a defect"):
            push()


class TestSecrets:
    @pytest.mark.parametrize("step", [*STEPS, "put"])
    def test_a_hub_that_repeats_the_token(self, hub, fails, caplog, step):
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_debug()
        caplog.set_level(logging.DEBUG)
        for name in ("optimum_neuronmm", "huggingface_hub", "urllib3"):
            caplog.set_level(logging.DEBUG, name)
        try:
            echo = {"error": f"Authorization: Bearer {TOKEN} is not allowed, nor is hf_anotherTokenOfSomebody"}
            hub.fail(step, 503, body=echo, times=2)
            hub.fail(step, 403, body=echo, times=-1)
            message = fails()
        finally:
            transformers_logging.set_verbosity_warning()
        ours = "".join(record.getMessage() for record in caplog.records if record.name.startswith("optimum_neuronmm"))
        assert ours or step == "put"
        assert TOKEN not in caplog.text and "hf_another" not in ours + message
        assert "***" in message or step == "put"

    def test_they_are_cleared(self):
        secrets = Secrets("s3cret")
        assert secrets.clear("a s3cret\n b") == "a *** b"
        assert secrets.clear("https://user:password@host/x") == "https://***@host/x"
        assert Secrets(None).clear("hf_abcdefghijklmnop1 and /hf_hub") == "*** and /hf_hub"
        assert len(secrets.clear("x" * 1000)) == 300


# Whole processes: the client's own constants, the command, and a model that is loaded by its name.

LOAD = """
import sys
import torch
import optimum_neuronmm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

def logits(model):
    with torch.no_grad():
        return model(torch.arange(40)[None]).logits

model = AutoModelForCausalLM.from_pretrained("me/name")
model.push_to_hub("me/again")
again = AutoModelForCausalLM.from_pretrained("me/again")
torch.save((logits(model), logits(again)), sys.argv[1])
"""
CLI = "from optimum.commands.optimum_cli import main; main()"


def run_in(environment: dict, code: str, *args: object, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **options)


def test_from_the_command_line_to_a_model_in_another_process(hub, directory, tmp_path, cli_path):
    variables = {**environment(hub, tmp_path / "home", os.environ), "PYTHONPATH": cli_path}
    hub.fail("commit", 503)
    pushed = run_in(variables, CLI, "neuronmm", "push", directory, "me/name", "--private", "--commit-message", "m")
    assert pushed.returncode == 0, pushed.stderr
    newest = hub.repositories["me/name"].branches["main"]
    assert pushed.stdout.splitlines()[-1] == f"{hub.endpoint}/me/name/commit/{newest}"
    assert "Trying again in 1 s" in pushed.stderr and "Traceback" not in pushed.stderr
    assert hub.history("me/name") == ["m", "initial commit"] and hub.repositories["me/name"].private

    # Loaded by its name; and what the model's own push_to_hub, of transformers, uploads can be loaded as well.
    loaded = run_in(variables, LOAD, tmp_path / "logits.pt")
    assert loaded.returncode == 0, loaded.stderr
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(directory)(torch.arange(40)[None]).logits
    assert all(torch.equal(logits, expected) for logits in torch.load(tmp_path / "logits.pt"))
    assert "neuronmm" in json.loads(hub.files("me/again")["config.json"])["quantization_config"]["quant_method"]

    output = "".join(run.stdout + run.stderr for run in (pushed, loaded))
    assert TOKEN not in output
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_a_failure_on_the_command_line(hub, directory, tmp_path, cli_path):
    variables = {
        **environment(hub, tmp_path / "home", os.environ),
        "PYTHONPATH": cli_path,
        "HF_TOKEN": "hf_wrongSecret",
    }
    variables |= {"HF_DEBUG": "1", "TRANSFORMERS_VERBOSITY": "debug"}
    failed = run_in(variables, CLI, "neuronmm", "push", directory, "me/name", cwd=tmp_path)
    assert failed.returncode == 1 and hub.repositories == {}
    assert failed.stderr.splitlines()[-1].startswith("error: creating me/name failed: the Hub answered 401")
    assert "Secret" not in failed.stdout + failed.stderr and "Traceback" not in failed.stderr


@pytest.fixture
def cli_path(tmp_path) -> str:
    """A PYTHONPATH with which `optimum-cli` has this checkout's commands, installed or not."""
    from importlib.util import find_spec

    if find_spec("optimum.commands.register.register_neuronmm") is not None:
        return str(ROOT)
    stub = tmp_path / "stub/optimum/commands/register"
    stub.mkdir(parents=True)
    shutil.copy(ROOT / "optimum_neuronmm/commands/register/register_neuronmm.py", stub)
    return os.pathsep.join([str(ROOT), str(tmp_path / "stub")])
