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
"""What stands in for compiler and runtime: graphs stay Python modules and run eagerly.

`compile_graphs` plays `ModelBuilder.trace`. Its result has the surface that optimum-neuron uses: calls,
`nxd_model.initialize(weights of every rank, first rank)`, `torch.jit.save`, and `torch.jit.load` through the hook in
`torch_neuronx`. As on a device:

* a graph is chosen by the shapes and dtypes of its example inputs, and accepts no others;
* weights are no part of the saved file: `initialize` wants every one of them, for every rank, as it was compiled;
* outputs in `input_output_aliases` update state (the KV cache) that all graphs share, and are not returned;
* a module is built once for all ranks, so Python code sees rank 0; only weights (`SPMDRank`) tell ranks apart.
"""

import contextlib
import copy

import dill  # which, unlike pickle, saves a class that no module has by its code; it comes with datasets
import torch

from .ranks import Ranks


MAGIC = b"NEURON-STANDIN-ARCHIVE\n"


@contextlib.contextmanager
def parallel_state(degrees):
    """The state of neuronx_distributed in which modules are built. `degrees`: the arguments that set it up."""
    from neuronx_distributed.parallel_layers import parallel_state as state

    state.initialize_model_parallel(skip_collective_init=True, **degrees)
    try:
        yield
    finally:
        state.destroy_model_parallel()


def signature(tensors):
    return [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]


class Graph:
    """One entry of a ModelBuilder's collection. Like a NEFF it carries the computation, not the weights."""

    def __init__(self, key, instance, example_inputs, compiler_args):
        self.key, self.compiler_args = key, compiler_args
        self.instance = copy.copy(instance)
        self.instance.module = None
        if isinstance(instance.input_output_aliases, dict):  # of the module that was built before
            self.instance.input_output_aliases = None
        self.signature = signature(example_inputs)

    def build(self):
        """The module, and the output that updates each aliased parameter."""
        instance = copy.copy(self.instance)
        instance.load_module()
        module, aliases = instance.get(0)
        names = {id(t): name for name, t in [*module.named_parameters(), *module.named_buffers()]}
        return module.eval(), {names[id(t)]: index for t, index in (aliases or {}).items()}


class CompiledModel(torch.nn.Module):
    def __init__(self, graphs, degrees, size):
        super().__init__()
        self.graphs, self.degrees = graphs, degrees
        self.ranks = Ranks(size)
        self.loaded = None  # per rank: the state, and by graph the module with its aliases

    @property
    def nxd_model(self):
        return self

    def save(self, f, _extra_files=None):  # torch.jit.save calls it
        with open(f, "wb") as handle:
            handle.write(MAGIC + dill.dumps((self.graphs, self.degrees, self.ranks.size)))

    def initialize(self, checkpoint, start_rank_tensor):
        first = int(start_rank_tensor)
        if len(checkpoint) != self.ranks.size:
            raise RuntimeError(f"{len(checkpoint)} shards of weights for {self.ranks.size} ranks")
        self.loaded = [self._load(first + i, weights) for i, weights in enumerate(checkpoint)]

    def _load(self, rank, weights):
        state, held, modules = {}, {}, {}
        for graph in self.graphs:
            with parallel_state(self.degrees):
                module, aliases = graph.build()
            expected = {name: t for name, t in module.state_dict().items() if name not in aliases}
            if missing := sorted(set(expected) - set(weights)):
                raise RuntimeError(f"rank {rank}: no weights for {missing} of graph {graph.key}")
            for name, wanted in expected.items():
                given = weights[name]
                if signature([given]) != signature([wanted]):
                    raise RuntimeError(
                        f"rank {rank}: {name} is {tuple(given.shape)} {given.dtype}, "
                        f"but graph {graph.key} was compiled for {tuple(wanted.shape)} {wanted.dtype}"
                    )
                if name not in held:  # a device has weights of its own, which all graphs share
                    held[name] = given.clone(memory_format=torch.contiguous_format)
            for name in aliases:
                state.setdefault(name, torch.zeros_like(module.get_parameter(name)))
            tensors = {name: held[name] for name in expected} | {name: state[name] for name in aliases}
            module.load_state_dict(tensors, strict=True, assign=True)
            modules[graph.key] = (module.requires_grad_(False), aliases)
        return state, modules

    def forward(self, *inputs):
        if self.loaded is None:
            raise ValueError("This model is not initialized, please call traced_model.nxd_model.initialize()")
        wanted = signature(inputs)
        key = next((graph.key for graph in self.graphs if graph.signature == wanted), None)
        if key is None:
            known = {graph.key: graph.signature for graph in self.graphs}
            raise RuntimeError(f"no graph was compiled for inputs {wanted}, only {known}")

        def run(rank):
            state, modules = self.loaded[rank]
            module, aliases = modules[key]
            outputs = module(*[tensor.clone() for tensor in inputs])
            for name, index in aliases.items():
                state[name].copy_(outputs[index])
            return [output for i, output in enumerate(outputs) if i not in aliases.values()]

        with parallel_state(self.degrees):
            outputs = self.ranks.run(run)[0]
        return outputs[0] if len(outputs) == 1 else outputs


def compile_graphs(containers, degrees, size):
    """Compiles a ModelBuilder's collection: every graph runs once on its example inputs, with random weights."""
    graphs = []
    for key, container in containers.items():
        (inputs,) = container.example_inputs  # one bucket
        graph = Graph(key, container.model_instance, inputs, container.compiler_args)
        with parallel_state(degrees):
            module, aliases = graph.build()
            outputs = Ranks(size).run(lambda rank, m=module, i=inputs: m(*[tensor.clone() for tensor in i]))[0]
        for name, index in aliases.items():
            if signature([outputs[index]]) != signature([module.get_parameter(name)]):
                raise RuntimeError(f"graph {key}: output {index} does not fit {name}, which it updates")
        graphs.append(graph)
    return CompiledModel(graphs, degrees, size)


def load(data):
    return CompiledModel(*dill.loads(data))
