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
"""The one exception that users of the package are meant to see."""


class NeuronMMError(ValueError):
    """Something the user can put right. The message says what was expected, what was got and what to try.

    The command line prints the message alone, without a traceback, and exits with status 1.
    """


class NotFiniteError(NeuronMMError):
    """Activations or a loss are not finite. A search for a ratio takes it as a ratio that is too large."""
