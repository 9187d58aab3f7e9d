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
"""What a model card says."""

import pytest
import yaml

from optimum_neuronmm import NeuronMMConfig, load_report
from optimum_neuronmm.card import model_card, write_model_card

from .compiled_form import NEURON_CONFIG


def report_with(directory, **changes):
    report = load_report(directory)
    report["perplexity"] |= {name: changes.pop(name) for name in ("before", "after") if name in changes}
    return {**report, **changes}


def front_matter(card):
    _, metadata, _ = card.split("---\n", 2)
    return yaml.safe_load(metadata)


def example_of(card):
    return card.split("```python\n")[1].split("```")[0]


class TestCard:
    def test_metadata_of_a_local_model(self, directory):
        card = (directory / "README.md").read_text()
        assert card.startswith("---\n")
        assert front_matter(card) == {
            "library_name": "transformers",
            "pipeline_tag": "text-generation",
            "tags": ["neuronmm", "low-rank", "aws-neuron"],
        }

    @pytest.mark.parametrize("name", ["me/my-model_1.2", "2.0", "null"])
    def test_metadata_of_a_model_of_the_hub(self, directory, name):
        report = report_with(directory, model=name, revision="a" * 40)
        card = model_card(report, NeuronMMConfig())
        metadata = front_matter(card)
        assert metadata["base_model"] == name and metadata["base_model_relation"] == "quantized"
        assert f"# {name}, MLPs in low-rank form\n" in card

    @pytest.mark.parametrize("neuron_config", [None, NEURON_CONFIG])
    def test_the_hub_accepts_its_metadata(self, directory, neuron_config):
        from huggingface_hub import ModelCard

        report = report_with(directory, model="me/dense", revision="a" * 40)
        write_model_card(directory, report, NeuronMMConfig(), neuron_config)
        data = ModelCard.load(directory / "README.md").data
        assert data.base_model == "me/dense" and data.pipeline_tag == "text-generation"
        assert data.library_name == ("optimum-neuron" if neuron_config else "transformers")
        assert data.tags == [
            "neuronmm",
            "low-rank",
            "aws-neuron",
            *(["neuron", "optimum-neuron"] * bool(neuron_config)),
        ]

    def test_a_local_model_is_named_without_its_place(self, directory, tiny_llama):
        card = (directory / "README.md").read_text()
        assert "# tiny-llama, MLPs in low-rank form" in card
        assert str(tiny_llama.parent) not in card

    def test_figures(self, directory):
        report = report_with(directory, before=12.346, after=14.0)
        card = model_card(report, NeuronMMConfig(block_size=32))
        before, after = (report["parameters"][when] for when in ("before", "after"))
        assert before == 306_336 and f"| parameters | 306,336 | {after:,} |" in card
        assert "| perplexity, 4 held-out windows of calibration text | 12.35 | 14.00 |" in card
        achieved = report["compression_ratio"]["projections"]
        assert f"{achieved:.2%} of the parameters of the compressed projections are removed (20.00% were" in card
        assert "ranks a multiple of 32" in card
        assert "**" not in card  # no warning

    def test_ranks_by_projection(self, directory):
        report = report_with(directory)
        ranks = {"gate_proj": [32, 64, 32], "up_proj": [64, 64, 64], "down_proj": [None, 32, 64]}
        for projection in report["projections"]:
            projection["rank"] = ranks[projection["name"].rpartition(".")[2]].pop()
        card = model_card(report, NeuronMMConfig())
        assert "| rank of gate_proj (96 x 200) | 96 | 32-64 |\n" in card
        assert "| rank of up_proj (96 x 200) | 96 | 64 |\n" in card
        assert "| rank of down_proj (200 x 96) | 96 | 32-64 +1 dense |\n" in card

    def test_it_shows_the_map_of_the_ranks(self, directory):
        card = (directory / "README.md").read_text()
        [line] = [line for line in card.splitlines() if "neuronmm_ranks.png" in line]
        assert line == "![Ranks of all projections, layers from left to right](neuronmm_ranks.png)"
        assert (directory / "neuronmm_ranks.png").is_file()
        before, after = card.split(f"\n\n{line}\n\n")  # a paragraph of its own
        assert before.endswith("of the model's.") and after.startswith("## Use")

    @pytest.mark.parametrize("neuron_config", [None, NEURON_CONFIG])
    def test_a_directory_without_the_map_shows_none(self, directory, neuron_config):
        (directory / "neuronmm_ranks.png").unlink()
        write_model_card(directory, load_report(directory), NeuronMMConfig(), neuron_config)
        card = (directory / "README.md").read_text()
        assert "![" not in card and "neuronmm_ranks" not in card

    def test_a_warning_stands_below_the_map(self, directory):
        card = model_card(report_with(directory, before=10.0, after=20.0), NeuronMMConfig(), has_map=True)
        assert "(neuronmm_ranks.png)\n\n**WARNING: " in card and "**\n\n## Use" in card

    def test_a_warning_is_in_it(self, directory):
        card = model_card(report_with(directory, before=10.0, after=20.0), NeuronMMConfig())
        assert "\n**WARNING: perplexity grew by a factor of 2.00" in card

    def test_it_warns_of_what_transformers_suggests(self, directory):
        card = (directory / "README.md").read_text()
        assert "`ignore_mismatched_sizes=True`" in card and "random" in card

    def test_its_code_works(self, directory):
        code = example_of((directory / "README.md").read_text()).replace("THIS_REPOSITORY", str(directory))
        names = {}
        exec(code, names)
        assert names["model"].num_parameters() == load_report(directory)["parameters"]["after"]


class TestCardOfACompiledModel:
    def test_what_it_is_compiled_for(self, directory):
        card = model_card(load_report(directory), NeuronMMConfig(), NEURON_CONFIG)
        rows = dict(line.strip("| ").split(" | ") for line in card.split("## Compiled for")[1].splitlines()[4:11])
        assert rows == {
            "device": "Trainium 1 and Inferentia 2 (`trn1`, `inf2`)",
            "cores (tensor parallel)": "2",
            "batch size": "1",
            "sequence length": "2048",
            "dtype": "bfloat16",
            "optimum-neuron": "0.4.5",
            "Neuron compiler": "2.21.33363.0+82129205",
        }

    def test_other_devices(self, directory):
        report = load_report(directory)
        assert "| Trainium 2 (`trn2`) |" in model_card(report, NeuronMMConfig(), NEURON_CONFIG | {"target": "trn2"})
        assert "| `trn9` |" in model_card(report, NeuronMMConfig(), NEURON_CONFIG | {"target": "trn9"})

    def test_what_is_not_known_is_left_out(self, directory):
        card = model_card(load_report(directory), NeuronMMConfig(), {"tp_degree": 2, "torch_dtype": "torch.float16"})
        assert "| cores (tensor parallel) | 2 |\n| dtype | float16 |\n\n" in card and "None" not in card

    def test_how_to_load_it(self, directory):
        card = model_card(load_report(directory), NeuronMMConfig(), NEURON_CONFIG)
        assert example_of(card) == (
            "from optimum_neuronmm import NeuronModelForCausalLM\n\n"
            'model = NeuronModelForCausalLM.from_pretrained("THIS_REPOSITORY")\n'
        )
        assert "A local copy of the repository loads with optimum-neuron alone." in card
        assert "any machine" not in card and "ignore_mismatched_sizes" not in card
