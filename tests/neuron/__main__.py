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
"""`python tests/neuron [arguments of pytest]` runs the tests of this folder: on a device, or else over the stand-ins.

They are a process of their own, because the stand-ins must be found before anything imports torch or transformers, and
because the rest of the suite wants a machine without the Neuron SDK.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import environment


HERE = Path(__file__).resolve().parent


def main() -> int:
    over_standins = environment.has_optimum_neuron() and environment.sdk_version() is None
    where, why_not = environment.sdk()
    if where is None and not over_standins:
        print(f"tests/neuron: skipped, {why_not}")
        return 0  # pytest would call it a failure that no test is left
    command = [sys.executable, "-m", "pytest", *sys.argv[1:]]
    if not any(Path(argument.split("::")[0]).resolve().is_relative_to(HERE) for argument in sys.argv[1:]):
        command.append(str(HERE))
    with tempfile.TemporaryDirectory(prefix="neuron-cache-") as cache:
        env = environment.standins_environment(cache) if over_standins else None
        return subprocess.run(command, env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
