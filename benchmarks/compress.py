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
"""Time and memory of compressing, beside the textbook way measured in the same run.

    python benchmarks/compress.py [--json FILE]

Time: the factors of one weight from its whitened matrix M = S^T W and, end to end, from the Gram matrix, against
`torch.linalg.svd(M, full_matrices=False)` and triangular solves. Both in float64 with the same threads.
Memory: peak of compressing a random Llama of 8 layers and one of 16, each in a process of its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from optimum_neuronmm.decomposition import Moments, decompose
from optimum_neuronmm.ranks import Shape, uniform_rank


SHAPES = ((2048, 8192), (3072, 8192))
MEMORY_LAYERS = (8, 16)


def textbook_factors(M: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    P, sigma, Qt = torch.linalg.svd(M, full_matrices=False)
    root = sigma[:rank].sqrt()
    return P[:, :rank] * root, root[:, None] * Qt[:rank]


def textbook_end_to_end(W: torch.Tensor, gram: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    S = torch.linalg.cholesky(gram)
    A, B = textbook_factors(S.T @ W, rank)
    return torch.linalg.solve_triangular(S.T, A, upper=True), B


def relative_error(X: torch.Tensor, W: torch.Tensor, U: torch.Tensor, V: torch.Tensor) -> float:
    return ((X @ (W - U @ V)).norm() / (X @ W).norm()).item()


def timed(function, *arguments, repeats: int):
    """The result, and the shortest of `repeats` wall-clock times."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = function(*arguments)
        seconds.append(time.perf_counter() - started)
    return result, min(seconds)


def time_shape(K: int, N: int, repeats: int) -> dict:
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -2, K, dtype=torch.float64)  # inputs of a language model have a decaying spectrum
    mixing = torch.randn(K, K, generator=generator, dtype=torch.float64)
    X = torch.randn(2 * K, K, generator=generator, dtype=torch.float64) * scales @ mixing
    W = torch.randn(K, N, generator=generator, dtype=torch.float64)
    gram = X.T @ X / len(X)
    rank = uniform_rank(Shape(K, N), 0.2, 128, 0.5)
    M = torch.linalg.cholesky(gram).T @ W
    moments = Moments(gram, X.square().mean().item())

    (U, V), ours = timed(lambda: decompose(M).factors(rank), repeats=repeats)
    (A, B), theirs = timed(textbook_factors, M, rank, repeats=1)
    identity = torch.eye(K, dtype=torch.float64)
    errors = [relative_error(identity, M, *factors) for factors in ((U, V), (A, B))]
    (U, V), ours_all = timed(lambda: decompose(W, moments).factors(rank), repeats=repeats)
    (A, B), theirs_all = timed(textbook_end_to_end, W, gram, rank, repeats=1)
    errors_all = [relative_error(X, W, *factors) for factors in ((U, V), (A, B))]
    return {
        "K": K,
        "N": N,
        "rank": rank,
        "factors_seconds": ours,
        "svd_seconds": theirs,
        "factors_speedup": theirs / ours,
        "factors_error_ratio": errors[0] / errors[1] - 1,
        "end_to_end_seconds": ours_all,
        "svd_end_to_end_seconds": theirs_all,
        "end_to_end_speedup": theirs_all / ours_all,
        "end_to_end_error_ratio": errors_all[0] / errors_all[1] - 1,
    }


def peak_megabytes(layers: int) -> float:
    """Peak resident memory of a process that compresses a random Llama of so many layers."""
    finished = subprocess.run(
        [sys.executable, __file__, "--peak-of", str(layers)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    return float(finished.stdout.split()[-1])


def compress_random_llama(layers: int) -> None:
    """Makes the model in a child process, so that its memory does not count, compresses it, prints the peak."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        subprocess.run([sys.executable, __file__, "--make", str(layers), str(directory / "dense")], check=True)
        from optimum_neuronmm import NeuronMMConfig, compress

        text = directory / "text.txt"
        text.write_text("".join(chr(32 + (i * i + i // 7) % 90) for i in range(60_000)))
        config = NeuronMMConfig(calibration=str(text), calibration_samples=16, calibration_length=256)
        compress(directory / "dense", directory / "out", config)
    # VmHWM and not ru_maxrss: the latter is inherited from the parent over a fork.
    status = Path("/proc/self/status")
    if status.is_file():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        print(int(peak.split()[1]) / 1024)
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def make_random_llama(layers: int, directory: str) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(
        vocab_size=256,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=4,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--repeats", type=int, default=3, help="of our side; the SVD runs once")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        return make_random_llama(int(args.make[0]), args.make[1])
    if args.peak_of:
        return compress_random_llama(args.peak_of)

    rows = []
    print(f"{torch.get_num_threads()} threads, float64, seconds")
    print(
        f"{'shape':>14} {'rank':>5} | {'ours':>7} {'svd':>7} {'ratio':>6} {'error':>8} | "
        f"{'ours, all':>9} {'svd, all':>8} {'ratio':>6} {'error':>8}"
    )
    for K, N in SHAPES:
        row = time_shape(K, N, args.repeats)
        rows.append(row)
        print(
            f"{f'({K}, {N})':>14} {row['rank']:>5} | {row['factors_seconds']:>7.2f} {row['svd_seconds']:>7.2f} "
            f"{row['factors_speedup']:>5.1f}x {row['factors_error_ratio']:>8.0e} | {row['end_to_end_seconds']:>9.2f} "
            f"{row['svd_end_to_end_seconds']:>8.2f} {row['end_to_end_speedup']:>5.1f}x "
            f"{row['end_to_end_error_ratio']:>8.0e}",
            flush=True,
        )
    peaks = {layers: peak_megabytes(layers) for layers in MEMORY_LAYERS}
    few, many = MEMORY_LAYERS
    growth = peaks[many] / peaks[few] - 1
    print(f"peak memory: {peaks[few]:.0f} MB with {few} layers, {peaks[many]:.0f} MB with {many} ({growth:+.1%})")
    if args.json:
        figures = {"threads": torch.get_num_threads(), "torch": torch.__version__, "shapes": rows, "peaks_mb": peaks}
        args.json.write_text(json.dumps({**figures, "memory_growth": growth}, indent=2) + "\n")


if __name__ == "__main__":
    main()
