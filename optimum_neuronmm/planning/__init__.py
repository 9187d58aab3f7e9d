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
"""Predicted latency of a model on a Neuron device, dense and compressed, from its config alone: `optimum-cli neuronmm plan`."""

from .deployment import Deployment
from .model import Model, read_model
from .plan import ModelPlan, plan_model


__all__ = ["Deployment", "Model", "ModelPlan", "plan_model", "read_model"]
