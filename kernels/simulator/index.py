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
"""Symbolic indices: what a loop of Beta 1 yields in place of a number.

A loop body is traced once, so its index has no value while the kernel is written down. Here it has one, but keeps it to
itself: whatever would need it (a comparison, `int()`, a list index) is refused, as it would silently go wrong there.
"""

from ..errors import SimulationError
from .values import integer


class LoopVariable:
    """The variable of one loop: `trips` values 0, 1, ...; `value` is the one of the iteration that is running.

    `active`: its loop is running; afterwards the index means nothing.
    """

    __slots__ = ("key", "trips", "value", "active")

    def __init__(self, key: int, trips: int):
        self.key, self.trips, self.value, self.active = key, trips, 0, True


class Affine:
    """constant + sum of coefficient * loop variable."""

    __slots__ = ("terms", "constant")
    __array_ufunc__ = None  # a NumPy number times an index is this class's to multiply

    def __init__(self, constant: int = 0, terms: tuple[tuple[LoopVariable, int], ...] = ()):
        self.constant, self.terms = constant, terms

    @classmethod
    def of(cls, value) -> "Affine":
        if isinstance(value, Affine):
            return value
        return cls(integer(value, "an index is an integer or made of loop indices"))

    @property
    def value(self) -> int:
        return self.constant + sum(c * v.value for v, c in self.terms)

    @property
    def low(self) -> int:
        return self.constant + sum(min(0, c * (v.trips - 1)) for v, c in self.terms)

    @property
    def high(self) -> int:
        return self.constant + sum(max(0, c * (v.trips - 1)) for v, c in self.terms)

    @property
    def key(self) -> tuple:
        return (self.constant, *((v.key, c) for v, c in self.terms))

    def coefficient(self, variable: LoopVariable) -> int:
        return next((c for v, c in self.terms if v is variable), 0)

    def __add__(self, other):
        if isinstance(other, Grid):
            return NotImplemented
        other = Affine.of(other)
        if not other.terms:
            return Affine(self.constant + other.constant, self.terms)
        sums = {v: c for v, c in self.terms}
        for v, c in other.terms:
            sums[v] = sums.get(v, 0) + c
        terms = tuple(sorted(((v, c) for v, c in sums.items() if c), key=lambda term: term[0].key))
        return Affine(self.constant + other.constant, terms)

    __radd__ = __add__

    def __mul__(self, factor):
        if isinstance(factor, Grid):
            return NotImplemented
        if isinstance(factor, Affine):
            if factor.terms and self.terms:
                raise SimulationError("the product of two loop indices is not affine: index with sums of multiples")
            if self.terms == ():
                return factor * self.constant
            factor = factor.constant
        factor = integer(factor, "a loop index is multiplied")
        if not factor:
            return Affine()
        return Affine(self.constant * factor, tuple((v, c * factor) for v, c in self.terms))

    __rmul__ = __mul__

    def __neg__(self):
        return self * -1

    def __sub__(self, other):
        return self + (other * -1)

    def __rsub__(self, other):
        return Affine.of(other) + self * -1

    def _symbolic(self, *_, **__):
        raise SimulationError(
            "a loop index has no value when the compiler traces the loop body, which it does once: it cannot be compared,"
            " branched on, divided, or used as a Python integer. Peel the special iteration, or use nl.static_range"
        )

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __index__ = __int__ = __hash__ = _symbolic
    __floordiv__ = __mod__ = __truediv__ = __rfloordiv__ = __rmod__ = __rtruediv__ = __float__ = __divmod__ = _symbolic
    __pow__ = __rpow__ = __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = __abs__ = __round__ = __rdivmod__ = (
        _symbolic
    )
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = __invert__ = __array__ = _symbolic

    def __repr__(self):
        parts = [f"{c}*i{v.key}" if c != 1 else f"i{v.key}" for v, c in self.terms]
        return " + ".join([*parts, *([str(self.constant)] if self.constant or not parts else [])])


class Grid:
    """An index array of `nl.arange`: base + sum over axes of coefficient * position, with a size per axis."""

    __slots__ = ("base", "axes")
    __array_ufunc__ = None

    def __init__(self, base: Affine, axes: tuple[tuple[int, int], ...]):
        # (coefficient, size); an axis of one position goes nowhere, also where it is broadcast
        self.base, self.axes = base, tuple((c if n > 1 else 0, n) for c, n in axes)

    def __getitem__(self, key):
        key = key if isinstance(key, tuple) else (key,)
        plain = all(k is None or (isinstance(k, slice) and (k.start, k.stop, k.step) == (None,) * 3) for k in key)
        if not plain or sum(item is not None for item in key) != len(self.axes):
            raise SimulationError(f"nl.arange takes new axes only, as in nl.arange(128)[:, None], got {key}")
        remaining = iter(self.axes)
        return Grid(self.base, tuple((0, 1) if item is None else next(remaining) for item in key))

    def __add__(self, other):
        if not isinstance(other, Grid):
            return Grid(self.base + other, self.axes)
        if len(self.axes) != len(other.axes):
            raise SimulationError(f"index arrays of {len(self.axes)} and {len(other.axes)} axes cannot be added")
        axes = []
        for (c0, n0), (c1, n1) in zip(self.axes, other.axes, strict=True):
            if 1 not in (n0, n1) and n0 != n1:
                raise SimulationError(f"index arrays of sizes {n0} and {n1} cannot be added")
            axes.append((c0 + c1, max(n0, n1)))
        return Grid(self.base + other.base, tuple(axes))

    __radd__ = __add__

    def __sub__(self, other):
        return self + other * -1

    def __rsub__(self, other):
        return self * -1 + other

    def __mul__(self, factor: int):
        factor = integer(factor, "an index array of nl.arange is multiplied")
        return Grid(self.base * factor, tuple((c * factor, n) for c, n in self.axes))

    __rmul__ = __mul__

    def _unknown(self, *_, **__):
        raise SimulationError(
            "an index array of nl.arange is added to and multiplied by integers only: masks are not modelled"
        )

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __hash__ = __iter__ = __array__ = _unknown
    __floordiv__ = __mod__ = __truediv__ = __and__ = __or__ = __pow__ = _unknown
