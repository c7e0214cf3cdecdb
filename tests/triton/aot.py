"""Compile every Triton kernel for GPUs that are not here, and read what came out.

Needs Triton with its bundled assembler and disassembler, no GPU and no driver; must not run in a process that
interprets kernels. `compile_build` gives registers, stack, shared memory and instruction counts of one of
`builds`. As a program it prints one JSON line a build: ``python -m tests.triton.aot sm_90 sm_80``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .build import Build
from .builds import builds

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
SHARED_LIMIT = {
    "sm_80": 163,
    "sm_86": 99,
    "sm_89": 99,
    "sm_90": 227,
    "sm_100": 227,
    "sm_120": 99,
}  # KiB a block
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass
class Compiled:
    """What the assembler made of a build."""

    name: str
    architecture: str
    registers: int
    stack: int
    local: int
    shared: int  # dynamic and static, bytes
    warps: int
    threads: int
    instructions: int
    opcodes: dict[str, int] = field(repr=False)
    ptx: str = field(repr=False)
    sass: str = field(repr=False)
    per_output: float
    build: Build = field(repr=False)

    def count(self, pattern: str) -> int:
        """Instructions whose opcode matches `pattern` from its beginning."""
        return sum(n for opcode, n in self.opcodes.items() if re.match(pattern, opcode))

    def problems(self) -> list[str]:
        """What no kernel here may have."""
        found = []
        if self.stack or self.local:
            found.append(f"stack {self.stack}, local {self.local} bytes")
        if spills := self.count(r"LDL|STL"):
            found.append(f"{spills} local loads and stores")
        if not self.build.double and self.count(r"D(ADD|MUL|FMA|SETP)\b|MUFU\.RCP64H|F2F\.F64|F2F\.F32\.F64"):
            found.append("float64 arithmetic")
        if self.shared > SHARED_LIMIT[self.architecture] << 10:
            found.append(f"{self.shared} bytes of shared memory")
        if self.shared > self.build.shared:
            found.append(f"{self.shared} bytes of shared memory, {self.build.shared} reckoned with")
        found += [f"no instruction like {pattern}" for pattern in self.build.must if not self.count(pattern)]
        return found

    def line(self) -> dict[str, Any]:
        """For a table: everything but the texts."""
        return {
            "kernel": self.name, "architecture": self.architecture, "registers": self.registers,
            "stack": self.stack, "local": self.local, "shared": self.shared, "warps": self.warps,
            "instructions": self.instructions, "per_output": round(self.per_output, 1),
            "tensor_core": self.count(r"HMMA|HGMMA|UTC.*MMA"), "async_copy": self.count(r"LDGSTS|UTMALDG"),
            "matrix_load": self.count("LDSM"), "wide": self.count(r"(LDG|STG|LDGSTS)\..*128"),
            "mufu": self.count("MUFU"), "problems": self.problems(),
            "function": self.build.kernel.fn.__name__, "traffic": self.build.traffic,
        }  # fmt: skip


_UNALIGNED = (
    "eps",
    "exp_clip",
    "rows",
    "groups",
    "below",
    "factor",
    "steps",
    "blocks",
    "parts",
    "temperature",
    "low",
    "high",
    "spans",
    "keep_scale",
    "share",
    "smoothing",
    "ignore_index",
    "band",
    "samples",
)


def compile_build(build: Build, architecture: str) -> Compiled:
    """Compile, assemble and disassemble. Pointers and sizes are taken as multiples of 16: most are."""
    names = build.kernel.arg_names
    signature = {name: "constexpr" if name in build.constants else build.types[name] for name in names}
    aligned = [name for name in names if name in build.types and name not in _UNALIGNED]
    source = ASTSource(
        fn=build.kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in build.constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    target = GPUTarget("cuda", int(architecture.removeprefix("sm_")), 32)
    kernel = triton.compile(source, target=target, options=dict(build.options))
    usage, sass = _disassemble(kernel.asm["cubin"])
    opcodes: dict[str, int] = {}
    for match in re.finditer(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", sass, re.M):
        opcodes[match[1]] = opcodes.get(match[1], 0) + 1
    total = sum(n for opcode, n in opcodes.items() if opcode != "NOP")
    threads = 32 * kernel.metadata.num_warps
    return Compiled(
        build.name, architecture, usage["REG"], usage["STACK"], usage["LOCAL"],
        max(kernel.metadata.shared, usage["SHARED"]), kernel.metadata.num_warps, threads, total, opcodes,
        kernel.asm["ptx"], sass, total * threads / build.outputs, build,
    )  # fmt: skip


def _disassemble(cubin: bytes) -> tuple[dict[str, int], str]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        texts = [
            subprocess.run([TOOLS / tool, flag, file.name], capture_output=True, text=True, check=True).stdout
            for tool, flag in (("cuobjdump", "--dump-resource-usage"), ("nvdisasm", "-c"))
        ]
    usage = {name: int(n) for name, n in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", texts[0])}
    return usage, texts[1]


def main() -> None:
    bad = 0
    for architecture in sys.argv[1:] or ARCHITECTURES:
        for build in builds(architecture):
            line = compile_build(build, architecture).line()
            bad += bool(line["problems"])
            print(json.dumps(line), flush=True)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
