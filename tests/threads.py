"""Torch's number of threads, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def with_threads(count: int) -> Iterator[None]:
    """So many threads within the block, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def same_on_any_threads(run: Callable[[], Tensor], counts: tuple[int, ...] = (1, 2, 3)) -> bool:
    """Whether the result is the same to the bit on each of these numbers of threads."""
    results = []
    for count in counts:
        with with_threads(count):
            results.append(run())
    return all(torch.equal(y, results[0]) for y in results)
