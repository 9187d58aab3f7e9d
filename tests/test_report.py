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
"""The report: what it says, in which order, and what is answered where there is none."""

import copy
import json
import shutil

import pytest

from optimum_neuronmm import NeuronMMConfig, compress, load_report
from optimum_neuronmm.errors import NeuronMMError
from optimum_neuronmm.ranks import Shape
from optimum_neuronmm.report import format_report, perplexity_warning


@pytest.fixture
def report(compressed_llama):
    return load_report(compressed_llama)


def with_perplexity(report, before, after):
    changed = copy.deepcopy(report)
    changed["perplexity"] |= {"before": before, "after": after}
    return changed


class TestContent:
    def test_what_was_done(self, report, tiny_llama, quick_options):
        assert report["model"] == tiny_llama.name and report["revision"] is None
        assert report["compression_ratio"]["requested"] == 0.2
        assert report["calibration"]["seed"] == 0 and report["calibration"]["length"] == 64
        (source,) = report["calibration"]["sources"]
        assert (source["source"], source["windows"], source["held_out"]) == ("text.txt", 8, 4)
        assert len(source["sha256"]) == 64 and report["seconds"] > 0
        assert set(report["versions"]) == {"optimum-neuronmm", "torch", "transformers", "python"}

    def test_ratios_follow_from_the_parameters(self, report):
        parameters, ratio = report["parameters"], report["compression_ratio"]
        assert ratio["projections"] == 1 - parameters["projections_after"] / parameters["projections_before"]
        assert ratio["model"] == 1 - parameters["after"] / parameters["before"]
        removed = parameters["projections_before"] - parameters["projections_after"]
        assert parameters["before"] - parameters["after"] == removed
        sizes = [Shape(*entry["shape"]).parameters(entry["rank"]) for entry in report["projections"]]
        assert sum(sizes) == parameters["projections_after"]

    def test_errors_are_fractions_and_losses_positive(self, report):
        factored = [entry for entry in report["projections"] if entry["rank"] is not None]
        assert 0 < len(factored) < len(report["projections"])
        for entry in factored:
            assert 0 < entry["predicted_error"] < 1 and 0 < entry["measured_error"] < 1
            assert entry["predicted_loss"] > 0 and entry["measured_loss"] > 0

    def test_how_it_was_done(self, report):
        assert (report["decomposition"], report["allocation"]) == ("two_sided", "by_loss")
        assert report["trials"] == report["refinements"] == []
        assert 0 < report["perplexity"]["divergence"] < 1

    def test_it_is_strict_json(self, compressed_llama):
        def refuse(constant):
            raise AssertionError(constant)

        json.loads((compressed_llama / "neuronmm_report.json").read_text(), parse_constant=refuse)


class TestText:
    def test_every_figure_is_in_it(self, report):
        text = format_report(with_perplexity(report, 12.345, 13.5))
        ratio, parameters = report["compression_ratio"], report["parameters"]
        assert f"{report['model']}, compressed by optimum-neuronmm {report['versions']['optimum-neuronmm']}" in text
        achieved = f"achieved {ratio['projections']:.2%} of the chosen projections, {ratio['model']:.2%} of the model"
        assert f"requested 20.00%, {achieved}" in text
        assert (
            f"306,336 -> {parameters['after']:,} (projections 172,800 -> {parameters['projections_after']:,})" in text
        )
        assert "12.35 -> 13.50 on 4 held-out windows of 64 tokens" in text or "12.34 -> 13.50 on 4" in text
        assert "text.txt (8 windows), seed 0" in text
        assert "two-sided SVD (activations and gradients), ranks by predicted loss" in text

    def test_losses_add_up(self, report):
        text = format_report(report)
        factored = [entry for entry in report["projections"] if entry["rank"] is not None]
        sums = [sum(entry[key] for entry in factored) for key in ("predicted_loss", "measured_loss")]
        divergence = report["perplexity"]["divergence"]
        assert (
            f"{divergence:.4f} nats per held-out token (predicted {sums[0]:.4f}, second order {sums[1]:.4f})" in text
        )

    def test_one_row_for_each_kind_of_projection(self, report):
        rows = [line.split() for line in format_report(report).splitlines() if "_proj" in line and "(" in line]
        shapes = ["gate_proj", "(96,", "200)"], ["up_proj", "(96,", "200)"], ["down_proj", "(200,", "96)"]
        assert [row[:3] for row in rows] == list(shapes)
        measured = [e["measured_error"] for e in report["projections"] if "up_proj" in e["name"] and e["rank"]]
        least, most = f"{min(measured):.3f}", f"{max(measured):.3f}"
        assert rows[1][-1] == (least if least == most else f"{least}-{most}")

    def test_ranks_that_differ_and_projections_that_are_dense(self, report):
        changed = copy.deepcopy(report)
        ranks = {"gate_proj": [None, None, None], "up_proj": [32, None, 64], "down_proj": [64, 64, 64]}
        figures = next(entry for entry in report["projections"] if entry["rank"] is not None)
        for position, entry in enumerate(changed["projections"]):
            rank = ranks[entry["name"].rpartition(".")[2]].pop(0)
            told = {**figures, "name": entry["name"], "shape": entry["shape"], "rank": rank}
            if rank is None:
                told = {key: told[key] for key in ("name", "shape", "rank")}
            changed["projections"][position] = told
        lines = format_report(changed).splitlines()
        rows = {line.split()[0]: line for line in lines if "_proj" in line and "(" in line}
        assert "32-64 +1 dense" in rows["up_proj"]
        assert rows["gate_proj"].split() == ["gate_proj", "(96,", "200)", "dense"]
        assert ["gate_proj", "###"] in [line.split() for line in lines]  # the map

    def test_a_map_only_where_ranks_differ(self, report):
        changed = copy.deepcopy(report)
        for entry in changed["projections"]:
            entry["rank"] = None
        assert "Tenths of the parameters kept" in format_report(report)
        assert "Tenths of the parameters kept" not in format_report(changed)

    def test_steps(self, report):
        changed = copy.deepcopy(report)
        step = {"name": "down", "before": 0.5, "after": 0.25, "kept": True}
        changed["refinements"] = [step, {**step, "after": 0.75, "kept": False}]
        changed["recovery"] = {
            "tokens": 4096,
            "options": {"objective": "distill"},
            "held_out": [{"source": "a.txt", "before": 1.0, "after": 0.5}],
        }
        text = format_report(changed)
        assert "refinement        down: divergence 0.5000 -> 0.2500, kept" in text
        assert "divergence 0.5000 -> 0.7500, not kept" in text
        assert "recovery          4,096 tokens, distill" in text and "a.txt: perplexity 2.72 -> 1.65" in text

    def test_a_report_of_an_older_release(self, report):
        """Without what was added since."""
        older = copy.deepcopy(report)
        for name in ("decomposition", "allocation", "trials", "refinements"):
            del older[name]
        del older["perplexity"]["divergence"]
        for entry in older["projections"]:
            entry.pop("predicted_loss", None)
            entry.pop("measured_loss", None)
        rows = format_report(older).splitlines()
        assert rows[2].split()[-4:] == ["predicted", "error", "measured", "error"]

    def test_one_kind_of_two_shapes_has_two_rows(self, report):
        changed = copy.deepcopy(report)
        changed["projections"][0]["shape"] = [96, 400]
        rows = [line for line in format_report(changed).splitlines() if line.startswith("gate_proj") and "(" in line]
        assert len(rows) == 2

    def test_several_sources(self, report):
        changed = copy.deepcopy(report)
        changed["calibration"]["sources"].append({"source": "self", "windows": 3, "held_out": 1, "sha256": ""})
        assert "text.txt (8 windows), self (3 windows)" in format_report(changed)


class TestWarning:
    def test_it_is_the_last_line(self, report):
        text = format_report(with_perplexity(report, 10.0, 15.1))
        assert text.splitlines()[-1] == perplexity_warning(with_perplexity(report, 10.0, 15.1))
        assert text.splitlines()[-1].startswith("WARNING: perplexity grew by a factor of 1.51 (10.00 -> 15.10).")
        assert text.count("WARNING") == 1

    @pytest.mark.parametrize(("after", "warned"), [(9.0, False), (15.0, False), (15.001, True), (1e300, True)])
    def test_it_is_given_where_perplexity_grew_by_more_than_half(self, report, after, warned):
        assert (perplexity_warning(with_perplexity(report, 10.0, after)) is not None) == warned
        assert ("WARNING" in format_report(with_perplexity(report, 10.0, after))) == warned

    def test_an_infinite_perplexity_is_warned_of(self, report):
        assert "WARNING" in format_report(with_perplexity(report, 10.0, float("inf"))).splitlines()[-1]

    def test_it_is_the_last_line_that_the_user_sees(self, tiny_llama, quick_options, tmp_path, monkeypatch, capfd):
        """After the progress bars and everything else."""
        monkeypatch.setattr("optimum_neuronmm.report.PERPLEXITY_WARNING", 0.5)
        compress(tiny_llama, tmp_path / "out", NeuronMMConfig(**quick_options))
        out, err = capfd.readouterr()
        assert out.splitlines()[-1].startswith("WARNING: perplexity grew")
        assert "WARNING" in (tmp_path / "out" / "README.md").read_text()


class TestLoading:
    def test_it_is_what_was_returned(self, tiny_llama, quick_options, tmp_path):
        report = compress(tiny_llama, tmp_path / "out", NeuronMMConfig(**quick_options))
        assert load_report(tmp_path / "out") == load_report(str(tmp_path / "out")) == report

    @pytest.mark.parametrize("name", ["nowhere", "dense"])
    def test_a_directory_without_one(self, tmp_path, tiny_llama, name):
        directory = tiny_llama if name == "dense" else tmp_path / name
        with pytest.raises(
            NeuronMMError, match="has no neuronmm_report.json: expected a directory that was written by"
        ):
            load_report(directory)

    @pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}", '{"projections": [], "perplexity": {}}', "\xff"])
    def test_a_damaged_one(self, tmp_path, content):
        (tmp_path / "neuronmm_report.json").write_bytes(content.encode("latin-1"))
        with pytest.raises(NeuronMMError, match="neuronmm_report.json is damaged"):
            load_report(tmp_path)

    @pytest.mark.parametrize(
        "key", ["model", "compression_ratio", "parameters", "perplexity", "calibration", "projections", "versions"]
    )
    def test_one_that_lacks_a_part(self, compressed_llama, tmp_path, key):
        directory = shutil.copytree(compressed_llama, tmp_path / "out")
        report = load_report(directory)
        for value in (None, "x", 3, [7]):
            changed = {**report, key: value}
            if value is None:
                del changed[key]
            elif key == "model":
                continue
            (directory / "neuronmm_report.json").write_text(json.dumps(changed))
            with pytest.raises(NeuronMMError, match="is damaged"):
                load_report(directory)
