"""What README.md shows is what the package does."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch

import vdropkern
from vdropkern import _backend, _info
from vdropkern.methods import SparseVD
from vdropkern.nn import Linear
from vdropkern.recipes.cache import ENV_CACHE
from vdropkern.recipes.data import ENV_DATA
from vdropkern.recipes.images import ENV_IMAGES

from .threads import with_threads

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"

pytestmark = pytest.mark.skipif(not README.exists(), reason="not in a source tree")


def test_usage_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names = {
        "dense_net": torch.nn.Sequential(torch.nn.Linear(12, 7), torch.nn.ReLU(), torch.nn.Linear(7, 3)),
        "loader": [(torch.randn(8, 12), torch.arange(8) % 3) for _ in range(2)],
        "n_train": 16,
    }
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("range(100)", "range(7)"), "README.md", "exec"), names)
    assert "compression" in capsys.readouterr().out
    x = torch.randn(5, 12)
    pruned = vdropkern.load(tmp_path / "pruned.safetensors").eval()
    torch.testing.assert_close(pruned(x), names["net"].eval()(x))


def test_deploying_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    page = (ROOT / "docs" / "sparse.md").read_text()
    trained, runs = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[:2]
    torch.manual_seed(0)
    layers = [Linear(64, 512, method=SparseVD()), torch.nn.ReLU(), Linear(512, 10, method=SparseVD())]
    with torch.no_grad():
        for layer in layers[::2]:
            layer.log_sigma2.copy_(torch.where(torch.rand_like(layer.weight) < 0.1, -15.0, 4.0))
    names = {"torch": torch, "vdk": vdropkern, "net": torch.nn.Sequential(*layers), "x": torch.randn(5, 64)}
    monkeypatch.chdir(tmp_path)
    with with_threads(1):
        exec(compile(trained, "sparse.md", "exec"), names)
        exec(compile(runs, "sparse.md", "exec"), names)
    assert "compression" in capsys.readouterr().out
    torch.testing.assert_close(names["y"], names["net"].eval()(names["x"]))
    dense = vdropkern.sparse.to_dense(names["fast"])
    torch.testing.assert_close(vdropkern.sparsify(dense, names["x"])(names["x"]), names["y"])


def test_environment_variables_are_all_listed():
    listed = set(re.findall(r"^\| `(VDROPKERN_\w+)`", README.read_text(), re.MULTILINE))
    read = set()
    for path in (ROOT / "vdropkern").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and re.fullmatch(r"VDROPKERN_[A-Z_]+", str(node.value)):
                read.add(node.value)
    assert read == listed == {_backend.ENV_BACKEND, _backend.ENV_CPU_ISA, ENV_CACHE, ENV_DATA, ENV_IMAGES}
    assert listed == set(_info.ENVIRONMENT)  # which `vdropkern info` prints


def test_links_lead_somewhere():
    for page in (README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
