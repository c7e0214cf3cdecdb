"""What the command line says of itself: info, help, methods, and what it needs installed."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

import vdropkern
from vdropkern import _backend, _devices, _info
from vdropkern.cli.app import app
from vdropkern.cli.info import render
from vdropkern.methods import METHODS

from .command_line import MAIN, python, run

MODULE = "import runpy; runpy.run_module('vdropkern', run_name='__main__')"


def test_info_names_versions_backends_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDROPKERN_DATA", "/some/digits")
    code, text = run("info")
    assert code == 0
    for part in (vdropkern.__version__, torch.__version__, "/some/digits"):
        assert part in text
    architectures = ", ".join(_devices.cuda_build()[1]) or "none"
    assert f"CUDA architectures {architectures}" in text
    for op in ("linear_lrt", "kl", "spmm", "philox_bits", "philox_normal"):
        assert f" {op}: {_backend.explain(op).splitlines()[0].partition(': ')[2]}" in text
    for name in ("VDROPKERN_BACKEND", "VDROPKERN_CPU_ISA", "VDROPKERN_CACHE", "VDROPKERN_DATA"):
        assert name in text


def test_info_as_json() -> None:
    facts = json.loads(CliRunner().invoke(app, ["info", "--json"]).output)
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["compiled_library"]["loaded"] == (_backend.library_error() is None)
    assert facts["compiled_library"]["instruction_sets"]["running"] == _backend.cpu_isa()
    assert set(facts["ops"]) >= {"linear_lrt", "kl", "spmm"}


def test_info_says_which_backend_was_asked_for() -> None:
    with vdropkern.use_backend("reference"):
        _, text = run("info")
    assert "linear_lrt: reference: forced" in text


@pytest.mark.parametrize(
    "note, said",
    [
        (None, "built with: not noted"),
        ({"kernels": False, "reason": "no torch"}, "built without it: no torch"),
        ({"kernels": True, "torch": "2.13.0", "compiler": "GNU 12"}, "built with: torch 2.13.0; GNU 12"),
    ],
)
def test_info_tells_what_the_library_was_built_with(note: dict[str, object] | None, said: str) -> None:
    facts = _info.gather()
    facts["compiled_library"]["build"] = note
    assert said in render(facts)


def test_info_needs_nothing_but_torch() -> None:
    absent = ("typer", "rich", "matplotlib", "mlxtend", "safetensors", "jinja2.ext")
    done = python(absent, [], MODULE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("vdropkern ")
    assert "linear_lrt: " in done.stdout
    assert done.stdout == python(absent, ["info"], MAIN).stdout


def test_without_the_extra_commands_say_what_to_install() -> None:
    done = python(("typer",), ["train", "lenet-300-100"], MAIN)
    assert done.returncode == 2
    assert done.stderr.startswith('vdropkern train needs typer: pip install "vdropkern[cli]"')
    assert done.stdout == ""


def test_methods_prints_the_table_and_one_of_it() -> None:
    code, text = run("methods")
    assert code == 0 and all(name in text for name in METHODS)
    for name in ("sparse-vd", "SparseVD"):
        code, text = run("methods", name)
        assert code == 0 and "1701.05369" in text and "init_log_sigma2" in text
    code, text = run("methods", "sparsevd")
    assert code == 2 and "'sparsevd' is no method; accepted:" in text and "sparse-vd" in text


def test_help_teaches() -> None:
    code, text = run("--help")
    assert code == 0
    for command in ("info", "train", "sparsify", "report", "bench"):
        assert f" {command} " in text
    _, text = run("train", "--help")
    assert "lenet-300-100" in text
    assert "Examples" in text
    assert run("--version") == (0, vdropkern.__version__)
