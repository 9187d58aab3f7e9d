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
"""The bench that kernels are measured on: their tensors, and the one rule that says how far they may be from the truth."""

import dataclasses
import importlib

import ml_dtypes
import numpy as np
import pytest
import torch


DTYPES = {"bfloat16": (ml_dtypes.bfloat16, torch.bfloat16), "float32": (np.float32, torch.float32)}
SAMPLE = 2048  # elements of a product at least, for its error to be more than luck
NAMES = (
    "matmul_tiled",
    "matmul_blocked",
    "matmul",
    "gated_matmul",
    "low_rank_sequential",
    "low_rank_naive",
    "low_rank_fused",
    "mlp_up",
    "mlp",
    "mlp_decode",
    "mlp_two_kernels",
)


def _torch(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64)).to(dtype)


def is_input(key: str) -> bool:
    """Whether a tensor of this name holds activations."""
    return key.startswith("x")


def with_rows(x: np.ndarray, more: int, across: bool, rng) -> np.ndarray:
    """Activations with so many random rows added."""
    shape = (len(x), more) if across else (more, x.shape[1])
    return np.concatenate([x, rng.standard_normal(shape).astype(x.dtype)], axis=1 if across else 0)


class Bench:
    """Runs kernels of a package in its simulator.

    Sizes of a case are M, K, r, N: for an MLP K is the hidden and N the intermediate size; the inputs of `gated_matmul`
    have K and r columns. `factored` has an `f` (U V) or a `d` (W) for each of gate, up and down, or an `s` (gate's U
    and a V) for up; their ranks are r, r + 1 (r with an `s`) and r.
    """

    def __init__(self, package):
        self.package = package

    def kernel(self, name: str):
        return getattr(self.package, name)

    def shapes(self, name, M, K, r, N, bias=False, x_transposed=False, factored="fff") -> dict:
        """Shapes of a kernel's tensors by argument name, absent ones left out."""
        x = (K, M) if x_transposed else (M, K)
        if name in ("matmul_tiled", "matmul_blocked"):
            return {"xT": (K, M), "w": (K, N)}
        if name == "matmul":
            return {"x": x, "w": (K, N), **({"bias": (N,)} if bias else {})}
        if name == "gated_matmul":
            x_up = (r, M) if x_transposed else (M, r)
            biases = {"gate_bias": (N,), "up_bias": (N,)} if bias else {}
            return {"x_gate": x, "gate": (K, N), "x_up": x_up, "up": (r, N), **biases}
        if name.startswith("low_rank"):
            return {"x": x, "u": (K, r), "v": (r, N), **({"bias": (N,)} if bias else {})}
        shapes, sides = {"x": x}, [("gate", K, r, N), ("up", K, r + 1, N), ("down", N, r, K)]
        for (side, inner, rank, outer), how in zip(sides[: 2 if name == "mlp_up" else 3], factored, strict=False):
            forms = {
                "f": {side: (inner, rank), f"{side}_v": (rank, outer)},
                "d": {side: (inner, outer)},
                "s": {f"{side}_v": (r, outer)},
            }
            shapes |= forms[how] | ({f"{side}_bias": (outer,)} if bias else {})
        return shapes

    def call(self, name, shapes: dict, make) -> dict:
        """Arguments of a kernel: make(shape) for the tensors that are there, None for the others."""
        return {key: make(key, shapes[key]) if key in shapes else None for key in self.kernel(name).tensors}

    def tensors(self, name, *sizes, dtype="bfloat16", seed=0, **options) -> dict:
        """Random arrays: activations and products of about unit size."""
        rng, numpy_dtype = np.random.default_rng(seed), DTYPES[dtype][0]

        def make(key, shape):
            scale = 1.0 if is_input(key) or len(shape) == 1 else shape[0] ** -0.5
            return (scale * rng.standard_normal(shape)).astype(numpy_dtype)

        return self.call(name, self.shapes(name, *sizes, **options), make)

    def specs(self, name, *sizes, dtype="bfloat16", **options) -> dict:
        make = self.package.Spec
        return self.call(name, self.shapes(name, *sizes, **options), lambda key, shape: make(shape, dtype))

    def blocked(self, name, tensors: dict, options=None, settings=None, **changes):
        """A kernel's plan with other blocks: `stages` as {stage: (width, depth, group)}."""
        plan = self.kernel(name).plan(**tensors, **(settings or {}), **(options or {}))
        stages = {key: self.package.Blocks(*blocks) for key, blocks in changes.pop("stages", {}).items()}
        assert not stages or set(stages) == set(plan.stages), "a stage of the plan is missing here"
        return dataclasses.replace(plan, **changes, **({"stages": stages} if stages else {}))

    def twin(self, name, tensors: dict, dtype: torch.dtype, **settings) -> np.ndarray:
        arguments = {key: None if value is None else _torch(value, dtype) for key, value in tensors.items()}
        with torch.no_grad():
            return self.kernel(name).reference(**arguments, **settings).double().numpy()

    def errors(self, name, tensors: dict, output: np.ndarray, **settings) -> tuple[float, float]:
        """(error of `output`, error of its twin in the same data type), the largest of any element, against float64.

        The twin also gets rows of its own where the product is small: of a handful of elements it may be right by luck.
        """
        exact = self.twin(name, tensors, torch.float64, **settings)
        assert output.shape == exact.shape
        error = np.abs(output.astype(np.float64) - exact).max()
        inputs = [key for key in tensors if is_input(key)]
        across = "xT" in inputs or settings.get("x_transposed", False)
        x = tensors[inputs[0]]
        M, dtype = x.shape[1 if across else 0], DTYPES[str(x.dtype)][1]
        more = -(-SAMPLE * M // exact.size) - M
        if more > 0:
            rng = np.random.default_rng(1)
            tensors = {**tensors, **{key: with_rows(tensors[key], more, across, rng) for key in inputs}}
            exact = self.twin(name, tensors, torch.float64, **settings)
        return error, np.abs(self.twin(name, tensors, dtype, **settings) - exact).max()

    def check(self, name, tensors: dict, output: np.ndarray, **settings) -> None:
        """The rule: at most twice the error of the torch composition in the same data type, plus 1e-6."""
        assert str(output.dtype) == str(next(iter(tensors.values())).dtype)
        error, allowed = self.errors(name, tensors, output, **settings)
        assert error <= 2 * allowed + 1e-6, f"error {error:.3g}, of the composition {allowed:.3g}"

    def run(self, name, tensors: dict, settings=None, **options):
        """Simulates a kernel and holds its output to the rule."""
        settings = settings or {}
        result = self.package.simulate(self.kernel(name), **tensors, **settings, **options)
        (output,) = result.outputs
        self.check(name, tensors, output, **settings)
        return result


@pytest.fixture(scope="session", params=NAMES)
def kernel(request) -> str:
    """The name of each kernel in turn."""
    return request.param


@pytest.fixture(scope="session")
def make_bench():
    """Bench(package): for a package of kernels other than the installed one."""
    return Bench


@pytest.fixture(scope="session")
def bench() -> Bench:
    return Bench(importlib.import_module("optimum_neuronmm.kernels"))
