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
"""What kernels do, counted: traces without data against traces with it, plans against what is held, and formulas."""

from contextlib import contextmanager
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_neuronmm.kernels import PlanError
from optimum_neuronmm.kernels.kernel import _quickest
from optimum_neuronmm.kernels.latency import choice


pytestmark = pytest.mark.simulation

LARGE = (  # M, K, r, N
    (4096, 2048, 1024, 8192),
    (512, 2048, 1280, 8192),
    (1000, 3072, 1111, 4000),
    (128, 8192, 4096, 8192),
    (4096, 8192, 1024, 2048),
    (2048, 576, 192, 1536),
    (129, 897, 300, 4865),
    (1, 2048, 640, 8192),
    (17, 896, 130, 4864),
    (1, 1, 1, 1),
)
BASELINES = ("matmul_tiled", "matmul_blocked")
ITEMSIZE = {"bfloat16": 2, "float32": 4}


@contextmanager
def any_named():
    """Calls have one of the plans that a planner names, and the engine model, which would run them all, is not asked.

    What a plan counts must be so of each that may be chosen, and which one it is changes from call to call.
    """
    count = iter(range(10**9))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            choice, "quickest", lambda kernel, tensors, settings, machine, plans: plans[next(count) % len(plans)]
        )
        _quickest.cache_clear()
        try:
            yield
        finally:
            _quickest.cache_clear()


@pytest.fixture
def any_plan():
    with any_named():
        yield


def plans(result) -> tuple:
    return result.plan if isinstance(result.plan, tuple) else (result.plan,)


def sized(kernel, sizes):
    return (min(sizes[0], 128), *sizes[1:]) if kernel == "mlp_decode" else sizes


def counted(result) -> dict:
    trace = result.trace
    return {
        "hbm_bytes": result.hbm_bytes,
        "flops": result.flops,
        "transpose_flops": result.transpose_flops,
        "counts": trace.counts,
        "runs": trace.runs,
        "sbuf": (result.sbuf_peak_single, result.sbuf_peak),
        "psum": result.psum_peak,
        "plans": plans(result),
    }


def held_in_the_plan(result, kernel) -> None:
    known = plans(result)
    bank = result.machine.partitions * result.machine.psum_bank
    assert result.sbuf_peak_single <= max(plan.sbuf for plan in known), kernel
    assert result.sbuf_peak <= max(plan.sbuf_buffered for plan in known), kernel
    assert result.psum_peak // bank <= max(plan.psum_banks for plan in known) <= result.machine.psum_banks, kernel
    assert max(plan.sbuf_buffered for plan in known) <= 128 * result.machine.sbuf_budget and not result.spills


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_dry_run_counts_what_a_run_does(bench, kernel, dtype):
    for options in ({}, {"cores": 2} if kernel != "mlp_decode" else {"target": "trn2"}):
        sizes = sized(kernel, (258, 640, 257, 1100))
        also = {} if kernel in BASELINES else {"bias": True}
        eager = bench.run(kernel, bench.tensors(kernel, *sizes, dtype=dtype, **also), **options)
        specs = bench.specs(kernel, *sizes, dtype=dtype, **also)
        dry = bench.package.simulate(bench.kernel(kernel), **specs, dry=True, **options)
        assert counted(dry) == counted(eager)
        assert [(tuple(s.shape), str(s.dtype)) for s in dry.outputs] == [
            (o.shape, str(o.dtype)) for o in eager.outputs
        ]


@pytest.mark.parametrize("parted", [False, True])
def test_a_dry_run_counts_what_a_run_in_many_blocks_does(bench, parted):
    tensors = bench.tensors("low_rank_fused", 300, 700, 257, 600, bias=True)
    how = {"part": 256, "chunk": 128} if parted else {"chunk": 512}
    stages = {"u": (128, 128, 1), "v": (256, 128, 1)}
    plan = bench.blocked("low_rank_fused", tensors, B_M=128, **how, stages=stages)
    eager = bench.run("low_rank_fused", tensors, plan=plan)
    specs = bench.specs("low_rank_fused", 300, 700, 257, 600, bias=True)
    dry = bench.package.simulate(bench.kernel("low_rank_fused"), **specs, plan=plan, dry=True)
    assert counted(dry) == counted(eager)


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_plan_counts_all_that_is_held(any_plan, bench, kernel, dtype, target):
    for number, sizes in enumerate(LARGE):
        if (target, number % 2) in (("trn2", 0), ("trn3", 1)):  # each size on one of them
            continue
        odd = (number // 2 + (dtype == "float32")) % 2 == 1
        options = {} if kernel in BASELINES else {"bias": not odd, "x_transposed": odd}
        called = {} if kernel in BASELINES else {"x_transposed": odd}
        specs = bench.specs(kernel, *sized(kernel, sizes), dtype=dtype, **options)
        held_in_the_plan(
            bench.package.simulate(bench.kernel(kernel), **specs, **called, target=target, dry=True), kernel
        )


@pytest.mark.parametrize("sizes", LARGE, ids=str)
def test_the_plan_that_is_chosen_counts_all_that_is_held(bench, kernel, sizes):
    sizes = sized(kernel, sizes)
    result = bench.package.simulate(bench.kernel(kernel), **bench.specs(kernel, *sizes), dry=True)
    held_in_the_plan(result, kernel)
    assert result.hbm_bytes == 2 * traffic(kernel, result.plan, *sizes)
    assert result.flops == 2 * work(kernel, result.plan, *sizes)


@pytest.mark.parametrize("factored", ["ffd", "fdf", "dff", "ddf", "ddd", "fsf", "fsd"])
@pytest.mark.parametrize("mlp", ["mlp_up", "mlp", "mlp_decode", "mlp_two_kernels"])
def test_a_plan_counts_all_that_mixed_projections_hold(any_plan, bench, mlp, factored):
    for sizes in LARGE[factored.count("d") % 2 :: 2]:
        specs = bench.specs(mlp, *sized(mlp, sizes), factored=factored, bias=True)
        held_in_the_plan(bench.package.simulate(bench.kernel(mlp), **specs, dry=True), mlp)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    M=st.integers(1, 4096),
    K=st.integers(1, 8192),
    r=st.integers(1, 2048),
    N=st.integers(1, 8192),
    dtype=st.sampled_from(["bfloat16", "float32"]),
    target=st.sampled_from(["trn1", "trn2", "trn3"]),
    bias=st.booleans(),
    across=st.booleans(),
)
def test_any_plan_counts_what_is_held_and_done(bench, kernel, M, K, r, N, dtype, target, bias, across):
    options, called = {"bias": bias, "x_transposed": across}, {"x_transposed": across}
    options, called = ({}, {}) if kernel in BASELINES else (options, called)
    specs = bench.specs(kernel, *sized(kernel, (M, K, r, N)), dtype=dtype, **options)
    try:
        with any_named():
            result = bench.package.simulate(bench.kernel(kernel), **specs, **called, target=target, dry=True)
    except PlanError:
        assert kernel in (
            *BASELINES,
            "mlp",
        )  # what they must keep on chip grows with K, and with the intermediate size
        return
    held_in_the_plan(result, kernel)
    if not bias:
        sizes = sized(kernel, (M, K, r, N))
        assert result.hbm_bytes == ITEMSIZE[dtype] * traffic(kernel, result.plan, *sizes)
        assert result.flops == 2 * work(kernel, result.plan, *sizes)


@pytest.mark.parametrize(("target", "M"), [("trn1", 1280), ("trn1", 2432), ("trn2", 2816), ("trn3", 3328)])
def test_a_plan_counts_the_longest_transfer_of_x_in_parts(any_plan, bench, target, M):
    """The last part of X is short, and is no measure of how much of the others one transfer may take."""
    specs = bench.specs("low_rank_fused", M, 4352, 1, 128, dtype="float32")
    result = bench.package.simulate(bench.kernel("low_rank_fused"), **specs, target=target, dry=True)
    held_in_the_plan(result, "low_rank_fused")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("kernel_of", "factored"), [("low_rank_fused", ""), ("mlp_up", "fs"), ("mlp", "fsd")])
def test_a_plan_counts_sums_and_the_product_that_they_become(any_plan, bench, kernel_of, factored, dtype):
    """Where X is narrower than the product, float32 sums in SBUF beside their rounded copy are the most that is held."""
    cases = ((1045, 405, 6662, 33), (860, 1097, 7337, 195), (1301, 598, 6842, 53), (2275, 1792, 4022, 3282))
    for M, K, r, N in cases if dtype == "float32" else cases[::2]:
        specs = bench.specs(kernel_of, M, K, r, N, dtype=dtype, factored=factored)
        held_in_the_plan(bench.package.simulate(bench.kernel(kernel_of), **specs, dry=True), kernel_of)


def traffic(kernel, plan, M, K, r, N) -> int:
    """Elements to and from HBM, by the notes of the kernels; `plan` for one core."""
    if isinstance(plan, tuple):  # h through HBM: written, and read by the second half
        up, down = plan
        first = M * (K + N) + ceil(M / up.B_M) * (r + r + 1) * (K + N)
        return first + M * (N + K) + ceil(M / down.B_M) * r * (N + K)
    strips = ceil(M / plan.B_M)
    low_rank = M * (K + N) + strips * r * (K + N)
    match kernel:
        case "matmul_tiled":
            return K * M + ceil(M / 128) * K * N + M * N
        case "matmul_blocked":
            return ceil(N / plan.B_N) * K * M + ceil(M / plan.rows) * K * N + M * N
        case "matmul":
            return K * M + strips * K * N + M * N
        case "gated_matmul":  # K and r columns of the two inputs
            return M * (K + r) + strips * (K + r) * N + M * N
        case "low_rank_fused":
            return low_rank
        case "low_rank_sequential":
            return low_rank + 2 * M * r
        case "low_rank_naive":
            again = ceil(N / plan.stages["v"].width)
            return again * (M * K + strips * K * r) + strips * r * N + M * N
        case "mlp_up":
            return M * (K + N) + strips * (r + r + 1) * (K + N)
        case "mlp" | "mlp_decode":
            return 2 * M * K + strips * (3 * r + 1) * (K + N)


def work(kernel, plan, M, K, r, N) -> int:
    """Multiply-adds of the products."""
    if kernel.startswith("matmul"):
        return M * K * N
    if kernel == "gated_matmul":
        return M * (K + r) * N
    if kernel == "low_rank_naive":
        return M * r * (ceil(N / plan.stages["v"].width) * K + N)
    if kernel.startswith("low_rank"):
        return M * r * (K + N)
    return M * (K + N) * (2 * r + 1 if kernel == "mlp_up" else 3 * r + 1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_traffic_and_work_are_those_of_the_formulas(any_plan, bench, kernel, dtype):
    for number, sizes in enumerate(LARGE):
        sizes = sized(kernel, sizes)
        # In bfloat16, the others are those of the plan that is chosen, see above.
        wanted = (True,) if dtype == "bfloat16" else (number % 2 == 1,)
        for across in (False,) if kernel in BASELINES else wanted:
            options = {"x_transposed": across} if across else {}
            specs = bench.specs(kernel, *sizes, dtype=dtype, **options)
            result = bench.package.simulate(bench.kernel(kernel), **specs, **options, dry=True)
            assert result.hbm_bytes == ITEMSIZE[dtype] * traffic(kernel, result.plan, *sizes), sizes
            assert result.flops == 2 * work(kernel, result.plan, *sizes), sizes


@pytest.mark.parametrize("target", ["trn1", "trn2"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("mlp", ["mlp_up", "mlp", "mlp_decode"])
def test_a_shared_u_is_read_and_multiplied_once(any_plan, bench, mlp, dtype, target):
    for sizes in LARGE if target == "trn1" else LARGE[dtype == "float32" :: 2]:
        M, K, r, N = sized(mlp, sizes)
        specs = bench.specs(mlp, M, K, r, N, dtype=dtype, factored="fsf")
        try:
            result = bench.package.simulate(bench.kernel(mlp), **specs, target=target, dry=True)
        except PlanError:
            assert mlp == "mlp"  # which keeps the intermediate on chip
            continue
        held_in_the_plan(result, mlp)
        strips, down = ceil(M / result.plan.B_M), 0 if mlp == "mlp_up" else r * (N + K)
        weights, size = r * (K + 2 * N) + down, ITEMSIZE[dtype]
        assert result.trace.bytes_of("gate") == size * strips * K * r, sizes
        assert result.hbm_bytes == size * (M * (K + (N if mlp == "mlp_up" else K)) + strips * weights), sizes
        assert result.flops == 2 * M * weights, sizes


@pytest.mark.parametrize("target", ["trn1", "trn2"])
@pytest.mark.parametrize(("rank", "N"), [(1280, 2048), (2048, 4096)])
def test_few_rows_read_the_weights_of_a_shard_once_in_efficient_descriptors(bench, rank, N, target):
    H = 2048
    cases = {
        "mlp_up": (bench.specs("mlp_up", 1, H, rank, N, factored="fs"), rank * (H + 2 * N)),
        "gated_matmul": (bench.specs("gated_matmul", 1, rank, rank, N), 2 * rank * N),
    }
    for kernel, (specs, weights) in cases.items():
        result = bench.package.simulate(bench.kernel(kernel), **specs, target=target, dry=True)
        assert 2 * weights < result.hbm_bytes <= 1.02 * 2 * weights
        assert result.trace.bytes_in_runs_of(2048) >= 0.95


@pytest.mark.parametrize("kernel_of", ["low_rank_fused", "matmul", "mlp_up", "mlp", "mlp_decode"])
def test_transposes_are_counted_apart(bench, kernel_of):
    M, K, r, N = sized(kernel_of, (300, 700, 130, 600))
    for across in (False, True):
        specs = bench.specs(kernel_of, M, K, r, N, x_transposed=across)
        result = bench.package.simulate(bench.kernel(kernel_of), **specs, x_transposed=across, dry=True)
        rows = 2 * K * sum(min(128, M - m) ** 2 for m in range(0, M, 128))  # of X, 128 at a time, times the identity
        columns = 2 * M * sum(min(128, K - k) ** 2 for k in range(0, K, 128))  # of the transposed result
        assert result.transpose_flops == (0 if across else rows) + (columns if kernel_of == "mlp_decode" else 0)
        assert result.flops == 2 * work(kernel_of, result.plan, M, K, r, N)


@pytest.mark.parametrize(("M", "r"), [(4096, 1024), (2048, 2048), (8192, 512)])
def test_what_naive_fusion_costs(any_plan, bench, M, r):
    """The table of the paper: K = 2048, N = 8192 and M r = 4194304, blocks of 512 columns."""
    K, N, options = 2048, 8192, {"B_N": 512}
    for kernel, giga in (("low_rank_naive", 343.60), ("low_rank_sequential", 85.90), ("low_rank_fused", 85.90)):
        specs = bench.specs(kernel, M, K, r, N)
        plan = bench.kernel(kernel).plan(**specs, options=options if kernel == "low_rank_naive" else None)
        result = bench.package.simulate(bench.kernel(kernel), **specs, plan=plan, dry=True)
        assert round(result.flops / 1e9, 2) == giga
        assert result.hbm_bytes == 2 * traffic(kernel, plan, M, K, r, N)
        if kernel == "low_rank_naive":
            assert plan.stages["v"].width == 512


@pytest.mark.parametrize("B_M", [128, 512, 1024])
def test_the_traffic_of_the_papers_block_sizes(bench, B_M):
    """Larger strips of rows read the weights less often: the paper's sweep, M=4096, K=7168, r=4096, N=18432."""
    M, K, r, N = 4096, 7168, 4096, 18432
    specs = bench.specs("low_rank_fused", M, K, r, N)
    plan = bench.kernel("low_rank_fused").plan(**specs, options={"B_M": B_M})
    result = bench.package.simulate(bench.kernel("low_rank_fused"), **specs, plan=plan, dry=True)
    assert plan.B_M == B_M and result.hbm_bytes == 2 * (M * (K + N) + r * (K + N) * M // B_M)
    assert round(result.hbm_bytes / 1e9, 3) == {128: 6.921, 512: 1.887, 1024: 1.049}[B_M]
    assert result.flops == 2 * M * r * (K + N) and round(result.flops / 1e9, 1) == 859.0
    assert result.intensity == pytest.approx({128: 124.12, 512: 455.10, 1024: 819.17}[B_M], rel=1e-4)


def test_cores_that_share_rows_read_the_weights_each(bench):
    M, K, r, N = 1024, 512, 128, 1024
    specs = bench.specs("low_rank_fused", M, K, r, N)
    for cores in (1, 2, 4):
        result = bench.package.simulate(bench.kernel("low_rank_fused"), **specs, cores=cores, dry=True)
        strips = cores * ceil(M // cores / result.plan.B_M)
        assert result.hbm_bytes == 2 * (M * (K + N) + strips * r * (K + N))
        assert result.flops == 2 * M * r * (K + N)


def test_cores_that_share_columns_read_x_and_u_each(bench):
    M, K, r, N = 17, 512, 128, 1024
    specs = bench.specs("low_rank_fused", M, K, r, N)
    result = bench.package.simulate(bench.kernel("low_rank_fused"), **specs, cores=2, dry=True)
    assert result.hbm_bytes == 2 * (2 * (M * K + K * r) + r * N + M * N)
    assert result.flops == 2 * M * r * (2 * K + N)


def test_a_bias_costs_its_bytes_and_one_row_of_products(bench):
    M, K, r, N = 300, 400, 130, 600
    with_bias, without = (
        bench.package.simulate(
            bench.kernel("low_rank_fused"), **bench.specs("low_rank_fused", M, K, r, N, bias=b), dry=True
        )
        for b in (True, False)
    )
    assert with_bias.hbm_bytes - without.hbm_bytes == 2 * N * ceil(M / with_bias.plan.B_M)
    assert with_bias.flops - without.flops == 2 * M * N
