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
"""The project's metrics, loaded once."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from optimum_neuronmm.errors import NeuronMMError


if TYPE_CHECKING:
    import evaluate

METRICS = Path(__file__).resolve().parent


@cache
def metric(name: str) -> "evaluate.EvaluationModule":
    """A metric of the folder `metrics`, through `evaluate.load`.

    Raises:
        NeuronMMError: evaluate is not installed.
    """
    try:
        import evaluate
    except ImportError as error:
        raise NeuronMMError(
            "Evaluation needs the package evaluate: pip install 'optimum-neuronmm[recipes]'."
        ) from error
    # In memory: evaluate would keep files, and have processes that use the same metric wait for each other.
    return evaluate.load(str(METRICS / name), keep_in_memory=True)
