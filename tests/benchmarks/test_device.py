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
"""`benchmarks.device` over a stand-in of `nki.benchmark`: what it asks of it, what it keeps, and how it goes on."""

import glob
import inspect
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from benchmarks import device, device_cases, device_measure
from benchmarks.device_file import FORMAT, RUNNING, anonymous
from benchmarks.published import CALIBRATION, PUBLISHED
from optimum_neuronmm.kernels import KERNELS, Spec, low_rank_fused, mlp_decode, mlp_two_kernels
from optimum_neuronmm.kernels.dialect import find_neuronxcc


ROOT = Path(__file__).resolve().parents[2]
DECODE = ["--kernels", "mlp_decode", "--rows", "1", "16"]
HOST = "ip-10-0-0-7"
NAMES = ["mlp_decode Llama-3.2-1B at 0.2 M=1", "mlp_decode Llama-3.2-1B at 0.2 M=16"]


class Nki:
    """Binds every call as `nki.jit` would, and answers with percentiles made from how many calls there were."""

    def __init__(self):
        self.calls: list[SimpleNamespace] = []
        self.raises: dict[int, BaseException] = {}  # by the number of the call
        self.answer = {p: 1000.0 + p for p in (0, 1, 10, 25, 50, 90, 99, 100)}

    def benchmark(self, kernel=None, **options):
        assert kernel is None
        return lambda jitted: self.decorated(jitted, options)

    def decorated(self, jitted, options):
        def timed(*args, **kwargs):
            number = len(self.calls)
            bound = inspect.signature(jitted.body).bind(*args, **kwargs)
            self.calls.append(SimpleNamespace(name=jitted.body.__name__, options=options, arguments=bound.arguments))
            if number in self.raises:
                raise self.raises[number]
            latency = SimpleNamespace(get_latency_percentile=lambda p: self.answer[p] + 100 * number)
            timed.benchmark_result = SimpleNamespace(nc_latency=latency)

        return timed


@pytest.fixture
def nki(monkeypatch, tmp_path):
    """A machine with an SDK, a device and its tools; the files go to tmp_path."""
    standin = Nki()
    package, module, language, isa = (
        ModuleType(f"neuronxcc{name}") for name in ("", ".nki", ".nki.language", ".nki.isa")
    )
    module.benchmark, module.jit = standin.benchmark, lambda body: SimpleNamespace(body=body)
    language.ndarray = isa.nc_matmul = lambda *args, **kwargs: None
    language.bfloat16 = ml_dtypes.bfloat16
    language.static_cast = lambda array, dtype: np.empty(array.shape, dtype)
    for part in (package, module, language, isa):
        monkeypatch.setitem(sys.modules, part.__name__, part)
    monkeypatch.setattr(device_measure.glob, "glob", lambda pattern: ["/dev/neuron0"])
    monkeypatch.setattr(device_measure.shutil, "which", lambda name, path: f"{path}/{name}")
    monkeypatch.setattr(device_measure, "PRODUCT", tmp_path / "product")
    (tmp_path / "product").write_text("trn1.2xlarge\n")
    monkeypatch.setattr("socket.gethostname", lambda: HOST)
    monkeypatch.chdir(tmp_path)
    for kernel in KERNELS.values():
        kernel.__dict__.pop("compiled", None)
    yield standin
    for kernel in KERNELS.values():
        kernel.__dict__.pop("compiled", None)


def written(path="device.json") -> dict:
    return json.loads(Path(path).read_text())


def outcomes() -> dict[str, str]:
    return {
        r["case"]: r.get("error", r.get("measured", {}).get("microseconds", {}).get("50")) for r in written()["cases"]
    }


# What is measured


def test_a_kernel_gets_its_tensors_its_plan_and_the_iterations(nki):
    device.main([*DECODE, "--warmup", "3", "--iters", "7"])
    assert [call.name for call in nki.calls] == ["mlp_decode", "mlp_decode"]
    for call, rows in zip(nki.calls, (1, 16), strict=True):
        shapes = dict(
            x=(rows, 2048), gate=(2048, 1280), gate_v=(1280, 8192), up=(2048, 1280), up_v=(1280, 8192),
            down=(8192, 1280), down_v=(1280, 2048),
        )  # fmt: skip
        arrays = {name: value for name, value in call.arguments.items() if isinstance(value, np.ndarray)}
        assert {name: array.shape for name, array in arrays.items()} == shapes
        assert {array.dtype for array in arrays.values()} == {np.dtype(ml_dtypes.bfloat16)}
        specs = {name: Spec(shape) for name, shape in shapes.items()}
        assert call.arguments["plan"] == mlp_decode.plan(**specs, target="trn1")
        assert call.options == {"warmup": 3, "iters": 7}


def test_options_restrict_the_plan(nki):
    device.main(["--kernels", "low_rank_fused", "--rows", "4096"])
    plans = {call.arguments["plan"].B_M for call in nki.calls if call.arguments["x"].shape == (4096, 7168)}
    assert plans == {128, 512, 1024}
    traffic = [r["predicted"]["HBM MB"] for r in written()["cases"] if r["tensors"]["x"] == [4096, 7168]]
    assert traffic == pytest.approx([6921, 1887, 1049], abs=1)


def test_the_kernels_of_a_pipeline_run_alone(nki):
    device.main(["--kernels", "mlp_two_kernels/mlp_up", "mlp_two_kernels/low_rank_fused", "--rows", "16"])
    up, down = nki.calls
    assert (up.name, down.name) == ("mlp_up", "low_rank_fused")
    assert up.arguments["activation"] == "silu"
    assert down.arguments["x"].shape == (8192, 16) and down.arguments["x_transposed"] is True


def test_a_plain_function_runs_without_a_plan(nki):
    device.main(["--kernels", "tutorial_blocked"])
    device.main(["--kernels", "tutorial_blocked"])
    (call,) = nki.calls  # the rerun takes what the file has
    assert call.name == "tutorial_blocked"
    assert {name: array.shape for name, array in call.arguments.items()} == {"xT": (8192, 4096), "w": (8192, 8192)}
    (record,) = written()["cases"]
    assert record["plan"] is None and record["measured"]["microseconds"]["50"] == 1050.0
    assert record["predicted"]["ms"] == pytest.approx(6.97, rel=0.02)


def test_all_that_the_model_was_calibrated_on_is_measured():
    found = {
        (case.kernel_name, tuple(case.tensors.values()), tuple(case.options.items())) for case in device_cases.cases()
    }
    rows = [row for row in PUBLISHED if row.used == CALIBRATION]
    assert {(row.kernel, tuple(row.tensors), row.options) for row in rows} <= found


def test_every_case_has_a_name_and_a_file_name_of_its_own():
    cases = device_cases.cases()
    assert len({case.name for case in cases}) == len({case.file_name for case in cases}) == len(cases)
    named = {case.kernel_name.partition("/")[0] for case in cases}
    assert named >= {low_rank_fused.name, "matmul", "mlp", mlp_decode.name, mlp_two_kernels.name}


def test_the_compiled_kernels_are_kept_where_asked(nki, tmp_path):
    device.main([*DECODE, "--neff", "kept"])
    paths = [Path(call.options["save_neff_name"]) for call in nki.calls]
    assert [path.name for path in paths] == [f"mlp_decode-Llama-3.2-1B-at-0.2-M={rows}.neff" for rows in (1, 16)]
    assert {path.parent for path in paths} == {tmp_path / "kept"} and (tmp_path / "kept").is_dir()


# What is printed and written


def test_measured_stands_beside_predicted(nki, capsys):
    device.main(DECODE)
    lines = capsys.readouterr().out.splitlines()
    for name, milliseconds, record in zip(NAMES, (1.05, 1.15), written()["cases"], strict=True):
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        predicted = record["predicted"]["ms"]
        values = [
            f"{predicted:.3f}",
            f"{milliseconds:.3f}",
            f"{milliseconds + 0.049:.3f}",
            f"{milliseconds / predicted:.2f}",
        ]
        assert line.split()[-len(line.removeprefix(name).split()) :][:4] == values
    ratios = [1.05 / written()["cases"][0]["predicted"]["ms"], 1.15 / written()["cases"][1]["predicted"]["ms"]]
    assert f"{min(ratios):.2f} to {max(ratios):.2f}, median {sum(ratios) / 2:.2f}, of 2 cases" in "\n".join(lines)
    assert lines[0] == "predicted for one core of trn1; ms"
    for number, note in enumerate(written()["cases"][0]["predicted"]["notes"], 1):
        assert f"({number}) {note}" in lines


def test_the_form_of_the_file(nki):
    device.main(["--kernels", "mlp_decode", "--rows", "1", "--json", "mine.json"])
    found = written("mine.json")
    (record,) = found.pop("cases")
    assert found.pop("versions").keys() >= {"python", "numpy", "optimum-neuronmm"}
    assert found == {
        "format": FORMAT, "instance_type": "trn1.2xlarge", "machine": "trn1", "cores": 1, "warmup": 10, "iters": 100,
    }  # fmt: skip
    assert record["measured"] == {"microseconds": {str(p): 1000.0 + p for p in (0, 1, 10, 25, 50, 90, 99, 100)}}
    assert record["tensors"]["gate_v"] == [1280, 8192] and record["dtype"] == "bfloat16"
    assert record["plan"]["kernel"] == "mlp_decode" and record["plan"]["machine"] == "trn1"
    assert record["predicted"]["ms"] >= record["predicted"]["floor ms"] > 0
    assert record["predicted"]["bound by"] in record["predicted"]["busy ms"]
    assert "error" not in record


# What goes wrong


def test_a_failing_case_is_kept_with_its_error_and_the_next_one_runs(nki, capsys):
    nki.raises = {0: RuntimeError(f"Compilation of {Path.home()}/x/k.py failed on {HOST}")}
    with pytest.raises(SystemExit, match="cases failed: 1. `--again failed` tries them again"):
        device.main(DECODE)
    assert outcomes() == {NAMES[0]: "RuntimeError: Compilation of PATH failed on HOST", NAMES[1]: 1150.0}
    assert "failed: RuntimeError: Compilation of PATH failed on HOST" in capsys.readouterr().out


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), -1.0])
def test_percentiles_that_are_no_times_are_an_error(nki, value):
    nki.answer[50] = value
    with pytest.raises(SystemExit):
        device.main(DECODE)
    assert "expected microseconds above 0" in outcomes()[NAMES[0]]


def test_a_compiler_that_exits_is_an_error_of_its_case(nki):
    nki.raises = {0: SystemExit(70)}
    with pytest.raises(SystemExit, match="cases failed: 1"):
        device.main(DECODE)
    assert outcomes() == {NAMES[0]: "SystemExit: 70", NAMES[1]: 1150.0}


def test_an_interrupted_case_is_not_in_the_file(nki):
    nki.raises = {1: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        device.main(DECODE)
    assert outcomes() == {NAMES[0]: 1050.0}


def test_an_interruption_costs_no_timing_of_before(nki):
    device.main(DECODE)
    nki.raises = {2: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        device.main([*DECODE, "--again"])
    assert outcomes() == {NAMES[0]: 1050.0, NAMES[1]: 1150.0}


def test_a_case_that_took_the_process_with_it_is_not_tried_at_every_rerun(nki, monkeypatch):
    class Killed(BaseException):
        pass

    nki.raises = {0: Killed()}  # nothing catches it, as nothing catches a signal
    with pytest.raises(Killed):
        device.main(DECODE)
    assert outcomes() == {NAMES[0]: RUNNING}
    with pytest.raises(SystemExit, match="cases failed: 1"):
        device.main(DECODE)
    assert outcomes() == {NAMES[0]: RUNNING, NAMES[1]: 1150.0}


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("no such file: /home/me/.cache/k.neff (2)", "no such file: PATH (2)"),
        ("'~/x/y.py', ../z.py and ./w.py", "'PATH', PATH and PATH"),
        ("222 GB/s and/or 1/2", "222 GB/s and/or 1/2"),
        (f"on {HOST}: {HOST}s", f"on HOST: {HOST}s"),
        ("by someone-here, USER", "by USER, USER"),
        ("x" * 700, "x" * 600 + "..."),
    ],
)
def test_messages_hold_no_paths_and_no_hosts(message, kept, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: HOST)
    monkeypatch.setattr("getpass.getuser", lambda: "someone-here")
    assert anonymous(message) == kept


# Again


def test_a_rerun_skips_what_the_file_has(nki, capsys):
    device.main(["--kernels", "mlp_decode", "--rows", "1"])
    device.main(DECODE)
    device.main(DECODE)
    assert [len(call.arguments["x"]) for call in nki.calls] == [1, 16]
    assert outcomes() == {NAMES[0]: 1050.0, NAMES[1]: 1150.0}
    assert capsys.readouterr().out.count("of 2 cases") == 2  # what was skipped is shown


def test_a_rerun_measures_everything_again_or_what_failed(nki):
    nki.raises = {1: RuntimeError("no")}
    with pytest.raises(SystemExit):
        device.main(DECODE)
    with pytest.raises(SystemExit):
        device.main(DECODE)  # an error is kept, too
    assert len(nki.calls) == 2
    device.main([*DECODE, "--again", "failed"])
    assert outcomes() == {NAMES[0]: 1050.0, NAMES[1]: 1250.0}
    device.main([*DECODE, "--again"])
    assert outcomes() == {NAMES[0]: 1350.0, NAMES[1]: 1450.0}


def test_another_plan_is_measured_anew(nki):
    device.main(DECODE)
    changed = written()
    changed["cases"][0]["plan"]["chunk"] += 128
    Path("device.json").write_text(json.dumps(changed))
    device.main(DECODE)
    assert outcomes() == {NAMES[0]: 1250.0, NAMES[1]: 1150.0}


@pytest.mark.parametrize("arguments", [["--iters", "50"], ["--warmup", "1"]])
def test_a_file_of_other_conditions_is_refused(nki, arguments):
    device.main(DECODE)
    with pytest.raises(SystemExit, match="device.json was measured with .* and here is .*: choose another file"):
        device.main([*DECODE, *arguments])
    Path("product").write_text("trn1.32xlarge")
    with pytest.raises(SystemExit, match="'instance_type': 'trn1.2xlarge'.* and here is .*'trn1.32xlarge'"):
        device.main(DECODE)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "cannot be read"), ("[]", "was not written by this script"), ('{"format": 1}', "was not written by this")],
)
def test_another_file_is_not_overwritten(nki, text, message):
    Path("device.json").write_text(text)
    with pytest.raises(SystemExit, match=message):
        device.main(DECODE)
    assert Path("device.json").read_text() == text and not nki.calls


# Where it runs


def test_without_the_sdk_it_says_what_is_missing(nki, monkeypatch, capsys):
    monkeypatch.setattr(device_measure, "find_neuronxcc", lambda: None)
    monkeypatch.setattr(device_measure.glob, "glob", lambda pattern: [])
    monkeypatch.setattr(device_measure.shutil, "which", lambda name, path: None)
    with pytest.raises(
        SystemExit, match="neuronx-cc 2.21 .*; a Neuron device .*; `neuron-bench`.*`--dry` prints"
    ) as error:
        device.main(DECODE)
    assert str(error.value).startswith("error: kernels cannot be measured here")
    assert capsys.readouterr().out == "" and not Path("device.json").exists()


def test_an_sdk_without_benchmark_is_said_so(nki):
    del sys.modules["neuronxcc.nki"].benchmark
    with pytest.raises(SystemExit, match="Missing: `neuronxcc.nki.benchmark`, which this neuronx-cc does not have"):
        device.main(DECODE)


def test_the_target_is_that_of_the_instance(nki):
    Path("product").write_text("inf2.8xlarge")
    device.main(DECODE)
    assert {call.arguments["plan"].machine for call in nki.calls} == {"inf2"}
    assert written()["machine"] == "inf2" and written()["cases"][0]["plan"]["machine"] == "inf2"
    with pytest.raises(SystemExit, match="--target trn1, but this is inf2.8xlarge"):
        device.main([*DECODE, "--target", "trn1"])
    Path("product").write_text("Standard PC")
    with pytest.raises(SystemExit, match="the instance type is not known here: give --target, one of trn1, inf2"):
        device.main(DECODE)
    device.main([*DECODE, "--target", "trn1", "--json", "other.json"])
    assert written("other.json")["instance_type"] is None and written("other.json")["machine"] == "trn1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--kernels", "mlp", "nonsense"],
            "unknown kernel nonsense: expected some of low_rank_fused, matmul, .*mlp_up, tutorial_blocked$",
        ),
        (["--rows", "7"], r"no case has \[7\] rows and one of these kernels: rows are 1, 16, 128, 512, 1024, 4096"),
        (["--kernels", "mlp_decode", "--rows", "512"], r"no case has \[512\] rows"),
    ],
)
def test_what_there_is_no_case_for(nki, arguments, message):
    with pytest.raises(SystemExit, match=message):
        device.main(arguments)


@pytest.mark.parametrize("option", ["--iters", "--warmup"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many"])
def test_iterations_are_counts(option, value, capsys):
    with pytest.raises(SystemExit):
        device.main([option, value])
    assert f"argument {option}: expected" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--json", "missing/device.json"], ["--neff", "product"]])
def test_places_that_cannot_be_written(nki, option):
    with pytest.raises(SystemExit, match=f"^error: .*{option[1]}"):
        device.main([*DECODE, *option])
    assert not nki.calls


def test_dry_prints_the_predictions_anywhere():
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.device", "--dry", "--target", "trn2", *DECODE],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    lines = run.stdout.splitlines()
    assert lines[0] == "predicted for one core of trn2; ms"
    assert [line.split("  ")[0] for line in lines if line.startswith("mlp")] == NAMES
    assert "measured" not in run.stdout and "trn2: no published timing" in run.stdout


@pytest.mark.hardware
@pytest.mark.skipif(find_neuronxcc() is None, reason="the Neuron SDK (neuronxcc.nki) is not installed")
@pytest.mark.skipif(not glob.glob(device_measure.DEVICES), reason="no Neuron device on this machine")
def test_on_a_device(tmp_path):
    path = tmp_path / "device.json"
    device.main(["--kernels", "mlp_decode", "--rows", "1", "--json", str(path)])
    (record,) = written(path)["cases"]
    percentiles = list(record["measured"]["microseconds"].values())
    assert percentiles == sorted(percentiles)
    assert percentiles[0] > 500 * record["predicted"]["floor ms"]  # half of what no schedule can beat, in microseconds
