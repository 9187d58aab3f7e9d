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
"""Low-rank MLPs for LLMs on AWS Trainium and Inferentia, as an extension of Hugging Face Optimum.

Importing the package is cheap: neither torch nor transformers is loaded until a name below is used. It has one lasting
effect: as soon as transformers is in use, compressed checkpoints load with plain `AutoModelForCausalLM.from_pretrained`, and
as soon as optimum-neuron is, its `NeuronModelForCausalLM` compiles and loads them.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from ._registration import register_when_loaded
from .version import __version__


# In a checkout, `kernels/` and `recipes/` lie beside this package; in an installation they lie inside it.
_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "pyproject.toml").is_file() and (_ROOT / "kernels").is_dir():
    __path__.append(str(_ROOT))

_EXPORTS = {
    "NeuronMMConfig": "configuration",
    "NeuronMMError": "errors",
    "NeuronModelForCausalLM": "auto",
    "LowRankLinear": "modeling",
    "compress": "compression",
    "load_report": "report",
    "push_to_hub": "hub",
}

__all__ = ["__version__", *_EXPORTS]

if TYPE_CHECKING:
    from .auto import NeuronModelForCausalLM
    from .compression import compress
    from .configuration import NeuronMMConfig
    from .errors import NeuronMMError
    from .hub import push_to_hub
    from .modeling import LowRankLinear
    from .report import load_report


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})


register_when_loaded()
