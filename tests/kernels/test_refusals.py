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
"""Calls that kernels refuse, and what they say."""

import functools
import types

import ml_dtypes
import numpy as np
import pytest
import torch

from optimum_neuronmm.kernels import KernelError, PlanError, Spec


pytestmark = pytest.mark.simulation

MLPS = ("mlp_up", "mlp", "mlp_decode", "mlp_two_kernels")


def refused(bench, kernel, tensors, error, match, **options):
    with pytest.raises(error, match=match):
        bench.package.simulate(bench.kernel(kernel), **tensors, **options)


def small(bench, kernel, **options):
    return bench.tensors(kernel, 4, 8, 2, 10, **options)


@pytest.mark.parametrize(
    ("kernel_of", "tensor", "shape", "message"),
    [
        ("matmul_tiled", "w", (9, 5), "rows of X transposed and rows of W must agree, got 8 and 9"),
        ("matmul_blocked", "w", (9, 5), "rows of X transposed and rows of W must agree, got 8 and 9"),
        ("matmul", "w", (9, 5), "columns of X and rows of W must agree, got 8 and 9"),
        ("gated_matmul", "x_up", (5, 2), "rows of x gate and x up must agree, got 4 and 5"),
        ("gated_matmul", "gate", (9, 10), "columns of x gate and rows of gate must agree, got 8 and 9"),
        ("gated_matmul", "up", (3, 10), "columns of x up and rows of up must agree, got 2 and 3"),
        ("gated_matmul", "up", (2, 11), "columns of gate and up must agree, got 10 and 11"),
        ("low_rank_sequential", "u", (9, 2), "columns of X and rows of U must agree, got 8 and 9"),
        ("low_rank_naive", "v", (3, 10), "columns of U and rows of V must agree, got 2 and 3"),
        ("low_rank_fused", "v", (3, 10), "columns of U and rows of V must agree, got 2 and 3"),
        ("mlp_up", "gate", (9, 2), "columns of X and rows of gate must agree, got 8 and 9"),
        ("mlp_up", "up_v", (4, 10), "columns of up and rows of up.v must agree, got 3 and 4"),
        ("mlp_up", "up_v", (3, 11), "must agree, got 10 and 11"),
        ("mlp", "down", (9, 2), "rows of down must agree, got 10 and 9"),
        ("mlp", "down_v", (2, 9), "must agree, got 8 and 9"),
        ("mlp_decode", "down_v", (3, 8), "columns of down and rows of down.v must agree, got 2 and 3"),
        ("mlp_two_kernels", "gate_v", (2, 11), "must agree, got 11 and 10"),
    ],
)
def test_dimensions_that_disagree(bench, kernel_of, tensor, shape, message):
    tensors = {**small(bench, kernel_of), tensor: np.ones(shape, ml_dtypes.bfloat16)}
    refused(bench, kernel_of, tensors, PlanError, message)
    assert issubclass(PlanError, KernelError)


@pytest.mark.parametrize("kernel_of", ["matmul", "gated_matmul", "low_rank_fused", *MLPS])
def test_a_bias_of_another_length_or_form(bench, kernel_of):
    tensors = small(bench, kernel_of, bias=True)
    for bias in (key for key in tensors if key.endswith("bias")):
        size = len(tensors[bias])
        refused(bench, kernel_of, {**tensors, bias: np.ones(size + 1, ml_dtypes.bfloat16)}, PlanError, "must agree")
        refused(
            bench, kernel_of, {**tensors, bias: np.ones((size, 1), ml_dtypes.bfloat16)}, PlanError, "must be a vector"
        )


def test_batches_are_to_be_flattened(bench, kernel):
    tensors = small(bench, kernel)
    for x in (key for key in tensors if key.startswith("x")):
        message = f"{x} must be a matrix.*flatten batch and sequence"
        refused(bench, kernel, {**tensors, x: tensors[x][None]}, PlanError, message)


def test_empty_tensors(bench, kernel):
    refused(bench, kernel, bench.specs(kernel, 4, 0, 2, 10), PlanError, "dimensions must be positive", dry=True)


def test_data_types_are_not_mixed(bench, kernel):
    tensors = small(bench, kernel)
    for key in (key for key, value in tensors.items() if value is not None):
        mixed = {**tensors, key: tensors[key].astype(np.float32)}
        refused(bench, kernel, mixed, KernelError, "all tensors must be bfloat16, or all float32")


@pytest.mark.parametrize("dtype", ["float64", "float16", "int8"])
def test_other_data_types(bench, kernel, dtype):
    tensors = {k: None if v is None else v.astype(dtype) for k, v in small(bench, kernel).items()}
    refused(bench, kernel, tensors, KernelError, f"all tensors must be bfloat16, or all float32, got .*{dtype}")


def test_tensors_that_are_left_out(bench, kernel):
    tensors = {key: value for key, value in small(bench, kernel).items() if value is not None}
    for key in tensors:
        others = {other: value for other, value in tensors.items() if other != key}
        refused(bench, kernel, others, KernelError, f"{kernel}: missing {key}")
    refused(bench, kernel, {}, KernelError, f"{kernel}: missing {', '.join(tensors)}")


def test_tensors_that_are_none_but_may_not_be(bench, kernel):
    tensors = small(bench, kernel)
    for key in ("x", "xT", "x_gate", "x_up", "w", "u", "v", "gate", "up", "down"):
        if key in tensors and key not in bench.kernel(kernel).absent:
            refused(bench, kernel, {**tensors, key: None}, KernelError, rf"missing {key}\b")


@pytest.mark.parametrize("mlp", MLPS)
def test_an_up_that_is_none_where_no_u_serves_both(bench, mlp):
    tensors = small(bench, mlp, factored="fsf")
    message = "where up is None, gate's U serves both and gate_v and up_v are needed"
    for missing in ("gate_v", "up_v"):
        refused(bench, mlp, {**tensors, missing: None}, PlanError, message)
    without = {key: value for key, value in tensors.items() if key != "up"}
    refused(bench, mlp, without, KernelError, f"{mlp}: missing up$")


@pytest.mark.parametrize("mlp", MLPS)
def test_a_shared_u_that_does_not_fit_both(bench, mlp):
    tensors = {**small(bench, mlp, factored="fsf"), "up_v": np.ones((3, 10), ml_dtypes.bfloat16)}
    refused(bench, mlp, tensors, PlanError, "columns of gate and rows of up v must agree, got 2 and 3")


def test_things_that_are_no_tensors(bench, kernel):
    tensors = small(bench, kernel)
    x = next(iter(tensors))
    refused(bench, kernel, {**tensors, x: [[1.0]]}, KernelError, f"{x} must be an array or a Spec, got list")
    refused(bench, kernel, {**tensors, "colour": 1}, KernelError, "unexpected keyword argument 'colour'")
    specs = bench.specs(kernel, 4, 8, 2, 10)
    refused(bench, kernel, specs, KernelError, "expected a NumPy array or a torch tensor, got Spec")


@pytest.mark.parametrize("mlp", (*MLPS, "gated_matmul"))
def test_an_unknown_activation(bench, mlp):
    refused(bench, mlp, small(bench, mlp), KernelError, "activation.*'relu'.*silu.*gelu_tanh", activation="relu")


def test_decoding_takes_at_most_128_rows(bench):
    bench.run("mlp_decode", bench.tensors("mlp_decode", 128, 8, 2, 10))
    refused(bench, "mlp_decode", bench.tensors("mlp_decode", 129, 8, 2, 10), PlanError, "at most 128 rows, got 129")


@pytest.mark.parametrize(
    ("kernel_of", "sizes", "cores", "message"),
    [
        ("matmul", (3, 8, 2, 5), 2, "M = 3 or N = 5"),
        ("matmul_tiled", (3, 8, 2, 5), 2, "M = 3 or N = 5"),
        ("gated_matmul", (3, 8, 2, 5), 2, "M = 3 or N = 5"),
        ("low_rank_fused", (10, 8, 2, 10), 4, "M = 10 or N = 10"),
        ("mlp_up", (3, 8, 2, 5), 2, "M = 3 or N = 5"),
        ("mlp", (3, 8, 2, 10), 2, "M = 3"),
        ("mlp_decode", (4, 8, 2, 10), 2, "compose the layer of low_rank_fused and matmul"),
        ("mlp_two_kernels", (3, 8, 2, 5), 2, "M = 3 or N = 5"),
    ],
)
def test_cores_that_cannot_share(bench, kernel_of, sizes, cores, message):
    refused(bench, kernel_of, bench.tensors(kernel_of, *sizes), PlanError, message, cores=cores)


def test_no_core_at_all(bench, kernel):
    refused(bench, kernel, small(bench, kernel), KernelError, "cores.*at least (1|one).*got 0", cores=0)


@pytest.mark.parametrize(
    ("kernel_of", "K", "r"),
    [
        ("matmul_tiled", 2**24, 1),
        ("matmul", 2**24, 1),
        ("gated_matmul", 2**24, 1),
        ("gated_matmul", 1, 2**24),
        ("low_rank_sequential", 128, 2**24),
        ("low_rank_naive", 128, 2**24),
        ("low_rank_fused", 128, 2**24),
        ("mlp_up", 128, 2**24),
        ("mlp", 128, 2**24),
        ("mlp_decode", 128, 2**24),
        ("mlp_two_kernels", 128, 2**24),
    ],
)
def test_where_nothing_fits_the_layer_is_left_to_the_compiler(bench, kernel_of, K, r):
    specs = bench.specs(kernel_of, 1, K, r, 1)
    refused(bench, kernel_of, specs, PlanError, "no block sizes fit .*SBUF.*leave the layer to the compiler", dry=True)


def test_unknown_targets_and_orders(bench, kernel):
    refused(
        bench, kernel, small(bench, kernel), KernelError, "unknown target 'trn9': expected one of trn1", target="trn9"
    )
    refused(bench, kernel, small(bench, kernel), KernelError, "unknown order 'sideways'", order="sideways")


def test_a_pipeline_has_no_plan_of_its_own(bench):
    kernel, tensors = bench.kernel("mlp_two_kernels"), small(bench, "mlp_two_kernels")
    message = "mlp_two_kernels is a pipeline and plans each of its kernels: it takes no plan"
    plan = bench.kernel("mlp").plan(**tensors)
    for call in (
        kernel.plan,
        functools.partial(kernel, plan=plan),
        functools.partial(bench.package.simulate, kernel, plan=plan),
    ):
        with pytest.raises(PlanError, match=message):
            call(**tensors)


def refuse_plan(bench, match, error=KernelError, kernel="low_rank_fused", **options):
    with pytest.raises(error, match=match):
        bench.kernel(kernel).plan(**{**small(bench, kernel), **options})


@pytest.mark.parametrize("cores", [0, -1, 1.5, "2", True])
def test_cores_of_a_plan(bench, cores):
    refuse_plan(bench, "low_rank_fused: cores must be (an integer|at least 1), got", PlanError, cores=cores)


def test_cores_that_are_not_those_of_the_plan(bench):
    tensors = bench.tensors("low_rank_fused", 256, 8, 2, 10)
    kernel = bench.kernel("low_rank_fused")
    plan = kernel.plan(**tensors, cores=2, target="trn2")
    refused(
        bench, "low_rank_fused", tensors, PlanError, "the plan is for cores 2, and this call has 1: plan it anew",
        plan=plan, cores=1, target="trn2",
    )  # fmt: skip
    for cores in (None, 2):  # None: those of the plan
        result = bench.package.simulate(kernel, **tensors, plan=plan, cores=cores, target="trn2")
        assert result.plan is plan and result.trace.body[0].trips == 2
    assert kernel.plan(**tensors).cores == kernel.plan(**tensors, cores=None).cores == 1


@pytest.mark.parametrize(
    "options",
    [{"B_Q": 128}, {"machine": 1}, {"x_transposed": 1}, {"cores": 2}, {"reload": 1}, {1: 1}, {"B_M": 0}, {"B_M": -1},
     {"B_M": 1.0}, {"B_M": True}, {"B_M": None}, {"B_M": "128"}, [("B_M", 128)], 3, "B_M"],
    ids=repr,
)  # fmt: skip
def test_options_that_the_planner_does_not_have(bench, options):
    refuse_plan(bench, "low_rank_fused: options map .*B_M.* to positive integers, got", options=options)


def test_a_planner_without_options(bench):
    refuse_plan(bench, "options map nothing.*got 'B_M': 1", kernel="matmul_tiled", options={"B_M": 1})
    for options in (None, {}):
        assert bench.kernel("matmul_tiled").plan(**small(bench, "matmul_tiled"), options=options)


def test_settings_are_checked_with_a_plan_too(bench):
    tensors = small(bench, "mlp")
    plan = bench.kernel("mlp").plan(**tensors)
    for activation in ("relu", None, ["silu"]):
        refused(
            bench,
            "mlp",
            tensors,
            PlanError,
            "unknown activation .*expected one of silu",
            plan=plan,
            activation=activation,
        )
    for transposed in (1, None, "no", np.True_):
        refused(bench, "mlp", tensors, KernelError, "x_transposed must be True or False, got", x_transposed=transposed)


def test_plans_that_only_look_like_one(bench):
    tensors = small(bench, "low_rank_fused")
    fake = types.SimpleNamespace(cores=1)
    for plan in (fake, 3, {}):
        refused(
            bench,
            "low_rank_fused",
            tensors,
            PlanError,
            "low_rank_fused: expected a plan of this kernel, got",
            plan=plan,
        )


@pytest.mark.parametrize("shape", [5, "ab", (4, 2.0), (4, "8"), (True, 8), (4, None), None])
def test_shapes_that_are_none(bench, shape):
    refuse_plan(bench, "low_rank_fused: the shape of x must be a tuple of integers, got", x=Spec(shape))


def test_dimensions_beyond_any_tensor(bench):
    refuse_plan(bench, "a dimension of x is at most 2147483648, got", x=Spec((10**12, 8)))


@pytest.mark.parametrize(
    "dtype", ["bfloat16", ml_dtypes.bfloat16, np.dtype(ml_dtypes.bfloat16), torch.bfloat16, "torch.bfloat16"], ids=str
)
def test_spellings_of_a_data_type(bench, dtype):
    specs = {name: Spec(tensor.shape, dtype) for name, tensor in small(bench, "matmul_tiled").items()}
    assert bench.kernel("matmul_tiled").plan(**specs).dtype == "bfloat16"
    assert str(bench.package.simulate(bench.kernel("matmul_tiled"), **specs, dry=True).outputs[0].dtype) == "bfloat16"
    wide = {name: Spec(spec.shape, np.float32) for name, spec in specs.items()}
    assert bench.kernel("matmul_tiled").plan(**wide).dtype == "float32"


@pytest.mark.parametrize("target", [None, 1, ["trn1"]])
def test_targets_that_are_none(bench, target):
    refuse_plan(bench, "unknown target .*expected one of trn1", target=target)


@pytest.mark.parametrize("seed", ["1", 1.5, None, [1]])
def test_seeds(bench, kernel, seed):
    refused(bench, kernel, small(bench, kernel), KernelError, "seed: an integer is expected, got", seed=seed)


def test_signatures_in_messages_are_those_of_a_caller(bench, kernel):
    with pytest.raises(KernelError, match=rf"{kernel}\(.*\): .*'colour'") as caught:
        bench.package.simulate(bench.kernel(kernel), **small(bench, kernel), colour=1)
    assert "plan" not in str(caught.value)
