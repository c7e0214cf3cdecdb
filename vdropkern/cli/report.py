"""`vdropkern report` of several runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from ..recipes.compare import collect, group
from ..recipes.compare_page import write_comparison
from ..recipes.sweep import SWEEP_NAME
from .console import UsageError, console, exit_codes


def run_report(folders: Sequence[Path], out: Path | None) -> None:
    """Do what `vdropkern report FOLDER...` was asked to."""
    with exit_codes("report"):
        if importlib.util.find_spec("matplotlib") is None:
            raise UsageError('the report needs matplotlib: pip install "vdropkern[recipes]"')
        if absent := [folder for folder in folders if not folder.exists()]:
            raise UsageError(f"{absent[0]}: no such folder")
        if out is not None and out.is_file():
            raise UsageError(f"--out: {out} is a file; give a folder, which is made if it is not there")
        if out is not None and (out / "results.json").exists():
            raise UsageError(f"--out: {out} holds a run with a report of its own; another folder accepted")
        records, missing = collect(folders)
        if out is None:
            if len(folders) > 1 or not (folders[0] / SWEEP_NAME).exists():
                raise UsageError("--out: a folder for the report of these accepted")
            out = folders[0]
        page = write_comparison(out, group(records), missing)
    console.print(f"report: {page} and {page.with_suffix('.md').name}", highlight=False, soft_wrap=True)
