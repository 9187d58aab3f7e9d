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
"""The predicted timeline of a kernel as a trace that Perfetto and Chrome show (the Trace Event Format, JSON)."""

from ..kernels.latency import Prediction
from ..kernels.latency.timeline import CUT


def chrome_trace(prediction: Prediction, title: str) -> dict:
    """A trace with one thread for each engine that works.

    Args:
        prediction: made with `record`.
        title: of the process; says what is shown.
    """
    used = dict.fromkeys(engine for engine, *_ in prediction.events)
    engines = [
        *(engine for engine in prediction.busy if engine in used),
        *(e for e in used if e not in prediction.busy),
    ]
    threads = {engine: number for number, engine in enumerate(engines, start=1)}
    target = prediction.machine.name
    part = ", the beginning" if CUT in prediction.notes else ""
    events = [_name("process_name", 0, f"{title}, predicted for {target}{part}")]
    for engine, thread in threads.items():
        events.append(_name("thread_name", thread, engine))
        events.append(
            {"ph": "M", "name": "thread_sort_index", "pid": 1, "tid": thread, "args": {"sort_index": thread}}
        )
    for engine, name, start, seconds in prediction.events:
        event = {"ph": "X", "name": name, "cat": "predicted", "pid": 1, "tid": threads[engine]}
        events.append({**event, "ts": 1e6 * start, "dur": 1e6 * seconds})  # microseconds
    return {
        "traceEvents": events,
        "displayTimeUnit": "ns",
        "otherData": {
            "kind": "prediction",
            "target": target,
            "kernel": prediction.kernel,
            "predicted_ms": prediction.milliseconds,
            "notes": list(prediction.notes),
        },
    }


def _name(what: str, thread: int, name: str) -> dict:
    return {"ph": "M", "name": what, "pid": 1, "tid": thread, "args": {"name": name}}
