"""Run the tests of the sparse ops on kernels built with the address and undefined-behaviour sanitizers.

    python -m tests.sanitized [arguments of pytest, instead of the selection]

Builds a library of the sparse ops alone (in build/sanitized, with CMake and GCC: only what changed) and lays
a package of links to vdropkern/ around it, so that the library in place stays as it is; other ops run on
their reference. What is out of bounds, handed to kernels past every check, must be stopped before a test is
run: sanitizers that do not see mistakes prove nothing.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "sanitized"
LIBRARY = "_C.abi3.so"
COMPILER = os.environ.get("CXX", "g++")
OPS = ("spmm", "sparse_conv2d", "max_pool2d", "sparse_net")
# not what runs no kernel or traces one
SELECTION = (
    "tests/ops/test_spmm.py",
    "tests/ops/test_spmm_packed.py",
    "tests/ops/test_spmm_lookup.py",
    "tests/ops/test_sparse_conv2d.py",
    "tests/ops/test_sparse_conv2d_cells.py",
    "tests/ops/test_max_pool2d.py",
    "tests/ops/test_sparse_net.py",
    "tests/test_sparse_sequential.py",
    "tests/test_sparse_fuzz.py",
    "-k=not reference and not opcheck and not without_a_kernel and not bad_arguments and not from_dense",
)
SETUP = f"""
import torch
from pathlib import Path
import vdropkern
from tests.ops.test_sparse_conv2d import band_of, layer
from tests.ops.test_sparse_conv2d_cells import packed_in_cells
from tests.ops.test_spmm_lookup import damaged_lookups, packed_for_one
from tests.ops.test_spmm_packed import damaged, packed_as
from vdropkern.ops.sparse_conv2d import _op as conv
from vdropkern.sparse import SparseConv2d
from vdropkern.ops.spmm import _op as csr, _packed_op as packed
assert Path(vdropkern.__file__).parent == Path({str(BUILD / "vdropkern")!r})
assert vdropkern._backend.library_error() is None
def run_csr(column=0, values=torch.ones(1)):
    csr.native(torch.ones(1, 4), values, torch.tensor([column]), torch.tensor([0, 1]), None)
def run_packed(part="bias", value=0, batch=1):
    good = packed_as(torch.ones(16, 4), None, torch.float32)
    packed.native(torch.ones(batch, 4), damaged(good, part, value), 16, False)
def run_lookup(part="bias", place=0, value=0):
    if not vdropkern._backend.cpu_byte_lookup():  # this CPU reads the other form: damage that one alike
        return run_packed(*dict(bias=(), rows=("rows", 16), chunk=("index", 2600))[part])
    good = packed_for_one(torch.ones(16, 4))
    packed.native(torch.ones(1, 4), damaged_lookups(good, part, place, value), 16, False)
def run_conv(part="bias", value=0):
    net, x = layer("3x3", 1.0), torch.ones(1, 5, 9, 13)
    g = net._geometry(x)
    conv.native(x, damaged(net.packed(g), part, value), 11, list(g.window), band_of(g), False)
def run_cells(part="bias", value=0):
    lanes = vdropkern._backend.cpu_lanes()
    if lanes == 4:  # this CPU has no kernel that reads these
        return run_packed(*dict(bias=(), cell_index=("index", 2600))[part])
    net = SparseConv2d.from_dense(torch.nn.Conv2d(5, 16, 3, padding=1))
    x = torch.ones(1, 5, 9, 13)
    g, good = net._geometry(x), packed_in_cells(net, x, (lanes // 4, 4, 5, 4))
    conv.native(x, damaged(good, part, value), 16, list(g.window), band_of(g), False)
"""
RIGHT = "run_csr(); run_packed(); run_packed(batch=9); run_lookup(); run_conv(); run_cells()"
# what is wrong -> what the report calls it
MISTAKES = {
    # behind the inputs and outputs that the kernel laid out in memory of its own, by vectors of any length
    "run_csr(column=8)": "use-after-poison",
    "run_csr(values=torch.frombuffer(bytearray(8), dtype=torch.float32, count=1, offset=1))": "misaligned",
    "run_packed('rows', 16)": "heap-buffer-overflow",
    "run_packed('start', 200, batch=9)": "heap-buffer-overflow",
    "run_lookup('rows', 0, 16)": "heap-buffer-overflow",
    "run_lookup('chunk', 0, 20)": "use-after-poison",
    "run_conv('start', 400)": "heap-buffer-overflow",
    "run_cells('cell_index', 260)": "use-after-poison",
}


def tool(name: str) -> str:
    return shutil.which(name) or str(Path(sysconfig.get_path("scripts"), name))


def build() -> None:
    """The library, and links to everything else of the package beside it."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.submodule_search_locations
    torch = spec.submodule_search_locations[0]
    options = [f"-DVDROPKERN_TORCH_{name.upper()}={torch}/{name}" for name in ("include", "lib")]
    options += [f"-DCMAKE_CXX_COMPILER={COMPILER}", f"-DVDROPKERN_OPS={';'.join(OPS)}"]
    options += ["-DVDROPKERN_SANITIZE=ON", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    cmake, package = BUILD / "cmake", BUILD / "vdropkern"
    command = [tool("cmake"), "-S", str(ROOT), "-B", str(cmake), "-GNinja", *options]
    subprocess.run(command, check=True)
    subprocess.run([tool("cmake"), "--build", str(cmake)], check=True)
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir()
    for path in (ROOT / "vdropkern").iterdir():
        if path.name not in (LIBRARY, "__pycache__"):
            (package / path.name).symlink_to(path)
    (package / LIBRARY).symlink_to(cmake / LIBRARY)


def environment() -> dict[str, str]:
    """The sanitizer before all else; after it libstdc++, whose exceptions it must find when it starts."""
    found = []
    for name in ("libasan.so", "libstdc++.so.6"):
        path = subprocess.check_output([COMPILER, f"-print-file-name={name}"], text=True).strip()
        if not Path(path).is_absolute():
            sys.exit(f"tests.sanitized: {COMPILER} has no {name}; GCC is needed: name one, as in CXX=g++-12")
        found.append(path)
    options = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return {**os.environ, **options, "LD_PRELOAD": " ".join(found), "PYTHONPATH": f"{BUILD}:{ROOT}"}


def missed(code: str, word: str, env: dict[str, str]) -> str:
    """'' if `code` was stopped by a report with `word`, or ran where there is none; else what happened."""
    command = [sys.executable, "-c", SETUP + code]
    done = subprocess.run(command, env=env, cwd=BUILD, capture_output=True, text=True)
    if word in done.stderr and (done.returncode == 0) == (word == ""):
        print(f"{code}: {'stopped, ' + word if word else 'ran'}", flush=True)
        return ""
    return f"{code}: expected {word or 'no report'}, exit code {done.returncode}\n{done.stderr[-4000:]}"


def main() -> int:
    env = environment()
    build()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        runs = pool.map(lambda item: missed(*item, env), {RIGHT: "", **MISTAKES}.items())
    if failures := "\n".join(filter(None, runs)):
        print(failures, file=sys.stderr)
        return 1
    # reports go to the very stderr, and the sanitized package comes before the one in place
    command = [sys.executable, "-m", "pytest", "-q", "--capture=sys", "--import-mode=append"]
    command += ["-o", "pythonpath=build/sanitized . build/host_math", *(sys.argv[1:] or SELECTION)]
    return subprocess.run(command, env=env, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
