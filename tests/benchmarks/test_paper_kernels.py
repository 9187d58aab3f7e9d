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
"""The paper's pair of MLP kernels, rebuilt as a baseline: what was counted of the original, and what it computes."""

from collections import Counter

import ml_dtypes
import numpy as np
import pytest
import torch

from benchmarks.paper_kernels import (
    DOWN_BLOCKS,
    UP_BLOCKS,
    blocks_for,
    down_spared,
    fitted,
    fused_mlp_up_T,
    fused_three_mm_XTUV,
    pair,
    up_spared,
)
from optimum_neuronmm.kernels import Spec, simulate
from optimum_neuronmm.kernels.latency.instructions import documented
from optimum_neuronmm.kernels.reference import low_rank_matmul, mlp_up_reference


pytestmark = pytest.mark.simulation
H, R, I = 2048, 1280, 8192  # of what was counted  # noqa: E741


def counted(rows: int):
    """(trace, seconds that each engine is busy) of both kernels."""
    runs = [simulate(kernel, *(Spec(shape) for shape in shapes), dry=True) for kernel, shapes in pair(rows, H, R, I)]
    trace = runs[0].trace + runs[1].trace
    return trace, documented(runs[0].machine).busy(trace)


def test_counts_of_512_rows():
    trace, seconds = counted(512)
    assert trace.flops == pytest.approx(48.3e9, rel=0.05)
    assert trace.hbm_bytes == pytest.approx(99.6e6, rel=0.05)
    assert seconds["VectorE"] == pytest.approx(0.59e-3, rel=0.05)
    assert seconds["TensorE"] == pytest.approx(0.53e-3, rel=0.05)


def test_counts_of_one_row():
    trace, seconds = counted(1)
    assert trace.hbm_bytes == pytest.approx(78.7e6, rel=0.05)
    runs = {length: moved / length for length, moved in trace.runs.items()}
    assert runs[256] == pytest.approx(41e3, rel=0.05)
    assert runs[512] == pytest.approx(41e3, rel=0.05)
    assert trace.bytes_in_runs_of(2048) == pytest.approx(0.60, abs=0.03)
    assert 0.6 * seconds["DMA"] < seconds["VectorE"] < seconds["DMA"]  # "nears"


def test_the_rank_is_padded_to_whole_blocks():
    trace, _ = counted(512)
    assert trace.flops == 2 * 512 * 3 * 1536 * (H + I)  # 1280 in blocks of 512


def test_each_block_of_a_contraction_is_rounded_to_bfloat16():
    trace, _ = counted(512)
    added = {
        i.write.dtype for i, _ in trace.instructions() if i.name == "tensor_tensor" and i.reads[1].buffer == "psum"
    }
    assert added == {"bfloat16"}


def test_the_intermediate_goes_through_hbm():
    trace, _ = counted(512)
    assert trace.bytes_of("hT") == 2 * 512 * I * 2  # written by one kernel, read by the other


@pytest.mark.parametrize(
    ("rows", "up", "down"),
    [
        (1, (128, 128, 512, 1024), (1024, 256, 128, 2048)),
        (127, (128, 128, 512, 1024), (1024, 256, 128, 2048)),
        (128, (1024, 512, 512, 512), (1024, 256, 128, 2048)),
        (256, (1024, 512, 512, 512), (512, 256, 256, 2048)),
        (512, (1024, 512, 512, 2048), (512, 512, 512, 2048)),
        (513, (1024, 512, 1024, 128), (512, 256, 512, 2048)),
        (1024, (1024, 512, 512, 512), (512, 512, 1024, 512)),
        (4096, (1024, 512, 1024, 128), (512, 256, 1024, 2048)),
    ],
)
def test_blocks_by_rows(rows, up, down):
    for table, expected in ((UP_BLOCKS, up), (DOWN_BLOCKS, down)):
        blocks = blocks_for(table, rows)
        assert (blocks.depth, blocks.rank, blocks.rows, blocks.width) == expected


def test_a_block_larger_than_its_dimension_is_one_tile():
    assert fitted(1024, 1024, 512) == fitted(1024, 5000, 512) == 1024
    assert fitted(1024, 600, 512) == 512
    assert fitted(1024, 100, 512) == 100


def random(shape, rng) -> np.ndarray:
    return (rng.standard_normal(shape) / shape[0] ** 0.5).astype(ml_dtypes.bfloat16)


def exact(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64))


def error(result: np.ndarray, expected: torch.Tensor) -> float:
    """Root of the mean square error, over that of the result."""
    return ((exact(result) - expected).norm() / expected.norm()).item()


# Rows of each form: a row, a ragged tile, whole and ragged blocks; sizes below, at and above a block, and ragged.
@pytest.mark.parametrize(
    ("M", "hidden", "r", "intermediate"),
    [
        (1, 256, 128, 1024),
        (16, 200, 130, 1100),
        (130, 150, 600, 260),
        (300, 130, 90, 520),
        (600, 140, 128, 256),
        (1100, 130, 128, 256),
    ],
)
def test_numerics(M, hidden, r, intermediate):
    rng = np.random.default_rng(M)
    shapes = [shape for _, tensors in pair(M, hidden, r, intermediate) for shape in tensors]
    tensors = [random(shape, rng) for shape in shapes]
    tensors[0] = rng.standard_normal(shapes[0]).astype(ml_dtypes.bfloat16)
    x, gate, gate_v, up, up_v, _, down, down_v = tensors
    (hT,) = simulate(fused_mlp_up_T, x, gate, gate_v, up, up_v).outputs
    assert error(hT, mlp_up_reference(*map(exact, (x, gate, gate_v, up, up_v)))) < 0.02
    (y,) = simulate(fused_three_mm_XTUV, hT, down, down_v).outputs
    assert error(y, low_rank_matmul(exact(hT).T, exact(down), exact(down_v))) < 0.02
    # Zeros that are spared change nothing.
    assert (simulate(up_spared, x, gate, gate_v, up, up_v).outputs[0] == hT).all()
    assert (simulate(down_spared, hT, down, down_v).outputs[0] == y).all()


def test_zeros_that_are_spared():
    filled, left = (
        sum(
            (
                simulate(kernel, *map(Spec, shapes), dry=True).trace.counts
                for kernel, shapes in pair(512, H, R, I, spared)
            ),
            Counter(),
        )
        for spared in (False, True)
    )
    # Whole are X and h^T, all V and U but the last of three blocks of the rank.
    up, down = 2 + 2 * 2 * 2 + 4 * 2 * 2, 16 + 16 * 2 + 2
    assert filled["memset"] - left["memset"] == up + down
    assert {name: n for name, n in filled.items() if name != "memset"} == {
        n: c for n, c in left.items() if n != "memset"
    }


@pytest.mark.parametrize("order", ["reversed", "shuffled"])
def test_independent_of_the_order_of_affine_loops(order):
    rng = np.random.default_rng(0)
    up, down = ([random(shape, rng) for shape in tensors] for _, tensors in pair(130, 300, 600, 650))
    for kernel, tensors in ((fused_mlp_up_T, up), (fused_three_mm_XTUV, down)):
        (forward,), (other,) = (simulate(kernel, *tensors, order=o).outputs for o in ("forward", order))
        assert error(other, exact(forward)) < 0.005  # float32 sums in another order, seen through bfloat16
