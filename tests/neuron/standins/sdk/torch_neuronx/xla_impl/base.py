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
"""xla_hlo_call, evaluated eagerly.

The real decorator traces a function that builds HLO through "scribe" objects.  Here the same function
runs over a tiny scribe whose operations are executed by torch at once, so that the kernels written by
optimum-neuron (fill_prefix, dynamic_update_slice, rand_like) are exercised and not patched away.
"""

import functools

import torch


class _Dtype:
    def __init__(self, dtype, sizes=None):
        self._dtype, self._sizes = dtype, sizes

    def __getitem__(self, sizes):
        return _Dtype(self._dtype, tuple(sizes))

    def Constant(self, constant_value):  # noqa: N802
        return _Value(torch.tensor(constant_value, dtype=self._dtype))

    def DynamicUpdateSlice(self, tensor, update, *starts):  # noqa: N802
        out = tensor.value.clone()
        index = []
        for dim, start in enumerate(starts):
            # XLA clamps the start so that the update fits
            first = max(0, min(int(start.value), out.shape[dim] - update.value.shape[dim]))
            index.append(slice(first, first + update.value.shape[dim]))
        out[tuple(index)] = update.value.to(out.dtype)
        return _Value(out)

    def Rng(self, minimum, maximum, distribution=1):  # noqa: N802
        assert distribution == 1
        low, high = minimum.value, maximum.value
        return _Value(torch.rand(self._sizes, dtype=self._dtype) * (high - low) + low)


class _Scribe:
    u32 = _Dtype(torch.int64)


class _Value:
    scribe = _Scribe()

    def __init__(self, value):
        self.value = value

    @property
    def dtype(self):
        return _Dtype(self.value.dtype, tuple(self.value.shape))

    @property
    def sizes(self):
        return tuple(self.value.shape)


def xla_hlo_call(func):
    @functools.wraps(func)
    def wrapper(*args):
        return func(*[_Value(a) for a in args]).value

    return wrapper
