"""Which nvcc a build takes beside which torch, and what it says where the two do not go together."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).resolve().parent.parent / "setup.py"

pytestmark = [
    pytest.mark.skipif(not SETUP.exists(), reason="not in a source tree"),
    pytest.mark.skipif(os.name != "posix" or not shutil.which("c++"), reason="a build without kernels"),
]


def toolkit(folder: Path, version: str) -> Path:
    """A folder with an nvcc that knows its version."""
    nvcc = folder / f"cuda-{version}" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {version}, V{version}.48'\n")
    nvcc.chmod(0o755)
    return nvcc.parent.parent


def ask(folder: Path, cuda: str | None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run setup.py so far that it has chosen, beside a torch built with a release of CUDA, or without."""
    torch = folder / "site" / "torch"
    (torch / "include/torch/csrc").mkdir(parents=True)
    (torch / "__init__.py").write_text("raise RuntimeError('setup.py imports no torch')")
    (torch / "version.py").write_text(f"__version__ = '2.13.0'\ncuda: Optional[str] = {cuda!r}\n")
    (folder / "show.py").write_text(
        f"import sys, runpy\nsys.argv = ['setup.py', '--version']\n"
        f"print('took', runpy.run_path({str(SETUP)!r})['NVCC'])\n"
    )
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("CUDA", "VDROPKERN"))}
    added = {"PYTHONPATH": str(folder / "site"), "VDROPKERN_REQUIRE_KERNELS": "1", **environment}
    return subprocess.run(
        [sys.executable, folder / "show.py"], cwd=SETUP.parent, env=inherited | added,
        text=True, capture_output=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("version", ["12.4", "13.0"])
def test_any_toolkit_beside_a_torch_without_cuda_is_left_alone(tmp_path: Path, version: str) -> None:
    done = ask(tmp_path, None, CUDA_HOME=str(toolkit(tmp_path, version)))
    assert (done.returncode, done.stderr) == (0, "")
    assert "took None" in done.stdout


def test_the_same_release_is_taken_silently(tmp_path: Path) -> None:
    home = toolkit(tmp_path, "13.0")
    done = ask(tmp_path, "13.0", CUDA_HOME=str(home))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"took ('{home}/bin/nvcc', '13.0')" in done.stdout


@pytest.mark.parametrize("nvcc, torch", [("12.9", "12.6"), ("12.4", "12.6")])
def test_another_minor_is_taken_with_a_line(tmp_path: Path, nvcc: str, torch: str) -> None:
    done = ask(tmp_path, torch, CUDA_HOME=str(toolkit(tmp_path, nvcc)))
    assert done.returncode == 0
    assert done.stderr == (
        f"vdropkern: nvcc is of CUDA {nvcc}, torch 2.13.0 of CUDA {torch}: good, within one major\n"
    )
    assert f"'{nvcc}')" in done.stdout


@pytest.mark.parametrize("nvcc, torch", [("13.0", "12.6"), ("11.8", "12.6")])
def test_another_major_is_an_error_that_says_what_to_do(tmp_path: Path, nvcc: str, torch: str) -> None:
    home = str(toolkit(tmp_path, nvcc))
    done = ask(tmp_path, torch, CUDA_HOME=home)
    assert done.returncode == 1
    assert f"is of CUDA {nvcc}, torch 2.13.0 of CUDA {torch}: majors must agree" in done.stderr
    assert "VDROPKERN_CUDA=0 pip install" in done.stderr
    assert f"CUDA_HOME=/usr/local/cuda-{torch} pip install" in done.stderr


def test_the_cpu_kernels_alone_need_no_fitting_toolkit(tmp_path: Path) -> None:
    done = ask(tmp_path, "12.6", CUDA_HOME=str(toolkit(tmp_path, "13.0")), VDROPKERN_CUDA="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "took None" in done.stdout


def test_a_release_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    done = ask(
        tmp_path, None, CUDA_HOME=str(toolkit(tmp_path, "12.4")), PATH="/usr/bin", VDROPKERN_CUDA="99.1"
    )
    assert done.returncode == 1
    assert "asks for nvcc 99.1, which was not found; set CUDA_HOME" in done.stderr


@pytest.mark.skipif(not Path("/usr/local/cuda/bin/nvcc").exists(), reason="no toolkit in /usr/local")
def test_a_toolkit_of_torchs_major_is_preferred(tmp_path: Path) -> None:
    """Though another one is on PATH, which is asked first."""
    said = subprocess.run(
        ["/usr/local/cuda/bin/nvcc", "--version"], text=True, capture_output=True, check=True
    )
    (installed,) = re.findall(r"release (\d+\.\d+)", said.stdout)
    done = ask(tmp_path, installed, PATH=f"{toolkit(tmp_path, '99.0')}/bin:{os.environ['PATH']}")
    assert done.returncode == 0
    assert f"'{installed}')" in done.stdout
