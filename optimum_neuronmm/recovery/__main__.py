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
"""`python -m optimum_neuronmm.recovery DIR OUT ...`: what `accelerate launch -m` starts in several processes."""

import os
import sys
from argparse import ArgumentParser

import torch

from ..commands.errors import reported_errors
from ..commands.recovery_flags import add_recovery_arguments, run_recovery
from ..errors import NeuronMMError


def main() -> None:
    parser = ArgumentParser(
        prog="python -m optimum_neuronmm.recovery", description="Train the factors of a compressed model."
    )
    add_recovery_arguments(parser)
    with reported_errors(interrupted="interrupted: run the same command again to resume"):
        try:
            run_recovery(parser.parse_args())
        except NeuronMMError:
            if int(os.environ.get("RANK", "0")):  # all processes find the same: the first one says so
                sys.exit(1)
            raise
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
