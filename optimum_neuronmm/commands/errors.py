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
"""How the commands end when something goes wrong: one line for the user, and an exit status."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import NeuronMMError


@contextmanager
def reported_errors(interrupted: str = "interrupted") -> Iterator[None]:
    """Turns a `NeuronMMError` into `error: ...` and status 1, and Ctrl-C into the line `interrupted` and status 130.

    Any other exception is a defect of the program, and keeps its traceback.
    """
    try:
        yield
    except NeuronMMError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"\n{interrupted}", file=sys.stderr)
        sys.exit(130)
