"""Pictures and report: they hold the numbers, in one file, whatever the method and the names."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from vdropkern.recipes import RECIPES
from vdropkern.recipes.figures import DARK, LIGHT, LayerState, curves, histograms, receptive_fields
from vdropkern.recipes.report import PICTURE_NAMES, render, write_report
from vdropkern.recipes.text import clock, compression, plural

RECIPE = RECIPES["lenet-300-100"]


def history(epochs: int, nonzero: int = 3_000) -> list[dict[str, float]]:
    return [
        {
            "epoch": e + 1, "nll": 1 / (e + 1), "kl": 1e5 / (e + 1), "loss": 2.0, "kl_weight": e / epochs,
            "lr": 1e-3, "test_nll": 0.5, "test_error": 10 / (e + 1), "weights": 266_200,
            "nonzero": nonzero, "sparsity": 1 - nonzero / 266_200, "seconds": 1.0,
        }
        for e in range(epochs)
    ]  # fmt: skip


def layers(*, prunes: bool = True, log_alpha: bool = True) -> list[LayerState]:
    generator = torch.Generator().manual_seed(0)
    states = []
    for name, shape in (("fc1", (300, 784)), ("fc2", (100, 300)), ("fc3", (10, 100))):
        weight = torch.randn(shape, generator=generator)
        alpha = torch.randn(shape, generator=generator) * 4
        keep = alpha < 3 if prunes else torch.ones(shape, dtype=torch.bool)
        states.append(LayerState(name, weight, keep, alpha if log_alpha else None, 3.0 if prunes else None))
    return states


def timing(us: float) -> dict[str, float]:
    return {"median_us": us, "p20_us": 0.9 * us, "p80_us": 1.2 * us}


def results(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "format": 1, "recipe": "lenet-300-100", "command": "vdropkern train lenet-300-100 --data 'a b'",
        "config": {"method": "sparse-vd", "epochs": 4, "seed": 17},
        "data": {
            "name": "IDX files", "source": "/data", "note": "", "sha256": "ab12", "train_size": 60_000,
            "test_size": 10_000, "input": [784],
        },
        "versions": {"vdropkern": "0.1.0", "torch": "2.13.0", "python": "3.11", "os": "Linux"},
        "machine": {
            "processor": "A CPU", "logical_cores": 2, "threads": 2, "device": "cpu",
            "backends": {"kl": "cpu"},
        },
        "seconds": {"training": 3723.0},
        "test": {"error": 1.83, "nll": 0.1, "pruned_error": 1.84, "pruned_nll": 0.1},
        "layers": [
            {
                "name": "fc1", "weights": 235_200, "nonzero": 2_600, "sparsity": 0.98895,
                "runs_as": "SparseLinear",
            }
        ],
        "total": {"weights": 266_200, "nonzero": 3_900, "sparsity": 0.98535},
        "inference": [
            {"batch": 1, "rounds": 50, "speed_up": 6.54, "dense": timing(80.0), "pruned": timing(12.5)}
        ],
        "model": "pruned.safetensors", "history": history(4),
    }  # fmt: skip
    return {**base, **changes}


class Page(HTMLParser):
    """Text, addresses and tags of a page; closes what it opens."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "srcset", "href")]
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def colours(image: np.ndarray) -> int:
    """How many colours a picture [height, width, 4] holds."""
    packed = np.ascontiguousarray((image * 255).round().astype(np.uint8)).view(np.uint32)
    return len(np.unique(packed))


def read(page: str) -> tuple[str, Page]:
    parsed = Page(page)
    assert parsed.open == []
    return " ".join(" ".join(parsed.text).split()), parsed


def test_the_report_holds_the_numbers_and_needs_no_other_file(tmp_path: Path) -> None:
    path = write_report(tmp_path, results(), layers(), RECIPE)
    assert {file.name for file in tmp_path.iterdir()} == {"report.html", *PICTURE_NAMES}
    text, page = read(path.read_text(encoding="utf-8"))
    for part in (
        "1.84 %", "68.3x", "3,900 of 266,200", "6.5x", "12.5 µs", "1:02:03", "2 threads", "fc1", "98.89 %",
        "SparseLinear", "vdropkern train lenet-300-100 --data 'a b'", "seed 17", "sha256 ab12",
    ):  # fmt: skip
        assert part in text, part
    assert len(page.addresses) == 2 * len(PICTURE_NAMES)
    for address in page.addresses:
        assert address.startswith("data:image/png;base64,")
    embedded = {base64.b64decode(address.partition(",")[2]) for address in page.addresses}
    assert {(tmp_path / name).read_bytes() for name in PICTURE_NAMES} <= embedded
    assert not re.search(r"https?://", path.read_text(encoding="utf-8"))


PICTURES = dict.fromkeys(PICTURE_NAMES, (b"light", b"dark"))


def test_a_note_is_said_plainly_and_names_are_escaped() -> None:
    data = {**results()["data"], "note": "5,000-digit subset", "name": "<b>x</b>", "source": "/a&b/<c>"}
    page = render(results(data=data), PICTURES)
    text, _ = read(page)
    assert "5,000-digit subset." in text
    assert "<b>x</b>" in text
    assert "/a&b/<c>" in text
    assert "<b>x</b>" not in page


def test_a_net_with_nothing_left_is_reported_too() -> None:
    total = {"weights": 266_200, "nonzero": 0, "sparsity": 1.0}
    text, _ = read(render(results(total=total), PICTURES))
    assert "nothing left" in text
    assert imread(io.BytesIO(curves(history(3, nonzero=0), 100))).shape == (840, 1650, 4)


@pytest.mark.parametrize("kind", ["pruned", "not pruned", "no log_alpha", "one log_alpha", "nothing left"])
def test_pictures_are_drawn_for_every_kind_of_net(kind: str) -> None:
    states = layers(prunes=kind != "not pruned", log_alpha=kind != "no log_alpha")
    if kind == "one log_alpha":
        states = [LayerState(s.name, s.weight, s.keep, torch.zeros(1, 1), None) for s in states]
    if kind == "nothing left":
        states = [LayerState(s.name, s.weight, torch.zeros_like(s.keep), None, 3.0) for s in states]
    for png in (receptive_fields(states[0], (28, 28)), histograms(states, DARK)):
        image = imread(io.BytesIO(png))
        assert image.shape[1] == 1650
        assert image.shape[0] >= 400
        assert colours(image) > 50


@pytest.mark.parametrize("epochs", [1, 200])
def test_curves_of_runs_of_every_length(epochs: int) -> None:
    light, dark = (curves(history(epochs), 60_000, theme) for theme in (LIGHT, DARK))
    assert imread(io.BytesIO(light)).shape == (840, 1650, 4)
    assert light != dark


def test_pictures_show_what_was_pruned() -> None:
    """Both halves of the receptive fields are drawn from the same weights, one without the pruned ones."""
    state = layers()[0]
    nothing = LayerState("fc1", state.weight, torch.zeros_like(state.keep), None, 3.0)
    everything = LayerState("fc1", state.weight, torch.ones_like(state.keep), None, None)
    images = [imread(io.BytesIO(receptive_fields(s, (28, 28)))) for s in (everything, nothing)]
    # the middle of the left and of the middle picture, away from titles
    left, middle = slice(100, 450), slice(650, 1000)
    for image in images:
        assert colours(image[200:500, left]) > 100
    assert colours(images[0][200:500, middle]) > 100
    assert colours(images[1][200:500, middle]) < 10


def test_the_same_run_draws_the_same_bytes() -> None:
    assert histograms(layers()) == histograms(layers())


@pytest.mark.parametrize("seconds, text", [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3723, "1:02:03")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_numbers_as_text() -> None:
    assert compression(266_200, 4_175) == "63.8x"
    assert compression(10, 0) == "nothing left"
    assert [plural(n, "thread") for n in (1, 2, 1000)] == ["1 thread", "2 threads", "1,000 threads"]
