"""`vdropkern train estimator-study`."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..recipes import estimator_study
from .console import UsageError, console, exit_codes, refuse_several, set_threads
from .settings import flag

LAST_SEED = 10**15  # a thousand seeds of torch's 2^63 to each


def run_study(
    given: dict[str, Any],
    further: Sequence[str],
    *,
    out: Path | None,
    overwrite: bool,
    resume: bool,
    threads: int | None,
) -> None:
    """Measure, draw and report; of the settings only the seed and the scale are known to it.

    Args:
        given: settings and flags of `vdropkern train` by name.
        further: words that `vdropkern train` does not know.
    """
    refuse_several(f"train {estimator_study.NAME}")
    with exit_codes("train"):
        known = [flag(name) for name in given if name not in ("seed", "scale")]
        if unknown := [*known, *["--resume"] * resume, *further]:
            raise UsageError(
                f"{estimator_study.NAME} takes --seed, --scale, --out, --overwrite, --threads; "
                f"not {', '.join(unknown)}"
            )
        if importlib.util.find_spec("matplotlib") is None:
            raise UsageError('the report needs matplotlib: pip install "vdropkern[recipes]"')
        scale = given.get("scale", "full")
        if scale not in estimator_study.SCALES:
            raise UsageError(f"--scale: {scale!r} given; accepted: {', '.join(estimator_study.SCALES)}")
        seed = given.get("seed", 0)
        if not 0 <= seed <= LAST_SEED:
            raise UsageError(f"--seed: {seed} given, 0 to {LAST_SEED:,} accepted")
        config = replace(estimator_study.SCALES[scale], seed=seed)
        folder = out or Path("runs") / f"{estimator_study.NAME}-seed{config.seed}"
        if not overwrite and any((folder / name).exists() for name in estimator_study.WRITTEN):
            raise UsageError(f"{folder} holds a run already: --overwrite replaces it")
        set_threads(threads)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise UsageError(f"--out: {folder} cannot be written ({err.strerror})") from err
    document = estimator_study.run(config, lambda text: console.print(text, highlight=False))
    report = estimator_study.write(document, folder)
    console.print(f"report: {report}", highlight=False, soft_wrap=True)
