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
"""A plan as a dictionary for JSON, whose keys say what is predicted, what is a bound, and what is assumed."""

from dataclasses import asdict

from ..neuron.form import EXCHANGE_SECONDS, PROJECTIONS
from ..neuron.selection import DENSE_LAYERS, Candidate
from ..ranks import DENSE
from ..version import __version__
from .plan import ModelPlan, Variant
from .step import PREFILL, Mlps, Phase


def to_dict(plan: ModelPlan) -> dict:
    """All of a plan. Times are in milliseconds, sizes in bytes."""
    on = plan.deployment
    return {
        "kind": "prediction",  # nothing in it was measured
        "version": __version__,
        "model": plan.model.name,
        "model_type": plan.model.config.model_type,
        "instance_type": on.instance_type,
        "target": on.kind,
        "cores_per_rank": on.cores,
        "tensor_parallel_size": on.tensor_parallel_size,
        "layout": plan.layout,
        "allocation": plan.allocation,
        "dtype": on.dtype,
        "batch_size": on.batch_size,
        "sequence_length": on.sequence_length,
        "hbm_bytes_per_rank": on.hbm,
        "peak_flops_per_rank": on.flops,
        "bandwidth_per_rank": on.bandwidth,
        "assumed": {"exchange_ms": 1e3 * EXCHANGE_SECONDS} if on.tensor_parallel_size > 1 else {},
        "dense": DENSE_LAYERS,
        "notes": plan.notes,
        "variants": [_variant(variant, plan) for variant in plan.variants],
    }


def _variant(variant: Variant, plan: ModelPlan) -> dict:
    needed = variant.weights + variant.cache
    return {
        "label": variant.label,
        "ratio": variant.ratio,
        "ranks": variant.ranks,
        "removed_of_projections": variant.removed,
        "removed_of_model": 1 - variant.parameters / plan.model.parameters,
        "parameters": variant.parameters,
        "mlp_parameters": variant.mlp_parameters,
        "weight_bytes_per_rank": variant.weights,
        "kv_cache_bytes_per_rank": variant.cache,
        "fits_hbm": needed <= plan.deployment.hbm,
        "prefill": _phase(variant.prefill, plan.dense.prefill, plan),
        "decode": _phase(variant.decode, plan.dense.decode, plan),
    }


def _phase(phase: Phase, dense: Phase, plan: ModelPlan) -> dict:
    """Without times where no kernel fits."""
    found = {
        "rows": phase.rows,
        "refusal": phase.refusal,
        "mlps": [_mlps(mlps) for mlps in phase.mlps],
        "operations": [
            {
                "name": operation.name,
                "flops": operation.flops,
                "bytes": operation.bytes,
                "bound_ms": 1e3 * operation.seconds,
                "bound_by": operation.bound_by,
            }
            for operation in phase.operations
        ],
        "peak_flops": plan.deployment.flops,
    }
    if phase.refusal:
        return found
    total = "ttft" if phase.name == PREFILL else "tpot"
    times = {
        "predicted_mlp_ms": 1e3 * phase.mlp_seconds,
        "predicted_mlp_ms_per_layer": 1e3 * phase.mlp_seconds / plan.model.layers,
        "predicted_mlp_speedup": None if dense.refusal else dense.mlp_seconds / phase.mlp_seconds,
        "mlp_floor_ms": 1e3 * phase.mlp_floor,
        "mlp_bound_by": phase.mlp_bound_by,
        "mlp_utilisation": utilisation(phase, plan),
        f"{total}_estimate_ms": 1e3 * phase.seconds,
        f"{total}_bound_ms": 1e3 * phase.floor,
        "estimated_speedup": None if dense.refusal else dense.seconds / phase.seconds,
        "bound_by": phase.bound_by,
    }
    return found | times


def utilisation(phase: Phase, plan: ModelPlan) -> float:
    """FLOPs per second of the MLPs, as a fraction of the peak for the dtype (MFU)."""
    on = plan.deployment
    return phase.mlp_flops * on.cores / on.flops / phase.mlp_seconds


def _mlps(mlps: Mlps) -> dict:
    fits = bool(mlps.candidates)
    return {
        "layers": mlps.count,
        "form": asdict(mlps.form),
        "left_to_compiler_by_export": all(getattr(mlps.form, name) is DENSE for name in PROJECTIONS),
        "kernel": mlps.best.kernel if fits else None,
        "predicted_ms": 1e3 * mlps.seconds if fits else None,
        "interpolated": mlps.interpolated,
        "candidates": [_candidate(candidate) for candidate in mlps.candidates],
        "refused": {kernel: str(error) for kernel, error in mlps.refusals.items()},
    }


def _candidate(candidate: Candidate) -> dict:
    found = candidate.prediction
    return {
        "kernel": candidate.kernel,
        "complete": candidate.complete,
        "predicted_ms": 1e3 * candidate.seconds,
        "left_to_compiler_ms": 1e3 * candidate.left,
        "floor_ms": 1e3 * found.floor,
        "bound_by": found.bound_by,
        "busy_ms": {engine: 1e3 * seconds for engine, seconds in found.busy.items()},
        "flops": found.flops,
        "transpose_flops": found.transpose_flops,
        "hbm_bytes": found.hbm_bytes,
        "sbuf_peak_bytes": found.sbuf_peak,
        "spills": found.spills,
        "notes": list(found.notes),
        "plans": [asdict(plan) for plan in found.plans],
    }
