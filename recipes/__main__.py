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
"""`python -m optimum_neuronmm.recipes ...`: evaluates models, the same as `optimum-cli neuronmm evaluate`."""

from argparse import ArgumentParser

from optimum_neuronmm.commands.errors import reported_errors
from optimum_neuronmm.commands.evaluation_flags import add_evaluation_arguments, run_evaluation


def main() -> None:
    parser = ArgumentParser(
        prog="python -m optimum_neuronmm.recipes", description="Evaluate models on the tasks of a recipe."
    )
    add_evaluation_arguments(parser)
    with reported_errors(interrupted="interrupted: run the same command again to go on"):
        run_evaluation(parser.parse_args())


if __name__ == "__main__":
    main()
