"""The wheel, as a user gets it: built, installed in a clean environment, run with and without its kernels."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

import vdropkern

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = "vdropkern/_C.abi3.so"
SOURCES = (
    "CMakeLists.txt",
    "LICENSE",
    "README.md",
    "cmake",
    "csrc",
    "pyproject.toml",
    "setup.py",
    "vdropkern",
)

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="not in a source tree")

SMOKE = """
    import json, sys, warnings
    import torch
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import vdropkern
        from vdropkern import functional as VF
        from vdropkern import _backend
        torch.manual_seed(0)
        x, mu = torch.randn(9, 17, requires_grad=True), torch.randn(5, 17, requires_grad=True)
        log_sigma2 = (torch.randn(5, 17) - 3).requires_grad_()
        for _ in range(2):
            y, kl = VF.linear_lrt_kl(x, mu, log_sigma2, seed=11)
            grads = torch.autograd.grad(y.square().sum() + kl, (x, mu, log_sigma2))
    print(json.dumps(dict(
        file=vdropkern.__file__, error=_backend.library_error(), explain=vdropkern.explain("linear_lrt"),
        warnings=[f"{w.category.__name__}: {w.message}" for w in caught],
        numbers=[t.double().flatten().tolist() for t in (y, kl, *grads)],
    )))
"""


BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


class Wheel(NamedTuple):
    path: Path
    build: dict[str, object]  # what _build.json says
    log: str

    @property
    def names(self) -> set[str]:
        with zipfile.ZipFile(self.path) as archive:
            return set(archive.namelist())


def run(command: list[object], cwd: Path, **environment: str) -> str:
    """Run a command without this checkout on its path; return all it printed, or fail with that."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=inherited | environment, timeout=600,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def read_wheel(folder: Path, log: str) -> Wheel:
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return Wheel(path, json.loads(archive.read("vdropkern/_build.json")), log)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    """The wheel of this tree, built with this environment's torch; compiles only what changed."""
    pytest.importorskip("setuptools", minversion="77", reason="needed to build")
    out = tmp_path_factory.mktemp("wheel")
    return read_wheel(out, run([sys.executable, "-c", BUILD, out], ROOT, VDROPKERN_REQUIRE_KERNELS=""))


@pytest.fixture(scope="module")
def kernel_wheel(wheel: Wheel) -> Wheel:
    if not wheel.build["kernels"]:
        pytest.skip(f"no kernels can be built here: {wheel.build['reason']}")
    return wheel


def make_venv(folder: Path, *site_packages: Path) -> Path:
    """A virtual environment without pip that sees the packages of `site_packages`; returns its Python."""
    run([sys.executable, "-m", "venv", "--without-pip", folder], folder.parent)
    scheme = {"base": str(folder), "platbase": str(folder)}
    own = Path(sysconfig.get_path("purelib", scheme="posix_prefix", vars=scheme))
    (own / "outer.pth").write_text("".join(f"{path}\n" for path in site_packages))
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def installed(wheel: Wheel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(Python of a clean environment with the wheel and this environment's torch, its package folder)."""
    pytest.importorskip("pip", minversion="22.3", reason="needed to install the wheel")
    folder = tmp_path_factory.mktemp("clean")
    outer = {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}
    python = make_venv(folder / "venv", *outer)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    run([*pip, "install", "--no-index", "--no-deps", wheel.path], folder)
    where = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip()
    return python, Path(where, "vdropkern")


def smoke(python: Path, cwd: Path) -> dict[str, object]:
    return json.loads(run([python, "-c", textwrap.dedent(SMOKE)], cwd, VDROPKERN_BACKEND="auto"))


def test_wheel_holds_the_package_and_nothing_else(wheel: Wheel):
    info = f"vdropkern-{vdropkern.__version__}.dist-info/"
    patterns = ("*.py", "configs/*.json", "crossover/*.json")
    files = [path for pattern in patterns for path in (ROOT / "vdropkern").rglob(pattern)]
    package = {str(path.relative_to(ROOT)) for path in files}
    generated = {"vdropkern/_build.json"} | ({LIBRARY} if wheel.build["kernels"] else set())
    found = {name for name in wheel.names if not name.startswith(info)}
    assert found == package | generated | {"vdropkern/py.typed"}
    assert info + "licenses/LICENSE" in wheel.names


def test_kernel_wheel_serves_every_python(kernel_wheel: Wheel):
    platform = re.sub(r"[-.]", "_", sysconfig.get_platform())
    assert kernel_wheel.path.name == f"vdropkern-{vdropkern.__version__}-cp310-abi3-{platform}.whl"
    with zipfile.ZipFile(kernel_wheel.path) as archive:
        text = archive.read(f"vdropkern-{vdropkern.__version__}.dist-info/WHEEL").decode()
    assert "Root-Is-Purelib: false" in text


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("readelf"), reason="reads ELF with readelf")
def test_library_binds_to_torch_by_its_stable_abi_alone(kernel_wheel: Wheel, tmp_path: Path):
    with zipfile.ZipFile(kernel_wheel.path) as archive:
        library = archive.extract(LIBRARY, tmp_path)
    dynamic = run(["readelf", "--wide", "--dynamic", library], tmp_path)
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic))
    assert {"libtorch.so", "libtorch_cpu.so"} <= needed
    assert not any(name.startswith(("libpython", "libc10", "libtorch_python")) for name in needed)
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic
    symbols = re.findall(r"\bUND\s+(\S+)", run(["readelf", "--wide", "--dyn-syms", library], tmp_path))
    # C++ symbols of torch (namespaces c10, at, torch) change from release to release; so do Python's own
    unstable = [s for s in symbols if re.match(r"_ZNK?(3c10|2at|5torch)|_?Py", s)]
    assert unstable == []


def test_installed_wheel_runs_on_its_kernels(
    kernel_wheel: Wheel, installed: tuple[Path, Path], tmp_path: Path
):
    python, package = installed
    result = smoke(python, tmp_path)
    assert Path(str(result["file"])).parent == package
    assert result["error"] is None
    assert result["warnings"] == []
    assert str(result["explain"]).startswith("linear_lrt: cpu (")
    info = run([python, "-W", "error", "-m", "vdropkern"], tmp_path)
    assert f"built with: torch {kernel_wheel.build['torch']}; {kernel_wheel.build['compiler']}\n" in info


def test_wheel_without_its_library_runs_on_the_reference_with_one_warning(
    kernel_wheel: Wheel, installed: tuple[Path, Path], tmp_path: Path
):
    python, package = installed
    library = package / Path(LIBRARY).name
    with_kernels = smoke(python, tmp_path)
    kept = library.rename(tmp_path / "kept.so")
    try:
        without = smoke(python, tmp_path)
    finally:
        kept.rename(library)
    assert str(without["explain"]).startswith("linear_lrt: reference: ")
    (warning,) = without["warnings"]
    assert warning.startswith("RuntimeWarning: vdropkern runs on its slow reference: ")
    assert library.name in warning
    assert "pip install" in warning
    for kernel, reference in zip(with_kernels["numbers"], without["numbers"], strict=True):
        assert kernel == pytest.approx(reference, rel=1e-4, abs=1e-4)


def test_library_that_does_not_load_is_a_warning_too(
    kernel_wheel: Wheel, installed: tuple[Path, Path], tmp_path: Path
):
    python, package = installed
    library = package / Path(LIBRARY).name
    kept = library.rename(tmp_path / "kept.so")
    library.write_bytes(b"not a library")
    try:
        result = smoke(python, tmp_path)
    finally:
        kept.rename(library)
    (warning,) = result["warnings"]
    assert "did not load with torch" in warning


@pytest.fixture(scope="module")
def torchless(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(Python that has setuptools and no torch, a copy of the sources)."""
    setuptools = pytest.importorskip("setuptools", minversion="77", reason="needed to build")
    folder = tmp_path_factory.mktemp("torchless")
    (folder / "only").mkdir()
    site_packages = Path(setuptools.__file__).parent.parent
    for pattern in ("setuptools", "setuptools-*.dist-info", "_distutils_hack"):
        for path in site_packages.glob(pattern):
            (folder / "only" / path.name).symlink_to(path)
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    return make_venv(folder / "venv", folder / "only"), source


def test_build_without_torch_is_pure_and_says_so(torchless: tuple[Path, Path], tmp_path: Path):
    python, source = torchless
    log = run([python, "-c", BUILD, tmp_path], source, VDROPKERN_REQUIRE_KERNELS="")
    pure = read_wheel(tmp_path, log)
    assert pure.path.name == f"vdropkern-{vdropkern.__version__}-py3-none-any.whl"
    assert LIBRARY not in pure.names
    assert pure.build == {"kernels": False, "reason": "torch was not found"}
    assert "WITHOUT its compiled kernels: torch was not found" in log
    assert "pip install --no-build-isolation" in log


def test_build_that_requires_kernels_fails_without_torch(torchless: tuple[Path, Path], tmp_path: Path):
    python, source = torchless
    with pytest.raises(AssertionError, match="no kernels can be built: torch was not found"):
        run([python, "-c", BUILD, tmp_path], source, VDROPKERN_REQUIRE_KERNELS="1")
    assert list(tmp_path.iterdir()) == []


def test_metadata_imports_no_torch_and_compiles_nothing(tmp_path: Path):
    pytest.importorskip("setuptools", minversion="77", reason="needed to build")
    code = """
        import sys
        import setuptools.build_meta
        setuptools.build_meta.prepare_metadata_for_build_wheel(sys.argv[1])
        assert "torch" not in sys.modules and "vdropkern" not in sys.modules
    """
    run([sys.executable, "-c", textwrap.dedent(code), tmp_path], ROOT)
    (metadata,) = tmp_path.glob("*.dist-info/METADATA")
    text = metadata.read_text()
    assert f"\nVersion: {vdropkern.__version__}\n" in text
    assert "\nRequires-Dist: torch>=2.10\n" in text


def test_source_distribution_holds_all_that_the_tree_has(tmp_path: Path):
    pytest.importorskip("setuptools", minversion="77", reason="needed to build")
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = set(run(["git", "ls-files"], ROOT).splitlines())
    for name in tracked:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    code = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    run([sys.executable, "-c", code], tmp_path, VDROPKERN_REQUIRE_KERNELS="0")
    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert tracked - held == {".gitignore"}


def test_pre_commit_pins_what_the_lint_extra_pins():
    def pins(file: str) -> dict[str, str]:
        return dict(re.findall(r'"(ruff|clang-format)==([\d.]+)"', (ROOT / file).read_text()))

    assert pins(".pre-commit-config.yaml") == pins("pyproject.toml")
    assert set(pins("pyproject.toml")) == {"ruff", "clang-format"}
