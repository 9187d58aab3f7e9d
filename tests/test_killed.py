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
"""A compression that is killed at any moment, and run again.

A child process runs `kill_everywhere`, which forks one process for each moment at which a run can die.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from optimum_neuronmm import NeuronMMConfig, compress

from .conftest import ROOT, save_tiny_model
from .pipeline import result_of, sharpened


class Moments:
    """Counts the moments of a run at which it is worth dying, and dies at one of them, in the middle of the write."""

    def __init__(self, deadly: int | None = None):
        self.names, self._deadly = [], deadly

    def pass_by(self, name: str, half=lambda: None) -> None:
        self.names.append(name)
        if len(self.names) == self._deadly:
            half()
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Only into a process that was forked for it."""
        from optimum_neuronmm import checkpoint, sampling, workspace

        replace, rmtree, write_text, copyfile = os.replace, shutil.rmtree, Path.write_text, shutil.copyfile
        save_file, sample_tokens, read = workspace.save_file, sampling.sample_tokens, checkpoint.StoredTensor.read
        reads = []

        def dying_replace(source, target):
            if Path(source).is_dir():  # of a file, all of it is there: as good as in the middle of writing it
                self.pass_by(f"before {Path(target).name} is renamed")
            replace(source, target)
            self.pass_by(f"after {Path(target).name} was renamed")

        def dying_rmtree(path, **options):
            if Path(path).exists():
                self.pass_by(f"before {Path(path).name} is removed")
                first = sorted(Path(path).iterdir())[0]
                self.pass_by(f"while {Path(path).name} is removed", lambda: first.is_file() and first.unlink())
            rmtree(path, **options)

        def dying_write_text(path, content, **options):
            self.pass_by(f"in {path.name}", lambda: write_text(path, content[: len(content) // 2], **options))
            return write_text(path, content, **options)

        def dying_copyfile(source, target):
            content = Path(source).read_bytes()
            self.pass_by(f"in {Path(source).name}", lambda: Path(target).write_bytes(content[: len(content) // 2]))
            return copyfile(source, target)

        def dying_save_file(tensors, path):
            def half():
                save_file(tensors, path)
                os.truncate(path, path.stat().st_size // 2)

            self.pass_by(f"in {path.name}", half)
            save_file(tensors, path)

        def dying_read(tensor):
            reads.append(tensor)
            if len(reads) % 9 == 0:
                self.pass_by(f"before {tensor.name} is written")
            return read(tensor)

        def dying_sample_tokens(*args):
            self.pass_by("before a batch is sampled")
            return sample_tokens(*args)

        os.replace, shutil.rmtree, Path.write_text, shutil.copyfile = (
            dying_replace,
            dying_rmtree,
            dying_write_text,
            dying_copyfile,
        )
        workspace.save_file, checkpoint.StoredTensor.read = dying_save_file, dying_read
        sampling.sample_tokens = dying_sample_tokens


def in_fork(function, log: Path) -> int | None:
    """Runs `function` in a forked process with its output in `log`. Returns the signal it died of, None if it ended."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        try:
            function()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else None


def chosen(names: list[str]) -> list[int]:
    """The moments to die at: of those of a stage that differ by numbers only, which are of layers, one.

    Of every kind of file in turn in the middle of writing the first, or right after the last of them; of the files that are
    copied, tokenizer.json stands for all.
    """
    copied = ("in generation_config.json", "in special_tokens_map.json", "in tokenizer_config.json")
    kinds: dict[tuple[str, str], list[int]] = {}
    for number, name in enumerate(names, 1):
        if name in copied:
            continue
        kind = re.sub(r"^(in|after|before) |\.part$| was renamed$|[-.\w]+(?= is written)|\d+", "", name)
        kinds.setdefault((stage_of(names, number), kind), []).append(number)
    numbers, files = [], 0
    for members in kinds.values():
        is_file = any(names[number - 1].endswith(".part") for number in members)
        files += is_file
        numbers.append(members[-1] if is_file and files % 2 else members[0])
    return sorted(numbers)


def stage_of(names: list[str], number: int) -> str:
    """What a run was about at a moment: what it had begun by then."""
    marks = {
        "calibration": "calibration.safetensors",
        "activations": "moments-0",
        "gradients": "factors-1",
        "trials": "dense-held-out",
        "layers": "held-out-entering-0",
        "losses": "held-out-gradients-1",
        "result": "is written",
    }
    begun = [stage for stage, mark in marks.items() if any(mark in name for name in names[:number])]
    return begun[-1] if begun else "beginning"


def kill_everywhere(model: str, text: str, folder: str) -> None:
    """Prints a JSON object: of each moment its name, and what was there after the kill and after the next run."""
    import torch

    from optimum_neuronmm import compression, sampling, search

    torch.set_num_threads(1)  # a process with several may not be forked
    sampling._BATCH, search._TRIALS = 2, 3
    compression.draw_map = lambda _, path: path.write_bytes(b"a picture")  # the real one takes its time
    options = {"max_perplexity_increase": 2.0, "block_size": 32, "calibration": ["self", text]}
    config = NeuronMMConfig(**options, calibration_samples=2, calibration_length=16)
    folder = Path(folder)

    def run(name, deadly=None, moments=None):
        output, log = folder / name / "an output", folder / name / "log"

        def work():
            if deadly or moments is not None:
                counted = Moments(deadly)
                counted.install()
            compress(model, output, config)
            if moments is not None:
                (folder / name / "moments").write_text(json.dumps(counted.names))

        output.parent.mkdir(exist_ok=True)
        died = in_fork(work, log)
        beside = sorted(path.name for path in output.parent.iterdir() if path.name not in ("log", "moments"))
        return {"died": died, "result": result_of(output), "beside": beside, "log": log.read_text()}

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        compress(model, folder / "first", config)  # imports what is imported late, once for all
    found = {"reference": run("reference"), "counted": run("counted", moments=[]), "moments": [], "chain": []}
    found["names"] = json.loads((folder / "counted" / "moments").read_text())
    for number in chosen(found["names"]):
        moment = {"name": found["names"][number - 1], "stage": stage_of(found["names"], number)}
        found["moments"].append({**moment, "killed": run(str(number), number), "again": run(str(number))})
    for attempt in range(40):  # one run after the other is killed, each a little later than the one before
        found["chain"].append(run("chain", 8 + 5 * attempt))
        if not found["chain"][-1]["died"]:
            break
    print(json.dumps(found))


STAGES = ("beginning", "calibration", "activations", "gradients", "trials", "layers", "losses", "result")


@pytest.fixture(scope="module")
def killed(tmp_path_factory, text_file):
    folder = tmp_path_factory.mktemp("killed")
    model = sharpened(save_tiny_model(folder / "model", hidden_size=64, intermediate_size=160, num_hidden_layers=2))
    call = (
        f"from tests.test_killed import kill_everywhere as k; k({str(model)!r}, {str(text_file)!r}, {str(folder)!r})"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    process = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


class TestKilled:
    def test_the_runs_that_are_compared_are_whole(self, killed):
        for run in (killed["reference"], killed["counted"]):
            assert run["died"] is None and run["beside"] == ["an output"], run["log"]
        assert killed["reference"]["result"] == killed["counted"]["result"]

    def test_it_was_killed_at_every_kind_of_moment(self, killed):
        assert all(moment["killed"]["died"] == signal.SIGKILL for moment in killed["moments"])
        names, stages = killed["names"], [moment["stage"] for moment in killed["moments"]]
        assert {stage: stages.count(stage) >= 2 for stage in stages} == dict.fromkeys(STAGES, True)
        for layer in range(2):
            for kind in ("moments", "entering", "factors", "losses", "gradients", "layer", "held-out-entering"):
                assert f"after {kind}-{layer}.safetensors was renamed" in names
            assert names.count(f"in layer-{layer}.json.part") == 2  # the walk back adds to it
            assert f"in hidden-{layer + 1}.safetensors.part" in names
        assert names.count("after state.json was renamed") == 1 + 4 * 2 + 1
        assert names.count("in trials.json.part") == 3
        assert names.count("before a batch is sampled") == 2
        written = ["config.json", "neuronmm_report.json", "README.md", "tokenizer.json", "calibration.json.part"]
        assert {f"in {name}" for name in written} < set(names)
        assert sum("is written" in name for name in names) >= 2
        last = [
            "before an output is renamed",
            "after an output was renamed",
            "before .an output.neuronmm is removed",
            "while .an output.neuronmm is removed",
        ]
        assert names[-4:] == [moment["name"] for moment in killed["moments"][-4:]] == last

    def test_the_output_is_whole_or_not_there(self, killed):
        for moment in killed["moments"]:
            assert moment["killed"]["result"] in ({}, killed["reference"]["result"]), moment["name"]
        there = [moment["name"] for moment in killed["moments"] if moment["killed"]["result"]]
        assert there == [moment["name"] for moment in killed["moments"]][-3:]

    def test_the_next_run_gives_the_same_checkpoint_and_leaves_nothing_beside_it(self, killed):
        for moment in killed["moments"]:
            assert moment["again"]["result"] == killed["reference"]["result"], moment["name"] + moment["again"]["log"]
            assert moment["again"]["beside"] == ["an output"], moment["name"]

    def test_a_run_that_finds_its_output_finished_says_so(self, killed):
        for moment in killed["moments"]:
            refused = "exists and is not empty" in moment["again"]["log"]
            assert refused == bool(moment["killed"]["result"]), moment["name"]

    def test_what_is_finished_is_not_done_again(self, killed):
        for moment in killed["moments"]:
            log = moment["again"]["log"]
            assert "starting anew" not in log
            if moment["stage"] in ("layers", "losses", "result") and "exists and is not empty" not in log:
                assert "Trial" not in log
            if moment["stage"] in ("losses", "result") and "exists and is not empty" not in log:
                assert "after layer 2 of 2" in log
            if moment["stage"] in ("beginning", "calibration", "activations", "gradients"):
                assert "Trial 1" in log and "Trial 3" in log and "Resuming" not in log
        trials = [
            moment["again"]["log"].count("Trial ") for moment in killed["moments"] if moment["stage"] == "trials"
        ]
        assert trials == sorted(trials, reverse=True) and trials[0] == 3 and trials[-1] < 2

    def test_a_run_that_is_killed_again_and_again_arrives(self, killed):
        *attempts, last = killed["chain"]
        assert len(attempts) >= 5 and all(attempt["died"] == signal.SIGKILL for attempt in attempts)
        assert all(attempt["result"] == {} for attempt in attempts)
        assert last["died"] is None and last["result"] == killed["reference"]["result"], last["log"]
        assert last["beside"] == ["an output"]
