"""Which backend runs, and what is said about it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
import torch

from vdropkern import _backend, functional
from vdropkern._backend import BackendUnavailableError
from vdropkern.ops.kl import _kl_op

HAVE_KERNELS = _backend.library_error() is None
needs_kernels = pytest.mark.skipif(not HAVE_KERNELS, reason=str(_backend.library_error()))


def in_new_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `code` where the package was not imported yet."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("VDROPKERN_")}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**clean, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_kernels_are_here_where_they_are_required(pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("--require-kernels"):
        pytest.skip("asked only with --require-kernels")
    assert _backend.library_error() is None
    for op in ("philox_bits", "philox_normal", "kl", "kl_grad", "linear_lrt", "linear_lrt_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"vdropkern::{op}", "CPU"), op


def test_use_backend_nests_and_restores() -> None:
    before = _backend.get_backend()
    with _backend.use_backend("reference"):
        assert _backend.get_backend() == "reference"
        with _backend.use_backend("auto"):
            assert _backend.get_backend() == "auto"
        assert _backend.get_backend() == "reference"
    with pytest.raises(ZeroDivisionError), _backend.use_backend("reference"):
        raise ZeroDivisionError
    assert _backend.get_backend() == before


def test_unknown_names_are_refused() -> None:
    with pytest.raises(
        ValueError, match="use_backend: unknown backend 'gpu'; accepted: auto, reference, cpu"
    ):
        _backend.use_backend("gpu").__enter__()
    with pytest.raises(ValueError, match="explain: unknown op 'conv'; accepted: philox_bits, "):
        _backend.explain("conv")
    with pytest.raises(ValueError, match="cpu_isas: kind must be 'built' or 'supported', got 'all'"):
        _backend.cpu_isas("all")
    with pytest.raises(BackendUnavailableError, match="use_cpu_isa: 'sse9' cannot run here; runnable: "):
        _backend.use_cpu_isa("sse9").__enter__()


def test_explain_says_why_not() -> None:
    with _backend.use_backend("reference"):
        first, *others = _backend.explain("linear_lrt").splitlines()
    assert first == "linear_lrt: reference: forced"
    assert others[0] == "  not cpu: backend 'reference' was asked for"
    assert {line.split(":")[0].strip() for line in others} == {"not cpu", "not cuda", "not triton"}
    elsewhere = _backend.explain("kl", torch.empty(2, device="meta")).splitlines()
    assert elsewhere[0].startswith("kl: reference: ")


@needs_kernels
def test_explain_names_the_instruction_set() -> None:
    for isa in _backend.cpu_isas():
        with _backend.use_cpu_isa(isa):
            assert _backend.explain("linear_lrt").startswith(
                f"linear_lrt: cpu ({isa}): the fastest that can run"
            )
            assert _backend.cpu_isa() == isa
            with _backend.use_backend("cpu"):
                assert _backend.explain("kl").startswith(f"kl: cpu ({isa}): forced")


@needs_kernels
def test_instruction_sets() -> None:
    built, supported = _backend.cpu_isas("built"), _backend.cpu_isas("supported")
    assert set(supported) <= set(built) <= set(_backend.CPU_ISAS)
    assert "portable" in supported
    assert _backend.cpu_isa() == supported[-1] or "VDROPKERN_CPU_ISA" in os.environ
    before = _backend.cpu_isa()
    with _backend.use_cpu_isa("portable"):
        assert _backend.cpu_isa() == "portable"
    assert _backend.cpu_isa() == before


@needs_kernels
def test_environment_chooses_backend_and_instruction_set() -> None:
    code = """
        from vdropkern import _backend
        print(_backend.get_backend(), _backend.cpu_isa())
        print(_backend.explain("linear_lrt").splitlines()[0])
    """
    done = in_new_process(code, VDROPKERN_BACKEND="reference", VDROPKERN_CPU_ISA="portable")
    assert done.stdout.splitlines() == ["reference portable", "linear_lrt: reference: forced"], done.stderr


def test_explain_says_what_becomes_of_a_forced_backend_that_cannot_run() -> None:
    code = """
    from vdropkern import _backend, explain
    from vdropkern.ops import philox_bits
    import torch
    print(explain("philox_bits"))
    try:
        philox_bits.philox_bits(torch.tensor(1), 2, 3)
    except _backend.BackendUnavailableError as err:
        print(err)
    """
    done = in_new_process(code, VDROPKERN_BACKEND="cuda", CUDA_VISIBLE_DEVICES="")
    first, *others = done.stdout.splitlines()
    said = "backend 'cuda' was forced and cannot run it; a call raises BackendUnavailableError"
    assert first == f"philox_bits: none: {said}", done.stderr
    reason = next(line.partition(": ")[2] for line in others if line.startswith("  not cuda: "))
    assert others[-1] == f"philox_bits: backend 'cuda' cannot run: {reason}"


def test_an_empty_variable_is_one_that_is_not_set() -> None:
    done = in_new_process("from vdropkern import _backend; print(_backend._backend)", VDROPKERN_BACKEND="")
    assert done.stdout.split() == ["auto"], done.stderr


def test_wrong_environment_is_refused() -> None:
    done = in_new_process("import vdropkern._backend", VDROPKERN_BACKEND="fast")
    assert done.returncode != 0
    expected = (
        "environment variable VDROPKERN_BACKEND: unknown backend 'fast'; accepted: auto, reference, cpu"
    )
    assert expected in done.stderr
    done = in_new_process("import vdropkern._backend", VDROPKERN_CPU_ISA="avx")
    assert done.returncode != 0
    assert "VDROPKERN_CPU_ISA: unknown instruction set 'avx'; accepted: portable, avx2, avx512" in done.stderr


WITHOUT_LIBRARY = """
    import torch, warnings
    real = torch.ops.load_library
    def refuse(path): raise OSError("undefined symbol: made up")
    torch.ops.load_library = refuse
    from vdropkern import _backend, functional as f
"""


def test_fallback_warns_once_and_works() -> None:
    """Without the compiled library: one warning with the reason and the remedy, then the reference."""
    done = in_new_process(
        WITHOUT_LIBRARY
        + """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mu = torch.zeros(3, 5, requires_grad=True)
        for _ in range(2):
            y, kl = f.linear_lrt_kl(torch.ones(2, 5), mu, torch.zeros(3, 5))
            (y.sum() + kl).backward()
    ours = [w for w in caught if "vdropkern" in str(w.message)]
    print(len(ours), ours[0].category.__name__, str(ours[0].message))
    print(_backend.cpu_isa(), _backend.cpu_isas())
    print(_backend.explain("linear_lrt"))
    """
    )
    warning, isas, chosen, why, *_ = done.stdout.splitlines() or [done.stderr]
    assert warning.startswith("1 RuntimeWarning vdropkern runs on its slow reference: ")
    assert "reinstall where torch and a C++ compiler can be found" in warning
    assert isas == "None ()"
    assert chosen == "linear_lrt: reference: nothing faster can run"
    assert why.startswith("  not cpu: ")


def test_forcing_missing_kernels_raises() -> None:
    done = in_new_process(
        WITHOUT_LIBRARY
        + """
    try:
        _backend.use_backend("cpu").__enter__()
    except _backend.BackendUnavailableError as err:
        print(err)
    _backend._backend = "cpu"  # as VDROPKERN_BACKEND=cpu sets it
    try:
        f.philox_bits(1, 2, 3)
    except _backend.BackendUnavailableError as err:
        print(err)
    """
    )
    first, second = done.stdout.splitlines() or [done.stderr, ""]
    assert first.startswith("backend 'cpu' cannot run: ")
    assert second.startswith("philox_bits: backend 'cpu' cannot run: ")


@needs_kernels
def test_forcing_the_cpu_on_another_device_raises() -> None:
    class Elsewhere:
        device = torch.device("cuda", 1)
        dtype = torch.float32
        is_cpu = is_meta = False

    with (
        _backend.use_backend("cpu"),
        pytest.raises(BackendUnavailableError, match="the input is on cuda:1; move it"),
    ):
        _backend.choose(_kl_op, Elsewhere())  # type: ignore[arg-type]


@needs_kernels
def test_backends_agree_element_by_element() -> None:
    """Integers to the bit; normals within twice the bound each backend has on its own."""
    with _backend.use_backend("reference"):
        bits, normals = functional.philox_bits(5, 61, 37), functional.philox_normal(5, 61, 37)
    for isa in _backend.cpu_isas():
        with _backend.use_backend("cpu"), _backend.use_cpu_isa(isa):
            assert torch.equal(functional.philox_bits(5, 61, 37), bits)
            torch.testing.assert_close(functional.philox_normal(5, 61, 37), normals, rtol=1e-6, atol=0)
