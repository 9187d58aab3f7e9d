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
"""A plan as text, JSON, picture and trace."""

import json
import re
import sys
from dataclasses import replace

import pytest

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.kernels import PlanError
from optimum_neuronmm.kernels.latency import timeline
from optimum_neuronmm.neuron.selection import DENSE_LAYERS
from optimum_neuronmm.planning import Deployment, plan_model, read_model
from optimum_neuronmm.planning.chrome import chrome_trace
from optimum_neuronmm.planning.plot import draw_plan
from optimum_neuronmm.planning.record import to_dict
from optimum_neuronmm.planning.text import format_plan
from tests.conftest import FAMILY_OPTIONS, TINY


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    from transformers import AutoConfig

    folder = tmp_path_factory.mktemp("plan")
    AutoConfig.for_model("phi3", **TINY, **FAMILY_OPTIONS["phi3"]).save_pretrained(folder)
    return plan_model(
        read_model(folder), Deployment("trn2", 2, 96, 2), [0.1, 0.3], block_size=32, allocation="uniform"
    )


@pytest.fixture(scope="module")
def text(plan):
    return format_plan(plan)


def row(text: str, label: str, table: int) -> list[str]:
    """The cells of the row of a ratio in one of the tables."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.startswith(f"{label} ")][table]


def test_the_text_says_what_it_is(text, plan):
    first, second = text.splitlines()[:2]
    assert first == f"{plan.model.name} on trn2 (NeuronCore-v3), 2 ranks of 2 cores, bfloat16, batch 2, sequence 96"
    assert second == "Predicted for trn2 by a model of its engines; nothing here was measured."
    assert "measured" not in text.replace("nothing here was measured", "")
    assert "bound: MLPs at the floor too, without exchanges\n" in text and "\nexchanges (assumed) " in text
    for words in ("predicted MLP ms", "TTFT estimate ms", "TPOT bound ms", "Bounds of the rest", "192 rows", "2 rows"):
        assert words in text


def test_notes_are_printed_once(text, plan):
    assert plan.notes and all(text.count(f"- {note}") == 1 for note in plan.notes)


def test_the_table_of_sizes(text, plan):
    variant = plan.variants[2]
    label, gate_up, down, removed, of_model, parameters, mlp, weights, cache, share = row(text, "0.3", 0)
    assert (gate_up, down) == tuple(str(ranks[0]) for ranks in variant.ranks.values())
    assert removed == f"{variant.removed:.2%}"
    assert parameters == f"{variant.parameters / 1e6:,.1f} M"
    assert float(share.rstrip("%")) < 100 and "TOO LARGE" not in text


@pytest.mark.parametrize(("table", "name"), [(1, "prefill"), (2, "decode")])
def test_the_tables_of_times(text, plan, table, name):
    dense, phase = getattr(plan.dense, name), getattr(plan.variants[2], name)
    cells = row(text, "0.3", table)
    assert cells[1:4] == [
        f"{1e3 * phase.mlp_seconds / 3:.3f}",
        f"{1e3 * phase.mlp_seconds:.3f}",
        f"{dense.mlp_seconds / phase.mlp_seconds:.2f}",
    ]
    speedup = f"{dense.seconds / phase.seconds:.2f}"
    assert cells[7:] == [f"{1e3 * phase.seconds:.3f}", speedup, f"{1e3 * phase.floor:.3f}", phase.bound_by]
    assert phase.floor < phase.seconds
    total = {"prefill": "TTFT", "decode": "TPOT"}[name]
    assert (
        f"; {total} estimate: MLPs as predicted, and the rest at its bound; {total} bound: MLPs at the floor" in text
    )
    assert text.splitlines().count(DENSE_LAYERS) == 2  # under both tables


def test_kernels_and_blocks_are_named(text, plan):
    for variant in plan.variants:
        for phase in variant.phases:
            (mlps,) = phase.mlps
            told = next(
                line
                for line in text.splitlines()
                if line.startswith(f"{phase.name}, ") and f" {variant.label} (3 layers)" in line.partition(":")[0]
            )
            first, *times = [
                (f"{c.kernel} {1e3 * c.seconds:.3f}", "" if c.complete else ", not whole") for c in mlps.candidates
            ]
            others = f" (others: {', '.join(map(''.join, times))})" if times else ""
            assert told.endswith(f": {first[0]} ms{first[1]}{others}")
    assert ", not whole" in text
    for candidate in (plan.dense.prefill.mlps[0].best, plan.variants[1].prefill.mlps[0].best):
        for call, blocks in zip(candidate.calls, candidate.prediction.plans, strict=True):
            assert f"    {call.kernel}: strips of {blocks.B_M} rows" in text


def test_a_void_prediction_is_marked(plan):
    mlps = plan.dense.prefill.mlps[0]
    spilled = replace(mlps.best, kernel="spilled", prediction=replace(mlps.best.prediction, spills=True))
    phase = replace(plan.dense.prefill, mlps=(replace(mlps, candidates=(mlps.best, spilled)),))
    told = format_plan(replace(plan, variants=(replace(plan.dense, prefill=phase),)))
    assert f"(others: spilled {mlps.best.prediction.milliseconds:.3f}, void: it spills)" in told


def test_what_does_not_fit_is_said(plan):
    assert "TOO LARGE" in format_plan(replace(plan, variants=(replace(plan.dense, cache=2**36),)))


def test_ranks_that_differ(plan):
    mixed = replace(plan.dense, ranks={"gate_up_proj": [32, None, 96], "down_proj": [32, 32, 32]})
    assert row(format_plan(replace(plan, variants=(plan.dense, replace(mixed, label="mixed")))), "mixed", 0)[1:3] == [
        "32-96 +1 dense",
        "32",
    ]


def candidate_names(times: dict) -> list[str]:
    return [candidate["kernel"] for candidate in times["mlps"][0]["candidates"]]


def without(variant, *phases: str):
    """A variant that no kernel fits in some steps."""

    def refused(phase):
        return replace(
            phase, mlps=tuple(replace(m, candidates=(), refusals={"mlp": PlanError("no way")}) for m in phase.mlps)
        )

    return replace(variant, **{name: refused(getattr(variant, name)) for name in phases})


def test_a_step_that_no_kernel_fits_is_told(plan):
    dense, first, second = plan.variants
    partly = replace(plan, variants=(without(dense, "prefill"), without(first, "prefill", "decode"), second))
    told = format_plan(partly)
    assert row(told, "dense", 1)[1:] == row(told, "0.1", 1)[1:] == row(told, "0.1", 2)[1:] == ["-"] * 10
    cells = row(told, "0.3", 1)
    assert (cells[2], cells[3], cells[8]) == (f"{1e3 * second.prefill.mlp_seconds:.3f}", "-", "-")
    assert row(told, "0.3", 2) == row(format_plan(plan), "0.3", 2)
    for label, rows in (("dense", 192), ("0.1", 192), ("0.1", 2)):
        assert f"\n{label}: there is no kernel for an MLP of {rows} rows, " in told
    assert "no way" in told and "\nprefill, 0.3 (3 layers): " in told and "\ndecode, dense (3 layers)" in told
    found = json.loads(json.dumps(to_dict(partly)))["variants"]
    assert "no way" in found[0]["prefill"]["refusal"] and "ttft_estimate_ms" not in found[0]["prefill"]
    assert found[0]["prefill"]["mlps"][0]["kernel"] is None and found[0]["prefill"]["operations"]
    assert found[2]["prefill"]["predicted_mlp_speedup"] is None is found[2]["prefill"]["estimated_speedup"]
    assert found[2]["decode"]["predicted_mlp_speedup"] > 0


def test_a_picture_of_what_fits(plan, tmp_path):
    dense, *others = plan.variants
    draw_plan(replace(plan, variants=(without(dense, "prefill"), *others)), tmp_path / "some.png")
    draw_plan(replace(plan, variants=[without(v, "prefill") for v in plan.variants]), tmp_path / "one.png")
    draw_plan(replace(plan, variants=[without(v, "decode") for v in plan.variants]), tmp_path / "other.png")
    assert len({(tmp_path / f"{name}.png").read_bytes() for name in ("some", "one", "other")}) == 3


def test_interpolated_mlps_are_told_in_one_line(plan):
    mlps = plan.dense.decode.mlps[0]
    phase = replace(plan.dense.decode, mlps=(mlps, replace(mlps, count=7, interpolated=True)))
    told = format_plan(replace(plan, variants=(replace(plan.dense, decode=phase),)))
    assert "\ndecode, dense (7 layers) of other ranks: interpolated between these\n" in told
    assert "decode, dense (7 layers):" not in told
    assert phase.most_common is mlps


def test_json_holds_the_figures(plan):
    found = json.loads(json.dumps(to_dict(plan)))
    assert (found["kind"], found["target"], found["cores_per_rank"]) == ("prediction", "trn2", 2)
    assert found["assumed"] == {"exchange_ms": 0.01} and found["notes"] == plan.notes
    assert found["dense"] == DENSE_LAYERS
    assert [variant["ratio"] for variant in found["variants"]] == [None, 0.1, 0.3]
    for variant, entry in zip(plan.variants, found["variants"], strict=True):
        assert entry["parameters"] == variant.parameters and entry["fits_hbm"]
        for phase, total in ((variant.prefill, "ttft_estimate_ms"), (variant.decode, "tpot_estimate_ms")):
            times = entry[phase.name]
            bounds = sum(operation["bound_ms"] for operation in times["operations"])
            assert (
                times[total] == pytest.approx(times["predicted_mlp_ms"] + bounds) == pytest.approx(1e3 * phase.seconds)
            )
            mlps = sum(mlps["layers"] * mlps["predicted_ms"] for mlps in times["mlps"])
            assert mlps == pytest.approx(times["predicted_mlp_ms"])
            assert 0 < times["mlp_utilisation"] < 1 and times["refusal"] is None
            bound = times[total.replace("estimate", "bound")]
            certain = sum(o["bound_ms"] for o in times["operations"] if o["bound_by"] != "exchange")
            assert bound == pytest.approx(times["mlp_floor_ms"] + certain) == pytest.approx(1e3 * phase.floor)
            assert certain < bounds
            assert bound <= times[total] and candidate_names(times) == [c.kernel for c in phase.mlps[0].candidates]
            (mlps,) = times["mlps"]
            assert mlps["left_to_compiler_by_export"] == (variant.ratio is None) and not mlps["interpolated"]
            assert [c["complete"] for c in mlps["candidates"]] == [c.complete for c in phase.mlps[0].candidates]
            candidate = times["mlps"][0]["candidates"][0]
            assert candidate["kernel"] == times["mlps"][0]["kernel"] and candidate["plans"]
    prefill = found["variants"][0]["prefill"]
    assert prefill["predicted_mlp_speedup"] == 1
    flops = 3 * 3 * 2 * 192 * 96 * 100  # of one rank, on both of its cores
    peak = 2 * plan.deployment.machine.flops
    assert prefill["mlp_utilisation"] == pytest.approx(flops / peak / (prefill["predicted_mlp_ms"] / 1e3))
    assert not to_dict(replace(plan, variants=(replace(plan.dense, cache=2**36),)))["variants"][0]["fits_hbm"]


def test_a_picture(plan, tmp_path):
    draw_plan(plan, tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_needs_matplotlib(plan, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(NeuronMMError, match="needs matplotlib: pip install matplotlib"):
        draw_plan(plan, tmp_path / "plan.png")


def test_a_picture_that_cannot_be_written(plan, tmp_path):
    with pytest.raises(NeuronMMError, match="plan.png could not be written: No such file"):
        draw_plan(plan, tmp_path / "nowhere" / "plan.png")


def test_a_trace_of_the_engines(plan):
    prediction = plan.variants[1].prefill.mlps[0].trace()
    found = json.loads(json.dumps(chrome_trace(prediction, "an MLP")))
    events = [event for event in found["traceEvents"] if event["ph"] == "X"]
    threads = {e["tid"]: e["args"]["name"] for e in found["traceEvents"] if e["name"] == "thread_name"}
    (process,) = [e["args"]["name"] for e in found["traceEvents"] if e["name"] == "process_name"]
    assert process == "an MLP, predicted for trn2" and found["otherData"]["kind"] == "prediction"
    assert {"TensorE", "VectorE"} <= set(threads.values()) and len(set(threads.values())) == len(threads)
    assert [threads[e["tid"]] for e in events] == [engine for engine, *_ in prediction.events]
    assert {e["tid"] for e in events} == set(threads)  # an engine that does nothing is left out
    ends = [event["ts"] + event["dur"] for event in events]
    assert min(event["ts"] for event in events) >= 0
    assert max(ends) == pytest.approx(1e6 * prediction.seconds)  # microseconds
    assert found["otherData"]["predicted_ms"] == prediction.milliseconds


def test_a_form_of_several_ratios_is_told_once(tmp_path):
    from transformers import AutoConfig

    AutoConfig.for_model("llama", **TINY).save_pretrained(tmp_path)
    # At 96 x 200 both ratios lie between ranks 32 and 64, which one of three layers has.
    told = format_plan(plan_model(read_model(tmp_path), Deployment(sequence_length=96), [0.25, 0.3], block_size=32))
    lines = [line.partition(":")[0] for line in told.splitlines() if line.startswith("prefill, ")]
    assert len(lines) == len(set(lines)) == 3
    assert lines[0] == "prefill, dense (3 layers)"
    assert sorted(lines[1:]) == [f"prefill, 0.25 ({n}), 0.3 ({n})" for n in ("1 layer", "2 layers")]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """`drawn(plan)`: the axes of its picture."""
    figures = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *a, **o: figures.append(figure))

    def drawn(plan):
        draw_plan(plan, tmp_path / "plan.png")
        return figures.pop().axes

    return drawn


def heights(axes) -> list[float]:
    """Of the bars, all parts of each."""
    return [sum(bar.get_height() for bar in bars) for bars in zip(*axes.containers, strict=True)]


def test_every_variant_has_a_bar_even_under_one_name(plan, drawn):
    dense, first, second = plan.variants
    same = replace(plan, variants=(dense, replace(first, label="0.3"), replace(second, label="0.3")))
    for axes, name in zip(drawn(same), ("prefill", "decode"), strict=True):
        assert heights(axes) == pytest.approx([1e3 * getattr(variant, name).seconds for variant in plan.variants])
        assert [round(bar.get_x() + bar.get_width() / 2) for bar in axes.containers[0]] == [0, 1, 2]
        assert [text.xy[0] for text in axes.texts] == [0, 1, 2]


def test_a_bar_says_what_was_asked_for_and_what_was_removed(plan, drawn):
    for axes in drawn(plan):
        assert axes.get_xlabel() == "compression ratio asked for"
        assert [tick.get_text() for tick in axes.get_xticklabels()] == [
            "dense",
            *(f"{v.label}\n({100 * v.removed:.1f} % removed)" for v in plan.variants[1:]),
        ]
    for axes in drawn(replace(plan, variants=(plan.dense, replace(plan.variants[1], ratio=None)))):
        assert axes.get_xlabel() == ""  # of a model that is compressed already, none was asked for


def test_a_picture_of_many_ratios_can_be_drawn(plan, drawn):
    assert drawn(plan)[0].figure.get_figwidth() == 2.5 + 2.2 * 3
    many = replace(plan, variants=(plan.dense, *plan.variants[1:] * 150))
    assert drawn(many)[0].figure.get_figwidth() * 100 < 2**16  # pixels


def test_a_picture_that_fails_leaves_the_older_one(plan, tmp_path, monkeypatch):
    (tmp_path / "plan.png").write_bytes(b"older")

    def replaced(*a):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", replaced)
    with pytest.raises(NeuronMMError, match="plan.png could not be written: No space left on device. What was there"):
        draw_plan(plan, tmp_path / "plan.png")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]


def test_a_trace_that_is_cut_says_so(plan, monkeypatch):
    mlps = plan.variants[1].prefill.mlps[0]
    monkeypatch.setattr(timeline, "EVENTS", 5)
    prediction = mlps.trace()
    assert timeline.CUT in prediction.notes and len(prediction.events) == 5 * len(mlps.best.calls)
    assert prediction.seconds == pytest.approx(mlps.best.prediction.seconds, rel=0.03)
    found = chrome_trace(prediction, "an MLP")
    assert found["traceEvents"][0]["args"]["name"] == "an MLP, predicted for trn2, the beginning"
    assert timeline.CUT in found["otherData"]["notes"]
    assert timeline.CUT not in mlps.best.prediction.notes
