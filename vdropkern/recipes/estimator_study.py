"""How far do estimators of a binarised net's gradient point downhill? A teacher and a student of sign layers.

A student of three sign layers learns a teacher's outputs on normal inputs. At its first weights each
estimator gives a gradient; what counts is how much the loss on the same batch falls in one step, over
learning rates, and the angle to the coordinate discrete gradient (CDG).
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import _info, estimators
from .._files import write_whole
from ._page import CSS
from .figures import DARK, LIGHT, Theme, _figure, _png, _styled

NAME = "estimator-study"
SUMMARY = "one step of NES, CDG and straight-through estimators on a small binarised net"
WRITTEN = ("results.json", "study.png", "report.html")
STES = ("hard-tanh", "steep", "swish", "polynomial")
CHECKED_LR = 0.1

# A published run of the same comparison (mean of 3 first weights times 10 batches of 160,000, lr 0.1):
# decrease of the loss. Its normalisation of gradients is not known, so only ratios to CDG may be compared.
PUBLISHED = {
    2: {"cdg": 0.02045, "nes-500": 0.01905, "nes-5000": 0.02112, "nes-50000": 0.02134,
        "hard-tanh": 0.01717, "steep": 0.01659, "swish": 0.00664, "polynomial": 0.01688},
    4: {"cdg": 0.02136, "nes-500": 0.01797, "nes-5000": 0.01864, "nes-50000": 0.01889,
        "hard-tanh": 0.01791, "steep": 0.01816, "swish": 0.01770, "polynomial": 0.01820},
    8: {"cdg": 0.03874, "nes-500": 0.02844, "nes-5000": 0.03639, "nes-50000": 0.03615,
        "hard-tanh": 0.03460, "steep": 0.03456, "swish": 0.04291, "polynomial": 0.04343},
    16: {"cdg": 0.03588, "nes-500": 0.00010, "nes-5000": 0.03006, "nes-50000": 0.03295,
         "hard-tanh": 0.03289, "steep": 0.03461, "swish": 0.03581, "polynomial": 0.03518},
    32: {"cdg": 0.03181, "nes-500": -0.00050, "nes-5000": 0.01720, "nes-50000": 0.02496,
         "hard-tanh": 0.03031, "steep": 0.03100, "swish": 0.03202, "polynomial": 0.03171},
}  # fmt: skip


@dataclass(frozen=True)
class StudyConfig:
    """What is run. Two runs with equal settings on one machine give equal numbers."""

    widths: tuple[int, ...] = (2, 4, 8, 16, 32)
    samples: tuple[int, ...] = (500, 5_000, 50_000)
    rows: int = 4_000
    repeats: int = 6  # each with a teacher, a student and a batch of its own
    sigma: float = 0.1
    eps: float = 0.1
    lrs: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
    seed: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The estimators, CDG first."""
        return ("cdg", *(f"nes-{m}" for m in self.samples), *STES)


def _problem(width: int, rows: int, seed: int) -> tuple[estimators.SignMlpLoss, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator)
    loss = estimators.SignMlpLoss(x, torch.zeros(rows))
    teacher, student = loss.init(generator), loss.init(generator)
    loss.y = loss.outputs(teacher)
    return loss, student


def _gradients(
    config: StudyConfig, loss: estimators.SignMlpLoss, student: dict[str, Tensor], seed: int
) -> dict[str, dict[str, Tensor]]:
    found = {"cdg": estimators.cdg(loss, student, config.eps)}
    for m in config.samples:
        # raw fitness and independent draws, as in the published run
        found[f"nes-{m}"] = estimators.nes_gradient(
            loss, student, m, sigma=config.sigma, fitness="raw", antithetic=False, seed=seed
        ).gradient
    return found | {name: estimators.ste_gradient(loss, student, name) for name in STES}


def run(config: StudyConfig, told: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """All numbers of the study, means over repeats."""
    started, results = time.monotonic(), []
    for width in config.widths:
        decreases = {name: torch.zeros(len(config.lrs)) for name in config.names}
        angles: dict[str, dict[str, list[float]]] = {name: {} for name in config.names}
        first, repeats = 0.0, config.repeats
        for repeat in range(repeats):
            seed = config.seed * 1_000 + repeat
            loss, student = _problem(width, config.rows, seed)
            first += float(loss(student)) / repeats
            gradients = _gradients(config, loss, student, seed)
            for name, g in gradients.items():
                fall = estimators.loss_decrease(loss, student, g, config.lrs)
                decreases[name] += torch.tensor(fall) / repeats
                for layer, c in estimators.cosines(g, gradients["cdg"]).items():
                    angles[name].setdefault(layer, []).append(c)
        results.append({
            "width": width, "loss": first,
            "cosines": {name: {k: _mean(v) for k, v in own.items()} for name, own in angles.items()},
            "decrease": {name: [float(v) for v in d] for name, d in decreases.items()},
        })  # fmt: skip
        told(f"width {width} done after {time.monotonic() - started:.0f} s")
    return {
        "format": 1, "recipe": NAME, "config": asdict(config), "results": results,
        "versions": _info.versions(), "processor": _info.cpu_name(), "threads": torch.get_num_threads(),
        "seconds": time.monotonic() - started,
    }  # fmt: skip


def _mean(cosines: list[float]) -> float | None:
    """Of those that are defined: a layer whose gradient is 0 has no direction."""
    known = [c for c in cosines if c == c]
    return sum(known) / len(known) if known else None


def ratios(document: dict[str, Any]) -> list[dict[str, Any]]:
    """For each width and estimator the decrease at lr 0.1 over CDG's, here and published."""
    at = list(document["config"]["lrs"]).index(CHECKED_LR)
    rows = []
    for result in document["results"]:
        here = {name: d[at] for name, d in result["decrease"].items()}
        there = PUBLISHED.get(result["width"], {})
        rows += [
            {
                "width": result["width"], "name": name, "decrease": value,
                "ratio": value / here["cdg"] if here["cdg"] else None,
                "published": there[name] / there["cdg"] if name in there else None,
                "cosine": result["cosines"][name]["total"],
            }
            for name, value in here.items()
        ]  # fmt: skip
    return rows


def draw(document: dict[str, Any], theme: Theme) -> bytes:
    """Decrease over learning rates at the largest width, best decrease over widths, cosines by layer."""
    last, lrs = document["results"][-1], document["config"]["lrs"]
    widths = [r["width"] for r in document["results"]]
    with _styled(theme):
        figure = _figure(11, 3.8)
        over_lr, over_width, angles = figure.subplots(1, 3)
        for name in last["decrease"]:
            over_lr.plot(lrs, last["decrease"][name], label=name, marker=".")
            over_width.plot(widths, [max(r["decrease"][name]) for r in document["results"]], marker=".")
            layers = [layer for layer in last["cosines"][name] if layer != "total"]
            shown = [last["cosines"][name][layer] for layer in layers]
            angles.plot(layers, [float("nan") if c is None else c for c in shown], marker=".")
        over_lr.set(xscale="log", title=f"decrease in one step, width {last['width']}", xlabel="lr")
        over_width.set(xscale="log", title="best decrease over lr", xlabel="width")
        angles.set(title=f"cosine to CDG, width {last['width']}")
        for axis in (over_lr, over_width, angles):
            axis.grid(True)
        figure.legend(loc="outside lower center", ncols=len(last["decrease"]), fontsize=8)
        return _png(figure)


_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ name }}</title>
<style>{{ css }}</style></head><body><main>
<h1>{{ name }}</h1>
<p class="soft">{{ d.config.repeats }} teachers, students and batches of {{ d.config.rows }} examples,
sigma {{ d.config.sigma }}, eps {{ d.config.eps }}, seed {{ d.config.seed }};
{{ "%.0f" | format(d.seconds) }} s on {{ d.processor }}, threads {{ d.threads }};
vdropkern {{ d.versions.vdropkern }}</p>
<section><figure><picture><source media="(prefers-color-scheme: dark)" srcset="{{ dark }}">
<img alt="decrease over learning rates and widths, cosines" src="{{ light }}"></picture></figure></section>
<section><h2>Decrease at lr {{ lr }}, as a ratio to CDG's</h2><div class="scroll"><table>
<tr><th>width</th><th>estimator</th><th>decrease</th><th>ratio to CDG</th><th>published ratio</th>
<th>cosine to CDG</th></tr>
{% for r in rows %}<tr><td>{{ r.width }}</td><td>{{ r.name }}</td><td>{{ "%.5f" | format(r.decrease) }}</td>
<td>{{ "%.2f" | format(r.ratio) if r.ratio is not none else "" }}</td>
<td>{{ "%.2f" | format(r.published) if r.published is not none else "" }}</td>
<td>{{ "%.3f" | format(r.cosine) if r.cosine is not none else "" }}</td></tr>
{% endfor %}</table></div>
<p class="soft">Gradients are divided by their norm, tensor by tensor. The published run used 10 batches of
160,000 and a normalisation that is not known, so absolute decreases differ.</p></section>
</main></body></html>
"""


def write(document: dict[str, Any], out: Path) -> Path:
    """results.json, study.png and report.html into `out`; returns the report's path."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    light, dark = draw(document, LIGHT), draw(document, DARK)
    uris: Sequence[str] = [f"data:image/png;base64,{base64.b64encode(p).decode()}" for p in (light, dark)]
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_TEMPLATE)
    page = template.render(
        name=NAME,
        css=Markup(CSS),
        d=document,
        rows=ratios(document),
        lr=CHECKED_LR,
        light=uris[0],
        dark=uris[1],
    )
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    for name, data in zip(WRITTEN, (text.encode(), light, page.encode()), strict=True):
        write_whole(out / name, data)
    return out / WRITTEN[-1]
