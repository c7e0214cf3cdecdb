"""A kernel's machine code: resources, instructions, loops. Read from cubins, so no GPU is needed."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from . import tools

_INSTRUCTION = re.compile(
    r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);", re.MULTILINE
)
_LABEL = re.compile(r"^(\.L_x_\d+):|^\s*/\*([0-9a-f]{4,})\*/", re.MULTILINE)


@dataclass(frozen=True)
class Instruction:
    address: int
    name: str  # with modifiers: LDG.E.128.CONSTANT
    operands: str
    target: int | None = None  # of a branch

    @property
    def is_branch(self) -> bool:
        return self.target is not None


@dataclass
class Kernel:
    """One kernel of one architecture.

    Args:
        name: demangled, without its arguments.
        architecture: as ``sm_90``.
        threads: of a block, from ``__launch_bounds__``; 0 if not bounded.
        registers, stack, shared: a thread's registers, a thread's bytes, a block's static bytes.
    """

    name: str
    architecture: str
    threads: int
    registers: int
    stack: int
    shared: int
    instructions: list[Instruction] = field(repr=False)

    @property
    def counts(self) -> Counter[str]:
        return Counter(i.name for i in self.instructions)

    def count(self, pattern: str) -> int:
        """Instructions whose name matches `pattern` from its start."""
        return sum(n for name, n in self.counts.items() if re.match(pattern, name))

    def hot_loop(self, pattern: str) -> list[Instruction]:
        """The innermost loop with the most instructions like `pattern`; all of the code without one."""
        best, most = self.instructions, 0
        ends = [i for i in self.instructions if i.target is not None and i.target < i.address]
        for end in ends:
            first = end.target
            assert first is not None
            if any(e is not end and first <= (e.target or 0) and e.address < end.address for e in ends):
                continue  # another loop is inside
            body = [i for i in self.instructions if first <= i.address <= end.address]
            hits = sum(bool(re.match(pattern, i.name)) for i in body)
            if hits > most:
                best, most = body, hits
        return best


def _instructions(text: str) -> list[Instruction]:
    """What nvdisasm prints for one function."""
    labels: dict[str, int] = {}
    waiting: list[str] = []
    for label, address in _LABEL.findall(text):
        if label:
            waiting.append(label)
        else:
            labels.update(dict.fromkeys(waiting, int(address, 16)))
            waiting.clear()
    found = []
    for address, name, operands in _INSTRUCTION.findall(text):
        if name == "NOP":  # padding behind the end
            continue
        jump = re.search(r"`\((\.L_x_\d+)\)", operands) if name.startswith("BRA") else None
        target = labels.get(jump[1]) if jump else None
        found.append(Instruction(int(address, 16), name, operands.strip(), target))
    return found


def _functions(disassembly: str) -> dict[str, str]:
    """Text of each function by its mangled name."""
    parts = re.split(r"^\.text\.(\S+):$", disassembly, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def read_cubin(path: Path, architecture: str) -> list[Kernel]:
    """Every kernel of a cubin."""
    usage = tools.run("cuobjdump", "--dump-resource-usage", path)
    resources = dict(re.findall(r"Function (\S+):\n\s*(REG:.*)", usage))
    bounds = _launch_bounds(tools.run("cuobjdump", "-elf", path))
    code = _functions(tools.run("nvdisasm", "-c", path))
    mangled = sorted(resources)
    # since sm_90 the system's own kilobyte is counted in
    reserved = 1024 if int(architecture.removeprefix("sm_").rstrip("abcdef")) >= 90 else 0
    kernels = []
    for symbol, name in zip(mangled, tools.demangle(mangled), strict=True):
        use = {k: int(v) for k, v in re.findall(r"(\w+):(\d+)", resources[symbol])}
        stack, shared = use["STACK"] + use.get("LOCAL", 0), max(0, use["SHARED"] - reserved)
        bound = bounds.get(symbol, 0)
        found = _instructions(code[symbol])
        kernels.append(Kernel(short(name), architecture, bound, use["REG"], stack, shared, found))
    return kernels


def short(name: str) -> str:
    """A demangled name without return type, namespaces, arguments and casts of enumerators."""
    name = re.sub(r"^void ", "", name)
    depth = 0
    for i, c in enumerate(name):
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0:
            name = name[:i]
            break
    name = re.sub(r"\b(vdk|cuda)::", "", name)
    name = re.sub(r"\((\w+)(?:::Kind)?\)(\d+)", r"\1 \2", name)
    return name.replace(" >", ">").replace(", ", ",")


def _launch_bounds(elf: str) -> dict[str, int]:
    """Threads of a block that each kernel was compiled for."""
    found = {}
    for section in re.split(r"^\.nv\.info\.", elf, flags=re.MULTILINE)[1:]:
        match = re.search(r"EIATTR_MAX_THREADS.*?Value:\s*0x([0-9a-f]+)", section, re.DOTALL)
        if match:
            found[section.split(maxsplit=1)[0]] = int(match[1], 16)
    return found


def read_library(path: Path) -> list[Kernel]:
    """Every kernel for every architecture in a shared library."""
    with tempfile.TemporaryDirectory() as folder:
        tools.run("cuobjdump", "-xelf", "all", path.resolve(), cwd=Path(folder))
        found = []
        for cubin in sorted(Path(folder).iterdir()):
            match = re.search(r"\.(sm_\w+)\.cubin$", cubin.name)
            if match:
                found += read_cubin(cubin, match[1])
    return found


def contents(path: Path) -> tuple[list[str], list[str]]:
    """(architectures with machine code, those with PTX) of a library."""
    code = re.findall(r"\.(sm_\w+)\.cubin", tools.run("cuobjdump", "--list-elf", path))
    ptx = re.findall(r"\.(sm_\w+)\.ptx", tools.run("cuobjdump", "--list-ptx", path))
    return sorted(set(code)), sorted(set(ptx))
