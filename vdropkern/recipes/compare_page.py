"""report.html and report.md of several runs: what `compare` found, its tables and pictures on one page."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .._files import write_whole
from . import RECIPES
from ._page import CSS
from .checkpoint import FILE_NAME, CheckpointError, load_checkpoint
from .compare import Group, RunRecord
from .compare_figures import curves, has_curves, left_by_layer, log_alphas, pareto, run_points, weights_left
from .compare_tables import Table, cells_table, costs_table, published_table
from .figures import DARK, LIGHT, LayerState, Theme
from .published import published_for
from .report import REPORT_NAME
from .results import layer_states, restore_model
from .text import clock, plural

MARKDOWN_NAME = "report.md"
MOST_HISTOGRAMS = 12
WORDS = {"settings": "name", "published": "name", "here": "name", "verdict": "verdict"}  # columns of text

_MORE_CSS = """
.pictures { display: grid; gap: 22px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); }
.pictures img { min-width: 0; }
td.name { white-space: normal; min-width: 120px; }
th.text, td.text { text-align: left; }
.scroll table { border-collapse: separate; border-spacing: 0; }
.scroll th:first-child, .scroll td:first-child { position: sticky; left: 0; background: var(--ground); }
td.verdict.better { color: var(--good); font-weight: 600; }
td.verdict.worse { color: var(--bad); font-weight: 600; }
td.verdict.within { font-weight: 600; } td.verdict { white-space: normal; min-width: 170px; }
tr.published td, td.verdict.other { color: var(--soft); }
:root { --good: #116b38; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --good: #5fd38d; --bad: #ff8a80; } }
@media (max-width: 600px) { main { padding: 18px 10px 40px; } section { padding: 14px 12px; }
  th, td { padding-right: 10px; font-size: .87rem; } h1 { font-size: 1.35rem; } }
h2.recipe { font-size: 1.3rem; margin: 30px 0 0; }
"""

_TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{{ title }}</title>
<style>{{ css }}</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
<p class="soft">{{ about }}</p>
{% for note in notes %}<p class="note">{{ note }}</p>
{% endfor %}{% for part in parts %}
{% if parts | length > 1 %}<h2 class="recipe">{{ part.recipe }}</h2>{% endif %}
<div class="cards">
{% for big, small in part.cards %}<div class="card"><b>{{ big }}</b> <span>{{ small }}</span></div>
{% endfor %}</div>
{% for table in part.tables %}<section><h2>{{ table.title }}</h2>
<div class="scroll" tabindex="0"><table>
<thead><tr>
{%- for cell in table.head %}<th scope="col"{% if cell in words %} class="text"{% endif %}>{{ cell }}</th>
{%- endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}<tr class="{{ row.kind }}">{% for cell in row.cells %}
<td{% if table.head[loop.index0] in words %} class="text {{ words[table.head[loop.index0]] }} {{ row.kind }}"
{%- endif %}>{{ cell }}</td>
{%- endfor %}</tr>
{% endfor %}</tbody></table></div>
<p class="soft">{{ table.note }}</p></section>
{% endfor %}
{% for pictures in part.pictures %}<section><h2>{{ pictures.title }}</h2>
<div class="pictures">
{% for p in pictures.all %}<figure><picture>
<source media="(prefers-color-scheme: dark)" srcset="{{ p.dark }}">
<img alt="{{ p.alt }}" src="{{ p.light }}"></picture></figure>
{% endfor %}</div>
<p class="soft">{{ pictures.note }}</p></section>
{% endfor %}
<section><h2>How they were made</h2>
{% for command in part.commands %}<pre>{{ command }}</pre>
{% endfor %}<table class="facts">
{% for name, value in part.facts.items() %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}</table></section>
{% endfor %}
</main>
</body>
</html>
"""


@dataclass(frozen=True)
class Picture:
    """A PNG, light and dark, as addresses that hold it."""

    light: str
    dark: str
    alt: str


@dataclass(frozen=True)
class Pictures:
    title: str
    all: tuple[Picture, ...]
    note: str


@dataclass(frozen=True)
class Part:
    """All that the page says of one recipe."""

    recipe: str
    cards: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]
    pictures: tuple[Pictures, ...]
    commands: tuple[str, ...]
    facts: Mapping[str, str]


def write_comparison(out: Path, by_recipe: Mapping[str, Sequence[Group]], missing: Sequence[str]) -> Path:
    """Write report.html and report.md into `out`, which is made if needed; returns the former's path."""
    parts = [_part(recipe, groups) for recipe, groups in by_recipe.items()]
    count = sum(len(own.runs) for groups in by_recipe.values() for own in groups)
    title = f"{', '.join(by_recipe)}: {plural(count, 'run')}"
    notes = [f"Not finished, and not in here: {', '.join(missing)}."] if missing else []
    notes += dict.fromkeys(
        _sentence(own.first.results["data"]["note"])
        for groups in by_recipe.values() for own in groups if own.first.results["data"].get("note")
    )  # fmt: skip
    page = _html(title, notes, parts)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / MARKDOWN_NAME, _markdown(title, notes, parts).encode())
    write_whole(out / REPORT_NAME, page.encode())
    return out / REPORT_NAME


def _sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:]}."


def _html(title: str, notes: Sequence[str], parts: Sequence[Part]) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_TEMPLATE)
    about = "Each run has a report of its own in its folder."
    css = Markup(CSS + _MORE_CSS)
    return template.render(title=title, about=about, notes=notes, parts=parts, css=css, words=WORDS)


def _markdown(title: str, notes: Sequence[str], parts: Sequence[Part]) -> str:
    blocks = [f"# {title}", *notes]
    for part in parts:
        blocks += [f"## {part.recipe}"] if len(parts) > 1 else []
        for table in part.tables:
            blocks += [f"### {table.title}", table.markdown(), table.note]
        blocks += ["### How they were made", *(f"```sh\n{command}\n```" for command in part.commands)]
        blocks += ["\n".join(f"- {name}: {value}" for name, value in part.facts.items())]
    return "\n\n".join(blocks) + "\n"


def _part(recipe: str, groups: Sequence[Group]) -> Part:
    tables = [cells_table(groups), published_table(recipe, groups), costs_table(groups)]
    return Part(
        recipe,
        tuple(_cards(groups)),
        tuple(table for table in tables if table is not None),
        tuple(_pictures(recipe, groups)),
        tuple(own.first.results["command"] for own in groups if own.first.results.get("command")),
        _facts([run for own in groups for run in own.runs]),
    )


def _cards(groups: Sequence[Group]) -> list[tuple[str, str]]:
    least = min(groups, key=lambda own: own.mean("error") or 0.0)
    cards = [(f"{least.mean('error'):.2f} %", f"least mean test error: {least.label}")]
    pruned = [own for own in groups if (own.mean("compression") or 1) > 1]
    if pruned:
        most = max(pruned, key=lambda own: own.mean("compression") or 0)
        cards.append(
            (
                f"{most.mean('compression'):.1f}x",
                f"most compression: {most.label}, {most.mean('error'):.2f} %",
            )
        )
    seconds = sum(run.seconds for own in groups for run in own.runs)
    return [*cards, (clock(seconds), f"training in all, {plural(sum(len(o.runs) for o in groups), 'run')}")]


def _facts(runs: Sequence[RunRecord]) -> dict[str, str]:
    """What the runs were made on; what differs between them stands side by side."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        data, machine = run.results["data"], run.results.get("machine") or {}
        facts = {
            "data": f"{data.get('name')} (sha256 {str(data.get('sha256'))[:16]})",
            **(run.results.get("versions") or {}),
            **{name: machine[name] for name in ("processor", "device", "threads") if name in machine},
            "seeds": run.config.get("seed", ""),
        }  # fmt: skip
        for name, value in facts.items():
            found.setdefault(name, {})[str(value)] = None
    return {name: ", ".join(values) for name, values in found.items()}


def _picture(draw: Callable[[Theme], bytes], alt: str) -> Picture:
    light, dark = (base64.b64encode(draw(theme)).decode() for theme in (LIGHT, DARK))
    return Picture(f"data:image/png;base64,{light}", f"data:image/png;base64,{dark}", alt)


FRONT = (
    "Each run is a point; the grey line is the front of the runs: none of them is both more accurate and "
    "smaller than what lies on it."
)
NOISE = (
    "Of the first seed's checkpoint. log_alpha = log(variance / mean²): where it is high, a weight is noise."
)
COURSES = (
    ("test_error", "test error, %"),
    ("compression", "compression, weights / nonzero"),
    ("nll", "NLL of training, nats"),
    ("test_nll", "NLL of the test set, nats"),
)


def _pictures(recipe: str, groups: Sequence[Group]) -> list[Pictures]:
    found = []
    if any((own.mean("compression") or 1) > 1 for own in groups):
        points = "; ".join(
            f"{own.label} {p.error:.2f} % at {p.compression:.1f}x" for own in groups for p in run_points(own)
        )
        overview = (
            _picture(partial(pareto, groups, published_for(recipe)), f"Error by compression: {points}"),
            _picture(partial(weights_left, groups), _left_in_words(groups)),
        )
        found.append(Pictures("Accuracy and compression", overview, FRONT))
    ends = "; ".join(f"{own.label} ends at {own.mean('error'):.2f} % test error" for own in groups)
    drawn = tuple(
        _picture(partial(curves, groups, name, title), f"{title} by epoch; {ends}")
        for name, title in COURSES
        if has_curves(groups, name)
    )
    if drawn:
        found.append(Pictures("Training", drawn, "Lines are means over seeds, bands their range."))
    if histograms := _histograms(groups):
        found.append(Pictures("Noise of the weights", histograms, NOISE))
    return found


def _left_in_words(groups: Sequence[Group]) -> str:
    rows = [
        f"{own.label}: {', '.join(f'{name} {value:.3g}' for name, value in left_by_layer(own).items())}"
        for own in groups
    ]
    return f"Weights left in percent by layer. {'; '.join(rows)}"


def _histograms(groups: Sequence[Group]) -> tuple[Picture, ...]:
    found: list[Picture] = []
    for own in groups:
        layers = [state for state in _states(own.first) if state.log_alpha is not None]
        if layers and len(found) < MOST_HISTOGRAMS:
            alt = f"Histogram of log_alpha by layer of {own.label}"
            found.append(_picture(partial(log_alphas, own.label, layers), alt))
    return tuple(found)


def _states(run: RunRecord) -> list[LayerState]:
    """The layers of a run's checkpoint; none where there is none of a recipe known here."""
    if run.folder is None or not (run.folder / FILE_NAME).exists() or run.recipe not in RECIPES:
        return []
    try:
        return layer_states(restore_model(RECIPES[run.recipe], load_checkpoint(run.folder)))
    except (CheckpointError, KeyError):
        return []
