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
"""A file that is written whole, or not at all."""

import io
import os
import resource
import signal
import stat
from contextlib import contextmanager

import pytest

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.output_file import is_special, write_whole


@pytest.fixture
def path(tmp_path):
    return tmp_path / "trace.json"


def raising(error: BaseException):
    def function(*a, **o):
        raise error

    return function


def test_a_new_file_and_an_older_one(path):
    write_whole(path, b"first, and longer")
    assert path.read_bytes() == b"first, and longer"
    write_whole(str(path), b"second")
    assert path.read_bytes() == b"second" and list(path.parent.iterdir()) == [path]


def test_a_file_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_whole("trace.json", b"x")
    assert os.listdir() == ["trace.json"]


def test_a_name_as_long_as_names_can_be(tmp_path):
    for name in ("n" * 255, "\N{SNOWMAN}" * 85):
        write_whole(tmp_path / name, b"x")
        assert (tmp_path / name).read_bytes() == b"x"


def test_permissions(path):
    mask = os.umask(0o027)
    try:
        write_whole(path, b"new")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640  # as of any new file
        path.chmod(0o606)
        write_whole(path, b"newer")
        assert stat.S_IMODE(path.stat().st_mode) == 0o606
    finally:
        os.umask(mask)


def test_an_older_file_stays_with_its_owner(path, monkeypatch):
    path.touch()
    older, asked = path.stat(), []
    monkeypatch.setattr("os.chown", lambda file, *to: asked.append(to))
    write_whole(path, b"x")
    assert asked == [(older.st_uid, older.st_gid)]
    monkeypatch.setattr("os.chown", raising(PermissionError(1, "Operation not permitted")))
    write_whole(path, b"y")
    assert path.read_bytes() == b"y"


def test_a_link_stays_one(tmp_path, path):
    (tmp_path / "far").mkdir()
    path.symlink_to("far/real.json")
    for content in (b"new", b"newer"):
        write_whole(path, content)
        assert path.is_symlink() and (tmp_path / "far" / "real.json").read_bytes() == content
    assert len(list(tmp_path.rglob("*"))) == 3


@contextmanager
def small_files():
    """No file may grow beyond 1000 bytes, that of the test's own output neither: not for longer than it takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("older", [b"older", None])
def test_a_full_disk_leaves_what_was_there(path, older):
    if older:
        path.write_bytes(older)
    told = "trace.json could not be written: File too large. What was there is kept: see that its disk has room, or choose"
    with pytest.raises(NeuronMMError, match=told), small_files():
        write_whole(path, b"x" * 100_000)
    assert [file.read_bytes() for file in path.parent.iterdir()] == [older] * bool(older)


@pytest.mark.parametrize("at", ["os.replace", "shutil.copymode"])
def test_an_interrupt_leaves_what_was_there(path, monkeypatch, at):
    path.write_bytes(b"older")
    monkeypatch.setattr(at, raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"newer")
    assert [file.read_bytes() for file in path.parent.iterdir()] == [b"older"]


def test_a_folder_that_is_gone(tmp_path):
    with pytest.raises(NeuronMMError, match="trace.json could not be written: No such file or directory"):
        write_whole(tmp_path / "gone" / "trace.json", b"x")


def test_a_pipe_is_written_to_after_what_was_printed(tmp_path, path, monkeypatch):
    assert not is_special(tmp_path / "nothing")
    os.mkfifo(path)
    assert is_special(path)
    order = []
    monkeypatch.setattr("sys.stdout", type("Out", (io.StringIO,), {"flush": lambda self: order.append("flushed")})())
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as pipe:
        write_whole(path, b"content")
        assert pipe.read() == b"content"
    assert path.is_fifo() and list(tmp_path.iterdir()) == [path] and "flushed" in order


def test_a_device_is_written_to():
    write_whole("/dev/null", b"x")
    assert is_special("/dev/null")
