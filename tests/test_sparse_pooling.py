"""Max pooling, with ReLUs around it, in a SparseSequential: the same as its modules one by one."""

from __future__ import annotations

import copy

import pytest
import torch

from vdropkern.sparse import SparseSequential
from vdropkern.sparse.steps import Step


def steps(model: SparseSequential) -> list[Step]:
    assert model._plan is not None
    return model._plan.steps


POOLS = [
    torch.nn.MaxPool2d(2),
    torch.nn.MaxPool2d((2, 3)),
    torch.nn.MaxPool2d(4),
    torch.nn.MaxPool2d(3, 2),
    torch.nn.MaxPool2d(2, padding=1),
    torch.nn.MaxPool2d(2, ceil_mode=True),
    torch.nn.MaxPool2d(2, 2, dilation=2),
]


@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize(
    "shape", [(2, 3, 8, 12), (1, 5, 9, 7), (3, 11, 10), (0, 3, 8, 8), (4, 1, 4, 4)], ids=str
)
def test_max_pooling(pool: torch.nn.MaxPool2d, shape: tuple[int, ...], backend: str) -> None:
    x = torch.randn(shape)
    x.flatten()[::7] = float("nan")
    x.flatten()[3::5] = float("inf")
    model = SparseSequential(pool).eval()
    with torch.no_grad():
        for given in (x, x.repeat(*(1,) * (x.ndim - 1), 2)[..., ::2], x.transpose(-1, -2)):
            if given.shape[-1] < 4 or given.shape[-2] < 4:
                continue
            torch.testing.assert_close(model(given), pool(given), rtol=0, atol=0, equal_nan=True)


def test_max_pooling_of_too_small_an_image(backend: str) -> None:
    model = SparseSequential(torch.nn.MaxPool2d(4)).eval()
    with torch.no_grad(), pytest.raises(RuntimeError, match="too small"):
        model(torch.randn(1, 2, 3, 8))


def test_max_pooling_keeps_hooks_and_channels_last(backend: str) -> None:
    model = SparseSequential(torch.nn.MaxPool2d(2)).eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        last = x.contiguous(memory_format=torch.channels_last)
        assert model(last).is_contiguous(memory_format=torch.channels_last)
        model[0].register_forward_hook(lambda module, inputs, output: output + 1)
        assert torch.equal(model(x), torch.nn.functional.max_pool2d(x, 2) + 1)


def relu_pools(inplace: bool) -> list[tuple[list[torch.nn.Module], list[int]]]:
    """Modules around a ReLU and a pooling, and how many of them each step takes."""
    relu, pool = torch.nn.ReLU(inplace), torch.nn.MaxPool2d(3, 2, 1)
    return [
        ([pool, relu], [2]),
        ([relu, pool], [1, 1] if inplace else [2]),  # the caller's input would stay as it was
        ([torch.nn.Conv2d(3, 3, 1), relu, pool], [1, 2]),
        ([torch.nn.BatchNorm2d(3), relu, pool], [1, 1, 1] if inplace else [1, 2]),
        ([pool, torch.nn.Dropout(), relu, torch.nn.Flatten()], [1, 1, 1, 1]),
        ([relu, torch.nn.MaxPool2d(2, 2, 1, 2)], [1, 1]),  # windows without inputs
        ([relu, torch.nn.MaxPool2d(2, return_indices=True)], [1, 1]),
    ]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("which", range(len(relu_pools(False))))
def test_relu_and_pooling(which: int, inplace: bool, backend: str) -> None:
    modules, taken = relu_pools(inplace)[which]
    model = SparseSequential(*copy.deepcopy(modules)).eval()
    x = torch.randn(2, 3, 9, 11)
    x.flatten()[::17], x.flatten()[::19] = float("nan"), -float("inf")
    with torch.no_grad():
        ours, theirs = x.clone(), x.clone()
        y, expected = model(ours), torch.nn.Sequential(*modules).eval()(theirs)
        torch.testing.assert_close(y, expected, equal_nan=True)
        torch.testing.assert_close(ours, theirs, equal_nan=True)
    if backend != "reference":
        assert [len(step.modules) for step in steps(model)] == taken


def test_changes_of_pooling_are_seen(backend: str) -> None:
    model, x = SparseSequential(torch.nn.ReLU(), torch.nn.MaxPool2d(2)).eval(), torch.randn(1, 2, 8, 8)
    pool, seen = torch.nn.functional.max_pool2d, []
    with torch.no_grad():
        assert torch.equal(model(x), pool(x.relu(), 2))
        handle = model[0].register_forward_hook(lambda module, inputs, output: output + 1)
        assert torch.equal(model(x), pool(x.relu() + 1, 2))
        handle.remove()
        assert torch.equal(model(x), pool(x.relu(), 2))
        model[1].kernel_size = (3, 1)
        assert torch.equal(model(x), pool(x.relu(), (3, 1), 2))
        assert backend == "reference" or len(steps(model)) == 1
        every = torch.nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(type(m)))
        try:
            model(x)
        finally:
            every.remove()
    assert seen == [torch.nn.ReLU, torch.nn.MaxPool2d, SparseSequential]
