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
"""Plans: budgets, blocks that divide the rank, who shares the work, and the errors."""

import dataclasses

import pytest

from optimum_neuronmm.kernels import (
    PlanError,
    Spec,
    gated_matmul,
    get_machine,
    low_rank_fused,
    low_rank_naive,
    low_rank_sequential,
    matmul,
    matmul_blocked,
    mlp,
    mlp_decode,
    mlp_two_kernels,
    mlp_up,
    simulate,
)
from optimum_neuronmm.kernels.plan import paper_footprint


LOW_RANK = [
    (4096, 7168, 4096, 18432),
    (512, 2048, 1280, 8192),
    (1, 8192, 1280, 2048),
    (300, 2048, 1408, 8192),
    (77, 500, 100, 900),
]
MLPS = {
    "llama-1b": (2048, 8192, 1280),
    "llama-3b": (3072, 8192, 1792),
    "qwen3-4b": (2560, 9728, 1664),
    "tp4": (2048, 2048, 640),
}


def low_rank(M, K, r, N, dtype="bfloat16"):
    return Spec((M, K), dtype), Spec((K, r), dtype), Spec((r, N), dtype)


def gated(M, H, I, r):  # noqa: E741
    U, V = Spec((H, r)), Spec((r, I))
    return Spec((M, H)), U, V, U, V, Spec((I, r)), Spec((r, H))


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
@pytest.mark.parametrize("shape", LOW_RANK)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_plan_keeps_to_the_budget(shape, target, dtype):
    machine = get_machine(target)
    for kernel in (low_rank_fused, low_rank_sequential):
        plan = kernel.plan(*low_rank(*shape, dtype), target=target)
        assert plan.sbuf <= plan.sbuf_buffered <= machine.spill_fraction * machine.sbuf
        assert 1 <= plan.psum_banks <= machine.psum_banks


@pytest.mark.parametrize("shape", LOW_RANK)
def test_blocks_divide_the_rank(shape):
    M, K, r, N = shape
    plan = low_rank_fused.plan(*low_rank(*shape))
    width, depth = plan.stages["u"].width, plan.stages["v"].depth
    assert r % width == 0 and r % depth == 0 or r % 128
    assert plan.stages["v"].depth <= r and plan.stages["u"].depth <= K


@pytest.mark.parametrize("model", MLPS)
@pytest.mark.parametrize("rows", [1, 16, 128, 500, 512, 4096])
def test_blocks_divide_the_rank_of_an_mlp(model, rows):
    kernel = mlp_decode if rows <= 128 else mlp
    stages = kernel.plan(*gated(rows, *MLPS[model])).stages
    r = MLPS[model][2]
    for stage in ("gate_u", "up_u", "down_u"):
        assert r % stages[stage].width == 0
    for stage in ("expand", "down"):
        assert r % stages[stage].depth == 0


@pytest.mark.parametrize("model", MLPS)
@pytest.mark.parametrize("rows", [1, 16, 128, 500, 512, 4096])
def test_blocks_divide_the_rank_where_u_is_shared_and_after_a_collective(model, rows):
    H, I, r = MLPS[model]  # noqa: E741
    U, V = Spec((H, r)), Spec((r, I))
    stages = mlp_up.plan(Spec((rows, H)), U, V, None, V).stages
    assert set(stages) == {"gate_u", "expand"}
    assert r % stages["gate_u"].width == 0 and r % stages["expand"].depth == 0
    stages = gated_matmul.plan(Spec((rows, r)), V, Spec((rows, r)), V).stages
    assert set(stages) == {"expand"} and r % stages["expand"].depth == 0


@pytest.mark.parametrize(("Kg", "Ku"), [(6144, 4096), (4096, 6144)])
def test_a_transfer_of_either_input_fits_beside_both_strips(Kg, Ku):
    """The input of the gate comes first, when there is still room for longer transfers than later."""
    shapes = (512, Kg), (Kg, 256), (512, Ku), (Ku, 256)
    tensors = [Spec(shape, "float32") for shape in shapes]
    plan = gated_matmul.plan(*tensors, options={"B_M": 512})
    result = simulate(gated_matmul, *tensors, plan=plan, dry=True)
    assert plan.chunk == 1024 and result.sbuf_peak <= plan.sbuf_buffered and not result.spills


def test_a_plan_of_two_u_is_not_one_of_a_shared_u():
    two = gated(64, 256, 512, 128)
    shared = (*two[:3], None, *two[4:])
    with pytest.raises(PlanError, match="the plan is for tensors .*'up'.*, and this call has"):
        simulate(mlp, *shared, plan=mlp.plan(*two), dry=True)
    assert mlp.plan(*shared).sbuf_buffered <= mlp.plan(*two).sbuf_buffered


def test_a_rank_of_a_prime_number_of_tiles_still_gets_wide_blocks_and_one_strip():
    plan = mlp.plan(*gated(500, 2560, 9728, 13 * 128))
    assert plan.B_M == 500 and plan.stages["down_u"].width == 13 * 128


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
@pytest.mark.parametrize("shape", LOW_RANK)
def test_the_papers_footprint_is_a_lower_bound(shape, target):
    plan = low_rank_fused.plan(*low_rank(*shape), target=target)
    M, K, r, N = shape
    # Blocks of K and N need not be on chip for all rows of the strip here: those of one tile are.
    bound = paper_footprint(plan.B_M, r, min(plan.stages["u"].width, 128), min(K, 128), min(N, 128), 2)
    assert bound <= plan.sbuf


def test_the_papers_footprint_by_hand():
    assert paper_footprint(B_M=2, r=3, B_r=5, B_K=7, B_N=11, itemsize=2) == 2 * (2 * 3 + (2 + 5) * 11)


def test_a_strip_of_1024_rows_of_the_papers_sweep_fits():
    plan = low_rank_fused.plan(*low_rank(4096, 7168, 4096, 18432))
    assert plan.B_M == 1024 and plan.part == 0
    assert plan.sbuf_buffered <= 0.9 * 24 * 2**20


def test_x_comes_in_parts_where_it_does_not_fit_beside_the_product():
    plan = low_rank_fused.plan(*low_rank(512, 32768, 1024, 1024))
    assert plan.part and 32768 % plan.part == 0
    assert low_rank_fused.plan(*low_rank(512, 2048, 1024, 1024)).part == 0


def test_options_fix_the_strip_and_the_columns():
    tensors = low_rank(4096, 2048, 1024, 8192)
    plan = low_rank_fused.plan(*tensors, options={"B_M": 128, "B_N": 512})
    assert plan.B_M == 128 and plan.stages["v"].width <= 512


@pytest.mark.parametrize(
    ("M", "N", "cores", "split"),
    [(512, 512, 2, "M"), (64, 512, 2, "N"), (1, 512, 2, "N"), (64, 511, 2, "M"), (7, 5, 1, "M")],
)
def test_cores_share_rows_where_each_gets_a_tile_of_them(M, N, cores, split):
    plan = low_rank_fused.plan(*low_rank(M, 256, 128, N), cores=cores)
    assert plan.split == split and plan.cores == cores


@pytest.mark.parametrize(
    ("kernel", "tensors", "cores", "message"),
    [
        (low_rank_fused, low_rank(7, 256, 128, 511), 2, "2 cores cannot share M = 7 or N = 511 evenly"),
        (low_rank_fused, low_rank(8, 256, 128, 512), 0, "cores must be at least 1, got 0"),
        (mlp, gated(511, 256, 512, 128), 2, "cannot share M = 511 evenly: run it on one core, or compose"),
        (mlp_decode, gated(2, 256, 512, 128), 2, "runs on one core, not on 2"),
        (mlp_decode, gated(129, 256, 512, 128), 1, "at most 128 rows, got 129: use `mlp`"),
        (low_rank_fused, (Spec((4, 5)), Spec((6, 2)), Spec((2, 3))), 1, "columns of X and rows of U must agree, got 5 and 6"),
        (low_rank_fused, (Spec((4, 5)), Spec((5, 2)), Spec((3, 3))), 1, "columns of U and rows of V must agree, got 2 and 3"),
        (low_rank_fused, (Spec((4, 5)), Spec((5, 2)), Spec((2, 3)), Spec((4,))), 1, "bias and columns must agree, got 4 and 3"),
        (low_rank_fused, (Spec((4, 5)), Spec((5, 2)), Spec((2, 3)), Spec((1, 3))), 1, "bias must be a vector, got"),
        (low_rank_fused, (Spec((1, 4, 5)), Spec((5, 2)), Spec((2, 3))), 1, "x must be a matrix, got .*flatten batch"),
        (low_rank_fused, (Spec((0, 5)), Spec((5, 2)), Spec((2, 3))), 1, "dimensions must be positive"),
        (matmul, (Spec((4, 5)), Spec((6, 2))), 1, "columns of X and rows of W must agree"),
        (matmul_blocked, (Spec((4, 5)), Spec((6, 2))), 1, "rows of X transposed and rows of W must agree"),
        (mlp_up, (Spec((4, 8)), Spec((8, 6)), None, None, Spec((6, 5))), 1, "where up is None, gate's U serves both and gate_v"),
        (mlp_up, (Spec((4, 8)), Spec((8, 2)), Spec((2, 6)), None, Spec((2, 5))), 1, "intermediate sizes of gate and up must agree"),
        (gated_matmul, (Spec((4, 8)), Spec((8, 6)), Spec((5, 3)), Spec((3, 6))), 1, "rows of x gate and x up must agree, got 4 and 5"),
        (mlp_up, (Spec((4, 8)), Spec((8, 6)), None, Spec((8, 5)), None), 1, "intermediate sizes of gate and up must agree"),
        (mlp, (Spec((4, 8)), Spec((8, 6)), None, Spec((8, 6)), None, Spec((5, 8)), None), 1, "intermediate size and rows of down"),
        (mlp, (Spec((4, 8)), Spec((8, 6)), None, Spec((8, 6)), None, Spec((6, 9)), None), 1, "hidden sizes of X and down"),
    ],
)  # fmt: skip
def test_errors_name_what_disagrees(kernel, tensors, cores, message):
    with pytest.raises(PlanError, match=message):
        kernel.plan(*tensors, cores=cores)


def test_where_nothing_fits_the_layer_goes_to_the_compiler():
    tiny = dataclasses.replace(get_machine("trn1"), name="tiny", sbuf_partition=4096)
    with pytest.raises(
        PlanError,
        match="no block sizes fit .* of tiny; at best, strips of activations are [0-9]+ bytes per partition too large: leave the layer",
    ) as caught:
        low_rank_fused.plan(*low_rank(128, 4096, 1024, 4096), target=tiny)
    size, what = caught.value.lacking
    assert size > 0 and f"at best, {what} are {size} bytes per partition too large" in str(caught.value)
    with pytest.raises(PlanError, match="leave the layer to the compiler"):
        mlp.plan(*gated(1024, 2048, 2**21, 1280))


def test_a_plan_is_hashable_and_frozen():
    plan = low_rank_fused.plan(*low_rank(8, 256, 128, 512))
    assert hash(plan) == hash(dataclasses.replace(plan))
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.B_M = 3


@pytest.mark.parametrize(
    ("tensors", "settings", "message"),
    [
        (low_rank(64, 256, 128, 513), {}, "the plan is for tensors .*512.*, and this call has .*513.*: plan it anew"),
        ((*low_rank(64, 256, 128, 512), Spec((512,))), {}, "the plan is for tensors"),
        (low_rank(64, 256, 128, 512, "float32"), {}, "the plan is for data type bfloat16, and this call has float32"),
        (low_rank(64, 256, 128, 512), {"target": "trn2"}, "the plan is for machine trn1, and this call has trn2"),
        (low_rank(64, 256, 128, 512), {"kernel": low_rank_sequential}, "the plan is for kernel low_rank_fused"),
        ((Spec((256, 256)), Spec((256, 128)), Spec((128, 512))), {"x_transposed": True}, "the plan is for x_transposed False"),
    ],
)  # fmt: skip
def test_a_plan_of_another_call_is_refused(tensors, settings, message):
    made_for = low_rank(256 if "x_transposed" in settings else 64, 256, 128, 512)
    plan = low_rank_fused.plan(*made_for)
    assert simulate(low_rank_fused, *made_for, plan=plan, dry=True).plan is plan
    kernel = settings.pop("kernel", low_rank_fused)
    with pytest.raises(PlanError, match=message):
        simulate(kernel, *tensors, plan=plan, dry=True, **settings)


def test_kernels_of_one_planner_share_plans():
    tensors = low_rank(64, 256, 128, 512)
    assert simulate(low_rank_naive, *tensors, plan=low_rank_fused.plan(*tensors), dry=True).flops > 0


def test_a_pipeline_takes_no_plan():
    with pytest.raises(PlanError, match="mlp_two_kernels is a pipeline and plans each of its kernels"):
        simulate(mlp_two_kernels, *gated(8, 256, 512, 128), plan=low_rank_fused.plan(*low_rank(8, 256, 128, 512)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"B_M": 0}, "B_M must be an integer of at least 1, got 0"),
        ({"B_M": None}, "B_M must be an integer of at least 1, got None"),
        ({"cores": 0}, "cores must be an integer of at least 1"),
        ({"chunk": -1}, "chunk must be an integer of at least 0"),
        ({"part": 1.5}, "part must be an integer of at least 0"),
        ({"interleave_x": 3}, "interleave_x must be 1, 2 or 4, got 3"),
        ({"split": "Q"}, "split must be 'M' or 'N', got 'Q'"),
        ({"stages": None}, "stages must be a dict of Blocks"),
        ({"stages": {"u": None}}, "stages must be a dict of Blocks"),
    ],
)
def test_a_plan_refuses_nonsense(change, message):
    plan = low_rank_fused.plan(*low_rank(8, 256, 128, 512))
    with pytest.raises(PlanError, match=f"plan: {message}"):
        dataclasses.replace(plan, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": {}}, "no stage 'u', it has none: plan this kernel anew"),
        (
            {"interleave_x": 1, "chunk": 100},
            "a chunk of 100 does not end with a tile: expected a multiple of 128, or all 1024",
        ),
        ({"interleave_x": 4, "chunk": 1152}, "1152 features cannot be interleaved by 4: expected a multiple of 512"),
    ],
)
def test_a_plan_whose_blocks_do_not_fit_the_call_is_refused(change, message):
    tensors = low_rank(8, max(1024, change.get("chunk", 0)), 384, 512)
    plan = dataclasses.replace(low_rank_fused.plan(*tensors), **change)
    with pytest.raises(PlanError, match=message):
        simulate(low_rank_fused, *tensors, plan=plan, dry=True)


def test_the_blocks_of_the_baseline_end_with_a_tile():
    plan = matmul_blocked.plan(Spec((256, 200)), Spec((256, 300)))
    with pytest.raises(PlanError, match="B_M must be a multiple of 128, or all 200 rows, got 100"):
        dataclasses.replace(plan, B_M=100)
