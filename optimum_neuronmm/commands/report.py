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
"""`optimum-cli neuronmm report`: what compression did to a model."""

import json
from argparse import ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand

from .errors import reported_errors


class ReportCommand(BaseOptimumCLICommand):
    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        parser.add_argument("directory", metavar="DIR", help="Directory of a compressed model.")
        parser.add_argument("--json", action="store_true", help="Print the whole report as JSON.")

    def run(self) -> None:
        with reported_errors():
            from ..report import format_report, load_report

            report = load_report(self.args.directory)
            print(json.dumps(report, indent=2) if self.args.json else format_report(report))
