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
"""Mistakes put into the kernels on purpose: a small set of checks must notice every one of them."""

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from optimum_neuronmm import kernels


pytestmark = pytest.mark.simulation

SOURCE = Path(kernels.__path__[0])
ACTIVATE = "nk.activate(to(part)[0:p, 0:count, 0 : m.size], activation, gate[at])"
COLUMNS_BIAS = "if stream.bias is not None:\n            for k in nk.blocks(1, P):"
SIDE_BIAS = "if stream.bias is not None:\n            at = to(banks"
ROWS_BIAS = "if stream.bias is not None:\n                    for k in nk.blocks(1, P):"
ROWS_OPERANDS = "stationary=x[0:k, xk, m.ds], moving=w[0:k, wk, n.ds]"
COLUMNS_OPERANDS = "stationary=n.of(w, k, wk), moving=x[0:k, xk, m.ds]"
PART_SUM = "nk.add(to(total)[at], total[at], sums[0][0:p, nk.ds(t, count), 0 : m.size])"
LOOPS = "in loop(whole)"
BLOCKED_SUM = "nk.add(to(sums)[0 : m.size, at, j.ds], total, acc[0 : m.size, 0 : j.size])"


def exchanged(operands: str) -> str:
    return operands.replace("stationary=", "?").replace("moving=", "stationary=").replace("?", "moving=")


# What is wrong, where, and the text that is replaced wherever it stands.
MUTANTS = {
    "tiles: the last one is lost": ("tiling.py", "return -(-extent // P)\n", "return max(1, extent // P)\n"),
    "regions: the partly filled tile is lost": ("tiling.py", "*([(rest, whole, 1)] if rest else [])", ""),
    "regions: the whole tiles are lost": ("tiling.py", "*([(P, 0, whole)] if whole else []), ", ""),
    "regions: the last tile is one too early": ("tiling.py", "(rest, whole, 1)", "(rest, max(0, whole - 1), 1)"),
    "strip: rows of the first strip": ("strips.py", "x[nk.ds(rows.start + m.start, m.size)", "x[nk.ds(m.start, m.size)"),
    "strip: features of the first part": ("strips.py", "nk.ds(features.start + c.start, c.size)", "nk.ds(c.start, c.size)"),
    "strip: features of the first part, transposed": ("strips.py", "features.start + first * P", "first * P"),
    "strip: chunks next to each other": ("strips.py", "c.index * (chunk // P), raw", "c.index, raw"),
    "transpose: every bank to the first four tiles": ("strips.py", "base + g.index * (F // P) + first", "base + first"),
    "transpose: the first features of the chunk": ("strips.py", "(nk, g.start, g.size, interleave):\n            nk.transpose", "(nk, 0, g.size, interleave):\n            nk.transpose"),
    "feature tiles: the first one again": ("tiling.py", "k.size, k.start + first, 1)", "k.size, first, 1)"),
    "weight: the tail from the first row": ("parts.py", "rows.start + first * P, count, columns", "rows.start, count, columns"),
    "bias: of the first columns": ("parts.py", "[0:1, columns.ds]", "[0:1, 0 : columns.size]"),
    "bias: times zero": ("parts.py", "1.0, (1, size)", "0.0, (1, size)"),
    "bias: forgotten with columns on partitions": ("parts.py", COLUMNS_BIAS, COLUMNS_BIAS.replace("is not None", "is Ellipsis")),
    "bias: forgotten with rows on partitions": ("parts.py", ROWS_BIAS, ROWS_BIAS.replace("is not None", "is Ellipsis")),
    "bias: forgotten with columns side by side": ("parts.py", SIDE_BIAS, SIDE_BIAS.replace("is not None", "is Ellipsis")),
    "bias: forgotten where sums are completed in SBUF": ("parts.py", "if product.bias is not None:\n        nothing", "if False:\n        nothing"),
    "stream: the first tiles of the activations": ("parts.py", "d.index * (self.depth // P) + k.index + piece.base", "k.index"),
    "depths: the first tiles of the activations": ("parts.py", "d.index * (blocks.depth // P) + piece.base", "piece.base"),
    "depths: the first rows of the weight": ("parts.py", "piece.first + d.start, d.size, d.index", "piece.first, d.size, d.index"),
    "stream: the first rows of the weight": ("parts.py", "nk.block(piece.first + d.start, d.size)", "nk.block(d.start, d.size)"),
    "stream: whole pieces from the first row": ("parts.py", "self._load(nk.block(piece.first, piece.size))", "self._load(nk.block(0, piece.size))"),
    "stream: the first piece for all": ("parts.py", "in self.loaded:", "in self.loaded[:1] * len(self.loaded):"),
    "abreast: the first rows of the weight": ("parts.py", "(self._load(nk.block(piece.first + d.start, d.size)), piece.tile", "(self._load(nk.block(piece.first, d.size)), piece.tile"),
    "abreast: the first tiles of the activations": ("parts.py", "piece.base + d.start // P, d.size", "piece.base, d.size"),
    "abreast: the first tiles again": ("parts.py", "abreast, left = left[:count], left[count:]", "abreast = left[:count]"),
    "joined rows: tiles one by one, to the first": ("parts.py", "finish(sums, base + n.index, n.size, m)", "finish(sums, base, n.size, m)"),
    "columns: operands exchanged": ("parts.py", COLUMNS_OPERANDS, exchanged(COLUMNS_OPERANDS)),
    "rows: operands exchanged": ("parts.py", ROWS_OPERANDS, exchanged(ROWS_OPERANDS)),
    "columns: the first group of the weight": ("parts.py", "feature_tiles(nk, g.start, g.size, interleave), g.size", "feature_tiles(nk, 0, g.size, interleave), g.size"),
    "columns: the first rows of the strip": ("parts.py", COLUMNS_OPERANDS, COLUMNS_OPERANDS.replace("m.ds", "0 : m.size")),
    "rows: the first rows of the strip": ("parts.py", ROWS_OPERANDS, ROWS_OPERANDS.replace("m.ds", "0 : m.size")),
    "columns: all rows to the first": ("parts.py", "nk.ds(base + t, count), m.ds], source", "nk.ds(base + t, count), 0 : m.size], source"),
    "columns: the first columns of the weight": (
        "parts.py",
        "here = nk.block(columns.start + c.start, c.size)",
        "here = nk.block(columns.start, c.size)",
    ),
    "columns: results to the tiles of the first block": ("parts.py", "base = c.index * tiles(blocks.width)", "base = 0"),
    "columns: results to the tiles of the first group": ("parts.py", "base + g.index * blocks.group, g.size", "base, g.size"),
    "columns: results side by side to the first tile": ("parts.py", "for banks in sums], base + n.index, n.size, m)", "for banks in sums], base, n.size, m)"),
    "rows: results to the first rows": ("parts.py", "nk.ds(rows.start + m.start, m.size), here.ds", "nk.ds(rows.start, m.size), here.ds"),
    "project: pieces in the wrong order": ("parts.py", "Piece(tile, first, size))", "Piece(tile, weight.shape[1] - first - size, size))"),
    "project: the first columns for every piece": ("parts.py", "nk.block(first, size), blocks, copying", "nk.block(0, size), blocks, copying"),
    "parts: the last part only": ("parts.py", PART_SUM, PART_SUM.replace("add", "copy").replace("total[at], ", "", 1)),
    "parts: sums in bfloat16": ("parts.py", "nk.sbuf((P, tiles(features), M), nk.float32)", "nk.sbuf((P, tiles(features), M), nk.nl.bfloat16)"),
    "parts: every part has the rows of the first": ("parts.py", "Piece(strip.pieces[0].tile, k.start, k.size)", "Piece(strip.pieces[0].tile, 0, k.size)"),
    "loops: the last whole block is lost": ("beta1.py", LOOPS, LOOPS.replace("(whole)", "(max(0, whole - 1))")),
    "loops: the tail is lost": ("beta1.py", "if tail:", "if False:"),
    "loops: the tail has the number of its neighbour": ("beta1.py", "tail, whole)", "tail, max(0, whole - 1))"),
    "loops: the tail from the last whole block": ("beta1.py", "first + whole * size, tail", "first + (whole - 1) * size, tail"),
    "loops: from the first element": ("beta1.py", "self.block(i * size + first, size, i)", "self.block(i * size, size, i)"),
    "matmul: operands exchanged": ("beta1.py", "nc_matmul(stationary, moving)", "nc_matmul(moving, stationary)"),
    "matmul: the last product only": ("beta1.py", "+= self.nisa.nc_matmul", "= self.nisa.nc_matmul"),
    "matmul: sums in bfloat16": ("beta1.py", "dtype=self.float32, buffer=self.nl.psum", "dtype=self.nl.bfloat16, buffer=self.nl.psum"),
    "multiply: adds": ("beta1.py", "op=np.multiply", "op=np.add"),
    "activations: exchanged": ("beta1.py", '"silu": nl.silu, "gelu_tanh": nl.gelu_apprx_tanh', '"silu": nl.gelu_apprx_tanh, "gelu_tanh": nl.silu'),
    "transfers: of the first columns": ("beta1.py", "n + columns.start", "n"),
    "transfers: one row late": ("beta1.py", "(t * steps[1] + first)", "(t * steps[1] + first + 1)"),
    "joined rows: of the weight in plain order": ("parts.py", "self.columns, self.product.strip.interleave", "self.columns"),
    "joined rows: to the tiles of another order": ("beta1.py", "b * interleave + t, n]", "b + t * blocks, n]"),
    "joined rows: of the first block": ("beta1.py", "b * (128 * interleave) + (t + first)", "b * 0 + (t + first)"),
    "joined rows: of the weight's beginning": ("beta1.py", "(t + first)", "t"),
    "joined rows: the first of each for all": ("tiling.py", "b.start + j + first, interleave", "b.start + first, interleave"),
    "joined rows: the same tile number for all": ("tiling.py", "FeatureTile(nk, b.index * interleave + j,", "FeatureTile(nk, b.index * interleave,"),
    "joined rows: partitions next to each other": ("beta1.py", "p * interleave + b", "p + b"),
    "joined rows: columns next to each other": ("beta1.py", "n * step + start", "n + start"),
    "joined rows: the intermediate in plain order": ("gated_mlp.py", 'plan.stage("expand"), finish, plan.interleave_h)', 'plan.stage("expand"), finish)'),
    "mlp: gate and up exchanged": ("gated_mlp.py", "gate, up = sums", "up, gate = sums"),
    "mlp: no activation": ("gated_mlp.py", ACTIVATE, "nk.copy(to(part)[0:p, 0:count, 0 : m.size], gate[at])"),
    "mlp: activation of a constant name": ("gated_mlp.py", ACTIVATE, ACTIVATE.replace("activation,", '"silu",')),
    "mlp: biases of gate and up exchanged": ("gated_mlp.py", "(gate_bias, up_bias), ", "(up_bias, gate_bias), "),
    "mlp: no bias of down": ("gated_mlp.py", "down_v, bias)", "down_v)"),
    "mlp: no bias of a dense down": ("gated_mlp.py", "Product(h, down, bias)", "Product(h, down)"),
    "mlp: no bias of a factored side": ("gated_mlp.py", "Product(strips.pop(0), v, bias)", "Product(strips.pop(0), v)"),
    "mlp: the strips of gate and up exchanged": ("gated_mlp.py", "strips.pop(0)", "strips.pop()"),
    "mlp: a shared U serves the gate alone": ("gated_mlp.py", "u is not None and v is not None", "v is not None"),
    "mlp: the V of the gate for both": ("gated_mlp.py", "zip((gate, up), biases", "zip((gate, (up[0], gate[1])), biases"),
    "gated: the input of the gate for both": ("gated_mlp.py", "Product(Xu, up, up_bias)", "Product(Xg, up, up_bias)"),
    "gated: the inputs exchanged": ("gated_mlp.py", "[Product(Xg, gate, gate_bias), Product(Xu, up, up_bias)]", "[Product(Xu, gate, gate_bias), Product(Xg, up, up_bias)]"),
    "gated: gate and up exchanged": ("gated_mlp.py", "[Product(Xg, gate, gate_bias), Product(Xu, up, up_bias)]", "[Product(Xu, up, up_bias), Product(Xg, gate, gate_bias)]"),
    "gated: the input of up from that of the gate": ("gated_mlp.py", "load_strip(nk, x_up, rows", "load_strip(nk, x_gate, rows"),
    "gated: no bias of the gate": ("gated_mlp.py", "Product(Xg, gate, gate_bias)", "Product(Xg, gate)"),
    "gated: no bias of up": ("gated_mlp.py", "Product(Xu, up, up_bias)", "Product(Xu, up)"),
    "gated: inputs as if they were not transposed": ("gated_mlp.py", "plan.chunk, x_transposed)", "plan.chunk, False)"),
    "gated: silu whatever the activation": ("gated_mlp.py", "columns, activation, plan.stage", 'columns, "silu", plan.stage'),
    "gated: rows of the first strip": ("gated_mlp.py", "nk.block(rows.start + m.start, m.size)", "nk.block(m.start, m.size)"),
    "gated: rows of the first block of a strip": ("gated_mlp.py", "nk.block(rows.start + m.start, m.size)", "nk.block(rows.start, m.size)"),
    "mlp: columns of the first core": ("gated_mlp.py", "columns.start + (base + t) * P", "(base + t) * P"),
    "decode: the first tile for all": ("gated_mlp.py", "yT[0 : k.size, k.index, 0:M]", "yT[0 : k.size, 0, 0:M]"),
    "tiled: the last row of the contraction is lost": ("dense.py", "for k in nk.blocks(K, P):\n                tile", "for k in nk.blocks(K - 1, P):\n                tile"),
    "blocked: the last block of K only": ("dense.py", BLOCKED_SUM, BLOCKED_SUM.replace("add", "copy").replace("total, ", "")),
    "blocked: sums in bfloat16": ("dense.py", "nk.sbuf((P, tiles(s.size), n.size), nk.float32)", "nk.sbuf((P, tiles(s.size), n.size), xT.dtype)"),
    "blocked: sums of the first block of rows": ("dense.py", "b.index * tiles(plan.B_M) + m.index", "m.index"),
    "blocked: rows of the first strip": ("dense.py", "nk.block(s.start + b.start, b.size)", "nk.block(b.start, b.size)"),
    "dense: no bias": ("dense.py", "Product(X, w, bias)", "Product(X, w)"),
    "low rank: no bias": ("low_rank.py", "Product(A, v, bias)", "Product(A, v)"),
    "low rank: pieces on top of each other": ("low_rank.py", "piece.first + first * 128", "first * 128"),
    "low rank: X as if it were not transposed": ("low_rank.py", "plan.chunk, transposed, plan.interleave_x)", "plan.chunk, False, plan.interleave_x)"),
    "naive: all columns for each block": ("low_rank.py", 'y, rows, n, plan.stage("v")', 'y, rows, columns, plan.stage("v")'),
}  # fmt: skip


# A few kernels in small and ragged blocks; together they are to see each mistake.


def low_rank_in_pieces(bench):
    stages = {"u": (128, 260, 1), "v": (256, 257, 1)}  # two groups of rows in a strip
    for kernel, across in (("low_rank_sequential", True), ("low_rank_naive", False)):
        tensors = bench.tensors(kernel, 300, 260, 257, 300, bias=True, x_transposed=across)
        called = {"x_transposed": across}
        plan = bench.blocked(kernel, tensors, settings=called, B_M=256, chunk=512, stages=stages)
        bench.run(kernel, tensors, called, plan=plan)


def low_rank_streamed(bench):
    tensors = bench.tensors("low_rank_fused", 140, 1100, 257, 300, bias=True)
    stages = {"u": (128, 512, 1), "v": (256, 128, 1)}
    plan = bench.blocked("low_rank_fused", tensors, B_M=128, chunk=1024, stages=stages)
    bench.run("low_rank_fused", tensors, plan=plan)


def low_rank_by_parts(bench):
    """Activations of which most cancels: sums that are rounded on the way are far off."""
    for across in (False, True):
        tensors = bench.tensors("low_rank_fused", 130, 600, 130, 140)
        big, u = 64 * tensors["x"][:, :256], tensors["u"]
        x = np.concatenate([big, tensors["x"][:, 256:512] - big, tensors["x"][:, 512:]], axis=1)
        u = np.concatenate([u[:256], u[:256], u[512:]])
        tensors |= {"x": np.ascontiguousarray(x.T) if across else x, "u": u}
        called = {"x_transposed": across}
        how = {"B_M": 128, "part": 256, "chunk": 256, "stages": {"u": (130, 256, 1), "v": (140, 130, 1)}}
        bench.run(
            "low_rank_fused", tensors, called, plan=bench.blocked("low_rank_fused", tensors, settings=called, **how)
        )


def dense_on_two_cores(bench):
    tensors = bench.tensors("matmul", 17, 200, 1, 300, bias=True)
    bench.run("matmul", tensors, cores=2)


def baselines(bench):
    bench.run("matmul_tiled", bench.tensors("matmul_tiled", 130, 129, 1, 1100), cores=2)
    tensors = bench.tensors("matmul_blocked", 300, 256, 1, 200)
    big = 64 * tensors["xT"][:128]
    tensors |= {"xT": np.concatenate([big, tensors["xT"][128:] - big]), "w": np.concatenate([tensors["w"][:128]] * 2)}
    plan = bench.blocked("matmul_blocked", tensors, rows=256, B_M=128, B_K=128, B_N=200)
    bench.run("matmul_blocked", tensors, plan=plan)


def first_half_on_two_cores(bench):
    tensors = bench.tensors("mlp_up", 17, 200, 130, 600, bias=True, factored="ff")
    bench.run("mlp_up", tensors, {"activation": "gelu_tanh"}, cores=2)
    tensors = bench.tensors("mlp_up", 130, 140, 1, 300, bias=True, factored="dd")
    plan = bench.blocked("mlp_up", tensors, B_M=128, stages={"expand": (256, 140, 1)})
    bench.run("mlp_up", tensors, plan=plan)


def two_inputs(bench):
    """Of the same size, so that they fit in each other's place; on cores, in strips, and more rows than a bank takes."""
    for M, across, cores in ((17, True, 2), (600, False, 1)):
        called = {"x_transposed": across, "activation": "gelu_tanh"}
        tensors = bench.tensors("gated_matmul", M, 140, 140, 300, bias=True, x_transposed=across)
        bench.run("gated_matmul", tensors, called, cores=cores)
    tensors = bench.tensors("gated_matmul", 130, 260, 130, 300, bias=True)
    plan = bench.blocked("gated_matmul", tensors, B_M=128, chunk=128, stages={"expand": (256, 128, 1)})
    bench.run("gated_matmul", tensors, plan=plan)


def shared_u(bench):
    tensors = bench.tensors("mlp_up", 20, 200, 130, 140, bias=True, factored="fs")
    bench.run("mlp_up", tensors)


def whole_mlp(bench):
    tensors = bench.tensors("mlp", 20, 140, 130, 300, bias=True)
    down = {"down_u": (130, 128, 2), "down": (140, 128, 1)}
    stages = {"gate_u": (130, 140, 2), "up_u": (128, 140, 1), "expand": (256, 131, 1), **down}
    plan = bench.blocked("mlp", tensors, stages=stages)
    bench.run("mlp", tensors, plan=plan)


def decoding(bench):
    bench.run("mlp_decode", bench.tensors("mlp_decode", 3, 260, 20, 140, bias=True, factored="ffd"))
    for across in (False, True):  # several rows of a weight in one descriptor
        tensors = bench.tensors("mlp_decode", 3, 512, 20, 512, bias=True, x_transposed=across)
        called = {"x_transposed": across}
        stages = {"gate_u": (20, 256, 1), "up_u": (21, 512, 1), "expand": (512, 21, 2), "down_u": (20, 256, 1)}
        stages["down"] = (512, 20, 4)
        how = {"chunk": 512, "interleave_x": 2, "interleave_h": 2, "stages": stages}
        bench.run("mlp_decode", tensors, called, plan=bench.blocked("mlp_decode", tensors, settings=called, **how))


def sums_of_every_kind(bench):
    """Completed in SBUF, and side by side in banks of their own, with biases; and more rows than a bank takes."""
    tensors = bench.tensors("mlp_decode", 3, 260, 20, 300, bias=True, factored="ffd")
    stages = {"gate_u": (20, 128, 1, True), "up_u": (21, 128, 1, True)}
    stages |= {"expand": (256, 21, 1), "down": (260, 128, 3, True)}
    bench.run("mlp_decode", tensors, plan=bench.blocked("mlp_decode", tensors, stages=stages))
    tensors = bench.tensors("mlp_up", 20, 260, 1, 300, bias=True, factored="dd")
    plan = bench.blocked("mlp_up", tensors, stages={"expand": (256, 128, 1)})
    bench.run("mlp_up", tensors, plan=plan)
    tensors = bench.tensors("low_rank_fused", 600, 130, 129, 40)
    for how in ((129, 130, 1), (128, 128, 1)):
        plan = bench.blocked("low_rank_fused", tensors, B_M=600, part=0, stages={"u": how, "v": (40, 129, 1)})
        bench.run("low_rank_fused", tensors, plan=plan)


def tiles_abreast(bench):
    """More tiles than are summed side by side, while all transfers of a block stay: of one strip, and of one in pieces."""
    tensors = bench.tensors("low_rank_fused", 20, 600, 384, 140)
    stages = {"u": (384, 256, 1, False, 2), "v": (140, 384, 1)}
    bench.run("low_rank_fused", tensors, plan=bench.blocked("low_rank_fused", tensors, stages=stages))
    tensors = bench.tensors("mlp_decode", 3, 300, 384, 256, bias=True, factored="ddf")
    stages = {"expand": (256, 300, 1), "down_u": (256, 128, 1, False, 1), "down": (300, 128, 1, False, 2)}
    how = {"interleave_x": 1, "interleave_h": 1, "stages": stages}
    bench.run("mlp_decode", tensors, plan=bench.blocked("mlp_decode", tensors, **how))


def joined_rows_one_by_one(bench):
    """So many rows that tiles which share features have a bank each."""
    tensors = bench.tensors("mlp", 520, 130, 20, 512)
    stages = {"gate_u": (20, 130, 1), "up_u": (21, 130, 1), "expand": (512, 21, 1), "down_u": (20, 512, 1)}
    how = {"interleave_x": 1, "interleave_h": 2, "part": 0, "stages": stages | {"down": (130, 20, 1)}}
    bench.run("mlp", tensors, plan=bench.blocked("mlp", tensors, B_M=520, **how))


CHECKS = (
    dense_on_two_cores,
    decoding,
    whole_mlp,
    low_rank_in_pieces,
    low_rank_by_parts,
    first_half_on_two_cores,
    two_inputs,
    shared_u,
    baselines,
    low_rank_streamed,
    sums_of_every_kind,
    tiles_abreast,
    joined_rows_one_by_one,
)


@pytest.fixture(scope="module")
def copy_of_kernels(tmp_path_factory):
    """A directory with the package's door and its files, to be changed one at a time."""
    folder = tmp_path_factory.mktemp("mutants")
    shutil.copytree(SOURCE, folder / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(kernels.__file__, folder / "door.py")
    return folder


@pytest.fixture
def load(copy_of_kernels, monkeypatch, make_bench):
    """load(file, text): the kernels with another text in one of their files, as a bench of a package of its own."""
    changed, name = [], "mutated_kernels"
    monkeypatch.setattr(
        sys, "dont_write_bytecode", True
    )  # a changed file may have the size and time of the one before

    def import_with(file: str, text: str):
        changed.append((copy_of_kernels / "kernels" / file, (SOURCE / file).read_text()))
        changed[-1][0].write_text(text)
        spec = importlib.util.spec_from_file_location(name, copy_of_kernels / "door.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        module.__path__[:] = [str(copy_of_kernels / "kernels")]
        return make_bench(module)

    yield import_with
    for path, original in changed:
        path.write_text(original)
    for loaded in [other for other in sys.modules if other == name or other.startswith(name + ".")]:
        del sys.modules[loaded]


def noticed(bench) -> str | None:
    """The first check that fails, and how."""
    for check in CHECKS:
        try:
            check(bench)
        except (AssertionError, bench.package.KernelError) as error:
            return f"{check.__name__}: {error}"
    return None


def test_the_kernels_as_they_are_pass(load):
    bench = load("parts.py", (SOURCE / "parts.py").read_text())
    assert noticed(bench) is None
    assert Path(sys.modules[bench.package.__name__ + ".parts"].__file__).parent.parent.name.startswith("mutants")


@pytest.mark.parametrize("mistake", MUTANTS)
def test_a_mistake_is_noticed(load, mistake):
    file, old, new = MUTANTS[mistake]
    source = (SOURCE / file).read_text()
    assert old in source, f"{file} has changed: choose another text for this mistake"
    assert noticed(load(file, source.replace(old, new))) is not None
