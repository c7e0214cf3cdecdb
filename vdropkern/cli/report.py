"""`vdropkern report` of several runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from ..recipes.compare import collect, group
from ..recipes.compare_page import write_comparison
from ..recipes.sweep import SWEEP_NAME
from .console import UsageError, check_folder, console, exit_codes


def run_report(folders: Sequence[Path], out: Path | None) -> None:
    """Do what `vdropkern report FOLDER...` was asked to."""
    with exit_codes("report"):
        if importlib.util.find_spec("matplotlib") is None:
            raise UsageError('the report needs matplotlib: pip install "vdropkern[recipes]"')
        if absent := [folder for folder in folders if not folder.exists()]:
            raise UsageError(f"{absent[0]}: no such folder")
        if out is not None:
            check_folder(out)
        records, missing = collect(folders)
        if out is None:
            if len(folders) > 1 or not (folders[0] / SWEEP_NAME).exists():
                raise UsageError("--out: not given; a folder for the report of these runs accepted")
            out = folders[0]
        page = write_comparison(out, group(records), missing)
    console.print(f"report: {page} and {page.with_suffix('.md').name}", highlight=False, soft_wrap=True)
