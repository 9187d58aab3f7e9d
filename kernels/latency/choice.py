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
"""Which of the plans that a planner names is taken: the one of least predicted time, with some prudence."""

from ..machine import Machine
from ..simulator import simulate
from .constants import constants_of
from .dma import CALIBRATED, PICTURE
from .instructions import Costs
from .timeline import schedule
from .work import PRUDENCE


EQUAL = 0.003  # of the predicted time: less says nothing


def quickest(kernel, tensors: dict, settings: dict, machine: Machine, plans: list):
    """Of the plans of a call the one of least predicted time.

    Plans that are about as quick are compared by what they would take if each run had its price (`dma.PICTURE`) as well. Of
    those that are then equal, the one that moves the fewest bytes is taken.
    """
    call = {**dict.fromkeys(kernel.absent), **tensors, **settings}
    constants = constants_of(machine)
    traces = [simulate(kernel, **call, target=machine, plan=plan, dry=True).trace for plan in plans]
    seconds = [schedule(trace, Costs(machine, constants, CALIBRATED)).seconds for trace in traces]
    close = [n for n, time in enumerate(seconds) if time <= (1 + PRUDENCE) * min(seconds)]
    if len(close) == 1:
        return plans[close[0]]
    prudent = {}
    for n in close:
        by_descriptor = schedule(traces[n], Costs(machine, constants, PICTURE)).seconds
        prudent[n] = (1 - PRUDENCE) * seconds[n] + PRUDENCE * by_descriptor
    equal = [n for n in close if prudent[n] <= (1 + EQUAL) * min(prudent.values())]
    return plans[min(equal, key=lambda n: (traces[n].hbm_bytes, prudent[n]))]
