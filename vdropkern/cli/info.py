"""`vdropkern info` as plain text: it must work without typer and rich."""

from __future__ import annotations

from typing import Any

from .. import _devices, _info


def _join(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _built(build: dict[str, Any] | None) -> str:
    if build is None:
        return "built with: not noted"
    if not build["kernels"]:
        return f"built without it: {build['reason']}"
    cuda = f"; CUDA {build['cuda']}" if build.get("cuda") else ""
    return f"built with: torch {build['torch']}; {build['compiler']}{cuda}"


def _reasons(reasons: dict[str, list[str]], n_ops: int) -> list[str]:
    return [
        f"    {said}" if len(ops) == n_ops else f"    {said} ({', '.join(ops)})"
        for said, ops in reasons.items()
    ]


def render(facts: dict[str, Any]) -> str:
    """`gather()` as aligned plain text."""
    v, cpu, library = facts["versions"], facts["cpu"], facts["compiled_library"]
    isas, gpu = library["instruction_sets"], facts["gpu"]
    loaded = "loaded" if library["loaded"] else f"not loaded: {library['why_not']}; {_devices.REBUILD_HINT}"
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
        ("GPU", "; ".join(gpu["found"]) or f"none: {gpu['why_not']}"),
        ("triton", gpu["triton"] or "not installed"),
    ]
    lines = [f"{name:<20}{value}" for name, value in rows]
    for device, suffix in (("CPU", ""), ("CUDA", "_on_cuda")):
        lines += ["", f"backend of each op on a {device} tensor (asked for: {facts['backend']})"]
        lines += [f"  {op}: {choice}" for op, choice in facts[f"ops{suffix}"].items()]
        lines += _reasons(facts[f"reasons{suffix}"], len(facts["ops"]))
    lines += ["", "environment variables"]
    for name, meaning in _info.ENVIRONMENT.items():
        value = facts["environment"][name]
        lines.append(f"  {name:<20}{'not set' if value is None else value}   ({meaning})")
    return "\n".join(lines)
