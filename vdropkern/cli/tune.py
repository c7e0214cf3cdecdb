"""`vdropkern tune`: measure the tiles of the Triton kernels on this GPU and write them to a file."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import torch

from .._files import write_whole
from ..ops.linear_lrt import tiles, tune
from .console import UsageError, console, exit_codes

DEFAULT_PROBLEMS = ("64x512x512", "512x1024x1024", "512x4096x4096", "4096x4096x4096")


def run_tune(problems: list[str], arithmetics: list[str], out: Path) -> None:
    """Do what `vdropkern tune` was asked to."""
    with exit_codes("tune"):
        try:
            shapes = [tune.Problem.parse(text) for text in problems]
        except ValueError as err:
            raise UsageError(f"--problem: {err}") from None
        try:
            names = tune.check_arithmetics(arithmetics)
        except ValueError as err:
            raise UsageError(f"--arithmetic: {err}") from None
        if out.exists() and not out.is_dir():
            raise UsageError(f"--out: {out} is a file; give a folder, which is made if it is not there")
        try:
            device = tune.current_device()
        except RuntimeError as err:
            raise UsageError(str(err)) from None
    out.mkdir(parents=True, exist_ok=True)
    console.print(f"tuning {torch.cuda.get_device_name()} ({device.architecture}); this takes minutes")
    found = tune.search(shapes, names, device, tune.measure_on_gpu, tell=console.print)
    measured = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": importlib.metadata.version("triton"),
        "problems": problems,
        "arithmetics": list(names),
    }
    path = out / f"{device.architecture}.json"
    write_whole(path, tiles.dump(device.architecture, found, measured))
    console.print(f'wrote {path}; take it with vdropkern.use_tiles("{path}")', highlight=False)
