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
"""One model on one task."""

from ..data.sources import Data
from ..data.tasks import Task
from ..description.task_options import QuestionOptions, TaskOptions
from .examples import Scores, TaskResult
from .loading import LoadedModel
from .questions import evaluate_questions
from .text_windows import evaluate_text


def evaluate(
    loaded: LoadedModel,
    task: Task,
    options: TaskOptions,
    data: Data,
    scores: Scores,
    baseline: LoadedModel | None = None,
) -> TaskResult:
    """Evaluates a model on a task. Examples that were scored before are not scored again.

    Args:
        baseline: of a perplexity task: the divergence from it is measured as well.
    """
    if isinstance(options, QuestionOptions):
        return evaluate_questions(loaded, task, options, data, scores)
    return evaluate_text(loaded, task, options, data, scores, baseline)
