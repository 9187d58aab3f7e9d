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
"""NeuronMMConfig: what it refuses and why, its journeys through files, and what it pushes."""

import json
import logging
from pathlib import Path

import pytest
import torch
import transformers.utils.hub
from transformers import AutoConfig, LlamaConfig, PretrainedConfig

from optimum_neuronmm import NeuronMMConfig
from optimum_neuronmm.configuration import CONFIG_NAME, FORMAT_VERSION, INSTANCE_TYPES
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.version import __version__


PATH = "model.layers.0.mlp.up_proj"
CHOSEN = {
    "compression_ratio": 0.25,
    "block_size": 64,
    "alpha": 0.0,
    "projections": ["up", "down"],
    "decomposition": "two_sided_local",
    "gradient_samples": 2,
    "allocation": "by_loss",
    "allocation_tensor_parallel_size": 8,
    "max_perplexity_increase": 0.05,
    "calibration": ["self", "notes.jsonl.gz"],
    "calibration_samples": 3,
    "calibration_length": 8,
    "seed": 7,
    "target": "cpu",
    "kernel": "compiler",
    "sampling": "host",
    "dtype": "bfloat16",
    "modules": {PATH: {"rank": 64, "storage": "uv"}},
}


@pytest.fixture
def warnings():
    """Messages that the module logs. transformers' loggers do not reach pytest's `caplog`."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("optimum_neuronmm.configuration")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


@pytest.mark.parametrize(
    ("option", "value", "expected", "advice"),
    [
        ("compression_ratio", 0, "strictly between 0 and 1, got 0", "0.1 keeps 90 %"),
        ("compression_ratio", 1, "strictly between 0 and 1, got 1", "fraction of the MLP parameters that is removed"),
        ("compression_ratio", 1.0, "strictly between 0 and 1, got 1.0", ""),
        ("compression_ratio", -0.1, "strictly between 0 and 1, got -0.1", ""),
        ("compression_ratio", 20, "strictly between 0 and 1, got 20", ""),
        ("compression_ratio", float("nan"), "strictly between 0 and 1, got nan", ""),
        ("compression_ratio", "0.1", "must be a number, got '0.1'", ""),
        ("compression_ratio", True, "must be a number, got True", ""),
        ("compression_ratio", None, "must be a number, got None", ""),
        ("block_size", 100, "positive multiple of 32, got 100", "try 32 or 64"),
        ("block_size", 16, "positive multiple of 32, got 16", ""),
        ("block_size", 0, "positive multiple of 32, got 0", ""),
        ("block_size", -128, "positive multiple of 32, got -128", ""),
        ("block_size", 128.0, "must be an integer, got 128.0", ""),
        ("block_size", "128", "must be an integer, got '128'", ""),
        ("alpha", 1, "must lie in [0, 1), got 1", "0.5 to the nearest"),
        ("alpha", -0.5, "must lie in [0, 1), got -0.5", ""),
        ("alpha", float("nan"), "must lie in [0, 1), got nan", ""),
        ("alpha", "half", "must be a number, got 'half'", ""),
        ("calibration_samples", 0, "must be at least 1, got 0", ""),
        ("calibration_samples", 1.5, "must be an integer, got 1.5", ""),
        ("calibration_length", 7, "must be at least 8, got 7", ""),
        ("seed", -1, "must be at least 0, got -1", ""),
        ("seed", None, "must be an integer, got None", ""),
        ("projections", [], "at least one of them, got []", ""),
        ("projections", ["gate", "gate"], "each of gate, up, down at most once", ""),
        ("projections", "attention", "Unknown projection 'attention'", "choose from gate, up, down"),
        ("projections", ["gate_proj"], "Unknown projection 'gate_proj'", ""),
        ("projections", [["gate"]], "Unknown projection ['gate']", ""),
        ("projections", 3, "must be a name or a list of names, got 3", ""),
        ("calibration", [], "at least one source of text, got []", "Try 'self', a .txt or .jsonl file"),
        ("calibration", "", "at least one source of text, got ['']", ""),
        ("calibration", ["self", " "], "at least one source of text", ""),
        ("calibration", ["self", 3], "at least one source of text, got ['self', 3]", ""),
        ("calibration", {"self": 1}, "must be a name or a list of names", ""),
        ("calibration", None, "must be a name or a list of names, got None", ""),
        ("decomposition", "qr", "must be one of two_sided, two_sided_local, whitened, svd, got 'qr'", ""),
        ("allocation", "greedy", "must be one of auto, by_loss, uniform, got 'greedy'", ""),
        ("gradient_samples", 0, "must be at least 1, got 0", ""),
        ("gradient_samples", 0.5, "must be an integer, got 0.5", ""),
        ("allocation_tensor_parallel_size", 0, "must be at least 1, got 0", ""),
        ("allocation_tensor_parallel_size", True, "must be an integer, got True", ""),
        ("max_perplexity_increase", 0, "must be positive, got 0", "0.05 allows 5 %"),
        ("max_perplexity_increase", -0.1, "must be positive, got -0.1", ""),
        ("max_perplexity_increase", float("inf"), "must be positive, got inf", ""),
        ("max_perplexity_increase", float("nan"), "must be positive, got nan", ""),
        ("max_perplexity_increase", "5%", "must be a number, got '5%'", ""),
        ("max_perplexity_increase", False, "must be a number, got False", ""),
        ("target_speedup", 1, "must be greater than 1, got 1", "1.2 asks for"),
        ("target_speedup", 0.5, "must be greater than 1, got 0.5", ""),
        ("target_speedup", float("inf"), "must be greater than 1, got inf", ""),
        ("target_speedup", float("nan"), "must be greater than 1, got nan", ""),
        ("target_speedup", "20%", "must be a number, got '20%'", ""),
        ("target_speedup", True, "must be a number, got True", ""),
        ("target_instance_type", "p5", "must be one of trn1, inf2, trn2, trn3, got 'p5'", ""),
        ("target_instance_type", ["trn1"], "must be one of trn1, inf2, trn2, trn3, got ['trn1']", ""),
        ("target_prompt_length", -1, "must be at least 0, got -1", ""),
        ("target_output_length", 0.5, "must be an integer, got 0.5", ""),
        ("target_instance_type", "trn2", "was given without target_speedup", "or leave it out"),
        ("target_prompt_length", 512, "was given without target_speedup", "Give target_speedup too"),
        ("target_output_length", 0, "was given without target_speedup", ""),
        ("target", "gpu", "must be one of auto, cpu, neuron, got 'gpu'", ""),
        ("kernel", "cuda", "must be one of auto, nki, compiler, got 'cuda'", ""),
        ("sampling", "cpu", "must be one of device, host, got 'cpu'", ""),
        ("dtype", "int8", "must be one of float32, bfloat16, float16 or None, got 'int8'", ""),
        ("dtype", "fp16", "must be one of float32, bfloat16, float16 or None, got 'fp16'", ""),
        ("dtype", torch.float64, "must be one of float32, bfloat16, float16 or None, got 'float64'", ""),
        ("quant_method", "gptq", "must be 'neuronmm', got 'gptq'", ""),
        ("modules", [PATH], "must map module paths to rank and storage, got list", ""),
        (
            "modules",
            {PATH: 64},
            f"modules[{PATH!r}] must have a positive integer 'rank', got 64",
            "compress the model",
        ),
        ("modules", {PATH: {"storage": "uv"}}, "positive integer 'rank'", "config.json is damaged"),
        ("modules", {PATH: {"rank": 0, "storage": "uv"}}, "positive integer 'rank'", ""),
        ("modules", {PATH: {"rank": 64.0, "storage": "uv"}}, "positive integer 'rank'", ""),
        ("modules", {PATH: {"rank": True, "storage": "uv"}}, "positive integer 'rank'", ""),
        ("modules", {PATH: {"rank": 64, "storage": "pivoted"}}, "has storage 'pivoted'", "Upgrade optimum-neuronmm"),
        ("modules", {PATH: {"rank": 64}}, f"modules[{PATH!r}] has storage None", "knows uv"),
        (
            "format_version",
            FORMAT_VERSION + 1,
            f"has format {FORMAT_VERSION + 1}, written by",
            "Upgrade optimum-neuronmm",
        ),
        ("format_version", "1", "has format 1, written by", ""),
    ],
)
def test_a_bad_option_is_named_with_what_was_expected_and_got(option, value, expected, advice):
    with pytest.raises(NeuronMMError) as error:
        NeuronMMConfig(**{option: value})
    message = str(error.value)
    assert expected in message and advice in message
    assert option.removesuffix("s") in message.lower() or option == "format_version"


def test_an_error_is_a_value_error():
    assert issubclass(NeuronMMError, ValueError)  # which callers of transformers expect


@pytest.mark.parametrize(
    "options",
    [
        {"compression_ratio": 1e-6},
        {"compression_ratio": 0.999},
        {"block_size": 32},
        {"alpha": 0},
        {"alpha": 0.999},
        {"calibration_samples": 1, "calibration_length": 8, "seed": 0},
        {"gradient_samples": 1, "allocation_tensor_parallel_size": 1},
        {"max_perplexity_increase": 1e-6},
        {"max_perplexity_increase": 3},
        {"dtype": None},
    ],
)
def test_the_limits_are_accepted(options):
    config = NeuronMMConfig(**options)
    assert {name: getattr(config, name) for name in options} == options


def test_defaults():
    config = NeuronMMConfig()
    assert (config.compression_ratio, config.block_size, config.alpha) == (0.1, 128, 0.5)
    assert config.projections == ["gate", "up", "down"]
    assert (config.quant_method, config.format_version, config.neuronmm_version) == ("neuronmm", 1, __version__)
    assert config.modules == {}
    assert (config.decomposition, config.gradient_samples, config.allocation) == ("two_sided", 32, "auto")
    assert (config.allocation_tensor_parallel_size, config.max_perplexity_increase) == (1, None)
    assert config.allocates_by_loss


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression_ratio": 0.2}, "target_speedup and compression_ratio 0.2 were both given"),
        ({"max_perplexity_increase": 0.05}, "target_speedup and max_perplexity_increase 0.05 were both given"),
        ({"allocation": "uniform"}, "ranks by loss, which .* with allocation 'uniform' does not give"),
        ({"decomposition": "whitened"}, "ranks by loss, which decomposition 'whitened'"),
        ({"allocation_tensor_parallel_size": 2}, "allocation_tensor_parallel_size must be 1 with it, got 2"),
        ({"target_prompt_length": 0, "target_output_length": 0}, "both 0, so there is nothing to be fast at"),
    ],
)
def test_what_a_speed_up_excludes(options, message):
    with pytest.raises(NeuronMMError, match=message):
        NeuronMMConfig(target_speedup=1.2, **options)
    made = NeuronMMConfig(target_speedup=1.2, **options, modules={PATH: {"rank": 64, "storage": "uv"}})
    assert made.target_speedup == 1.2  # how a finished model was made need not be known to load it


SPEEDUP = {
    "target_speedup": 1.2,
    "target_instance_type": "inf2",
    "target_prompt_length": 0,
    "target_output_length": 32,
}


def test_a_speed_up_is_written_where_it_is_asked_for():
    plain = NeuronMMConfig().to_dict()
    assert not SPEEDUP.keys() & plain.keys()
    assert not SPEEDUP.keys() & NeuronMMConfig().deciding_options().keys()
    config = NeuronMMConfig(**SPEEDUP)
    assert config.to_dict() == plain | SPEEDUP
    assert NeuronMMConfig.from_dict(config.to_dict()) == config
    assert json.loads(config.to_json_string()) == config.to_dict()
    assert config.deciding_options().items() >= SPEEDUP.items()
    assert NeuronMMConfig(target_speedup=2).target_speedup == 2


def test_instance_types_are_those_that_are_predicted():
    from optimum_neuronmm.kernels import MACHINES

    assert set(INSTANCE_TYPES) == set(MACHINES)


@pytest.mark.parametrize("decomposition", ["whitened", "svd"])
def test_losses_that_are_not_predicted_cannot_be_compared(decomposition):
    with pytest.raises(NeuronMMError, match=f"allocation by_loss .* {decomposition!r} .* allocation 'uniform'"):
        NeuronMMConfig(decomposition=decomposition, allocation="by_loss")


def test_what_decides_how_ranks_are_chosen():
    def by_loss(decomposition, allocation):
        return NeuronMMConfig(decomposition=decomposition, allocation=allocation).allocates_by_loss

    for decomposition in ("two_sided", "two_sided_local"):
        assert by_loss(decomposition, "auto") and by_loss(decomposition, "by_loss")
        assert not by_loss(decomposition, "uniform")
        assert NeuronMMConfig(decomposition=decomposition).is_two_sided
    for decomposition in ("whitened", "svd"):
        assert not by_loss(decomposition, "auto") and not by_loss(decomposition, "uniform")
        assert not NeuronMMConfig(decomposition=decomposition).is_two_sided


def test_what_only_matters_where_the_model_runs_decides_no_factors():
    config = NeuronMMConfig(**CHOSEN)
    left_out = config.to_dict().keys() - config.deciding_options().keys()
    assert left_out == {"target", "kernel", "layout", "sampling", "compilation"}
    assert all(config.deciding_options()[name] == CHOSEN[name] for name in CHOSEN.keys() - left_out)


def test_what_means_the_same_is_equal():
    assert NeuronMMConfig() == NeuronMMConfig()
    assert NeuronMMConfig(seed=1) != NeuronMMConfig()
    assert NeuronMMConfig(projections=("down", "gate", "up")) == NeuronMMConfig()
    assert NeuronMMConfig(projections="up") == NeuronMMConfig(projections=["up"])
    assert NeuronMMConfig(calibration="self") == NeuronMMConfig(calibration=("self",))
    assert NeuronMMConfig(calibration=Path("a") / "b.txt") == NeuronMMConfig(calibration=["a/b.txt"])
    assert NeuronMMConfig(calibration=[Path("b.txt"), "self"]).calibration == ["b.txt", "self"]
    assert NeuronMMConfig(dtype=torch.bfloat16) == NeuronMMConfig(dtype="bfloat16")
    # The order of sources is a choice: windows are drawn from one after the other.
    assert NeuronMMConfig(calibration=["self", "c4"]) != NeuronMMConfig(calibration=["c4", "self"])


def test_configs_share_nothing_mutable():
    chosen = ["down", "up"]
    config = NeuronMMConfig(projections=chosen)
    NeuronMMConfig().projections.clear()
    NeuronMMConfig().calibration.clear()
    NeuronMMConfig().modules["x"] = {}
    assert chosen == ["down", "up"]  # not sorted in place
    assert config.projections == ["up", "down"]
    assert NeuronMMConfig().projections and NeuronMMConfig().calibration and not NeuronMMConfig().modules
    as_dict = config.to_dict()
    as_dict["projections"].clear()
    assert config.projections == ["up", "down"]


def test_the_dictionary_has_every_option_and_makes_the_config_again():
    config = NeuronMMConfig(**CHOSEN)
    as_dict = config.to_dict()
    assert {name: as_dict[name] for name in CHOSEN} == CHOSEN
    assert as_dict["quant_method"] == "neuronmm" and as_dict["neuronmm_version"] == __version__
    before = json.dumps(as_dict)
    assert NeuronMMConfig.from_dict(as_dict) == config
    assert json.dumps(as_dict) == before  # not touched
    assert config.to_diff_dict() == as_dict  # config.json is to hold all of it, not the difference to the defaults
    assert json.loads(config.to_json_string()) == as_dict


def test_keywords_of_from_dict_win_and_the_rest_comes_back():
    config, unused = NeuronMMConfig.from_dict(CHOSEN, return_unused_kwargs=True, seed=9, device_map="auto")
    assert config == NeuronMMConfig(**{**CHOSEN, "seed": 9})
    assert unused == {"device_map": "auto"}
    assert NeuronMMConfig.from_dict(CHOSEN, device_map="auto") == NeuronMMConfig(**CHOSEN)
    with pytest.raises(NeuronMMError, match="seed must be at least 0"):
        NeuronMMConfig.from_dict({}, seed=-1)


def test_json_file(tmp_path):
    path = tmp_path / "config.json"
    config = NeuronMMConfig(**CHOSEN)
    config.to_json_file(path)
    assert json.loads(path.read_text()) == config.to_dict()
    assert NeuronMMConfig.from_json_file(path) == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "could not be read as a NeuronMMConfig"),
        ("[1]", "must hold a JSON object, got list"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path, content, message):
    path = tmp_path / "broken.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(NeuronMMError, match=message) as error:
        NeuronMMConfig.from_json_file(path)
    assert "broken.json" in str(error.value)


def test_save_and_load_a_directory(tmp_path):
    config = NeuronMMConfig(**CHOSEN)
    config.save_pretrained(tmp_path / "new" / "directory")
    assert [path.name for path in (tmp_path / "new" / "directory").iterdir()] == [CONFIG_NAME]
    assert NeuronMMConfig.from_pretrained(tmp_path / "new" / "directory") == config
    with pytest.raises(NeuronMMError, match=CONFIG_NAME):
        NeuronMMConfig.from_pretrained(tmp_path)


def test_load_from_the_hub(tmp_path, monkeypatch):
    NeuronMMConfig(**CHOSEN).save_pretrained(tmp_path)
    asked = {}

    def download(repo_id, filename, **kwargs):
        asked.update(repo_id=repo_id, filename=filename, **kwargs)
        return str(tmp_path / filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert NeuronMMConfig.from_pretrained("me/settings", revision="v1") == NeuronMMConfig(**CHOSEN)
    assert asked == {"repo_id": "me/settings", "filename": CONFIG_NAME, "revision": "v1"}


class Hub:
    """The calls of huggingface_hub that create and fill a repository, recorded."""

    def __init__(self, monkeypatch):
        self.created, self.commits = [], []
        monkeypatch.setattr(transformers.utils.hub, "create_repo", self.create_repo)
        monkeypatch.setattr(transformers.utils.hub, "create_commit", self.create_commit)

    def create_repo(self, repo_id, **kwargs):
        self.created.append((repo_id, kwargs))
        return type("RepoUrl", (), {"repo_id": repo_id})

    def create_commit(self, repo_id, operations, commit_message, **kwargs):
        files = {operation.path_in_repo: Path(operation.path_or_fileobj).read_text() for operation in operations}
        self.commits.append((repo_id, commit_message, files, kwargs))


@pytest.fixture
def hub(monkeypatch):
    return Hub(monkeypatch)


def test_push_to_hub_uploads_the_config(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a directory called like the repository would be used instead of a temporary one
    NeuronMMConfig(**CHOSEN).push_to_hub("me/settings", private=True, token="secret", commit_message="first")
    [(repo_id, options)] = hub.created
    assert repo_id == "me/settings" and options["private"] is True and options["token"] == "secret"
    [(repo_id, message, files, options)] = hub.commits
    assert (repo_id, message, options["token"]) == ("me/settings", "first", "secret")
    assert NeuronMMConfig.from_dict(json.loads(files[CONFIG_NAME])) == NeuronMMConfig(**CHOSEN)


def test_save_pretrained_can_push(hub, tmp_path):
    (tmp_path / "other.txt").write_text("was here before")
    config = NeuronMMConfig(**CHOSEN)
    config.save_pretrained(
        tmp_path, push_to_hub=True, repo_id="me/x", commit_message="second", private=True, token="secret"
    )
    assert hub.created[0][0] == "me/x"
    [(repo_id, message, files, options)] = hub.commits
    assert (repo_id, message, options["token"]) == ("me/x", "second", "secret")
    assert list(files) == [CONFIG_NAME]  # what is new, not what lay there
    assert NeuronMMConfig.from_pretrained(tmp_path) == config


def test_the_directory_names_the_repository(hub, tmp_path):
    NeuronMMConfig().save_pretrained(tmp_path / "settings", push_to_hub=True)
    assert [repo_id for repo_id, *_ in hub.commits] == ["settings"]
    assert hub.commits[0][1] == "Upload config"


def test_nothing_is_pushed_unasked(hub, tmp_path):
    NeuronMMConfig().save_pretrained(tmp_path, commit_message="unused")
    assert not hub.created and not hub.commits


def test_an_unknown_option_is_an_error():
    with pytest.raises(NeuronMMError) as error:
        NeuronMMConfig.from_dict({"ratio": 0.2, "blocks": 3})
    assert "Unknown option blocks, ratio" in str(error.value) and "compression_ratio" in str(error.value)
    for version in (__version__, "0.0.1", "nonsense", None):  # nothing newer that could have written it
        with pytest.raises(NeuronMMError, match="Unknown option ratio"):
            NeuronMMConfig.from_dict({"ratio": 0.2, "neuronmm_version": version})


@pytest.mark.parametrize("version", ["0.1.1", "0.2.0", "0.10.0.dev0", "1.0.0rc1", "99.0"])
def test_an_option_of_a_newer_release_is_dropped_with_a_warning(version, warnings):
    config = NeuronMMConfig.from_dict({"seed": 3, "sharpness": 2, "neuronmm_version": version})
    assert config == NeuronMMConfig(seed=3, neuronmm_version=version)
    assert not hasattr(config, "sharpness")
    [message] = warnings
    assert "Ignoring sharpness" in message and version in message and __version__ in message


@pytest.mark.parametrize(
    ("own", "written_by", "newer"),
    [
        ("0.9.1", "0.10.0", True),
        ("0.10.0", "0.9.1", False),
        ("0.2.0", "0.2.0", False),
        ("0.2.0", "0.2.0.dev3", False),  # what led to a release is not newer than it
        ("0.2.0", "0.2.0rc1", False),
        ("0.2.0.dev0", "0.2.1.dev0", True),
    ],
)
def test_releases_are_compared_as_numbers(own, written_by, newer, monkeypatch):
    monkeypatch.setattr("optimum_neuronmm.configuration.__version__", own)
    content = {"sharpness": 2, "neuronmm_version": written_by}
    if newer:
        assert NeuronMMConfig.from_dict(content).neuronmm_version == written_by
        assert content["sharpness"] == 2  # dropped from the config, not from what was passed
    else:
        with pytest.raises(NeuronMMError, match="Unknown option sharpness"):
            NeuronMMConfig.from_dict(content)


def test_a_known_config_is_read_without_a_warning(warnings):
    NeuronMMConfig.from_dict({**CHOSEN, "neuronmm_version": "99.0"})
    assert not warnings


def test_a_newer_format_is_an_error_whatever_else_it_holds():
    newer = {"format_version": FORMAT_VERSION + 1, "neuronmm_version": "99.0"}
    # Options that mean something else by then, and options that are not known yet.
    for content in ({}, {"block_size": "adaptive"}, {"modules": {PATH: "packed"}}, {"calibration": 3}, {"depth": 2}):
        with pytest.raises(
            NeuronMMError, match="has format 2, written by optimum-neuronmm 99.0.*Upgrade optimum-neuronmm"
        ):
            NeuronMMConfig.from_dict({**newer, **content})


def test_through_the_config_of_a_model(tmp_path):
    config = NeuronMMConfig(**CHOSEN)
    LlamaConfig(quantization_config=config, dtype="bfloat16").save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["quantization_config"] == config.to_dict()
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert NeuronMMConfig.from_dict(loaded.quantization_config) == config
    # Once loaded with the model it is an object again, and that is written too.
    loaded.quantization_config = config
    loaded.save_pretrained(tmp_path / "again")
    again, _ = PretrainedConfig.get_config_dict(tmp_path / "again")
    assert again["quantization_config"] == config.to_dict()


def test_repr_shows_the_options():
    shown = repr(NeuronMMConfig(**CHOSEN))
    assert shown.startswith("NeuronMMConfig {") and '"compression_ratio": 0.25' in shown


@pytest.mark.parametrize("data", [[3], [""], ["a.txt", None]])
def test_recovery_data_must_be_sources(data):
    with pytest.raises(NeuronMMError, match="recovery_data must name sources of text"):
        NeuronMMConfig(recovery="distill", recovery_data=data)


def test_recovery_data_without_recovery_is_refused():
    with pytest.raises(NeuronMMError, match="recovery_data .* was given, but recovery is 'none'"):
        NeuronMMConfig(recovery_data="wikitext2")


def test_how_a_finished_model_was_made_need_not_be_known():
    """A newer release may know other ways, and its checkpoints have the same form."""
    modules = {"model.layers.0.mlp.up_proj": {"rank": 32, "storage": "uv"}}
    assert NeuronMMConfig(decomposition="of_the_future", modules=modules).decomposition == "of_the_future"
    with pytest.raises(NeuronMMError, match="decomposition must be one of"):
        NeuronMMConfig(decomposition="of_the_future")
