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
"""The shapes that the kernels are asked for: products X U V, MLPs, and the ranks of the package's formula."""

from optimum_neuronmm.kernels import Spec
from optimum_neuronmm.ranks import Shape, uniform_rank


# The paper's block-size sweep (NeuronMM, arXiv 2510.25977): M, K, r, N.
SWEEP = (4096, 7168, 4096, 18432)
MODELS = {  # hidden and intermediate size
    "Llama-3.2-1B": (2048, 8192),
    "Llama-3.2-3B": (3072, 8192),
    "Qwen3-1.7B": (2048, 6144),
    "Qwen3-4B": (2560, 9728),
}
JUDGED = "Llama-3.2-1B"  # where one model stands for all
RATIO = 0.2
ROWS = (1, 16, 128, 512, 1024, 4096)
DECODE_ROWS = 128  # at most, for mlp_decode


def specs(*shapes) -> list:
    return [None if shape is None else Spec(shape) for shape in shapes]


def low_rank(M: int, K: int, r: int, N: int) -> list[Spec]:
    return specs((M, K), (K, r), (r, N))


def mlp_tensors(M: int, H: int, I: int, r: int | None) -> list[Spec | None]:  # noqa: E741
    if r is None:
        return specs((M, H), (H, I), None, (H, I), None, (I, H), None)
    return specs((M, H), (H, r), (r, I), (H, r), (r, I), (I, r), (r, H))


def rank(H: int, I: int, ratio: float) -> int | None:  # noqa: E741
    return uniform_rank(Shape(H, I), ratio, 128, 0.5)
