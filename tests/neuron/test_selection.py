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
"""Which kernels are tried, in which order, and what happens where none can be used."""

from types import SimpleNamespace

import pytest
import torch

from optimum_neuronmm import NeuronMMError
from optimum_neuronmm.kernels import KernelError, PlanError, Spec, get_machine, mlp_up, simulate
from optimum_neuronmm.kernels.latency import predict
from optimum_neuronmm.neuron import selection
from optimum_neuronmm.neuron.form import SHARDED, Form
from optimum_neuronmm.neuron.selection import calls_of, check_kernels, choose_kernels, predict_calls, rank_kernels


FORM = Form(96, 200, 32, 32, 32)
MACHINE = ("trn1", 1)


@pytest.fixture
def simulator(monkeypatch):
    monkeypatch.setenv("NEURONMM_NKI", "simulator")


@pytest.fixture(autouse=True)
def warnings(monkeypatch):
    found = []
    monkeypatch.setattr(selection.logger, "warning", found.append)
    return found


@pytest.fixture(autouse=True)
def model_of_the_engines(predicted):
    """Its place is taken."""


@pytest.fixture(autouse=True)
def probed(monkeypatch):
    """The kernels that were tried, and in `failures` what is wrong with some."""

    class Probed(list):
        failures = {}

        def __call__(self, call):
            self.append(call)
            failure = self.failures.get(call.kernel)
            return failure and f"{call}: {failure} (log: /somewhere/{call.kernel}.log)"

    found = Probed()
    found.failures = {}
    monkeypatch.setattr(selection, "probe", found)
    return found


def choose(forms=(FORM,), rows=(4,), dtype=torch.float32, setting="auto"):
    return choose_kernels(list(forms), list(rows), dtype, *MACHINE, setting)


def names(calls) -> list[str]:
    return [call.kernel for call in calls]


def ranked(form=FORM, rows=4, dtype=torch.bfloat16) -> list[str]:
    candidates, _ = rank_kernels(form, rows, dtype, *MACHINE)
    return [candidate.kernel for candidate in candidates]


def test_the_fastest_kernel_is_taken(simulator, probed, warnings, predicted):
    assert choose() == {"4": ["mlp_decode"]}
    predicted |= {"mlp": 0.5}
    assert choose() == {"4": ["mlp"]}
    assert names(probed) == ["mlp_decode", "mlp"]
    assert warnings == []


def test_a_kernel_that_fails_leaves_the_next(simulator, probed, warnings, predicted):
    predicted |= {"mlp": 0.5}
    probed.failures = {"mlp": "it failed"}
    assert choose() == {"4": ["mlp_decode"]}
    probed.failures |= {"mlp_decode": "it failed"}
    assert choose() == {"4": ["mlp_two_kernels"]}
    assert names(probed) == ["mlp", "mlp_decode", "mlp", "mlp_decode", "mlp_up", "low_rank_fused"]
    assert warnings == []


def test_the_time_of_all_its_calls_counts(predicted):
    predicted |= {"mlp": 20.0, "mlp_up": 3.0, "low_rank_fused": 4.0}
    candidates, refusals = rank_kernels(FORM, 130, torch.bfloat16, *MACHINE)
    assert [(c.kernel, c.prediction.seconds) for c in candidates] == [
        ("mlp_two_kernels", 7.0),
        ("mlp", 20.0),
        ("matmul", 50.0),
    ]
    assert names(candidates[0].calls) == ["mlp_up", "low_rank_fused"]
    assert list(refusals) == ["mlp_decode"] and "128 rows, got 130" in str(refusals["mlp_decode"])


def test_a_prediction_that_is_void_comes_last(monkeypatch):
    def predict_calls(calls):
        return SimpleNamespace(seconds=len(calls), spills=calls[0].kernel == "mlp")

    monkeypatch.setattr(selection, "predict_calls", predict_calls)
    assert ranked(rows=130) == ["mlp_two_kernels", "matmul", "mlp"]


def test_what_is_left_to_the_compiler_is_counted(predicted):
    """g and u read and h written, at the bandwidth of trn1, and two transfers that start."""
    left = 3 * 128 * 200 * 2 / 221e9 + 2 * get_machine("trn1").dma_start
    calls = len(calls_of(FORM, "matmul", 128, torch.bfloat16, *MACHINE))
    for seconds, first in ((0.44 - 1.01 * left, "matmul"), (0.44 - 0.99 * left, "mlp_decode")):
        predicted |= {"matmul": seconds / calls, "mlp_decode": 0.44, "mlp": 0.9, "mlp_up": 0.9}
        found = rank_kernels(FORM, 128, torch.bfloat16, *MACHINE)[0]
        assert found[0].kernel == first
        (separate,) = [c for c in found if c.kernel == "matmul"]
        assert separate.left == pytest.approx(left) and separate.seconds == pytest.approx(seconds + left)


def test_ranks_and_cores_share_what_is_left_to_the_compiler(predicted):
    one = {"form": FORM, "target": "trn2", "cores": 1}
    left = {
        name: {c.kernel: c for c in rank_kernels(rows=64, dtype=torch.bfloat16, **{**one, **how})[0]}["matmul"].left
        for name, how in {"one": {}, "cores": {"cores": 2}, "ranks": {"form": Form(96, 200, 32, 32, 32, tp=2)}}.items()
    }
    starts = 2 * get_machine("trn2").dma_start
    assert (
        left["one"] - starts
        == pytest.approx(2 * (left["cores"] - starts))
        == pytest.approx(2 * (left["ranks"] - starts))
    )


def test_of_many_rows_separate_products_are_whole(predicted):
    predicted |= {"matmul": 0.01, "gated_matmul": 0.01}
    found = {rows: {c.kernel: c for c in rank_kernels(FORM, rows, torch.bfloat16, *MACHINE)[0]} for rows in (128, 129)}
    assert not found[128]["matmul"].complete and found[129]["matmul"].complete
    assert all(c.complete for rows in found for name, c in found[rows].items() if name != "matmul")


@pytest.mark.parametrize("form", [FORM, Form(96, 200, None, None, None), Form(96, 200, 32, 32, 32, shared=True)])
def test_calls_are_predicted_as_the_kernels_are(form, monkeypatch):
    monkeypatch.undo()
    for kernel, rows in (("mlp", 256), ("mlp_two_kernels", 2), ("matmul", 130)):
        calls = calls_of(form, kernel, rows, torch.bfloat16, "trn2", 2)
        found = predict_calls(calls)
        assert found.kernel == " + ".join(names(calls)) and len(found.plans) == len(calls)
        assert found.machine.name == "trn2" and {plan.cores for plan in found.plans} == {2}
        assert found.seconds >= found.floor > 0
    specs = {
        name: Spec(shape)
        for name, shape in calls_of(form, "mlp_two_kernels", 130, torch.bfloat16, *MACHINE)[0].tensors
    }
    first = {**dict.fromkeys(mlp_up.absent), **specs}
    both = predict_calls(calls_of(form, "mlp_two_kernels", 130, torch.bfloat16, *MACHINE))
    assert both.seconds > predict(mlp_up, **first, target="trn1", cores=1).seconds
    assert both.flops > simulate(mlp_up, **first, dry=True).trace.flops


def test_dense_and_factored_layers_are_ranked_by_the_model_itself(monkeypatch):
    monkeypatch.undo()
    dense, factored = Form(2048, 8192, None, None, None), Form(2048, 8192, 1280, 1280, 1280)
    for rows in (1, 512):
        (slow, *_), (fast, *_) = (rank_kernels(form, rows, torch.bfloat16, *MACHINE)[0] for form in (dense, factored))
        assert fast.prediction.seconds < slow.prediction.seconds
        assert fast.kernel in ("mlp_decode", "mlp") and fast.prediction.seconds >= fast.prediction.floor


def test_a_kernel_without_a_plan_is_not_tried(simulator, probed):
    assert choose(rows=[129]) == {"129": ["mlp"]}
    assert names(probed) == ["mlp"]


def test_plans_are_made_for_the_machine_and_its_cores(simulator, monkeypatch):
    asked = []
    monkeypatch.setattr(selection, "calls_of", lambda *a: asked.append(a[3:]) or [])
    monkeypatch.setattr(selection, "kernels_for", lambda form: ("mlp",))
    choose_kernels([FORM], [4], torch.bfloat16, "trn2", 2, "auto")
    assert asked == [(torch.bfloat16, "trn2", 2)]


@pytest.mark.parametrize("error", [PlanError, KernelError])
def test_an_error_of_the_planner_leaves_the_next(simulator, probed, monkeypatch, error):
    plan = selection.calls_of

    def calls(form, kernel, *rest):
        if kernel == "mlp_decode":
            raise error("too large")
        return plan(form, kernel, *rest)

    monkeypatch.setattr(selection, "calls_of", calls)
    assert choose() == {"4": ["mlp"]}


def test_auto_falls_back_to_plain_products_and_says_why(simulator, probed, warnings):
    probed.failures = dict.fromkeys(("mlp_decode", "mlp", "mlp_up", "matmul"), "it failed with status 1")
    assert choose(rows=[4, 130]) == {"4": [None], "130": [None]}
    first, second = warnings
    assert "Plain matrix products" in first and "4 rows" in first and str(FORM) in first
    for kernel in ("mlp_decode", "mlp", "mlp_up", "matmul"):
        assert f"/somewhere/{kernel}.log" in first
    assert "x (4, 96)" in first and "130 rows" in second and "x (130, 96)" in second
    assert "low_rank_fused" not in names(probed)  # of a kernel with a part that fails, no more is tried


def test_nki_insists_and_says_why(simulator, probed):
    probed.failures = dict.fromkeys(("mlp_decode", "mlp", "mlp_up", "matmul"), "it failed with status 1")
    with pytest.raises(NeuronMMError, match="kernel='nki' was asked for") as error:
        choose(setting="nki")
    for part in ("x (4, 96)", "/somewhere/mlp.log", "4 rows", "kernel='auto' or 'compiler'"):
        assert part in str(error.value)


@pytest.mark.parametrize(("dtype", "setting"), [(torch.float32, "compiler"), (torch.float16, "compiler")])
def test_the_compiler_tries_nothing(simulator, probed, warnings, monkeypatch, dtype, setting):
    monkeypatch.setattr(selection, "calls_of", None)
    assert choose(dtype=dtype, setting=setting) == {"4": [None]}
    assert (probed, warnings) == ([], [])


def test_half_precision_has_no_kernels(simulator, probed, warnings):
    assert choose(dtype=torch.float16) == {"4": [None]}
    assert probed == [] and "bfloat16 or float32, not in float16" in warnings[0]
    with pytest.raises(NeuronMMError, match="kernel='nki' was asked for, but the kernels .* not in float16"):
        choose(dtype=torch.float16, setting="nki")


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_activation_that_the_kernels_do_not_have(simulator, probed, warnings, activation):
    form = Form(96, 200, 32, 32, 32, activation=activation)
    assert choose([form]) == {"4": [None]}
    assert probed == []
    assert f"no activation {activation!r}, only silu, gelu_pytorch_tanh" in warnings[0]
    with pytest.raises(NeuronMMError, match=f"no activation '{activation}'"):
        choose([form], setting="nki")


@pytest.mark.standins
def test_without_nki(probed, warnings, monkeypatch):
    monkeypatch.delenv("NEURONMM_NKI", raising=False)
    assert choose() == {"4": [None]}
    assert probed == [] and "no working neuronxcc.nki is installed" in warnings[0]
    assert check_kernels("auto", None) == "no working neuronxcc.nki is installed"
    for found in (lambda: choose(setting="nki"), lambda: check_kernels("nki", None)):
        with pytest.raises(
            NeuronMMError, match="kernel='nki' .* no working neuronxcc.nki .* kernel='auto' or 'compiler'"
        ):
            found()


@pytest.mark.standins
@pytest.mark.parametrize("value", ["neuronxcc", "nothing"])
def test_an_nki_that_is_not_there(monkeypatch, value):
    monkeypatch.setenv("NEURONMM_NKI", value)
    with pytest.raises(NeuronMMError, match=f"NEURONMM_NKI='?{value}"):
        check_kernels("auto", None)


def test_kernels_can_be_checked_before_anything_is_known(simulator):
    assert check_kernels("nki", None) is check_kernels("nki", torch.bfloat16) is None


def test_a_table_of_graphs_and_layers(simulator, probed):
    other = Form(96, 200, None, 32, 32)
    table = choose([FORM, None, other, FORM], rows=[129, 4])
    assert table == {"129": ["mlp", None, "mlp", "mlp"], "4": ["mlp_decode", None, "mlp_decode", "mlp_decode"]}
    assert len(probed) == 4  # equal layers once


def test_calls_name_all_that_decides_a_kernel():
    form = Form(96, 200, 32, None, 16, biased=True, activation="gelu_pytorch_tanh", tp=2)
    (call,) = calls_of(form, "mlp", 4, torch.bfloat16, "trn2", 2)
    assert dict(call.tensors) == {
        "x": (4, 96),
        "gate": (96, 32),
        "gate_v": (32, 100),
        "up": (96, 100),
        "down": (100, 16),
        "down_v": (16, 96),
        "gate_bias": (100,),  # down's is added after the exchange
        "up_bias": (100,),
    }
    assert dict(call.settings) == {"activation": "gelu_tanh"}
    assert (call.kernel, call.dtype, call.target, call.cores) == ("mlp", "bfloat16", "trn2", 2)


def test_one_rank_has_the_bias_of_down_in_its_kernel():
    (call,) = calls_of(Form(96, 200, 32, 32, 16, biased=True), "mlp", 4, torch.float32, *MACHINE)
    assert dict(call.tensors)["down_bias"] == (96,)


def test_calls_of_the_sharded_layout():
    form = Form(96, 203, 30, 21, 17, tp=4, layout=SHARDED)
    few = calls_of(form, "matmul", 4, torch.float32, *MACHINE)
    assert [tuple(dict(call.tensors).values()) for call in few] == [
        ((4, 96), (96, 8 + 6)),
        ((4, 32), (32, 51)),
        ((4, 24), (24, 51)),
        ((4, 51), (51, 20)),
        ((4, 5), (5, 96)),
    ]
    many = calls_of(form, "matmul", 130, torch.float32, *MACHINE)
    assert names(many) == ["matmul", "gated_matmul", "matmul", "matmul"]
    assert dict(many[2].tensors)["x"] == (51, 130) and dict(many[2].settings) == {"x_transposed": True}


def test_more_rows_than_the_kernel_for_few_takes():
    with pytest.raises(PlanError):
        calls_of(FORM, "mlp_decode", 129, torch.float32, *MACHINE)


def test_no_memory_is_taken_to_plan():
    huge = Form(8192, 28672, 4096, 4096, 4096, tp=8, layout=SHARDED)
    assert [dict(c.tensors)["x"] for c in calls_of(huge, "matmul", 1, torch.bfloat16, *MACHINE)][0] == (1, 8192)


def test_the_simulator_is_no_part_of_a_compiled_model(simulator, monkeypatch):
    monkeypatch.setattr(selection, "find_neuronxcc", lambda: ("nki", "nl", "nisa"))
    for setting in ("auto", "nki"):
        with pytest.raises(NeuronMMError, match="NEURONMM_NKI=simulator computes kernels on the CPU.*unset it"):
            selection.check_kernels(setting, torch.bfloat16)
