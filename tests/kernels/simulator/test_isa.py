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
"""The instructions: their values against NumPy, their limits, and what they count."""

import ml_dtypes
import numpy as np
import pytest

from optimum_neuronmm.kernels import simulate
from optimum_neuronmm.kernels.simulator import isa as nisa
from optimum_neuronmm.kernels.simulator import language as nl


pytestmark = pytest.mark.simulation


def out(*shape, dtype=nl.float32):
    return nl.ndarray(shape, dtype=dtype, buffer=nl.shared_hbm)


def computed(operation, *tensors, dtype=nl.float32, **options):
    """(values, trace) of one operation on loaded tensors."""

    def call(tensors):
        result = nl.copy(operation(*map(nl.load, tensors)), dtype=dtype)
        y = out(*result.shape, dtype=dtype)
        nl.store(y, result)
        return y

    kernels = {1: lambda a: call([a]), 2: lambda a, b: call([a, b])}
    result = simulate(kernels[len(tensors)], *tensors, **options)
    return result.outputs[0], result.trace


# nc_matmul


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_nc_matmul(values, dtype):
    a, b = values(96, 40, dtype=dtype), values(96, 300, dtype=dtype, seed=1)
    y, trace = computed(nisa.nc_matmul, a, b)
    np.testing.assert_allclose(y, a.astype(np.float64).T @ b.astype(np.float64), rtol=1e-5, atol=1e-4)
    (matmul,) = [i for i, _ in trace.instructions() if i.name == "nc_matmul"]
    assert (matmul.engine, matmul.flops, matmul.write.buffer) == ("TensorE", 2 * 96 * 40 * 300, "psum")
    assert [o.shape for o in matmul.reads] == [(96, 40), (96, 300)] and matmul.write.shape == (40, 300)


def test_nc_matmul_of_several_free_dimensions(values):
    a, b = values(64, 2, 16), values(64, 4, 8, seed=1)
    y, _ = computed(lambda a, b: nisa.nc_matmul(a[0:64, 0:2, :], b), a, b)
    np.testing.assert_allclose(y, a.reshape(64, 32).T @ b.reshape(64, 32), rtol=1e-5, atol=1e-4)


def test_sizes_of_nc_matmul(body):
    def matmul(K, S, K_moving, N):
        return lambda x: nisa.nc_matmul(nl.load(x[0:K, 0:S]), nl.load(x[0:K_moving, 0:N]))

    body(
        matmul(128, 4, 64, 4),
        match=r"nc_matmul: the partition sizes of stationary .*\[128, 4\] and moving .*\[64, 4\] differ",
    )
    body(
        matmul(128, 129, 128, 4),
        match=r"free size of the stationary operand is at most 128, stationary load\[128, 129\]",
    )

    def wide(x):
        t = nl.zeros((128, 513), dtype=nl.float32, buffer=nl.sbuf)
        nisa.nc_matmul(t[:, 0:4], t)

    body(
        wide,
        match=r"the free size of the moving operand is at most 512, stationary sbuf\[128, 4\] and moving sbuf\[128, 513\]",
    )


def test_operands_of_nc_matmul(body):
    def psum(x):
        t = nl.load(x[:, 0:128])
        nisa.nc_matmul(nisa.nc_matmul(t, t), t)

    def mixed(x):
        t = nl.load(x[:, 0:128])
        nisa.nc_matmul(t, nl.copy(t, dtype=nl.bfloat16))

    body(lambda x: nisa.nc_matmul(x, x), match=r"nc_matmul: stationary: x\[128, 512\] is in hbm, and must be in sbuf")
    body(psum, match=r"nc_matmul: stationary: nc_matmul\[128, 128\] is in psum, and must be in sbuf")
    body(lambda x: nisa.nc_matmul(1.0, x), match="nc_matmul: stationary: a tile is expected, got float")
    body(
        lambda x: nisa.nc_matmul(nl.load(x[:, 0:4]), None), match="nc_matmul: moving: a tile is expected, got NoneType"
    )
    body(mixed, match="nc_matmul: both operands are float32 or none is, stationary is float32, moving bfloat16")


# nc_transpose


@pytest.mark.parametrize(("target", "dtype"), [("trn1", "float32"), ("trn2", "bfloat16")])
def test_nc_transpose_on_the_tensor_engine(values, target, dtype):
    def operation(a):
        result = nisa.nc_transpose(a, engine=nisa.engine.tensor)
        assert (result.dtype, result.buffer) == (np.dtype(dtype), "psum")
        return result

    a = values(96, 100, dtype="bfloat16")
    y, trace = computed(operation, a, dtype=nl.bfloat16, target=target)
    np.testing.assert_array_equal(y, a.T)
    assert (trace.flops, trace.transpose_flops) == (0, 2 * 96 * 96 * 100)


def test_nc_transpose_on_the_vector_engine(values):
    a = values(32, 20)
    y, trace = computed(nisa.nc_transpose, a)  # small tiles go there by themselves
    np.testing.assert_array_equal(y, a.T)
    (transpose,) = [i for i, _ in trace.instructions() if i.name == "nc_transpose"]
    assert (transpose.engine, transpose.flops, transpose.write.buffer) == ("VectorE", 0, "sbuf")


def test_limits_of_nc_transpose(body):
    def of(p, f, **options):
        return lambda x: nisa.nc_transpose(nl.load(x[0:p, 0:f]), **options)

    def from_psum(x):
        t = nl.load(x[:, 0:128])
        nisa.nc_transpose(nisa.nc_matmul(t, t))

    E = nisa.engine
    body(of(128, 129), match=r"nc_transpose on TensorE: at most 128 x 128, got load\[128, 129\]")
    body(of(32, 33, engine=E.vector), match=r"nc_transpose on VectorE: at most 32 x 32, got load\[32, 33\]")
    body(of(32, 32, engine=E.scalar), match="nc_transpose: runs on vector or tensor, not on engine.scalar")
    body(of(32, 32, engine="vector"), match="nc_transpose: runs on vector or tensor, not on vector")
    body(of(64, 64, dtype=nl.bfloat16), match="nc_transpose: the result of .* is float32, bfloat16 would add a cast")
    body(of(64, 64, dtype=int), match="nc_transpose: dtype: the simulator has the data types")
    body(from_psum, match=r"nc_transpose on TensorE reads SBUF, nc_matmul\[128, 128\] is in psum")


@pytest.mark.parametrize(
    ("target", "generation"), [("trn1", "gen2"), ("inf2", "gen2"), ("trn2", "gen3"), ("trn3", "gen4")]
)
def test_generations(values, target, generation):
    def operation(a):
        assert nisa.get_nc_version() is nisa.nc_version[generation]
        return a

    computed(operation, values(4, 4), target=target)


# activation


ACTIVATIONS = {
    "silu": (nl.silu, lambda x: x / (1 + np.exp(-x))),
    "gelu": (nl.gelu_apprx_tanh, lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))),
    "copy": (nl.copy, lambda x: x),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(values, name):
    op, expected = ACTIVATIONS[name]
    a, bias = values(128, 64), values(128, 1, seed=1)
    y, trace = computed(lambda a, b: nisa.activation(op, a, bias=b, scale=0.5), a, bias)
    np.testing.assert_allclose(y, expected(a.astype(np.float64) * 0.5 + bias), rtol=1e-5, atol=1e-6)
    (activation,) = [i for i, _ in trace.instructions() if i.name == "activation"]
    assert activation.engine == "ScalarE" and activation.attributes["scale"] == 0.5


@pytest.mark.parametrize("op", [nl.silu, nl.gelu_apprx_tanh])
def test_activations_of_the_language(values, op):
    a = values(128, 64)
    y, _ = computed(op, a)
    z, _ = computed(lambda a: nisa.activation(op, a), a)
    np.testing.assert_array_equal(y, z)


def test_activations_round_once(values):
    a = values(128, 64, dtype="bfloat16")
    y, _ = computed(lambda a: nisa.activation(nl.silu, a), a, dtype=nl.bfloat16)
    x = a.astype(np.float32)
    np.testing.assert_array_equal(y, (x / (1 + np.exp(-x))).astype(ml_dtypes.bfloat16))


@pytest.mark.filterwarnings("error")
def test_large_numbers_overflow_in_silence():
    a = np.array([[-1e38, 1e38, -100.0, 3e38]], "float32")
    y, _ = computed(nl.silu, a)
    np.testing.assert_array_equal(y, np.array([[0, 1e38, 0, 3e38]], "float32"))


def test_arguments_of_activation(body):
    def of(op=nl.silu, **options):
        return lambda x: nisa.activation(op, nl.load(x), **options)

    body(of(np.exp), match="activation: unknown function .*, the simulator has silu, gelu_apprx_tanh, copy")
    body(of(["silu"]), match="activation: unknown function")
    body(of(scale="2"), match="activation: the simulator takes a number as scale, got str")
    body(lambda x: nisa.activation(nl.silu, nl.load(x), scale=nl.load(x)), match="takes a number as scale, got Result")
    body(
        lambda x: nisa.activation(nl.silu, nl.load(x), bias=nl.load(x)),
        match=r"bias must be a vector \[128, 1\], got load",
    )
    body(
        lambda x: nisa.activation(nl.silu, nl.load(x), bias=1.0),
        match="activation: bias: a tile is expected, got float",
    )
    body(lambda x: nisa.activation(nl.silu, x), match=r"activation: data: x\[128, 512\] is in hbm")
    body(of(dtype=np.float64), match="activation: dtype: the simulator has the data types")


# tensor_tensor, tensor_copy, memset


@pytest.mark.parametrize(("op", "function"), [(np.add, nl.add), (np.multiply, nl.multiply)])
def test_tensor_tensor(values, op, function):
    a, b = values(128, 64), values(128, 64, seed=1)
    for operation in (
        lambda a, b: nisa.tensor_tensor(a, b, op=op),
        lambda a, b: nisa.tensor_tensor(a, b, function),
        function,
    ):
        y, trace = computed(operation, a, b)
        np.testing.assert_array_equal(y, op(a, b))
        assert trace.counts["tensor_tensor"] == 1


def test_the_data_type_of_tensor_tensor(values):
    a, b = values(8, 8, dtype="bfloat16"), values(8, 8, seed=1)

    def operation(a, b):
        assert nisa.tensor_tensor(a, b, op=np.add).dtype == np.float32
        assert nisa.tensor_tensor(a, a, op=np.add).dtype == ml_dtypes.bfloat16
        return nisa.tensor_tensor(a, b, op=np.add, dtype=nl.bfloat16)

    y, _ = computed(operation, a, b, dtype=nl.bfloat16)
    np.testing.assert_array_equal(y, (a.astype("float32") + b).astype(ml_dtypes.bfloat16))


def test_one_operand_of_tensor_tensor_may_be_in_psum(values, body):
    def from_psum(a, b):
        return nisa.tensor_tensor(nisa.nc_matmul(a, b), a, op=np.add)

    a, b = values(64, 64), values(64, 64, seed=1)
    y, _ = computed(from_psum, a, b)
    np.testing.assert_allclose(y, a.T @ b + a, rtol=1e-5, atol=1e-5)

    def both(x):
        t = nl.load(x[:, 0:128])
        nisa.tensor_tensor(nisa.nc_matmul(t, t), nisa.nc_matmul(t, t), op=np.add)

    body(
        both,
        match=r"tensor_tensor: nc_matmul\[128, 128\] and nc_matmul\[128, 128\] are both in PSUM, at most one may be",
    )


def test_arguments_of_tensor_tensor(body):
    def of(op=np.add, columns=512, **options):
        return lambda x: nisa.tensor_tensor(nl.load(x), nl.load(x[:, 0:columns]), op, **options)

    body(of(np.subtract), match="tensor_tensor: unknown op <ufunc 'subtract'>, the simulator has add, multiply")
    body(of([]), match="tensor_tensor: unknown op")
    body(of(columns=511), match=r"tensor_tensor: the shapes of load\[128, 512\] and load\[128, 511\] differ")
    body(of(engine=nisa.engine.tensor), match="tensor_tensor: runs on vector or gpsimd, not on engine.tensor")
    body(of(dtype="int8"), match="tensor_tensor: dtype: the simulator has the data types")
    body(lambda x: nl.add(nl.load(x), 1.0), match="tensor_tensor: data2: a tile is expected, got float")


@pytest.mark.parametrize("engine", ["vector", "scalar", "gpsimd"])
def test_tensor_copy(values, engine):
    a = np.float32(1) + values(128, 4) / np.float32(300)
    y, trace = computed(
        lambda a: nisa.tensor_copy(a, dtype=nl.bfloat16, engine=nisa.engine[engine]), a, dtype=nl.bfloat16
    )
    np.testing.assert_array_equal(y, a.astype(ml_dtypes.bfloat16))
    first = next(i for i, _ in trace.instructions() if i.name == "tensor_copy")
    assert first.engine == {"vector": "VectorE", "scalar": "ScalarE", "gpsimd": "GpSimdE"}[engine]


def test_arguments_of_tensor_copy(body):
    def psum(x):
        t = nl.load(x[:, 0:128])
        nisa.tensor_copy(nisa.nc_matmul(t, t), engine=nisa.engine.gpsimd)

    def add_psum(x):
        t = nl.load(x[:, 0:128])
        nisa.tensor_tensor(t, nisa.nc_matmul(t, t), op=np.add, engine=nisa.engine.gpsimd)

    body(psum, match=r"tensor_copy: GpSimdE has no access to PSUM, where nc_matmul\[128, 128\] is")
    body(add_psum, match=r"tensor_tensor: GpSimdE has no access to PSUM, where nc_matmul\[128, 128\] is")
    body(lambda x: nisa.tensor_copy(x), match="tensor_copy: src: .* is in hbm, and must be in sbuf or psum")
    body(
        lambda x: nisa.tensor_copy(nl.load(x), engine=nisa.engine.tensor),
        match="tensor_copy: runs on vector or scalar or gpsimd",
    )


def test_memset(values):
    y, trace = computed(lambda a: nisa.memset((128, 4), 1.5, nl.float32, engine=nisa.engine.gpsimd), values(4, 4))
    np.testing.assert_array_equal(y, np.full((128, 4), 1.5))
    (memset,) = [i for i, _ in trace.instructions() if i.name == "memset"]
    assert memset.engine == "GpSimdE" and memset.attributes == {"value": 1.5}


def test_arguments_of_memset(body):
    body(lambda x: nisa.memset(4, 0, nl.float32), match="memset: a shape is a tuple of integers, got 4")
    body(lambda x: nisa.memset((4, 0), 0, nl.float32), match="memset: the dimensions must be positive")
    body(lambda x: nisa.memset((4, 4), "0", nl.float32), match="memset: a number is expected, got str")
    body(lambda x: nisa.memset((4, 4), 0, None), match="memset: the simulator has the data types")
    body(
        lambda x: nl.copy(nisa.memset((129, 4), 0, nl.float32)), match=r"a tile \[129, 4\] in sbuf has 129 partitions"
    )
    body(
        lambda x: nisa.memset((4, 4), 0, nl.float32, engine=nisa.engine.scalar),
        match="memset: runs on vector or gpsimd",
    )

    def by_index(x):
        for i in nl.affine_range(4):
            nisa.memset((4, 4), i, nl.float32)

    body(by_index, match="memset: a number is expected, got Affine")


# dma_copy


def test_dma_copy(values):
    def kernel(x):
        y, t = out(128, 64), nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=t, src=x)
        nisa.dma_copy(dst=y, src=t[:, 32:96])
        return y

    x = values(128, 128)
    result = simulate(kernel, x)
    np.testing.assert_array_equal(result.outputs[0], x[:, 32:96])
    assert result.trace.counts == {"load": 1, "store": 1}
    assert result.trace.runs == {128 * 4: 128 * 128 * 4, 64 * 4: 128 * 64 * 4}


def test_arguments_of_dma_copy(body):
    def tile(dtype=nl.float32, buffer=nl.sbuf):
        return nl.ndarray((128, 512), dtype=dtype, buffer=buffer)

    body(lambda x: nisa.dma_copy(dst=out(128, 512), src=x), match="copies between HBM and SBUF, got hbm to hbm")
    body(lambda x: nisa.dma_copy(dst=tile(), src=tile()), match="copies between HBM and SBUF, got sbuf to sbuf")
    body(
        lambda x: nisa.dma_copy(dst=tile(buffer=nl.psum), src=x),
        match="dma_copy: dst: psum.* is in psum, and must be in sbuf or hbm",
    )
    body(
        lambda x: nisa.dma_copy(dst=tile(nl.bfloat16), src=x),
        match="dma_copy: float32 is copied to bfloat16: a DMA does not cast",
    )
    body(lambda x: nisa.dma_copy(dst=tile(), src=x[:, 0:8]), match="the shapes differ")
    body(lambda x: nisa.dma_copy(dst=x[:, 0:8], src=tile()), match="store: .* is stored to .*: the shapes differ")
