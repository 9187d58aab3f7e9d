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

"""`optimum-cli neuronmm push`: uploads a compressed or compiled directory.

There is no option for a token on purpose: what stands on a command line is seen in the list of processes, and kept in
the history of the shell.
"""

from argparse import ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand

from .errors import reported_errors


class PushCommand(BaseOptimumCLICommand):
    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        parser.epilog = "Log in with `hf auth login` before, or set HF_TOKEN. HF_ENDPOINT names another Hub."
        parser.add_argument("directory", metavar="DIR", help="Directory of a compressed or compiled model.")
        parser.add_argument(
            "repo_id", metavar="REPO_ID", help="Repository to upload to, created if need be: USER/NAME."
        )
        parser.add_argument(
            "--private",
            action="store_true",
            help="Create a private repository. One that exists and is public is refused.",
        )
        parser.add_argument("--revision", metavar="R", help="Branch to upload to, which must exist. Default: main.")
        parser.add_argument("--commit-message", metavar="M", help="Message of the commit.")

    def run(self) -> None:
        with reported_errors(interrupted="interrupted: nothing was committed, unless the upload had just ended"):
            from ..hub import push_to_hub

            message = {} if self.args.commit_message is None else {"commit_message": self.args.commit_message}
            url = push_to_hub(
                self.args.directory,
                self.args.repo_id,
                private=self.args.private or None,
                revision=self.args.revision,
                **message,
            )
            print(url)
