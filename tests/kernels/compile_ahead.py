"""Compile every Triton kernel for a GPU that need not be there, and print what came out as JSON."""

import json
import re
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.cross_entropy import triton_kernels as cross_entropy
from kernels.fp8 import triton_kernels as fp8

ROWS = {"stride": "i32", "columns": "i32"}
MATRIX = dict.fromkeys(("rows", "columns", "stride_row", "stride_column", "inverse_stride"), "i32")
FIGURES = dict.fromkeys(("top_out", "total_out", "normalizer_out", "disorder_out", "target_out"), "*fp32")
FACTORS = dict.fromkeys(("top", "of_softmax", "of_label"), "*fp32")
E4M3 = {"LARGEST": 448.0, "MANTISSA_BITS": 3, "LEAST_EXPONENT": -6, "SIDE": fp8.SIDE}


def compiled(kernel: Any, types: dict[str, str], capability: int = 90, **constants: Any) -> dict[str, Any]:
    """``types``: of the arguments that are no constants, in their order."""
    source = ASTSource(kernel, types | dict.fromkeys(constants, "constexpr"), constants)
    target = GPUTarget("cuda", capability, 32)
    binary = triton.compile(source, target=target, options={"num_warps": cross_entropy.WARPS})
    ptx = binary.asm["ptx"]
    return {
        "cubin_bytes": len(binary.asm["cubin"]),
        "target": re.search(r"^\.target (\S+)", ptx, re.M)[1],
        "rounds_in_hardware": "cvt.rn.satfinite.e4m3x2.f32" in ptx,
    }


def softmax(of: str) -> dict[str, Any]:
    same = {"rows": of, "ids": "*i64"}
    block = {"BLOCK": cross_entropy.BLOCK}
    written = {"rows": of, "into": of, "ids": "*i64"}
    return {
        f"statistics {of}": compiled(
            cross_entropy.statistics_kernel, same | FIGURES | ROWS, ENTROPY=True, **block
        ),
        f"gradient {of}": compiled(cross_entropy.gradient_kernel, written | FACTORS | ROWS, **block),
    }


def blockwise(out: str, capability: int, along: int, square: bool) -> dict[str, Any]:
    types = {"x": "*bf16", "out": out, "inverse": "*fp32"} | MATRIX
    kind = {"ALONG": along, "SQUARE": square, "DEQUANTISE": out == "*fp32"}
    return compiled(fp8.quantise_kernel, types, capability, **E4M3, **kind)


if __name__ == "__main__":
    found = softmax("*fp32") | softmax("*bf16")
    for name, along, square in (("columns", 0, False), ("rows", 1, False), ("squares", 1, True)):
        found[f"codes, {name}"] = blockwise("*fp8e4nv", 90, along, square)
    found["simulated, sm_80"] = blockwise("*fp32", 80, 1, False)
    print(json.dumps(found))
