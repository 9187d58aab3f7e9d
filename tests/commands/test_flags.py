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
import re
from dataclasses import MISSING, fields

import pytest

from optimum_neuronmm import configuration
from optimum_neuronmm.commands.flags import PREFIX, given_options


# What a checkpoint remembers, and --torch_dtype, which is optimum-neuron's flag.
NOT_FLAGS = {"dtype", "modules", "compilation", "format_version", "neuronmm_version", "quant_method"}
OPTIONS = [field for field in fields(configuration.NeuronMMConfig) if field.name not in NOT_FLAGS]
REQUIRED = ["-m", "model", "out", "--neuronmm"]


def flag(parser, name):
    return next(action for action in parser._actions if action.dest == PREFIX + name)


def test_every_option_of_the_config_has_a_flag(parser):
    flags = {action.dest for action in parser._actions if action.dest.startswith(PREFIX)}
    assert flags == {PREFIX + option.name for option in OPTIONS}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_help_states_the_default_of_the_config(parser, option):
    default = option.default_factory() if option.default is MISSING else option.default
    text = ",".join(default) if isinstance(default, list) else str(default)
    text = text or "the calibration's"  # for an empty list of texts to train on
    assert re.search(r"Default: (.+)\.$", flag(parser, option.name).help)[1] == text


@pytest.mark.parametrize(
    "name, choices",
    [
        ("decomposition", configuration.DECOMPOSITIONS),
        ("allocation", configuration.ALLOCATIONS),
        ("recovery", configuration.RECOVERIES),
        ("target", configuration.TARGETS),
        ("kernel", configuration.KERNELS),
        ("layout", configuration.LAYOUTS),
        ("sampling", configuration.SAMPLINGS),
        ("target_instance_type", configuration.INSTANCE_TYPES),
    ],
)
def test_choices_are_those_of_the_config(parser, name, choices):
    assert tuple(flag(parser, name).choices) == choices


def test_nothing_given_is_nothing_chosen(parser):
    args = parser.parse_args(["-m", "model", "out", "--instance_type", "trn1"])
    assert args.neuronmm is False
    assert args.torch_dtype is None
    assert given_options(args) == {}


def test_given_options_make_a_config(parser):
    line = (
        "--neuronmm_compression_ratio 0.2 --neuronmm_block_size 32 --neuronmm_alpha 0.25 --neuronmm_projections gate,up "
        "--neuronmm_decomposition svd --neuronmm_calibration self --neuronmm_calibration notes.txt "
        "--neuronmm_calibration_samples 4 --neuronmm_calibration_length 16 --neuronmm_seed 7 --neuronmm_target cpu "
        "--neuronmm_kernel compiler --neuronmm_layout sharded --neuronmm_sampling host"
    )
    options = given_options(parser.parse_args([*REQUIRED, *line.split()]))
    assert options == {
        "compression_ratio": 0.2,
        "block_size": 32,
        "alpha": 0.25,
        "projections": ["gate", "up"],
        "decomposition": "svd",
        "calibration": ["self", "notes.txt"],
        "calibration_samples": 4,
        "calibration_length": 16,
        "seed": 7,
        "target": "cpu",
        "kernel": "compiler",
        "layout": "sharded",
        "sampling": "host",
    }
    config = configuration.NeuronMMConfig(**options)
    assert {name: getattr(config, name) for name in options} == options


def test_options_of_the_recovery_and_the_refinement_make_a_config(parser):
    line = (
        "--neuronmm_recovery lora --neuronmm_recovery_data alpaca-cleaned --neuronmm_recovery_data notes.txt "
        "--neuronmm_recovery_tokens 300000 --neuronmm_refine --neuronmm_max_perplexity_increase 0.05"
    )
    options = given_options(parser.parse_args([*REQUIRED, *line.split()]))
    assert options == {
        "recovery": "lora",
        "recovery_data": ["alpaca-cleaned", "notes.txt"],
        "recovery_tokens": 300_000,
        "refine": True,
        "max_perplexity_increase": 0.05,
    }
    config = configuration.NeuronMMConfig(**options)
    assert {name: getattr(config, name) for name in options} == options


def test_options_of_a_speed_up_make_a_config(parser):
    line = (
        "--neuronmm_target_speedup 1.2 --neuronmm_target_instance_type trn2 --neuronmm_target_prompt_length 512 "
        "--neuronmm_target_output_length 0"
    )
    options = given_options(parser.parse_args([*REQUIRED, *line.split()]))
    assert options == {
        "target_speedup": 1.2,
        "target_instance_type": "trn2",
        "target_prompt_length": 512,
        "target_output_length": 0,
    }
    config = configuration.NeuronMMConfig(**options)
    assert {name: getattr(config, name) for name in options} == options


def test_projections_may_be_written_with_spaces(parser):
    args = parser.parse_args([*REQUIRED, "--neuronmm_projections", " gate, down,"])
    assert args.neuronmm_projections == ["gate", "down"]


def test_neuronmm_is_not_an_ambiguous_abbreviation(parser):
    assert parser.parse_args(["-m", "model", "out", "--neuronmm"]).neuronmm is True


@pytest.mark.parametrize(
    "given", [["--neuronmm_compression_ratio", "much"], ["--neuronmm_seed", "0.5"], ["--neuronmm_kernel", "fast"]]
)
def test_wrong_values_are_refused_by_the_parser(parser, given, capsys):
    with pytest.raises(SystemExit) as exit:
        parser.parse_args([*REQUIRED, *given])
    assert exit.value.code == 2
    assert f"argument {given[0]}" in capsys.readouterr().err


def test_instance_type_stays_required_without_neuronmm(parser, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args(["-m", "model", "out"])
    assert "the following arguments are required: --instance_type" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["--neuronmm -m model out", "-m model out --neuronmm", "-m model --neuronmm out"])
def test_instance_type_is_not_required_with_neuronmm(parser, line):
    assert parser.parse_args(line.split()).instance_type is None
