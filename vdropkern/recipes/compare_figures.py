"""The pictures of a comparison of runs: small ones, so that each is readable across a phone's screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .compare import Group
from .figures import DARK, LayerState, Theme, _figure, _png, _styled
from .published import Published

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 4.8, 3.5
# told apart by readers who confuse red and green too (Okabe and Ito), the dark ones lighter on a dark page
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56a0d3", "#7a4fbf", "#6b7280")
DARK_COLOURS = ("#56b4e9", "#ff9d66", "#2fc79a", "#e79cc5", "#e6c229", "#9ecbff", "#b79cf0", "#a8b0ba")
STYLES = ("-", "--", ":", "-.")


def _look(index: int, theme: Theme) -> dict[str, Any]:
    colours = DARK_COLOURS if theme is DARK else COLOURS
    return {"color": colours[index % len(colours)], "linestyle": STYLES[index // len(colours) % len(STYLES)]}


def _panel(entries: int) -> tuple[Figure, Axes]:
    """A figure with room for a legend of so many entries below."""
    figure = _figure(WIDTH, HEIGHT + 0.18 * entries)
    ax: Axes = figure.subplots()
    ax.grid(True)
    return figure, ax


def _legend(figure: Figure, entries: int) -> None:
    if entries:
        figure.legend(loc="outside lower left", fontsize=8, ncols=1)


def curves(groups: Sequence[Group], name: str, title: str, theme: Theme) -> bytes:
    """A number of the history over the epochs, a line for each group, its runs' range behind it.

    name: of an entry of the history, or "compression".
    """
    from matplotlib.ticker import MaxNLocator

    drawn = [(i, own, lines) for i, own in enumerate(groups) if (lines := _lines(own, name))]
    with _styled(theme):
        figure, ax = _panel(len(drawn))
        for i, own, lines in drawn:
            epochs = range(1, len(lines[0]) + 1)
            columns = list(zip(*lines, strict=True))
            look = _look(i, theme)
            ax.plot(
                epochs, [sum(column) / len(column) for column in columns], label=own.label,
                marker="." if len(epochs) == 1 else "", **look,
            )  # fmt: skip
            if len(lines) > 1:
                low, high = [min(c) for c in columns], [max(c) for c in columns]
                ax.fill_between(epochs, low, high, color=look["color"], alpha=0.18, linewidth=0)
        ax.set(title=title, xlabel="epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if all(value > 0 for _, _, lines in drawn for line in lines for value in line):
            ax.set_yscale("log")
            _log_ticks(ax.yaxis)
        _legend(figure, len(drawn))
        return _png(figure)


def _lines(own: Group, name: str) -> list[list[float]]:
    """The number's course in every run that has it, cut to the shortest."""
    courses = []
    for run in own.runs:
        if name == "compression":
            course = [r["weights"] / r["nonzero"] if r.get("nonzero") else float("nan") for r in run.history]
        else:
            course = [record[name] for record in run.history if name in record]
        if course:
            courses.append(course)
    shortest = min(map(len, courses), default=0)
    return [course[:shortest] for course in courses]


def has_curves(groups: Sequence[Group], name: str) -> bool:
    """Whether there is anything to draw by `curves`."""
    values = {value for own in groups for line in _lines(own, name) for value in line}
    return bool(values) and (name != "compression" or values != {1.0})


@dataclass(frozen=True)
class Point:
    compression: float
    error: float


def front(points: Sequence[Point]) -> list[Point]:
    """Those that none beats in both compression and error, by compression."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.compression, p.error)):
        if not best or point.error < best[-1].error:
            best.append(point)
    return best[::-1]


def run_points(own: Group) -> list[Point]:
    return [Point(run.compression, run.error) for run in own.runs if run.compression is not None]


def pareto(groups: Sequence[Group], published: Sequence[Published], theme: Theme) -> bytes:
    """Test error against compression: each run, the front of all runs, published nets as crosses."""
    theirs = [row for row in published if row.compression is not None]
    with _styled(theme):
        figure, ax = _panel(len(groups) + len(theirs))
        every = [point for own in groups for point in run_points(own)]
        best = front(every)
        ax.plot(
            [p.compression for p in best], [p.error for p in best], color=theme.faint, linewidth=2.5,
            zorder=1, drawstyle="steps-pre",
        )  # fmt: skip
        for i, own in enumerate(groups):
            points = run_points(own)
            ax.scatter(
                [p.compression for p in points], [p.error for p in points], s=26, zorder=3, label=own.label,
                color=_look(i, theme)["color"], marker="os^D"[i // len(COLOURS) % 4],
            )  # fmt: skip
        markers = "xP*X+1234"
        for i, row in enumerate(theirs):
            assert row.compression is not None
            ax.scatter(
                [row.compression], [row.error], s=34, zorder=2, color=theme.text, alpha=0.75, linewidth=1,
                marker=markers[i % len(markers)], label=f"published: {row.label}",
            )  # fmt: skip
        ax.set(title="test error, % (down) by compression (right)", xlabel="weights / nonzero weights")
        ax.set_xscale("log")
        _log_ticks(ax.xaxis)
        _legend(figure, len(groups) + len(theirs))
        return _png(figure)


def _log_ticks(axis: Axis) -> None:
    """Plain numbers on a logarithmic axis, enough of them over ranges of any width."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axis.get_view_interval()
    subs = (1, 1.5, 2, 3, 4, 5, 7) if high / low < 10 else (1, 2, 5) if high / low < 300 else (1,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axis.set_minor_locator(NullLocator())


def weights_left(groups: Sequence[Group], theme: Theme) -> bytes:
    """How many weights are left, in percent, by layer and group: a map with its numbers written in."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    names = list(dict.fromkeys(name for own in groups for name in left_by_layer(own)))
    table = [[left_by_layer(own).get(name, float("nan")) for name in names] for own in groups]
    with _styled(theme):
        figure = _figure(WIDTH, 1.1 + 0.3 * len(groups))
        ax: Axes = figure.subplots()
        heat = LinearSegmentedColormap.from_list("left", (theme.zero, theme.heat))
        shown = [[max(value, 0.1) if value == value else value for value in row] for row in table]
        ax.imshow(shown, cmap=heat.with_extremes(bad=theme.ground), norm=LogNorm(0.1, 100), aspect="auto")
        dense = theme.ground
        for i, row in enumerate(table):
            for j, value in enumerate(row):
                if value == value and len(names) <= 10:
                    ax.text(
                        j, i, f"{value:.3g}", ha="center", va="center", fontsize=8,
                        color=dense if value > 5 else theme.text,
                    )  # fmt: skip
        turned = len(names) > 5
        ax.set_xticks(range(len(names)), names, rotation=60 if turned else 0, fontsize=6 if turned else 8)
        ax.set_yticks(range(len(groups)), [own.label for own in groups], fontsize=8)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        figure.suptitle("weights left, %, by layer", x=0.01, ha="left", fontsize=10, fontweight="bold")
        return _png(figure)


def left_by_layer(own: Group) -> dict[str, float]:
    """Weights left of each layer in percent, the mean over seeds."""
    sums: dict[str, list[float]] = {}
    for run in own.runs:
        for layer in run.results.get("layers") or []:
            sums.setdefault(layer["name"], []).append(100 * layer["nonzero"] / max(layer["weights"], 1))
    return {name: sum(values) / len(values) for name, values in sums.items()}


def log_alphas(label: str, layers: Sequence[LayerState], theme: Theme) -> bytes:
    """How log_alpha is distributed in each layer of one net, and where pruning begins."""
    import torch

    known = [state for state in layers if state.log_alpha is not None]
    with _styled(theme):
        figure, ax = _panel(len(known))
        every = [
            state.log_alpha.expand_as(state.weight).flatten()
            for state in known
            if state.log_alpha is not None
        ]
        low, high = (float(f(torch.stack([f(x) for x in every]))) for f in (torch.min, torch.max))
        for i, (state, values) in enumerate(zip(known, every, strict=True)):
            counts = torch.histc(values, 60, low, max(high, low + 1e-3))
            edges = torch.linspace(low, max(high, low + 1e-3), 61)
            ax.stairs(
                (100 * counts / len(values)).tolist(), edges.tolist(), label=state.name, linewidth=1.4,
                **_look(i, theme),
            )  # fmt: skip
        thresholds = {state.threshold for state in known if state.threshold is not None}
        for threshold in thresholds:
            ax.axvline(threshold, color=theme.text, linewidth=1, linestyle=":")
        ax.set(
            title=f"{label}: log_alpha",
            xlabel="log_alpha (dotted: pruned from here on)" if thresholds else "",
        )
        ax.set_ylabel("% of the layer's weights")
        _legend(figure, len(known))
        return _png(figure)
