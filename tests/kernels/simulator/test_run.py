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
"""`simulate`: what it takes, what it gives, and the capacity of the machine."""

import functools
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
import torch

from optimum_neuronmm.kernels import KERNELS, KernelError, PlanError, SimulationError, Spec, get_machine, simulate
from optimum_neuronmm.kernels.simulator import isa as nisa
from optimum_neuronmm.kernels.simulator import language as nl


pytestmark = pytest.mark.simulation


def out(*shape, dtype=nl.float32, **options):
    return nl.ndarray(shape, dtype=dtype, buffer=nl.shared_hbm, **options)


def copied(x):
    y = out(*x.shape, dtype=x.dtype, name="y")
    nl.store(y, nl.load(x))
    return y


# Arguments


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_numpy_arrays(values, dtype):
    x = values(128, 16, dtype=dtype)
    result = simulate(copied, x)
    assert result.outputs[0].dtype == x.dtype and result.hbm_bytes == 2 * x.nbytes
    np.testing.assert_array_equal(result.outputs[0], x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_torch_tensors(dtype):
    x = torch.randn(128, 16, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    for dry in (False, True):
        (y,) = simulate(copied, x, dry=dry).outputs
        assert str(y.dtype) == str(dtype).removeprefix("torch.") and y.shape == (128, 16)
    np.testing.assert_array_equal(simulate(copied, x).outputs[0].astype("float32"), x.detach().float().numpy())


@pytest.mark.parametrize(
    "view", [lambda x: x.T, lambda x: x[::2, ::-1], lambda x: np.asfortranarray(x), lambda x: x[3:]]
)
def test_arrays_that_are_not_contiguous(values, view):
    x = view(values(64, 100))
    np.testing.assert_array_equal(simulate(copied, x).outputs[0], x)
    t = torch.from_numpy(values(64, 100)).T
    np.testing.assert_array_equal(simulate(copied, t).outputs[0], t.numpy())


def test_arguments_are_left_as_they_are(values):
    x = values(128, 16)
    before = x.copy()
    (y,) = simulate(copied, x).outputs
    y[...] = 0
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize(
    "x",
    [np.ones((4, 4)), np.ones((4, 4), int), np.ones((4, 4), bool), np.ones((4, 4), complex), np.ones((4, 4), ">f4"),
     np.array([["a"]]), np.array([[None]]), torch.ones(4, 4, dtype=torch.float64), torch.ones(4, 4, dtype=torch.int32)],
    ids=lambda x: str(x.dtype),
)  # fmt: skip
def test_other_data_types(refused, x):
    refused(copied, x, match="x: the simulator has the data types bfloat16, float16, float32, got [a-z<>]")


def test_shapes(refused):
    refused(copied, np.ones((0, 4), "float32"), match=r"x: the dimensions must be positive, got \[0, 4\]")
    refused(copied, torch.ones(4, 0), match=r"x: the dimensions must be positive, got \[4, 0\]")
    refused(copied, np.array(1, "float32"), match="x: a tensor has at least one dimension, got a number")


def test_what_is_no_tensor(refused):
    for value in ([[1.0]], 3, "x", object()):
        refused(
            copied,
            value,
            match=f"x: expected a NumPy array or a torch tensor, got {type(value).__name__}",
            dry=[False],
        )
        refused(
            copied, value, match=f"x: expected a Spec, or anything with .*, got {type(value).__name__}", dry=[True]
        )
    refused(copied, Spec((4, 4)), match="x: expected a NumPy array or a torch tensor, got Spec", dry=[False])
    refused(copied, torch.ones(4, 4, device="meta"), match="x: this torch tensor has no NumPy form", dry=[False])
    refused(copied, Spec((4, 4), "int4"), match="x: the simulator has the data types", dry=[True])
    refused(copied, Spec(4), match="x: a shape is a tuple of integers", dry=[True])


def test_calls_that_the_function_does_not_take(refused, values):
    def kernel(x, w):
        return copied(x)

    x = values(4, 4)
    refused(kernel, x, match=r"kernel\(x, w\): missing a required argument: 'w'")
    refused(kernel, x, x, x, match=r"kernel\(x, w\): too many positional arguments")
    refused(kernel, x, v=x, match=r"kernel\(x, w\): .*'?[vw]'?")
    refused(kernel, x, x, x=x, match="multiple values for argument 'x'")
    refused(lambda *xs: xs[0], x, match="a kernel names each of its tensors")
    refused(lambda x, **others: x, x, match="a kernel names each of its tensors")
    refused(None, x, match="a kernel or a function is expected, got None")
    refused("matmul", x, match="a kernel or a function is expected, got 'matmul'")


def test_functions_of_other_forms(values):
    class Callable:
        def __call__(self, x):
            return copied(x)

    def keywords(x, /, *, w, bias=None, factor=3):
        assert bias is None and factor == 3 and w.shape == (8, 4)
        return copied(x)

    x, w = values(4, 4), values(8, 4)
    for run in (
        simulate(lambda x: copied(x), x),
        simulate(Callable(), x=x),
        simulate(functools.partial(copied), x),
        simulate(keywords, x, w=w),
        simulate(keywords, x, w=w, bias=None),
    ):
        np.testing.assert_array_equal(run.outputs[0], x)


def test_kernels_of_the_package_bind_their_own_calls(values):
    with pytest.raises(KernelError, match="matmul: missing w"):
        simulate(KERNELS["matmul"], values(4, 4))


@pytest.mark.parametrize("cores", [0, -1, 1.5, "2", True])
def test_cores(refused, values, cores):
    refused(copied, values(4, 4), match="cores: (at least one|an integer) is expected, got", cores=cores)


def test_one_core_unless_said_otherwise(values):
    assert simulate(copied, values(4, 4)).trace.body[0].trips == 1
    assert simulate(copied, values(4, 4), cores=None).trace.body[0].trips == 1


@pytest.mark.parametrize("seed", ["1", 1.5, None])
def test_seeds(refused, values, seed):
    refused(copied, values(4, 4), match="seed: an integer is expected, got", seed=seed)


def test_plans(refused, values):
    x, w = values(128, 128), values(128, 64)
    refused(copied, x, match="a plain function takes no plan", plan=3)
    with pytest.raises(PlanError, match="matmul: expected a plan of this kernel, got int"):
        simulate(KERNELS["matmul"], x, w, plan=3)
    plan = KERNELS["matmul"].plan(x, w)
    assert simulate(KERNELS["matmul"], x, w, plan=plan).plan is plan


def test_what_a_dry_run_does_not_see(values):
    """Stated in the docstring of `simulate`: these are refused with data only."""

    def kernel(x):
        y, count = out(128, 16), 0
        for _ in nl.affine_range(2):
            nl.store(y[:, nl.ds(4 * count, 4)], nl.load(x[:, nl.ds(4 * count, 4)]))
            count += 1
        return y

    with pytest.raises(SimulationError, match="write the same"):  # the index is a number here
        simulate(kernel, values(128, 16), dry=True)

    def half(x):
        y = out(128, 16)
        nl.store(y[:, 0:8], nl.ndarray((128, 8), nl.float32))
        return y

    assert simulate(half, values(128, 16), dry=True).outputs == (Spec((128, 16), "float32"),)
    with pytest.raises(SimulationError, match="was never written"):
        simulate(half, values(128, 16))


def test_orders_and_targets(refused, values):
    refused(
        copied,
        values(4, 4),
        order="backwards",
        match="unknown order 'backwards': expected one of forward, reversed, shuffled",
    )
    with pytest.raises(KernelError, match="unknown target 'gpu'"):
        simulate(copied, values(4, 4), target="gpu")
    assert simulate(copied, values(4, 4), target=get_machine("trn2")).machine.name == "trn2"


# Outputs


@pytest.mark.parametrize(
    ("returned", "what"),
    [
        (lambda x, y: None, "None"),
        (lambda x, y: [y], r"\[<"),
        (lambda x, y: 3, "3"),
        (lambda x, y: (y, x), r"x\[128, 16\]"),
        (lambda x, y: nl.load(x), r"the result of load\[128, 16\]"),
        (lambda x, y: nl.zeros((128, 4), nl.float32), r"sbuf\[128, 4\]"),
        (lambda x, y: y[...], r"y\[128, 16\]"),
        (lambda x, y: nl.ndarray((128, 16), nl.float32, buffer=nl.private_hbm), r"hbm\[128, 16\]"),
    ],
)
def test_what_a_kernel_returns(refused, values, returned, what):
    def kernel(x):
        return returned(x, copied(x))

    refused(kernel, values(128, 16), match=rf"a kernel returns tensors that it made in nl.shared_hbm, .* got {what}")


def test_several_outputs(values):
    def kernel(x):
        return copied(x), copied(x)

    x = values(128, 16)
    first, second = simulate(kernel, x).outputs
    np.testing.assert_array_equal(first, second)


def rows(extent: int, step: int, trips: int, size: int = 16):
    """A kernel of two programs: each copies `trips` blocks of `size` rows of its half, `step` apart."""

    def kernel(x):
        y = out(*x.shape, name="y")
        first = nl.program_id(0) * (extent // 2)
        for i in nl.sequential_range(trips):
            block = nl.ds(first + i * step, size)
            nl.store(y[block, :], nl.load(x[block, :]))
        return y

    return kernel


def test_every_element_is_written_once(values):
    x = values(128, 8)
    np.testing.assert_array_equal(simulate(rows(128, 16, 4), x, cores=2).outputs[0], x)


@pytest.mark.parametrize("order", ["forward", "reversed", "shuffled"])
def test_a_tail_that_is_dropped(refused, values, order):
    message = r"y\[136, 8\]: 64 of 1088 elements were never written"  # 68 rows of a half, 4 * 16 of them copied
    refused(rows(136, 16, 4), values(136, 8), match=message, dry=[False], cores=2, order=order)


@pytest.mark.parametrize("order", ["forward", "reversed", "shuffled"])
def test_blocks_that_overlap(refused, values, order):
    message = r"y\[16, 8\] of y\[128, 8\]: an element in HBM is written twice"
    refused(rows(128, 12, 5), values(128, 8), match=message, dry=[False], cores=2, order=order)


def test_programs_that_overlap(refused, values):
    message = r"different programs of 2 write overlapping regions y\[16, 8\] of y\[128, 8\]: each starts 48 after"
    refused(rows(96, 16, 4), values(128, 8), match=message, cores=2)


# Capacity


def filled(*columns: int, buffer=nl.sbuf, together=True):
    """A kernel with a tile of each size, all of them live at once or one after the other."""

    def kernel(x):
        y, tiles = out(128, 4), []
        for number, n in enumerate(columns):
            tile = nl.ndarray((128, n), dtype=nl.float32, buffer=buffer, name=f"tile{number}")
            tile[:, 0:4] = nisa.memset((128, 4), 0, nl.float32)
            tiles.append(tile)
            if not together:
                nl.copy(tile[:, 0:4])
        if together:
            for tile in tiles:
                nl.copy(tile[:, 0:4])
        nl.store(y, nl.load(x))
        return y

    return kernel


def test_capacity_of_sbuf(refused, values):
    x = values(128, 4)
    refused(
        filled(100, 25600, 24000),
        x,
        match=r"198\d\d\d bytes per partition of sbuf are live at once, trn1 has 196608; the largest of \d tiles are"
        r" tile1\[128, 25600\] of float32: 102400, tile2\[128, 24000\] of float32: 96000, tile0\[128, 100\] of float32: 400",
    )
    simulate(filled(100, 25600, 24000), x, target="trn2", dry=True)
    simulate(filled(100, 25600, 24000, together=False), x, dry=True)


def test_banks_of_psum(refused, values):
    x = values(128, 4)
    banks = r"18432 bytes per partition of psum are live at once, trn1 has 16384; the largest of 9 tiles are tile0\[128, 8\]"
    refused(filled(*[8] * 9, buffer=nl.psum), x, match=banks)
    refused(filled(*[512] * 9, buffer=nl.psum), x, match="18432 bytes per partition of psum are live at once")
    simulate(filled(*[8] * 8, buffer=nl.psum), x)
    simulate(filled(*[8] * 9, buffer=nl.psum, together=False), x)


def test_what_would_spill_is_flagged_only(values):
    x = values(128, 4)
    limit = int(0.9 * 192 * 1024) // 4  # numbers per partition
    assert not simulate(filled(limit // 2, limit // 2 - 8), x, dry=True).spills
    assert simulate(filled(limit // 2, limit // 2 + 8), x, dry=True).spills


def test_each_kernel_of_a_pipeline_is_checked(values):
    shapes = [(130, 256), (256, 128), (128, 300), (256, 128), (128, 300), (300, 128), (128, 256)]
    result = simulate(KERNELS["mlp_two_kernels"], *(values(*shape, dtype="bfloat16") for shape in shapes))
    assert len(result.plan) == 2 and len(result.trace.body) == 2
    assert result.outputs[0].shape == (130, 256) and result.outputs[0].dtype == ml_dtypes.bfloat16


def test_unrolled_loops_compute_the_same(values):
    x, w = values(300, 256, dtype="bfloat16"), values(256, 600, dtype="bfloat16")
    looped, unrolled = (simulate(KERNELS["matmul"], x, w, unroll=unroll) for unroll in (False, True))
    np.testing.assert_array_equal(looped.outputs[0], unrolled.outputs[0])
    assert looped.trace.counts == unrolled.trace.counts and looped.hbm_bytes == unrolled.hbm_bytes
    assert not any(loop.kind == "affine" for loop in unrolled.trace.body[0].body if hasattr(loop, "kind"))


def test_an_error_leaves_no_run_behind(refused, values):
    refused(copied, np.ones((129, 4), "float32"), match="load: .* has 129 partitions")
    with pytest.raises(SimulationError, match="an NKI operation was called outside of simulate"):
        nl.num_programs()
    simulate(copied, values(4, 4))


def test_threads_do_not_see_each_others_runs(values):
    x = [values(128, 64, seed=seed) for seed in range(6)]

    def work(number):
        return [simulate(rows(128, 16, 4), x[number], cores=2, order="shuffled") for _ in range(4)]

    with ThreadPoolExecutor(6) as pool:
        for expected, results in zip(x, pool.map(work, range(6)), strict=True):
            assert len(results) == 4
            for result in results:
                np.testing.assert_array_equal(result.outputs[0], expected)
                assert result.trace.counts == {"load": 8, "store": 8}
