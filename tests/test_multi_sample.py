"""nn.MultiSampleHead: the op in training, plain logits in eval, and the blog's variant."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as TF
from torch import Tensor

from vdropkern import functional as F
from vdropkern import nn as vnn
from vdropkern.methods import MultiSampleDropout


def problem() -> tuple[Tensor, Tensor]:
    return torch.randn(9, 12), torch.randint(5, (9,))


@pytest.mark.parametrize("samples", [1, 8])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_training_loss_is_the_op(samples: int, reduction: str) -> None:
    h, target = problem()
    head = vnn.MultiSampleHead(12, 5, samples=samples, p=0.3, reduction=reduction, label_smoothing=0.1)
    torch.manual_seed(3)
    loss = head(h, target)
    torch.manual_seed(3)
    expected = F.multi_sample_head(
        h, head.weight, head.bias, target, samples, 0.3, reduction=reduction, label_smoothing=0.1
    )
    assert torch.equal(loss, expected)


@pytest.mark.parametrize("samples", [0, 1, 8])
def test_eval_is_one_pass_without_noise(samples: int) -> None:
    h, target = problem()
    head = vnn.MultiSampleHead(12, 5, samples=samples, class_weight=torch.linspace(1, 2, 5)).eval()
    logits = TF.linear(h, head.weight, head.bias)
    assert torch.equal(head(h), logits)
    torch.testing.assert_close(head(h, target), TF.cross_entropy(logits, target, torch.linspace(1, 2, 5)))


def test_no_samples_is_no_dropout() -> None:
    h, target = problem()
    head = vnn.MultiSampleHead(12, 5, samples=0)
    logits = TF.linear(h, head.weight, head.bias)
    assert torch.equal(head(h), logits)
    torch.testing.assert_close(head(h, target), TF.cross_entropy(logits, target))


def test_training_logits_are_the_mean_of_the_passes() -> None:
    h, _ = problem()
    head = vnn.MultiSampleHead(12, 5, samples=3)
    torch.manual_seed(1)
    logits = head(h)
    torch.manual_seed(1)
    passes = [TF.linear(F.mul_noise(h, 0.5), head.weight, head.bias) for _ in range(3)]
    torch.testing.assert_close(logits, torch.stack(passes).mean(0))


def test_as_in_blog_takes_features_for_logits() -> None:
    """Its other samples never reach the layer, so the layer's gradient is 1/M of one pass's."""
    h, target = problem()
    head = vnn.MultiSampleHead(12, 5, samples=4, variant="as-in-blog")
    torch.manual_seed(2)
    loss = head(h, target)
    torch.manual_seed(2)
    dropped = [F.mul_noise(h, 0.5) for _ in range(4)]
    first = TF.cross_entropy(TF.linear(dropped[0], head.weight, head.bias), target)
    expected = (first + sum(TF.cross_entropy(d, target) for d in dropped[1:])) / 4
    torch.testing.assert_close(loss, expected)
    (d,) = torch.autograd.grad(loss, head.weight, retain_graph=True)
    torch.testing.assert_close(d, torch.autograd.grad(first, head.weight)[0] / 4)


def test_it_learns() -> None:
    """A separable problem, with the trunk below getting its gradient."""
    x = torch.randn(64, 6)
    target = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
    trunk, head = torch.nn.Linear(6, 32), vnn.MultiSampleHead(32, 4, samples=8)
    optimizer = torch.optim.Adam([*trunk.parameters(), *head.parameters()], lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        head(trunk(x).relu(), target).backward()
        optimizer.step()
    head.eval()
    assert (head(trunk(x).relu()).argmax(1) == target).double().mean() > 0.9


def test_copies_and_state() -> None:
    h, _ = problem()
    head = vnn.MultiSampleHead(12, 5, samples=2, variant="as-in-blog").eval()
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert torch.equal(twin(h), head(h))
        assert repr(twin) == repr(head)
    dense = torch.nn.Linear(12, 5)
    dense.load_state_dict(head.state_dict())
    assert torch.equal(dense(h), head(h))


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"samples": -1}, "samples must be an int >= 0, got -1"),
        ({"p": 1.0}, r"p must be in \[0, 1\), got 1.0"),
        ({"variant": "blog"}, "variant must be one of 'correct', 'as-in-blog', got 'blog'"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        vnn.MultiSampleHead(4, 3, **arguments)  # type: ignore[arg-type]


def test_the_method_averages_a_layers_passes() -> None:
    """Variance of the mean of M dropped inputs: p / (1 - p) / M."""
    layer = vnn.Linear(1, 1, bias=False, method=MultiSampleDropout(samples=4, p=0.5))
    with torch.no_grad():
        layer.weight.fill_(1.0)
    y = layer(torch.ones(20000, 1)).detach()
    assert abs(y.mean() - 1) < 0.02
    assert abs(y.var() - 0.25) < 0.02
    with pytest.raises(ValueError, match="samples must be a number in"):
        MultiSampleDropout(samples=0)


@pytest.mark.parametrize("options", [{}, {"samples": 0}, {"variant": "as-in-blog"}], ids=str)
def test_features_of_one_example(options: dict[str, object]) -> None:
    head = vnn.MultiSampleHead(6, 6, **options)
    h, target = torch.randn(6), torch.tensor(2)
    assert head(h, target).shape == () and head(h).shape == (6,)
    head.eval()
    torch.testing.assert_close(head(h, target), TF.cross_entropy(head(h), target))
    head.reduction = "none"
    assert head(h, target).shape == head.train()(h, target).shape == ()


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradients_by_example_under_vmap(reduction: str) -> None:
    head = vnn.MultiSampleHead(6, 3, reduction=reduction)
    parameters, h, target = dict(head.named_parameters()), torch.randn(5, 6), torch.randint(3, (5,))

    def loss(parameters: dict[str, Tensor], one: Tensor, its: Tensor) -> Tensor:
        value: Tensor = torch.func.functional_call(head, parameters, (one[None], its[None]))
        return value.sum()

    torch.manual_seed(3)
    found = torch.vmap(torch.func.grad(loss), (None, 0, 0), randomness="same")(parameters, h, target)
    for i in range(5):
        torch.manual_seed(3)
        expected = torch.autograd.grad(loss(parameters, h[i], target[i]), list(parameters.values()))
        for name, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(found[name][i], gradient)
