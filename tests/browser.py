"""A page in headless Chromium: what it complains of, how wide it is, how it looks."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
# the page in a frame as wide as a phone; when all of it is there, its measures take the place of everything
_FRAME = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
<iframe id="page" style="width: {width}px; height: 800px; border: 0" srcdoc="{page}"></iframe>
<script>
addEventListener("load", () => {{
  const page = document.getElementById("page").contentDocument;
  const images = [...page.images];
  const found = {{
    width: page.documentElement.clientWidth,
    scrollWidth: Math.max(page.documentElement.scrollWidth, page.body.scrollWidth),
    images: images.length,
    broken: images.filter(image => !image.naturalWidth).length,
    nameless: images.filter(image => !image.alt).length,
  }};
  document.body.textContent = "measured " + JSON.stringify(found);
}});
</script>"""


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-extensions", "--hide-scrollbars", "--enable-logging=stderr", "--log-level=0",
        f"--user-data-dir={folder / 'profile'}", *arguments,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def _complaints(text: str) -> list[str]:
    """What pages wrote to the console, errors of loading among it."""
    return [line for line in text.splitlines() if ":CONSOLE" in line]


def measure(page: str, width: int, folder: Path) -> tuple[dict[str, int], list[str]]:
    """Measures of a page in a window of `width` CSS pixels, and what it wrote to the console."""
    frame = folder / "frame.html"
    frame.write_text(_FRAME.format(width=width, page=html.escape(page)), encoding="utf-8")
    done = _run(folder, "--dump-dom", frame.as_uri())
    (found,) = re.findall(r"measured ({.*?})", html.unescape(done.stdout))
    return json.loads(found), _complaints(done.stderr)


def screenshot(path: Path, out: Path, size: tuple[int, int], *, dark: bool = False) -> list[str]:
    """Draw a page into a PNG; returns what it wrote to the console."""
    done = _run(
        out.parent, f"--screenshot={out}", f"--window-size={size[0]},{size[1]}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}", path.as_uri(),
    )  # fmt: skip
    return _complaints(done.stderr)
