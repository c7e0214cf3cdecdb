"""How many threads of a kernel a multiprocessor holds at once, from CUDA's documented limits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Of one multiprocessor: threads, blocks, shared memory in KiB, and that of one block."""

    threads: int
    blocks: int
    shared: int
    shared_block: int
    registers: int = 65536


# CUDA C++ programming guide, "Technical specifications per compute capability"
LIMITS = {
    "sm_75": Limits(1024, 16, 64, 64),
    "sm_80": Limits(2048, 32, 164, 163),
    "sm_86": Limits(1536, 16, 100, 99),
    "sm_89": Limits(1536, 24, 100, 99),
    "sm_90": Limits(2048, 32, 228, 227),
    "sm_100": Limits(2048, 32, 228, 227),
    "sm_120": Limits(1536, 24, 100, 99),
}
_WARP = 32
_REGISTER_UNIT = 256  # a warp's registers are given out in these
_RESERVED = 1024  # bytes of shared memory the system takes of each block


def blocks(architecture: str, threads: int, registers: int, shared: int) -> int:
    """Blocks a multiprocessor holds at once; 0: the kernel cannot be launched."""
    limits = LIMITS[architecture]
    if shared > limits.shared_block * 1024:
        return 0
    warps = -(-threads // _WARP)
    of_a_warp = -(-registers * _WARP // _REGISTER_UNIT) * _REGISTER_UNIT
    # each quarter of the multiprocessor holds whole warps
    by_registers = limits.registers // 4 // of_a_warp * 4 // warps if of_a_warp else limits.blocks
    by_shared = limits.shared * 1024 // (shared + _RESERVED)
    return min(limits.blocks, limits.threads // (warps * _WARP), by_registers, by_shared)


def share(architecture: str, threads: int, registers: int, shared: int) -> float:
    """Occupancy: the share of a multiprocessor's threads that run at once."""
    return blocks(architecture, threads, registers, shared) * threads / LIMITS[architecture].threads
