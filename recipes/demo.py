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
"""What `make demo` shows of a model and its compressed form: parameters, perplexity, and a sentence of each.

python -m optimum_neuronmm.recipes.demo MODEL COMPRESSED
"""

import argparse
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_neuronmm import load_report


PROMPT = "Explain in one sentence why the sky is blue."


def answer(directory: Path, prompt: str) -> str:
    """What the model in `directory` answers, without sampling."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    chat = [{"role": "user", "content": prompt}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    generated = model.generate(**inputs, max_new_tokens=48, do_sample=False)
    return tokenizer.decode(generated[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("compressed", type=Path)
    args = parser.parse_args()
    report = load_report(args.compressed)
    parameters, perplexity = report["parameters"], report["perplexity"]
    print(f"\n{PROMPT}")
    print(f"  dense:      {answer(args.model, PROMPT)}")
    print(f"  compressed: {answer(args.compressed, PROMPT)}")
    print(f"\n{'':<12}{'parameters':>14}{'MLP parameters':>18}{'perplexity':>14}")
    for label, when in (("dense", "before"), ("compressed", "after")):
        print(f"{label:<12}{parameters[when]:>14,}{parameters[f'projections_{when}']:>18,}{perplexity[when]:>14.2f}")


if __name__ == "__main__":
    main()
