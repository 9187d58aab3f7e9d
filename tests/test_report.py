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
        sizes = [entry["rank"] * sum(entry["shape"]) for entry in report["projections"]]
        assert sum(sizes) == parameters["projections_after"]

    def test_errors_are_fractions(self, report):
        for entry in report["projections"]:
            assert 0 < entry["predicted_error"] < 1 and 0 < entry["measured_error"] < 1

    def test_it_is_strict_json(self, compressed_llama):
        def refuse(constant):
            raise AssertionError(constant)

        json.loads((compressed_llama / "neuronmm_report.json").read_text(), parse_constant=refuse)


class TestText:
    def test_every_figure_is_in_it(self, report):
        text = format_report(with_perplexity(report, 12.345, 13.5))
        assert f"{report['model']}, compressed by optimum-neuronmm {report['versions']['optimum-neuronmm']}" in text
        assert "requested 20.00%, achieved 1.33% of the chosen projections, 0.75% of the model" in text
        assert "306,336 -> 304,032 (projections 172,800 -> 170,496)" in text
        assert "12.35 -> 13.50 on 4 held-out windows of 64 tokens" in text or "12.34 -> 13.50 on 4" in text
        assert "text.txt (8 windows), seed 0" in text

    def test_one_row_for_each_kind_of_projection(self, report):
        rows = [line.split() for line in format_report(report).splitlines() if "_proj" in line]
        assert [row[:4] for row in rows] == [
            ["gate_proj", "(96,", "200)", "64"],
            ["up_proj", "(96,", "200)", "64"],
            ["down_proj", "(200,", "96)", "64"],
        ]
        measured = [e["measured_error"] for e in report["projections"] if e["name"].endswith("down_proj")]
        assert rows[2][-1] == f"{min(measured):.3f}-{max(measured):.3f}"

    def test_ranks_that_differ_and_projections_that_are_dense(self, report):
        changed = copy.deepcopy(report)
        ups = [entry for entry in changed["projections"] if entry["name"].endswith("up_proj")]
        ups[0] |= {"rank": 32}
        dense = {key: ups[1][key] for key in ("name", "shape")} | {"rank": None}
        changed["projections"][changed["projections"].index(ups[1])] = dense
        for entry in [entry for entry in changed["projections"] if entry["name"].endswith("gate_proj")]:
            position = changed["projections"].index(entry)
            changed["projections"][position] = {"name": entry["name"], "shape": entry["shape"], "rank": None}
        rows = {line.split()[0]: line for line in format_report(changed).splitlines() if "_proj" in line}
        assert "32-64 +1 dense" in rows["up_proj"]
        assert rows["gate_proj"].split() == ["gate_proj", "(96,", "200)", "dense"]

    def test_one_kind_of_two_shapes_has_two_rows(self, report):
        changed = copy.deepcopy(report)
        changed["projections"][0]["shape"] = [96, 400]
        rows = [line for line in format_report(changed).splitlines() if line.startswith("gate_proj")]
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
