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
"""Tensor-parallel ranks as threads, which meet at every collective."""

import threading

import torch


_here = threading.local()  # the rank that this thread runs, and the ranks it meets


class Abandoned(RuntimeError):
    """A rank waits for others that will not come: they failed, or returned."""


class Ranks:
    def __init__(self, size):
        self.size = size
        self.changed = threading.Condition()
        self._begin()

    def _begin(self):
        self.turn = 0
        self.brought = {}  # by rank, for the collective that is under way
        self.met = None  # what the last collective brought together
        self.over = None  # why no further collective can succeed

    def run(self, function):
        """The results of `function(rank)` on all ranks at once; the first error of any rank, where there is one."""
        results, errors = [None] * self.size, []
        self._begin()

        def target(rank):
            _here.rank, _here.ranks = rank, self
            try:
                with torch.no_grad():
                    results[rank] = function(rank)
                self._leave(f"rank {rank} has returned")
            except BaseException as error:
                self._leave(f"rank {rank} has failed")
                errors.append(error)

        threads = [threading.Thread(target=target, args=(rank,), daemon=True) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Ranks that were left waiting fail as well, but never first.
        for error in sorted(errors, key=lambda error: isinstance(error, Abandoned)):
            raise error
        return results

    def _leave(self, why):
        with self.changed:
            self.over = self.over or why
            self.changed.notify_all()

    def exchange(self, kind, tensor):
        """The tensors of all ranks. They must bring the same kind of collective and equal shapes and dtypes."""
        with self.changed:
            turn = self.turn
            self.brought[_here.rank] = (kind, tensor)
            if len(self.brought) == self.size:
                self.met = [self.brought[rank] for rank in range(self.size)]
                self.brought = {}
                self.turn += 1
                self.changed.notify_all()
            else:
                self.changed.wait_for(lambda: self.turn != turn or self.over)
                if self.turn == turn:
                    raise Abandoned(f"rank {_here.rank} waits at {kind}, but {self.over}")
            met = self.met
        described = {(kind, tuple(tensor.shape), tensor.dtype) for kind, tensor in met}
        if len(described) > 1:
            raise RuntimeError(f"the ranks do not run the same collective: {sorted(map(str, described))}")
        return [tensor for _, tensor in met]


def current_rank():
    return getattr(_here, "rank", 0)


def all_gather(tensor, dim):
    return torch.cat(_here.ranks.exchange(f"all-gather along {dim}", tensor), dim=dim)


def all_reduce(tensor):
    # Copied, because the others may still read it after this rank has gone on and changed it.
    parts = _here.ranks.exchange("all-reduce", tensor.clone())
    return torch.stack(parts).sum(0).to(tensor.dtype)


def reduce_scatter(tensor, dim):
    parts = _here.ranks.exchange(f"reduce-scatter along {dim}", tensor.clone())
    total = torch.stack(parts).sum(0).to(tensor.dtype)
    return total.chunk(len(parts), dim=dim)[current_rank()].contiguous()
