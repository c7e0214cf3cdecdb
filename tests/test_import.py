"""What `import vdropkern` does, and above all what it does not: each test looks at a fresh interpreter."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest
import torch

import vdropkern


def run_fresh(code: str) -> str:
    """Run `code` in a fresh interpreter and return what it printed; fail with its errors if it fails."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FACTS = """
    import json, sys, warnings
    import torch

    def state():
        return dict(
            rng=torch.get_rng_state().tolist(), threads=torch.get_num_threads(), grad=torch.is_grad_enabled(),
            interop_threads=torch.get_num_interop_threads(), dtype=str(torch.get_default_dtype()),
            deterministic=torch.are_deterministic_algorithms_enabled(), warnings=len(warnings.filters),
        )

    before, loaded = state(), set(sys.modules)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import vdropkern
    after = state()
    print(json.dumps(dict(
        before=before, after=after, new=sorted(set(sys.modules) - loaded), warnings=[str(w) for w in caught],
        cuda_initialized=torch.cuda.is_initialized(), stdlib=sorted(sys.stdlib_module_names),
    )))
"""


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """The interpreter before and after `import vdropkern`, torch being imported already."""
    return json.loads(run_fresh(FACTS))


def test_import_warns_of_nothing(facts: dict[str, Any]):
    # not even where the kernels are missing: the first op does that
    assert facts["warnings"] == []


def test_import_brings_only_torch_and_the_standard_library(facts: dict[str, Any]):
    packages = {name.partition(".")[0] for name in facts["new"]}
    assert packages - set(facts["stdlib"]) - {"torch"} == {"vdropkern"}
    assert [name for name in facts["new"] if name.startswith(("torch._dynamo", "torch._inductor"))] == []


def test_import_leaves_torch_as_it_was(facts: dict[str, Any]):
    assert facts["after"] == facts["before"]
    assert not facts["cuda_initialized"]


CHILD = """
    import multiprocessing, warnings
    import torch
    import vdropkern
    from vdropkern import functional as VF

    def work(queue):
        torch.set_num_threads(1)  # as torch's own DataLoader workers do
        queue.put(VF.philox_normal(7, 33, 5).tolist())

    if {parent_first}:
        VF.philox_normal(7, 33, 5)
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork with threads
        queue = context.Queue()
        child = context.Process(target=work, args=(queue,))
        child.start()
    theirs = queue.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0, child.exitcode
    assert theirs == VF.philox_normal(7, 33, 5).tolist()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("parent_first", [False, True], ids=["import-only", "after-an-op"])
def test_forked_child_runs_ops(parent_first: bool):
    run_fresh(CHILD.format(parent_first=parent_first))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_forked_child_can_initialise_cuda():
    run_fresh(
        """
        import multiprocessing
        import vdropkern
        import torch
        def work():
            torch.zeros(1, device="cuda")
        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        child.join(60)
        assert child.exitcode == 0, child.exitcode
        """
    )


def test_module_runs_as_info():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "vdropkern"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for expected in (vdropkern.__version__, torch.__version__, "linear_lrt: ", "kl: ", "philox_normal: "):
        assert expected in done.stdout
    assert done.stderr == ""


def test_public_names_exist_and_are_documented():
    for name in vdropkern.__all__:
        thing = getattr(vdropkern, name)
        assert isinstance(thing, str) or thing.__doc__, f"vdropkern.{name} has no docstring"
    assert vdropkern.__all__ == sorted(vdropkern.__all__)


def test_version_is_that_of_the_installation():
    try:
        installed = importlib.metadata.version("vdropkern")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("vdropkern is not installed, only on sys.path")
    assert installed.partition("+")[0] == vdropkern.__version__  # "+cu130": built with CUDA kernels
