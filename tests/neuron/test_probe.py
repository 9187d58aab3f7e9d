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
"""One kernel at one shape is tried in a child process, once, whatever the child does."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from optimum_neuronmm import NeuronMMError
from optimum_neuronmm.kernels import matmul, mlp
from optimum_neuronmm.neuron import probe as probing
from optimum_neuronmm.neuron.probe import Call, probe
from tests.neuron import environment


CALL = Call(
    "matmul", (("x", (3, 40)), ("w", (40, 24)), ("bias", (24,))), (("x_transposed", False),), "float32", "trn1", 1
)


@pytest.fixture(autouse=True)
def warnings(monkeypatch):
    found = []
    monkeypatch.setattr(probing.logger, "warning", found.append)
    return found


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """Where the verdicts are."""
    monkeypatch.setattr(probing, "HF_HOME", str(tmp_path / "home of hf"))
    monkeypatch.setenv("NEURONMM_NKI", "simulator")
    return tmp_path / "home of hf" / "neuronmm" / "kernels"


@pytest.fixture
def started(monkeypatch):
    """The commands of the children that were started."""
    commands, start = [], subprocess.Popen

    def spy(command, **options):
        commands.append((command, options))
        return start(command, **options)

    monkeypatch.setattr(probing.subprocess, "Popen", spy)
    return commands


@pytest.fixture
def child_runs(tmp_path, monkeypatch):
    """`child_runs(code)`: every Python that starts from here on runs it first."""

    def run(code: str) -> None:
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(code)
        paths = [str(tmp_path / "site"), str(environment.ROOT), os.environ.get("PYTHONPATH", "")]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))

    return run


@pytest.fixture
def instead(monkeypatch):
    """`instead(status)`: children do nothing but return it."""

    def give(code: str):
        monkeypatch.setattr(probing.sys, "executable", code)

    return give


def read(folder: Path, call: Call = CALL) -> dict:
    return json.loads((folder / f"{call.kernel}-{call.digest}.json").read_text())


def test_a_kernel_that_works_is_tried_once(folder, started, warnings):
    assert probe(CALL) is None
    assert read(folder) == {"call": str(CALL), "failure": None, "compared": True}
    log = (folder / f"matmul-{CALL.digest}.log").read_text()
    assert log.startswith(f"{CALL}\n") and "relative error" in log
    assert warnings == [f"Trying {CALL}."]
    assert probe(CALL) is None
    assert len(started) == len(warnings) == 1
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".log"]


def test_the_child_is_started_without_a_shell(folder, started, instead):
    instead("/bin/true")
    assert probe(replace(CALL, target="trn1; exit 7 $(touch /tmp/no) '")) is None
    ((command, options),) = started
    assert command[:2] == ["/bin/true", "-c"] and command[-2] == "optimum_neuronmm.neuron.probe" and len(command) == 6
    assert not options.get("shell") and options["stdin"] == subprocess.DEVNULL


def test_a_kernel_that_does_not_compile_is_remembered_with_its_log(folder, child_runs, started):
    child_runs(f"import sys; print('no such instruction'); sys.stdout.flush(); import os; os._exit({probing.REFUSED})")
    found = probe(CALL)
    log = folder / f"matmul-{CALL.digest}.log"
    assert found == (
        f"{CALL}: it does not compile (log: {log}; delete matmul-{CALL.digest}.json beside it to try again)"
    )
    assert log.read_text() == "no such instruction\n"
    assert read(folder)["failure"] == "it does not compile"
    assert probe(CALL) == found and len(started) == 1
    (folder / f"matmul-{CALL.digest}.json").unlink()
    probe(CALL)
    assert len(started) == 2


@pytest.mark.parametrize("status", ["-9", "-11", "1", "70"])
def test_what_says_nothing_about_the_kernel_is_not_remembered(folder, child_runs, started, status):
    # No memory, no free core, a runtime that does not start: the next trial may well succeed.
    end = f"os.kill(os.getpid(), {status[1:]})" if status.startswith("-") else f"os._exit({status})"
    child_runs(f"import os\nif os.path.exists('{folder.parent}/broken'): {end}")
    folder.mkdir(parents=True)
    (folder.parent / "broken").touch()
    log = folder / f"matmul-{CALL.digest}.log"
    assert probe(CALL) == f"{CALL}: the trial did not come to an end, and stopped with status {status} (log: {log})"
    assert list(folder.glob("*.json")) == []
    (folder.parent / "broken").unlink()
    assert probe(CALL) is None and len(started) == 2


def test_a_child_that_cannot_import_what_it_needs(folder, child_runs):
    child_runs("import sys; sys.modules['ml_dtypes'] = None")
    assert "stopped with status 1 (log:" in probe(CALL)
    assert "ml_dtypes" in (folder / f"matmul-{CALL.digest}.log").read_text()


def test_a_child_that_hangs_ends_with_all_that_it_started(folder, child_runs, monkeypatch, tmp_path):
    monkeypatch.setattr(probing, "TIMEOUT", 2)
    pid = tmp_path / "pid"
    child_runs(
        "import subprocess, sys, time\n"
        f"open({str(pid)!r}, 'w').write(str(subprocess.Popen(['sleep', '600']).pid))\n"
        "print('waiting', flush=True)\n"
        "time.sleep(600)\n"
    )
    begin = time.monotonic()
    assert "it was not done after 2 seconds (log:" in probe(CALL)
    assert list(folder.glob("*.json")) == []
    assert time.monotonic() - begin < 20
    assert (folder / f"matmul-{CALL.digest}.log").read_text() == "waiting\n"
    status = Path(f"/proc/{pid.read_text()}/stat")
    deadline = time.monotonic() + 10
    while status.exists() and status.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not status.exists() or status.read_text().split()[2] == "Z"


def test_the_child_of_a_user_who_interrupts_ends_as_well(folder, child_runs, started, monkeypatch):
    child_runs("import time; time.sleep(600)")
    children, start = [], probing.subprocess.Popen

    class Interrupted:
        def __init__(self, *args, **options):
            self.child = start(*args, **options)
            children.append(self.child)

        def wait(self, timeout=None):
            if timeout is None:
                return self.child.wait()
            raise KeyboardInterrupt

        def __getattr__(self, name):
            return getattr(self.child, name)

    monkeypatch.setattr(probing.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        probe(CALL)
    assert children[0].returncode == -9
    assert not list(folder.glob("*.json"))  # nothing was found out


def test_a_child_that_computes_other_numbers(folder, child_runs):
    child_runs(
        "import sys\n"
        "if 'optimum_neuronmm.neuron.probe' in str(sys.orig_argv):\n"
        "    from optimum_neuronmm.kernels import matmul\n"
        "    reference = matmul.reference\n"
        "    object.__setattr__(matmul, 'reference', lambda **call: 1.01 * reference(**call))\n"
    )
    assert "it computes other numbers than its reference (log:" in probe(CALL)
    assert "relative error 0.00" in (folder / f"matmul-{CALL.digest}.log").read_text()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"3", b"{}", b'{"failure": null}', b"\xff\xfe", b'"failure"']
)
def test_a_damaged_verdict_is_found_again(folder, instead, started, content):
    instead("/bin/true")
    folder.mkdir(parents=True)
    (folder / f"matmul-{CALL.digest}.json").write_bytes(content)
    assert probe(CALL) is None
    assert read(folder)["failure"] is None and len(started) == 1


def test_a_folder_that_cannot_be_written_is_named(folder):
    folder.parent.parent.write_text("a file")
    with pytest.raises(NeuronMMError, match=f"kept in {folder}, which cannot be written .*: set HF_HOME to another"):
        probe(CALL)


def test_two_processes_at_once(folder, tmp_path):
    script = (
        "from optimum_neuronmm.neuron import probe\n"
        f"probe.HF_HOME = {str(folder.parent.parent)!r}\n"
        f"call = {CALL!r}\n".replace("Call(", "probe.Call(")
        + "assert probe.probe(call) is None\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", script], cwd=environment.ROOT) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert read(folder)["failure"] is None
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".log"]


def test_two_processes_never_write_one_file(folder, instead, monkeypatch):
    instead("/bin/true")
    written, replace_file = [], os.replace
    monkeypatch.setattr(probing.os, "replace", lambda source, to: written.append(source) or replace_file(source, to))
    for pid in (101, 102):
        monkeypatch.setattr(probing.os, "getpid", lambda pid=pid: pid)
        probe(CALL)
        (folder / f"matmul-{CALL.digest}.json").unlink()
    assert len(set(written)) == 2 and {path.parent for path in written} == {folder}


@pytest.mark.parametrize(
    "change",
    [
        {"kernel": "mlp"},
        {"tensors": (("x", (4, 40)), *CALL.tensors[1:])},
        {"tensors": CALL.tensors[:2]},
        {"settings": (("x_transposed", True),)},
        {"dtype": "bfloat16"},
        {"target": "trn2"},
        {"cores": 2},
    ],
)
def test_what_decides_a_verdict(change):
    assert replace(CALL, **change).digest != CALL.digest
    assert replace(CALL).digest == CALL.digest


def test_another_compiler_and_other_kernels_are_tried_anew(folder, instead, started, monkeypatch):
    instead("/bin/true")
    compiler, torch_version, source = probing._versions()
    assert compiler == "simulator" and torch_version == torch.__version__
    probe(CALL)
    for versions in (["2.22", torch_version, source], [compiler, torch_version, "0"], [compiler, "3.0", source]):
        monkeypatch.setattr(probing, "_versions", lambda versions=versions: versions)
        probe(CALL)
    assert len(started) == 4


def test_the_version_of_the_kernels_is_their_source(tmp_path, monkeypatch):
    found = []
    for text in ("a = 1", "a = 2", "a = 1"):
        (tmp_path / "simulator").mkdir(exist_ok=True)
        (tmp_path / "simulator" / "kernel.py").write_text(text)
        monkeypatch.setattr(probing.kernels, "__path__", [str(tmp_path)])
        found.append(probing._versions.__wrapped__()[2])
    assert found[0] == found[2] != found[1]


def run_main(call: Call, capsys) -> tuple[int, str]:
    status = probing._main(json.dumps(asdict(call)))
    return status, capsys.readouterr().out


MLP = Call(
    "mlp",
    (
        ("x", (5, 48)), ("gate", (48, 16)), ("gate_v", (16, 60)), ("up_v", (16, 60)),
        ("down", (60, 8)), ("down_v", (8, 48)), ("gate_bias", (60,)), ("up_bias", (60,)),
    ),
    (("activation", "gelu_tanh"),),
    "float32",
    "trn1",
    1,
)  # fmt: skip


@pytest.mark.simulation
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("call", [CALL, MLP], ids=["matmul", "mlp"])
def test_the_child_compares_a_kernel_with_its_reference(capsys, call, dtype):
    status, printed = run_main(replace(call, dtype=dtype), capsys)
    assert status == 0, printed
    assert str(replace(call, dtype=dtype)) in printed and "allowed" in printed


@pytest.mark.simulation
@pytest.mark.parametrize("kernel", [matmul, mlp], ids=["matmul", "mlp"])
def test_the_child_sees_numbers_that_are_a_little_off(capsys, monkeypatch, kernel):
    simulated = probing._simulated
    call = {"matmul": CALL, "mlp": MLP}[kernel.name]
    for off, status in ((1e-3, probing.DIFFERS), (1e-5, probing.WORKS)):  # engines approximate activations
        monkeypatch.setattr(probing, "_simulated", lambda *a, off=off: lambda: simulated(*a)() * (1 + off))
        assert run_main(call, capsys)[0] == status


@pytest.mark.simulation
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_not_a_number_is_never_right(capsys, monkeypatch, wrong):
    simulated = probing._simulated

    def with_one(*args):
        y = simulated(*args)()
        y[0, 0] = wrong
        return lambda: y

    monkeypatch.setattr(probing, "_simulated", with_one)
    assert run_main(CALL, capsys)[0] == probing.DIFFERS
    reference = probing._reference
    monkeypatch.setattr(probing, "_reference", lambda *a: reference(*a) * wrong)
    assert run_main(CALL, capsys)[0] == probing.DIFFERS


def test_inputs_keep_activations_near_one():
    found = probing._inputs(replace(CALL, tensors=(("x", (64, 4096)), ("w", (4096, 64)), ("bias", (64,)))))
    y = found["x"] @ found["w"]
    assert 0.5 < y.std() < 2 and 0.5 < found["bias"].std() < 2 and 0.5 < found["x"].std() < 2
    again = probing._inputs(replace(CALL, tensors=(("x", (64, 4096)),)))
    assert torch.equal(found["x"], again["x"])


@pytest.mark.simulation
def test_a_kernel_that_raises_does_not_compile(capsys, monkeypatch):
    def broken(*args):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(probing, "_simulated", broken)
    assert probing._main(json.dumps(asdict(CALL))) == probing.REFUSED
    assert "no such instruction" in capsys.readouterr().err


@pytest.fixture
def sdk(monkeypatch):
    """The SDK on a machine: `sdk(instance)`, None for one without a device. `sdk.traced` holds what was compiled."""
    import torch_neuronx
    from optimum.neuron.utils import instance, system

    # The signature in the Neuron documentation.
    def trace(
        func, example_inputs, *_, input_output_aliases=None, compiler_workdir=None, compiler_args=None,
        partitioner_config=None, inline_weights_to_neff=True, cpu_backend=False,
    ):  # fmt: skip
        here.traced.append((example_inputs, compiler_args, cpu_backend))
        return func

    def here(name):
        monkeypatch.setattr(system, "get_neuron_major", lambda: -1 if name is None else 245)
        monkeypatch.setattr(instance, "current_instance_type", lambda: name)

    here.traced = []
    monkeypatch.setattr(torch_neuronx, "trace", trace, raising=False)
    monkeypatch.setattr(probing, "can_compile", lambda: True)
    return here


@pytest.mark.standins
@pytest.mark.parametrize(
    ("machine", "status"), [("trn2", probing.WORKS), ("trn1", probing.COMPILES), (None, probing.COMPILES)]
)
def test_with_the_sdk_a_kernel_is_compiled_and_run_where_its_target_is(capsys, sdk, machine, status):
    sdk(machine)
    found, printed = run_main(replace(CALL, target="trn2", cores=2), capsys)
    ((inputs, arguments, cpu_backend),) = sdk.traced
    assert found == status
    assert [tuple(tensor.shape) for tensor in inputs] == [(3, 40), (40, 24), (24,)]
    assert arguments == ["--auto-cast=none", "--target", "trn2", "--lnc=2"]
    assert cpu_backend == (machine != "trn2")  # without the device, nothing else traces
    assert ("There is no trn2 here" in printed) == (machine != "trn2")
    assert ("relative error" in printed) == (machine == "trn2")


@pytest.mark.standins
def test_what_was_only_compiled_is_compared_where_there_is_the_device(folder, child_runs, started, sdk, monkeypatch):
    monkeypatch.setattr(probing, "_versions", lambda: ["2.21"])
    sdk(None)
    child_runs(f"import os; os._exit({probing.COMPILES})")
    assert probe(CALL) is None and read(folder) == {"call": str(CALL), "failure": None, "compared": False}
    assert probe(CALL) is None and len(started) == 1  # no more can be found out here
    sdk("trn2")
    assert probe(CALL) is None and len(started) == 1  # nor on another device
    sdk("trn1")
    assert probe(CALL) is None and len(started) == 2


@pytest.mark.parametrize(("visible", "number"), [(None, "1"), ("3-4", None)])
def test_the_child_takes_one_core(folder, instead, started, monkeypatch, visible, number):
    instead("/bin/true")
    for name in ("NEURON_RT_VISIBLE_CORES", "NEURON_RT_NUM_CORES", "NEURON_LOGICAL_NC_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    if visible:
        monkeypatch.setenv("NEURON_RT_VISIBLE_CORES", visible)
    probe(replace(CALL, target="trn2", cores=2))
    environment = started[0][1]["env"]
    assert environment.get("NEURON_RT_NUM_CORES") == number
    assert environment.get("NEURON_RT_VISIBLE_CORES") == visible
    assert environment["NEURON_LOGICAL_NC_CONFIG"] == "2"


def test_a_call_says_what_it_is():
    assert str(replace(CALL, cores=2, target="trn2")) == (
        "matmul for trn2 (2 cores), float32, x (3, 40), w (40, 24), bias (24,)"
    )
    assert "(1 core)" in str(CALL)
