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
"""Kernels in a row: what one launch cannot hold, or must be cut for a collective."""

from collections.abc import Callable, Generator
from dataclasses import dataclass

from .dense import matmul
from .errors import PlanError
from .gated_mlp import mlp, mlp_up
from .gated_planners import check_mlp
from .kernel import KERNELS, Kernel, tensors_and_settings
from .low_rank import low_rank_fused
from .reference import mlp_reference


@dataclass(frozen=True, eq=False)
class Pipeline(Kernel):
    """A kernel made of kernels: `body` is a generator that yields (kernel, tensors, settings) and is sent the outputs."""

    def steps(self, tensors: dict, settings: dict) -> Generator:
        return self.body(**{name: tensors.get(name) for name in self.tensors}, **settings)

    def run(self, launch: Callable, *args, **kwargs):
        """What the last kernel gives, with each launched by launch(kernel, **tensors, **settings)."""
        steps = self.steps(*self.bind(*args, **kwargs))
        output = None
        while True:
            try:
                kernel, tensors, settings = steps.send(output)
            except StopIteration:
                return output
            output = launch(kernel, **tensors, **settings)

    def planned(self, *args, **kwargs):
        raise PlanError(f"{self.name} is a pipeline and plans each of its kernels: it takes no plan")

    plan = planned

    def __call__(self, *args, target="trn1", cores: int | None = None, plan=None, **kwargs):
        if plan is not None:
            self.planned(plan)
        return self.run(lambda kernel, **call: kernel(target=target, cores=cores, **call), *args, **kwargs)


def _mlp_two_kernels(
    x, gate, gate_v, up, up_v, down, down_v, gate_bias=None, up_bias=None, down_bias=None, *,
    activation="silu", x_transposed=False,
):  # fmt: skip
    """Y = (activation(X gate) * (X up)) down in two kernels, h^T through HBM: for more rows than `mlp` keeps in SBUF.

    The paper's Algorithm 3 (NeuronMM, arXiv 2510.25977). Args and Returns: those of `mlp`.

    Pseudocode:
        h^T = mlp_up(X, gate, up)
        Y = low_rank_fused(h^T, Ud, Vd), or matmul(h^T, down) where down is dense
    """
    arguments = dict(locals())
    shapes = {name: tensor.shape for name, tensor in arguments.items() if name in _TENSORS and tensor is not None}
    check_mlp(shapes, x_transposed)
    halves = {
        "x": x,
        "gate": gate,
        "gate_v": gate_v,
        "up": up,
        "up_v": up_v,
        "gate_bias": gate_bias,
        "up_bias": up_bias,
    }
    hT = yield mlp_up, halves, {"activation": activation, "x_transposed": x_transposed}
    if down_v is None:
        yield matmul, {"x": hT, "w": down, "bias": down_bias}, {"x_transposed": True}
    else:
        yield low_rank_fused, {"x": hT, "u": down, "v": down_v, "bias": down_bias}, {"x_transposed": True}


_mlp_two_kernels.__name__ = "mlp_two_kernels"
_TENSORS, _SETTINGS = tensors_and_settings(_mlp_two_kernels)
mlp_two_kernels = Pipeline(_mlp_two_kernels, mlp_reference, None, _TENSORS, _SETTINGS, mlp.absent)
KERNELS[mlp_two_kernels.name] = mlp_two_kernels
