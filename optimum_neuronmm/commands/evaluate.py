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
"""`optimum-cli neuronmm evaluate`: accuracy, perplexity and speed of models, by a recipe."""

from argparse import ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand

from .errors import reported_errors
from .evaluation_flags import add_evaluation_arguments, run_evaluation


class EvaluateCommand(BaseOptimumCLICommand):
    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        add_evaluation_arguments(parser)

    def run(self) -> None:
        with reported_errors(interrupted="interrupted: run the same command again to go on"):
            run_evaluation(self.args)
