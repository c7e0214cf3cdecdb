"""nn.Linear and the ways of torch: files, copies, compilers, dtypes, replicas, transforms."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import vdropkern as vdk
from vdropkern import nn as vnn
from vdropkern.methods import (
    ConcreteDropout,
    GaussianW,
    L0HardConcrete,
    Method,
    Smallify,
    SparseVD,
    VariationalA,
)

from .layer_cases import ALL, FREE_ALPHA, LEARNED, NOISY, each, layer, net


@each(ALL)
def test_state_dict_round_trip(method: Method) -> None:
    a, b = (
        net(method),
        torch.nn.Sequential(
            vnn.Linear(6, 8, method=method), torch.nn.ReLU(), vnn.Linear(8, 3, method=method)
        ),
    )
    names = {"weight", "bias"} | ({method.scale.name} if method in LEARNED else set())
    assert set(a[0].state_dict()) == names
    buffer = io.BytesIO()
    torch.save(a.state_dict(), buffer)
    buffer.seek(0)
    b.load_state_dict(torch.load(buffer))
    x = torch.randn(4, 6)
    assert torch.equal(a.eval()(x), b.eval()(x))
    c = copy.deepcopy(b)
    c.load_state_dict(a.state_dict(), assign=True)
    assert torch.equal(c(x), a(x))


@each(ALL)
@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
def test_copies(method: Method, clone: Callable[[torch.nn.Module], torch.nn.Module]) -> None:
    model = net(method)
    with vdk.collect_kl(model):
        twin = clone(model)  # does not take part
        assert twin[0]._collectors == ()
        assert model[0]._collectors != ()
    x = torch.randn(4, 6)
    torch.manual_seed(0)
    y = model(x)
    torch.manual_seed(0)
    assert torch.equal(y, twin(x))
    assert twin[0].method == method


@each(ALL)
def test_export_holds_only_aten(method: Method) -> None:
    model = net(method).eval()
    x = torch.randn(4, 6)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets and all(not target.startswith("vdropkern") for target in targets)
    assert torch.equal(program.module()(x), model(x))
    larger = torch.randn(9, 6)
    torch.testing.assert_close(program.module()(larger), model(larger))


# torch's own compiler does so
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@each(ALL)
def test_compiles_without_graph_break(method: Method) -> None:
    torch._dynamo.reset()
    model, x = net(method), torch.randn(4, 6)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    grads = []
    for run in (model, compiled):
        torch.manual_seed(1)
        model.zero_grad()
        (run(x).square().sum() + vdk.kl_divergence(model)).backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)
    model.eval()
    torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@each([*ALL, L0HardConcrete(), ConcreteDropout()])
def test_compiles_with_dynamic_shapes(method: Method) -> None:
    torch._dynamo.reset()
    model = net(method)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in (4, 7):
        x = torch.randn(size, 6)
        grads = []
        for run in (model, compiled):
            torch.manual_seed(1)
            model.zero_grad()
            run(x).square().sum().backward()
            grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        for ours, theirs in zip(*grads, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@each(ALL)
def test_compiles_with_a_method_that_is_new(method: Method) -> None:
    torch._dynamo.reset()
    model, x = net(method).eval(), torch.randn(4, 6)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with vdk.use_eval_mode(model, "sample"):  # a copy of the method, which has computed nothing yet
        torch.manual_seed(0)
        y = compiled(x)
        torch.manual_seed(0)
        torch.testing.assert_close(y, model(x))


@each([SparseVD(), FREE_ALPHA, GaussianW()])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(method: Method, dtype: torch.dtype) -> None:
    model, x = net(method), torch.randn(4, 6)
    with torch.autocast("cpu", dtype):
        y = model(x)
        kl = vdk.kl_divergence(model)
    assert y.dtype == dtype and kl.dtype == torch.float32
    (y.float().square().sum() + kl).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.dtype == torch.float32 and p.grad.isfinite().all(), name
    model.eval()
    with torch.autocast("cpu", dtype):
        assert model(x).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_module_of_another_dtype(dtype: torch.dtype) -> None:
    model, x = net(SparseVD()).to(dtype), torch.randn(4, 6, dtype=dtype)
    (model(x).square().sum() + vdk.kl_divergence(model)).backward()
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in model.parameters())
    assert model.eval()(x).dtype == dtype


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
@pytest.mark.parametrize("collect", [False, True], ids=["kl_divergence", "collect_kl"])
def test_checkpointing_gives_equal_gradients(reentrant: bool, collect: bool) -> None:
    model, x = net(SparseVD()), torch.randn(4, 6, requires_grad=True)

    def grads(forward: Callable[[Tensor], Tensor]) -> list[Tensor]:
        model.zero_grad()
        torch.manual_seed(2)
        if collect:
            with vdk.collect_kl(model) as collected:
                y = forward(x)
            kl = collected.total()
        else:
            y, kl = forward(x), vdk.kl_divergence(model)
        (y.square().sum() + kl).backward()
        return [p.grad.clone() for p in model.parameters()]

    plain = grads(model)
    saved = grads(lambda x: checkpoint(model, x, use_reentrant=reentrant))
    for a, b in zip(plain, saved, strict=True):
        torch.testing.assert_close(a, b)


@each(ALL)
def test_replica_with_plain_tensors(method: Method) -> None:
    # what torch.nn.DataParallel does on each device: no Parameters, only tensors set under their names
    made, x = layer(method), torch.randn(4, 7)
    replica = made._replicate_for_data_parallel()
    for name, p in made.named_parameters():
        setattr(replica, name, p.clone())
    assert not list(replica.parameters())
    with vdk.collect_kl(made) as collected:
        torch.manual_seed(0)
        y = replica(x)
        assert collected.reported == 0
    torch.manual_seed(0)
    assert torch.equal(y, made(x))
    torch.testing.assert_close(replica.kl(), made.kl())
    assert torch.equal(replica.eval()(x), made.eval()(x))


def test_functional_call_and_grad_transform() -> None:
    made, x = layer(SparseVD()), torch.randn(4, 7)
    params = {k: v.detach().clone() for k, v in made.named_parameters()}

    def loss(params: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(made, params, (x,)).square().sum()

    torch.manual_seed(0)
    transformed = torch.func.grad(loss)(params)
    torch.manual_seed(0)
    made(x).square().sum().backward()
    for name, p in made.named_parameters():
        torch.testing.assert_close(transformed[name], p.grad)


@each(NOISY)
def test_vmap_draws_anew_for_each_slice(method: Method) -> None:
    made, x = layer(method), torch.randn(4, 7)
    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(made)(x.expand(3, 4, 7))
    first, second, _ = torch.vmap(made, randomness="different")(x.expand(3, 4, 7))
    assert not torch.equal(first, second)
    first, second, _ = torch.vmap(made, randomness="same")(x.expand(3, 4, 7))
    assert torch.equal(first, second)


def gradients_alone_and_parallel() -> list[list[Tensor]]:
    """Of one model and one batch, by itself and within DistributedDataParallel."""
    model, x = net(SparseVD()), torch.randn(4, 6)
    grads = []
    for run in (model, torch.nn.parallel.DistributedDataParallel(model)):
        model.zero_grad()
        torch.manual_seed(0)
        with vdk.collect_kl(run) as collected:
            y = run(x)
        (y.square().sum() + collected.total()).backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    return grads


@pytest.fixture
def process_group() -> Iterator[None]:
    if not torch.distributed.is_available():
        pytest.skip("torch without torch.distributed")
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_distributed_data_parallel() -> None:
    # in a function of its own: a parallel model that outlives the group waits for its threads, and they may
    # wait for the interpreter lock that it holds
    for a, b in zip(*gradients_alone_and_parallel(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.usefixtures("process_group")
@each([SparseVD(), SparseVD(noise="weights"), VariationalA(), Smallify(), ConcreteDropout()])
def test_fully_sharded(method: Method) -> None:
    """Shards stand in for parameters between passes, and KL, penalty and projection are asked for there."""
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.manual_seed(0)
    alone = net(method)
    shards = copy.deepcopy(alone)
    for module in (shards[0], shards[2], shards):
        torch.distributed.fsdp.fully_shard(module, mesh=mesh)
    x = torch.randn(4, 6)
    for model in (alone, shards):
        torch.manual_seed(1)
        with vdk.collect_kl(model) as collected:
            y = model(x)
        collected_kl = collected.total()
        torch.testing.assert_close(collected_kl, vdk.kl_divergence(model))
        (y.square().sum() + collected_kl + vdk.penalty(model)).backward()
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(p.grad)
        vdk.project_(model)
    with pytest.raises(
        ValueError, match=r"sparsity: model's parameters must be whole, but 0\.\w+ is sharded"
    ):
        vdk.sparsity(shards)
    whole = [p.full_tensor() for p in shards.parameters()] + list(shards.buffers())
    for a, b in zip([*alone.parameters(), *alone.buffers()], whole, strict=True):
        torch.testing.assert_close(a, b)
