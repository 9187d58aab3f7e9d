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
"""Runs a decoder one layer at a time, with the weights of one layer in memory."""

import ctypes
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from torch import nn
from transformers import AutoModelForCausalLM

from .errors import NeuronMMError, NotFiniteError
from .families import Family
from .source import DenseCheckpoint


_ROWS_AT_ONCE = 4096  # tokens of one forward pass through a layer


class LayerStream:
    """A causal language model whose decoder layers visit memory in turn.

    Embeddings, final norm and head stay resident; a layer's weights are read when it is entered and dropped when it is
    left. The model's own code runs: what it passes to each layer (masks, rotary embeddings) is recorded once, for
    windows of one length, by replacing the layers' `forward`.

    Hidden states are plain tensors (n, L, H) in `dtype`, advanced in place.

    Args:
        checkpoint: where the weights come from.
        family: where the layers are.
        dtype: of weights and hidden states while running.
        device: to run on. Hidden states stay on the CPU.
    """

    def __init__(self, checkpoint: DenseCheckpoint, family: Family, dtype: torch.dtype, device: torch.device):
        self._checkpoint, self._family, self._dtype, self.device = checkpoint, family, dtype, device
        self.model = empty_model(checkpoint, dtype)
        self.layers: nn.ModuleList = self.model.get_submodule(family.layers)
        self._decoder = self.model.get_submodule(family.layers.rpartition(".")[0])
        self._layer_kwargs: list[dict] = []
        in_layers = family.layers + "."
        resident = [name for name, _ in self.model.named_parameters() if not name.startswith(in_layers)]
        self._load(self.model, "", resident)
        self.model.tie_weights()
        self.model.requires_grad_(False)
        for name, buffer in self.model.named_buffers():
            set_module_tensor_to_device(self.model, name, device, value=buffer)

    @torch.no_grad()
    def embed(self, windows: torch.Tensor) -> torch.Tensor:
        """Token ids (n, L) -> the hidden states (n, L, H) that enter the first layer."""
        embedded = []

        def capture(index, hidden, kwargs):
            if index == 0:
                embedded.append(hidden.cpu())
            if len(self._layer_kwargs) <= index:
                self._layer_kwargs.append(kwargs)
            return hidden

        with self._replaced_layers(capture):
            for window in windows.split(1):  # one at a time, so that the recorded masks fit a batch of any size
                self._decoder(input_ids=window.to(self.device), use_cache=False)
        return torch.cat(embedded)

    @contextmanager
    def layer(self, index: int) -> Iterator[nn.Module]:
        """The decoder layer `index` with its weights, which are dropped on leaving."""
        layer, path = self.layers[index], self._family.layer_path(index)
        self._load(layer, path + ".", [name for name, _ in layer.named_parameters()])
        try:
            yield layer
        finally:
            layer.to("meta")
            _return_free_memory()

    @torch.no_grad()
    def advance(self, index: int, hidden: torch.Tensor) -> None:
        """Runs hidden states (n, L, H) through layer `index`, in place.

        Raises:
            NeuronMMError: naming the layer, where its output is not finite.
        """
        for batch in hidden.split(max(1, _ROWS_AT_ONCE // hidden.shape[1])):
            output = self.layers[index](batch.to(self.device), **self._layer_kwargs[index])
            batch.copy_(output[0] if isinstance(output, tuple) else output)
            if not torch.isfinite(batch).all():
                raise NotFiniteError(
                    f"The activations of layer {index} ({self._family.layer_path(index)}) are not finite. Its weights "
                    "are damaged, or overflow in this dtype: check that the dense model generates text."
                )

    def retreat(self, index: int, entering: torch.Tensor, gradients: torch.Tensor) -> None:
        """Carries gradients back through layer `index`: from what left it to what entered it, in place.

        Args:
            entering: hidden states (n, L, H) that entered the layer.
            gradients: (n, L, H) of a scalar at the hidden states that left it.

        Raises:
            NeuronMMError: naming the layer, where a gradient is not finite.
        """
        rows = max(1, _ROWS_AT_ONCE // entering.shape[1])
        for states, gradient in zip(entering.split(rows), gradients.split(rows), strict=True):
            states = states.to(self.device).requires_grad_(True)
            with torch.enable_grad():
                output = self.layers[index](states, **self._layer_kwargs[index])
            output = output[0] if isinstance(output, tuple) else output
            gradient.copy_(torch.autograd.grad(output, states, gradient.to(self.device))[0])
            if not torch.isfinite(gradient).all():
                raise NeuronMMError(
                    f"The gradients at layer {index} ({self._family.layer_path(index)}) are not finite. Load the model in "
                    "float32 or bfloat16, or use --neuronmm_decomposition whitened, which needs none."
                )

    @torch.no_grad()
    def logits(self, hidden: torch.Tensor, windows: torch.Tensor) -> Iterator[torch.Tensor]:
        """The logits (1, L, vocabulary) of each of `windows` (n, L), from what left the last layer, (n, L, H)."""
        for states, window in zip(hidden.split(1), windows.split(1), strict=True):
            yield self._head(states.to(self.device), window)

    def loss_gradients(self, hidden: torch.Tensor, windows: torch.Tensor, seed: int) -> torch.Tensor:
        """Gradients (n, L, H) of each window's summed loss at what left the last layer, (n, L, H).

        The labels are drawn from the model's own distribution at each position, so the second moments of these
        gradients estimate the Fisher information (and not the empirical one, which true labels would give).
        """
        generator = torch.Generator().manual_seed(seed)
        gradients = []
        for states, window in zip(hidden.split(1), windows.split(1), strict=True):
            states = states.to(self.device).requires_grad_(True)
            with torch.enable_grad():
                logits = self._head(states, window)[0].float()
                labels = torch.multinomial(logits.detach().softmax(-1).cpu(), 1, generator=generator)[:, 0]
                loss = nn.functional.cross_entropy(logits, labels.to(self.device), reduction="sum")
            gradients.append(torch.autograd.grad(loss, states)[0].to(hidden))
        return torch.cat(gradients)

    def _head(self, states: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
        with self._replaced_layers(lambda index, _, kwargs: states):
            return self.model(input_ids=window.to(self.device), use_cache=False).logits

    @contextmanager
    def _replaced_layers(self, forward: Callable[[int, torch.Tensor, dict], torch.Tensor]) -> Iterator[None]:
        """Has every layer call `forward(index, hidden, kwargs)` and touch none of its weights."""

        def stand_in(index):
            def call(_, hidden_states, **kwargs):
                hidden_states = forward(index, hidden_states, kwargs)
                return (hidden_states,) if self._family.layer_returns_tuple else hidden_states

            return call

        for index, layer in enumerate(self.layers):
            layer.forward = types.MethodType(stand_in(index), layer)
        try:
            yield
        finally:
            for layer in self.layers:
                del layer.forward

    def _load(self, module: nn.Module, prefix: str, names: list[str]) -> None:
        tensors = self._checkpoint.read([prefix + name for name in names])
        for name in names:
            value = tensors.pop(prefix + name)
            if not torch.isfinite(value).all():
                raise NeuronMMError(
                    f"{prefix + name} of {self._checkpoint.name} holds values that are not finite. The checkpoint is "
                    "damaged: fetch or save the model again."
                )
            set_module_tensor_to_device(module, name, self.device, value=value, dtype=self._dtype)


def empty_model(checkpoint: DenseCheckpoint, dtype: torch.dtype | None = None) -> nn.Module:
    """The model without its weights, on the meta device.

    Raises:
        NeuronMMError: where config.json describes no model, or one whose weights differ in form from those on disk.
    """
    try:
        with init_empty_weights():
            model = AutoModelForCausalLM.from_config(
                checkpoint.config, dtype=dtype, trust_remote_code=checkpoint.trust_remote_code
            )
    except Exception as error:  # sizes that do not fit together fail anywhere in the code of a family
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NeuronMMError(f"The config.json of {checkpoint.name} describes no model: {reason}.") from error
    model.tie_weights()
    for name, parameter in model.named_parameters():
        shape = checkpoint.info(name).shape
        if shape != parameter.shape:
            raise NeuronMMError(
                f"{name} of {checkpoint.name} has shape {shape}, but config.json describes {tuple(parameter.shape)}."
            )
    return model.eval()


def _return_free_memory() -> None:
    """Has glibc give freed memory back to the system.

    Tensors of a few megabytes come from its heap, which fragments: without this, the memory of a process that works on
    one layer at a time grows with the number of layers.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):  # not glibc
        return
    trim(0)


@contextmanager
def collect_inputs(modules: dict[str, nn.Module], collect: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
    """Calls `collect(name, rows)` with the inputs (M, K) of each module while the context is open."""
    with _hooked(modules, lambda name, args, _: collect(name, args[0].flatten(0, -2))):
        yield


@contextmanager
def collect_outputs(
    modules: dict[str, nn.Module], collect: Callable[[str, torch.Tensor, torch.Tensor], None]
) -> Iterator[None]:
    """Calls `collect(name, inputs, outputs)` with those of each module, (M, K) and (M, N), while the context is open."""
    with _hooked(modules, lambda name, args, output: collect(name, args[0].flatten(0, -2), output.flatten(0, -2))):
        yield


@contextmanager
def collect_gradients(
    modules: dict[str, nn.Module], collect: Callable[[str, torch.Tensor, torch.Tensor], None]
) -> Iterator[None]:
    """Calls `collect(name, inputs, gradients)` with a module's inputs (M, K) and the gradients at its output (M, N)."""

    def observe(name, args, output):
        inputs = args[0].detach().flatten(0, -2)
        output.register_hook(lambda gradient: collect(name, inputs, gradient.flatten(0, -2)))

    with _hooked(modules, observe):
        yield


@contextmanager
def _hooked(modules: dict[str, nn.Module], observe: Callable[[str, tuple, torch.Tensor], None]) -> Iterator[None]:
    hooks = [
        module.register_forward_hook(lambda _, args, output, name=name: observe(name, args, output))
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
