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
"""The child process that compiles: what it is started with, and how it ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from optimum_neuronmm import NeuronMMError
from optimum_neuronmm.commands import child, compilation
from optimum_neuronmm.commands.compilation import compile_in_child


ODD = "a 'b' \"c\" $(touch pwned); `d` ünï\n-e"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """`program(code)` has this run as the child, with the request in `request`; an import of it is no test's business."""

    def program(code: str) -> None:
        name = f"child_{len(list(tmp_path.iterdir()))}"
        (tmp_path / f"{name}.py").write_text(f"import json, os, signal, sys, time\nrequest = sys.argv[1]\n{code}\n")
        monkeypatch.setattr(compilation, "MODULE", name)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.syspath_prepend(str(tmp_path))

    return program


def test_the_request_arrives_as_it_was_typed(program, tmp_path):
    program(f"open({str(tmp_path / 'request')!r}, 'w').write(request)")
    compile_in_child(ODD, Path(ODD), {"calibration": [ODD]}, batch_size=2, cache_dir=None)
    expected = {"model": ODD, "output": ODD, "options": {"calibration": [ODD]}, "batch_size": 2, "cache_dir": None}
    assert json.loads((tmp_path / "request").read_text()) == expected
    assert not (tmp_path / "pwned").exists()


def test_it_is_the_same_python_without_a_shell(monkeypatch):
    started = []

    def record(command, **options):
        started.append((command, options))
        raise FileNotFoundError

    monkeypatch.setattr(compilation.subprocess, "Popen", record)
    with pytest.raises(FileNotFoundError):
        compile_in_child("model", Path("out"), {})
    ((command, options),) = started
    assert command[:2] == [sys.executable, "-c"] and command[-2] == "optimum_neuronmm.commands.child"
    assert len(command) == 6
    assert not options.get("shell")


def test_its_status_is_that_of_the_command(program):
    program("sys.exit(7)")
    with pytest.raises(SystemExit) as exit:
        compile_in_child("model", Path("out"), {})
    assert exit.value.code == 7


@pytest.mark.parametrize(("number", "said"), [(signal.SIGKILL, r"signal 9 \(Killed\)"), (signal.SIGSEGV, "signal 11")])
def test_a_child_that_is_killed(program, number, said):
    program(f"os.kill(os.getpid(), {int(number)})")
    with pytest.raises(NeuronMMError, match=f"killed by {said}.*ran out of memory, compile on a larger one"):
        compile_in_child("model", Path("out"), {})


def test_a_child_that_is_interrupted_before_it_can_say_so(program):
    program("signal.signal(signal.SIGINT, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGINT)")
    with pytest.raises(KeyboardInterrupt):
        compile_in_child("model", Path("out"), {})


# What a background job, or one under nohup, would not.
HEARS = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
)
PUTS_AWAY = """
mark = {mark!r}
compiler = __import__("subprocess").Popen([sys.executable, "-c", "import time; time.sleep(30)"])
open(mark, "w").write(str(compiler.pid))
try:
    time.sleep(30)
except KeyboardInterrupt:
    time.sleep(0.3)  # a second interruption would come now
    open(mark, "a").write(" put away")
    sys.exit(130)
"""


@pytest.mark.parametrize(
    ("number", "to_group"), [("SIGINT", True), ("SIGINT", False), ("SIGTERM", False), ("SIGHUP", False)]
)
def test_a_request_to_end_reaches_the_child_and_what_it_started_once(program, tmp_path, number, to_group):
    mark = tmp_path / "mark"
    program(HEARS + PUTS_AWAY.format(mark=str(mark)))
    code = HEARS + (
        "import sys; from pathlib import Path; from optimum_neuronmm.commands import compilation as c\n"
        f"c.MODULE = {compilation.MODULE!r}; c.compile_in_child('model', Path('out'), {{}})"
    )
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join([os.environ["PYTHONPATH"], str(root)])
    parent = subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, env=os.environ | {"PYTHONPATH": paths}
    )
    wait_for(lambda: mark.exists() and mark.read_text())
    (os.killpg if to_group else os.kill)(parent.pid, getattr(signal, number))
    assert parent.wait(timeout=20) == 130
    pid, said = mark.read_text().split(" ", 1)
    assert said == "put away"
    wait_for(lambda: not is_running(int(pid)))


def wait_for(condition, seconds: float = 20) -> None:
    import time

    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_handlers_are_as_they_were(program, monkeypatch):
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    program("pass")
    compile_in_child("model", Path("out"), {})
    assert [signal.getsignal(number) for number in numbers] == before


def test_what_nohup_ignores_stays_ignored(program):
    program("pass")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with compilation._interruptible():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


class TestChild:
    @pytest.fixture
    def export(self, monkeypatch):
        """Stands in for the compilation. `export.error` is raised."""
        from types import SimpleNamespace

        def export(**arguments):
            export.calls.append(arguments)
            if export.error is not None:
                raise export.error

        export.calls, export.error = [], None
        monkeypatch.setitem(sys.modules, "optimum_neuronmm.neuron.export", SimpleNamespace(export=export))
        return export

    def test_it_compiles_what_is_asked(self, export):
        child.main(json.dumps({"model": "m", "output": "o", "options": {"seed": 3}, "batch_size": 2}))
        ((arguments),) = export.calls
        assert arguments.pop("options").seed == 3
        assert arguments == {"model": "m", "output": "o", "batch_size": 2}

    @pytest.mark.parametrize(
        ("error", "status", "said"),
        [
            (NeuronMMError("this, that, those."), 1, "error: this, that, those."),
            (KeyboardInterrupt(), 130, "run the same command again, what was compressed is kept"),
        ],
    )
    def test_an_error_is_one_line(self, export, capsys, error, status, said):
        export.error = error
        with pytest.raises(SystemExit) as exit:
            child.main(json.dumps({"model": "m", "output": "o", "options": {}}))
        assert exit.value.code == status and said in capsys.readouterr().err

    def test_it_hears_interrupts_in_a_background_job(self, export):
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts one
        try:
            child.main(json.dumps({"model": "m", "output": "o", "options": {}}))
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        finally:
            signal.signal(signal.SIGINT, before)


def test_the_child_is_told_that_dynamo_is_off(program, tmp_path):
    program(f"open({str(tmp_path / 'env')!r}, 'w').write(os.environ['TORCHDYNAMO_DISABLE'])")
    compile_in_child("model", Path("out"), {})
    assert (tmp_path / "env").read_text() == "1"
