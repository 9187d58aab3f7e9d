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
"""Predictions as rows of a table. Where a kernel spills there is a flag in the place of a time."""

import math
from collections.abc import Iterable

from optimum_neuronmm.kernels import KernelError
from optimum_neuronmm.kernels.latency import Prediction, predict
from optimum_neuronmm.kernels.latency.dma import CALIBRATED

from .kernel_shapes import specs


TARGET = "trn1"


def predicted(kernel, *tensors, options: dict | None = None, dma=CALIBRATED) -> Prediction | None:
    """The prediction of a kernel, or None and a line that says why there is none."""
    try:
        plan = kernel.plan(*tensors, target=TARGET, options=options) if options else None
        return predict(kernel, *tensors, target=TARGET, plan=plan, dma=dma)
    except KernelError as error:
        print(f"  no prediction: {error}")
        return None


def each(calls: Iterable[tuple], dma=CALIBRATED) -> list[Prediction] | None:
    """The predictions of kernels, each given with the shapes of its tensors; None where one has none."""
    parts = [predicted(kernel, *specs(*shapes), dma=dma) for kernel, shapes in calls]
    return None if None in parts else parts


def in_a_row(calls: Iterable[tuple], dma=CALIBRATED) -> Prediction | None:
    """The prediction of such kernels one after the other."""
    parts = each(calls, dma)
    return parts and sum(parts[1:], parts[0])


def overlapped(parts: list[Prediction] | None) -> float | None:
    """Seconds of kernels in a row whose engines never wait for each other: no order of their instructions can be faster."""
    if parts is None or any(part.spills for part in parts):
        return None
    return sum(max(part.busy.values()) for part in parts)


def seconds(prediction: Prediction | None) -> float | None:
    """The predicted time, or None where there is none: without a prediction, or with a spill, which makes it void."""
    return None if prediction is None or prediction.spills else prediction.seconds


def fastest(predictions: Iterable[Prediction | None]) -> Prediction | None:
    """The one of the least time; where all spill one of them, and where there is none None."""
    found = [prediction for prediction in predictions if prediction is not None]
    return min(found, key=lambda p: seconds(p) or math.inf, default=None)


def milliseconds(prediction: Prediction | None) -> float | None:
    time = seconds(prediction)
    return None if time is None else 1e3 * time


def ratio(slower: Prediction | None, faster: Prediction | None) -> float | None:
    """How many times faster one is predicted to be, or None where either has no time."""
    times = seconds(slower), seconds(faster)
    return None if None in times else times[0] / times[1]


def notes(prediction: Prediction | None) -> tuple[str, ...]:
    return () if prediction is None else prediction.notes


def figures(prediction: Prediction | None) -> dict:
    """The columns of the paper's kernel table, and what bounds the kernel."""
    if prediction is None:
        return {"predicted ms": None, "spill": "does not fit"}
    time = seconds(prediction)
    return {
        "predicted ms": None if time is None else 1e3 * time,
        "HBM GB": prediction.hbm_bytes / 1e9,
        "TensorE active %": None if time is None else 100 * prediction.busy["TensorE"] / time,
        "MFU %": None if time is None else 100 * prediction.utilisation,
        "GFLOP": prediction.flops / 1e9,
        "transpose GFLOP": prediction.transpose_flops / 1e9,
        "SBUF %": 100 * prediction.sbuf_peak / prediction.machine.sbuf,
        "spill": prediction.spills,
        "bound by": prediction.bound_by,
        "floor ms": 1e3 * prediction.floor,
    }
