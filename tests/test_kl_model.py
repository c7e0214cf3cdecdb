"""KL over a model: the sum, the collector that takes it from the forward pass, schedules."""

from __future__ import annotations

import copy
import math
import sys
import threading
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import vdropkern as vdk
from vdropkern import functional as F
from vdropkern import nn as vnn
from vdropkern.kl import KLModule, LinearWarmup, PolynomialWarmup
from vdropkern.methods import ARD, Bernoulli, GaussianW, HierarchicalVD, Method, SparseVD, VariationalB

FREE_ALPHA = HierarchicalVD(parameterisation="log_alpha")
WITH_KL = [SparseVD(), SparseVD(prior="log-uniform-exact"), ARD(), FREE_ALPHA, VariationalB(p=0.3)]
SHARED = [VariationalB(granularity, p=0.3) for granularity in ("layer", "input", "output")]
# torch's own compiler instantiates autograd functions
COMPILES = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def net(*methods: Method) -> torch.nn.Sequential:
    sizes = (6, 8, 5, 4, 3)[: len(methods) + 1]
    model = torch.nn.Sequential()
    for (i, o), method in zip(pairwise(sizes), methods, strict=True):
        model.extend([vnn.Linear(i, o, method=method), torch.nn.ReLU()])
    return model


def grads(model: torch.nn.Module) -> dict[str, Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def assert_same(a: dict[str, Tensor | None], b: dict[str, Tensor | None]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        x, y = a[name], b[name]
        assert (x is None) == (y is None), name
        if x is not None and y is not None:
            torch.testing.assert_close(x, y, msg=lambda m, n=name: f"{n}: {m}")


def test_kl_is_the_sum_of_the_layers() -> None:
    model = net(SparseVD(), ARD(), VariationalB("output", p=0.3), GaussianW())
    expected = F.kl(model[0].weight, model[0].log_sigma2, prior="log-uniform")
    expected = expected + F.kl(model[2].weight, model[2].log_sigma2, prior="ard")
    expected = expected + 5 * F.kl(log_alpha=model[4].log_alpha, prior="log-uniform-kingma")
    assert vdk.kl_divergence(model).item() == pytest.approx(expected.item(), rel=1e-6)


def test_kl_does_not_depend_on_the_batch_or_the_mode() -> None:
    model = net(SparseVD(), ARD())
    before = vdk.kl_divergence(model)
    model(torch.randn(100, 6))
    assert torch.equal(vdk.kl_divergence(model.eval()), before)


def test_model_without_variational_layers_has_kl_zero() -> None:
    for model in (torch.nn.ReLU(), torch.nn.Linear(2, 2), net(Bernoulli())):
        kl = vdk.kl_divergence(model)
        assert kl.shape == () and kl == 0 and kl.dtype == torch.float32
        with vdk.collect_kl(model) as collected:
            pass
        assert collected.total() == 0


def test_a_layer_used_twice_counts_once() -> None:
    shared = vnn.Linear(6, 6)
    model = torch.nn.Sequential(shared, torch.nn.ReLU(), shared)
    assert torch.equal(vdk.kl_divergence(model), shared.kl())
    with vdk.collect_kl(model) as collected:
        model(torch.randn(3, 6))
    total = collected.total()
    torch.testing.assert_close(total, shared.kl())
    total.backward()
    once = shared.log_sigma2.grad.clone()
    shared.zero_grad()
    shared.kl().backward()
    torch.testing.assert_close(once, shared.log_sigma2.grad)


def test_dtype_follows_the_layers() -> None:
    assert vdk.kl_divergence(net(SparseVD()).double()).dtype == torch.float64
    assert vdk.kl_divergence(net(SparseVD()).bfloat16()).dtype == torch.float32
    mixed = net(SparseVD(), ARD())
    mixed[2].double()
    assert vdk.kl_divergence(mixed).dtype == torch.float64


@pytest.mark.parametrize("method", [*WITH_KL, *SHARED], ids=str)
def test_collected_equals_separate_in_value_and_gradient(method: Method, backend: str) -> None:
    model, x = net(method, method), torch.randn(4, 6)
    results = []
    for collect in (True, False):
        model.zero_grad()
        torch.manual_seed(0)
        if collect:
            with vdk.collect_kl(model) as collected:
                y = model(x)
            kl = collected.total()
            assert collected.reported == (0 if method in SHARED else 2)
        else:
            y, kl = model(x), vdk.kl_divergence(model)
        (y.square().sum() + 0.3 * kl).backward()
        results.append((y.detach(), kl.detach(), grads(model)))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])
    assert_same(results[0][2], results[1][2])


def test_total_inside_the_block_and_twice() -> None:
    model = net(SparseVD(), ARD())
    with vdk.collect_kl(model) as collected:
        torch.testing.assert_close(collected.total(), vdk.kl_divergence(model))  # before any pass
        model(torch.randn(2, 6))
        assert torch.equal(collected.total(), collected.total())
    torch.testing.assert_close(collected.total(), vdk.kl_divergence(model))


def test_layers_that_did_not_run_are_asked() -> None:
    model = net(SparseVD(), ARD())
    with vdk.collect_kl(model) as collected:
        model[0](torch.randn(2, 6))
    assert collected.reported == 1
    torch.testing.assert_close(collected.total(), vdk.kl_divergence(model))


@pytest.mark.parametrize("why", ["no_grad", "eval", "autocast"])
def test_passes_that_cannot_deliver_a_gradient_do_not_report(why: str) -> None:
    model = net(SparseVD()).train(why != "eval")
    with vdk.collect_kl(model) as collected:
        if why == "no_grad":
            with torch.no_grad():
                model(torch.randn(2, 6))
        else:
            with torch.autocast("cpu", torch.bfloat16, enabled=why == "autocast"):
                model(torch.randn(2, 6))
    assert collected.reported == 0
    total = collected.total()
    assert torch.equal(total, vdk.kl_divergence(model)) and total.requires_grad


def test_blocks_nest_and_end() -> None:
    model = net(SparseVD(), ARD())
    with vdk.collect_kl(model) as outer, vdk.collect_kl(model[0]) as inner:
        model(torch.randn(2, 6))
    assert (outer.reported, inner.reported) == (2, 1)
    assert torch.equal(inner.total(), model[0].kl())
    with pytest.raises(RuntimeError), vdk.collect_kl(model) as third:
        raise RuntimeError
    model(torch.randn(2, 6))
    assert third.reported == 0 and all("_collectors" not in m.__dict__ for m in model.modules())


def test_the_last_of_several_passes_counts() -> None:
    model, x = net(SparseVD()), torch.randn(2, 6)
    with vdk.collect_kl(model) as collected:
        (first := model(x)).sum().backward()
        second = model(x)
    model.zero_grad()
    (second.sum() + collected.total()).backward()
    assert first.grad_fn is not second.grad_fn
    assert model[0].log_sigma2.grad.isfinite().all()


def test_another_thread_does_not_report() -> None:
    model = net(SparseVD())
    with vdk.collect_kl(model) as collected:
        thread = threading.Thread(target=lambda: model(torch.randn(2, 6)))
        thread.start()
        thread.join()
        assert collected.reported == 0
        model(torch.randn(2, 6))
        assert collected.reported == 1


def test_blocks_of_many_threads_over_one_model() -> None:
    model = torch.nn.Sequential(*[vnn.Linear(2, 2) for _ in range(20)])
    failed: list[str] = []

    def collect() -> None:
        try:
            for _ in range(100):
                with vdk.collect_kl(model) as collected:
                    if any(collected not in layer._collectors for layer in model):
                        failed.append("a collector is lost")
        except KeyError as err:
            failed.append(repr(err))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=collect) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failed and not any(layer._collectors for layer in model)


@COMPILES
@pytest.mark.parametrize("method", [SparseVD(), FREE_ALPHA, VariationalB("output")], ids=str)
def test_collecting_under_compile(method: Method) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    model, x = net(method, method), torch.randn(4, 6)
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for _ in range(3):  # a new collector each time must not compile anew
        results = []
        for run in (model, compiled):
            model.zero_grad()
            torch.manual_seed(0)
            with vdk.collect_kl(run) as collected:
                y = run(x)
            assert collected.reported == (2 if method.scale.granularity == "weight" else 0)
            (y.square().sum() + collected.total()).backward()
            results.append(grads(model))
        assert_same(*results)
    assert counter.frame_count == 1
    assert compiled(x).shape == (4, 5)  # without a collector: another graph, no report
    assert collected.reported == (2 if method.scale.granularity == "weight" else 0)


def test_frozen_layers_still_count() -> None:
    model = net(SparseVD(), ARD())
    model[0].requires_grad_(False)
    with vdk.collect_kl(model) as collected:
        y = model(torch.randn(2, 6))
    (y.sum() + collected.total()).backward()
    torch.testing.assert_close(collected.total(), vdk.kl_divergence(model))
    assert model[0].log_sigma2.grad is None and model[2].log_sigma2.grad is not None


def test_own_modules_can_take_part() -> None:
    class Scale(KLModule):
        def __init__(self) -> None:
            super().__init__()
            self.log_alpha = torch.nn.Parameter(torch.tensor(-1.0))

        def kl(self) -> Tensor:
            return F.kl(log_alpha=self.log_alpha, prior="ard")

    model = torch.nn.Sequential(net(SparseVD()), Scale())
    torch.testing.assert_close(vdk.kl_divergence(model), model[0][0].kl() + 0.5 * math.log1p(math.e))
    with pytest.raises(NotImplementedError, match="KLModule must define kl"):
        vdk.kl_divergence(KLModule())


def test_copy_of_a_model_under_collection_is_free_of_it() -> None:
    model = net(SparseVD())
    with vdk.collect_kl(model) as collected:
        copy.deepcopy(model)(torch.randn(2, 6))
    assert collected.reported == 0


def test_training_lowers_the_kl_and_prunes() -> None:
    # y depends on one input of ten, and what is left of it on none; nine weights have to go
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 10, generator=generator)
    noise = torch.randn(200, 1, generator=generator)
    y = 3 * x[:, :1] + noise - x @ torch.linalg.lstsq(x, noise).solution
    model = vnn.Linear(10, 1, method=SparseVD(init_log_sigma2=-5))
    optimizer = torch.optim.Adam(vdk.parameter_groups(model, lr=0.01, noise_lr=0.05))
    vdk.attach_projection(optimizer, model)
    beta = LinearWarmup(0, 50)
    for epoch in range(600):
        optimizer.zero_grad()
        with vdk.collect_kl(model) as kl:
            nll = 0.5 * (model(x) - y).square().mean()
        (nll + beta(epoch) * kl.total() / len(x)).backward()
        optimizer.step()
    assert model.keep_mask().tolist() == [[True] + [False] * 9]
    assert model.eval()(x).sub(y).square().mean() < 1.2


def test_warmups() -> None:
    beta = LinearWarmup(5, 20)  # Molchanov et al.: 0 up to epoch 5, (epoch - 5) / 15 up to 20
    assert [beta(e) for e in (0, 5, 8, 12.5, 20, 200)] == pytest.approx([0, 0, 0.2, 0.5, 1, 1])
    cubic = PolynomialWarmup(0, 10, final=2.0)
    assert [cubic(e) for e in (-1, 0, 5, 10, 11)] == pytest.approx([0, 0, 0.25, 2, 2])
    assert LinearWarmup(0, 1) == LinearWarmup(0, 1.0) != LinearWarmup(0, 2)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((5, 5), "start must lie before end"),
        ((0, 1, -1.0), "final must be >= 0"),
        ((0, 1, 1.0, 0.0), "power"),
    ],
)
def test_warmups_refuse(arguments: tuple[float, ...], words: str) -> None:
    with pytest.raises(ValueError, match=f"PolynomialWarmup: .*{words}"):
        PolynomialWarmup(*arguments)
