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
"""Closed-form refinement of the down projections on the compressed model's own activations.

The factors of a layer are found from the dense model's activations, but the layer then reads what compressed layers before
it made of the text. Its down projection is the last that can act on that before the residual stream: it is changed by the
least squares solution of

    h W' = y + (what left the dense layer - what leaves the compressed one)

with h (M, I) and y (M, H) what enters and leaves the projection in the compressed model, so that it makes good what the
layer and all before it did wrong. The change is damped towards none. A dense W takes all of it; of factors only U changes,
and the shapes, ranks and number of parameters stay as they are.
"""

import torch
from tqdm.auto import tqdm

from .allocation import Allocation
from .analysis import Analysis
from .errors import NotFiniteError
from .modeling import rounded
from .quality import computing_with, layer_tensors, trial
from .run import Run
from .statistics import SecondMoment
from .streaming import collect_inputs


_STAGE, _FILE = "refinement", "refinement.json"
# Of the mean square of an entry of h. Less follows the calibration text too closely.
_RIDGE = 1e-2


def refine(run: Run, analysis: Analysis, allocation: Allocation) -> list[dict]:
    """Refines the down projections and keeps that only where the held-out divergence improves.

    Writes `refined-{i}` of every layer i into the workspace, and removes them where they are not kept.

    Returns:
        For the report: what was tried, the divergence before and after, and whether it was kept.
    """
    workspace = run.workspace
    divergence = workspace.read_json(_FILE) or {}
    if "before" not in divergence:  # measured once, while nothing is refined
        divergence["before"] = trial(run, analysis, allocation)["divergence"]
        workspace.write_json(_FILE, divergence)
    if "after" not in divergence:
        try:
            _walk(run, analysis, allocation)
            divergence["after"] = trial(run, analysis, allocation)["divergence"]
        except NotFiniteError:  # half precision may not hold what least squares gives
            divergence["after"] = None
        workspace.write_json(_FILE, divergence)
    kept = divergence["after"] is not None and divergence["after"] < divergence["before"]
    if not kept:
        for layer in range(run.projections.layers):
            workspace.remove(f"refined-{layer}")
    return [{"name": "down from compressed inputs", **divergence, "kept": kept}]


def _walk(run: Run, analysis: Analysis, allocation: Allocation) -> None:
    """Refines layer after layer on the calibration text, each on what the refined ones before it make of it."""
    stream, workspace, layers = run.stream, run.workspace, run.projections.layers
    done = workspace.done(_STAGE)
    if done == layers:
        return
    if done:
        states = workspace.load(f"refining-{done}")
    else:
        states = {"dense": stream.embed(run.text.windows)}
        states["compressed"] = states["dense"].clone()
    with tqdm(total=layers, initial=done, desc="Refining layers", unit="layer") as progress:
        for layer in range(done, layers):
            with stream.layer(layer):
                stream.advance(layer, states["dense"])
                refined = _refine_layer(run, analysis, allocation, layer, states)
                workspace.save(f"refined-{layer}", refined)
                with computing_with(stream, allocation, layer_tensors(run, analysis, allocation, layer)):
                    stream.advance(layer, states["compressed"])
            workspace.save(f"refining-{layer + 1}", states)
            workspace.finish(_STAGE, layer + 1)
            workspace.remove(f"refining-{layer}")
            progress.update()
    workspace.remove(f"refining-{layers}")


def _refine_layer(
    run: Run, analysis: Analysis, allocation: Allocation, layer: int, states: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The checkpoint entries of the refined down projection.

    Args:
        states: `dense`, which left the dense layer, and `compressed`, which enters the compressed one; unchanged.
    """
    stream, path = run.stream, run.projections.path(layer, run.projections.family.down)
    tensors = layer_tensors(run, analysis, allocation, layer, refined=False)
    with computing_with(stream, allocation, tensors):
        down = stream.model.get_submodule(path)
        leaving = states["compressed"].clone()
        stream.advance(layer, leaving)
        residuals = (states["dense"] - leaving).flatten(0, 1) / _residual_multiplier(run)
        moment = SecondMoment(down.in_features, stream.device)
        cross = torch.zeros(down.in_features, down.out_features, dtype=torch.float64, device=stream.device)
        row = 0

        def observe(_: str, h: torch.Tensor) -> None:
            nonlocal row
            moment.add(h)
            cross.add_(h.float().T @ residuals[row : row + len(h)].to(h.device).float())
            row += len(h)

        with collect_inputs({path: down}, observe):
            stream.advance(layer, states["compressed"].clone())
    A = moment.mean()
    A.diagonal().add_(_RIDGE * A.diagonal().mean().clamp_min(1e-30))
    change = torch.cholesky_solve(cross / row, torch.linalg.cholesky(A))  # of W (I, H)
    if path not in tensors:
        weight = down.weight.double() + change.T
        return {f"{path}.weight": rounded(f"{path}.weight", weight, run.stored_dtype(path)).cpu().contiguous()}
    name = f"{path}.u.weight"
    V = tensors[path][f"{path}.v.weight"].to(change).T
    # The least squares solution of dU V = change, the smallest where V has not full rank.
    dU = change @ V.T @ torch.linalg.pinv(V @ V.T, hermitian=True)
    U = tensors[path][name].to(change).T + dU
    return {**tensors[path], name: rounded(name, U.T, run.stored_dtype(path)).cpu().contiguous()}


def _residual_multiplier(run: Run) -> float:
    """What the output of the MLP is multiplied by before it is added to the residual stream."""
    return getattr(run.checkpoint.config, "residual_multiplier", 1.0)
