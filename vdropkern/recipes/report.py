"""report.html of a run: one file that holds everything, with its pictures as PNGs beside it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._files import write_whole
from ._page import CSS, TEMPLATE
from .figures import DARK, LIGHT, LayerState, Theme, curves, histograms, receptive_fields
from .recipe import Recipe
from .text import cell, clock, compression, plural

REPORT_NAME = "report.html"
PICTURE_NAMES = ("curves.png", "receptive_fields.png", "histograms.png")


def write_report(out: Path, results: dict[str, Any], layers: Sequence[LayerState], recipe: Recipe) -> Path:
    """Draw the pictures and write them and report.html into `out`; returns the report's path."""
    draw: dict[str, Callable[[Theme], bytes]] = {
        "curves.png": lambda theme: curves(results["history"], results["data"]["train_size"], theme),
        "histograms.png": lambda theme: histograms(layers, theme),
    }
    if (size := recipe.image_size) is not None:
        draw["receptive_fields.png"] = lambda theme: receptive_fields(layers[0], size, theme)
    pictures = {name: (draw[name](LIGHT), draw[name](DARK)) for name in PICTURE_NAMES if name in draw}
    page = render(results, pictures)
    for name, (light, _) in pictures.items():
        write_whole(out / name, light)
    write_whole(out / REPORT_NAME, page.encode())
    return out / REPORT_NAME


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def render(results: dict[str, Any], pictures: Mapping[str, tuple[bytes, bytes]]) -> str:
    """The page, from what results.json holds and each PNG in a light and a dark version."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(TEMPLATE)
    return template.render(
        r=results,
        css=Markup(CSS),
        rows=[*results["layers"], {"name": "total", "runs_as": "", **results["total"]}],
        cell=cell,
        clock=clock,
        compression=compression,
        plural=plural,
        pictures={
            name.removesuffix(".png"): {"light": _data_uri(light), "dark": _data_uri(dark)}
            for name, (light, dark) in pictures.items()
        },
        facts=_facts(results),
    )


def _facts(results: dict[str, Any]) -> dict[str, object]:
    machine, data = results["machine"], results["data"]
    return {
        **results["config"],
        "data": f"{data['source']} (sha256 {data['sha256']})",
        **results["versions"],
        "processor": f"{machine['processor']}, {machine['logical_cores']} logical cores",
        "device, threads": f"{machine['device']}, {machine['threads']}",
        "processes": machine.get("processes", 1),  # results of before have none
        **machine["backends"],
    }
