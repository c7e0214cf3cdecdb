"""What kernels must get along with on a GPU: graphs, checkpointing, compilation, streams, little memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import vdropkern as vdk
from vdropkern import functional

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]

BATCH, IN, OUT = 65, 132, 259


@pytest.fixture
def parameters(device: torch.device) -> dict[str, Tensor]:
    """x, mu, log_sigma2 and bias, each asking for its gradient."""
    made = {
        "x": torch.randn(BATCH, IN),
        "mu": torch.randn(OUT, IN) * 0.05,
        "log_sigma2": torch.rand(OUT, IN) * 8 - 10,
        "bias": torch.randn(OUT),
    }
    return {k: t.to(device).requires_grad_() for k, t in made.items()}


def gradients(parameters: dict[str, Tensor], y: Tensor, kl: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(y.square().sum() + kl, list(parameters.values()))


def test_nothing_waits_for_the_gpu(
    parameters: dict[str, Tensor], device: torch.device, kernels: str, only_on_gpu: None
) -> None:
    gradients(parameters, *functional.linear_lrt_kl(**parameters))  # what runs once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        gradients(parameters, *functional.linear_lrt_kl(**parameters))
        noise = functional.philox_normal(torch.zeros((), dtype=torch.int64, device=device), 33, 5)
        with pytest.raises(RuntimeError, match="synchroniz"):  # what waits is noticed
            noise[0, 0].item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_graph_capture(
    parameters: dict[str, Tensor], device: torch.device, kernels: str, only_on_gpu: None
) -> None:
    """A captured step gives what an eager one does, with the noise of the seed it finds on the device."""
    seed = torch.tensor(1, device=device)

    def step() -> tuple[Tensor, ...]:
        y, kl = functional.linear_lrt_kl(**parameters, seed=seed)
        return y, kl, *gradients(parameters, y, kl)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    found = []
    for value in (5, 6):
        seed.fill_(value)
        graph.replay()
        found.append([t.clone() for t in captured])
        assert all(torch.equal(a, b) for a, b in zip(found[-1], step(), strict=True))
    assert not torch.equal(found[0][0], found[1][0])


def test_graph_capture_draws_new_seeds(
    parameters: dict[str, Tensor], kernels: str, only_on_gpu: None
) -> None:
    """Without a seed, torch's generator gives a new one at every replay."""
    functional.linear_lrt(**parameters)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        y = functional.linear_lrt(**parameters)
    graph.replay()
    first = y.clone()
    graph.replay()
    assert not torch.equal(first, y)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(parameters: dict[str, Tensor], use_reentrant: bool, kernels: str) -> None:
    """The forward pass that is run again draws the same seed, so the same noise."""

    def layer(x: Tensor) -> tuple[Tensor, Tensor]:
        return functional.linear_lrt_kl(x, *(parameters[k] for k in ("mu", "log_sigma2", "bias")))

    found = []
    for run in (layer, lambda x: checkpoint(layer, x, use_reentrant=use_reentrant)):
        for t in parameters.values():
            t.grad = None
        torch.manual_seed(3)
        y, kl = run(parameters["x"])
        (y.square().sum() + kl).backward()
        found.append([y.detach(), kl.detach(), *(t.grad for t in parameters.values())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compile(parameters: dict[str, Tensor], device: torch.device, compiler: str, kernels: str) -> None:
    """One graph, whatever the batch, and the numbers of eager mode."""
    torch._dynamo.reset()
    run: Callable[..., tuple[Tensor, Tensor]] = torch.compile(
        functional.linear_lrt_kl, fullgraph=True, dynamic=True, backend=compiler
    )
    seed = torch.tensor(3, device=device)
    for batch in (7, 33):
        x = torch.randn(batch, IN, device=device, requires_grad=True)
        here = {**parameters, "x": x}
        found, expected = run(**here, seed=seed), functional.linear_lrt_kl(**here, seed=seed)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradients(here, *found), gradients(here, *expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(
    parameters: dict[str, Tensor], dtype: torch.dtype, device: torch.device, kernels: str
) -> None:
    with torch.autocast(device.type, dtype=dtype):
        y, kl = functional.linear_lrt_kl(**parameters, seed=4)
    assert y.dtype == dtype and kl.dtype == torch.float32
    for name, t in zip(parameters, gradients(parameters, y.float(), kl), strict=True):
        assert t.dtype == torch.float32 and torch.isfinite(t).all(), name


def test_other_streams(
    parameters: dict[str, Tensor], device: torch.device, kernels: str, only_on_gpu: None
) -> None:
    """Kernels run on the current stream: what is queued there before them is done before them."""
    expected = functional.linear_lrt(**parameters, seed=2)
    x = torch.zeros_like(parameters["x"])
    seed = torch.tensor(2, device=device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        x.copy_(parameters["x"].detach())
        y = functional.linear_lrt(**{**parameters, "x": x}, seed=seed)
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(y, expected)


def test_second_gpu(parameters: dict[str, Tensor], kernels: str, only_on_gpu: None) -> None:
    """Tensors on a GPU that is not the current one."""
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    other = {k: t.detach().to("cuda:1").requires_grad_() for k, t in parameters.items()}
    found, expected = (
        functional.linear_lrt_kl(**other, seed=9),
        functional.linear_lrt_kl(**parameters, seed=9),
    )
    assert found[0].device.index == 1 and torch.cuda.current_device() == 0
    torch.testing.assert_close(found[0].cpu(), expected[0].cpu())


def test_training_layer(device: torch.device, kernels: str) -> None:
    """The layer, its KL and an optimizer: the loss falls."""
    net = vdk.nn.Linear(IN, OUT, device=device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    x, target = torch.randn(BATCH, IN, device=device), torch.randn(BATCH, OUT, device=device)
    losses = []
    for _ in range(10):
        with vdk.collect_kl(net) as kl:
            loss = (net(x) - target).square().mean()
        optimizer.zero_grad()
        (loss + 1e-6 * kl.total()).backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_peak_memory(device: torch.device, kernels: str, only_on_gpu: None) -> None:
    """A step allocates results, gradients, std and the noise's gradient; no sigma^2, no x^2.

    Weights 4096 x 4096 and a small batch: anything of the weights' shape beyond the two gradients would show.
    """
    weights, batch = 4096, 64
    mu = torch.randn(weights, weights, device=device, requires_grad=True)
    log_sigma2 = torch.full_like(mu, -8, requires_grad=True)
    x = torch.randn(batch, weights, device=device, requires_grad=True)

    def step() -> None:
        y, kl = functional.linear_lrt_kl(x, mu, log_sigma2, seed=1)
        torch.autograd.grad(y.sum() + kl, (x, mu, log_sigma2))

    step()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    results = 4 * (2 * weights * weights + 8 * batch * weights)
    split = 4 * 2 * batch * weights * 64  # partial sums of products whose reduction is cut into parts
    assert peak < 1.1 * (results + split), f"{peak / 2**20:.0f} MiB"
