"""Kernels with known mistakes: the emulator must notice each one, and nothing in the same kernels without.

`tests/emulator/run.py` does the same under the sanitizers, which see more; here the emulator stands alone.
"""

from __future__ import annotations

import pytest

from . import emulated

gpu = emulated()
SCHEDULES = range(6)
# what only the thread sanitizer sees, the first with blocks unordered
BEYOND = {"lost atomic, uncounted", "plain count"}
RIGHT = {"product", "sum", "gather", "select", "masked", "rows", "patches"}
TOLD = {
    "wait one group too late": "cp.async in flight",
    "shared memory a row short": "not inside of shared memory",
    "row bound missing": "out of bounds",
    # what lies past the end may be another array
    "store bound missing": "out of bounds|which is an input",
    "ldmatrix of the wrong row": "not inside of shared memory",
    "ldmatrix by half a warp": "lanes of one mask are in different places",
    "copy misaligned": "misaligned|out of bounds",
    "copy left in flight": "cp.async in flight",
    "divergent barrier": "divergent __syncthreads",
    "exit before barrier": "takes no part|this one has ended",
    "divergent shuffle": "never come",
    "shuffle outside mask": "takes no part",
    "lost atomic": "but block .* wrote it",
    "shared index off by one": "past the end of 'of_warp'",
    "load bound missing": "out of bounds",
    # what is read for a column is poison
    "no sync before read": "out of bounds",
    "sync of another part": "not in its own mask",
    "stage a column short": "past the end of 'staged'",
    "row of zeros missing": "out of bounds",
    "masked tile a line short": "past the end of 'tile'",
    "tail of a row summed": "out of bounds",
    "ragged rows in whole groups": "misaligned",
    "parts of a row overlap": "but block .* wrote it",
    "edge of the image missing": "out of bounds",
    "too many threads": "at most 1024",
    "too much shared memory": "at most 232448",
}
SHOWN_BY_VALUES = {
    "no barrier after wait",
    "no barrier at loop end",
    "no barrier before read",
    "no sync before write",
    "no barrier before count",
    "no barrier after count",
    "one buffer of sums",
    "others' chunks converted",
    "no wait before conversion",
    "no barrier after conversion",
    "zeros beside the image missing",
    "copies read before they landed",
    # under every schedule
    "scale of a row not shared",
    "parts of sums mixed up",
    "sample's word not turned",
    "mask of the step before",
}


def test_every_mutant_is_listed() -> None:
    assert set(gpu.mutants()) == RIGHT | BEYOND | SHOWN_BY_VALUES | TOLD.keys()


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_right_kernels_pass(name: str) -> None:
    for seed in SCHEDULES:
        gpu.configure(seed)
        assert gpu.run_mutant(name) == 0


@pytest.mark.parametrize("name", TOLD)
def test_mistake_is_named(name: str) -> None:
    gpu.configure(0)
    with pytest.raises(RuntimeError, match=TOLD[name]):
        gpu.run_mutant(name)
    assert gpu.run_mutant("sum") == 0, "the launch after a failed one starts from nothing"


@pytest.mark.parametrize("name", sorted(SHOWN_BY_VALUES))
def test_mistake_changes_values(name: str) -> None:
    """Under most schedules; no single one has to show a race."""

    def error(seed: int) -> float:
        gpu.configure(seed)
        return float(gpu.run_mutant(name))

    assert sum(error(seed) != 0 for seed in SCHEDULES) >= 2
