"""Sparse nets in eval mode with gradients on: what no_grad gives, and the gradients of training."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vdropkern import _backend
from vdropkern.sparse import SparseConv2d, SparseLinear, SparseSequential

needs_kernels = pytest.mark.skipif(not _backend.cpu_isas(), reason="nothing is packed without kernels")


def conv(inp: int, out: int) -> SparseConv2d:
    dense = nn.Conv2d(inp, out, 3, padding=1)
    with torch.no_grad():
        dense.weight.mul_(torch.rand_like(dense.weight) < 0.3)
    return SparseConv2d.from_dense(dense)


def linear(inp: int, out: int) -> SparseLinear:
    return SparseLinear.from_dense(torch.randn(out, inp) * (torch.rand(out, inp) < 0.3), torch.randn(out))


def chain() -> tuple[nn.Module, Tensor]:
    net = SparseSequential(linear(9, 7), nn.ReLU(), nn.Dropout(), linear(7, 8), nn.Tanh(), linear(8, 3))
    return net, torch.randn(4, 9)


def images() -> tuple[nn.Module, Tensor]:
    first = (conv(3, 5), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(5), nn.MaxPool2d(2))
    net = SparseSequential(*first, conv(5, 6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), linear(24, 4))
    return net, torch.randn(2, 3, 16, 16)


NETS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "linear": lambda: (linear(9, 7), torch.randn(4, 9)),
    "conv": lambda: (conv(3, 5), torch.randn(2, 3, 6, 7)),
    "chain": chain,
    "images": images,
}
every_net = pytest.mark.parametrize("name", NETS)


def made(name: str) -> tuple[nn.Module, Tensor]:
    net, x = NETS[name]()
    return net.eval(), x


def names_in_graph(y: Tensor) -> set[str]:
    found, todo = set(), [y.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None:
            found.add(node.name())
            todo += [before for before, _ in node.next_functions]
    return found


def ran_ahead(y: Tensor) -> bool:
    return "_AheadBackward" in names_in_graph(y)


def gradients(net: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    x = x.clone().requires_grad_()
    net.zero_grad()
    y = net(x)
    y.square().sum().backward()
    return y.detach(), [x.grad, *(p.grad for p in net.parameters())]


def as_trained(net: nn.Module) -> nn.Module:
    """Where every layer runs as in training."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, (SparseLinear, SparseConv2d)):
            module.differentiated = True
    return nn.Sequential(*net) if isinstance(net, SparseSequential) else net


@every_net
def test_the_result_is_that_without_gradients(name: str) -> None:
    net, x = made(name)
    with torch.no_grad():
        expected = net(x)
    for _ in range(2):
        y = net(x)
        assert y.requires_grad and torch.equal(y, expected)
        assert ran_ahead(y) or not _backend.cpu_isas()


@every_net
def test_gradients_are_those_of_training(name: str) -> None:
    net, x = made(name)
    truth, expected = gradients(as_trained(net), x)
    for _ in range(2):
        y, found = gradients(net, x)
        torch.testing.assert_close(y, truth)
        torch.testing.assert_close(found, expected)
        assert not ran_ahead(net(x))  # once is enough to know


@every_net
def test_some_gradients_alone(name: str) -> None:
    net, x = made(name)
    some = [p for i, p in enumerate(net.parameters()) if i % 2]
    for p in net.parameters():
        p.requires_grad_(any(p is q for q in some))
    twin = as_trained(net)
    for model in (net, twin):
        model(x).square().sum().backward()
    torch.testing.assert_close([p.grad for p in net.parameters()], [p.grad for p in twin.parameters()])


@every_net
def test_frozen_nets_need_no_graph(name: str) -> None:
    net, x = made(name)
    net.requires_grad_(False)
    with torch.no_grad():
        expected = net(x)
    y = net(x)
    assert not y.requires_grad and torch.equal(y, expected)
    given = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(net(given).sum(), given)
    again = x.clone().requires_grad_()
    (truth,) = torch.autograd.grad(as_trained(net)(again).sum(), again)
    torch.testing.assert_close(found, truth)


@needs_kernels
@every_net
def test_parameters_changed_before_backward_are_an_error(name: str) -> None:
    net, x = made(name)
    y = net(x)
    with torch.no_grad():
        next(net.parameters()).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    net, x = made(name)
    y = net(x)
    layer = next(m for m in net.modules() if isinstance(m, (SparseLinear, SparseConv2d)))
    layer.values = nn.Parameter(layer.values.detach() * 2)
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        y.sum().backward()


@every_net
def test_parameters_given_by_functional_call(name: str) -> None:
    net, x = made(name)
    doubled = {n: p.detach().double().float().requires_grad_() for n, p in net.named_parameters()}
    scaled = {n: p * 2 for n, p in doubled.items()}
    torch.func.functional_call(net, scaled, (x,)).square().sum().backward()
    twin = as_trained(net)
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(2)
    twin(x).square().sum().backward()
    expected = [None if p.grad is None else 2 * p.grad for p in twin.parameters()]
    torch.testing.assert_close([p.grad for p in doubled.values()], expected)


@every_net
@pytest.mark.parametrize("fused", [False, True])
def test_fine_tuning_in_eval_mode(name: str, fused: bool) -> None:
    net, x = made(name)
    twin = as_trained(net)
    for model in (net, twin):
        optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=fused)
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(net(x), twin(x))
    torch.testing.assert_close(net(x), twin(x))


@needs_kernels
@every_net
def test_second_gradients_are_refused(name: str) -> None:
    net, x = made(name)
    x.requires_grad_()
    (grad,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|cannot be differentiated"):
        grad.sum().backward()


@every_net
def test_copies_and_pickles(name: str) -> None:
    net, x = made(name)
    gradients(net, x)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(gradients(twin, x), gradients(net, x))


def test_shared_parameters_get_their_gradient_once() -> None:
    same = conv(3, 3)
    net = SparseSequential(same, nn.ReLU(), nn.MaxPool2d(2), same, nn.Flatten(), linear(48, 7), linear(7, 7))
    net.append(linear(7, 7)).eval()
    net[7].bias = net[6].bias
    x = torch.randn(2, 3, 8, 8)
    truth, expected = gradients(as_trained(net), x)
    for _ in range(2):
        y, found = gradients(net, x)
        torch.testing.assert_close(y, truth)
        torch.testing.assert_close(found, expected)


@every_net
def test_hooks_of_parameters_run_once(name: str) -> None:
    net, x = made(name)
    _, expected = gradients(as_trained(net), x)
    for p in net.parameters():
        p.register_hook(lambda grad: 2 * grad)
    _, found = gradients(net, x)
    torch.testing.assert_close(found, [expected[0], *(2 * g for g in expected[1:] if g is not None)])


@every_net
def test_hooks_of_modules_run_once(name: str) -> None:
    net, x = made(name)
    seen: list[nn.Module] = []
    hooked = [m for m in net.modules() if isinstance(m, (SparseLinear, SparseConv2d, nn.ReLU))]
    for module in hooked:
        module.register_full_backward_hook(lambda module, *grads: seen.append(module))
    gradients(net, x)
    assert len(seen) == len(hooked) and set(seen) == set(hooked)


def test_training_mode_has_a_graph_of_its_own() -> None:
    net, x = made("chain")
    assert not ran_ahead(net.train()(x))
