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
"""`optimum-cli neuronmm plan`: what it reads, prints and writes."""

import argparse
import json
import os
from types import SimpleNamespace

import pytest

from optimum_neuronmm.commands.plan import PlanCommand
from tests.conftest import TINY


@pytest.fixture
def model(tmp_path):
    """A directory with a config.json and nothing else."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "llama", **TINY}))
    return tmp_path / "model"


@pytest.fixture
def run(model):
    def run(*line, model=model, ranks=("--neuronmm_block_size", "32")):
        root = argparse.ArgumentParser()
        PlanCommand(root.add_subparsers(), command=SimpleNamespace(name="plan", help=""))
        words = ["plan", "-m", str(model), "--sequence_length", "96", *ranks, *map(str, line)]
        args = root.parse_args(words)
        args.func(args).run()

    return run


@pytest.fixture
def found(run, capsys):
    """`found(*line)`: the plan as JSON."""

    def found(*line, **options):
        run("--json", *line, **options)
        return json.loads(capsys.readouterr().out)

    return found


@pytest.fixture
def refusal(run, capsys):
    """`refusal(*line)`: the one line that an error prints."""

    def refusal(*line, **options):
        with pytest.raises(SystemExit) as exit:
            run(*line, **options)
        captured = capsys.readouterr()
        assert exit.value.code == 1 and captured.out == ""
        (line,) = captured.err.splitlines()
        assert line.startswith("error: ")
        return line

    return refusal


def test_the_plan_is_printed(run, capsys, model):
    run("--neuronmm_compression_ratio", "0.1,0.3")
    out = capsys.readouterr().out
    assert out.startswith(
        f"{model} on trn1 (NeuronCore-v2), 1 rank, bfloat16, batch 1, sequence 96\nPredicted for trn1"
    )
    assert "\n0.1 " in out and "\n0.3 " in out and "\ndense " in out


def test_options_reach_the_plan(found):
    got = found(
        *("--instance_type", "trn2.48xlarge", "--batch_size", 4, "--tensor_parallel_size", 2, "--dtype", "float32"),
        *(
            "--neuronmm_compression_ratio",
            " 0.3, 0.35 ",
            "--neuronmm_allocation",
            "uniform",
            "--neuronmm_alpha",
            0.0,
            "--neuronmm_projections",
            "gate, down",
        ),
        *("--neuronmm_layout", "sharded"),
    )
    assert (got["instance_type"], got["target"], got["dtype"]) == ("trn2.48xlarge", "trn2", "float32")
    assert (got["batch_size"], got["sequence_length"], got["tensor_parallel_size"]) == (4, 96, 2)
    assert [variant["ratio"] for variant in got["variants"]] == [None, 0.3, 0.35]
    assert got["variants"][1]["ranks"] == {"gate_proj": [32] * 3, "up_proj": [None] * 3, "down_proj": [32] * 3}
    assert got["variants"][1]["decode"]["mlps"][0]["form"]["layout"] == "sharded"
    assert got["variants"][0]["decode"]["rows"] == 4


def test_defaults(found):
    got = found("--neuronmm_block_size", "32")
    assert (got["instance_type"], got["batch_size"], got["tensor_parallel_size"], got["dtype"]) == (
        "trn1",
        1,
        1,
        "bfloat16",
    )
    assert [variant["ratio"] for variant in got["variants"]] == [None, 0.1]


def test_a_compressed_model_needs_no_ratio(found, compressed_llama):
    got = found(model=compressed_llama, ranks=())
    assert [variant["label"] for variant in got["variants"]] == ["dense", "as compressed"]


def test_options_of_ranks_say_nothing_of_a_compressed_model(refusal, compressed_llama):
    assert "is compressed already: plan it without block_size, or plan the dense model" in refusal(
        model=compressed_llama
    )


def test_a_picture_and_a_trace(run, tmp_path, capsys):
    run(
        "--plot", tmp_path / "plan.png", "--trace", tmp_path / "trace.json", "--neuronmm_compression_ratio", "0.3,0.35"
    )
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    title = json.loads((tmp_path / "trace.json").read_text())["traceEvents"][0]["args"]["name"]
    assert "ratio 0.3, prefill of 96 rows: one MLP by " in title and title.endswith("predicted for trn1")
    assert capsys.readouterr().out.startswith(str(tmp_path))


@pytest.mark.parametrize("ratio", ["0.35", "dense"])
def test_the_trace_that_is_asked_for(run, tmp_path, ratio):
    line = ("--trace_phase", "decode", "--trace_ratio", ratio, "--neuronmm_compression_ratio", "0.3,0.35")
    run("--trace", tmp_path / "trace.json", *line)
    title = json.loads((tmp_path / "trace.json").read_text())["traceEvents"][0]["args"]["name"]
    assert f"ratio {ratio}, decode of 1 rows" in title


def test_a_trace_of_a_ratio_that_is_not_planned(refusal, tmp_path):
    assert "there is no ratio '0.9' in this plan: choose one of dense, 0.1" in refusal(
        "--trace", tmp_path / "trace.json", "--trace_ratio", "0.9"
    )
    assert not (tmp_path / "trace.json").exists()


@pytest.fixture
def no_search(monkeypatch):
    """What an error must not wait for."""

    def searched(*a):
        raise AssertionError("the search has begun")

    monkeypatch.setattr("optimum_neuronmm.planning.plan.rank_kernels", searched)


def test_files_are_checked_before_the_search(refusal, tmp_path, no_search):
    for option, name in (("--trace", "trace.json"), ("--plot", "plan.png")):
        nowhere = tmp_path / "nowhere" / name
        assert f"{option} {nowhere}: {nowhere.parent} is no directory. Create it" in refusal(option, nowhere)
    assert f"--trace takes the name of a file, got {str(tmp_path)!r}, which is a directory" in refusal(
        "--trace", tmp_path
    )
    assert "--trace takes the name of a file, got ''." in refusal("--trace", "")
    assert "--plot writes a PNG: expected a name that ends in .png, got 'plan.svg'" in refusal("--plot", "plan.svg")


def test_files_without_permission(refusal, tmp_path, no_search, monkeypatch):
    monkeypatch.setattr("os.access", lambda *a: False)
    assert "could not be written: no permission" in refusal("--trace", tmp_path / "trace.json")


def test_an_older_file_is_replaced_by_one_in_its_folder(refusal, tmp_path, no_search, monkeypatch):
    (tmp_path / "trace.json").touch()
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    told = f"could not be written: no permission for {tmp_path}. Choose another file for --trace."
    assert told in refusal("--trace", tmp_path / "trace.json")


def test_a_link_to_nowhere_is_told_before_the_search(refusal, tmp_path, no_search):
    (tmp_path / "plan.png").symlink_to(tmp_path / "nowhere" / "plan.png")
    assert f"{tmp_path / 'nowhere'} is no directory. Create it" in refusal("--plot", tmp_path / "plan.png")


def test_a_trace_and_a_picture_in_one_file(refusal, tmp_path, no_search, monkeypatch):
    (tmp_path / "link.png").symlink_to(tmp_path / "plan.png")
    monkeypatch.chdir(tmp_path)
    for trace in (tmp_path / "plan.png", "plan.png", "./plan.png", "link.png"):
        told = f"--trace {trace} and --plot {tmp_path / 'plan.png'} are the same file: give each its own."
        assert told in refusal("--trace", trace, "--plot", tmp_path / "plan.png")


def test_a_trace_does_not_replace_the_printed_plan(refusal, tmp_path, no_search, monkeypatch):
    (tmp_path / "plan.txt").touch()
    fstat, printed = os.fstat, (tmp_path / "plan.txt").stat()
    with monkeypatch.context() as patch:
        patch.setattr("os.fstat", lambda descriptor: printed if descriptor == 1 else fstat(descriptor))
        told = refusal("--trace", tmp_path / "plan.txt")
    assert f"--trace {tmp_path / 'plan.txt'} is the file that the plan is printed to: choose another" in told


def test_a_trace_into_a_pipe(run, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)  # no file is made beside it
    monkeypatch.setattr("optimum_neuronmm.planning.chrome.chrome_trace", lambda prediction, title: {"of": title})
    os.mkfifo(tmp_path / "pipe")
    with open(os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK), "rb") as pipe:
        run("--trace", tmp_path / "pipe")
        assert "one MLP by" in json.loads(pipe.read())["of"]
    assert (tmp_path / "pipe").is_fifo()


def test_a_trace_of_nowhere_is_told_before_the_search(refusal, tmp_path, no_search):
    line = ("--trace", tmp_path / "trace.json", "--trace_ratio", "0.2")
    assert "choose one of dense, 0.1, 0.3" in refusal(*line, "--neuronmm_compression_ratio", "0.1,0.3")


@pytest.mark.parametrize(("option", "value"), [("--trace_phase", "decode"), ("--trace_ratio", "dense")])
def test_options_of_a_trace_that_is_not_written(refusal, option, value, no_search):
    assert f"{option} says what --trace FILE is to hold: give --trace as well" in refusal(option, value)


@pytest.mark.parametrize(("option", "name"), [("--plot", "plan.png"), ("--trace", "trace.json")])
def test_the_plan_is_printed_before_files_are_written(run, capsys, tmp_path, monkeypatch, option, name):
    def replaced(*a):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", replaced)
    with pytest.raises(SystemExit):
        run(option, tmp_path / name)
    captured = capsys.readouterr()
    assert "Predicted for trn1" in captured.out and f"{name} could not be written: No space left" in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_existing_files_are_overwritten(run, tmp_path):
    (tmp_path / "trace.json").write_text("something else " * 1000)
    run("--trace", tmp_path / "trace.json")
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


def test_a_trace_of_a_step_that_no_kernel_fits(run, capsys, tmp_path, monkeypatch):
    from optimum_neuronmm.planning import plan

    def rank_kernels(form, rows, *rest):
        return ([], {"mlp": "too large"}) if rows == 96 else ranked(form, rows, *rest)

    ranked = plan.rank_kernels
    monkeypatch.setattr(plan, "rank_kernels", rank_kernels)
    run("--trace", tmp_path / "trace.json", "--trace_phase", "decode")
    assert (tmp_path / "trace.json").is_file()
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        run("--trace", tmp_path / "other.json")
    captured = capsys.readouterr()
    assert exit.value.code == 1 and "\nDecode: 1 row " in captured.out
    assert "other.json was not written: of ratio 0.1, there is no kernel for an MLP of 96 rows" in captured.err
    assert not (tmp_path / "other.json").exists()


@pytest.mark.parametrize("ratios", ["much", "0.1,", "", "0.1;0.2", "0.1,1.5", "0", "1", "-0.1", "nan", "0.1,inf"])
def test_ratios_that_are_nonsense(refusal, ratios):
    line = refusal(f"--neuronmm_compression_ratio={ratios}")
    assert "--neuronmm_compression_ratio takes numbers between 0 and 1, separated by commas, got" in line
    assert repr(ratios) in line


def test_errors_are_one_line(refusal, tmp_path, model):
    assert "unknown instance type 'p5': expected one of trn1, inf2" in refusal("--instance_type", "p5")
    assert "has no config.json" in refusal(model=tmp_path)
    assert "expected a model: a directory with config.json, or a Hub id, got ''" in refusal(model="")
    assert "neither a directory nor a Hub model" in refusal(model="nobody/nothing")
    (model / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert "'gpt2' is not supported" in refusal()


def test_shapes_that_fit_no_plan(refusal, monkeypatch):
    from optimum_neuronmm.planning import plan

    monkeypatch.setattr(plan, "rank_kernels", lambda *a: ([], {"mlp": "too large"}))
    assert "no kernel for an MLP of" in refusal()
    assert "rows of a prefill" in refusal("--batch_size", 2**40)


def test_wrong_options_are_found_before_the_model_is_read(refusal, tmp_path):
    assert "takes numbers between 0 and 1" in refusal("--neuronmm_compression_ratio", "x", model=tmp_path)
    assert "batch_size must be at least 1, got 0" in refusal("--batch_size", 0, model=tmp_path)


def test_a_directory_has_no_revisions(refusal):
    assert "is a directory, which has no revisions, got 'main': leave it out" in refusal("--revision", "main")


def test_more_ranks_than_any_instance_has_cores(refusal, no_search):
    told = refusal("--tensor_parallel_size", 16384)
    assert "needs 16384 cores, and trn1.32xlarge, the largest of trn1, has 32: use fewer ranks" in told
