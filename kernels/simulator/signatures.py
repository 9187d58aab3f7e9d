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
"""The signatures of `neuronxcc.nki` (Beta 1) that the simulator knows, and the binding of calls to them.

Parameters, their kinds and their defaults are those that the Neuron documentation of SDK 2.26.1 gives
(`nki/api/nki/language/__init__.py`, `nki/api/nki/isa/__init__.py`). A call that the documented signature would not take is
refused here as it would be there; so is a documented parameter that the simulator does not model.
"""

import functools
import inspect

from ..errors import SimulationError


class language:  # noqa: N801
    """`neuronxcc.nki.language`"""

    def ndarray(shape, dtype, *, buffer=None, name=""): ...
    def zeros(shape, dtype, *, buffer=None, name=""): ...
    def affine_range(*args): ...
    def sequential_range(*args): ...
    def static_range(*args): ...
    def arange(*args): ...
    def ds(start, size): ...
    def program_id(axis): ...
    def num_programs(axes=None): ...
    def load(src, *, mask=None, dtype=None): ...
    def store(dst, value, *, mask=None): ...
    def load_transpose2d(src, *, mask=None, dtype=None): ...
    def matmul(x, y, *, transpose_x=False, mask=None): ...
    def copy(src, *, mask=None, dtype=None): ...
    def add(x, y, *, dtype=None, mask=None): ...
    def multiply(x, y, *, dtype=None, mask=None): ...
    def silu(x, *, dtype=None, mask=None): ...
    def gelu_apprx_tanh(x, *, dtype=None, mask=None): ...


class isa:  # noqa: N801
    """`neuronxcc.nki.isa`; `engine=None` stands for the enumeration's `unknown`."""

    def nc_matmul(
        stationary, moving, *, is_stationary_onezero=False, is_moving_onezero=False, is_transpose=False,
        tile_position=(), tile_size=(), mask=None,
    ): ...  # fmt: skip
    def nc_transpose(data, *, mask=None, dtype=None, engine=None): ...
    def dma_copy(*, dst, src, mask=None, dst_rmw_op=None, oob_mode=None, dge_mode=None): ...
    def activation(
        op, data, *, bias=None, scale=1.0, reduce_op=None, reduce_res=None, reduce_cmd=None, mask=None, dtype=None
    ): ...
    def tensor_tensor(data1, data2, op, *, dtype=None, mask=None, engine=None): ...
    def tensor_copy(src, *, mask=None, dtype=None, engine=None): ...
    def memset(shape, value, dtype, *, mask=None, engine=None): ...
    def get_nc_version(): ...


class UnknownName(SimulationError, AttributeError):
    """Also an AttributeError, for `hasattr` and `getattr` with a default to keep their meaning."""


def unknown(module: type, short: str, constants: tuple[str, ...], name: str) -> AttributeError:
    """What a lookup of a name raises that `nl` or `nisa` of the simulator does not have."""
    if name.startswith("_"):
        return AttributeError(f"module {short!r} has no attribute {name!r}")
    has = sorted([*(known for known in vars(module) if not known.startswith("_")), *constants])
    return UnknownName(f"{short}.{name}: the simulator does not model it; it has {', '.join(has)}")


def documented(stub):
    """Binds the calls of a function to a documented signature; the function takes the parameters that it models."""
    signature = inspect.signature(stub)

    def decorate(function):
        modelled = inspect.signature(function).parameters

        @functools.wraps(function)
        def call(*args, **kwargs):
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as error:
                raise SimulationError(f"{stub.__qualname__}{signature}: {error}") from None
            for name, value in bound.arguments.items():
                default = signature.parameters[name].default
                plain = isinstance(value, bool | int | float | str | tuple)  # others may not be comparable
                if name not in modelled and value is not default and not (plain and value == default):
                    raise SimulationError(f"{stub.__qualname__}: the simulator does not model {name}={value!r}")
            bound.apply_defaults()
            kept = {name: value for name, value in bound.arguments.items() if name in modelled}
            args = kept.pop("args", ())
            return function(*args, **kept)

        return call

    return decorate
