"""What is given by mistake in place of a model, a sample or a file is named in the error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import vdropkern as vdk
from vdropkern.methods import SparseVD


@pytest.mark.parametrize(
    "given, got", [("net.safetensors", "str"), ({}, "dict"), (torch.nn.ReLU, "the class ReLU")]
)
def test_what_is_no_module(given: Any, got: str, tmp_path: Path) -> None:
    calls: dict[str, Callable[[], object]] = {
        "convert": lambda: vdk.convert(given, SparseVD()),
        "sparsify": lambda: vdk.sparsify(given),
        "shrink": lambda: vdk.shrink(given),
        "sparsity": lambda: vdk.sparsity(given),
        "save": lambda: vdk.save(given, tmp_path / "m"),
    }
    for where, call in calls.items():
        with pytest.raises(TypeError, match=f"^{where}: model must be a torch.nn.Module, got {got}$"):
            call()
    vdk.save(torch.nn.Sequential(torch.nn.ReLU()), tmp_path / "m")
    with pytest.raises(TypeError, match=f"^load: into must be a torch.nn.Module, got {got}$"):
        vdk.load(tmp_path / "m", into=given)


@pytest.mark.parametrize("shrink", [True, False])
def test_a_sample_that_does_not_fit(shrink: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"^the model cannot run on sample_input \(2, 9\): "):
        vdk.sparsify(model, torch.randn(2, 9), shrink=shrink)
    with pytest.raises(TypeError, match=r"^sample_input must be a tensor"):
        vdk.sparsify(model, [1.0], shrink=shrink)  # type: ignore[arg-type]


def test_a_dtype_by_its_name() -> None:
    layer = vdk.sparse.SparseLinear.from_dense(torch.ones(3, 4))
    with pytest.raises(ValueError, match="store_as: dtype must be floating or int8, got int8, a str"):
        layer.store_as("int8")  # type: ignore[arg-type]


def test_optimizer_and_model_in_the_wrong_order() -> None:
    net = torch.nn.Linear(3, 2)
    with pytest.raises(TypeError, match=r"attach_projection: give a torch\.optim\.Optimizer, then the model"):
        vdk.attach_projection(net, torch.optim.SGD(net.parameters(), lr=0.1))  # type: ignore[arg-type]


def test_a_table_of_bytes_sets_its_total_apart() -> None:
    pytest.importorskip("rich")
    from vdropkern.cli.console import size_table

    rows = size_table(vdk.sparse.size_report(torch.nn.Linear(3, 2))).rows
    assert [row.end_section for row in rows] == [False, True, False]
