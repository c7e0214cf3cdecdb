"""Memory of one call: bytes autograd keeps between forward and backward, and the peak of the allocator."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from .step import Step


def saved_bytes(step: Step) -> int:
    """Bytes saved for backward beyond the parameters and what the caller holds anyway (x and g).

    Every storage counts once, however many nodes save it.
    """
    held = {t.untyped_storage().data_ptr() for t in (*step.parameters, step.x, step.g)}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step.loss()
    total = sum(saved.values())
    loss.backward()
    step.clear()
    return total


def peak_bytes(run: Callable[[], object]) -> int:
    """Most bytes torch's CPU allocator held at once during a call, beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        run()
    results = profiler.profiler.kineto_results if profiler.profiler is not None else None
    if results is None:
        raise RuntimeError("torch.profiler gave no results")
    events = sorted((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    held = peak = 0
    for _, size in events:
        held += size
        peak = max(peak, held)
    return peak
