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
"""When the memory for a tile is free: SBUF and PSUM as pools from which tiles take buffers, and the buffers of one tile."""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

from ..simulator.trace import Allocation


@dataclass(eq=False)
class Buffer:
    """One buffer of a tile.

    Attributes:
        ready, released: when its present content is complete, and when it was used for the last time.
        written, used: the number of the last instruction that wrote it, and that read or wrote it.
    """

    ready: float = 0.0
    released: float = 0.0
    written: int = 0
    used: int = 0


@dataclass(eq=False)
class Tile:
    """The buffers of an allocation, the one in use last.

    Attributes:
        size: bytes of a buffer, per partition.
        depth: the most buffers it may have. More than one lets a transfer overlap with the work on the one before.
        first, last: positions in the trace between which it is live.
        scope: the iteration that the buffer in use belongs to.
    """

    size: int
    depth: int
    first: int
    last: int
    buffers: deque
    scope: object = None


class Pool:
    """Bytes of one memory, per partition: pieces that are free, each from some time on, and the tiles that hold the rest.

    A tile that is not live at the present position may lose its buffers to others, from their last use on.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.free: list[tuple[float, int]] = [(0.0, capacity)]  # by time
        self.tiles: list[Tile] = []

    def _give_back(self, wanted: int, position: int) -> None:
        """Makes buffers of tiles that are not live free pieces, the earliest released first, until there is enough."""
        have = sum(size for _, size in self.free)
        dead = [tile for tile in self.tiles if tile.buffers and not tile.first <= position <= tile.last]
        idle = sorted(
            ((b.released, n, tile, b) for n, tile in enumerate(dead) for b in tile.buffers), key=lambda x: x[:2]
        )
        for released, _, tile, buffer in idle:
            if have >= wanted:
                break
            tile.buffers.remove(buffer)
            self.free.append((released, tile.size))
            have += tile.size
        self.free.sort()

    def _earliest(self, wanted: int) -> float | None:
        """When that many bytes are free; None where there are not."""
        have = 0
        for time, size in self.free:
            have += size
            if have >= wanted:
                return time
        return None

    def _take(self, wanted: int) -> None:
        while wanted > 0 and self.free:
            time, size = self.free.pop(0)
            if size > wanted:
                self.free.insert(0, (time, size - wanted))
            wanted -= size

    def acquire(self, tile: Tile, position: int) -> float:
        """Moves the tile on to its next buffer, and returns from when on that can be written."""
        if tile.size <= 0:
            return 0.0
        own = tile.buffers[0].released if tile.buffers else None
        if len(tile.buffers) < tile.depth:
            fresh = self._earliest(tile.size)
            if fresh is None:
                self._give_back(tile.size, position)
                fresh = self._earliest(tile.size)
            if fresh is None and own is None:  # the kernel spills: its prediction is void
                fresh = max((buffer.released for other in self.tiles for buffer in other.buffers), default=0.0)
            if own is None or (fresh is not None and fresh < own):
                self._take(tile.size)
                tile.buffers.append(Buffer(released=fresh))
                return fresh
        tile.buffers.rotate(-1)
        tile.buffers[-1].ready = 0.0
        return own


MOST = 4  # buffers of a tile that is streamed, if memory allows
SMALL = 4096  # bytes per partition of a tile that is computed, and has two buffers all the same


def tiles_of(
    spans: Iterable[tuple[int, int, Allocation]], capacity: int, granule: int = 1, in_flight: int = 0
) -> dict[int, Tile]:
    """The tiles of one memory by the id of their allocation, each with as many buffers as it may have.

    One of what stays and of what is large and computed, up to two of what is small and computed, and up to `MOST` of what is
    streamed, as long as what is live at once fits: small tiles first.

    Args:
        spans: (first position, last position, allocation), see `Trace.spans`.
        capacity: bytes per partition; each buffer takes a multiple of `granule`.
        in_flight: bytes per partition under way that hide the start of a transfer: small tiles have buffers for as many.
    """
    made, wanted = {}, {}
    for first, last, allocation in spans:
        size = -(-allocation.bytes // granule) * granule
        tile = made[id(allocation)] = Tile(size, 1, first, last, deque())
        if allocation.name == "resident" or not any(loop.trips > 1 for loop in allocation.loops):
            continue
        if allocation.dma:
            wanted[id(tile)] = max(MOST, min(2 + in_flight // max(1, size), 2 * MOST))
        elif size <= SMALL:
            wanted[id(tile)] = 2
    growing = sorted((tile for tile in made.values() if id(tile) in wanted), key=lambda tile: tile.size)
    for depth in range(2, max(wanted.values(), default=1) + 1):
        for tile in growing:
            if depth <= wanted[id(tile)]:
                tile.depth = depth
                if _most_live(made.values()) > capacity:
                    tile.depth = depth - 1
        growing = [tile for tile in growing if tile.depth == depth]
    return made


def _most_live(tiles: Iterable[Tile]) -> int:
    """Bytes per partition that are live at once at most, with all buffers."""
    changes: Counter = Counter()
    for tile in tiles:
        changes[tile.first] += tile.depth * tile.size
        changes[tile.last + 1] -= tile.depth * tile.size
    live = most = 0
    for position in sorted(changes):
        live += changes[position]
        most = max(most, live)
    return most
