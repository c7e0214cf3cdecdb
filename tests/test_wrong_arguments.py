"""What is given by mistake in place of a model, a sample or a file is named in the error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vdropkern as vdk
from vdropkern import functional as F
from vdropkern.methods import SBP, BayesByBackprop, Bernoulli, SparseVD, TargetedDropout
from vdropkern.nn import Linear


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
        "kl_divergence": lambda: vdk.kl_divergence(given),
        "collect_kl": lambda: vdk.collect_kl(given).__enter__(),
        "penalty": lambda: vdk.penalty(given),
        "parameter_groups": lambda: vdk.parameter_groups(given, lr=0.1),
        "project_": lambda: vdk.project_(given),
        "attach_projection": lambda: vdk.attach_projection(torch.optim.SGD([torch.zeros(1)]), given),
        "use_eval_mode": lambda: vdk.use_eval_mode(given, "mean").__enter__(),
        "mc_predict": lambda: vdk.mc_predict(given, torch.zeros(1), samples=1),
        "load_dense_state_dict": lambda: vdk.load_dense_state_dict(given, {}),
        "binarize": lambda: vdk.binarize(given),
        "size_report": lambda: vdk.sparse.size_report(given),
        "freeze": lambda: vdk.sparse.freeze(given, torch.zeros(1)),
        "to_dense": lambda: vdk.sparse.to_dense(given),
        "to_torch_csr": lambda: vdk.sparse.to_torch_csr(given),
        "to_onnx": lambda: vdk.sparse.to_onnx(given, "net.onnx", torch.zeros(1)),
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


def test_a_sample_that_is_no_tensor(tmp_path: Path) -> None:
    net = vdk.sparse.SparseLinear.from_dense(torch.ones(3, 4))
    for wrong in (np.zeros((2, 4), np.float32), tmp_path / "net.onnx"):
        for call in (vdk.sparse.freeze, vdk.sparse.to_export):
            with pytest.raises(TypeError, match=r"^sample_input must be a tensor"):
                call(net, wrong)  # type: ignore[operator]
        with pytest.raises(TypeError, match=r"^sample_input must be a tensor"):
            vdk.sparse.to_onnx(net, tmp_path / "net.onnx", wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="PathLike object, not Tensor"):
        vdk.sparse.to_onnx(net, torch.zeros(2, 4), tmp_path / "net.onnx")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def _calls(wrong: Any) -> dict[str, Callable[[], object]]:
    x, w, image, kernel = torch.ones(2, 4), torch.ones(3, 4), torch.ones(1, 2, 5, 5), torch.ones(3, 2, 3, 3)
    return {
        "linear_lrt: x": lambda: F.linear_lrt(wrong, w, w),
        "linear_lrt: mu": lambda: F.linear_lrt(x, wrong, w),
        "conv2d_lrt: x": lambda: F.conv2d_lrt(wrong, kernel, kernel),
        "conv2d_lrt: mu": lambda: F.conv2d_lrt(image, wrong, kernel),
        "kl: mu": lambda: F.kl(wrong, w),
        "kl: log_alpha": lambda: F.kl(log_alpha=wrong, prior="ard"),
        "mul_noise: x": lambda: F.mul_noise(wrong, 0.5),
        "mul_noise: log_alpha": lambda: F.mul_noise(x, log_alpha=wrong),
        "mul_out_noise: z": lambda: F.mul_out_noise(wrong, x),
        "weight_noise: mu": lambda: F.weight_noise(wrong, w),
        "weight_mask: w": lambda: F.weight_mask(wrong, gamma=0.5),
        "gate: x": lambda: F.gate(wrong, w, kind="hard-concrete"),
        "gate: location": lambda: F.gate(image, wrong, kind="hard-concrete"),
        "sign_ste: x": lambda: F.sign_ste(wrong),
        "binary_weight: w": lambda: F.binary_weight(wrong),
        "multi_sample_head: h": lambda: F.multi_sample_head(
            wrong, w, None, torch.zeros(2).long(), samples=2, p=0.5
        ),
        "spmm: x": lambda: F.spmm(wrong, x, x, x),
        "relu_moments: mean": lambda: F.relu_moments(wrong, x),
    }


@pytest.mark.parametrize("name", _calls(None))
def test_what_is_no_tensor(name: str) -> None:
    for wrong in (np.ones((2, 4), np.float32), [1.0]):
        with pytest.raises(TypeError, match=f"^{name}[a-z]* must be a tensor, got {type(wrong).__name__}$"):
            _calls(wrong)[name]()


def test_layers_take_no_arrays() -> None:
    for method in (SparseVD(), Bernoulli(), BayesByBackprop(), TargetedDropout(0.5, 0.5), SBP()):
        with pytest.raises(TypeError, match=r"ndarray"):
            Linear(4, 3, method=method)(np.ones((2, 4), np.float32))


def test_seeds_and_dtypes_of_another_type() -> None:
    for seed in (1.5, "1"):
        with pytest.raises(
            TypeError, match=r"^philox_bits: seed must be an int, an int64 tensor of one element"
        ):
            F.philox_bits(seed, 2, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^philox_normal: dtype must be floating, got float32"):
        F.philox_normal(1, 2, 3, dtype="float32")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^explain: after the op tensors are accepted, got str"):
        vdk.explain("kl", "cuda")  # type: ignore[arg-type]


def test_decouple_takes_binary_layers() -> None:
    with pytest.raises(
        TypeError, match=r"^decouple: layer must be a BinaryLinear or BinaryConv2d, got Linear$"
    ):
        vdk.nn.decouple(torch.nn.Linear(3, 2))  # type: ignore[arg-type]


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
