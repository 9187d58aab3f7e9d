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

"""`optimum-cli neuronmm`: commands about models that are compressed, or are going to be."""

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

from .evaluate import EvaluateCommand
from .plan import PlanCommand
from .push import PushCommand
from .recover import RecoverCommand
from .report import ReportCommand


class NeuronMMCommand(BaseOptimumCLICommand):
    COMMAND = CommandInfo(
        name="neuronmm", help="Plan, inspect, evaluate, train and share models compressed with NeuronMM."
    )
    SUBCOMMANDS = (
        CommandInfo(
            name="plan",
            help="Predict what compression does to a model's latency on a device, from its config alone.",
            subcommand_class=PlanCommand,
        ),
        CommandInfo(
            name="report",
            help="Show what compression did to a model: parameters, ranks, errors and perplexity.",
            subcommand_class=ReportCommand,
        ),
        CommandInfo(
            name="push",
            help="Upload a compressed or compiled model to the Hugging Face Hub.",
            subcommand_class=PushCommand,
        ),
        CommandInfo(
            name="evaluate",
            help="Measure accuracy, perplexity and speed of models, by a recipe.",
            subcommand_class=EvaluateCommand,
        ),
        CommandInfo(
            name="recover",
            help="Train the factors of a compressed model, to win back accuracy.",
            subcommand_class=RecoverCommand,
        ),
    )
