"""What a kernel's machine code must be like, whatever its size: rules that hold for every architecture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .sass import Kernel

LOCAL = r"LDL|STL"  # registers spilled, or an array indexed at run time
DOUBLE = r"D(ADD|MUL|FMA|SETP|MNMX)\b|MUFU\.\w+64H|[FI]2[FI]\.(\w+\.)*F64|DMMA"
# Kernels that compute in float64: draws that cancel in less, norms that are to round one way, two numbers
IN_DOUBLE = r"double|LogNormalChannel|mask_(row_norms|numbers)"
WIDE_COPY = r"LDGSTS\.\S*128"
WIDE_LOAD = r"LDG\.\S*128"
WIDE_STORE = r"STG\.\S*128"
MATRIX_LOAD = r"LDSM"
APPROXIMATION = r"MUFU"


@dataclass(frozen=True)
class Rule:
    """Kernels whose name matches `kernels` must have instructions that match each of `must`."""

    kernels: str
    must: tuple[str, ...]
    architectures: str = "sm_"


# of csrc/*/cuda.cuh; names as `sass.short` gives them
RULES = (
    Rule(r"(ragged_)?noise_kernel<", (WIDE_STORE,)),
    Rule(r"(ragged_)?noise_kernel<(float|\w+16)>", (r"MUFU\.SQRT",)),
    Rule(r"mul_noise_kernel<(float|double)", (WIDE_LOAD, WIDE_STORE)),
    Rule(r"mul_noise_kernel<\w+16", (r"LDG\.\S*64", r"STG\.\S*64")),
    Rule(
        r"weight_noise_kernel<(float|double)|weight_noise_\w+s<(float|double).*true>", (WIDE_LOAD, WIDE_STORE)
    ),
    Rule(r"weight_noise_kernel<\w+16|weight_noise_\w+s<\w+16.*true>", (r"LDG\.\S*64", r"STG\.\S*64")),
    Rule(r"weight_noise_\w+<(float|\w+16)", (r"MUFU\.SQRT", r"MUFU\.EX2")),
    Rule(r"gate_\w+<(float|double),\w+,\w+,true>", (WIDE_LOAD, WIDE_STORE)),
    Rule(r"gate_\w+<\w+16,\w+,\w+,true>", (r"LDG\.\S*64", r"STG\.\S*64")),
    Rule(r"gate_\w+<(float|\w+16),PlainChannel", (r"MUFU\.SQRT", r"MUFU\.EX2")),
    Rule(r"mask_(select|apply|row_norms|count)<(float|double)", (WIDE_LOAD,)),
    Rule(r"mask_(select|apply|row_norms|count)<\w+16", (r"LDG\.\S*64",)),
    Rule(r"mask_(select<(float|double).*true>|apply<(float|double))", (WIDE_STORE,)),
    Rule(r"mask_(select|apply)<\w+16", (r"STG\.\S*64",)),
    Rule(r"kl_kernel<", (WIDE_LOAD,)),
    Rule(r"kl_kernel<.*,true>", (WIDE_STORE,)),
    Rule(r"kl_kernel<(float|\w+16)", (APPROXIMATION,)),
    Rule(r"lrt_noise_gradient<", (WIDE_LOAD, r"MUFU\.SQRT")),
    Rule(r"lrt_product<", (WIDE_COPY, WIDE_STORE)),
    Rule(r"lrt_product<(Conv)?Product<HalfMath", (r"HMMA\.16816\.F32", MATRIX_LOAD)),
    Rule(r"lrt_product<(Conv)?Product<Tf32Math", (r"HMMA\.1688\.F32\.TF32",)),
    Rule(r"lrt_product<(Conv)?Product<Tf32Math<.,.>,Pass [01]", (MATRIX_LOAD,)),  # it transposes no words
    Rule(r"lrt_product<(Conv)?Product<(HalfMath<\w+>|Tf32Math<.,1>),Pass [01]", (r"MUFU\.EX2",)),
    Rule(r"lrt_product<(Conv)?Product<IeeeMath", (r"FFMA",)),
    Rule(r"conv_noise_gradient<", (WIDE_LOAD,)),
    Rule(r"head_\w+<HeadProduct<", (WIDE_COPY, WIDE_STORE)),
    Rule(r"head_logits<HeadProduct<HalfMath", (r"HMMA\.16816\.F32", MATRIX_LOAD)),
    Rule(r"head_\w+<HeadProduct<Tf32Math", (r"HMMA\.1688\.F32\.TF32",)),
    Rule(r"head_(logits|input_gradient)<HeadProduct<Tf32Math", (MATRIX_LOAD,)),  # it transposes no words
    Rule(r"head_\w+<HeadProduct<IeeeMath", (r"FFMA",)),
    Rule(r"head_logits<", (r"MUFU\.EX2",)),
    Rule(r"head_losses<", (WIDE_LOAD, WIDE_STORE, r"MUFU\.EX2")),
    Rule(r"xnor_product<", (WIDE_COPY,)),
    Rule(r"xnor_product<CountByPopc", (r"POPC", r"LDS\.128")),
    Rule(r"xnor_product<CountByMma", (r"BMMA\.168256\.XOR\.POPC",), "sm_8"),
    Rule(r"xnor_pack_rows<", (WIDE_LOAD,)),
    Rule(r"spmm_product<", (WIDE_LOAD, WIDE_STORE, r"LDS\.128", r"STS\.128")),
    Rule(r"spmm_(vector|sampled|row_sums)<", (WIDE_LOAD,)),
    Rule(r"sparse_conv_product<", (r"LDS\.128",)),
    Rule(r"xnor_pack_planes<float,true>", (WIDE_LOAD,)),
    Rule(r"xnor_pack_planes<\w+16,true>", (r"LDG\.\S*64",)),
)
MAIN_LOOP = r"HMMA|HGMMA|UTC\w*MMA|BMMA"  # what the loop that counts is full of
# of kernels that multiply without tensor cores
OTHER_LOOPS = {
    r"lrt_product<(Conv)?Product<IeeeMath|head_\w+<HeadProduct<IeeeMath": "FFMA",
    r"xnor_product<CountByPopc": "POPC",
    r"(spmm_(product|vector|sampled)|sparse_conv_product)<": "FFMA",
}


def problems(kernel: Kernel) -> Iterator[str]:
    """What is wrong with a kernel, whatever the budgets say."""
    if kernel.stack:
        yield f"stack of {kernel.stack} bytes"
    if n := kernel.count(LOCAL):
        yield f"{n} loads and stores of local memory"
    if not re.search(IN_DOUBLE, kernel.name) and (n := kernel.count(DOUBLE)):
        yield f"{n} float64 instructions"
    for rule in RULES:
        if re.match(rule.kernels, kernel.name) and kernel.architecture.startswith(rule.architectures):
            for pattern in rule.must:
                if not kernel.count(pattern):
                    yield f"no instruction like {pattern}"


def cost(kernel: Kernel) -> tuple[str, float]:
    """(unit, instructions each): the main loop's for one that multiplies, else the whole kernel's."""
    if kernel.count(MAIN_LOOP):
        loop = kernel.hot_loop(MAIN_LOOP)
        products = sum(bool(re.match(MAIN_LOOP, i.name)) for i in loop)
        return "mma", len(loop) / products
    for pattern, name in OTHER_LOOPS.items():
        if re.match(pattern, kernel.name):
            loop = kernel.hot_loop(name)
            return name.lower(), len(loop) / sum(i.name.startswith(name) for i in loop)
    outputs = elements(kernel)
    return ("element" if outputs else "thread"), len(kernel.instructions) / max(outputs, 1)


def elements(kernel: Kernel) -> int:
    """Elements that the code of a kernel without a main loop takes at a time; 0 where that is not fixed."""
    if re.match(
        r"lrt_finish<|lrt_noise_gradient<|conv_noise_gradient<|ragged_noise_kernel<|weight_noise_(rows|columns)<",
        kernel.name,
    ):
        return 4  # a turn of a loop
    if kernel.name.startswith(("mul_noise_kernel<", "weight_noise_kernel<")):
        return 8
    if match := re.match(r"mask_select<\w+,\d+,(\d+)", kernel.name):
        return 4 * int(match[1])
    if kernel.name.startswith("mask_apply<"):
        return 16
    if kernel.name.startswith("xnor_pack_planes<"):
        return 32 if kernel.name.endswith("true>") else 16  # a turn of a loop
    match = re.match(r"(?:noise_kernel|kl_kernel|xnor_pack_rows)<(\w+)", kernel.name)
    per16 = {"double": 2, "float": 4, "long": 2, "Float16": 8, "BFloat16": 8}
    if match is None:
        return 0
    # noise: two units of a Philox call's four, or of 16 bytes where that is more; kl: two vectors, or of half
    # types one; signs: a vector of four rows
    if kernel.name.startswith("xnor"):
        return 4 * per16[match[1]]
    return 2 * max(4, per16[match[1]]) if kernel.name.startswith("noise") else min(8, 2 * per16[match[1]])
