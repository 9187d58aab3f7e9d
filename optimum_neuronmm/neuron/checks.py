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
"""What can be refused before anything is compressed, compiled or fetched, because that takes long."""

from optimum.neuron.utils import instance, system
from optimum.neuron.utils.version_utils import get_neuronxcc_version
from optimum.neuron.version import __version__ as optimum_neuron_version
from transformers.utils import logging

from ..configuration import DTYPES
from ..errors import NeuronMMError
from .form import check_heads


logger = logging.get_logger(__name__)

_STRETCH = 8  # a sequence_length above so many times the positions that a model was trained on is a mistake
# Arguments that say how to compile. For a model that is compiled already, they have to be those that it was compiled with.
_SETTLED = {
    "batch_size": "batch_size",
    "sequence_length": "sequence_length",
    "tensor_parallel_size": "tp_degree",
    "instance_type": "target",
    "dtype": "torch_dtype",
    "torch_dtype": "torch_dtype",
}


def check_shapes(**sizes: int | None) -> None:
    """Checks the sizes that were given.

    Raises:
        NeuronMMError: one is not a positive integer.
    """
    for name, size in sizes.items():
        if size is not None and (type(size) is not int or size < 1):
            raise NeuronMMError(f"{name} must be a positive integer, got {size!r}.")


def check_tensor_parallel(config, size: int, on_device: bool) -> None:
    """Checks a number of ranks.

    Args:
        on_device: the model is going to be loaded onto this machine's cores.

    Raises:
        NeuronMMError: the attention heads cannot be shared so, or there are fewer cores.
    """
    check_heads(config, size)
    cores = system.get_available_cores() if on_device else size
    if cores < size:
        raise NeuronMMError(
            f"tensor_parallel_size={size} needs as many Neuron cores, and there are {cores} here. Use fewer, or compile for "
            "another machine with optimum-cli."
        )


def check_sizes(config, neuron_config) -> None:
    """Checks sizes against those of the model.

    The positions of rotary embeddings are computed, and go beyond those that a model was trained on: that is a warning, up to
    what no model can make sense of.

    Raises:
        NeuronMMError: the sequence is far longer than the model's, tokens cannot be sampled from a rank's vocabulary, or
            logits would be lost.
    """
    length, trained = neuron_config.sequence_length, getattr(config, "max_position_embeddings", None)
    if trained and length > _STRETCH * trained:
        raise NeuronMMError(
            f"sequence_length={length} is more than {_STRETCH} times the {trained} positions that the model was made for "
            f"(max_position_embeddings). Use {trained} or less."
        )
    if trained and length > trained:
        logger.warning(
            f"sequence_length={length} is more than the {trained} positions that the model was made for: text beyond them may "
            "make no sense."
        )
    ranks, most = neuron_config.tp_degree, neuron_config.max_topk or 0  # 0 or less: all are sorted
    if neuron_config.on_device_sampling and -(-config.vocab_size // ranks) < most:
        raise NeuronMMError(
            f"tensor_parallel_size={ranks} leaves each rank fewer than {most} of the {config.vocab_size} tokens of the vocabulary, "
            f"and the device samples from the {most} best of each (max_topk). Use fewer ranks."
        )
    if not neuron_config.on_device_sampling and config.vocab_size % ranks:
        # optimum-neuron pads the vocabulary, cuts the logits to its size, and then masks as many as it had added.
        raise NeuronMMError(
            f"tensor_parallel_size={ranks} does not divide the vocabulary of {config.vocab_size} tokens, and optimum-neuron then "
            f"masks the last {-config.vocab_size % ranks} of the logits that a model returns. Use a number of ranks that divides "
            "it, or sampling='device'."
        )


def check_speedup(options, neuron_config) -> None:
    """Warns where ranks were chosen for a speed on one rank of tensor parallelism, and the model is cut for more."""
    if options.target_speedup is not None and neuron_config.tp_degree > 1:
        logger.warning(
            f"The ranks were chosen for a target_speedup of {options.target_speedup:g}, predicted for one rank of tensor "
            f"parallelism, and the model is compiled for {neuron_config.tp_degree}, where it is another. See what is predicted "
            f"there: optimum-cli neuronmm plan -m MODEL --tensor_parallel_size {neuron_config.tp_degree}"
        )


def check_target(instance_type: str | None, on_device: bool) -> None:
    """Checks the instance to compile for; None is the one at hand.

    Args:
        on_device: the model is going to be loaded here.

    Raises:
        NeuronMMError: optimum-neuron does not know it, or this process compiles for another or runs on another.
    """
    if on_device:
        here = _instance_here()
        if instance_type is not None and _normalized(instance_type) != here:
            raise NeuronMMError(
                f"instance_type={instance_type} was asked for, and this is a {here}, where the model could not be loaded. Compile "
                "for another machine with optimum-cli."
            )
    if instance_type is None:
        return
    wanted = _normalized(instance_type)
    try:
        found = instance.align_compilation_target(wanted, override=False)
    except ValueError as error:
        raise NeuronMMError(f"{error}") from error
    if found != wanted:
        raise NeuronMMError(
            f"instance_type={instance_type} was asked for, but this process compiles for {found}, by "
            "NEURON_PLATFORM_TARGET_OVERRIDE. Set it before Python starts, or use optimum-cli."
        )


def checked_dtype(dtype) -> str | None:
    """The name of the dtype to compile for; None is that of the model.

    Raises:
        NeuronMMError: compiled models cannot have it.
    """
    if dtype is None or dtype == "auto":
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise NeuronMMError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}.")
    return name


def check_artifact(model_id, compiled: dict, arguments: dict) -> None:
    """Checks whether a compiled model can be loaded here.

    Args:
        compiled: its neuron_config.json.
        arguments: of `from_pretrained`.

    Raises:
        NeuronMMError: it was compiled otherwise than the arguments say, by other versions, or for another machine.
    """
    for argument, name in _SETTLED.items():
        asked, has = arguments.get(argument), compiled.get(name)
        same = {"target": _normalized, "torch_dtype": checked_dtype}.get(name, lambda value: value)
        wanted = None if asked is None else same(asked)
        if wanted is not None and (type(wanted), wanted) != (type(has), has):  # True is no number
            raise NeuronMMError(
                f"{argument}={asked} was asked for, but {model_id} is compiled for {has}. Leave it out, or compile the model again."
            )
    _check_versions(model_id, compiled)
    here, target = _instance_here(), compiled.get("target")
    if target != here:
        raise NeuronMMError(f"{model_id} is compiled for {target}, and this is a {here}: compile the model again.")
    ranks, cores = compiled.get("tp_degree"), system.get_available_cores()
    if type(ranks) is int and cores < ranks:
        raise NeuronMMError(
            f"{model_id} is compiled for {ranks} Neuron cores, and there are {cores} here. Use a larger instance, or compile the "
            "model again."
        )


def _check_versions(model_id, compiled: dict) -> None:
    """Compiled models run with the versions that made them, and no others."""
    here = {"optimum_neuron_version": optimum_neuron_version, "neuronxcc_version": get_neuronxcc_version()}
    for name, version in here.items():
        if compiled.get(name) != version:
            what = name.removesuffix("_version").replace("_", "-")
            raise NeuronMMError(
                f"{model_id} was compiled with {what} {compiled.get(name)}, and {version} is installed here: compile the "
                f"compressed model again, or install that version of {what}."
            )


def _instance_here() -> str:
    try:
        return instance.current_instance_type()
    except (RuntimeError, ValueError) as error:
        raise NeuronMMError(
            f"A compiled model runs on a Trainium or Inferentia instance only, and this is none ({error}). To compile without "
            "a device, use optimum-cli export neuron."
        ) from error


def _normalized(instance_type: str) -> str:
    try:
        return instance.normalize_instance_type(instance_type)
    except (ValueError, TypeError) as error:
        known = ", ".join(instance.SUPPORTED_INSTANCE_TYPES)
        raise NeuronMMError(f"instance_type must be one of {known}, got {instance_type!r}.") from error
