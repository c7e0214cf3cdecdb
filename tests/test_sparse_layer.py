"""SparseLinear: its packed form, when it is used and made anew; what it stores, takes, refuses and trains."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vdropkern as vdk
from tests.tolerance import tolerance
from vdropkern.sparse import SparseConv2d, SparseLinear
from vdropkern.sparse._layer import SparseLayer


def layer(activation: str = "none") -> SparseLinear:
    w = torch.randn(40, 70) * (torch.rand(40, 70) < 0.2)
    return SparseLinear.from_dense(w, torch.randn(40), activation=activation)


def dense(sparse: SparseLinear, x: torch.Tensor) -> torch.Tensor:
    y = torch.nn.functional.linear(x.double(), sparse.weight_dense().double(), sparse.bias.double())
    return (y.relu() if sparse.activation == "relu" else y).float()


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_packed_and_trained_form_agree(activation: str) -> None:
    sparse, x = layer(activation), torch.randn(9, 70)
    assert sparse.packed_bytes() == 0
    trained = sparse(x)
    assert trained.requires_grad and sparse.packed_bytes() == 0
    with torch.no_grad():
        torch.testing.assert_close(sparse(x), trained)
    assert sparse.packed_bytes() > 6 * sparse.nnz
    assert sparse.stored_bytes() == sum(t.nbytes for t in sparse.state_dict().values())
    torch.testing.assert_close(sparse.to_dense()(x), trained)


def test_changed_parameters_are_seen() -> None:
    sparse, x = layer(), torch.randn(3, 70)
    optimizer = torch.optim.SGD(sparse.parameters(), lr=0.1)
    other = layer()
    while other.nnz != sparse.nnz:
        other = layer()

    def step() -> None:
        sparse(x).square().sum().backward()
        optimizer.step()

    def set_bias() -> None:
        with torch.no_grad():
            sparse.bias.fill_(3)

    def new_values() -> None:
        sparse.values = torch.nn.Parameter(torch.randn(sparse.nnz))

    def hidden() -> None:
        sparse.values.data.mul_(2)
        sparse.repack()

    for change in (step, set_bias, new_values, hidden, lambda: sparse.load_state_dict(other.state_dict())):
        change()
        with torch.inference_mode():
            torch.testing.assert_close(sparse(x), dense(sparse, x))


def doubled(sparse: SparseLinear) -> None:
    numbers = torch.nn.utils.parameters_to_vector(sparse.parameters())
    torch.nn.utils.vector_to_parameters(2 * numbers, sparse.parameters())


@pytest.mark.parametrize(
    "change",
    [doubled, lambda sparse: sparse.to(torch.bfloat16).float(), lambda sparse: sparse.half().float()],
    ids=["vector_to_parameters", "bfloat16 and back", "float16 and back"],
)
def test_replaced_data_is_seen(change: Callable[[SparseLinear], object]) -> None:
    # a new `.data` leaves the parameter and its version as they were, and may lie where the old one lay
    sparse, x = layer(), torch.randn(3, 70)
    with torch.no_grad():
        before = sparse(x)
        change(sparse)
        torch.testing.assert_close(sparse(x), dense(sparse, x))
        assert not torch.equal(sparse(x), before)


def test_integers_are_refused() -> None:
    sparse = layer()
    for guard in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        for _ in range(2):  # without and with a packed form
            with guard(), pytest.raises(ValueError, match=r"x and values floating, got x torch\.int64"):
                sparse(torch.ones(3, 70, dtype=torch.int64))
        with torch.no_grad():
            sparse(torch.ones(3, 70))


def test_part_of_a_state_dict_is_checked_too() -> None:
    sparse, x = layer(), torch.randn(3, 70)
    before = sparse(x)
    beyond = sparse.col_indices.clone()
    beyond[-1] = 10**6
    for name, bad in (("col_indices", beyond), ("row_offsets", sparse.row_offsets.flip(0))):
        with pytest.raises(RuntimeError, match=name):
            sparse.load_state_dict({name: bad}, strict=False)
    assert torch.equal(sparse(x), before)
    sparse.load_state_dict({"values": 2 * sparse.values.detach()}, strict=False)
    torch.testing.assert_close(sparse(x), dense(sparse, x))


def test_threads_with_images_of_two_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = torch.nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False)
    sparse = SparseConv2d.from_dense(conv)
    small, large = torch.randn(1, 3, 5, 5), torch.randn(1, 3, 9, 9)
    held = SparseLayer._held

    def interrupted(self: SparseLayer) -> object:
        made = held(self)
        monkeypatch.setattr(SparseLayer, "_held", held)
        sparse(large)  # what another thread does meanwhile
        return made

    with torch.no_grad():
        sparse(small)
        monkeypatch.setattr(SparseLayer, "_held", interrupted)
        torch.testing.assert_close(sparse(large), conv(large))
        torch.testing.assert_close(sparse(small), conv(small))


def test_layers_made_in_inference_mode() -> None:
    x = torch.randn(3, 70)
    with torch.inference_mode():
        sparse = layer()
        torch.testing.assert_close(sparse(x), dense(sparse, x))
    with torch.no_grad():
        torch.testing.assert_close(sparse(x), dense(sparse, x))


def test_copies_do_without_the_packed_form() -> None:
    sparse, x = layer(), torch.randn(3, 70)
    with torch.no_grad():
        y = sparse(x)
        for twin in (copy.deepcopy(sparse), pickle.loads(pickle.dumps(sparse))):
            assert twin.packed_bytes() == 0 and torch.equal(twin(x), y)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int8, torch.float64], ids=str)
def test_stored_in_fewer_bits(dtype: torch.dtype) -> None:
    sparse, x = layer(), torch.randn(5, 70)
    exact = sparse.weight_dense().detach()
    full = sparse.stored_bytes()
    assert sparse.store_as(dtype) is sparse
    assert sparse.values.dtype == dtype and sparse.store == ("int8" if dtype == torch.int8 else "float")
    assert (sparse.stored_bytes() < full) == (dtype != torch.float64)
    within = (
        exact.abs().amax(1, keepdim=True) / 254 if dtype == torch.int8 else exact.abs() * tolerance(dtype, 1)
    )
    assert ((sparse.weight_dense() - exact).abs() <= 1.001 * within).all()
    for y in (sparse(x), sparse.eval()(x)):
        torch.testing.assert_close(y.detach(), dense(sparse, x).detach().to(y.dtype))
    with torch.no_grad():
        torch.testing.assert_close(sparse(x), dense(sparse, x))
    fresh = SparseLinear(
        70, 40, nnz=sparse.nnz, store=sparse.store, dtype=dtype if sparse.store == "float" else None
    )
    fresh.load_state_dict(sparse.state_dict(), assign=True)
    with torch.no_grad():
        assert torch.equal(fresh(x), sparse(x))
    torch.testing.assert_close(sparse.store_as(torch.float32).weight_dense(), sparse.weight_dense())


def test_bias_of_int8_layers_is_trained() -> None:
    sparse = layer().store_as(torch.int8)
    sparse(torch.randn(4, 70)).sum().backward()
    assert sparse.bias.grad.eq(4).all() and sparse.values.grad is None


def test_forced_reference_agrees() -> None:
    sparse, x = layer("relu"), torch.randn(5, 70)
    with torch.no_grad():
        y = sparse(x)
        with vdk.use_backend("reference"):
            torch.testing.assert_close(sparse(x), y)


@pytest.mark.parametrize(
    "arguments, words",
    [({"activation": "tanh"}, "unknown activation 'tanh'; accepted: none, relu"),
     ({"store": "int4"}, "unknown store 'int4'; accepted: float, int8")],
)  # fmt: skip
def test_bad_arguments(arguments: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SparseLinear(3, 2, **arguments)
    with pytest.raises(ValueError, match="store_as: dtype must be floating or int8"):
        layer().store_as(torch.int32)


@given(
    inp=st.integers(0, 30),
    out=st.integers(0, 20),
    density=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    bias=st.booleans(),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_from_dense_and_back(inp: int, out: int, density: float, bias: bool) -> None:
    generator = torch.Generator().manual_seed(inp * 100 + out)
    w = (torch.rand(out, inp, generator=generator) + 0.1) * (
        torch.rand(out, inp, generator=generator) < density
    )
    layer = SparseLinear.from_dense(w, torch.ones(out) if bias else None)
    assert layer.nnz == int(w.count_nonzero())
    assert (layer.in_features, layer.out_features) == (inp, out)
    assert torch.equal(layer.weight_dense(), w)
    if w.numel():  # torch warns of its own layers without weights
        dense = layer.to_dense()
        assert torch.equal(dense.weight, w) and (dense.bias is not None) == bias
    assert layer(torch.randn(3, inp)).shape == (3, out)


def test_fine_tuning_keeps_the_pattern() -> None:
    layer = SparseLinear.from_dense(torch.eye(4), torch.zeros(4))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    x = torch.randn(50, 4)
    for _ in range(200):
        optimizer.zero_grad()
        (layer(x) - 2 * x - 1).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(layer.weight_dense(), 2 * torch.eye(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(layer.bias, torch.ones(4), atol=1e-3, rtol=0)


def test_module_ways() -> None:
    layer = SparseLinear.from_dense(torch.eye(4)[:3], torch.ones(3))
    assert repr(layer) == ("SparseLinear(in_features=4, out_features=3, bias=True, nnz=3, density=0.2500)")
    x = torch.randn(2, 4)
    y = layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), y)
    fresh = SparseLinear(4, 3, nnz=3)
    assert fresh(x).eq(0).all()  # valid, but empty of meaning
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x), y)
    half = copy.deepcopy(layer).bfloat16()
    assert half.row_offsets.dtype == torch.int32 and half(x.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.to("meta")(x.to("meta")).shape == (2, 3)
    assert SparseLinear(4, 3, nnz=3, device="meta").values.is_meta


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("col_indices", torch.tensor([0, 1, 9], dtype=torch.int32), r"col_indices must lie in \[0, 4\)"),
        ("row_offsets", torch.tensor([0, 2, 1, 3], dtype=torch.int32), "row_offsets must not decrease"),
        ("row_offsets", torch.tensor([0, 1, 2, 3.0]), "row_offsets must be int32 or int64"),
        ("values", torch.ones(2), r"must be \[nnz\]"),
    ],
)
def test_state_with_bad_indices_is_refused(name: str, value: Tensor, words: str) -> None:
    layer = SparseLinear.from_dense(torch.eye(4)[:3])
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(RuntimeError, match=words):
        layer.load_state_dict({**layer.state_dict(), name: value})
    assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: SparseLinear(3, 2, nnz=7), "nnz between 0 and their product, got 3, 2 and 7"),
        (lambda: SparseLinear(-1, 2), "must be >= 0.*got -1, 2 and 0"),
        (lambda: SparseLinear.from_dense(torch.ones(3)), r"weight must be \[O, I\].*\(3,\)"),
        (lambda: SparseLinear.from_dense(torch.ones(3, 2, dtype=torch.int32)), "floating, got torch.int32"),
        (
            lambda: SparseLinear.from_dense(torch.ones(3, 2), torch.ones(2)),
            r"bias must be \[O\] = \(3,\), got \(2,\)",
        ),
    ],
)
def test_bad_sizes_and_weights(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()  # type: ignore[operator]
