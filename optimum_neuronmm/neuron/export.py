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
"""From a model to the directory of a compiled one: what `optimum-cli export neuron --neuronmm` does in its child process."""

from pathlib import Path

from ..configuration import NeuronMMConfig
from ..errors import NeuronMMError
from ..workspace import sole_writer
from .sdk import require_sdk


def export(
    model: str,
    output: Path,
    options: NeuronMMConfig,
    *,
    instance_type: str | None = None,
    batch_size: int | None = None,
    sequence_length: int | None = None,
    tensor_parallel_size: int | None = None,
    trust_remote_code: bool = False,
    cache_dir: str | None = None,
) -> None:
    """Writes a compiled model into `output`, which must not exist or be empty, and is not touched before the end.

    No other export can write it meanwhile.

    Args:
        model: directory or Hub id, of a dense model or a compressed one.
        options: of the compression; its `dtype` is also the one to compile for.
        instance_type: to compile for; that of this machine where None.

    Raises:
        NeuronMMError: for every input that can be put right.
    """
    output = Path(output).resolve()
    with sole_writer(output):
        require_sdk("optimum.neuron")
        _set_target(instance_type)
        require_sdk()

        from .loading import compile_model

        compiled = compile_model(
            model,
            options,
            instance_type=instance_type,
            batch_size=batch_size,
            sequence_length=sequence_length,
            tensor_parallel_size=tensor_parallel_size,
            trust_remote_code=trust_remote_code,
            cache_dir=cache_dir,
        )
        compiled.save_new(output)
    print(
        f"Compiled into {output}. On the instance:\n"
        "  from optimum_neuronmm import NeuronModelForCausalLM\n"
        f"  model = NeuronModelForCausalLM.from_pretrained({str(output)!r})",
        flush=True,
    )


def _set_target(instance_type: str | None) -> None:
    from optimum.neuron.utils.instance import align_compilation_target
    from optimum.neuron.utils.system import get_neuron_major

    if instance_type is not None:
        align_compilation_target(instance_type, override=True)
    elif get_neuron_major() == -1:
        raise NeuronMMError("There is no Neuron device here: say what to compile for with --instance_type.")
