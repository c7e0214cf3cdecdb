"""`vdropkern info` as plain text: it must work without typer and rich."""

from __future__ import annotations

from typing import Any

from .. import _backend, _info


def _join(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _built(build: dict[str, Any] | None) -> str:
    if build is None:
        return "built with: not noted"
    if not build["kernels"]:
        return f"built without it: {build['reason']}"
    return f"built with: torch {build['torch']}; {build['compiler']}"


def render(facts: dict[str, Any]) -> str:
    """`gather()` as aligned plain text."""
    v, cpu, library = facts["versions"], facts["cpu"], facts["compiled_library"]
    isas = library["instruction_sets"]
    loaded = "loaded" if library["loaded"] else f"not loaded: {library['why_not']}; {_backend.REBUILD_HINT}"
    rows = [
        ("vdropkern", v["vdropkern"]),
        ("torch", v["torch"]),
        ("python", f"{v['python']} ({facts['executable']})"),
        ("system", v["os"]),
        ("processor", f"{cpu['name']}, {cpu['cores']} logical cores, torch uses {cpu['threads']} threads"),
        ("compiled library", loaded),
        ("", _built(library["build"])),
        ("instruction sets", f"built: {_join(isas['built'])}"),
        ("", f"supported here: {_join(isas['supported'])}"),
        ("", f"running: {isas['running'] or 'none'}"),
        ("CUDA architectures", _join(library["cuda_architectures"])),
    ]
    lines = [f"{name:<20}{value}" for name, value in rows]
    lines += ["", f"backend of each op on a CPU tensor (asked for: {facts['backend']})"]
    lines += [f"  {op}: {choice}" for op, choice in facts["ops"].items()]
    lines += ["", "environment variables"]
    for name, meaning in _info.ENVIRONMENT.items():
        value = facts["environment"][name]
        lines.append(f"  {name:<20}{'not set' if value is None else value}   ({meaning})")
    return "\n".join(lines)
