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
"""The hidden directory of a run: its files, resuming, publishing, locking, and disks that are full."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError

from optimum_neuronmm import workspace as module
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.workspace import (
    Workspace,
    check_disk_space,
    check_output_dir,
    explained_disk_errors,
    hidden_path,
    lock_directory,
    sole_writer,
    workspace_path,
)

from .conftest import ROOT


@pytest.fixture
def output(tmp_path):
    return tmp_path / "a directory with spaces" / "out put"


def published(output, files=("config.json",)):
    workspace = Workspace(output, "f")
    result = workspace.new_result()
    for file in files:
        (result / file).write_text("x")
    workspace.publish()
    return workspace


class TestFiles:
    def test_tensors_and_json_come_back_as_they_were(self, output):
        workspace = Workspace(output, "f")
        tensors = {"a": torch.arange(6).view(2, 3).T, "b": torch.zeros(0), "c": torch.ones(3, dtype=torch.bfloat16)}
        workspace.save("x", tensors)
        loaded = workspace.load("x")
        assert loaded.keys() == tensors.keys()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
        workspace.write_json("y.json", {"ä": [1, None]})
        assert workspace.read_json("y.json") == {"ä": [1, None]}
        assert workspace.read_json("z.json") is None
        workspace.remove("x")
        workspace.remove("x")
        assert sorted(path.name for path in workspace.path.iterdir()) == ["lock", "state.json", "y.json"]

    def test_a_loaded_tensor_may_be_written_and_its_file_removed(self, output):
        """Hidden states are advanced in place, and the file that they came from is not."""
        workspace = Workspace(output, "f")
        workspace.save("x", {"a": torch.zeros(1000)})
        loaded = workspace.load("x")["a"]
        loaded += 1
        assert (workspace.load("x")["a"] == 0).all()
        workspace.remove("x")
        assert (loaded == 1).all()

    def test_cached_computes_once(self, output):
        workspace, calls = Workspace(output, "f"), []

        def compute():
            calls.append(1)
            return torch.tensor([3, 4])

        assert workspace.cached("n", compute).tolist() == workspace.cached("n", compute).tolist() == [3, 4]
        workspace.close()
        assert Workspace(output, "f").cached("n", compute).tolist() == [3, 4] and calls == [1]

    @pytest.mark.parametrize("write", ["save", "write_json"])
    def test_what_fails_while_it_is_written_leaves_the_old_file(self, output, write, monkeypatch):
        workspace = Workspace(output, "f")
        workspace.save("x", {"a": torch.zeros(2)})
        workspace.write_json("y.json", 1)

        def fail(*args, **kwargs):
            raise OSError(errno.EIO, "broken disk")

        monkeypatch.setattr(module, "save_file", fail)
        monkeypatch.setattr(Path, "write_text", fail)
        with pytest.raises(OSError, match="broken disk"):
            workspace.save("x", {"a": torch.ones(2)}) if write == "save" else workspace.write_json("y.json", 2)
        assert workspace.load("x")["a"].tolist() == [0, 0] and workspace.read_json("y.json") == 1


class TestResuming:
    def test_progress_is_found_again(self, output):
        workspace = Workspace(output, "f")
        assert workspace.done("layers") == 0
        workspace.save("layer-0", {"a": torch.zeros(1)})
        workspace.finish("layers", 1)
        workspace.finish("layers", 2)
        assert workspace.done("layers") == 2
        workspace.close()
        assert Workspace(output, "f").done("layers") == 2

    def test_stages_progress_on_their_own(self, output):
        workspace = Workspace(output, "f")
        workspace.save("layer-0", {"a": torch.zeros(1)})
        workspace.finish("activations", 3)
        workspace.finish("gradients", 1)
        workspace.close()
        workspace = Workspace(output, "f")
        workspace.finish("gradients", 2)
        workspace.close()
        workspace = Workspace(output, "f")
        assert [workspace.done(stage) for stage in ("activations", "gradients", "layers")] == [3, 2, 0]

    def test_time_of_earlier_runs_counts(self, output, monkeypatch):
        now = [100.0]
        monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
        workspace = Workspace(output, "f")
        now[0] = 130.0
        workspace.save("layer-0", {"a": torch.zeros(1)})
        workspace.finish("layers", 1)
        now[0] = 150.0  # lost with the layer that was not finished
        workspace.close()
        now[0] = 5.0
        workspace = Workspace(output, "f")
        now[0] = 7.0
        assert workspace.seconds == 32.0

    def test_another_run_starts_anew_and_says_so(self, output, caplog):
        workspace = Workspace(output, "f")
        workspace.save("layer-0", {"a": torch.zeros(1)})
        workspace.new_result()
        workspace.finish("layers", 1)
        workspace.close()
        workspace = Workspace(output, "g")
        assert "changed since" in caplog.text and "starting anew" in caplog.text
        assert workspace.done("layers") == 0
        assert sorted(path.name for path in workspace.path.iterdir()) == ["lock", "state.json"]

    def test_the_same_run_and_a_first_one_say_nothing(self, output, caplog):
        workspace = Workspace(output, "f")
        workspace.save("x", {"a": torch.zeros(1)})
        workspace.close()
        Workspace(output, "f")
        assert caplog.text == ""

    @pytest.mark.parametrize("state", ["", "{", "[]", "3", "\xff"])
    def test_a_damaged_state_starts_anew(self, output, state):
        workspace = Workspace(output, "f")
        workspace.save("layer-0", {"a": torch.zeros(1)})
        workspace.finish("layers", 1)
        workspace.close()
        (workspace.path / "state.json").write_bytes(state.encode("latin-1"))
        workspace = Workspace(output, "f")
        assert workspace.done("layers") == 0 and not (workspace.path / "layer-0.safetensors").exists()

    def test_a_result_that_was_begun_is_begun_again(self, output):
        workspace = Workspace(output, "f")
        (workspace.new_result() / "half").write_text("x")
        assert list(workspace.new_result().iterdir()) == []


class TestClosing:
    def test_where_nothing_was_done_nothing_is_left(self, output):
        Workspace(output, "f").close()
        assert list(output.parent.iterdir()) == []

    def test_where_something_was_done_it_is_kept(self, output):
        workspace = Workspace(output, "f")
        workspace.save("calibration", {"a": torch.zeros(1)})
        workspace.close()
        assert (workspace_path(output) / "calibration.safetensors").is_file()

    def test_closing_again_does_not_touch_the_workspace_of_another(self, output):
        first = Workspace(output, "f")
        first.close()
        second = Workspace(output, "f")
        first.close()
        assert second.path.is_dir()
        second.close()


class TestPublishing:
    def test_the_result_takes_the_place_of_the_output(self, output):
        workspace = published(output, ("config.json", "b"))
        assert sorted(path.name for path in output.iterdir()) == ["b", "config.json"]
        assert list(output.parent.iterdir()) == [output]
        workspace.close()

    def test_an_empty_directory_gives_way(self, output):
        output.mkdir(parents=True)
        published(output)
        assert (output / "config.json").is_file()

    def test_the_output_appears_by_one_rename(self, output, monkeypatch):
        """Nothing is ever created in it."""
        renames, replace = [], os.replace

        def recorded(source, target):
            renames.append((Path(source).name, Path(target)))
            assert not output.exists()
            replace(source, target)

        monkeypatch.setattr(os, "replace", recorded)
        published(output)
        assert renames[-1] == ("result", output)

    def test_an_output_that_came_to_be_is_not_overwritten_and_the_result_is_kept(self, output):
        workspace = Workspace(output, "f")
        (workspace.new_result() / "config.json").write_text("x")
        output.mkdir()
        (output / "thesis.txt").write_text("mine")
        with pytest.raises(NeuronMMError, match="could not be put in place.*It is kept.*run the same command again"):
            workspace.publish()
        workspace.close()
        assert (output / "thesis.txt").read_text() == "mine"
        with pytest.raises(NeuronMMError, match="exists and is not empty"):
            check_output_dir(output)
        assert (workspace.path / "result" / "config.json").is_file()

    def test_a_result_that_is_written_again_after_that_is_not_what_is_left_of_a_finished_output(self, output):
        workspace = Workspace(output, "f")
        workspace.save("layer-0", {"a": torch.zeros(1)})
        workspace.new_result()
        output.mkdir()
        (output / "thesis.txt").write_text("mine")
        with pytest.raises(NeuronMMError, match="could not be put in place"):
            workspace.publish()
        workspace.close()
        (output / "thesis.txt").unlink()
        workspace = Workspace(output, "f")  # dies before it has made the new result
        (workspace.path / "result").rmdir()
        (output / "thesis.txt").write_text("mine again")
        with pytest.raises(NeuronMMError, match="exists and is not empty"):
            check_output_dir(output)
        assert (workspace.path / "layer-0.safetensors").is_file()

    def test_what_a_killed_process_left_beside_a_finished_output_is_removed(self, output):
        workspace = Workspace(output, "f")
        (workspace.new_result() / "config.json").write_text("x")
        workspace.save("hidden-3", {"a": torch.zeros(9)})
        rmtree = shutil.rmtree
        shutil.rmtree = lambda *args, **kwargs: None
        try:
            workspace.publish()
        finally:
            shutil.rmtree = rmtree
        assert workspace_path(output).is_dir()
        with pytest.raises(NeuronMMError, match="exists and is not empty"):
            check_output_dir(output)
        assert list(output.parent.iterdir()) == [output]

    def test_work_beside_an_output_of_something_else_is_kept(self, output):
        workspace = Workspace(output, "f")
        workspace.save("layer-0", {"a": torch.zeros(9)})
        workspace.close()
        output.mkdir()
        (output / "file").write_text("x")
        with pytest.raises(NeuronMMError, match="exists and is not empty"):
            check_output_dir(output)
        assert (workspace.path / "layer-0.safetensors").is_file()


class TestLocking:
    def test_a_second_process_is_told(self, output):
        workspace = Workspace(output, "f")
        code = f"""
import sys
from pathlib import Path
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.workspace import Workspace
try:
    Workspace(Path({str(output)!r}), "f")
except NeuronMMError as error:
    sys.exit(str(error))
"""
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert second.returncode == 1
        assert second.stderr.strip().endswith(f"Another process is writing {output}. Wait for it, or choose another.")
        assert workspace.path.is_dir()  # and the first one was left alone
        workspace.finish("layers", 1)

    def test_after_the_end_of_the_first_the_second_may(self, output):
        Workspace(output, "f").close()
        Workspace(output, "f").close()

    def test_a_lock_file_that_its_owner_removed_locks_nothing(self, output, monkeypatch):
        """The owner publishes between the moments at which another process opens the lock file and locks it."""
        first, flock = Workspace(output, "f"), module.fcntl.flock
        (first.new_result() / "config.json").write_text("x")

        def late(*args):
            first.publish()
            flock(*args)

        monkeypatch.setattr(module.fcntl, "flock", late)
        with pytest.raises(NeuronMMError, match="Another process is writing"):
            Workspace(output, "f")
        assert list(output.parent.iterdir()) == [output]

    def test_an_output_that_was_published_since_it_was_checked_is_refused(self, output):
        published(output)
        with pytest.raises(NeuronMMError, match="exists and is not empty"):
            Workspace(output, "f")
        assert list(output.parent.iterdir()) == [output]

    def test_a_file_system_without_locks_is_not_another_process(self, output, monkeypatch):
        def flock(*args):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(module.fcntl, "flock", flock)
        with pytest.raises(NeuronMMError, match="cannot be written.*No locks available"):
            Workspace(output, "f")


class TestOutputDirectory:
    def refused(self, output, match):
        with pytest.raises(NeuronMMError, match=match):
            check_output_dir(output)

    def test_what_may_be(self, tmp_path):
        check_output_dir(tmp_path / "new")
        check_output_dir(tmp_path / "several" / "new" / "levels")
        (tmp_path / "empty").mkdir()
        check_output_dir(tmp_path / "empty")
        assert [path.name for path in tmp_path.iterdir()] == ["empty"]

    def test_content(self, tmp_path):
        (tmp_path / ".hidden").write_text("x")
        self.refused(tmp_path, "exists and is not empty")

    def test_a_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        self.refused(tmp_path / "file", "exists and is not empty")

    def test_a_file_as_parent(self, tmp_path):
        (tmp_path / "file").write_text("")
        self.refused(tmp_path / "file" / "out", "file is not a directory that you may write to")
        self.refused(tmp_path / "file" / "a" / "b" / "out", "file is not a directory that you may write to")

    def test_a_parent_that_may_not_be_written(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module.os, "access", lambda path, mode: path != tmp_path)  # root may write everywhere
        self.refused(tmp_path / "new" / "out", f"{tmp_path} is not a directory that you may write to")

    def test_a_name_that_is_too_long(self, tmp_path):
        self.refused(tmp_path / ("x" * 300), "cannot be created: File name too long")

    def test_a_name_that_is_too_long_for_the_workspace(self, tmp_path):
        with pytest.raises(NeuronMMError, match="cannot be written: .*File name too long"):
            Workspace(tmp_path / ("x" * 250), "f")
        assert list(tmp_path.iterdir()) == []

    def test_a_file_where_the_workspace_would_be(self, output):
        output.parent.mkdir()
        workspace_path(output).write_text("x")
        with pytest.raises(NeuronMMError, match="cannot be written: .*File exists"):
            Workspace(output, "f")

    @pytest.mark.parametrize("link", [False, True])
    def test_a_directory_of_somebody_where_the_workspace_would_be(self, output, tmp_path, link):
        """It would be emptied."""
        mine = tmp_path / "mine" if link else workspace_path(output)
        mine.mkdir(parents=True)
        output.parent.mkdir(exist_ok=True)
        (mine / "thesis.txt").write_text("mine")
        if link:
            workspace_path(output).symlink_to(mine)
        with pytest.raises(NeuronMMError, match="is not of a compression. Move it away, or choose another output"):
            Workspace(output, "f")
        assert [path.name for path in mine.iterdir()] == ["thesis.txt"]

    def test_a_link_to_an_empty_directory_is_not_a_workspace(self, output, tmp_path):
        """It may lie on another disk, from which nothing can be renamed into place."""
        (tmp_path / "elsewhere").mkdir()
        output.parent.mkdir()
        workspace_path(output).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(NeuronMMError, match="is not of a compression"):
            Workspace(output, "f")

    def test_a_workspace_that_died_before_its_first_file_is_taken_over(self, output):
        workspace_path(output).mkdir(parents=True)
        (workspace_path(output) / "lock").touch()
        (workspace_path(output) / "state.json.part").write_text("{")
        assert Workspace(output, "f").done("layers") == 0

    def test_a_mount_point(self, tmp_path, monkeypatch):
        """It can be neither removed nor replaced, which would show after all the work is done."""
        (tmp_path / "disk").mkdir()
        monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path / "disk")
        self.refused(tmp_path / "disk", "a disk is mounted.*Choose a directory inside it")
        check_output_dir(tmp_path / "disk" / "out")

    def test_a_directory_that_may_not_be_listed(self, tmp_path, monkeypatch):
        def exists(path):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "exists", exists)
        self.refused(tmp_path / "out", "cannot be created: Permission denied")


class TestFullDisk:
    @pytest.fixture
    def free(self, monkeypatch):
        def disk_usage(path):
            assert Path(path).is_dir()
            return SimpleNamespace(free=disk_usage.free)

        monkeypatch.setattr(module.shutil, "disk_usage", disk_usage)
        return disk_usage

    def test_too_little_space_is_found_before_any_work(self, output, free):
        free.free = 2_000_000_000
        check_disk_space(output, 2_000_000_000)
        with pytest.raises(NeuronMMError, match="about 2.0 GB are needed while compressing, 2.0 GB are free"):
            check_disk_space(output, 2_000_000_001)
        assert not output.parent.exists()

    def test_what_an_interrupted_run_has_written_is_not_needed_again(self, output, free):
        workspace = Workspace(output, "f")
        workspace.save("layer-0", {"a": torch.zeros(250)})
        (workspace.new_result() / "model.safetensors").write_bytes(bytes(1000))
        workspace.close()
        free.free = 8000
        check_disk_space(output, 10_000)
        with pytest.raises(NeuronMMError, match="Not enough disk space"):
            check_disk_space(output, 12_000)

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
    @pytest.mark.parametrize("rust", [False, True])
    def test_every_form_of_it_says_that_the_run_can_be_resumed(self, tmp_path, number, rust):
        error = OSError(number, os.strerror(number))
        if rust:
            error = SafetensorError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")
        with pytest.raises(NeuronMMError, match="No space left on the disk of .*run the same command again"):
            with explained_disk_errors(tmp_path):
                raise error

    @pytest.mark.parametrize("error", [OSError(errno.EIO, "x"), SafetensorError("I/O (os error 5)"), ValueError("x")])
    def test_other_errors_stay_what_they_are(self, tmp_path, error):
        with pytest.raises(type(error)) as raised:
            with explained_disk_errors(tmp_path):
                raise error
        assert raised.value is error and not isinstance(error, NeuronMMError)

    @pytest.mark.parametrize("write", ["save('x', {'a': torch.zeros(90000)})", "write_json('x', 'x' * 90000)"])
    def test_of_the_operating_system(self, output, write):
        """A limit on the size of files stands for a full disk: the system refuses the write in the middle."""
        code = f"""
import resource, sys, torch
from pathlib import Path
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.workspace import Workspace
workspace = Workspace(Path({str(output)!r}), "f")
workspace.save("old", {{"a": torch.zeros(9)}})
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    workspace.{write}
except NeuronMMError as error:
    sys.exit(str(error))
"""
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert process.returncode == 1 and "No space left on the disk" in process.stderr.splitlines()[-1]
        workspace = Workspace(output, "f")
        assert workspace.load("old")["a"].tolist() == [0] * 9
        assert not (workspace.path / "x").exists() and not (workspace.path / "x.safetensors").exists()


class TestSoleWriter:
    def test_one_at_a_time(self, output):
        with sole_writer(output):
            with pytest.raises(NeuronMMError, match="Another process is writing .*out put. Wait for it, or choose"):
                with sole_writer(output):
                    raise AssertionError
            with sole_writer(output.with_name("another")):
                pass
        with sole_writer(output):
            pass
        assert list(output.parent.iterdir()) == []

    def test_after_one_that_was_killed(self, output):
        lock_directory(hidden_path(output, output.parent, "export")).close()
        with sole_writer(output):
            pass
        assert list(output.parent.iterdir()) == []

    def test_an_output_that_another_has_finished(self, output, monkeypatch):
        """Between the look at it and the lock."""

        def finish(*args):
            (output / "model").mkdir(parents=True)
            return lock_directory(*args)

        monkeypatch.setattr(module, "lock_directory", finish)
        with pytest.raises(NeuronMMError, match="exists and is not empty"):
            with sole_writer(output):
                raise AssertionError
        assert [path.name for path in output.parent.iterdir()] == ["out put"]

    def test_where_nothing_can_be_written(self, output, monkeypatch):
        def refuse(*args):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(module, "lock_directory", refuse)
        with pytest.raises(NeuronMMError, match="cannot be written: .*Permission denied"):
            with sole_writer(output):
                raise AssertionError

    def test_hidden_names_are_their_own(self, tmp_path):
        names = ["a" * 255, "a" * 254, "\u8a9e" * 85, "x", ".x", "-x\ny"]
        paths = {hidden_path(tmp_path / name, tmp_path, "save") for name in names}
        assert len(paths) == len(names)
        for path in paths:
            lock_directory(path).close()
