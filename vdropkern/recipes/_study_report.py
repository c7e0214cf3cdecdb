"""The estimator study's picture and report."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._files import write_whole
from ._page import CSS
from ._study_config import CHECKED_LR
from .figures import DARK, LIGHT, Theme, _figure, _png, _styled

WRITTEN = ("results.json", "study.png", "report.html")


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
<html lang="en"><head><meta charset="utf-8"><title>{{ d.recipe }}</title>
<style>{{ css }}</style></head><body><main>
<h1>{{ d.recipe }}</h1>
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
{% for q in d.questions %}<section><h2>{{ q.name[:1] | upper }}{{ q.name[1:] }}</h2>
<p class="soft">{{ q.text }}; width {{ d.config.width }}, {{ d.config.draws }} samples of NES.</p>
<div class="scroll"><table>
<tr><th></th>{% for key in q.rows[0] if key != "label" %}<th>{{ key }}</th>{% endfor %}</tr>
{% for row in q.rows %}<tr><td>{{ row.label }}</td>{% for key, value in row.items() if key != "label" %}
<td>{{ "%.4g" | format(value) if value is not none else "" }}</td>{% endfor %}</tr>
{% endfor %}</table></div></section>
{% endfor %}</main></body></html>
"""


def write(document: dict[str, Any], rows: list[dict[str, Any]], out: Path) -> Path:
    """results.json, study.png and report.html into `out`, with the ratios; returns the report's path."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    light, dark = draw(document, LIGHT), draw(document, DARK)
    uris: Sequence[str] = [f"data:image/png;base64,{base64.b64encode(p).decode()}" for p in (light, dark)]
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_TEMPLATE)
    page = template.render(
        css=Markup(CSS),
        d=document,
        rows=rows,
        lr=CHECKED_LR,
        light=uris[0],
        dark=uris[1],
    )
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    for name, data in zip(WRITTEN, (text.encode(), light, page.encode()), strict=True):
        write_whole(out / name, data)
    return out / WRITTEN[-1]
