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
"""Every kernel against its torch twin: ragged shapes, data types, biases, blocks, cores, machines and orders."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_neuronmm.kernels import KERNELS, mlp_two_kernels


pytestmark = pytest.mark.simulation

MLPS = ("mlp_up", "mlp", "mlp_decode", "mlp_two_kernels")
BASELINES = ("matmul_tiled", "matmul_blocked")
FACTORED = ("fff", "ffd", "fdf", "fdd", "dff", "dfd", "ddf", "ddd", "fsf", "fsd")  # see `Bench`
SHAPES = (  # M, K, r, N
    (1, 1, 1, 1),
    (1, 127, 5, 129),
    (128, 128, 128, 128),
    (127, 129, 128, 511),
    (129, 511, 129, 513),
    (2, 513, 127, 128),
    (513, 130, 1, 260),
    (257, 640, 200, 63),
)
# bias, x_transposed, activation: each of them both ways, and with each of the others.
VARIANTS = ((False, False, "silu"), (True, True, "silu"), (True, False, "gelu_tanh"), (False, True, "gelu_tanh"))


def variants(kernel):
    """(options of the tensors, settings of the call) of a kernel."""
    if kernel in BASELINES:
        return [({}, {})]
    if kernel in (*MLPS, "gated_matmul"):
        return [
            ({"bias": bias, "x_transposed": across}, {"x_transposed": across, "activation": activation})
            for bias, across, activation in VARIANTS
        ]
    return [({"bias": bias, "x_transposed": across}, {"x_transposed": across}) for bias, across, _ in VARIANTS]


def at_most_128_rows(kernel, sizes):
    return (min(sizes[0], 128), *sizes[1:]) if kernel == "mlp_decode" else sizes


def same_bits(a, b) -> bool:
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def test_these_are_all_the_kernels(kernel):
    assert mlp_two_kernels.name in KERNELS and kernel in KERNELS and len(KERNELS) == 11


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("sizes", SHAPES, ids=lambda sizes: "x".join(map(str, sizes)))
def test_ragged_shapes(bench, kernel, sizes, dtype):
    sizes = at_most_128_rows(kernel, sizes)
    for options, called in variants(kernel):
        bench.run(kernel, bench.tensors(kernel, *sizes, dtype=dtype, **options), called)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("factored", FACTORED)
@pytest.mark.parametrize("mlp", MLPS)
def test_dense_and_factored_projections_mix(bench, mlp, factored, dtype):
    for bias in (False, True):
        tensors = bench.tensors(mlp, 100, 200, 140, 300, dtype=dtype, factored=factored, bias=bias)
        bench.run(mlp, tensors, {"activation": "gelu_tanh" if bias else "silu"})


@pytest.mark.parametrize("missing", ["gate_bias", "up_bias"])
@pytest.mark.parametrize(("kernel_of", "factored"), [("mlp_up", "fs"), ("gated_matmul", "")])
def test_a_bias_of_the_first_half_may_be_absent_alone(bench, kernel_of, factored, missing):
    tensors = bench.tensors(kernel_of, 60, 150, 130, 200, bias=True, factored=factored)
    bench.run(kernel_of, {**tensors, missing: None})


@pytest.mark.parametrize("missing", ["gate_bias", "up_bias", "down_bias"])
@pytest.mark.parametrize("mlp", ["mlp", "mlp_decode", "mlp_two_kernels"])
def test_a_bias_may_be_absent_alone(bench, mlp, missing):
    tensors = bench.tensors(mlp, 60, 150, 130, 200, bias=True)
    bench.run(mlp, {**tensors, missing: None})


# Blocks with several iterations and a tail in every loop, weights streamed whole and in parts of their depth.
LOW_RANK = ("low_rank_sequential", "low_rank_naive", "low_rank_fused")
BLOCKINGS = {
    "whole": (LOW_RANK, {"B_M": 128, "chunk": 512, "stages": {"u": (128, 700, 1), "v": (256, 257, 1)}}),
    "one piece": (LOW_RANK, {"B_M": 256, "chunk": 512, "stages": {"u": (257, 700, 2), "v": (600, 257, 1)}}),
    "streamed": (LOW_RANK, {"B_M": 256, "chunk": 512, "stages": {"u": (128, 256, 1), "v": (384, 128, 2)}}),
    "tall": (LOW_RANK, {"B_M": 640, "chunk": 512, "stages": {"u": (128, 128, 1), "v": (256, 128, 5)}}),
    "parts": (LOW_RANK, {"B_M": 256, "part": 256, "chunk": 256, "stages": {"u": (128, 256, 1), "v": (256, 257, 1)}}),
    "small parts": (
        LOW_RANK,
        {"B_M": 128, "part": 256, "chunk": 128, "stages": {"u": (257, 128, 3), "v": (384, 128, 1)}},
    ),
    "abreast": (
        LOW_RANK,
        {"B_M": 256, "chunk": 512, "stages": {"u": (257, 256, 1, False, 2), "v": (256, 257, 1)}},
    ),
    "dense whole": (("matmul",), {"B_M": 256, "chunk": 512, "stages": {"w": (256, 700, 1)}}),
    "dense streamed": (("matmul",), {"B_M": 256, "chunk": 512, "stages": {"w": (384, 128, 2)}}),
    "sums": (("matmul_blocked",), {"rows": 256, "B_M": 128, "B_K": 256, "B_N": 520}),
    "gated whole": (("gated_matmul",), {"B_M": 256, "chunk": 512, "stages": {"expand": (384, 700, 1)}}),
    "gated streamed": (("gated_matmul",), {"B_M": 128, "chunk": 128, "stages": {"expand": (256, 128, 2)}}),
    "gated, up whole": (("gated_matmul",), {"B_M": 256, "chunk": 512, "stages": {"expand": (256, 384, 1)}}),
    "up": (
        ("mlp_up",),
        {
            "B_M": 128,
            "chunk": 512,
            "stages": {"gate_u": (128, 700, 1), "up_u": (128, 256, 1), "expand": (256, 128, 2)},
        },
    ),
    "up whole": (
        ("mlp_up",),
        {
            "B_M": 256,
            "chunk": 512,
            "stages": {"gate_u": (257, 128, 3), "up_u": (258, 700, 2), "expand": (384, 258, 1)},
        },
    ),
    "up parts": (
        ("mlp_up",),
        {
            "B_M": 256,
            "part": 256,
            "chunk": 256,
            "stages": {"gate_u": (128, 128, 1), "up_u": (128, 256, 1), "expand": (256, 258, 1)},
        },
    ),
    "shared": (
        ("mlp_up",),
        {"factored": "fs", "B_M": 128, "chunk": 512, "stages": {"gate_u": (128, 256, 1), "expand": (256, 128, 2)}},
    ),
    "shared parts": (
        ("mlp_up",),
        {
            "factored": "fs",
            "B_M": 256,
            "part": 256,
            "chunk": 256,
            "stages": {"gate_u": (128, 128, 1), "expand": (384, 257, 1)},
        },
    ),
    "shared mlp": (
        ("mlp", "mlp_decode"),
        {
            "factored": "fsf",
            "B_M": 128,
            "chunk": 512,
            "stages": {
                "gate_u": (257, 128, 3, True),
                "expand": (256, 257, 2),
                "down_u": (128, 256, 1),
                "down": (384, 257, 1),
            },
        },
    ),
    "mlp": (
        ("mlp",),
        {
            "B_M": 128,
            "chunk": 512,
            "stages": {
                "gate_u": (128, 256, 1),
                "up_u": (258, 128, 3),
                "expand": (256, 128, 2),
                "down_u": (257, 256, 1, True),
                "down": (384, 128, 1),
            },
        },
    ),
    "mlp parts": (
        ("mlp",),
        {
            "B_M": 256,
            "part": 256,
            "chunk": 128,
            "stages": {
                "gate_u": (257, 256, 1),
                "up_u": (128, 128, 1),
                "expand": (128, 258, 1),
                "down_u": (257, 600, 2),
                "down": (512, 257, 1),
            },
        },
    ),
    "decode": (
        ("mlp_decode",),
        {
            "chunk": 512,
            "stages": {
                "gate_u": (128, 256, 1),
                "up_u": (258, 128, 3),
                "expand": (256, 128, 2),
                "down_u": (257, 128, 3, True),
                "down": (384, 257, 1),
            },
        },
    ),
    "decode abreast": (
        ("mlp_decode",),
        {
            "chunk": 512,
            "stages": {
                "gate_u": (257, 128, 1, False, 2),
                "up_u": (258, 256, 1, False, 1),
                "expand": (256, 258, 2),
                "down_u": (257, 256, 1, False, 2),
                "down": (384, 128, 1, False, 2),
            },
        },
    ),
}
BLOCKED = [(kernel, blocks) for blocks, (kernels, _) in BLOCKINGS.items() for kernel in kernels]


def blocked(bench, kernel, blocks, dtype, bias=True, x_transposed=False):
    """(tensors, settings, plan) of a case with many blocks."""
    options, called = {"bias": bias, "x_transposed": x_transposed}, {"x_transposed": x_transposed}
    options, called = ({}, {}) if kernel in BASELINES else (options, called)
    sizes = at_most_128_rows(kernel, (700 if blocks == "tall" else 300, 700, 257, 600))
    how = dict(BLOCKINGS[blocks][1])
    if "factored" in how:
        options = {**options, "factored": how.pop("factored")}
    tensors = bench.tensors(kernel, *sizes, dtype=dtype, **options)
    return tensors, called, bench.blocked(kernel, tensors, settings=called, **how)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("kernel_of", "blocks"), BLOCKED)
def test_many_blocks_in_every_loop(bench, kernel_of, blocks, dtype):
    for bias, across in ((True, False), (False, True)):
        tensors, called, plan = blocked(bench, kernel_of, blocks, dtype, bias, across)
        bench.run(kernel_of, tensors, called, plan=plan)


@pytest.mark.parametrize(("kernel_of", "blocks"), BLOCKED)
def test_the_order_of_iterations_does_not_matter(bench, kernel_of, blocks):
    tensors, called, plan = blocked(bench, kernel_of, blocks, "bfloat16")
    for order in ("reversed", "shuffled"):
        bench.run(kernel_of, tensors, called, plan=plan, order=order)


@pytest.mark.parametrize(("kernel_of", "blocks"), BLOCKED)
def test_unrolled_loops_give_the_same_bits(bench, kernel_of, blocks):
    tensors, called, plan = blocked(bench, kernel_of, blocks, "float32")
    rolled, unrolled = (bench.run(kernel_of, tensors, called, plan=plan, unroll=unroll) for unroll in (False, True))
    assert same_bits(rolled.outputs[0], unrolled.outputs[0])
    assert (rolled.hbm_bytes, rolled.flops) == (unrolled.hbm_bytes, unrolled.flops)


@pytest.mark.parametrize(
    ("kernel_of", "blocks"), [case for case in BLOCKED if case[1] in ("abreast", "decode abreast")]
)
def test_sums_abreast_in_every_order(bench, kernel_of, blocks):
    tensors, called, plan = blocked(bench, kernel_of, blocks, "float32")
    result = bench.package.check_orders(bench.kernel(kernel_of), **tensors, **called, plan=plan)
    bench.check(kernel_of, tensors, result.outputs[0], **called)


@pytest.mark.parametrize("order", ["reversed", "shuffled"])
def test_the_order_and_unrolling_with_the_kernels_own_blocks(bench, kernel, order):
    tensors = bench.tensors(kernel, *at_most_128_rows(kernel, (300, 300, 130, 600)))
    forward, other, unrolled = (
        bench.run(kernel, tensors, **options) for options in ({}, {"order": order}, {"unroll": True})
    )
    assert same_bits(forward.outputs[0], unrolled.outputs[0])
    assert other.hbm_bytes == forward.hbm_bytes


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("factored", ["fff", "ffd", "fdf", "dff", "ddd", "fsf", "fsd"])
def test_decoding_joins_short_rows_of_weights(bench, factored, dtype):
    for sizes in ((3, 256, 20, 1024), (128, 512, 130, 256), (1, 1024, 300, 768)):
        for bias, across in ((True, False), (False, True)):
            options, called = {"bias": bias, "factored": factored}, {"x_transposed": across}
            tensors = bench.tensors("mlp_decode", *sizes, dtype=dtype, x_transposed=across, **options)
            bench.run("mlp_decode", tensors, called)


@pytest.mark.parametrize("order", ["forward", "shuffled"])
@pytest.mark.parametrize(("by_x", "by_h"), [(1, 1), (2, 4), (4, 2), (4, 4)])
def test_joined_rows_in_many_blocks(bench, by_x, by_h, order):
    stages = {
        "gate_u": (128, 512, 1),
        "up_u": (258, 1024, 3),
        "expand": (512, 128, 4),
        "down_u": (128, 512, 1),
        "down": (384, 257, 1),
    }
    for across in (False, True):
        called = {"x_transposed": across}
        tensors = bench.tensors("mlp_decode", 33, 1024, 257, 1536, bias=True, x_transposed=across)
        how = {"chunk": 512, "interleave_x": by_x, "interleave_h": by_h, "stages": stages}
        plan = bench.blocked("mlp_decode", tensors, settings=called, **how)
        bench.run("mlp_decode", tensors, called, plan=plan, order=order)


@pytest.mark.parametrize("order", ["forward", "reversed", "shuffled"])
@pytest.mark.parametrize("M", [300, 600])  # one block of the rows that a bank takes, and two
def test_joined_rows_of_more_rows_than_share_a_bank(bench, M, order):
    for by_h in (2, 4):
        tensors = bench.tensors("mlp", M, 256, 130, 1024, bias=True)
        stages = {
            "gate_u": (128, 256, 1),
            "up_u": (131, 128, 1),
            "expand": (512, 131, 1),
            "down_u": (130, 512, 1, False, 1),
            "down": (256, 130, 1),
        }
        how = {"B_M": M, "chunk": 256, "part": 0, "interleave_x": 1, "interleave_h": by_h, "stages": stages}
        bench.run("mlp", tensors, plan=bench.blocked("mlp", tensors, **how), order=order)


def cancelling(bench, kernel):
    """Tensors whose sums over the first half of K are 64 times those over the whole."""
    tensors = bench.tensors(kernel, 64, 512, 128, 128)
    x, w = next(iter(tensors)), "u" if "u" in tensors else "gate" if "gate" in tensors else "w"
    first = tensors[x] if x == "xT" else tensors[x].T
    big = np.concatenate([64 * first[:256], first[256:] - 64 * first[:256]])
    weight = np.concatenate([tensors[w][:256], tensors[w][:256]])
    tensors[x] = np.ascontiguousarray(big if x == "xT" else big.T)
    return {**tensors, w: weight}


@pytest.mark.parametrize("part", [0, 128, 256])
def test_sums_are_kept_in_float32(bench, kernel, part):
    tensors, plan = cancelling(bench, kernel), None
    if part and kernel not in (*LOW_RANK, "mlp_up", "mlp", "matmul_blocked"):
        pytest.skip(f"{kernel} has no partial sums in SBUF")
    if part and kernel == "matmul_blocked":
        plan = bench.blocked(kernel, tensors, B_K=part)
    elif part:
        rank = bench.kernel(kernel).plan(**tensors)
        entering = {s: (b.width, part, -(-b.width // 128)) if s[-1] == "u" and s != "down_u" else (b.width, b.depth, b.group)
                    for s, b in rank.stages.items()}  # fmt: skip
        plan = bench.blocked(kernel, tensors, part=part, chunk=part, stages=entering)
    bench.run(kernel, tensors, **({"plan": plan} if plan else {}))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_two_cores_share_the_rows(bench, kernel, dtype):
    if kernel == "mlp_decode":
        pytest.skip("mlp_decode runs on one core")
    for M in (258, 512):
        tensors = bench.tensors(kernel, M, 200, 130, 300, dtype=dtype, bias=kernel not in BASELINES)
        for order in ("forward", "reversed"):
            plans = bench.run(kernel, tensors, cores=2, order=order).plan
            assert {(plan.cores, plan.split) for plan in (plans if isinstance(plans, tuple) else [plans])} == {
                (2, "M")
            }


@pytest.mark.parametrize("cores", [2, 4])
def test_cores_share_the_columns_where_rows_are_few_or_odd(bench, kernel, cores):
    if kernel in ("mlp", "mlp_decode"):
        pytest.skip(f"{kernel} has no columns to share")
    for M, dtype in ((1, "bfloat16"), (17, "float32"), (129, "bfloat16")):
        tensors = bench.tensors(kernel, M, 200, 130, 600, dtype=dtype, bias=kernel not in BASELINES)
        plans = bench.run(kernel, tensors, cores=cores).plan
        assert {(plan.cores, plan.split) for plan in (plans if isinstance(plans, tuple) else [plans])} == {
            (cores, "N")
        }


@pytest.mark.parametrize(("M", "split"), [(258, "M"), (17, "N")])
def test_cores_share_the_first_half_of_an_mlp_with_a_shared_u(bench, M, split):
    tensors = bench.tensors("mlp_up", M, 200, 130, 300, bias=True, factored="fs")
    for order in ("forward", "reversed"):
        assert bench.run("mlp_up", tensors, cores=2, order=order).plan.split == split


def test_a_shared_u_gives_the_bits_of_two_equal_ones(bench):
    shared = bench.tensors("mlp_up", 130, 300, 128, 260, factored="fs")
    twice = {**shared, "up": shared["gate"]}
    assert same_bits(bench.run("mlp_up", shared).outputs[0], bench.run("mlp_up", twice).outputs[0])


@pytest.mark.parametrize("M", [1, 130])
def test_the_gated_product_continues_where_the_factors_were_gathered(bench, M):
    """X U of gate and of up by themselves, as after a collective, then the gated product: the bits of `mlp_up`."""
    whole = bench.tensors("mlp_up", M, 300, 128, 260, bias=True)
    names = {"gate_v": "gate", "up_v": "up", "gate_bias": "gate_bias", "up_bias": "up_bias"}
    tensors = {new: whole[old] for old, new in names.items()}
    for side in ("gate", "up"):
        (tensors[f"x_{side}"],) = bench.package.simulate(bench.kernel("matmul"), whole["x"], whole[side]).outputs
    assert same_bits(bench.run("gated_matmul", tensors).outputs[0], bench.run("mlp_up", whole).outputs[0])


def test_the_whole_mlp_on_two_cores_takes_an_even_number_of_rows(bench):
    for M in (2, 100):
        assert bench.run("mlp", bench.tensors("mlp", M, 150, 70, 200, bias=True), cores=2).plan.split == "M"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("M", [1, 2, 17, 64, 128])
def test_rows_of_a_decoding_batch(bench, kernel, M, dtype):
    for options, called in variants(kernel)[:2]:
        bench.run(kernel, bench.tensors(kernel, M, 300, 140, 400, dtype=dtype, **options), called)


@pytest.mark.parametrize("target", ["trn1", "inf2", "trn2", "trn3"])
def test_machines(bench, kernel, target):
    tensors = bench.tensors(kernel, *at_most_128_rows(kernel, (300, 600, 257, 700)))
    assert bench.run(kernel, tensors, target=target).machine.name == target


def test_large_activations_do_not_overflow(bench):
    for activation in ("silu", "gelu_tanh"):
        tensors = bench.tensors("mlp_up", 30, 140, 20, 150)
        tensors["gate_v"] = (100 * tensors["gate_v"].astype(np.float32)).astype(tensors["gate_v"].dtype)
        bench.run("mlp_up", tensors, {"activation": activation})


def test_torch_tensors_are_taken_too(bench):
    torch = pytest.importorskip("torch")
    tensors = bench.tensors("low_rank_fused", 5, 30, 7, 40)
    expected = bench.run("low_rank_fused", tensors).outputs[0]
    for key, value in tensors.items():
        if value is not None:
            tensors[key] = torch.from_numpy(value.astype(np.float32)).bfloat16()
    (actual,) = bench.package.simulate(bench.kernel("low_rank_fused"), **tensors).outputs
    assert same_bits(actual, expected)


def test_calling_a_kernel_simulates_it_where_there_is_no_sdk(bench, kernel, monkeypatch):
    monkeypatch.setenv("NEURONMM_NKI", "simulator")
    tensors = bench.tensors(kernel, 20, 150, 30, 140)
    expected = bench.run(kernel, tensors).outputs[0]
    assert same_bits(bench.kernel(kernel)(**tensors), expected)
    assert same_bits(bench.kernel(kernel)(*tensors.values()), expected)


def near_tiles(largest: int):
    """Sizes, most of them a multiple of 128 or its neighbour."""
    multiples = [
        n for k in range(largest // 128 + 1) for n in (128 * k - 1, 128 * k, 128 * k + 1) if 1 <= n <= largest
    ]
    return st.sampled_from(multiples) | st.integers(1, largest)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    M=near_tiles(300),
    K=near_tiles(400),
    r=near_tiles(400),
    N=near_tiles(400),
    dtype=st.sampled_from(["bfloat16", "float32"]),
    bias=st.booleans(),
    across=st.booleans(),
    factored=st.sampled_from(FACTORED),
    order=st.sampled_from(["forward", "reversed", "shuffled"]),
    activation=st.sampled_from(["silu", "gelu_tanh"]),
)
def test_any_shape(bench, kernel, M, K, r, N, dtype, bias, across, factored, order, activation):
    options, called = {"bias": bias, "x_transposed": across}, {"x_transposed": across}
    if kernel in BASELINES:
        options, called = {}, {}
    if kernel in (*MLPS, "gated_matmul"):
        options, called = {**options, "factored": factored}, {**called, "activation": activation}
    M, *others = at_most_128_rows(kernel, (M, K, r, N))
    bench.run(kernel, bench.tensors(kernel, M, *others, dtype=dtype, **options), called, order=order)
