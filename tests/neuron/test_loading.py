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
"""The doors to compiled models: what they are asked for, and models that are on a Hub."""

import json
import subprocess
import sys

import pytest
from optimum.neuron import NeuronModelForCausalLM

from optimum_neuronmm import NeuronMMConfig, NeuronMMError
from optimum_neuronmm import NeuronModelForCausalLM as OurNeuronModelForCausalLM
from optimum_neuronmm.neuron import artifact, loading
from tests.hub_server import TOKEN, HubServer, hub_for_this_process
from tests.hub_server import environment as hub_environment
from tests.neuron import environment, harness
from tests.neuron.compressed import save_compressed


GREEDY = {"do_sample": False, "max_new_tokens": 4, "pad_token_id": 0, "eos_token_id": None}


@pytest.fixture
def compressed(tiny, tmp_path):
    return save_compressed(tiny(), tmp_path / "compressed")


def test_the_class_of_a_config(tiny):
    config = harness.load_torch(tiny()).config
    assert loading.compressible_class(config).__name__ == "CompressibleLlamaNeuronModelForCausalLM"
    config.model_type = "mistral"
    with pytest.raises(NeuronMMError, match="cannot compile a mistral.*Supported types are"):
        loading.compressible_class(config)
    config.model_type = "gpt2"
    with pytest.raises(NeuronMMError, match="'gpt2' is not supported"):
        loading.compressible_class(config)


def test_arguments_are_passed_on(tiny, monkeypatch):
    calls = []
    monkeypatch.setattr(
        NeuronModelForCausalLM, "from_pretrained", lambda *args, **options: calls.append((args, options))
    )
    config = NeuronMMConfig()
    loading.load(tiny(), config, token="t", batch_size=3, trust_remote_code=True, strange=1)
    expected = {"neuronmm": config, "token": "t", "batch_size": 3, "trust_remote_code": True, "strange": 1}
    assert calls == [((tiny(),), expected)]
    loading.load(tiny(), None, trust_remote_code=False)
    assert calls[1:] == [((tiny(),), {"neuronmm": None})]


def test_without_the_sdk(tiny, monkeypatch):
    def missing(only=None):
        raise NeuronMMError("no SDK")

    monkeypatch.setattr(loading, "require_sdk", missing)
    with pytest.raises(NeuronMMError, match="no SDK"):
        loading.load(tiny(), None)


# Each step prints what it found as a line of JSON.
SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
from optimum_neuronmm import NeuronMMConfig, NeuronMMError, NeuronModelForCausalLM as Ours
from optimum.neuron import NeuronModelForCausalLM as Theirs
from tests.neuron.harness import tokens

def generated(model):
    return model.generate(tokens(), do_sample=False, max_new_tokens=4, pad_token_id=0, eos_token_id=None).tolist()

def show(**found):
    print("FOUND " + json.dumps(found), flush=True)

def shards(directory):
    return sorted(path.name for path in Path(directory, "checkpoint/weights").iterdir())

shapes = {"batch_size": 1, "sequence_length": 64, "tensor_parallel_size": 2}
"""


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture
def run(hub, tmp_path, child_environment):
    """Runs a script that knows no other Hub, and returns what it showed. Its output never has the token."""

    def run(script: str, **changes) -> list[dict]:
        (tmp_path / "script.py").write_text(SCRIPT + script)
        variables = hub_environment(hub, tmp_path / "home", child_environment()) | changes
        variables["PYTHONPATH"] += f":{environment.ROOT}"
        result = subprocess.run(
            [sys.executable, tmp_path / "script.py"],
            env=variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert TOKEN not in result.stdout + result.stderr
        assert result.returncode == 0, result.stderr
        return [json.loads(line[6:]) for line in result.stdout.splitlines() if line.startswith("FOUND ")]

    return run


def contents(directory) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_to_a_hub_and_back(run, hub, compressed, tmp_path):
    """A compressed checkpoint is taken from a private repository, compiled, pushed, loaded by its name, saved again."""
    hub.create("me/compressed", contents(compressed), private=True)
    found = run("""
for door in (Ours, Theirs):
    model = door.from_pretrained("me/compressed", neuronmm=True, **shapes)
show(text=generated(model), kept=os.path.exists(os.environ["HF_HOME"] + "/neuronmm"))
model.save_pretrained("out")
show(url=model.push_to_hub("out", "me/compiled", private=True))
for door in (Ours, Theirs):
    model = door.from_pretrained("me/compiled", revision="main", batch_size=1)
    show(text=generated(model))
model.save_pretrained("again")
show(shards=shards("again"), id=json.loads(Path("again/neuron_config.json").read_text())["checkpoint_id"])
show(text=generated(Ours.from_pretrained("again")))
from optimum_neuronmm.neuron.export import export
export("me/compressed", Path("exported"), NeuronMMConfig(), instance_type="trn1", sequence_length=64, tensor_parallel_size=1)
show(shards=shards("exported"), id=json.loads(Path("exported/neuron_config.json").read_text())["checkpoint_id"])
""")
    expected = harness.load_torch(compressed).generate(harness.tokens(), **GREEDY).tolist()
    first, pushed, ours, theirs, again, text, exported = found
    assert first == {"text": expected, "kept": False} and pushed["url"].startswith(
        f"{hub.endpoint}/me/compiled/commit/"
    )
    assert ours["text"] == theirs["text"] == text["text"] == expected
    names = ["tp0_sharded_checkpoint.safetensors", "tp1_sharded_checkpoint.safetensors"]
    assert again == {"shards": names, "id": None} and exported == {"shards": names[:1], "id": None}
    local = contents(tmp_path / "out")
    assert hub.files("me/compiled") == local and {f"checkpoint/weights/{name}" for name in names} <= set(local)


def test_how_a_compiled_one_is_fetched(monkeypatch, tmp_path, compressed):
    """Every argument that says where from and how, through each door."""
    shapes = {"batch_size": 1, "sequence_length": 64, "tensor_parallel_size": 1}
    NeuronModelForCausalLM.from_pretrained(compressed, neuronmm=True, **shapes).save_pretrained(tmp_path / "compiled")
    asked = []

    def fetch(model, **options):
        asked.append((model, options))
        return str(tmp_path / "compiled")

    monkeypatch.setattr(artifact, "snapshot_download", fetch)
    with hub_for_this_process(monkeypatch, tmp_path) as hub:
        hub.create("me/compiled", contents(tmp_path / "compiled"), private=True)
        options = {"revision": "main", "token": TOKEN, "cache_dir": str(tmp_path / "kept")}
        for door in (OurNeuronModelForCausalLM, NeuronModelForCausalLM):
            for how in ({"force_download": True}, {"local_files_only": True}):
                door.from_pretrained("me/compiled", **options, **how)
                assert asked.pop() == ("me/compiled", {**options, **how}) and not asked


def test_what_a_hub_refuses(run, hub, compressed, tiny):
    compiled = NeuronModelForCausalLM.from_pretrained(
        compressed, neuronmm=True, batch_size=1, sequence_length=64, tensor_parallel_size=2
    )
    compiled.save_pretrained(compressed.parent / "compiled")
    files = contents(compressed.parent / "compiled")
    hub.create("me/private", files, private=True)
    hub.create("me/half", {name: c for name, c in files.items() if "tp1_" not in name})
    hub.create("me/old", files | {"neuron_config.json": files["neuron_config.json"].replace(b'"0.4.5"', b'"0.4.4"')})
    hub.create("me/cut", files)
    found = run("""
for name, options in (
    ("me/half", {}), ("me/old", {}), ("me/none", {"neuronmm": True}), ("me/none", {}), ("me/private", {"token": "hf_wrong"}),
    ("me/private", {"revision": "none"}),
):
    for door in (Ours, Theirs):
        try:
            door.from_pretrained(name, **options)
            show(error=None)
        except Exception as error:
            show(error=str(error), ours=isinstance(error, NeuronMMError))
""")
    ours, theirs = [entry["error"] for entry in found[::2]], [entry["error"] for entry in found[1::2]]
    for errors in (ours, theirs):
        assert "lacks checkpoint/weights/tp1_sharded_checkpoint.safetensors" in errors[0]
        assert "was compiled with optimum-neuron 0.4.4" in errors[1]
    assert all(entry["ours"] for entry in found[:5])
    assert "me/none cannot be used" in ours[2] and "hf auth login" in ours[2]
    assert all(ours[3:]) and all(theirs[2:])  # what transformers says of models that nobody wants compiled
    fetched = [request.path for request in hub.requests if "me/old" in request.path]
    assert not any("checkpoint/weights" in path for path in fetched), "weights were fetched that cannot run here"


def test_a_download_that_breaks_off(monkeypatch, tmp_path):
    asked = []

    def refuse(model, **options):
        asked.append(options)
        raise ConnectionError("a reset, and a header with a secret")

    monkeypatch.setattr(artifact, "snapshot_download", refuse)
    with pytest.raises(
        NeuronMMError, match=r"me/x could not be fetched whole \(ConnectionError\). Check the connection"
    ):
        artifact.local_artifact("me/x", {"tp_degree": 2}, revision=None, token="t", local_files_only=True)
    assert asked == [{"token": "t", "local_files_only": True}]
