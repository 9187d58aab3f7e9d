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
"""Plans of tiny models: ranks, sizes, kernels, and how times add up."""

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from transformers import AutoModelForCausalLM

from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.kernels import PlanError, Spec, matmul
from optimum_neuronmm.kernels.latency import predict
from optimum_neuronmm.kernels.latency.constants import constants_of
from optimum_neuronmm.neuron.compilation import bandwidth_of
from optimum_neuronmm.neuron.form import EXCHANGE_SECONDS, SHARDED, Form, forms_of
from optimum_neuronmm.neuron.selection import DENSE_LAYERS, SEPARATELY, Candidate
from optimum_neuronmm.planning import Deployment, interpolation, plan, plan_model, read_model
from optimum_neuronmm.planning.roofline import operations
from optimum_neuronmm.ranks import DENSE, uniform_rank


QUICK = {"block_size": 32, "allocation": "uniform"}
SHORT = Deployment(sequence_length=160)


@pytest.fixture
def llama(config_only):
    return read_model(config_only())


@pytest.fixture
def ranked(monkeypatch):
    """`ranked.asked` holds what was ranked. Each kernel takes a second for each row and layer, on the tensor engine."""

    def rank_kernels(form, rows, dtype, target, cores):
        rank_kernels.asked.append((form, rows))
        found = replace(
            base,
            seconds=rows * (1.0 if form.gate is None else 0.5),
            floor=rows * 0.25,
            busy={"TensorE": 2.0, "DMA": 1.0},
            flops=10,
            notes=("a note",),
        )
        ways = [Candidate("mlp", (), found, left=3.0 if rows in rank_kernels.incomplete else 0.0)]
        return ways, {"mlp_decode": "too many rows"}

    base = predict(matmul, Spec((32, 96)), Spec((96, 32)))
    rank_kernels.asked, rank_kernels.incomplete = [], ()
    monkeypatch.setattr(plan, "rank_kernels", rank_kernels)
    return rank_kernels


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma3_text"])
def test_ranks_are_the_papers(config_only, ranked, family):
    model = read_model(config_only(family))
    found = plan_model(model, SHORT, [0.1, 0.4], alpha=0.2, **QUICK)
    assert [variant.label for variant in found.variants] == ["dense", "0.1", "0.4"]
    for variant in found.variants:
        for name, shape in model.projections.items():
            expected = DENSE if variant.ratio is None else uniform_rank(shape, variant.ratio, 32, 0.2)
            assert variant.ranks[name] == [expected] * 3


def test_parameters_add_up(llama, ranked):
    dense, compressed = plan_model(llama, SHORT, [0.3], **QUICK).variants
    rank = compressed.ranks["up_proj"][0]
    assert rank == 32 and compressed.mlp_parameters == 3 * 3 * 32 * (96 + 200)
    assert dense.parameters == llama.parameters and dense.mlp_parameters == llama.mlp_parameters
    assert dense.parameters - compressed.parameters == dense.mlp_parameters - compressed.mlp_parameters
    assert compressed.removed == pytest.approx(1 - compressed.mlp_parameters / dense.mlp_parameters)
    assert dense.removed == 0 and dense.cache == compressed.cache > 0
    assert dense.weights - compressed.weights == 2 * (dense.parameters - compressed.parameters)


def test_only_some_projections(llama, ranked):
    _, variant = plan_model(llama, SHORT, [0.3], projections=["down"], **QUICK).variants
    assert variant.ranks == {"gate_proj": [DENSE] * 3, "up_proj": [DENSE] * 3, "down_proj": [32] * 3}
    assert variant.removed == pytest.approx(1 - 32 * 296 / (96 * 200))


def test_a_compressed_model_is_planned_as_it_is(compressed_llama):
    found = plan_model(read_model(compressed_llama), SHORT)
    assert [variant.label for variant in found.variants] == ["dense", "as compressed"]
    real = AutoModelForCausalLM.from_pretrained(compressed_llama)
    assert found.variants[1].parameters == sum(parameter.numel() for parameter in real.parameters())
    with pytest.raises(NeuronMMError, match="is compressed already: plan it without ratios"):
        plan_model(read_model(compressed_llama), SHORT, [0.1])
    with pytest.raises(NeuronMMError, match="is compressed already: plan it without block_size, alpha"):
        plan_model(read_model(compressed_llama), SHORT, block_size=32, alpha=0.1)


def test_layers_of_equal_form_are_predicted_once(config_only, ranked):
    model = read_model(config_only(num_hidden_layers=80))
    found = plan_model(model, SHORT, [0.3, 0.3, 0.35], **QUICK)
    assert len(found.variants) == 3  # the same ratio twice is one
    assert found.variants[1].ranks == found.variants[2].ranks
    assert len(ranked.asked) == len(set(ranked.asked))
    assert {rows for _, rows in ranked.asked} == {160, 1}
    assert len(found.dense.prefill.mlps) == 1 and found.dense.prefill.mlps[0].count == 80


def test_layers_of_different_forms(llama, ranked):
    modules = {"model.layers.1.mlp.down_proj": {"rank": 32}}
    model = plan_model(llama, SHORT).model
    mixed = plan_model(type(model)(**{**vars(model), "modules": modules}), SHORT).variants[1]
    assert [(mlps.count, mlps.form.down) for mlps in mixed.prefill.mlps] == [(2, DENSE), (1, 32)]
    assert mixed.ranks["down_proj"] == [DENSE, 32, DENSE] and mixed.ranks["up_proj"] == [DENSE] * 3


def test_times_add_up(llama, ranked):
    found = plan_model(llama, Deployment(batch_size=4, sequence_length=40), [0.3], **QUICK)
    dense, compressed = found.variants
    assert (dense.prefill.rows, dense.decode.rows) == (160, 4)
    assert (dense.prefill.mlp_seconds, compressed.prefill.mlp_seconds) == (3 * 160.0, 3 * 80.0)
    assert dense.decode.mlp_seconds == 3 * 4.0
    for phase in dense.phases:
        assert list(phase.operations) == operations(llama, found.deployment, prefill=phase.name == "prefill")
    on = found.deployment
    for phase, rows in ((dense.prefill, 160), (dense.decode, 4)):
        flops, moved = 2 * rows * 3 * 96 * 200, 2 * (3 * 96 * 200 + 2 * rows * 96)
        assert phase.mlp_floor == pytest.approx(3 * max(flops / on.flops, moved / on.bandwidth))
    rest = sum(operation.seconds for operation in dense.prefill.operations)
    assert dense.prefill.rest_seconds == rest > 0
    assert dense.prefill.seconds == 480 + rest and dense.prefill.floor == dense.prefill.mlp_floor + rest
    assert dense.prefill.mlp_bound_by == "TensorE" and dense.prefill.bound_by == "MLP (TensorE)"
    assert dense.prefill.mlp_flops == 30


def test_what_takes_longest_is_named(llama, ranked, monkeypatch):
    monkeypatch.setattr(
        plan, "operations", lambda *a, **o: [SimpleNamespace(name="lm_head", seconds=1e6, bound_by="memory")]
    )
    assert plan_model(llama, SHORT).dense.decode.bound_by == "lm_head (memory)"


def test_exchanges_are_counted(llama, ranked):
    on = Deployment(sequence_length=160, tensor_parallel_size=2)
    dense, replicated = plan_model(llama, on, [0.3], layout="replicated", **QUICK).variants
    _, sharded = plan_model(llama, on, [0.3], layout="sharded", **QUICK).variants
    assert dense.decode.mlp_seconds == pytest.approx(3 * (1 + EXCHANGE_SECONDS))
    assert replicated.decode.mlp_seconds == pytest.approx(3 * (0.5 + EXCHANGE_SECONDS))
    assert sharded.decode.mlps[0].form.layout == SHARDED
    assert sharded.decode.mlp_seconds == pytest.approx(3 * (0.5 + 3 * EXCHANGE_SECONDS))
    assert dense.decode.mlps[0].form == Form(96, 200, None, None, None, tp=2)


def test_the_weights_of_one_rank(llama, ranked):
    one = plan_model(llama, SHORT).dense
    two = plan_model(llama, Deployment(sequence_length=160, tensor_parallel_size=2)).dense
    norms = 2 * llama.other_parameters  # on every rank
    assert two.weights - norms == (one.weights - norms) // 2
    assert two.cache == one.cache // 2


def test_notes_are_there_once(llama, ranked):
    notes = plan_model(llama, SHORT, [0.1, 0.3], **QUICK).notes
    assert notes.count("a note") == 1 and len(notes) == len(set(notes))
    assert plan.UNIFORM in notes and plan.EVEN not in notes and plan.BOUNDS in notes and plan.NOT_PREDICTED in notes
    assert DENSE_LAYERS in notes and "leaves dense layers to the compiler" in DENSE_LAYERS
    assert plan.EXCHANGES not in notes and plan.UNIFORM not in plan_model(llama, SHORT).notes
    parallel = plan_model(llama, Deployment(sequence_length=160, tensor_parallel_size=2)).notes
    assert plan.EXCHANGES in parallel and "assumed" in plan.EXCHANGES
    assert any(
        "made for 512 positions, and 513" in note for note in plan_model(llama, Deployment(sequence_length=513)).notes
    )


def test_separate_products_of_few_rows_are_not_predicted_whole(llama, ranked):
    ranked.incomplete = (1,)
    found = plan_model(llama, SHORT).dense
    assert SEPARATELY in found.decode.notes and SEPARATELY not in found.prefill.notes
    assert found.decode.mlp_seconds == 3 * (1.0 + 3.0) and found.prefill.mlp_seconds == 3 * 160.0


def test_ratios_of_equal_ranks_are_told(llama, ranked):
    notes = plan_model(llama, SHORT, [0.1, 0.3, 0.35], **QUICK).notes
    assert plan.EQUAL_RANKS.format("0.3 and 0.35") in notes
    told = plan.EQUAL_RANKS.partition("{")[0]
    assert not any(note.startswith(told) for note in plan_model(llama, SHORT, [0.1, 0.3], **QUICK).notes)


def test_layouts_are_chosen_as_an_export_does(llama, ranked, monkeypatch):
    asked = []
    monkeypatch.setattr(plan, "forms_of", lambda *a: asked.append(a[-1]) or forms_of(*a))
    on = Deployment("trn2", sequence_length=160, tensor_parallel_size=2)
    plan_model(llama, on)
    config = SimpleNamespace(logical_nc_config=on.cores, torch_dtype=on.torch_dtype, target="trn2")
    assert asked == [bandwidth_of(config)]
    assert asked[0] * on.itemsize == on.bandwidth == on.cores * constants_of(on.machine).saturated


TOO_LARGE = {
    "mlp": PlanError("MLP: no block sizes fit", (70, "strips of activations")),
    "mlp_decode": PlanError("MLP decode: at most 128 rows, got 160: use `mlp`"),
    "matmul": PlanError("X W: no block sizes fit", (7, "blocks of w")),
}


def test_a_step_that_no_kernel_fits_leaves_the_other(llama, ranked, monkeypatch):
    monkeypatch.setattr(
        plan, "rank_kernels", lambda form, rows, *a: ([], TOO_LARGE) if rows == 160 else ranked(form, rows, *a)
    )
    dense, compressed = plan_model(llama, SHORT, [0.3], **QUICK).variants
    for variant in (dense, compressed):
        assert variant.decode.refusal is None and variant.decode.seconds > 0
        told = variant.prefill.refusal
        assert "no kernel for an MLP of 160 rows" in told
        assert told.endswith("the nearest is matmul, whose blocks of w are 7 bytes per partition too large")


def test_a_refusal_without_bytes_is_told_whole(llama, ranked, monkeypatch):
    refusals = {"mlp_decode": PlanError("at most 128 rows")}
    monkeypatch.setattr(
        plan, "rank_kernels", lambda form, rows, *a: ([], refusals) if rows == 160 else ranked(form, rows, *a)
    )
    assert plan_model(llama, SHORT).dense.prefill.refusal.endswith("mlp_decode: at most 128 rows")


def with_ranks(model, ranks):
    """The model, compressed to (gate, up, down) of each layer; None leaves a projection dense."""
    names = ("gate_proj", "up_proj", "down_proj")
    modules = {
        f"model.layers.{layer}.mlp.{name}": {"rank": rank}
        for layer, found in enumerate(ranks)
        for name, rank in zip(names, found, strict=True)
        if rank is not None
    }
    return replace(model, modules=modules)


def test_of_many_different_mlps_a_few_are_predicted(config_only, ranked):
    layers = 60
    model = read_model(config_only(num_hidden_layers=layers))
    ranks = [(32 * (n + 1),) * 3 for n in range(layers - 10)] + [(32 * (n + 1), None, None) for n in range(10)]
    found = plan_model(with_ranks(model, ranks), SHORT)
    _, compressed = found.variants
    asked = {form for form, _ in ranked.asked}
    assert len(asked) <= 1 + interpolation.FEW + 2 and len(ranked.asked) == 2 * len(asked)
    for phase in compressed.phases:
        assert len(phase.mlps) == layers and {m.form for m in phase.mlps if not m.interpolated} == asked - {
            found.dense.decode.mlps[0].form
        }
        assert not phase.most_common.interpolated
        assert phase.mlp_seconds == pytest.approx(layers * phase.rows * 0.5)
    told = plan.INTERPOLATED.format(len(asked) - 1, layers)
    assert told in found.notes
    few = plan_model(with_ranks(model, [(32 * (n % 8 + 1),) * 3 for n in range(layers)]), SHORT)
    assert not any(m.interpolated for m in few.variants[1].decode.mlps) and told not in few.notes


def test_where_neighbours_have_no_kernel_an_mlp_is_predicted_itself(config_only, ranked, monkeypatch):
    model = read_model(config_only(num_hidden_layers=20))
    ends = (32, 640)
    monkeypatch.setattr(
        plan,
        "rank_kernels",
        lambda form, rows, *a: (
            ([], TOO_LARGE) if rows == 160 and form.gate not in (None, *ends) else ranked(form, rows, *a)
        ),
    )
    found = plan_model(with_ranks(model, [(32 * (n + 1),) * 3 for n in range(20)]), SHORT).variants[1]
    assert found.decode.refusal is None and found.prefill.refusal
    refused = [mlps for mlps in found.prefill.mlps if not mlps.candidates]
    assert len(refused) == 18 and not any(mlps.interpolated for mlps in refused)


@pytest.mark.parametrize("label", ["0.3", "0.30", "3e-1", "dense"])
def test_variants_are_found(llama, ranked, label):
    found = plan_model(llama, SHORT, [0.1, 0.3], **QUICK)
    assert found.variant(label) is found.variants[0 if label == "dense" else 2]


@pytest.mark.parametrize("label", ["0.2", "sparse", ""])
def test_a_variant_that_is_not_there(llama, ranked, label):
    with pytest.raises(NeuronMMError, match="choose one of dense, 0.1"):
        plan_model(llama, SHORT, [0.1], **QUICK).variant(label)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 33}, "block_size must be a positive multiple of 32, got 33"),
        ({"alpha": 2.0}, r"alpha must lie in \[0, 1\), got 2.0"),
        ({"projections": ["side"]}, "Unknown projection"),
        ({"layout": "folded"}, "layout must be one of"),
        ({"block_size": 128}, "Nothing would be compressed: with block_size 128"),
        ({"allocation": "by_hand"}, "allocation must be one of"),
        ({"allocation": "auto", "block_size": 128}, "compression_ratio 0.3 cannot be reached"),
        (
            {"allocation": "by_loss", "alpha": 0.5},
            "alpha rounds uniform ranks, and these are not: add allocation 'uniform'",
        ),
    ],
)
def test_options_are_checked(llama, ranked, options, message):
    with pytest.raises(NeuronMMError, match=message):
        plan_model(llama, SHORT, [0.3], **{**QUICK, **options})


def test_speed_ups_that_are_not_of_the_compression_alone(llama, ranked):
    """Each kernel takes half as long with factors, and at 0.3 a third of the work is removed."""
    found = plan_model(llama, SHORT, [0.3], **QUICK)
    allowed = found.dense.prefill.mlp_floor / found.variants[1].prefill.mlp_floor
    assert 1.3 < allowed < 1.9
    assert plan.BEYOND.format("0.3", "prefill", 2.0, allowed) in found.notes
    slow = replace(found, variants=(found.dense, replace(found.variants[1], prefill=found.dense.prefill)))
    assert not any(note.startswith("0.3 prefill") for note in slow.notes)


def test_ranks_by_loss_are_spread_evenly(llama, ranked):
    even = {**QUICK, "allocation": "auto"}
    found = plan_model(llama, SHORT, [0.25, 0.3], **even)
    for variant in found.variants[1:]:
        assert sorted(variant.ranks["up_proj"]) == [32, 32, 64] and variant.removed > variant.ratio
        assert [mlps.count for mlps in variant.decode.mlps] == [2, 1]
    assert plan.EVEN in found.notes and plan.UNIFORM not in found.notes
    assert plan.EQUAL_RANKS.format("0.25 and 0.3") in found.notes


def test_ratios_that_are_nearly_equal_have_labels_of_their_own(llama, ranked):
    found = plan_model(llama, SHORT, [0.30000001, 0.30000002], **QUICK)
    assert [variant.label for variant in found.variants] == ["dense", "0.30000001", "0.30000002"]


def test_heads_that_ranks_cannot_share(config_only):
    model = read_model(config_only(num_attention_heads=8, num_key_value_heads=4))
    with pytest.raises(
        NeuronMMError, match="must divide the 4 key-value heads of the model .* got 3. Use 1, 2, 4, or"
    ):
        plan_model(model, Deployment(tensor_parallel_size=3))


def test_an_activation_without_kernel(config_only):
    with pytest.raises(NeuronMMError, match="no kernel for an MLP of 160 rows.* no activation 'relu', only silu"):
        plan_model(read_model(config_only(hidden_act="relu")), SHORT)


def test_shapes_that_fit_no_plan_are_told_why(llama, monkeypatch):
    refusals = {"mlp": PlanError("h is 7 bytes too large"), "matmul": PlanError("x is 3 bytes too large")}
    monkeypatch.setattr(plan, "rank_kernels", lambda *a: ([], refusals))
    with pytest.raises(NeuronMMError, match="mlp: h is 7 bytes too large; matmul: x is 3 bytes too large"):
        plan_model(llama, SHORT)


def test_the_model_of_the_engines_predicts(config_only):
    """Nothing in its place, at sizes where the weights count."""
    model = read_model(config_only(hidden_size=512, intermediate_size=2048))
    on = Deployment(sequence_length=256)
    found = plan_model(model, on, [0.5], block_size=128, allocation="uniform")
    for variant in found.variants:
        for phase in variant.phases:
            (mlps,) = phase.mlps
            assert mlps.count == 3 and phase.mlp_seconds >= phase.mlp_floor > 0
            times = [candidate.seconds for candidate in mlps.candidates]
            assert mlps.seconds == min(times) and len(mlps.candidates) + len(mlps.refusals) == 4
        assert variant.prefill.mlp_seconds > variant.decode.mlp_seconds
    assert found.variants[1].decode.mlp_seconds < found.dense.decode.mlp_seconds


def test_a_timeline_is_recorded_when_asked_for(config_only):
    (mlps,) = plan_model(read_model(config_only()), SHORT).dense.prefill.mlps
    assert mlps.best.prediction.events == ()
    traced = mlps.trace()
    assert traced.events and traced.seconds == pytest.approx(mlps.best.prediction.seconds)


@pytest.mark.slow
def test_eighty_layers_take_less_than_twenty_seconds(config_only):
    """The sizes of Llama 3 70B, in seconds of this process: other work of the machine does not count."""
    begin = time.process_time()
    sizes = {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_key_value_heads": 8}
    model = read_model(config_only(**sizes, vocab_size=128256, num_hidden_layers=80))
    found = plan_model(model, Deployment(batch_size=4, tensor_parallel_size=8), [0.05, 0.1, 0.2])
    assert found.model.parameters == 70_553_706_496
    assert time.process_time() - begin < 20


@pytest.mark.slow
def test_eighty_layers_of_different_ranks_take_less_than_twenty_seconds(config_only):
    """The sizes of Llama 3 70B, each rank of 24 to 46 blocks in another order, in seconds of this process."""
    begin = time.process_time()
    sizes = {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_key_value_heads": 8}
    model = read_model(config_only(**sizes, vocab_size=128256, num_hidden_layers=80))
    ranks = [tuple(128 * (24 + layer * step % 23) for step in (1, 5, 7)) for layer in range(80)]
    ranks = [(gate, up, down + 128 * (layer // 23)) for layer, (gate, up, down) in enumerate(ranks)]
    found = plan_model(with_ranks(model, ranks), Deployment())
    assert len(found.variants[1].decode.mlps) == 80
    assert time.process_time() - begin < 20
