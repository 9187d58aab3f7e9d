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
"""Predicted time of the kernels: engine timelines made from their traces, by constants calibrated on published timings.

The planners need the constants, and a prediction needs the planners: names are looked up when they are asked for.
"""

import importlib


_HOME = {
    "Prediction": "prediction",
    "predict": "prediction",
    "predict_trace": "prediction",
    "CURVES": "dma",
    "CHECKED": "checked",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
