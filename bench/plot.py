"""The picture of a run: training steps as ratios to the dense layer's, ours beside the others."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from . import cases, specs
from .rows import Row, rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OURS, _OTHERS, _INK, _MUTED, _MUST = "#0b6e6e", "#b9c0c7", "#22282e", "#6b737b", "#c44536"
_LEFT_OUT = ("dense", "dense-zeroed")  # the line at 1, and a baseline of its own
_LONGEST = 6.0  # bars of larger ratios are cut there, and say their number
_TITLE = "Training step (forward + KL + backward), times the dense layer's step"
_LEGEND = "bar: median over rounds; dark line: p20 to p80; dashed: the goal of this project"


def _pick(all_rows: list[Row], memory: str) -> dict[str, dict[str, Row]]:
    """case -> contender -> row, of the training steps that were compared with the dense layer's."""
    picked: dict[str, dict[str, Row]] = {}
    for row in all_rows:
        compared = row.case.table == "step" and row.baseline == "dense" and row.name not in _LEFT_OUT
        if compared and row.memory == memory and row.ratio is not None:
            picked.setdefault(row.case.name, {})[row.name] = row
    return picked


def _bar(ax: Axes, place: int, row: Row, huge: Row | None, longest: float) -> None:
    assert row.ratio is not None
    ratio, ours = row.ratio, row.name.startswith("vdropkern")
    end = min(ratio.median, longest)
    ax.barh(place, end, height=0.62, color=_OURS if ours else _OTHERS, zorder=2)
    if ratio.median <= longest:
        end = max(end, min(ratio.p80, 1.06 * longest))
        ax.plot([ratio.p20, end], [place, place], color=_INK, lw=1.1, zorder=4)
    if huge is not None and huge.ratio is not None and huge.ratio.median <= longest:
        ax.plot(huge.ratio.median, place, "D", ms=4, mfc="white", mec=_INK, mew=0.9, zorder=5)
        end = max(end, huge.ratio.median + 0.02 * longest)
    digits = f"{ratio.median:.1f}" if ratio.median >= 10 else f"{ratio.median:.2f}"
    note = digits if ratio.median <= longest else f"{digits} »"
    text = ax.text(end + 0.03 * longest, place, note, va="center", fontsize=8, color=_INK, zorder=6)
    text.set_fontweight("bold" if ours else "normal")
    text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.6})


def _panel(ax: Axes, case: specs.Case, own: dict[str, Row], huge: dict[str, Row], names: list[str]) -> None:
    largest = max(row.ratio.median for row in own.values() if row.ratio is not None)
    longest = min(max(largest, 2.0), _LONGEST)
    for place, name in enumerate(names):
        if name in own:
            _bar(ax, place, own[name], huge.get(name), longest)
        else:
            ax.text(0.06, place, "not measured", va="center", fontsize=7, color=_MUTED)
    ax.axvline(1.0, color=_INK, lw=0.9, zorder=3)
    if case.target is not None:
        ax.axvline(case.target.must, color=_MUST, lw=0.9, ls=(0, (4, 2)), zorder=3)
    ax.set_xlim(0, 1.28 * longest)
    ax.set_title(case.title, fontsize=9, color=_INK, loc="left", fontweight="bold")
    ax.tick_params(labelsize=8, colors=_MUTED, length=0)
    ax.spines[:].set_visible(False)
    ax.grid(axis="x", color="#e6e9ec", lw=0.7, zorder=0)


def _caption(document: dict[str, Any], huge: bool) -> str:
    machine = document["machine"]
    kernels = document["backend"]["linear_lrt"].partition(":")[2].partition(":")[0].strip()
    taken = f"{machine['cpu']}, {document['threads']} threads, float32, kernels: {kernels}"
    versions = f"torch {machine['torch']}, {machine['date'][:10]}"
    return f"{_LEGEND}{'; diamond: both sides with huge pages' if huge else ''}\n{taken}, {versions}"


def png(document: dict[str, Any]) -> bytes | None:
    """The plot as PNG bytes; None where no training step was measured."""
    all_rows = rows(document)
    own, huge = _pick(all_rows, "default"), _pick(all_rows, "thp")
    if not own:
        return None
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = {name for found in own.values() for name in found}
    labels = {r.name: r.label for r in all_rows if r.name in shown}
    size = (2.4 + 2.4 * len(own), 1.5 + 0.29 * len(labels))
    figure, axes = plt.subplots(1, len(own), figsize=size, squeeze=False, sharey=True)
    for ax, name in zip(axes[0], own, strict=True):
        _panel(ax, cases.by_name(name), own[name], huge.get(name, {}), list(labels))
    axes[0][0].set_yticks(range(len(labels)), list(labels.values()), fontsize=8.5, color=_INK)
    axes[0][0].invert_yaxis()
    figure.suptitle(_TITLE, x=0.012, ha="left", fontsize=11, color=_INK, fontweight="bold")
    figure.text(0.012, 0.012, _caption(document, bool(huge)), fontsize=7.2, color=_MUTED, va="bottom")
    figure.tight_layout(rect=(0, 0.4 / size[1], 1, 0.99))
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=170)
    plt.close(figure)
    return buffer.getvalue()
